//! The control side: what may wait, retry and fail, on one thread with a tokio runtime of its own.
//!
//! It starts the workers, publishes snapshots, looks up where upstreams run, serves the admin listener and takes signals, as one
//! loop over a closed set of events. Nothing in the loop waits for long: what does (loading, look-ups, another process) is a
//! task that comes back as an event. When the thread stalls, traffic goes on with the last snapshot.

pub mod admin;
mod dns;
mod doors;
mod endpoints;
mod health;
mod reload;
mod safety;
mod sockets;
mod start;
mod systemd;
mod takeover;
mod watch;
mod workers;
pub mod xdp;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver as RetiredReceiver;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use self::admin::{Command, Ready, Reloaded};
use self::doors::{Doors, Wanted};
pub use self::doors::{bypass, detach};
use self::endpoints::Directory;
use self::health::Care;
use self::reload::{Fresh, Refused};
use self::sockets::{Given, Sockets};
pub use self::start::StartError;
use self::start::{Admin, log_failed, log_target, worker_count};
use self::takeover::{Estate, Program, Successor};
pub use self::takeover::{Inheritance, inherit};
use self::watch::Watch;
use self::workers::{Still, Workers};
use crate::config::model::{Config, WorkerFailure};
use crate::config::{Digest, Loaded};
use crate::lists::Lists;
use crate::observe::access_log::AccessLog;
use crate::observe::events;
use crate::observe::reloads::Outcome;
use crate::snapshot::Snapshot;
use crate::tables::bans::unix_ms;
use crate::tls::Tls;
use crate::worker::{Message, Queued, Shared};

/// How often the control side looks at its workers and at the configuration's files.
const PULSE: Duration = Duration::from_millis(500);

/// Everything that happens to the control side.
enum Event {
    /// Stop in order: SIGTERM or SIGINT.
    Drain,
    /// Open the log files again: SIGUSR1.
    Reopen,
    /// Load the configuration again: SIGHUP.
    Reload,
    /// Start the program anew and let it take over: SIGUSR2.
    TakeOver,
    /// Asked through the admin listener.
    Command(Command),
    /// The configuration was loaded, or not.
    Loaded(Result<Box<Fresh>, Refused>),
    /// Something became known of an upstream's names.
    Dns(dns::Seen),
    /// The new process serves, or does not.
    Successor(Result<Successor, String>),
    /// A worker's thread has ended.
    WorkerEnded { id: usize },
    /// Something became known of an endpoint.
    Health(health::Seen),
    /// Look at the workers and the files.
    Pulse,
}

/// How a gateway that ran has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every exchange came to its end.
    Drained,
    /// The drain's deadline passed with exchanges running.
    Cut,
    /// A worker died or stood still.
    Failed,
}

/// Runs the gateway with the configuration that was loaded from `path` until it is told to stop.
pub fn run(path: &Path, loaded: Loaded, inheritance: Option<Inheritance>) -> Result<Ended, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::Other { what: "the control thread's runtime", error })?;
    let local = tokio::task::LocalSet::new();
    let ended = local.block_on(&runtime, async {
        let mut running = start::start(path, loaded, inheritance, Signals::take).await?;
        Ok(running.serve().await)
    });
    // A thread may be waiting for another process; this one need not wait for it.
    runtime.shutdown_background();
    ended
}

/// What `xdp apply --confirm` waits for, and what comes back if nobody confirms: all of the configuration, since lists hold
/// where listeners and routes name them, too.
struct Unconfirmed {
    until: Instant,
    before: Before,
}

/// A configuration that ran.
struct Before {
    config: Config,
    digest: Digest,
    lists: Arc<Lists>,
    tls: Arc<Tls>,
}

