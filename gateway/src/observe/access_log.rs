//! The access log: a line of JSON an exchange, from every core's own buffer over a bounded queue to one writer thread.
//!
//! Logging never makes a worker wait. A worker encodes into its [`Lines`]; a full buffer, or a sweep's [`Lines::flush`],
//! hands the buffer over with one `try_send`. When the disk or the reader of stdout is slower than the traffic, the queue
//! fills up and whole buffers are dropped and counted, by line. Emptied buffers come back to the core they came from.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use super::access_line::Record;
use super::access_line::{self, LINE_BYTES_MAX};
use super::rfc3339::Clock;

/// A core's buffer: some two hundred lines of an ordinary length, so that the queue is touched seldom.
const BUFFER_BYTES: usize = 64 * 1024;
const _: () =
    assert!(LINE_BYTES_MAX <= BUFFER_BYTES / 4, "a buffer is handed over when the longest line no longer fits");

/// Buffers waiting for the writer, all cores together: 8 MiB, a second of some 30 000 lines.
const QUEUE_BUFFERS_MAX: usize = 128;

/// Empty buffers kept for a core. Two: one that is filled while the other is written.
const SPARE_BUFFERS_MAX: usize = 2;

/// How long [`AccessLog::close`] waits for a disk or a reader that takes nothing.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Failures of the writer are told at most this often; a full disk fails at every buffer.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Off,
    Stdout,
    File(PathBuf),
}

/// Handle to the log; its clones are the same log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    counts: Arc<Counts>,
    /// `None`: off.
    writer: Option<Arc<Handle>>,
}

/// What became of the lines so far.
#[derive(Debug, Default)]
pub struct Counts {
    written: AtomicU64,
    dropped_queue_full: AtomicU64,
    dropped_write_failed: AtomicU64,
}

#[derive(Debug)]
struct Handle {
    queue: SyncSender<Message>,
    asks: Arc<Asks>,
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Thread {
    join: JoinHandle<()>,
    /// Disconnected when the thread has ended, however it did.
    ended: Receiver<()>,
}

/// What the writer is asked to do besides writing. Flags and not messages, because a full queue takes no message.
#[derive(Debug, Default)]
struct Asks {
    reopen: AtomicBool,
    close: AtomicBool,
}

enum Message {
    Lines(Full),
    /// Look at [`Asks`].
    Wake,
}

/// A buffer on its way to the writer.
struct Full {
    bytes: Vec<u8>,
    lines: u64,
    /// The way back to its core.
    back: SyncSender<Vec<u8>>,
}

impl AccessLog {
    /// Opens `target` and starts the writer. The error names the file.
    pub fn start(target: &Target) -> io::Result<AccessLog> {
        AccessLog::counting(target, Arc::default())
    }

    /// Opens another log that goes on counting where this one is. This one ends when nobody writes to it any more.
    pub fn instead(&self, target: &Target) -> io::Result<AccessLog> {
        AccessLog::counting(target, Arc::clone(&self.counts))
    }

    fn counting(target: &Target, counts: Arc<Counts>) -> io::Result<AccessLog> {
        let (file, path) = match target {
            Target::Off => {
                return Ok(AccessLog { counts, writer: None });
            }
            // Not `io::Stdout`: it holds lines back, and a lock.
            Target::Stdout => (File::from(io::stdout().as_fd().try_clone_to_owned()?), None),
            Target::File(path) => (open(path)?, Some(path.clone())),
        };
        AccessLog::start_on(file, path, counts)
    }

