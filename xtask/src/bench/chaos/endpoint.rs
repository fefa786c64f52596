//! An endpoint that can be made bad: a process of its own, so that SIGKILL and SIGSTOP meet a real one. It is this program
//! again (`bench chaos-endpoint ADDRESS`), told by lines on its stdin how to answer; it ends with them.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::origin::ok;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Signal, kill_process};

use super::schedule::Badness;
use crate::process;

/// What the process is started with.
pub(in super::super) const COMMAND: &str = "chaos-endpoint";
/// What it says when it listens.
const LISTENS: &str = "listens";
/// What it is told to be well again.
const WELL: &str = "well";
const SLOW: Duration = Duration::from_secs(3);

/// An endpoint, whatever its state. Its process is gone when this is.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    core: usize,
    process: Child,
}

impl Endpoint {
    /// The `number`th one, on `core`. Each has an IP address of its own: what is free there nobody else wants, also while a
    /// killed one is away.
    pub(super) fn start(number: usize, core: usize) -> Result<Self> {
        let ip = Ipv4Addr::new(127, 0, 2, u8::try_from(number + 1).context("at most 255 endpoints")?);
        let address = TcpListener::bind((ip, 0))?.local_addr()?;
        Ok(Self { address, core, process: spawn(address, core)? })
    }

    pub(super) fn begin(&mut self, badness: Badness) -> Result<()> {
        match badness {
            Badness::Killed => {
                self.process.kill()?;
                self.process.wait()?;
                Ok(())
            }
            Badness::Stopped => Ok(kill_process(process::pid(&self.process)?, Signal::STOP)?),
            badness => self.tell(badness.name()),
        }
    }

    pub(super) fn end(&mut self, badness: Badness) -> Result<()> {
        match badness {
            Badness::Killed => {
                self.process = spawn(self.address, self.core)?;
                Ok(())
            }
            Badness::Stopped => Ok(kill_process(process::pid(&self.process)?, Signal::CONT)?),
            _ => self.tell(WELL),
        }
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        let stdin = self.process.stdin.as_mut().context("an endpoint has a stdin")?;
        writeln!(stdin, "{word}").with_context(|| format!("telling the endpoint at {}", self.address))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // SIGKILL also ends one that is stopped. That there is none, because it could not be started anew, is no harm.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that listens. It gets SIGKILL should this thread end for whatever reason: a stopped one obeys nothing else.
fn spawn(address: SocketAddr, core: usize) -> Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &core.to_string()]);
    command.arg(std::env::current_exe()?).args(["bench", COMMAND, &address.to_string()]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", process::shown(&command)))?;
    let mut said = String::new();
    let heard = BufReader::new(child.stdout.take().context("an endpoint has a stdout")?).read_line(&mut said);
    if heard.is_err() || said.trim_end() != LISTENS {
        child.kill()?;
        child.wait()?;
        bail!("the endpoint at {address} does not listen");
    }
    Ok(child)
}

/// The process itself: serves until its stdin ends.
pub(in super::super) fn serve(words: &[String]) -> Result<bool> {
    let [address] = words else { bail!("{COMMAND} takes an address") };
    let listener = TcpListener::bind(address.parse::<SocketAddr>()?)?;
    thread::spawn(move || accept(&listener));
    println!("{LISTENS}");
    for line in std::io::stdin().lines() {
        let word = line?;
        let badness = Badness::ALL.iter().position(|badness| badness.name() == word);
        ensure!(badness.is_some() || word == WELL, "`{word}` is nothing an endpoint can be");
        STATE.store(badness.map_or(0, |at| at + 1), Ordering::Relaxed);
    }
    Ok(true)
}

/// One more than the index into [`Badness::ALL`]; 0 is well.
static STATE: AtomicUsize = AtomicUsize::new(0);

fn badness() -> Option<Badness> {
    Badness::ALL.get(STATE.load(Ordering::Relaxed).checked_sub(1)?).copied()
}

fn accept(listener: &TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors, or a connection that was reset before: others may be had.
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        if badness() == Some(Badness::Reset) {
            let _ = reset(stream);
            continue;
        }
        // How a connection ends is what the front makes of it.
        let started = thread::Builder::new().stack_size(256 * 1024).spawn(move || answer(stream));
        drop(started);
    }
}

/// All requests of one connection.
fn answer(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    while head(&mut requests)? {
        match badness() {
            // A process that is killed or stopped has no say in it.
            None | Some(Badness::Killed | Badness::Stopped) => {}
            Some(Badness::Unavailable) => {
                (&stream).write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Some(Badness::Slow) => thread::sleep(SLOW),
            Some(Badness::Reset) => return reset(stream),
            Some(Badness::HalfHead) => {
                (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Le")?;
                return reset(stream);
            }
            Some(Badness::Silent) => {
                std::io::copy(&mut requests, &mut std::io::sink())?;
                return Ok(());
            }
        }
        // In one piece, so that there is never half an answer, which no front could mend.
        (&stream).write_all(&ok("ok\n"))?;
    }
    Ok(())
}

/// Reads up to the empty line behind a head. `false`: there comes no other.
fn head(requests: &mut impl BufRead) -> Result<bool> {
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if requests.read_line(&mut line)? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends a connection by RST, when the last handle on it goes.
fn reset(stream: TcpStream) -> Result<()> {
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}