/// A gateway that runs.
struct Running {
    path: PathBuf,
    program: Program,
    config: Config,
    digest: Digest,
    shared: Arc<Shared>,
    workers: Workers,
    sockets: Sockets,
    log: AccessLog,
    ready: Arc<Ready>,
    directory: Directory,
    watch: Watch,
    admin: Option<Admin>,
    /// The admin listener that another process goes on with, while it answers what it has accepted.
    admin_leaving: Option<tokio::task::JoinHandle<()>>,
    doors: Doors,
    /// What comes back unless somebody confirms what runs.
    unconfirmed: Option<Unconfirmed>,
    /// What runs is not what the file says.
    taken_back: bool,
    commander: mpsc::Sender<Command>,
    commands: mpsc::Receiver<Command>,
    ended: mpsc::UnboundedReceiver<usize>,
    retired: RetiredReceiver<Arc<Snapshot>>,
    signals: Signals,
    pulse: Interval,
    watchdog: Option<Duration>,
    reload: Reload,
    tell_loaded: mpsc::UnboundedSender<Result<Box<Fresh>, Refused>>,
    loaded: mpsc::UnboundedReceiver<Result<Box<Fresh>, Refused>>,
    tell_successor: mpsc::UnboundedSender<Result<Successor, String>>,
    successor: mpsc::UnboundedReceiver<Result<Successor, String>>,
    care: Care,
    /// A new process was started and has not said that it serves.
    taking_over: bool,
}

/// One reload runs at a time; whatever is asked meanwhile is one more after it.
#[derive(Default)]
struct Reload {
    is_running: bool,
    is_asked: bool,
    /// Who waits for the one that runs, and for the one after it.
    waiting: Vec<oneshot::Sender<Reloaded>>,
    waiting_next: Vec<oneshot::Sender<Reloaded>>,
    /// How long what is loaded may go unconfirmed.
    confirm: Option<Duration>,
    /// What is loaded is what ran before.
    takes_back: bool,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hangup: Signal,
    take_over: Signal,
}

impl Signals {
    fn take() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
            take_over: signal(SignalKind::user_defined2())?,
        })
    }
}

fn pulse() -> Interval {
    let mut pulse = tokio::time::interval(PULSE);
    // After a pause (a debugger, a suspended machine) what was missed is not made up for: nobody stood still.
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pulse
}

impl Running {
    async fn serve(&mut self) -> Ended {
        let ended = loop {
            match self.next_event().await {
                Event::Drain => {
                    systemd::stopping("draining");
                    break self.drain(self.config.gateway.drain.delay.0, None).await;
                }
                Event::Reopen => {
                    self.log.reopen();
                    tracing::info!("log files are opened again");
                }
                Event::Reload => self.begin_reload(None),
                Event::Command(Command::Reload(reply)) => self.begin_reload(Some(reply)),
                Event::Command(Command::Apply { confirm, reply }) => self.begin_apply(confirm, reply),
                Event::Command(Command::Confirm(reply)) => {
                    let confirmed = self.unconfirmed.take().is_some();
                    if confirmed {
                        tracing::info!("the configuration is confirmed");
                    }
                    // Whoever asked may have gone.
                    let _ = reply.send(confirmed);
                }
                Event::Command(Command::Drain { asked, reply }) => {
                    // The new process would not hear of it. Dropped: whoever asks hears that it is busy.
                    if !self.taking_over {
                        let _ = reply.send(self.care.drain(&asked, &self.shared));
                    }
                }
                Event::Health(seen) => self.care.take(seen, &self.shared),
                Event::Loaded(loaded) => self.end_reload(loaded).await,
                Event::TakeOver => self.begin_take_over(),
                Event::Successor(Ok(successor)) => break self.drain(Duration::ZERO, Some(successor)).await,
                Event::Successor(Err(why)) => {
                    self.taking_over = false;
                    tracing::error!(why, "the new process did not take over; this one goes on");
                }
                Event::WorkerEnded { id } => {
                    if let Some(ended) = self.worker_ended(id).await {
                        break ended;
                    }
                }
                Event::Dns(seen) => {
                    if self.directory.take(seen, &self.shared) {
                        let snapshot = self.shared.snapshot.load();
                        self.care.follow(&snapshot);
                        for problem in safety::refusals(&self.config, &snapshot.lists, &snapshot) {
                            // The address came after the lists: nothing can be refused any more, and somebody must hear.
                            tracing::error!(problem, "a name leads to an address that is denied");
                        }
                    }
                }
                Event::Pulse => {
                    if let Some(ended) = self.look_after() {
                        break ended;
                    }
                    self.take_back();
                    endpoints::ramp(&self.shared);
                    if self.config.gateway.watch && !self.reload.is_running && self.watch.changed() {
                        tracing::info!("the configuration's files have changed");
                        self.begin_reload(None);
                    }
                }
            }
            self.drop_retired();
        };
        self.stop().await;
        ended
    }

