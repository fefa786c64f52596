//! Reads the access log as its lines appear, told by inotify.

use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use serde_json::Value;

use crate::patience;

pub struct AccessLog {
    path: PathBuf,
    file: Option<File>,
    unread: Vec<u8>,
    /// Lines read that no one asked for yet.
    lines: Vec<Value>,
    watch: OwnedFd,
}

impl AccessLog {
    /// The file need not be there yet; its folder must.
    pub fn new(path: PathBuf) -> Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let folder = path.parent().context("the access log has a folder")?;
        inotify::add_watch(&watch, folder, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE)?;
        Ok(Self { path, file: None, unread: Vec::new(), lines: Vec::new(), watch })
    }

    /// The next line, in the order of the file.
    pub fn next_line(&mut self) -> Result<Value> {
        self.find(|_| true)
    }

    /// The first line not yet taken that `wanted` says yes to; the others stay for later calls.
    pub fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + patience();
        loop {
            self.read_on()?;
            if let Some(at) = self.lines.iter().position(&wanted) {
                return Ok(self.lines.remove(at));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no such line came to {}; others: {:#?}", self.path.display(), self.lines);
            }
            let mut polled = [PollFd::new(&self.watch, PollFlags::IN)];
            match poll(&mut polled, Some(&Timespec::try_from(left)?)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => self.drain_events(),
                Err(error) => return Err(error).context("poll"),
            }
        }
    }

    /// The line of the exchange on `path` (or `path` and a query).
    pub fn of_path(&mut self, path: &str) -> Result<Value> {
        self.find(|line| line.get("path").and_then(Value::as_str) == Some(path))
    }

    fn read_on(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.read_to_end(&mut self.unread)?;
        while let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let value = serde_json::from_slice(&line);
            self.lines
                .push(value.with_context(|| format!("a line of the access log is not JSON: {}", line.escape_ascii()))?);
        }
        Ok(())
    }

    /// Reads on in the file now at the path, after the old one was moved away.
    pub fn reopen(&mut self) {
        self.file = None;
        self.unread.clear();
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn drain_events(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut space);
        while events.next().is_ok() {}
    }
}
