//! Brings a gateway up, in the order in which things can be refused: what is refused is said before any client is served.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::{Notify, mpsc, oneshot};

use super::admin::{self, Command, Ready, State, Token};
use super::dns::Known;
use super::doors::{Doors, Handle, Wanted};
use super::health::Care;
use super::reload::Fresh;
use super::sockets::{self, Label, Sockets};
use super::takeover::{Inheritance, Program};
use super::workers::Workers;
use super::{Running, Signals, pulse, safety, systemd};
use crate::config::Loaded;
use crate::config::model::{self, Config, WORKERS_MAX};
use crate::limits::{NOTICES_MAX, OFFLOAD_THREADS};
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::metrics::Metrics;
use crate::refusal::Refusal;
use crate::rt::{RingError, RingFlags};
use crate::tables::bans::{Ban, Bans, unix_ms};
use crate::tables::connections::Connections;
use crate::tables::health::Health;
use crate::worker::{Message, OffloadPool, Shared};

/// What the admin listener may ask before the control loop looks.
const COMMANDS_MAX: usize = 16;

/// Snapshots on their way to be dropped. More are dropped by the workers themselves.
const RETIRED_MAX: usize = 64;

/// Why the gateway did not start. The text says what to do.
#[derive(Debug)]
pub enum StartError {
    Ring(RingError),
    Listen {
        listener: String,
        address: String,
        error: io::Error,
    },
    Admin {
        address: String,
        error: io::Error,
    },
    Log {
        path: PathBuf,
        error: io::Error,
    },
    /// Lists that would deny somebody who must stay reachable; a line each.
    Lists {
        refused: Vec<String>,
    },
    Other {
        what: &'static str,
        error: io::Error,
    },
}

impl std::error::Error for StartError {}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Ring(error) => error.fmt(f),
            StartError::Listen { listener, address, error } => {
                write!(f, "listener `{listener}`: cannot listen on {address}: ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(
                        "the port is in use by another process (`ss -ltnp` shows which); stop that one or choose another port",
                    ),
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("this machine has no such address (`ip addr` shows those it has)")
                    }
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("ports below 1024 need CAP_NET_BIND_SERVICE; start with it or choose a higher port")
                    }
                    _ => error.fmt(f),
                }
            }
            StartError::Admin { address, error } => write!(f, "admin.address: cannot listen on {address}: {error}"),
            StartError::Log { path, error } => write!(f, "log.access: cannot write `{}`: {error}", path.display()),
            StartError::Lists { refused } => f.write_str(&refused.join("; ")),
            StartError::Other { what, error } => write!(f, "cannot set up {what}: {error}"),
        }
    }
}

/// Bans of the process before this one.
fn take_on(bans: &Bans, banned: Vec<(IpAddr, Ban)>) {
    let refused = bans.take_on(banned);
    if refused > 0 {
        tracing::error!(refused, "no room for bans of the process before this one");
    }
}

