//! A running `bawab`: started with a configuration, waited for until it is ready, ended and reaped on drop.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use tempfile::TempDir;

use crate::access_log::AccessLog;
use crate::binary;
use crate::config;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::patience;
use crate::peer::Peer;

pub struct Gateway {
    child: Child,
    /// Set once the process was reaped: its pid may be somebody else's by now.
    status: Option<ExitStatus>,
    events: Arc<Events>,
    reader: Option<JoinHandle<()>>,
    /// What the names in braces of a configuration stand for.
    values: BTreeMap<String, String>,
    dir: TempDir,
}

/// What the gateway says on stderr, line by line.
#[derive(Default)]
struct Events {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    closed: bool,
}

impl Gateway {
    /// Starts the gateway with `overrides` over [`config::BASE`] and `upstream` as the endpoint of upstream `main`.
    pub fn start(overrides: &str, upstream: &str) -> Result<Self> {
        Self::start_with(overrides, &[("upstream", upstream)])
    }

    /// Starts the gateway with `overrides` over [`config::BASE`], `{name}` replaced by the value of each of `values`.
    /// `{dir}` is a folder of its own. Returns when all workers accept.
    pub fn start_with(overrides: &str, values: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bawab-e2e-").tempdir()?;
        let mut values: BTreeMap<_, _> =
            values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        values.insert("dir".to_owned(), dir.path().display().to_string());
        let mut gateway = Self::start_exactly(&config::fill(&config::over_base(overrides)?, &values), dir)?;
        gateway.values = values;
        Ok(gateway)
    }

    /// Starts the gateway with `text` as it is, in a file in `dir`.
    pub fn start_exactly(text: &str, dir: TempDir) -> Result<Self> {
        let mut command = Command::new(binary::path());
        command.arg("run").arg(dir.path().join("gateway.toml")).stdin(Stdio::null());
        Self::start_by(&mut command, text, dir)
    }

    /// Starts the gateway by a command of one's own, which runs `gateway.toml` in `dir`: `text` as it is.
    pub fn start_by(command: &mut Command, text: &str, dir: TempDir) -> Result<Self> {
        let file = dir.path().join("gateway.toml");
        std::fs::write(&file, text)?;
        let mut child = command
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", binary::path().display()))?;
        let events = Arc::new(Events::default());
        let stderr = child.stderr.take().context("stderr is piped")?;
        let reader = std::thread::spawn({
            let events = Arc::clone(&events);
            move || events.read(BufReader::new(stderr))
        });
        let gateway = Self { child, status: None, events, reader: Some(reader), values: BTreeMap::new(), dir };
        gateway.event("ready").with_context(|| format!("with this configuration:\n{text}"))?;
        Ok(gateway)
    }

    /// Writes another configuration over the one it was started with: `overrides` over [`config::BASE`].
    pub fn rewrite(&self, overrides: &str) -> Result<()> {
        let text = config::fill(&config::over_base(overrides)?, &self.values);
        // In one step: a reload that begins meanwhile reads the one or the other.
        let new = self.dir.path().join("gateway.toml.new");
        std::fs::write(&new, text).context("write the configuration")?;
        std::fs::rename(new, self.config_file()).context("put the configuration in its place")
    }

    /// Has it load its configuration again, and returns what the admin listener says.
    pub fn reload(&self) -> Result<Message> {
        self.post("/reload", "")
    }

    /// POST of `path` on the admin socket, `fields` in its head, each with its end of line.
    pub fn post(&self, path: &str, fields: &str) -> Result<Message> {
        let mut client = Peer::connect_unix(&self.dir.path().join("admin.sock"))?;
        client.send(format!("POST {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n{fields}\r\n"))?;
        Message::answer(&mut client, "POST")
    }

