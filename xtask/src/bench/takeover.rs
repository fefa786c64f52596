//! `bench takeover`: SIGUSR2 again and again beside clients of every kind; none of them may notice.
//!
//! Each take-over is followed as systemd follows it: the process that took over says so by sd_notify, the one before
//! drains and ends with 0. Every worker's socket is handed over, so the gateway runs on all cores, beside its clients.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::notified::Notified;
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use serde_json::json;
use tempfile::TempDir;

use super::peers::{self, Peer, Stage};
use super::report::{Bar, Spread};
use super::traffic::{self, Tally};
use super::{Options, cost};
use crate::{process, workspace};

/// Between two take-overs, so that clients are as busy as before.
const PAUSE: Duration = Duration::from_secs(1);
/// For a process to be ready, and for one to drain: longer than its deadline.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(10);

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let times: usize = options.number("--times", 20)?;
    options.done()?;
    ensure!(times > 0, "at least one take-over");
    let service = traffic::service()?;
    let mut gateway = Gateway::start(service.address())?;
    println!("{times} take-overs beside clients with kept connections, with new ones and with streams");
    let over = AtomicBool::new(false);
    let (takeovers, tally) = thread::scope(|scope| {
        let clients = traffic::start(scope, gateway.address, &over);
        let mut takeovers = Vec::new();
        let result = (0..times).try_for_each(|number| {
            thread::sleep(PAUSE);
            let takeover = gateway.take_over().with_context(|| format!("take-over {}", number + 1))?;
            println!("  {:<4}{takeover}", number + 1);
            takeovers.push(takeover);
            Ok::<_, anyhow::Error>(())
        });
        thread::sleep(PAUSE);
        over.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        for client in clients {
            // A client that panicked would have found something, too.
            tally.add(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
        }
        if let Err(error) = result {
            println!("{error:#}\nthe gateway said:\n{}", gateway.said());
        }
        Ok::<_, anyhow::Error>((takeovers, tally))
    })?;
    let end = gateway.stop().unwrap_or_else(|error| {
        println!("{error:#}");
        None
    });
    println!("{tally}");
    for told in &tally.told {
        println!("  {told}");
    }
    let bars = bars(times, &takeovers, end, &tally);
    for bar in &bars {
        println!("  {bar}");
    }
    let seconds = |figure: fn(&Takeover) -> Duration| {
        Spread::of(takeovers.iter().map(|takeover| figure(takeover).as_secs_f64())).map(Spread::json)
    };
    let text = json!({
        "bench": "takeover", "times": times, "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
        "seconds_to_ready": seconds(|takeover| takeover.ready), "seconds_to_drained": seconds(|takeover| takeover.drained),
        "clients": tally.to_string(),
    });
    let folder = workspace::target()?.join("bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("takeover.json"), serde_json::to_string_pretty(&text)?)?;
    Ok(bars.iter().all(Bar::is_met))
}

/// One that came about.
struct Takeover {
    /// From the signal until the new process was the main one.
    ready: Duration,
    /// Until the one before had ended.
    drained: Duration,
    /// What that ended with: 0 when it had cut nothing.
    code: Option<i32>,
}

impl std::fmt::Display for Takeover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        write!(
            f,
            "took over after {:.0} ms; the one before ended after {:.1} s with {code}",
            self.ready.as_secs_f64() * 1e3,
            self.drained.as_secs_f64()
        )
    }
}

/// The gateway, whichever process that is now. All of them are ended on drop.
struct Gateway {
    main: Pid,
    notified: Notified,
    address: SocketAddr,
    /// Configuration, events, and the socket for notifications.
    folder: TempDir,
}

impl Gateway {
    fn start(service: &str) -> Result<Self> {
        let program = program()?;
        // A short path: that of a socket may have 107 bytes.
        let folder = tempfile::Builder::new().prefix("bawab-bench-").tempdir()?;
        let [address] = peers::free_addresses()?;
        let text = include_str!("peers/takeover-gateway.toml");
        let text = text.replace("@port@", &address.port().to_string()).replace("@service@", service);
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, text)?;
        // A process whose parent drained and ended becomes our child: it can be waited for, and cannot be lost.
        set_child_subreaper(Some(getpid()))?;
        let notified = Notified::bind(folder.path(), "notify")?;
        let mut command = process::attached(program, None);
        command.arg("run").arg(file).env("NOTIFY_SOCKET", folder.path().join("notify"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(folder.path().join("events"))?);
        let child = command.spawn().with_context(|| format!("starting {}", process::shown(&command)))?;
        let main = process::pid(&child)?;
        let mut gateway = Self { main, notified, address, folder };
        if gateway.wait_for("READY", main)?.is_none() {
            bail!("the gateway did not become ready; it said:\n{}", gateway.said());
        }
        Ok(gateway)
    }

    fn take_over(&mut self) -> Result<Takeover> {
        let begin = Instant::now();
        let before = self.main;
        kill_process(before, Signal::USR2)?;
        let Some(main) = self.wait_for("MAINPID", before)? else {
            bail!("nobody took over");
        };
        let ready = begin.elapsed();
        let pid = main.parse().ok().and_then(Pid::from_raw);
        self.main = pid.with_context(|| format!("`{main}` is no process id"))?;
        let status = process::ended(before, PATIENCE)?.context("the process before does not end")?;
        Ok(Takeover { ready, drained: begin.elapsed(), code: status.code() })
    }

    /// What the main process ended with.
    fn stop(&mut self) -> Result<Option<i32>> {
        kill_process(self.main, Signal::TERM)?;
        let status = process::ended(self.main, PATIENCE)?.context("the gateway does not end")?;
        Ok(status.code())
    }

    /// The value of a notification, unless `process` ends before it comes.
    fn wait_for(&mut self, name: &str, process: Pid) -> Result<Option<String>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(value) = self.notified.wait_within(name, LOOK)? {
                return Ok(Some(value));
            }
            // Only looked at: its end is waited for elsewhere.
            if !std::path::Path::new("/proc").join(process.as_raw_nonzero().to_string()).join("exe").exists() {
                return self.notified.wait_within(name, LOOK);
            }
        }
        Ok(None)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("events")).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Nothing else of ours runs now, so whatever descends from us is the gateway.
        let own = std::process::id();
        for pid in cost::tree(own).unwrap_or_default().into_iter().filter(|pid| *pid != own) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
                let _ = process::ended(pid, PATIENCE);
            }
        }
    }
}

/// The release build, or what `BAWAB_BIN` names.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BAWAB_BIN") {
        return Ok(PathBuf::from(path));
    }
    Stage::set(&[Peer::Gateway])?;
    Ok(workspace::target()?.join("release/bawab"))
}

fn bars(times: usize, takeovers: &[Takeover], end: Option<i32>, tally: &Tally) -> Vec<Bar> {
    let bar = |claim: &str, figure: u64| {
        let figure = figure as f64;
        Bar {
            claim: format!("takeover: {claim}"),
            at_most: 0.0,
            found: Spread { median: figure, min: figure, max: figure },
        }
    };
    let codes = takeovers.iter().map(|takeover| takeover.code).chain([end]);
    vec![
        bar("take-overs that did not come about", (times - takeovers.len()) as u64),
        bar("processes that did not end with 0", codes.filter(|code| *code != Some(0)).count() as u64),
        bar("requests refused, reset, unanswered, cut or failed", tally.lost()),
    ]
}