/// Brings the gateway up with the configuration read from `path`, on sockets of its own, of the service manager's, or of
/// the process it takes over from. `signals` are taken when there is something to stop: before that they end the process.
pub(super) async fn start(
    path: &Path,
    loaded: Loaded,
    mut inheritance: Option<Inheritance>,
    signals: fn() -> io::Result<Signals>,
) -> Result<Running, StartError> {
    let other = |what| move |error| StartError::Other { what, error };
    let ring = RingFlags::probe().map_err(StartError::Ring)?;
    if ring != RingFlags::DeferTaskrun {
        tracing::warn!(flags = ?ring, "this kernel lacks ring flags that save a sixth of the CPU; Linux 6.1 has them");
    }
    let program = Program::of_this_process().map_err(other("the path of this program"))?;
    use_small_pages();
    let descriptors = raise_descriptor_limit();
    // Rings are made of it. What the hard limit does not allow is said when a ring is refused.
    let _ = raise(Resource::Memlock);
    let metrics = Metrics::new(usize::from(WORKERS_MAX), Refusal::codes());
    let log = AccessLog::start(&log_target(&loaded.config)).map_err(log_failed(&loaded.config))?;
    metrics.watch_access_log(&log);
    let health = Arc::<Health>::default();
    let handed = inheritance.as_mut().map(|inheritance| std::mem::take(&mut inheritance.names)).unwrap_or_default();
    let known = Known::taken_on(handed, Instant::now());
    let fresh = Fresh::first(path, loaded, &known, &metrics, &health).await;
    let Fresh { config, digest, mut snapshot, mut directory, watch } = fresh;
    *metrics.tls.lock().unwrap_or_else(PoisonError::into_inner) = snapshot.tls.clone();
    warn_of_descriptors(&config, descriptors);
    let refused = safety::refusals(&config, &snapshot.lists, &snapshot);
    if !refused.is_empty() {
        return Err(StartError::Lists { refused });
    }

    let bans = Arc::<Bans>::default();
    let (mut given, admin_given, confirm) = match inheritance {
        Some(Inheritance { given, admin, bans: banned, endpoints, confirm, .. }) => {
            take_on(&bans, banned);
            health.take_on(endpoints, Instant::now());
            (given, admin, Some(confirm))
        }
        None => (systemd::given().map_err(other("the sockets of LISTEN_FDS"))?, None, None),
    };
    let mut sockets = Sockets::default();
    let plan = sockets.plan(&config, worker_count(&config), &mut given)?;
    sockets.adopt(plan, &mut snapshot);
    for unmeant in given.sockets.iter().filter(|given| matches!(given.label, Label::Name(_))) {
        let address = unmeant.socket.local_addr().map(|address| address.to_string()).unwrap_or_default();
        tracing::warn!(address, "the service manager passed a socket that no listener is written for; it is not used");
    }
    drop(given);

    let signals = signals().map_err(other("signal handlers"))?;
    let ready = Ready::because("starting");
    let (commander, commands) = mpsc::channel(COMMANDS_MAX);
    let (retire, retired) = sync_channel(RETIRED_MAX);
    let (notices, noticed) = mpsc::channel(NOTICES_MAX);
    let mut care = Care::new(noticed);
    care.adopt(&config, &mut snapshot);
    let shared = Arc::new(Shared {
        metrics,
        snapshot: ArcSwap::from_pointee(snapshot),
        connections: Arc::new(Connections::default()),
        bans,
        health,
        notices,
        pool: OffloadPool::start(OFFLOAD_THREADS).map_err(other("the offload pool"))?,
        retired: retire,
        draining: AtomicBool::new(false),
    });
    let doors = Doors::start(&shared.metrics, &shared.bans, &ready).map_err(other("the thread of the XDP programs"))?;
    let lists = shared.snapshot.load().lists.clone();
    doors.want(Wanted::of(&config, &lists, sockets.ports())).await;
    let admin = Admin::start(&config, admin_given, &shared, &ready, &commander, doors.handle()).await?;
    let (mut workers, ended) = Workers::new(shared.clone(), ring);
    workers.start(worker_count(&config), &log).await?;
    shared.metrics.reloads.started(&digest.shown, SystemTime::now());
    if let Some(confirm) = confirm {
        // Nobody there to hear it: whoever started us was told to stop meanwhile, and so are we.
        let changed = confirm.ready(sockets::keys(&config)).map_err(other("the process to take over from"))?;
        // A door may have been opened since, with the bans we knew of.
        if Wanted::by_peer(&config) {
            for (client, ban) in &changed.banned {
                doors.handle().ban(*client, Duration::from_millis(ban.until_ms.saturating_sub(unix_ms())));
            }
        }
        take_on(&shared.bans, changed.banned);
        for client in changed.unbanned {
            shared.bans.unban(client);
            doors.handle().unban(client);
        }
    }
    for (worker, listener) in sockets.lend(&workers.ids()).map_err(other("a worker's listening socket"))? {
        workers.tell(worker, Message::Listen(listener)).await;
    }
    directory.begin();
    ready.clear("starting");
    let connections_max = shared.snapshot.load().settings.connections_max;
    tracing::info!(workers = workers.ids().len(), connections_max, config = digest.shown, "ready");
    systemd::ready(&status(&digest.shown));
    let (tell_loaded, loaded) = mpsc::unbounded_channel();
    let (tell_successor, successor) = mpsc::unbounded_channel();
    Ok(Running {
        path: path.to_owned(),
        program,
        config,
        digest,
        shared,
        workers,
        sockets,
        log,
        ready,
        directory,
        watch,
        admin,
        admin_leaving: None,
        doors,
        unconfirmed: None,
        taken_back: false,
        commander,
        commands,
        ended,
        retired,
        signals,
        pulse: pulse(),
        watchdog: systemd::watchdog(),
        reload: super::Reload::default(),
        tell_loaded,
        loaded,
        tell_successor,
        successor,
        care,
        taking_over: false,
    })
}

/// What the service manager shows beside the process.
pub(super) fn status(hash: &str) -> String {
    format!("serving configuration {hash}")
}

/// Worker threads `config` asks for.
pub(super) fn worker_count(config: &Config) -> usize {
    match config.gateway.workers {
        model::Workers::Auto => super::workers::cores().len().clamp(1, usize::from(WORKERS_MAX)),
        model::Workers::Count(count) => usize::from(count),
    }
}