    async fn next_event(&mut self) -> Event {
        let signals = &mut self.signals;
        tokio::select! {
            _ = signals.terminate.recv() => Event::Drain,
            _ = signals.interrupt.recv() => Event::Drain,
            _ = signals.reopen.recv() => Event::Reopen,
            _ = signals.hangup.recv() => Event::Reload,
            _ = signals.take_over.recv() => Event::TakeOver,
            Some(id) = self.ended.recv() => Event::WorkerEnded { id },
            Some(command) = self.commands.recv() => Event::Command(command),
            Some(loaded) = self.loaded.recv() => Event::Loaded(loaded),
            Some(successor) = self.successor.recv() => Event::Successor(successor),
            seen = self.care.next() => Event::Health(seen),
            seen = self.directory.dns.next() => Event::Dns(seen),
            _ = self.pulse.tick() => Event::Pulse,
        }
    }

    /// Snapshots nobody uses any more are freed below the workers in priority: ten thousand routes take milliseconds.
    fn drop_retired(&mut self) {
        let retired: Vec<Arc<Snapshot>> = self.retired.try_iter().collect();
        if !retired.is_empty() {
            // A full pool: they are dropped here.
            self.shared.pool.submit(Box::new(move || drop(retired)));
        }
    }

    /// Looks whether the workers move; stops those whose time to leave is over.
    fn look_after(&mut self) -> Option<Ended> {
        self.workers.stop_overdue(Instant::now());
        let stall = self.config.gateway.worker_stall.0;
        let still = self.look()?;
        let stood = PULSE * still.looks;
        if stall.is_zero() || stood < stall {
            return None;
        }
        // Whoever the kernel sends to this worker waits in vain, and nothing can take its place: its ring still accepts.
        tracing::error!(worker = still.worker, ?stood, "a worker stands still; the process ends");
        Some(Ended::Failed)
    }

    /// Looks whether every worker moves, and feeds the watchdog while they do. Returns one that stands still.
    fn look(&mut self) -> Option<Still> {
        let still = self.workers.look();
        if still.is_none() && self.watchdog.is_some() {
            systemd::alive();
        }
        still
    }

    /// Another worker, or none, takes the place of one whose thread has ended.
    async fn worker_ended(&mut self, id: usize) -> Option<Ended> {
        if self.workers.has_ended(id) {
            return None;
        }
        // The kernel has cancelled what the dead thread waited for, so its sockets can be lent to others.
        self.sockets.take_back(id);
        let policy = self.config.gateway.worker_failure;
        tracing::error!(worker = id, ?policy, "a worker died");
        let mut left = Ok(());
        if policy == WorkerFailure::Respawn {
            left = self.workers.start(1, &self.log).await;
        }
        self.lend().await;
        if policy == WorkerFailure::Respawn && left.is_ok() {
            return None;
        }
        if !self.workers.is_empty() {
            systemd::stopping("a worker died");
            self.drain(Duration::ZERO, None).await;
        }
        Some(Ended::Failed)
    }

    /// Lends every listening socket to a worker, and something of every listener to each.
    async fn lend(&mut self) {
        match self.sockets.lend(&self.workers.ids()) {
            Ok(loans) => {
                for (worker, listener) in loans {
                    self.workers.tell(worker, Message::Listen(listener)).await;
                }
            }
            Err(error) => tracing::error!(%error, "a worker got no listening socket"),
        }
    }

