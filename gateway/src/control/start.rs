//! Brings a gateway up, in the order in which things can be refused: what is refused is said before any client is served.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use arc_swap::ArcSwap;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::{mpsc, oneshot};

use super::admin::{self, Ready, State, Token};
use super::resolve::Resolver;
use super::{Running, Signals, WorkerHandle, socket_address};
use crate::config::model::{Config, Workers};
use crate::limits::{MAILBOX_MAX, OFFLOAD_THREADS};
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::metrics::Metrics;
use crate::refusal::Refusal;
use crate::rt::{RingError, RingFlags, wake};
use crate::snapshot;
use crate::tables::connections::Connections;
use crate::worker::{self, OffloadPool, Shared, Start};

/// Snapshots on their way to be dropped. More are dropped by the workers themselves.
const RETIRED_MAX: usize = 64;

/// Why the gateway did not start. The text says what to do.
#[derive(Debug)]
pub enum StartError {
    Ring(RingError),
    Listen { listener: String, address: String, error: io::Error },
    Admin { address: String, error: io::Error },
    Log { path: PathBuf, error: io::Error },
    Other { what: &'static str, error: io::Error },
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
            StartError::Other { what, error } => write!(f, "cannot set up {what}: {error}"),
        }
    }
}

pub(super) async fn start(config: &Config) -> Result<Running, StartError> {
    let other = |what| move |error| StartError::Other { what, error };
    let ring = RingFlags::probe().map_err(StartError::Ring)?;
    if ring != RingFlags::DeferTaskrun {
        tracing::warn!(flags = ?ring, "this kernel lacks ring flags that save a sixth of the CPU; Linux 6.1 has them");
    }
    use_small_pages();
    let descriptors = raise_descriptor_limit();
    let cores = cores();
    let workers = match config.gateway.workers {
        Workers::Auto => cores.len().max(1),
        Workers::Count(count) => usize::from(count),
    };
    let connections_max = connections_max(config, descriptors);
    let metrics = Metrics::new(workers, Refusal::codes());
    let log = start_access_log(config)?;
    metrics.watch_access_log(&log);
    let mut resolver = Resolver::new(config);
    let mut first = snapshot::compile(config, &metrics);
    resolver.first(&mut first).await;
    let mut listeners: Vec<Vec<worker::BoundListener>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, listener) in first.listeners.iter().enumerate() {
        let text = &config.listener[index].address;
        let failed = |error| StartError::Listen { listener: listener.name.clone(), address: text.clone(), error };
        let address = socket_address(text).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let (bound, sockets) = worker::bind(index, address, workers).map_err(failed)?;
        tracing::info!(listener = listener.name, address = %bound, "listening");
        listeners.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.push(socket));
    }
    let signals = Signals::take().map_err(other("signal handlers"))?;
    let ready = Ready::because("starting");
    let admin = start_admin(config, &metrics, &ready).await?;
    let (retire, retired) = sync_channel(RETIRED_MAX);
    let shared = Arc::new(Shared {
        metrics,
        snapshot: ArcSwap::from_pointee(first),
        connections: Arc::new(Connections::default()),
        connections_max,
        connections_per_address_max: config.limits.connections_per_address,
        pool: OffloadPool::start(OFFLOAD_THREADS).map_err(other("the offload pool"))?,
        retired: retire,
        draining: AtomicBool::new(false),
    });
    let (end, ended) = mpsc::unbounded_channel();
    let (up, mut ups) = mpsc::unbounded_channel();
    let mut handles = Vec::new();
    for (id, listeners) in listeners.into_iter().enumerate() {
        let (sender, unopened) = wake::mailbox(MAILBOX_MAX).map_err(other("a worker's mailbox"))?;
        let start = Start {
            id,
            shared: shared.clone(),
            ring,
            lines: log.lines(),
            mailbox: (sender.clone(), unopened),
            listeners,
        };
        let core = cores.get(id % cores.len().max(1)).copied();
        let (up, end) = (up.clone(), end.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{id}"))
            .spawn(move || {
                let _ended = TellEnd { id, end };
                pin_to(core);
                if let Err(error) = worker::run(start, move || up.send(()).unwrap_or_default()) {
                    tracing::error!(worker = id, %error, "a worker could not start");
                }
            })
            .map_err(other("a worker's thread"))?;
        handles.push(WorkerHandle { mailbox: sender, thread: Some(thread) });
    }
    drop(up);
    for _ in 0..workers {
        // A worker that could not start drops its sender; `ended` tells which.
        if ups.recv().await.is_none() {
            break;
        }
    }
    ready.clear("starting");
    tracing::info!(workers, connections_max, "ready");
    Ok(Running { shared, workers: handles, log, ready, resolver, ended, retired, signals, admin })
}

/// Tells the control loop that a worker's thread has ended, by a panic too.
struct TellEnd {
    id: usize,
    end: mpsc::UnboundedSender<usize>,
}

impl Drop for TellEnd {
    fn drop(&mut self) {
        // Nobody listens any more when the process ends.
        let _ = self.end.send(self.id);
    }
}

fn start_access_log(config: &Config) -> Result<AccessLog, StartError> {
    let target = match config.log.access.as_deref() {
        None | Some("stdout") => Target::Stdout,
        Some("off") => Target::Off,
        Some(path) => Target::File(path.into()),
    };
    AccessLog::start(&target).map_err(|error| match target {
        Target::File(path) => StartError::Log { path, error },
        Target::Off | Target::Stdout => StartError::Other { what: "the access log", error },
    })
}

type AdminHandle = (oneshot::Sender<()>, tokio::task::JoinHandle<io::Result<()>>);

async fn start_admin(
    config: &Config,
    metrics: &Arc<Metrics>,
    ready: &Arc<Ready>,
) -> Result<Option<AdminHandle>, StartError> {
    let Some(written) = &config.admin else { return Ok(None) };
    let failed = |error| StartError::Admin { address: written.address.clone(), error };
    let listener = admin::bind(&written.address).await.map_err(failed)?;
    let state = State {
        metrics: metrics.clone(),
        ready: ready.clone(),
        token: written.token.as_ref().and_then(|token| Token::new(token.expose())),
    };
    tracing::info!(address = listener.address(), "admin listening");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::task::spawn_local(admin::serve(listener, state, async move {
        // The sender is only ever dropped.
        let _ = stopped.await;
    }));
    Ok(Some((stop, serving)))
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
    let mut limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
        }
    }
}

/// Each client may need a connection to a service, and the rest of the process some more: a third of the descriptors.
fn connections_max(config: &Config, descriptors: u64) -> u32 {
    let fits = u32::try_from(descriptors / 3).unwrap_or(u32::MAX);
    match config.limits.connections {
        Some(wanted) => {
            if wanted > fits {
                let limit = descriptors;
                tracing::warn!(
                    connections = wanted,
                    limit,
                    "limits.connections is more than a third of the open files"
                );
            }
            wanted
        }
        None => fits.clamp(1, 50_000),
    }
}

/// The cores this process may run on.
fn cores() -> Vec<usize> {
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
