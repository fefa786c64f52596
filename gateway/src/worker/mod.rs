//! One core: its ring, its connections, and the state that only this core may touch.

mod blame;
mod desk;
mod listen;
pub mod solo;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

pub(crate) use self::blame::is_ours;
pub use self::blame::{outcome_of_connect, outcome_of_refusal};
pub use self::desk::{OffloadPool, Ticket};
use self::listen::Accepting;
pub use self::listen::{BoundListener, Open, Queued, Until, bind};
use crate::balance::Endpoints;
use crate::filter::coding::encode;
use crate::filter::{Job, Output};
use crate::limits::{
    DRAIN_QUIET_MS, HANDSHAKES_MAX, MIRRORS_PER_WORKER_MAX, RING_ENTRIES, STREAM_TASKS_KEPT_MAX, TICK_MS,
};
use crate::observe::access_log::{Lines, Record};
use crate::observe::metrics::{Core, Metrics};
use crate::proxy::h2;
use crate::proxy::head::Protocol;
use crate::proxy::trace::{Ids, RequestId};
use crate::proxy::upstream::Pool;
use crate::proxy::upstream::h2::Sessions;
use crate::refusal::Refusal;
use crate::rt::deadline::Remote;
use crate::rt::wake::{Receiver, Sender, Unopened};
use crate::rt::{self, RingError, RingFlags, Ticker, deadline};
use crate::snapshot::Snapshot;
use crate::tables::bans::Bans;
use crate::tables::connections::{Connections, Full};
use crate::tables::health::{Health, Notice};

/// Scratch texts a worker keeps for heads being encoded: two for each of 512 exchanges at a time.
const SCRATCH_MAX: usize = 1024;

/// Sweeps between two looks at kept upstream connections and two flushes of the access log.
const SWEEPS_PER_ROUND: u32 = 4;

/// Sweeps over which the longest turn is reported: ten seconds.
const SWEEPS_PER_LOOK: u32 = 200;

/// What all workers and the control side share.
pub struct Shared {
    pub metrics: Arc<Metrics>,
    pub snapshot: ArcSwap<Snapshot>,
    pub connections: Arc<Connections>,
    pub bans: Arc<Bans>,
    pub health: Arc<Health>,
    /// What workers see of endpoints, for the control side; a full queue is as good as nothing seen.
    pub notices: tokio::sync::mpsc::Sender<Notice>,
    pub pool: OffloadPool,
    /// Snapshots nobody uses any more, to be dropped where it costs no client anything.
    pub retired: SyncSender<Arc<Snapshot>>,
    /// The gateway stops; workers finish what runs.
    pub draining: AtomicBool,
}

/// What other threads tell a worker.
pub enum Message {
    /// An offloaded job is done.
    Done { ticket: u64, output: Output },
    /// Accept from this socket as well.
    Listen(BoundListener),
    /// Stop accepting from the sockets of a listener.
    Unlisten { listener: usize, queued: Queued, until: Until },
    /// Write access log lines here from now on.
    Log(Lines),
    /// Stop accepting, finish what runs, end when nothing runs any more.
    Drain { queued: Queued, until: Until },
    /// End now, whatever runs.
    Stop,
}

/// The state of one core.
pub struct Worker {
    pub id: usize,
    shared: Arc<Shared>,
    pinned: RefCell<Rc<Pinned>>,
    pub ids: RefCell<Ids>,
    pub lines: RefCell<Lines>,
    pub pool: Pool,
    pub sessions: Sessions,
    /// The tasks of streams of HTTP/2 connections.
    pub streams: rt::Crew<h2::Begun>,
    /// One reference for each copy of a request that is on its way, and one more.
    mirrors: Rc<()>,
    scratch: RefCell<Vec<Vec<u8>>>,
    tickets: desk::Tickets,
    mailbox: Sender<Message>,
    accepting: RefCell<Vec<Accepting>>,
    /// Accept loops that have not ended: a stopped one may still be taking what is queued.
    accept_loops: Cell<u32>,
    /// Nothing is accepted any more.
    draining: Cell<bool>,
    stopping: Cell<bool>,
    /// The worker ends; its own tasks end with it.
    over: Cell<bool>,
    open: Cell<u32>,
    /// TLS handshakes under way, the oldest first.
    pub handshakes: RefCell<Handshakes>,
    date: RefCell<(u64, [u8; 29])>,
    /// The longest change to another snapshot since the last look.
    swap_longest_us: Cell<u64>,
    ended: rt::Notify,
}

