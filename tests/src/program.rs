//! Programs of `tests/programs`, which speak by libraries that nobody here wrote: started, listened to, ended and reaped on
//! drop. `cargo xtask setup` fetches the libraries; a case that lacks them says that it was not run.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{binary, patience};

/// What a program is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Python,
    JavaScript,
}

impl Language {
    pub const BOTH: [Language; 2] = [Language::Python, Language::JavaScript];

    /// The command that runs `tests/programs/NAME.EXTENSION`. `None`, and said: it cannot be run here.
    fn command(self, name: &str) -> Option<Command> {
        let programs = binary::workspace().join("tests/programs");
        match self {
            Language::Python => {
                let mut command = Command::new(binary::fetched("python")?.join("bin/python3"));
                command.arg(programs.join(name).with_extension("py"));
                Some(command)
            }
            Language::JavaScript => {
                let mut command = Command::new(binary::find("node")?);
                command.env("NODE_PATH", binary::fetched("node")?.join("node_modules"));
                command.arg(programs.join(name).with_extension("js"));
                Some(command)
            }
        }
    }
}

pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Said>,
    readers: Vec<JoinHandle<()>>,
}

/// What a program writes, line by line.
#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Program {
    /// Starts one. `None`: what it needs is not here.
    pub fn start(language: Language, name: &str, words: &[&str]) -> Result<Option<Program>> {
        let Some(mut command) = language.command(name) else { return Ok(None) };
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let said = Arc::new(Said::default());
        let mut readers = Vec::new();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|output| Box::new(output) as _),
            child.stderr.take().map(|output| Box::new(output) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let said = said.clone();
            readers.push(std::thread::spawn(move || said.read(BufReader::new(output))));
        }
        Ok(Some(Program { stdin: child.stdin.take(), child, said, readers }))
    }

    /// Starts a server, and returns its address, too, once it listens. `port`: `None` for one of the kernel's choice.
    pub fn serve(language: Language, name: &str, port: Option<u16>) -> Result<Option<(Program, String)>> {
        let Some(server) = Program::start(language, name, &[&port.unwrap_or(0).to_string()])? else { return Ok(None) };
        let listening = server.event(|event| event["event"] == "listening")?;
        let port = listening["port"].as_u64().context("no port")?;
        Ok(Some((server, format!("127.0.0.1:{port}"))))
    }

    /// Runs a client's cases against `address`, each of which must be as it should. What it said.
    pub fn cases(
        language: Language,
        name: &str,
        address: &str,
        ca: &str,
        cases: &[&str],
    ) -> Result<Option<Vec<String>>> {
        let Some(mut client) = Program::start(language, name, &[&[address, ca], cases].concat())? else {
            return Ok(None);
        };
        client.end()?;
        let said = client.said.lock().clone();
        let all = cases.iter().all(|case| said.iter().any(|line| *line == format!("ok {case}")));
        ensure!(all, "{language:?} of {cases:?} said only:\n{}", said.join("\n"));
        Ok(Some(said))
    }

    /// Waits for a line of JSON that is `wanted`.
    pub fn event(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = self.find(|line| serde_json::from_str(line).ok().filter(|event| wanted(event)))?;
        Ok(found)
    }

    /// Waits for a line that `read` makes something of.
    pub fn find<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + patience();
        let mut lines = self.said.lock();
        loop {
            if let Some(found) = lines.iter().find_map(|line| read(line)) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "never said; it said:\n{}", lines.join("\n"));
            lines = self.said.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many lines it has said.
    pub fn lines(&self) -> usize {
        self.said.lock().len()
    }

    /// Writes a line to it.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it takes no more lines")?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).context("tell a program")
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, signal).context("kill")
    }

    /// Waits until it has ended, well.
    pub fn end(&mut self) -> Result<()> {
        // It runs several cases, each with a patience of its own.
        let deadline = Instant::now() + patience() * 6;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    bail!("it does not end; it said:\n{}", self.said.lock().join("\n"))
                }
                None => std::thread::park_timeout(Duration::from_millis(20)),
            }
        };
        self.readers.drain(..).for_each(|reader| _ = reader.join());
        ensure!(status.success(), "it ended with {status}; it said:\n{}", self.said.lock().join("\n"));
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.readers.drain(..).for_each(|reader| _ = reader.join());
        if std::thread::panicking() {
            eprintln!("--- a program said:\n{}\n---", self.said.lock().join("\n"));
        }
    }
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, output: impl BufRead) {
        for line in output.lines().map_while(Result::ok) {
            self.lock().push(line);
            self.more.notify_all();
        }
    }
}