    /// Loads the configuration again, with lists that are taken back unless they are confirmed.
    fn begin_apply(&mut self, confirm: Option<Duration>, reply: oneshot::Sender<Reloaded>) {
        if self.reload.is_running {
            // Dropped: whoever asks hears that it is busy. Which of two reloads is to be confirmed must be clear.
            return;
        }
        self.reload.confirm = confirm;
        self.begin_reload(Some(reply));
    }

    /// Brings the configuration before back when nobody confirmed the one that runs.
    fn take_back(&mut self) {
        let is_over = self.unconfirmed.as_ref().is_some_and(|unconfirmed| Instant::now() >= unconfirmed.until);
        if !is_over || self.reload.is_running {
            return;
        }
        let Some(Unconfirmed { before, .. }) = self.unconfirmed.take() else { return };
        self.reload.is_running = true;
        self.reload.takes_back = true;
        systemd::reloading();
        let (known, tell, shared) = (self.directory.known(), self.tell_loaded.clone(), self.shared.clone());
        let Before { config, digest, lists, tls } = before;
        let watched = self.watch.files();
        tokio::task::spawn_local(async move {
            let fresh = Fresh::again(config, digest, (&lists, &tls), watched, &shared, &known).await;
            // Nobody listens any more when the process is ending.
            let _ = tell.send(Ok(Box::new(fresh)));
        });
    }

    /// Loads the configuration again, beside what runs. `reply` hears what became of it.
    fn begin_reload(&mut self, reply: Option<oneshot::Sender<Reloaded>>) {
        if self.reload.is_running {
            self.reload.is_asked = true;
            self.reload.waiting_next.extend(reply);
            return;
        }
        self.reload.is_running = true;
        self.reload.waiting.extend(reply);
        self.watch.tried_now();
        systemd::reloading();
        let (path, shared) = (self.path.clone(), self.shared.clone());
        let (known, tell) = (self.directory.known(), self.tell_loaded.clone());
        tokio::task::spawn_local(async move {
            let loaded = Fresh::load(path, &shared, known).await;
            // Nobody listens any more when the process is ending.
            let _ = tell.send(loaded.map(Box::new));
        });
    }

    async fn end_reload(&mut self, loaded: Result<Box<Fresh>, Refused>) {
        let now = SystemTime::now();
        let confirm = self.reload.confirm;
        let reloads = &self.shared.metrics.clone().reloads;
        let reloaded = match loaded {
            Ok(fresh) if fresh.digest == self.digest && !self.taken_back && !self.reload.takes_back => {
                // What it was read from may be other files now that say the same.
                self.watch = fresh.watch.after(&self.watch);
                reloads.unchanged(now);
                tracing::info!(config = self.digest.shown, "the configuration says what it said before");
                Reloaded { outcome: Outcome::Unchanged, problems: Vec::new(), confirm: None }
            }
            Ok(fresh) => match self.apply(*fresh).await {
                Ok(()) => {
                    let confirm = self.unconfirmed.as_ref().and(confirm);
                    reloads.applied(&self.digest.shown, now);
                    let workers = self.workers.ids().len();
                    tracing::info!(config = self.digest.shown, workers, "configuration reloaded");
                    Reloaded { outcome: Outcome::Applied, problems: Vec::new(), confirm }
                }
                Err(error) => self.not_reloaded(vec![error.to_string()], now),
            },
            Err(Refused { problems, files }) => {
                self.watch.also(files.iter().map(PathBuf::as_path));
                self.not_reloaded(problems, now)
            }
        };
        systemd::ready(&start::status(&self.digest.shown));
        for waiting in self.reload.waiting.drain(..) {
            // Whoever asked may have gone.
            let _ = waiting.send(reloaded.clone());
        }
        self.reload.is_running = false;
        self.reload.confirm = None;
        if std::mem::take(&mut self.reload.takes_back) {
            let running = &self.digest.shown;
            tracing::warn!(running, "nobody confirmed the configuration: the one before is in effect again");
        }
        if std::mem::take(&mut self.reload.is_asked) {
            self.reload.waiting = std::mem::take(&mut self.reload.waiting_next);
            self.begin_reload(None);
        }
    }

