//! One worker on a thread of its own, without a control side: for tests and benches of the data path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{channel, sync_channel};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;

use super::{BoundListener, Message, OffloadPool, Shared, Start, bind, run};
use crate::balance::{About, Endpoint, Endpoints, Identity, Link, Settings, Subsets};
use crate::config::model::Config;
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::metrics::Metrics;
use crate::refusal::Refusal;
use crate::rt::{Peer, RingFlags, wake};
use crate::snapshot::{self, Snapshot};
use crate::tables::connections::Connections;
use crate::tables::health::Health;

/// A running worker. Dropping it ends the worker and waits for its thread.
pub struct Solo {
    /// Where it listens, one for each of `config.listener`.
    pub addresses: Vec<SocketAddr>,
    pub shared: Arc<Shared>,
    mailbox: wake::Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Solo {
    /// Starts a worker for `config`, whose listeners and endpoints are `ip:port`. `edit` may change the snapshot first;
    /// `on_worker` runs on the worker's thread before it serves.
    pub fn start(
        config: &Config,
        edit: impl FnOnce(&mut Snapshot),
        on_worker: impl FnOnce() + Send + 'static,
    ) -> io::Result<Solo> {
        let Prepared { addresses, start, mailbox } = prepare(config, edit)?;
        let shared = start.shared.clone();
        let (up, ups) = channel();
        let thread = std::thread::Builder::new().name("worker-solo".to_owned()).spawn(move || {
            on_worker();
            if let Err(error) = run(start, move || up.send(()).unwrap_or_default()) {
                tracing::error!(%error, "the worker could not start");
            }
        })?;
        ups.recv().map_err(io::Error::other)?;
        Ok(Solo { addresses, shared, mailbox, thread: Some(thread) })
    }
}

/// Runs a worker on this very thread until it is sent [`Message::Stop`]. `beside` may spawn tasks on its ring once it
/// accepts: clients and services that need no thread of their own, so that all of it can be counted.
pub fn run_here(config: &Config, beside: impl FnOnce(SocketAddr, wake::Sender<Message>) + 'static) -> io::Result<()> {
    let Prepared { addresses, start, mailbox } = prepare(config, |_| {})?;
    run(start, move || beside(addresses[0], mailbox)).map_err(io::Error::other)
}

/// A worker that can be started.
struct Prepared {
    addresses: Vec<SocketAddr>,
    start: Start,
    mailbox: wake::Sender<Message>,
}

fn prepare(config: &Config, edit: impl FnOnce(&mut Snapshot)) -> io::Result<Prepared> {
    let metrics = Metrics::new(1, Refusal::codes());
    let mut snapshot = snapshot::compile(config, &Arc::default(), &Arc::default(), &metrics);
    let health = Arc::new(Health::default());
    let subsets = Subsets::of(config);
    for (endpoints, (name, upstream)) in snapshot.endpoints.iter_mut().zip(&config.upstream) {
        let list = upstream.endpoints.iter().filter_map(|endpoint| {
            let peer = Peer::Tcp(endpoint.address.parse().ok()?);
            Some(Arc::new(Endpoint {
                identity: Identity::new(peer, Arc::new(Link::of(upstream, None, None))),
                label: endpoint.address.clone(),
                written: endpoint.address.clone(),
                weight: endpoint.weight,
                priority: endpoint.priority,
                about: About::of(&config.gateway, endpoint),
                state: health.of(name, &endpoint.address),
            }))
        });
        let settings = Arc::new(Settings::of(upstream).with_subsets(subsets.of_upstream(name)));
        *endpoints = Arc::new(Endpoints::compile(list.collect(), &settings, |_| true, 0));
    }
    edit(&mut snapshot);
    let mut addresses = Vec::new();
    let mut listeners = Vec::new();
    for (index, listener) in config.listener.iter().enumerate() {
        let address = listener.address.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        for socket in bind(address, 1, false)? {
            addresses.push(socket.local_addr()?);
            listeners.push(BoundListener { index, socket, held_elsewhere: false });
        }
    }
    let (retired, _) = sync_channel(1);
    let shared = Arc::new(Shared {
        metrics,
        snapshot: ArcSwap::from_pointee(snapshot),
        connections: Arc::new(Connections::default()),
        bans: Arc::default(),
        health,
        // Nobody listens: what is told is lost.
        notices: tokio::sync::mpsc::channel(1).0,
        pool: OffloadPool::start(1)?,
        retired,
        draining: AtomicBool::new(false),
    });
    let ring = RingFlags::probe().map_err(io::Error::other)?;
    let (mailbox, unopened) = wake::mailbox(16)?;
    let lines = AccessLog::start(&Target::Off)?.lines();
    let start = Start { id: 0, shared, ring, lines, mailbox: (mailbox.clone(), unopened), listeners };
    Ok(Prepared { addresses, start, mailbox })
}

impl Drop for Solo {
    fn drop(&mut self) {
        let _ = self.mailbox.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the worker's thread is reported by the test that watches it.
            let _ = thread.join();
        }
    }
}