/// TLS handshakes under way, by the order they began in; at most [`HANDSHAKES_MAX`].
#[derive(Default)]
pub struct Handshakes {
    begun: u64,
    under_way: BTreeMap<u64, Remote>,
}

impl Handshakes {
    /// Takes one more in: its number, and the one whose place it has, which must end.
    pub fn enter(&mut self, reader: Remote) -> (u64, Option<Remote>) {
        let oldest = (self.under_way.len() >= HANDSHAKES_MAX).then(|| self.under_way.pop_first()).flatten();
        self.begun += 1;
        self.under_way.insert(self.begun, reader);
        (self.begun, oldest.map(|(_, reader)| reader))
    }

    pub fn contains(&self, number: u64) -> bool {
        self.under_way.contains_key(&number)
    }

    pub fn leave(&mut self, number: u64) {
        self.under_way.remove(&number);
    }
}

/// A snapshot as one worker holds it, with the turns its upstreams' endpoints take.
pub struct Pinned {
    pub snapshot: Held,
    /// For each upstream, one for all of its endpoints and one for each subset: where they shared one, whoever comes with
    /// every second request would meet the same endpoint.
    pub cursors: Box<[Box<[Cell<u32>]>]>,
}

/// A snapshot that goes to where it can be dropped at leisure: the last reference may be this one, and ten thousand routes
/// take milliseconds to free.
pub struct Held {
    snapshot: Option<Arc<Snapshot>>,
    retired: SyncSender<Arc<Snapshot>>,
}

impl std::ops::Deref for Held {
    type Target = Arc<Snapshot>;

    fn deref(&self) -> &Arc<Snapshot> {
        self.snapshot.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(snapshot) = self.snapshot.take() {
            // Full: it is dropped here, which costs time and nothing else.
            let _ = self.retired.try_send(snapshot);
        }
    }
}

impl Pinned {
    fn new(snapshot: Arc<Snapshot>, shared: &Shared, ids: &mut Ids) -> Rc<Pinned> {
        // Workers begin at different endpoints, or all would send their first requests to the first one.
        let mut cursors = |endpoints: &Arc<Endpoints>| -> Box<[Cell<u32>]> {
            (0..=endpoints.subsets().len()).map(|_| Cell::new(ids.next_u64() as u32)).collect()
        };
        let cursors = snapshot.endpoints.iter().map(&mut cursors).collect();
        Rc::new(Pinned { snapshot: Held { snapshot: Some(snapshot), retired: shared.retired.clone() }, cursors })
    }
}

/// Everything a worker is started with.
pub struct Start {
    pub id: usize,
    pub shared: Arc<Shared>,
    pub ring: RingFlags,
    pub lines: Lines,
    pub mailbox: (Sender<Message>, Unopened<Message>),
    pub listeners: Vec<BoundListener>,
}

/// Runs a worker on this thread until it has drained or was stopped. `ready` is called once it accepts.
pub fn run(start: Start, ready: impl FnOnce() + 'static) -> Result<(), RingError> {
    let ring = start.ring;
    rt::run(ring, RING_ENTRIES, serve(start, ready))
}

async fn serve(start: Start, ready: impl FnOnce()) {
    let Start { id, shared, lines, mailbox, listeners, .. } = start;
    // Deadlines are set against the cached clock, which begins at zero.
    deadline::now_us();
    let (sender, unopened) = mailbox;
    let mut ids = Ids::new().expect("the kernel has random bytes for a running process");
    let snapshot = shared.snapshot.load_full();
    let pinned = Pinned::new(snapshot, &shared, &mut ids);
    let worker = Rc::new(Worker {
        id,
        mirrors: Rc::default(),
        pinned: RefCell::new(pinned),
        ids: RefCell::new(ids),
        lines: RefCell::new(lines),
        pool: Pool::default(),
        sessions: Sessions::default(),
        streams: rt::Crew::new(STREAM_TASKS_KEPT_MAX),
        scratch: RefCell::default(),
        tickets: desk::Tickets::default(),
        mailbox: sender,
        accepting: RefCell::default(),
        accept_loops: Cell::new(0),
        draining: Cell::new(false),
        stopping: Cell::new(false),
        over: Cell::new(false),
        open: Cell::new(0),
        handshakes: RefCell::default(),
        date: RefCell::new((u64::MAX, [0; 29])),
        swap_longest_us: Cell::new(0),
        ended: rt::Notify::default(),
        shared,
    });
    worker.shared.metrics.worker_runs(id);
    listeners.into_iter().for_each(|listener| worker.listen(listener));
    // Without these two a worker can neither be told anything nor keep a deadline: better none than such a one.
    let mailbox = unopened.open().expect("a descriptor is free: the limit is checked at start");
    let ticker = Ticker::new(Duration::from_millis(TICK_MS)).expect("a descriptor is free, and so is a timer");
    rt::spawn(receive(worker.clone(), mailbox));
    ready();
    rt::spawn(sweep(worker.clone(), ticker));
    worker.ended.notified().await;
    worker.lines.borrow_mut().flush();
    worker.over.set(true);
    worker.streams.dismiss();
    // A full mailbox is being read, which is all this is for.
    let _ = worker.mailbox.send(Message::Stop);
}

