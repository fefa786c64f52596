//! The workers as the control side sees them: started, told, watched, let go.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use caps::CapSet;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::start::StartError;
use crate::config::model::WORKERS_MAX;
use crate::limits::MAILBOX_MAX;
use crate::observe::access_log::AccessLog;
use crate::rt::wake::Sender;
use crate::rt::{RingFlags, wake};
use crate::worker::{self, Message, Queued, Shared, Start, Until};

/// Between two tries to tell a worker whose mailbox is full.
const TELL_AGAIN: Duration = Duration::from_millis(5);
/// After so many it is not told: a worker that does not look at its mailbox for five seconds is stuck, which is noticed
/// by itself.
const TELL_TRIES: u32 = 1000;

/// The workers that run, and those that have to go and still have something to finish.
pub(super) struct Workers {
    shared: Arc<Shared>,
    ring: RingFlags,
    cores: Vec<usize>,
    all: Vec<Handle>,
    ended: mpsc::UnboundedSender<usize>,
}

struct Handle {
    id: usize,
    mailbox: Sender<Message>,
    thread: JoinHandle<()>,
    /// It has to be gone by then.
    leaves_by: Option<Instant>,
    /// Sweeps it had made when it was last looked at, and how many looks found no more.
    sweeps: u64,
    still: u32,
}

impl Workers {
    /// None yet. The receiver tells which worker's thread has ended.
    pub(super) fn new(shared: Arc<Shared>, ring: RingFlags) -> (Workers, mpsc::UnboundedReceiver<usize>) {
        let (ended, ends) = mpsc::unbounded_channel();
        (Workers { shared, ring, cores: cores(), all: Vec::new(), ended }, ends)
    }

    /// Starts so many, which listen on nothing yet, and waits until they run. After an error some of them may.
    pub(super) async fn start(&mut self, count: usize, log: &AccessLog) -> Result<(), StartError> {
        let mut started = Vec::new();
        for _ in 0..count {
            let taken: HashSet<usize> = self.all.iter().map(|handle| handle.id).collect();
            let Some(id) = (0..usize::from(WORKERS_MAX)).find(|id| !taken.contains(id)) else {
                tracing::warn!("workers that have to go have not gone yet: fewer are started than configured");
                break;
            };
            let (handle, up) = self.spawn(id, log).map_err(|error| StartError::Other { what: "a worker", error })?;
            self.all.push(handle);
            started.push((id, up));
        }
        let mut all_run = true;
        for (id, up) in started {
            if up.await.is_err() {
                all_run = false;
                // It has said why. Its thread is about to end, which is no loss to anybody.
                let failed = self.all.iter_mut().filter(|handle| handle.id == id);
                failed.for_each(|handle| handle.leaves_by = Some(Instant::now()));
            }
        }
        match all_run {
            true => Ok(()),
            false => Err(StartError::Other {
                what: "a worker",
                error: io::Error::other("it did not start; the log says why"),
            }),
        }
    }

