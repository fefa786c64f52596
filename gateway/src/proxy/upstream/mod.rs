//! Connections to services: opening, keeping and reusing them. Each worker has its own.

mod departed;
pub mod h1;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::wire::Wire;
use crate::balance::{Asking, Endpoint, Identity, Prehashed};
use crate::limits::{ENDPOINT_PICKS_MAX, TICK_MS};
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, Guard, now_ms};
use crate::rt::{Either, Socket, select};
use crate::snapshot::PoolSettings;
use crate::tables::health::InFlight;
use crate::tables::load::Running;
use crate::worker::{Pinned, Worker};

/// Kept connections asked in one sweep whether they are still good.
const ASKED_PER_SWEEP: usize = 256;

/// A connection to an endpoint.
pub struct Connection {
    pub wire: Wire,
    identity: Identity,
    born_ms: u64,
    /// It has served before: the service may have closed it meanwhile.
    pub reused: bool,
}

impl Connection {
    /// Opens a connection under the guard of an exchange. The error is safe to retry: nothing was sent.
    pub async fn open(identity: &Identity, guard: &Guard, wait_ms: u64) -> Result<Connection, ConnectError> {
        guard.arm(wait_ms, Cause::Connect);
        let result = select(Socket::connect(&identity.peer), guard.over()).await;
        guard.disarm();
        let socket = match result {
            Either::Left(Ok(socket)) => socket,
            Either::Left(Err(error)) => return Err(ConnectError::Failed(error)),
            Either::Right(cause) => return Err(ConnectError::Over(cause)),
        };
        Ok(Connection { wire: Wire::plain(socket), identity: identity.clone(), born_ms: now_ms(), reused: false })
    }
}

/// An endpoint of the upstream of this `index` that takes one more request, rather none of those that were `tried`, and the one `key` belongs to ([`Endpoints::key`](crate::balance::Endpoints::key)). Those that
/// do not are added to them.
pub fn pick(
    worker: &Worker,
    pinned: &Pinned,
    index: usize,
    key: Option<u64>,
    tried: &mut Vec<Arc<Endpoint>>,
) -> Result<(Arc<Endpoint>, InFlight), Refusal> {
    let (upstream, endpoints) = (&pinned.snapshot.upstreams[index], &pinned.snapshot.endpoints[index]);
    // When all were tried they come in turn again: two rounds meet each of them.
    for _ in 0..(2 * endpoints.list().len()).clamp(1, ENDPOINT_PICKS_MAX) {
        let lot = worker.ids.borrow_mut().next_u64();
        let asking = Asking { cursor: &pinned.cursors[index], tried, lot, key, now_ms: now_ms() };
        let endpoint = endpoints.pick(&asking).ok_or(Refusal::NoEndpoint)?.clone();
        let running = match upstream.limits.endpoint_requests_max {
            None => Some(endpoint.state.begin()),
            Some(max) => endpoint.state.begin_within(max),
        };
        match running {
            Some(running) => return Ok((endpoint, running)),
            None => tried.push(endpoint),
        }
    }
    upstream.series.core(worker.id).endpoints_overloaded.inc();
    Err(Refusal::UpstreamOverloaded)
}

/// A place among the requests that run at the upstream of this `index`, where their number is bounded.
pub fn enter(worker: &Worker, pinned: &Pinned, index: usize) -> Result<Option<Running>, Refusal> {
    let upstream = &pinned.snapshot.upstreams[index];
    let Some(max) = upstream.limits.requests_max else { return Ok(None) };
    let running = pinned.snapshot.loads[index].begin(max);
    if running.is_none() {
        upstream.series.core(worker.id).overloaded.inc();
        return Err(Refusal::UpstreamOverloaded);
    }
    Ok(running)
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    Failed(std::io::Error),
    /// The wait, or the exchange as a whole, is over.
    Over(Cause),
}

impl ConnectError {
    pub fn refusal(&self) -> Refusal {
        match self {
            ConnectError::Failed(_) => Refusal::UpstreamConnectFailed,
            ConnectError::Over(Cause::Connect) => Refusal::UpstreamConnectTimeout,
            ConnectError::Over(Cause::ClientGone) => Refusal::ClientGone,
            ConnectError::Over(_) => Refusal::UpstreamTotalTimeout,
        }
    }
}

/// Idle connections of one worker, newest last, by what must be equal for one to be used again.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<HashMap<Identity, Vec<Idle>, BuildHasherDefault<Prehashed>>>,
    count: Cell<usize>,
    present: RefCell<departed::Present>,
}

struct Idle {
    wire: Wire,
    born_ms: u64,
    /// When it was last known to be good.
    good_ms: u64,
    expires_ms: u64,
}

impl Pool {
    /// A kept connection. One that idled for longer than a tick is asked first whether its peer closed it.
    pub fn take(&self, identity: &Identity) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(identity)?;
        let now = now_ms();
        while let Some(candidate) = kept.pop() {
            self.count.set(self.count.get() - 1);
            let good = candidate.expires_ms > now && (candidate.good_ms + TICK_MS >= now || candidate.wire.is_quiet());
            if good {
                return Some(Connection {
                    wire: candidate.wire,
                    identity: identity.clone(),
                    born_ms: candidate.born_ms,
                    reused: true,
                });
            }
        }
        None
    }

    /// Keeps a connection whose last exchange is complete. Beyond the bound it is closed.
    pub fn put(&self, connection: Connection, settings: PoolSettings) {
        let now = now_ms();
        let expires_ms = (connection.born_ms.saturating_add(settings.age_ms)).min(now.saturating_add(settings.idle_ms));
        let mut idle = self.idle.borrow_mut();
        // The key is cloned for the first connection to an endpoint only.
        if !idle.contains_key(&connection.identity) {
            idle.insert(connection.identity.clone(), Vec::new());
        }
        let kept = idle.get_mut(&connection.identity).expect("inserted above");
        if kept.len() < settings.idle_max && expires_ms > now {
            self.present.borrow_mut().see(&connection.identity);
            kept.push(Idle { wire: connection.wire, born_ms: connection.born_ms, good_ms: now, expires_ms });
            self.count.set(self.count.get() + 1);
        }
    }

    /// Closes what is too old, and what its peer closed. Called by the worker's sweep.
    pub fn sweep(&self) {
        let now = now_ms();
        let mut asked = 0;
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, kept| {
            kept.retain_mut(|candidate| {
                if candidate.expires_ms <= now {
                    return false;
                }
                if candidate.good_ms + 4 * TICK_MS >= now || asked == ASKED_PER_SWEEP {
                    return true;
                }
                asked += 1;
                candidate.good_ms = now;
                candidate.wire.is_quiet()
            });
            !kept.is_empty()
        });
        self.count.set(idle.values().map(Vec::len).sum());
    }

    /// Closes all of them.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.count.set(0);
    }

    pub fn len(&self) -> usize {
        self.count.get()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