/// Takes what other threads say.
async fn receive(worker: Rc<Worker>, mut mailbox: Receiver<Message>) {
    while let Some(messages) = mailbox.receive().await {
        for message in messages {
            match message {
                Message::Done { ticket, output } => worker.tickets.done(ticket, output),
                Message::Listen(listener) => worker.listen(listener),
                Message::Unlisten { listener, queued, until } => worker.unlisten(Some(listener), queued, &until),
                Message::Log(lines) => *worker.lines.borrow_mut() = lines,
                Message::Drain { queued, until } => {
                    worker.draining.set(true);
                    worker.unlisten(None, queued, &until);
                    worker.pool.clear();
                    worker.sessions.clear();
                }
                Message::Stop => {
                    worker.stopping.set(true);
                    worker.unlisten(None, Queued::Leave, &(Arc::new(()) as Until));
                }
            }
        }
        if worker.over.get() {
            return;
        }
        worker.end_if_done();
    }
}

/// Walks deadlines, keeps house, and notices when a drain is done.
async fn sweep(worker: Rc<Worker>, mut ticker: Ticker) {
    let mut sweeps = 0u32;
    let mut longest_turn = Duration::ZERO;
    loop {
        match ticker.tick().await {
            Ok(late) => longest_turn = longest_turn.max(late),
            // Reading a timer does not fail; if it did, deadlines would still be kept.
            Err(_) => rt::sleep(Duration::from_millis(TICK_MS)).await,
        }
        deadline::sweep().await;
        if worker.over.get() {
            return;
        }
        sweeps = sweeps.wrapping_add(1);
        worker.core().deadline_sweeps.inc();
        if sweeps.is_multiple_of(SWEEPS_PER_ROUND) {
            worker.pool.sweep();
            worker.sessions.sweep();
            worker.lines.borrow_mut().flush();
            worker.publish();
            if sweeps.is_multiple_of(SWEEPS_PER_LOOK) {
                worker.core().turn_longest_us.set(longest_turn.as_micros() as i64);
                worker.core().swap_longest_us.set(worker.swap_longest_us.take() as i64);
                longest_turn = Duration::ZERO;
                rt::free_spare_buffers();
                worker.streams.dismiss_spare();
            }
            // An idle worker would hold on to the last snapshot until its next request.
            worker.pool.keep_to(&worker.pinned().snapshot, &worker.sessions);
        }
        if worker.draining.get() {
            deadline::cut_waiting(DRAIN_QUIET_MS);
            deadline::tell_drain();
            worker.end_if_done();
        }
    }
}