    fn not_reloaded(&self, problems: Vec<String>, now: SystemTime) -> Reloaded {
        for problem in problems.iter().take(PROBLEMS_TOLD_MAX) {
            tracing::error!(problem, "in the new configuration");
        }
        let (count, running) = (problems.len(), &self.digest.shown);
        tracing::error!(problems = count, running, "configuration not reloaded; the one before goes on");
        self.shared.metrics.reloads.failed(&problems.join("\n"), now);
        Reloaded { outcome: Outcome::Failed, problems, confirm: None }
    }

    /// Puts a configuration into effect: first everything that can fail, then the change.
    async fn apply(&mut self, fresh: Fresh) -> Result<(), StartError> {
        let Fresh { config, digest, mut snapshot, mut directory, watch } = fresh;
        let count = worker_count(&config);
        let plan = self.sockets.plan(&config, count, &mut Given::default())?;
        let is_log_new = config.log.access != self.config.log.access;
        let log = match is_log_new {
            true => Some(self.log.instead(&log_target(&config)).map_err(log_failed(&config))?),
            false => None,
        };
        let is_admin_there = match (&self.admin, &config.admin) {
            (Some(admin), Some(written)) => admin.is_at(written),
            (None, None) => true,
            _ => false,
        };
        let admin = match is_admin_there {
            true => None,
            false => {
                let doors = self.doors.handle();
                Some(Admin::start(&config, None, &self.shared, &self.ready, &self.commander, doors).await?)
            }
        };
        let before = self.workers.ids();
        if count > before.len()
            && let Err(error) = self.workers.start(count - before.len(), log.as_ref().unwrap_or(&self.log)).await
        {
            let started: Vec<usize> = self.workers.ids().into_iter().filter(|id| !before.contains(id)).collect();
            self.workers.leave(&started, Duration::ZERO).await;
            return Err(error);
        }

        // From here on nothing fails.
        let closed = self.sockets.adopt(plan, &mut snapshot);
        directory.take_over(&self.directory, &mut snapshot, &self.shared.health);
        self.care.adopt(&config, &mut snapshot);
        let lists = snapshot.lists.clone();
        *self.shared.metrics.tls.lock().unwrap_or_else(PoisonError::into_inner) = snapshot.tls.clone();
        let old = self.shared.snapshot.swap(Arc::new(snapshot));
        endpoints::leave(&old.endpoints, &self.shared.snapshot.load().endpoints);
        if let Some(time) = self.reload.confirm {
            // What was never confirmed is nothing to go back to.
            let before = match self.unconfirmed.take() {
                Some(unconfirmed) => unconfirmed.before,
                None => Before {
                    config: self.config.clone(),
                    digest: self.digest.clone(),
                    lists: old.lists.clone(),
                    tls: old.tls.clone(),
                },
            };
            self.unconfirmed = Some(Unconfirmed { until: Instant::now() + time, before });
        }
        self.taken_back = self.reload.takes_back;
        self.shared.pool.submit(Box::new(move || drop(old)));
        let go: Vec<usize> = self.workers.ids().into_iter().skip(count).collect();
        if let Some(log) = log {
            for id in self.workers.ids() {
                self.workers.tell(id, Message::Log(log.lines())).await;
            }
            // The old one ends when the last worker has let go of it.
            self.log = log;
        }
        for &listener in &closed {
            self.workers.unlisten(listener).await;
        }
        self.workers.leave(&go, config.gateway.drain.deadline.0).await;
        self.lend().await;
        self.doors.want(Wanted::of(&config, &lists, self.sockets.ports())).await;
        match admin {
            Some(admin) => {
                if let Some(old) = std::mem::replace(&mut self.admin, admin) {
                    // A request may be waiting for this very reload: it is answered first.
                    tokio::task::spawn_local(old.stop());
                }
            }
            None => {
                if let (Some(admin), Some(written)) = (&self.admin, &config.admin) {
                    admin.set_token(written);
                }
            }
        }
        events::start(config.log.level.into(), config.log.format.into());
        self.watch = watch.after(&self.watch);
        (self.config, self.digest, self.directory) = (config, digest, directory);
        Ok(())
    }

