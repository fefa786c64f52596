//! The gateway of the demo as a process: started as an operator would, heard on stderr (events) and stdout (access log).

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::services::Services;
use crate::process::{self, Server};
use crate::workspace;

/// How long it may take to say that it is ready, or to write a line of its access log.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Gateway {
    server: Server,
    pub(super) public: SocketAddr,
    pub(super) admin: SocketAddr,
    access_log: Receiver<String>,
}

impl Gateway {
    pub(super) fn start(program: &Path, services: &Services) -> Result<Self> {
        let mut command = process::attached(program, None);
        command.args(["run", "conf/demo.toml"]).current_dir(workspace::root()?).envs(services.addresses());
        let mut server = Server::start("the gateway", command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let events = lines(server.child().stderr.take().context("stderr is piped")?);
        let access_log = lines(server.child().stdout.take().context("stdout is piped")?);
        let (mut public, mut admin, mut said) = (None, None, Vec::new());
        let end = Instant::now() + PATIENCE;
        loop {
            let Ok(line) = events.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                let ended =
                    server.child().try_wait()?.map_or_else(String::new, |status| format!(" and ended with {status}"));
                bail!("the gateway did not become ready{ended}; it said:\n{}", said.join("\n"));
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            said.push(line);
            let address = || event["address"].as_str().and_then(|address| address.parse().ok());
            match (event["message"].as_str(), event["listener"].as_str()) {
                (Some("listening"), Some("public")) => public = address(),
                (Some("admin listening"), _) => admin = address(),
                (Some("ready"), _) => break,
                _ => {}
            }
        }
        // Later events (there are few) are for the person at the terminal.
        std::thread::spawn(move || events.iter().for_each(|line| eprintln!("{line}")));
        let public = public.context("the gateway did not say where its clients go")?;
        let admin = admin.context("the gateway did not say where its admin listener is")?;
        Ok(Self { server, public, admin, access_log })
    }

    /// The access log's line that `wanted` says yes to; lines before it are dropped.
    pub(super) fn access_line(&self, wanted: impl Fn(&Value) -> bool) -> Result<String> {
        let end = Instant::now() + PATIENCE;
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

    pub(super) fn is_running(&mut self) -> Result<bool> {
        Ok(self.server.child().try_wait()?.is_none())
    }

    pub(super) fn stop(self) -> Result<ExitStatus> {
        self.server.stop()
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
