//! The gateway of the demo as a process: started as an operator would, heard on stderr (events) and stdout (access log),
//! followed from one process to the one that takes over from it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::gateway::{end, started_with};
use e2e::patience;
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use serde_json::Value;
use tempfile::TempDir;

use super::services::Services;
use crate::process;
use crate::workspace;

/// The copy of `conf/demo.toml`, in its folder.
const CONFIG: &str = "demo.toml";

pub(super) struct Gateway {
    /// The process that serves now.
    main: Pid,
    /// Set once that was waited for: its id may be somebody else's by now.
    ended: Option<ExitStatus>,
    pub(super) program: PathBuf,
    pub(super) public: SocketAddr,
    /// The socket of the admin listener.
    pub(super) admin: PathBuf,
    /// What the configuration asks of the environment.
    environment: Vec<(String, String)>,
    events: Receiver<String>,
    access_log: Receiver<String>,
    /// The copy of `conf/demo.toml` that it runs.
    config: PathBuf,
    _folder: TempDir,
}

impl Gateway {
    pub(super) fn start(program: &Path, services: &Services) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bawab-demo-").tempdir()?;
        let config = folder.path().join(CONFIG);
        let place = folder.path().to_str().context("a temporary folder has a plain name")?;
        let addresses = services.addresses().into_iter().chain([("DEMO_FOLDER", place)]);
        let environment: Vec<_> = addresses.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        fs::copy(workspace::root()?.join("conf/demo.toml"), &config).context("copying conf/demo.toml")?;
        // A process whose parent drained and ended becomes our child: it can be waited for, and cannot be lost.
        set_child_subreaper(Some(getpid()))?;
        let mut command = process::attached(program, None);
        command.arg("run").arg(&config).envs(environment.clone());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", process::shown(&command)))?;
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gateway = Self {
            main: process::pid(&child)?,
            ended: None,
            program: program.to_owned(),
            public: nowhere,
            admin: folder.path().join("admin.sock"),
            environment,
            events: lines(child.stderr.take().context("stderr is piped")?),
            access_log: lines(child.stdout.take().context("stdout is piped")?),
            config,
            _folder: folder,
        };
        let mut public = None;
        gateway.event("ready", |event| {
            if event["message"] == "listening" && event["listener"] == "public" {
                public = event["address"].as_str().and_then(|address| address.parse().ok());
            }
        })?;
        gateway.public = public.context("the gateway did not say where its clients go")?;
        Ok(gateway)
    }

    /// Waits for the event whose message is `message` and returns it; `passed` sees those before it.
    pub(super) fn event(&self, message: &str, mut passed: impl FnMut(&Value)) -> Result<Value> {
        let (deadline, mut said) = (Instant::now() + patience(), Vec::new());
        loop {
            let Ok(line) = self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                bail!("the gateway never said `{message}`; it said:\n{}", said.join("\n"));
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            said.push(line);
            if event["message"] == message {
                return Ok(event);
            }
            passed(&event);
        }
    }

    /// The folder of its configuration.
    pub(super) fn folder(&self) -> &Path {
        self.config.parent().unwrap_or(&self.config)
    }

    /// Waits until it listens for somebody it did not listen for before, and returns where.
    pub(super) fn listening(&self, name: &str) -> Result<SocketAddr> {
        loop {
            let event = self.event("listening", |_| {})?;
            if event["listener"] == name {
                return Ok(event["address"].as_str().context("the event has no address")?.parse()?);
            }
        }
    }

    /// A command of the program's, about the configuration of this one.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).args(["--config", CONFIG]).envs(self.environment.clone());
        command.current_dir(self.folder());
        command
    }

    /// Replaces the one place in the configuration where `text` stands.
    pub(super) fn rewrite(&self, text: &str, with: &str) -> Result<()> {
        let whole = fs::read_to_string(&self.config)?;
        ensure!(whole.matches(text).count() == 1, "`{text}` does not stand in conf/demo.toml just once");
        fs::write(&self.config, whole.replace(text, with))?;
        Ok(())
    }

    pub(super) fn pid(&self) -> Pid {
        self.main
    }

    /// Has another process take over (SIGUSR2), and waits until it serves and the one before has ended. Returns how that
    /// one ended.
    pub(super) fn take_over(&mut self) -> Result<ExitStatus> {
        let before = self.main;
        kill_process(before, Signal::USR2)?;
        let event = self.event("the new process serves", |_| {})?;
        let pid = event["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        self.main = pid.context("the event has no pid")?;
        process::ended(before, patience())?.context("the process before does not end")
    }

    /// The access log's line that `wanted` says yes to; lines before it are dropped.
    pub(super) fn access_line(&self, wanted: impl Fn(&Value) -> bool) -> Result<String> {
        let end = Instant::now() + patience();
        loop {
            let line = self.access_log.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.context("no such line came in the access log")?;
            let value: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
            if wanted(&value) {
                return Ok(line);
            }
        }
    }

    /// What the access log says within `time`.
    pub(super) fn access_lines(&self, time: Duration) -> Vec<String> {
        match self.access_log.recv_timeout(time) {
            Ok(first) => std::iter::once(first).chain(self.access_log.try_iter()).collect(),
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => {
                // Its end is near, but a caller that asks again at once would spin until then.
                std::thread::sleep(time);
                Vec::new()
            }
        }
    }

    /// Events since they were last asked for.
    pub(super) fn events(&self) -> Vec<String> {
        self.events.try_iter().collect()
    }

    pub(super) fn is_running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = process::ended(self.main, Duration::ZERO)?;
        }
        Ok(self.ended.is_none())
    }

    /// Asks it to end, and returns how it did.
    pub(super) fn stop(&mut self) -> Result<ExitStatus> {
        if self.is_running()? {
            kill_process(self.main, Signal::TERM)?;
            self.ended = process::ended(self.main, patience())?;
        }
        self.ended.context("the gateway does not end")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // After a step that failed half-way there may be more than one, or another than the one we know.
        for pid in started_with(&self.config) {
            end(pid, Signal::KILL);
        }
    }
}

/// The lines of a pipe as they come, read by a thread so that the pipe never fills up.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // When nobody listens any more the pipe still has to be emptied.
            let _ = sender.send(line);
        }
    });
    receiver
}