    fn start_on(file: File, path: Option<PathBuf>, counts: Arc<Counts>) -> io::Result<AccessLog> {
        let asks = Arc::<Asks>::default();
        let (queue, messages) = mpsc::sync_channel(QUEUE_BUFFERS_MAX);
        let (end, ended) = mpsc::sync_channel(1);
        let mid_line = path.as_deref().is_some_and(ends_mid_line);
        let writer = Writer {
            file,
            path,
            mid_line,
            messages,
            asks: Arc::clone(&asks),
            counts: Arc::clone(&counts),
            told: None,
            lost_untold: 0,
        };
        let join = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            drop(end);
        })?;
        let thread = Mutex::new(Some(Thread { join, ended }));
        Ok(AccessLog { counts, writer: Some(Arc::new(Handle { queue, asks, thread })) })
    }

    /// A buffer for one core.
    pub fn lines(&self) -> Lines {
        let (give_back, spare) = mpsc::sync_channel(SPARE_BUFFERS_MAX);
        Lines {
            queue: self.writer.as_ref().map(|writer| writer.queue.clone()),
            counts: Arc::clone(&self.counts),
            clock: Clock::new(),
            bytes: Vec::new(),
            lines: 0,
            give_back,
            spare,
        }
    }

    /// Opens the file again by its path, before anything more is written: what a log rotation asks for after it moved the
    /// file away. When that fails, the log goes on in the old file and says so. Returns at once.
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.asks.reopen.store(true, Ordering::Release);
            writer.wake();
        }
    }

    /// Writes what was handed over so far and ends the writer; what comes later is dropped and counted. Waits at most
    /// some seconds: a disk or a pipe that takes nothing does not keep the process from ending.
    pub fn close(self) {
        self.close_within(CLOSE_WAIT);
    }

    fn close_within(self, wait: Duration) {
        let Some(writer) = &self.writer else { return };
        writer.asks.close.store(true, Ordering::Release);
        writer.wake();
        let thread = writer.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { join, ended }) = thread else {
            return;
        };
        if ended.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(waited_s = wait.as_secs(), "access log could not be written to its end");
        } else if join.join().is_err() {
            tracing::error!("access log writer panicked");
        }
    }

    /// Lines lost so far, for whatever reason.
    pub fn lines_dropped(&self) -> u64 {
        self.counts.dropped_queue_full() + self.counts.dropped_write_failed()
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }
}

impl Handle {
    fn wake(&self) {
        // A full queue needs no wake-up: its writer looks at the asks between any two messages.
        let _full_or_ended = self.queue.try_send(Message::Wake);
    }
}

impl Counts {
    /// Lines written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Lines lost because the writer was behind, or had ended.
    pub fn dropped_queue_full(&self) -> u64 {
        self.dropped_queue_full.load(Ordering::Relaxed)
    }

    /// Lines lost because they could not be written.
    pub fn dropped_write_failed(&self) -> u64 {
        self.dropped_write_failed.load(Ordering::Relaxed)
    }
}

/// One core's end of the log. Dropping it hands over what it holds.
pub struct Lines {
    /// `None`: off.
    queue: Option<SyncSender<Message>>,
    counts: Arc<Counts>,
    clock: Clock,
    /// Without capacity until the first line after a hand-over; then `BUFFER_BYTES`, with room for the longest line.
    bytes: Vec<u8>,
    lines: u64,
    give_back: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
}