/// Where the access log of `config` goes.
pub(super) fn log_target(config: &Config) -> Target {
    match config.log.access.as_deref() {
        None | Some("stdout") => Target::Stdout,
        Some("off") => Target::Off,
        Some(path) => Target::File(path.into()),
    }
}

pub(super) fn log_failed(config: &Config) -> impl FnOnce(io::Error) -> StartError + use<> {
    let target = log_target(config);
    move |error| match target {
        Target::File(path) => StartError::Log { path, error },
        Target::Off | Target::Stdout => StartError::Other { what: "the access log", error },
    }
}

/// The admin listener as it runs.
pub(super) struct Admin {
    address: String,
    token: Arc<Mutex<Option<Token>>>,
    socket: OwnedFd,
    keep_file: Arc<AtomicBool>,
    gate: Arc<Notify>,
    /// Dropping it stops the listener.
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<io::Result<()>>,
}

impl Admin {
    /// Starts what `config` asks for, on `given` if that is the socket of the same address.
    pub(super) async fn start(
        config: &Config,
        given: Option<(String, OwnedFd)>,
        shared: &Arc<Shared>,
        ready: &Arc<Ready>,
        commands: &mpsc::Sender<Command>,
        doors: Handle,
    ) -> Result<Option<Admin>, StartError> {
        let Some(written) = &config.admin else { return Ok(None) };
        let failed = |error| StartError::Admin { address: written.address.clone(), error };
        let listener = match given {
            Some((address, socket)) if address == written.address => admin::adopt(&address, socket).map_err(failed)?,
            _ => admin::bind(&written.address).await.map_err(failed)?,
        };
        let (address, token) = (written.address.clone(), Arc::new(Mutex::new(token(written))));
        let (socket, keep_file, gate) = (listener.socket().map_err(failed)?, listener.keep_file(), listener.gate());
        let served = shared.clone();
        let state = State {
            metrics: shared.metrics.clone(),
            ready: ready.clone(),
            token: token.clone(),
            snapshot: Arc::new(move || served.snapshot.load_full()),
            commands: commands.clone(),
            bans: shared.bans.clone(),
            doors,
        };
        tracing::info!(address = listener.address(), "admin listening");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::task::spawn_local(admin::serve(listener, state, async move {
            // The sender is only ever dropped.
            let _ = stopped.await;
        }));
        Ok(Some(Admin { address, token, socket, keep_file, gate, stop, serving }))
    }

    /// Whether it listens where `written` says.
    pub(super) fn is_at(&self, written: &model::Admin) -> bool {
        self.address == written.address
    }

    /// Asks for the token of `written` from now on.
    pub(super) fn set_token(&self, written: &model::Admin) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token(written);
    }

    /// The socket and where it listens, for somebody who goes on with it.
    pub(super) fn given(&self) -> Option<(String, OwnedFd)> {
        Some((self.address.clone(), self.socket.try_clone().ok()?))
    }

    /// Accepts no more; somebody else serves the socket now. What was accepted is answered before it ends.
    pub(super) async fn pass_on(self) {
        self.keep_file.store(true, Ordering::Relaxed);
        self.gate.notify_one();
        // A connection that has not sent its request yet would be reset by a stop.
        tokio::time::sleep(PASS_ON_WAIT).await;
        self.stop().await;
    }

    /// Answers what was asked and ends.
    pub(super) async fn stop(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(STOP_WAIT, self.serving).await;
    }
}

/// How long an admin connection that was accepted may take to send its request when another process goes on.
const PASS_ON_WAIT: Duration = Duration::from_millis(500);

/// How long answers of the admin listener may take at the end.
const STOP_WAIT: Duration = Duration::from_secs(3);

fn token(written: &model::Admin) -> Option<Token> {
    written.token.as_ref().and_then(|token| Token::new(token.expose()))
}

/// More connections than a third of the descriptors: each may need one to a service, and the process needs some more.
pub(super) fn warn_of_descriptors(config: &Config, limit: u64) {
    if let Some(connections) = config.limits.connections
        && u64::from(connections) > limit / 3
    {
        tracing::warn!(connections, limit, "limits.connections is more than a third of the open files");
    }
}

/// No huge pages in this process. The allocator asks for them, and the kernel clears each in one go: a thousand new
/// connections, of whose buffers a page or two is ever touched, stood still for 280 ms until 66 MB were cleared, and kept
/// them. Refused: a burst of connections is slower.
fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Raises the soft limit of open files to the hard one, and returns it.
fn raise_descriptor_limit() -> u64 {
    match raise(Resource::Nofile) {
        Ok(maximum) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
        }
    }
}

/// Raises a soft limit to the hard one, and returns it.
fn raise(resource: Resource) -> rustix::io::Result<u64> {
    let mut limit = getrlimit(resource);
    limit.current = limit.maximum;
    setrlimit(resource, limit)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