    /// The address of listener `name`.
    pub fn address_of(&self, name: &str) -> Result<SocketAddr> {
        let wanted = |event: &Value| event["message"] == "listening" && event["listener"] == name;
        let event = self.find_event(&format!("listener {name}"), wanted)?;
        event["address"]
            .as_str()
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("no address in {event}"))
    }

    /// A client's connection to listener `main`.
    pub fn client(&self) -> Result<Peer> {
        Peer::connect(self.address_of("main")?)
    }

    /// Sends `request` on a connection of its own and reads the answer.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Result<Message> {
        let request = request.as_ref();
        let mut client = self.client()?;
        client.send(request)?;
        Message::answer(&mut client, if request.starts_with(b"HEAD ") { "HEAD" } else { "GET" })
    }

    /// GET of `path` on a connection of its own.
    pub fn get(&self, path: &str) -> Result<Message> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: e2e.test\r\n\r\n"))
    }

    /// GET of `path` on the admin socket.
    pub fn admin(&self, path: &str) -> Result<Message> {
        let mut client = Peer::connect_unix(&self.dir.path().join("admin.sock"))?;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"))?;
        Message::answer(&mut client, "GET")
    }

    pub fn metrics(&self) -> Result<Metrics> {
        let answer = self.admin("/metrics")?;
        if answer.head.status() != 200 {
            bail!("/metrics answers {}", answer.head.start);
        }
        Ok(Metrics::parse(&answer.text()))
    }

    /// Waits until `holds` says yes to a reading of the metrics. Counters are a core's own and summed on reading, so
    /// one that follows a close may come a moment after the client saw it.
    pub fn metrics_when(&self, what: &str, holds: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        let deadline = Instant::now() + patience();
        loop {
            let metrics = self.metrics()?;
            if holds(&metrics) {
                return Ok(metrics);
            }
            if Instant::now() > deadline {
                bail!("the metrics never showed {what}:\n{}", metrics.counted());
            }
            // Asked too often, the answers themselves would take the cores the gateway needs.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub fn access_log(&self) -> Result<AccessLog> {
        AccessLog::new(self.dir.path().join("access.log"))
    }

    /// Waits for the event whose message is `message`.
    pub fn event(&self, message: &str) -> Result<Value> {
        self.find_event(message, |event| event["message"] == message)
    }

    /// Waits until the event whose message is `message` was told `times` times, and returns the last of them.
    pub fn event_again(&self, message: &str, times: usize) -> Result<Value> {
        self.find_nth_event(message, |event| event["message"] == message, times)
    }

    fn find_event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.find_nth_event(what, wanted, 1)
    }

    fn find_nth_event(&self, what: &str, wanted: impl Fn(&Value) -> bool, nth: usize) -> Result<Value> {
        let deadline = Instant::now() + patience();
        let mut said = self.events.lock();
        loop {
            let events = said.lines.iter().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(event) = events.into_iter().filter(&wanted).nth(nth - 1) {
                return Ok(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.closed || left.is_zero() {
                bail!("the gateway never said `{what}`; it said:\n{}", said.lines.join("\n"));
            }
            said = self.events.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything said on stderr so far.
    pub fn said(&self) -> String {
        self.events.lock().lines.join("\n")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("gateway.toml")
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// User and system time so far, in clock ticks.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
        let mut fields = after_name.split_ascii_whitespace().skip(11);
        let mut tick = || fields.next().and_then(|ticks| ticks.parse::<u64>().ok()).context("no times in stat");
        Ok(tick()? + tick()?)
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).context("kill")
    }

    /// Waits for the process to end by itself.
    pub fn exit(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let pidfd = pidfd_open(self.pid()?, PidfdFlags::empty())?;
        let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let wait = rustix::event::Timespec::try_from(patience() * 2)?;
        if rustix::event::poll(&mut polled, Some(&wait))? == 0 {
            bail!("the gateway did not end");
        }
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// The last process that took over from the one before it.
    pub fn successor(&self, nth: usize) -> Result<Pid> {
        let event = self.event_again(TAKEN_OVER, nth)?;
        let pid = event["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw).context("no pid in the event")
    }

    /// Whether it runs still.
    pub fn alive(&mut self) -> bool {
        self.status.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    /// The process that was started here.
    pub fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // Those that took over, or were about to, hold stderr open, and nobody else ends them.
        for pid in started_with(&self.config_file()) {
            end(pid, Signal::KILL);
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("--- the gateway said:\n{}\n---", self.said());
        }
    }
}

/// What a process says when another has taken over from it.
const TAKEN_OVER: &str = "the new process serves";

/// The processes that have `file` on their command line: its folder is to be one gateway's own.
pub fn started_with(file: &Path) -> Vec<Pid> {
    let wanted = file.as_os_str().as_encoded_bytes();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == wanted)
    })
    .collect()
}

/// Signals a process that is not a child of ours and waits until it is gone. `false`: it did not go.
pub fn end(pid: Pid, signal: Signal) -> bool {
    // Opened first: after the signal the number may be somebody else's.
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let _ = rustix::process::pidfd_send_signal(&pidfd, signal);
    let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let wait = rustix::event::Timespec::try_from(patience()).ok();
    rustix::event::poll(&mut polled, wait.as_ref()).is_ok_and(|ended| ended > 0)
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, stderr: impl BufRead) {
        for line in stderr.lines().map_while(Result::ok) {
            self.lock().lines.push(line);
            self.more.notify_all();
        }
        self.lock().closed = true;
        self.more.notify_all();
    }
}
