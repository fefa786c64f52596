//! Other programs: found, run to the end, or kept running and stopped for certain.

use std::ffi::OsStr;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How often a state that sends no event is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a server gets to obey SIGTERM before SIGKILL.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The first program of that name in `PATH` or in the system folders a user's `PATH` often leaves out.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a program to its end, its output on ours. Fails only when it could not be started.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    std::io::stdout().flush()?;
    command.stdin(Stdio::null()).status().with_context(|| format!("starting {}", shown(command)))
}

/// Runs a program that has to end well.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a program that has to end well, and returns what it wrote to stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", shown(command)))?;
    if !done.status.success() {
        bail!("{} ended with {}:\n{}", shown(command), done.status, String::from_utf8_lossy(&done.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = format!("`{}", command.get_program().to_string_lossy());
    for word in command.get_args() {
        text.push(' ');
        text.push_str(&word.to_string_lossy());
    }
    text.push('`');
    text
}

/// A command that is sent SIGTERM when this process ends for whatever reason, and that runs on one core when told which.
/// `setpriv` and `taskset` become the program itself, so that the child's id is the program's.
pub(crate) fn attached(program: impl AsRef<OsStr>, core: Option<usize>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(core) = core {
        command.args(["taskset", "-c", &core.to_string()]);
    }
    command.arg(program);
    command
}

/// Waits for a child's end. `None`: it goes on.
pub(crate) fn ended(pid: Pid, patience: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + patience;
    loop {
        if let Some((_, status)) = waitpid(Some(pid), WaitOptions::NOHANG)? {
            return Ok(Some(ExitStatus::from_raw(status.as_raw())));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A child's id as the kernel's calls take it.
pub(crate) fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id is positive")
}

/// A program that serves until it is stopped. Stopped when dropped, so also when a task fails half-way.
pub(crate) struct Server {
    name: String,
    child: Child,
}

impl Server {
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {}", shown(command)))?;
        Ok(Self { name: name.to_owned(), child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something accepts connections at `address`.
    pub(crate) fn wait_for(&mut self, address: SocketAddr, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it listened on {address}", self.name);
            }
            if Instant::now() > end {
                bail!("{} does not listen on {address} after {patience:?}", self.name);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Asks it to end, and returns how it did.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        self.end()
    }

    fn end(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        // Not reaped yet, so the id is still this child's.
        kill_process(pid(&self.child)?, Signal::TERM)?;
        let end = Instant::now() + STOP_WAIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        eprintln!("{} did not end within {STOP_WAIT:?} of SIGTERM; killed", self.name);
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("stopping {}: {error:#}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_gone_with_its_handle() {
        let core = rustix::thread::sched_getcpu();
        let server = Server::start("sleep", attached("sleep", Some(core)).arg("1000")).unwrap();
        let folder = PathBuf::from(format!("/proc/{}", server.pid()));
        assert!(folder.exists());
        drop(server);
        assert!(!folder.exists());
    }

    #[test]
    fn a_server_that_ends_before_it_listens_says_how() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut server = Server::start("false", &mut attached("false", None)).unwrap();
        let error = server.wait_for(nobody, Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
    }
}
