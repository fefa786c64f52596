//! Connections to services: opening, keeping and reusing them. Each worker has its own.

pub mod h1;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::wire::{Wait, Wire};
use crate::balance::{Asking, Endpoint, Http, Identity, Prehashed};
use crate::limits::{ENDPOINT_PICKS_MAX, TICK_MS};
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, Guard, now_ms};
use crate::rt::{Either, Socket, select};
use crate::snapshot::PoolSettings;
use crate::tables::health::InFlight;
use crate::tables::load::Running;
use crate::tls::{Agreed, NoAgreement, Service};
use crate::worker::{Pinned, Worker};

/// Kept connections asked in one sweep whether they are still good.
const ASKED_PER_SWEEP: usize = 256;

/// A connection to an endpoint.
pub struct Connection {
    pub wire: Wire,
    /// What is spoken on it.
    pub http: Http,
    /// By a ticket of an earlier handshake; `None`: without TLS.
    pub resumed: Option<bool>,
    identity: Identity,
    born_ms: u64,
    /// It has served before: the service may have closed it meanwhile.
    pub reused: bool,
}

impl Connection {
    /// Opens a connection under the guard of an exchange. The error is safe to retry: nothing was sent.
    pub async fn open(identity: &Identity, guard: &Guard, wait_ms: u64) -> Result<Connection, ConnectError> {
        let begun_ms = now_ms();
        let mut is_again = false;
        loop {
            let left_ms = wait_ms.saturating_sub(now_ms() - begun_ms).max(1);
            guard.arm(left_ms, Cause::Connect);
            let result = select(Socket::connect(&identity.peer), guard.over()).await;
            guard.disarm();
            let mut wire = match result {
                Either::Left(Ok(socket)) => Wire::plain(socket),
                Either::Left(Err(error)) => return Err(ConnectError::Failed(error)),
                Either::Right(cause) => return Err(ConnectError::Over(cause)),
            };
            let (mut http, mut resumed) = (identity.link.http, None);
            if let Some(service) = &identity.link.tls {
                let ms = wait_ms.saturating_sub(now_ms() - begun_ms).max(1);
                match Box::pin(secure(&mut wire, service, guard, ms)).await {
                    Ok(agreed) => {
                        http = if agreed.http2 { Http::Two } else { Http::One };
                        resumed = Some(agreed.resumed);
                    }
                    // What was remembered of the service is good no more: once without that.
                    Err(ConnectError::Tls(NoAgreement { is_stale: true, .. })) if !is_again => {
                        is_again = true;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let (identity, born_ms) = (identity.clone(), now_ms());
            return Ok(Connection { wire, http, resumed, identity, born_ms, reused: false });
        }
    }
}

/// Agrees on TLS with a service, in at most `ms`.
async fn secure(wire: &mut Wire, service: &Service, guard: &Guard, ms: u64) -> Result<Agreed, ConnectError> {
    if let Some(cause) = guard.fired() {
        return Err(ConnectError::Over(cause));
    }
    guard.attach(Some(wire.fd()));
    let done = wire.connect_tls(service, Wait { ms, cause: Cause::Connect }).await;
    guard.attach(None);
    done.map_err(|error| match guard.fired().or(wire.fired()) {
        Some(cause) => ConnectError::Over(cause),
        None => ConnectError::Tls(error),
    })
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
    /// It was opened, and TLS not agreed on.
    Tls(NoAgreement),
    /// The wait, or the exchange as a whole, is over.
    Over(Cause),
}

impl ConnectError {
    /// What we saw, for the log.
    pub fn detail(self) -> Option<String> {
        match self {
            ConnectError::Failed(error) => Some(error.to_string()),
            ConnectError::Tls(error) => Some(error.detail),
            ConnectError::Over(_) => None,
        }
    }

    /// Whether the endpoint turned us away, so that another one may be asked at once: no time was lost.
    pub fn is_refused(&self) -> bool {
        matches!(self, ConnectError::Failed(_) | ConnectError::Tls(_))
    }

    pub fn refusal(&self) -> Refusal {
        match self {
            ConnectError::Failed(_) => Refusal::UpstreamConnectFailed,
            ConnectError::Tls(_) => Refusal::UpstreamTlsFailed,
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
}

struct Idle {
    wire: Wire,
    http: Http,
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
                    http: candidate.http,
                    resumed: None,
                    identity: identity.clone(),
                    born_ms: candidate.born_ms,
                    reused: true,
                });
            }
        }
        None
    }

    /// Keeps a connection whose last exchange is complete. Beyond the bound it is closed, and when something came behind the
    /// answer that the next exchange would take for its own.
    pub fn put(&self, connection: Connection, settings: PoolSettings) {
        if !connection.wire.has_no_rest() {
            return;
        }
        let now = now_ms();
        let expires_ms = (connection.born_ms.saturating_add(settings.age_ms)).min(now.saturating_add(settings.idle_ms));
        let mut idle = self.idle.borrow_mut();
        // The key is cloned for the first connection to an endpoint only.
        if !idle.contains_key(&connection.identity) {
            idle.insert(connection.identity.clone(), Vec::new());
        }
        let kept = idle.get_mut(&connection.identity).expect("inserted above");
        if kept.len() < settings.idle_max && expires_ms > now {
            let Connection { wire, http, born_ms, .. } = connection;
            kept.push(Idle { wire, http, born_ms, good_ms: now, expires_ms });
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