    /// Starts the program anew; what becomes of it is an event.
    fn begin_take_over(&mut self) {
        if self.taking_over {
            tracing::warn!("a new process is starting already");
            return;
        }
        let listeners = match self.sockets.all() {
            Ok(listeners) => listeners,
            Err(error) => {
                return tracing::error!(%error, "the listening sockets could not be copied; nobody takes over");
            }
        };
        self.taking_over = true;
        let admin = self.admin.as_ref().and_then(Admin::given);
        let estate = Estate {
            listeners,
            admin,
            bans: self.shared.bans.list(unix_ms()),
            endpoints: self.shared.health.hand_over(std::time::Instant::now()),
            names: self.directory.hand_over(std::time::Instant::now()),
        };
        let (program, tell) = (self.program.clone(), self.tell_successor.clone());
        tracing::info!("a new process is started to take over");
        tokio::task::spawn_blocking(move || {
            // Nobody listens any more when this process is ending; the new one notices that, too.
            let _ = tell.send(takeover::hand_over(&program, estate));
        });
    }

    /// Nothing is accepted here any more, and the new process is the service from now on. What it does not listen on closes.
    async fn pass_on(&mut self, successor: Successor) {
        for listener in self.sockets.others(&successor.listeners) {
            self.workers.unlisten(listener).await;
        }
        self.workers.drain(Queued::Leave).await;
        let pid = successor.pid;
        systemd::main_process(pid);
        self.doors.pass_on().await;
        successor.begin(self.shared.bans.list(unix_ms()));
        tracing::info!(pid, "the new process serves");
        self.admin_leaving = self.admin.take().map(|admin| tokio::task::spawn_local(admin.pass_on()));
    }

    /// Not ready, then no new connections, then what runs may finish. A second signal cuts it short.
    async fn drain(&mut self, delay: Duration, successor: Option<Successor>) -> Ended {
        let deadline = self.config.gateway.drain.deadline.0;
        self.care.stop();
        self.ready.block("draining");
        // From here on answers say that their connection closes, so that clients come back somewhere else.
        self.shared.draining.store(true, Ordering::Relaxed);
        tracing::info!(delay = ?delay, deadline = ?deadline, "draining");
        if !delay.is_zero() && !self.wait(Instant::now() + delay, false).await {
            return Ended::Cut;
        }
        match successor {
            Some(successor) => self.pass_on(successor).await,
            None => self.workers.drain(Queued::Take).await,
        }
        // The workers' own handles keep a socket open until its queue is empty.
        self.sockets.clear();
        if !self.wait(Instant::now() + deadline, true).await {
            tracing::warn!(connections = self.shared.connections.open(), "exchanges are cut");
            return Ended::Cut;
        }
        tracing::info!("drained");
        Ended::Drained
    }

    /// Waits until `until`, or for the workers to end; `false`: it ended for another reason, the first of which is a second
    /// signal.
    async fn wait(&mut self, until: Instant, for_workers: bool) -> bool {
        while !(for_workers && self.workers.is_empty()) {
            tokio::select! {
                Some(id) = self.ended.recv() => drop(self.workers.has_ended(id)),
                _ = self.signals.terminate.recv() => return false,
                _ = self.signals.interrupt.recv() => return false,
                () = tokio::time::sleep_until(until) => return !for_workers,
                _ = self.signals.reopen.recv() => self.log.reopen(),
                // One that stands still now is left behind at the deadline.
                _ = self.pulse.tick() => drop(self.look()),
            }
        }
        true
    }

    async fn stop(&mut self) {
        self.workers.stop().await;
        self.log.clone().close();
        if let Some(admin) = self.admin.take() {
            admin.stop().await;
        }
        if let Some(leaving) = self.admin_leaving.take() {
            // It ends by itself, within seconds.
            let _ = leaving.await;
        }
    }
}

/// Problems of a configuration that are told as events; the admin listener has all.
const PROBLEMS_TOLD_MAX: usize = 20;

/// `ip:port`, as `config::load` has checked it.
fn socket_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

#[cfg(test)]
mod tests;
