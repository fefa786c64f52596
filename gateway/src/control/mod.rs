//! The control side: what may wait, retry and fail, on one thread with a tokio runtime of its own.
//!
//! It starts the workers, publishes snapshots, resolves upstream names, serves the admin listener and takes signals, as one
//! loop over a closed set of events. When it stalls, traffic goes on with the last snapshot.

pub mod admin;
mod resolve;
mod start;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver as RetiredReceiver;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::admin::Ready;
pub use self::start::StartError;
use crate::config::model::Config;
use crate::limits::RESOLVE_INTERVAL_MS;
use crate::observe::access_log::AccessLog;
use crate::rt::wake::Sender;
use crate::snapshot::Snapshot;
use crate::worker::{Message, Shared};

/// Everything that happens to the control side.
#[derive(Debug)]
enum Event {
    /// Stop in order: SIGTERM or SIGINT.
    Drain,
    /// Open the log files again: SIGUSR1.
    Reopen,
    /// SIGHUP, which will mean a reload.
    Hangup,
    /// A worker's thread has ended; after a drain that is as it should be.
    WorkerEnded { id: usize },
    /// Look up the upstreams' names again.
    Resolve,
    /// Nothing happened for a second.
    Tick,
}

/// How a gateway that ran has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every exchange came to its end.
    Drained,
    /// The drain's deadline passed with exchanges running.
    Cut,
    /// A worker died.
    Failed,
}

/// Runs the gateway until it is told to stop.
pub fn run(config: Config) -> Result<Ended, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::Other { what: "the control thread's runtime", error })?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut running = start::start(&config).await?;
        Ok(running.serve(&config).await)
    })
}

/// A gateway that runs.
struct Running {
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    log: AccessLog,
    ready: Arc<Ready>,
    resolver: resolve::Resolver,
    ended: mpsc::UnboundedReceiver<usize>,
    retired: RetiredReceiver<Arc<Snapshot>>,
    signals: Signals,
    /// Dropping it stops the admin listener; the receiver tells when it has.
    admin: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<io::Result<()>>)>,
}

struct WorkerHandle {
    mailbox: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hangup: Signal,
}

impl Signals {
    fn take() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl Running {
    async fn serve(&mut self, config: &Config) -> Ended {
        let mut resolve_at = Instant::now() + Duration::from_millis(RESOLVE_INTERVAL_MS);
        let ended = loop {
            match self.next_event(resolve_at).await {
                Event::Drain => break self.drain(config).await,
                Event::Reopen => {
                    self.log.reopen();
                    tracing::info!("log files are opened again");
                }
                Event::Hangup => tracing::warn!("SIGHUP does nothing yet: restart to read the configuration again"),
                Event::WorkerEnded { id } => {
                    tracing::error!(worker = id, "a worker died; the gateway stops");
                    break Ended::Failed;
                }
                Event::Resolve => {
                    self.resolver.resolve(&self.shared).await;
                    resolve_at = Instant::now() + Duration::from_millis(RESOLVE_INTERVAL_MS);
                }
                Event::Tick => {}
            }
            // Dropped here, where it delays nobody.
            while self.retired.try_recv().is_ok() {}
        };
        self.stop().await;
        ended
    }

    async fn next_event(&mut self, resolve_at: Instant) -> Event {
        let signals = &mut self.signals;
        tokio::select! {
            _ = signals.terminate.recv() => Event::Drain,
            _ = signals.interrupt.recv() => Event::Drain,
            _ = signals.reopen.recv() => Event::Reopen,
            _ = signals.hangup.recv() => Event::Hangup,
            Some(id) = self.ended.recv() => Event::WorkerEnded { id },
            () = tokio::time::sleep_until(resolve_at), if self.resolver.has_names() => Event::Resolve,
            () = tokio::time::sleep(Duration::from_secs(1)) => Event::Tick,
        }
    }

    /// Not ready, then no new connections, then what runs may finish. A second signal cuts it short.
    async fn drain(&mut self, config: &Config) -> Ended {
        let (delay, deadline) = (config.gateway.drain.delay.0, config.gateway.drain.deadline.0);
        self.ready.block("draining");
        // From here on answers say that their connection closes, so that clients come back somewhere else.
        self.shared.draining.store(true, Ordering::Relaxed);
        tracing::info!(delay = ?delay, deadline = ?deadline, "draining");
        if !delay.is_zero() && self.interrupted(tokio::time::sleep(delay)).await.is_none() {
            return Ended::Cut;
        }
        for worker in &self.workers {
            // A mailbox that is full is emptied before its worker sleeps; the workers look at the flag, too.
            let _ = worker.mailbox.send(Message::Drain);
        }
        let mut left = self.workers.len();
        let until = tokio::time::sleep(deadline);
        tokio::pin!(until);
        while left > 0 {
            tokio::select! {
                Some(_) = self.ended.recv() => left -= 1,
                _ = self.signals.terminate.recv() => return Ended::Cut,
                _ = self.signals.interrupt.recv() => return Ended::Cut,
                () = &mut until => {
                    tracing::warn!(connections = self.shared.connections.open(), "the drain's deadline has passed");
                    return Ended::Cut;
                }
            }
        }
        tracing::info!("drained");
        Ended::Drained
    }

    /// `None`: a second signal came first.
    async fn interrupted<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            output = work => Some(output),
            _ = self.signals.terminate.recv() => None,
            _ = self.signals.interrupt.recv() => None,
        }
    }

    async fn stop(&mut self) {
        for worker in &self.workers {
            let _ = worker.mailbox.send(Message::Stop);
        }
        for worker in &mut self.workers {
            // A worker that hangs must not keep the process: what it holds is lost either way.
            if let Some(thread) = worker.thread.take() {
                let joined = tokio::task::spawn_blocking(move || thread.join());
                let _ = tokio::time::timeout(Duration::from_secs(2), joined).await;
            }
        }
        self.log.clone().close();
        if let Some((stop, serving)) = self.admin.take() {
            drop(stop);
            let _ = tokio::time::timeout(Duration::from_secs(3), serving).await;
        }
    }
}

/// `ip:port`, as `config::load` has checked it.
fn socket_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}