impl Worker {
    /// This worker's counters.
    pub fn core(&self) -> &Core {
        self.shared.metrics.core(self.id)
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A place for a copy of a request, if there is room; dropping it makes room.
    pub fn enter_mirror(&self) -> Option<Rc<()>> {
        let running = Rc::strong_count(&self.mirrors) - 1;
        (running < MIRRORS_PER_WORKER_MAX as usize).then(|| self.mirrors.clone())
    }

    /// The snapshot of now: one atomic load when it is the one of before.
    pub fn pinned(&self) -> Rc<Pinned> {
        let current = self.shared.snapshot.load();
        let mut pinned = self.pinned.borrow_mut();
        if !Arc::ptr_eq(&current, &pinned.snapshot) {
            let begin = Instant::now();
            let snapshot = arc_swap::Guard::into_inner(current);
            *pinned = Pinned::new(snapshot, &self.shared, &mut self.ids.borrow_mut());
            self.swap_longest_us.set(self.swap_longest_us.get().max(begin.elapsed().as_micros() as u64));
        }
        pinned.clone()
    }

    /// The gateway stops, or this worker does: every answer is its connection's last.
    pub fn draining(&self) -> bool {
        self.draining.get() || self.shared.draining.load(Ordering::Relaxed)
    }

    /// There was no room for a connection, or for one more request on one.
    pub fn count_full(&self, full: Full) {
        match full {
            Full::Total => self.core().connections_refused_total_limit.inc(),
            Full::Address => self.core().connections_refused_address_limit.inc(),
        }
    }

    /// A connection was accepted.
    fn opened(&self) {
        self.open.set(self.open.get() + 1);
        self.core().connections_open.inc();
    }

    /// A connection's task has ended.
    fn closed(&self) {
        self.open.set(self.open.get() - 1);
        self.core().connections_open.dec();
        self.end_if_done();
    }

    fn end_if_done(&self) {
        if self.stopping.get() || (self.draining.get() && self.open.get() == 0 && self.accept_loops.get() == 0) {
            self.ended.notify();
        }
    }

    /// Memory for a head to be encoded into.
    pub fn take_scratch(&self) -> Vec<u8> {
        self.scratch.borrow_mut().pop().unwrap_or_default()
    }

    pub fn put_scratch(&self, mut scratch: Vec<u8>) {
        let mut kept = self.scratch.borrow_mut();
        if kept.len() < SCRATCH_MAX && scratch.capacity() > 0 {
            scratch.clear();
            kept.push(scratch);
        }
    }

    /// Now, as HTTP writes it (RFC 9110 §5.6.7).
    pub fn date(&self) -> [u8; 29] {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let text = httpdate::fmt_http_date(now);
            if let Ok(bytes) = text.as_bytes().try_into() {
                *date = (second, bytes);
            }
        }
        date.1
    }

    /// Hands `job` to the offload pool. `None`: its queue is full.
    pub fn offload(self: &Rc<Self>, job: Job) -> Option<Ticket> {
        let ticket = self.tickets.open();
        let (id, mailbox) = (ticket.id(), self.mailbox.clone());
        let accepted = self.shared.pool.submit(Box::new(move || {
            let output = job();
            // A full mailbox loses the answer; its ticket runs late, which has an answer of its own.
            let _ = mailbox.send(Message::Done { ticket: id, output });
        }));
        accepted.then_some(ticket)
    }

    /// Shows what only this thread knows.
    fn publish(&self) {
        let core = self.core();
        let set = |counter: &crate::observe::metrics::Counter, now: u64| counter.add(now.wrapping_sub(counter.get()));
        core.upstream_pool_idle.set((self.pool.len() + self.sessions.idle()) as i64);
        core.buffers_live.set(rt::buffers_live() as i64);
        set(&core.buffers_missed, rt::buffers_missed());
        set(&core.compressions_missed, encode::missed());
        set(&core.task_panics, rt::panics());
    }

    /// One line for a request that never became an exchange.
    pub fn log_refused_head(
        &self,
        listener: usize,
        peer: IpAddr,
        request_id: &RequestId,
        refusal: Refusal,
        protocol: Protocol,
    ) {
        let mut lines = self.lines.borrow_mut();
        if !lines.enabled() {
            return;
        }
        let pinned = self.pinned.borrow().clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        lines.write(&Record {
            time_unix_us: now,
            listener: &pinned.snapshot.listeners[listener].name,
            client: peer,
            request_id: request_id.as_bytes(),
            trace_id: b"",
            method: b"",
            host: b"",
            path: b"",
            protocol: protocol.name(),
            status: refusal.status(),
            route: "",
            upstream: "",
            endpoint: "",
            attempts: 0,
            grpc_status: "",
            retried_for: "",
            not_retried: "",
            reused: false,
            ended_by: refusal.party().name(),
            refusal: refusal.code(),
            detail: "",
            request_bytes: 0,
            response_bytes: 0,
            duration_us: 0,
            upstream_us: 0,
            user_agent: b"",
            client_cert_subject: "",
            client_cert_sha256: "",
        });
    }
}