impl Lines {
    /// Whether a record would be written at all: filling one in is not free.
    #[inline]
    pub fn enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// Adds the line of one exchange. Some 200 ns; allocates only while more than `SPARE_BUFFERS_MAX` of this core's
    /// buffers are with the writer.
    pub fn write(&mut self, record: &Record<'_>) {
        if !self.enabled() {
            return;
        }
        if self.bytes.capacity() < BUFFER_BYTES {
            self.bytes = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER_BYTES));
        }
        access_line::write(&mut self.bytes, &mut self.clock, record);
        self.lines += 1;
        if BUFFER_BYTES - self.bytes.len() < LINE_BYTES_MAX {
            self.flush();
        }
    }

    /// Hands over what there is. For the sweep: a line waits no longer than the time between two of them.
    pub fn flush(&mut self) {
        let Some(queue) = &self.queue else { return };
        if self.lines == 0 {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let full = Full { bytes: std::mem::take(&mut self.bytes), lines, back: self.give_back.clone() };
        if let Err(refused) = queue.try_send(Message::Lines(full)) {
            self.counts.dropped_queue_full.fetch_add(lines, Ordering::Relaxed);
            let (mpsc::TrySendError::Full(message) | mpsc::TrySendError::Disconnected(message)) = refused;
            if let Message::Lines(full) = message {
                self.bytes = full.bytes;
                self.bytes.clear();
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The thread behind the queue.
struct Writer {
    file: File,
    /// `None`: stdout, which cannot be opened again.
    path: Option<PathBuf>,
    /// The last byte of the file is not a line feed: a write failed in the middle of a line, now or in an earlier life.
    mid_line: bool,
    messages: Receiver<Message>,
    asks: Arc<Asks>,
    counts: Arc<Counts>,
    /// When a failure was last told.
    told: Option<Instant>,
    /// Lines lost since then.
    lost_untold: u64,
}

impl Writer {
    /// Until the log is closed, or every handle and every core's end is gone.
    fn run(mut self) {
        while let Ok(message) = self.messages.recv() {
            self.take(message);
            if self.asks.close.load(Ordering::Acquire) {
                while let Ok(message) = self.messages.try_recv() {
                    self.take(message);
                }
                return;
            }
        }
    }

    fn take(&mut self, message: Message) {
        if self.asks.reopen.swap(false, Ordering::AcqRel) {
            self.reopen();
        }
        let Message::Lines(mut full) = message else {
            return;
        };
        let lost = match self.write(&full.bytes) {
            Ok(()) => 0,
            Err(failure) => {
                // A line that was written in part is lost as well: its line feed is not there.
                let lost = memchr::memchr_iter(b'\n', &full.bytes[failure.written..]).count() as u64;
                self.counts.dropped_write_failed.fetch_add(lost, Ordering::Relaxed);
                self.tell(&failure.error, lost, Instant::now());
                lost
            }
        };
        self.counts.written.fetch_add(full.lines - lost, Ordering::Relaxed);
        full.bytes.clear();
        let _spares_enough = full.back.try_send(full.bytes);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.mid_line {
            self.write_all(b"\n").map_err(|failure| Failure { written: 0, ..failure })?;
            self.mid_line = false;
        }
        self.write_all(bytes).inspect_err(|failure| {
            if let Some(last) = bytes[..failure.written].last() {
                self.mid_line = *last != b'\n';
            }
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut written = 0;
        while written < bytes.len() {
            let error = match self.file.write(&bytes[written..]) {
                Ok(0) => io::Error::from(ErrorKind::WriteZero),
                Ok(n) => {
                    written += n;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Whoever shares our stdout may have made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.wait_writable() => {
                    continue;
                }
                Err(error) => error,
            };
            return Err(Failure { written, error });
        }
        Ok(())
    }

    /// Waits until the file takes more. `false`: the log is being closed, and nobody read for a second.
    fn wait_writable(&self) -> bool {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&second)) {
                Ok(0) if self.asks.close.load(Ordering::Acquire) => return false,
                // Writing says best what is wrong with a descriptor that cannot be polled.
                Ok(ready) if ready > 0 => return true,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => {
                self.file = file;
                self.mid_line = ends_mid_line(path);
                tracing::info!(path = %path.display(), "access log reopened");
            }
            Err(error) => {
                tracing::warn!(%error, "access log not reopened, going on in the old file")
            }
        }
    }

    /// Tells a failure, unless one was told less than [`EVENT_INTERVAL`] ago.
    fn tell(&mut self, error: &io::Error, lost: u64, now: Instant) {
        self.lost_untold += lost;
        if self.told.is_some_and(|told| now.duration_since(told) < EVENT_INTERVAL) {
            return;
        }
        self.told = Some(now);
        let lines_lost = std::mem::take(&mut self.lost_untold);
        let path = self.path.as_deref().unwrap_or(Path::new("stdout")).display();
        tracing::warn!(path = %path, lines_lost, %error, "access log could not be written");
    }
}

/// A write that ended early.
struct Failure {
    written: usize,
    error: io::Error,
}

/// Opens the file to append to it. Not readable for others: it holds addresses and paths of clients. Non-blocking, so that
/// a FIFO nobody reads is an error here and not a thread that hangs.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("access log `{}`: {error}", path.display())))
}

/// Whether the file ends in the middle of a line, for the next line would be lost with it.
fn ends_mid_line(path: &Path) -> bool {
    let last = || {
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let mut last = [0];
        let at = metadata.len().checked_sub(1)?;
        file.read_exact_at(&mut last, at).ok().map(|()| last[0])
    };
    path.is_file() && last().is_some_and(|last| last != b'\n')
}

#[cfg(test)]
mod tests;