    fn spawn(&self, id: usize, log: &AccessLog) -> io::Result<(Handle, oneshot::Receiver<()>)> {
        let (mailbox, unopened) = wake::mailbox(MAILBOX_MAX)?;
        let start = Start {
            id,
            shared: self.shared.clone(),
            ring: self.ring,
            lines: log.lines(),
            mailbox: (mailbox.clone(), unopened),
            listeners: Vec::new(),
        };
        let core = self.cores.get(id % self.cores.len().max(1)).copied();
        let (up, ups) = oneshot::channel();
        let tell_end = TellEnd { id, end: self.ended.clone(), shared: self.shared.clone() };
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            let _tell_end = tell_end;
            pin_to(core);
            let ready = move || {
                // Before anything is accepted, but not before the ring is there: recent kernels count its memory against
                // RLIMIT_MEMLOCK, all processes of a user together, for those without CAP_IPC_LOCK.
                drop_capabilities();
                // Nobody waits any more when the process is ending.
                up.send(()).unwrap_or_default();
            };
            if let Err(error) = worker::run(start, ready) {
                tracing::error!(worker = id, %error, "a worker could not start");
            }
        })?;
        Ok((Handle { id, mailbox, thread, leaves_by: None, sweeps: 0, still: 0 }, ups))
    }

    /// Those that take connections.
    pub(super) fn ids(&self) -> Vec<usize> {
        self.all.iter().filter(|handle| handle.leaves_by.is_none()).map(|handle| handle.id).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Hands `message` to a worker.
    pub(super) async fn tell(&self, id: usize, message: Message) {
        let Some(handle) = self.all.iter().find(|handle| handle.id == id) else { return };
        let mut message = message;
        for _ in 0..TELL_TRIES {
            match handle.mailbox.send(message) {
                Ok(()) => return,
                Err(back) => message = back,
            }
            tokio::time::sleep(TELL_AGAIN).await;
        }
        tracing::error!(worker = id, "a worker does not read what it is told");
    }

    /// Makes these workers stop accepting, finish what they run and end, by `deadline` at the latest. When this returns,
    /// others may accept from their sockets.
    pub(super) async fn leave(&mut self, ids: &[usize], deadline: Duration) {
        let by = Instant::now() + deadline;
        for handle in &mut self.all {
            if ids.contains(&handle.id) {
                handle.leaves_by.get_or_insert(by);
            }
        }
        let (until, stopped) = until();
        for &id in ids {
            self.tell(id, Message::Drain { queued: Queued::Leave, until: until.clone() }).await;
        }
        drop(until);
        stopped.wait().await;
    }

    /// Makes all stop accepting, finish what they run and end. When this returns, others may accept from their sockets.
    pub(super) async fn drain(&self, queued: Queued) {
        let (until, stopped) = until();
        for handle in &self.all {
            self.tell(handle.id, Message::Drain { queued, until: until.clone() }).await;
        }
        drop(until);
        stopped.wait().await;
    }

    /// Makes all stop accepting from a listener that goes. When this returns, it is closed.
    pub(super) async fn unlisten(&self, listener: usize) {
        let (until, stopped) = until();
        for handle in &self.all {
            let message = Message::Unlisten { listener, queued: Queued::Take, until: until.clone() };
            self.tell(handle.id, message).await;
        }
        drop(until);
        stopped.wait().await;
    }

    /// Stops those whose time to leave is over.
    pub(super) fn stop_overdue(&self, now: Instant) {
        for handle in self.all.iter().filter(|handle| handle.leaves_by.is_some_and(|by| by <= now)) {
            // A mailbox that is full is tried again a second later.
            let _ = handle.mailbox.send(Message::Stop);
        }
    }

    /// Notes that a worker's thread has ended. `true`: it should have.
    pub(super) fn has_ended(&mut self, id: usize) -> bool {
        let Some(at) = self.all.iter().position(|handle| handle.id == id) else { return true };
        self.all.remove(at).leaves_by.is_some()
    }

    /// Looks whether every worker has moved since the last look. Returns the one that has stood still for the most looks.
    pub(super) fn look(&mut self) -> Option<Still> {
        for handle in &mut self.all {
            let sweeps = self.shared.metrics.core(handle.id).deadline_sweeps.get();
            handle.still = if sweeps == handle.sweeps { handle.still + 1 } else { 0 };
            handle.sweeps = sweeps;
        }
        let worst = self.all.iter().max_by_key(|handle| handle.still)?;
        (worst.still > 0).then_some(Still { worker: worst.id, looks: worst.still })
    }

    /// Ends all of them, whatever they run. One that hangs is left behind: what it holds is lost either way.
    pub(super) async fn stop(&mut self) {
        for handle in &self.all {
            let _ = handle.mailbox.send(Message::Stop);
        }
        for handle in self.all.drain(..) {
            let joined = tokio::task::spawn_blocking(move || handle.thread.join());
            let _ = tokio::time::timeout(Duration::from_secs(2), joined).await;
        }
    }
}

/// How long workers may take to stop accepting. It is a matter of microseconds; one that is stuck must not hold up the rest.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Knows when all copies of an [`Until`] are gone.
struct Stopped(mpsc::Receiver<()>);

fn until() -> (Until, Stopped) {
    let (held, gone) = mpsc::channel::<()>(1);
    (Arc::new(held), Stopped(gone))
}

impl Stopped {
    async fn wait(mut self) {
        // Nothing is ever sent: what comes is the end of the last sender.
        if tokio::time::timeout(STOP_WAIT, self.0.recv()).await.is_err() {
            tracing::error!("a worker does not stop accepting");
        }
    }
}

/// A worker that does not move.
pub(super) struct Still {
    pub(super) worker: usize,
    /// How many looks found it where it was.
    pub(super) looks: u32,
}

/// Tells the control loop that a worker's thread has ended, by a panic too.
struct TellEnd {
    id: usize,
    end: mpsc::UnboundedSender<usize>,
    shared: Arc<Shared>,
}

impl Drop for TellEnd {
    fn drop(&mut self) {
        self.shared.metrics.worker_ended(self.id);
        // Nobody listens any more when the process ends.
        let _ = self.end.send(self.id);
    }
}

/// The cores this process may run on.
pub(super) fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// A worker's connections and memory stay in one core's cache. Refused: it runs where the kernel likes.
fn pin_to(core: Option<usize>) {
    if let Some(core) = core {
        let mut set = CpuSet::new();
        set.set(core);
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::debug!(%error, core, "a worker is not pinned");
        }
    }
}

/// A worker reads what strangers send and needs nothing that an ordinary user may not do: sockets are bound elsewhere.
fn drop_capabilities() {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        if let Err(error) = caps::clear(None, set) {
            tracing::debug!(%error, "a worker keeps capabilities");
        }
    }
}
