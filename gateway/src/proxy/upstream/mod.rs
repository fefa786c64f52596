//! Connections to services: opening, keeping and reusing them. Each worker has its own.
//!
//! Whichever HTTP a service speaks, a request goes by a [`Channel`]: a connection of its own ([`pool`]) or a stream on one that
//! it shares ([`h2`]). How it is sent and answered there is [`call`].

pub mod call;
mod departed;
pub mod h1;
pub mod h2;
pub mod pool;
mod reach;

use std::sync::Arc;

pub use self::call::Channel;
pub use self::pool::{Connection, Opened, Pool};
pub use self::reach::{Reached, Reaching, reach};
use crate::balance::{Asking, Destination, Endpoint};
use crate::limits::ENDPOINT_PICKS_MAX;
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, now_ms};
use crate::tables::health::InFlight;
use crate::tables::load::Running;
use crate::tls::NoAgreement;
use crate::worker::{Pinned, Worker};

/// Where a request is to go.
#[derive(Clone, Copy)]
pub struct Aim {
    pub to: Destination,
    /// What it has in common with others, [`Endpoints::key`](crate::balance::Endpoints::key).
    pub key: Option<u64>,
    /// The endpoint it is to stay with, as an index.
    pub held: Option<u16>,
}

/// An endpoint for `aim` that takes one more request, rather none of those that were `tried`. Those that do not are added to
/// them.
pub fn pick(
    worker: &Worker,
    pinned: &Pinned,
    aim: Aim,
    tried: &mut Vec<Arc<Endpoint>>,
) -> Result<(Arc<Endpoint>, InFlight), Refusal> {
    let Aim { to: Destination { upstream: index, subset }, key, held } = aim;
    let (upstream, endpoints) = (&pinned.snapshot.upstreams[index], pinned.snapshot.endpoints[index].of(subset));
    // When all were tried they come in turn again: two rounds meet each of them.
    for _ in 0..(2 * endpoints.list().len()).clamp(1, ENDPOINT_PICKS_MAX) {
        let lot = worker.ids.borrow_mut().next_u64();
        let asking =
            Asking { cursor: &pinned.cursors[index][usize::from(subset)], tried, lot, key, held, now_ms: now_ms() };
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

    /// The same, for another one who waits for the same connection.
    pub fn again(&self) -> ConnectError {
        match self {
            ConnectError::Failed(error) => ConnectError::Failed(std::io::Error::new(error.kind(), error.to_string())),
            ConnectError::Tls(error) => ConnectError::Tls(error.clone()),
            ConnectError::Over(cause) => ConnectError::Over(*cause),
        }
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
