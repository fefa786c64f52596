//! What is counted of an upstream: by each worker of what it sends, by the control side of who is well.

use super::{Counter, Gauge, Parts};
use crate::balance::Distance;
use crate::observe::histogram::Histogram;
use crate::proxy::retry::{self, Denied};
use crate::proxy::upstream::{ConnectError, Reached};
use crate::refusal::Refusal;
use crate::tables::health::Cause;
use crate::tables::health::record::Standing;
use crate::tls::Reason;

/// One worker's part of an upstream.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct UpstreamCore {
    /// Requests sent, each retry counted again.
    pub requests: Counter,
    /// The same by how far away they went, [`Distance`]; where the gateway does not know none are counted.
    pub by_distance: [Counter; Distance::ALL.len()],
    /// Connections opened.
    pub connects: Counter,
    /// Connections that could not be opened, or not in time.
    pub connect_failures: Counter,
    /// TLS handshakes with its endpoints.
    pub handshakes_full: Counter,
    /// TLS handshakes of which the endpoint remembered an earlier one.
    pub handshakes_resumed: Counter,
    /// TLS handshakes that came to nothing, in the order of [`Reason::ALL`].
    pub handshakes_failed: [Counter; Reason::ALL.len()],
    /// Requests sent on a connection that had served one before.
    pub reused: Counter,
    /// Requests sent again, by [`retry::Cause::index`].
    pub retries: [Counter; retry::Cause::LABELS.len()],
    /// Requests that had all their attempts.
    pub retries_exhausted: Counter,
    /// Requests that the budget left no further attempt.
    pub retries_over_budget: Counter,
    /// Requests refused because as many ran as may.
    pub overloaded: Counter,
    /// Requests refused because as many ran at every endpoint asked as may.
    pub endpoints_overloaded: Counter,
    /// Kept connections that turned out to be closed by the upstream when they were used.
    pub stale_connections: Counter,
    /// Answers, by what the request brought with it: no cookie that says where it belongs,
    pub sessions_none: Counter,
    /// one that is not ours, or not good any more,
    pub sessions_unknown: Counter,
    /// that of the endpoint that answered,
    pub sessions_kept: Counter,
    /// that of another one.
    pub sessions_moved: Counter,
    /// From the request sent to the first byte of the answer.
    pub first_byte: Histogram,
}

impl UpstreamCore {
    /// Counts a request that is sent to an endpoint so far away.
    #[inline]
    pub fn sent(&self, distance: Option<Distance>) {
        self.requests.inc();
        if let Some(distance) = distance {
            self.by_distance[distance as usize].inc();
        }
    }

    /// Counts what reaching an endpoint came to.
    pub fn reached(&self, reached: &Result<Reached, ConnectError>) {
        match reached {
            Ok((_, None)) => self.reused.inc(),
            Ok((_, Some(opened))) => {
                self.connects.inc();
                match opened.resumed {
                    Some(true) => self.handshakes_resumed.inc(),
                    Some(false) => self.handshakes_full.inc(),
                    None => {}
                }
            }
            Err(error) => {
                self.connect_failures.inc();
                if let ConnectError::Tls(error) = error {
                    self.handshakes_failed[error.reason as usize].inc();
                }
            }
        }
    }

    /// Counts what an attempt on an open connection failed for, as far as that is counted: a service says what it thinks of
    /// our certificate when an answer is awaited already.
    pub fn failed(&self, refusal: Refusal) {
        if refusal == Refusal::UpstreamTlsFailed {
            self.handshakes_failed[Reason::ClientCertificate as usize].inc();
        }
    }

    /// Counts why a request was not sent again, as far as that is counted.
    pub fn denied(&self, denied: Option<Denied>) {
        match denied {
            Some(Denied::Attempts) => self.retries_exhausted.inc(),
            Some(Denied::Budget) => self.retries_over_budget.inc(),
            Some(Denied::Method | Denied::Body | Denied::Pause) | None => {}
        }
    }
}

/// What is counted for an upstream.
#[derive(Debug)]
pub struct UpstreamSeries {
    parts: Parts<UpstreamCore>,
    pub health: UpstreamHealth,
}

/// What the control side alone counts of an upstream.
#[derive(Debug, Default)]
pub struct UpstreamHealth {
    /// Endpoints by how they stand, in the order of [`Standing::ALL`].
    pub endpoints: [Gauge; Standing::ALL.len()],
    /// In the order of [`Cause::ALL`].
    pub ejections: [Counter; Cause::ALL.len()],
    /// Ejections there was no room for.
    pub ejections_refused: Counter,
    /// In the order of [`CheckOutcome::ALL`].
    pub checks: [Counter; CheckOutcome::ALL.len()],
}

/// What a health check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    Passed,
    /// Answered with another status than is expected.
    Status,
    /// What it sent is no HTTP.
    Malformed,
    /// It cannot be connected to.
    Connect,
    /// It is not who it must be, or TLS was not agreed on.
    Tls,
    /// It hung up before it had answered.
    Closed,
    Timeout,
    /// This host had no descriptor, memory or port for it: says nothing about the endpoint.
    NotMade,
}

impl CheckOutcome {
    pub const ALL: [CheckOutcome; 8] = [
        CheckOutcome::Passed,
        CheckOutcome::Status,
        CheckOutcome::Malformed,
        CheckOutcome::Connect,
        CheckOutcome::Tls,
        CheckOutcome::Closed,
        CheckOutcome::Timeout,
        CheckOutcome::NotMade,
    ];

    pub fn name(self) -> &'static str {
        match self {
            CheckOutcome::Passed => "passed",
            CheckOutcome::Status => "status",
            CheckOutcome::Malformed => "malformed",
            CheckOutcome::Connect => "connect",
            CheckOutcome::Tls => "tls",
            CheckOutcome::Closed => "closed",
            CheckOutcome::Timeout => "timeout",
            CheckOutcome::NotMade => "not_made",
        }
    }
}

impl UpstreamHealth {
    pub fn check(&self, outcome: CheckOutcome) -> &Counter {
        &self.checks[outcome as usize]
    }

    pub fn ejection(&self, cause: Cause) -> &Counter {
        &self.ejections[cause as usize]
    }
}

impl UpstreamSeries {
    pub(super) fn new(workers_max: usize) -> UpstreamSeries {
        UpstreamSeries { parts: Parts::new(workers_max), health: UpstreamHealth::default() }
    }

    /// The part that only `worker` writes.
    #[inline]
    pub fn core(&self, worker: usize) -> &UpstreamCore {
        self.parts.of(worker, UpstreamCore::default)
    }

    pub(in crate::observe) fn cores(&self) -> impl Iterator<Item = &UpstreamCore> {
        self.parts.all().map(|(_, core)| core)
    }
}
