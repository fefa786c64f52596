//! What the filter chain asks of an exchange: a look at it, its whole body, time, work elsewhere.

use std::rc::Rc;

use bytes::Bytes;
use http1::Known;

use super::{Exchange, Expectation, facts};
use crate::balance::Endpoint;
use crate::filter::{self, Context, Output};
use crate::limits::OFFLOAD_WAIT_MS;
use crate::proxy::body::Body;
use crate::proxy::head::ResponseHead;
use crate::proxy::relay;
use crate::refusal::{Party, Refusal};
use crate::rt::deadline::{Cause, now_ms, now_us};
use crate::rt::{Either, select};
use crate::snapshot::Upstream;
use crate::worker::{Pinned, outcome_of_refusal};

impl Exchange<'_> {
    /// The snapshot this exchange runs under, for who outlives it.
    pub fn pinned(&self) -> Rc<Pinned> {
        self.pinned.clone()
    }

    /// What a filter sees.
    pub fn context(&mut self) -> Context<'_> {
        Context {
            request: &mut self.head,
            facts: facts(&self.client, &self.request_id, self.route, self.scheme, self.tls),
            kept: &mut self.kept,
        }
    }

    /// Takes in what a failed attempt says about its endpoint.
    pub(super) fn judge(&self, upstream: &Upstream, endpoint: &Endpoint, refusal: Refusal) {
        let waited_for_it = self.body.ended() && !self.answer.started();
        self.worker.judge(upstream, endpoint, outcome_of_refusal(refusal, waited_for_it));
        match refusal {
            // It was too slow for the client, who can be as patient as he likes: at least so long it would have taken.
            Refusal::ClientGone if self.seen.sent_us > 0 && !self.answer.started() => {
                let now_us = now_us();
                endpoint.state.awaited(now_us.saturating_sub(self.seen.sent_us), now_us / 1000);
            }
            refusal if refusal.party() == Party::Upstream => endpoint.state.failed(now_ms()),
            _ => {}
        }
    }

    /// Puts the decoder that a filter has left in front of the body. The route's bound on bodies holds for what comes out
    /// of it, too.
    pub(super) fn decode_body(&mut self) {
        let Some(mut decoder) = self.kept.decoder.take() else { return };
        decoder.bound(self.route.map_or(0, |route| route.body_bytes_max));
        // What follows a switch of protocols is no content.
        if !self.hop.websocket {
            let body = std::mem::replace(&mut self.body, Body::held(None));
            self.body = body.decoded(*decoder);
        }
    }

    /// Holds the whole request body for a filter.
    pub async fn hold_body(&mut self, bytes_max: usize) -> Result<Bytes, Refusal> {
        if self.expectation == Expectation::Continue && !self.body.ended() {
            // A filter wants the body, so it is us who say go on; the upstream is not asked any more.
            self.answer.interim(&ResponseHead::new(100)).await.map_err(|_| Refusal::ClientGone)?;
            self.expectation = Expectation::Nothing;
        }
        self.head.fields.remove_known(Known::Expect);
        if self.body.ended() && !matches!(self.body, Body::Held { .. } | Body::Decoded(_)) {
            // There is none: it stays what it is, a GET that may become a tunnel, or a POST that says nothing of a length.
            return Ok(Bytes::new());
        }
        self.decode_body();
        self.body.collect(bytes_max).await.map_err(|error| {
            let failure = relay::client_failure(error);
            self.seen.detail = failure.detail;
            failure.refusal
        })
    }

    /// Waits for `work` unless the exchange is over before.
    pub async fn until_over<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Refusal> {
        match select(work, self.guard.over()).await {
            Either::Left(output) => Ok(output),
            Either::Right(Cause::ClientGone) => Err(Refusal::ClientGone),
            Either::Right(_) => Err(Refusal::UpstreamTotalTimeout),
        }
    }

    /// Waits `wait_ms`, unless the exchange is over before.
    pub async fn pause(&mut self, wait_ms: u64) -> Result<(), Refusal> {
        self.until_over(crate::rt::sleep(std::time::Duration::from_millis(wait_ms))).await
    }

    /// Has `job` done by the pool. `None`: the pool is full or late.
    pub async fn offload(&mut self, job: filter::Job) -> Result<Option<Output>, Refusal> {
        let Some(ticket) = self.worker.offload(job) else {
            self.worker.core().desk_full.inc();
            return Ok(None);
        };
        self.guard.arm(OFFLOAD_WAIT_MS, Cause::Pause);
        let done = select(ticket.done(), self.guard.over()).await;
        self.guard.disarm();
        match done {
            Either::Left(output) => Ok(output),
            Either::Right(Cause::Pause) => {
                self.worker.core().desk_late.inc();
                Ok(None)
            }
            Either::Right(Cause::ClientGone) => Err(Refusal::ClientGone),
            Either::Right(_) => Err(Refusal::UpstreamTotalTimeout),
        }
    }
}
