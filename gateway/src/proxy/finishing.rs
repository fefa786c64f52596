//! The answer's way back: framing decided, fields struck, filters in reverse, then piece by piece to the client.
//!
//! Apart from the exchange because the request's body may still be on its way up meanwhile: this holds everything else.

use bytes::Bytes;
use http1::{Known, Method};

use super::answer::Answer;
use super::body::Length;
use super::error_page::{Told, choose, pages};
use super::forward;
use super::grpc;
use super::head::{RequestHead, ResponseHead};
use super::relay::{self, Failure, Headed};
use super::replay::Replay;
use super::retry::{self, Later, Missed, Tries};
use super::sticky::Affinity;
use super::upstream::call::{Down, Received};
use super::websocket::Accept;
use super::wire::Wait;
use crate::balance::Endpoint;
use crate::filter::{Context, Facts, Kept};
use crate::observe::metrics::UpstreamCore;
use crate::refusal::Refusal;
use crate::rt::Buf;
use crate::rt::deadline::{Cause, Guard, now_us};
use crate::snapshot::{Listener, Route, Settings, UpstreamTimeouts};
use crate::worker::Worker;

/// What an attempt ended in.
pub enum Done {
    Answered {
        reusable: bool,
    },
    /// Nothing went to the client: the request is to be sent again after a pause.
    Again {
        cause: retry::Cause,
        wait_ms: u64,
        reusable: bool,
    },
    /// The protocol was switched; what the upstream sent behind its head.
    Switched {
        carry: Option<Buf>,
    },
}

/// What it takes to send the request again instead of passing its answer on.
pub struct Repeating<'e, 'r> {
    pub tries: &'e mut Tries<'r>,
    pub replay: &'e Replay,
    /// Of the whole exchange, made so far.
    pub attempts: u32,
    pub settles: bool,
    pub guard: &'e Guard,
}

/// What the answer's way back needs, apart from the body that may still be on its way up.
pub struct Finishing<'e, 'r> {
    pub request: &'e mut RequestHead,
    pub facts: Facts<'e>,
    pub kept: &'e mut Kept,
    pub route: Option<&'e Route>,
    pub settings: &'e Settings,
    pub worker: &'e Worker,
    pub listener: &'e Listener,
    pub websocket: bool,
    pub timeouts: UpstreamTimeouts,
    /// Who answers.
    pub endpoint: Option<&'e Endpoint>,
    pub affinity: Option<&'e Affinity<'e>>,
    pub series: &'e UpstreamCore,
    pub sent_us: u64,
    pub first_byte_us: u64,
    /// What the upstream answered with, whatever the client is sent.
    pub status: u16,
    /// The client speaks gRPC.
    pub is_grpc: bool,
    /// How its call went.
    pub grpc: Option<grpc::Status>,
    pub repeating: Option<Repeating<'e, 'r>>,
}

impl Repeating<'_, '_> {
    /// Whether the request is sent again instead of this answer, and after how many milliseconds.
    fn after(
        &mut self,
        head: &ResponseHead,
        grpc: Option<grpc::Status>,
        uploaded: bool,
        worker: &Worker,
    ) -> Option<(retry::Cause, u64)> {
        let cause = grpc.map_or(retry::Cause::Status(head.status), retry::Cause::Grpc);
        if !self.tries.retry().wants(cause) {
            return None;
        }
        let missed = Missed {
            cause,
            retry_after: Later::of(head.status, &head.fields),
            replayable: self.replay.is_whole(uploaded || self.settles),
            left_ms: self.guard.left(),
            lot: worker.ids.borrow_mut().next_u64(),
            now_us: now_us(),
        };
        self.tries.repeat(self.attempts, &missed).map(|wait_ms| (cause, wait_ms))
    }
}

impl Finishing<'_, '_> {
    /// Passes the upstream's answer to the client. `uploaded`: nothing of the request is on its way any more.
    pub async fn answer(
        &mut self,
        headed: Headed,
        down: &mut Down<'_>,
        answer: &mut Answer<'_>,
        uploaded: bool,
    ) -> Result<Done, Failure> {
        let Headed { mut received, first_byte_us } = headed;
        self.first_byte_us = first_byte_us.max(self.sent_us);
        self.status = received.head.status;
        if self.is_grpc {
            self.grpc = grpc::Status::in_head(&received.head.fields);
        }
        if let Some(endpoint) = self.endpoint {
            let took_us = self.first_byte_us - self.sent_us;
            let status = self.grpc.map_or(self.status, grpc::Status::as_http);
            endpoint.state.answered(status, took_us, self.first_byte_us / 1000);
        }
        if received.head.status == 101 {
            return self.switch(received, answer).await;
        }
        // Whoever asked by a CONNECT would take it for the tunnel (RFC 8441 §5).
        if (200..300).contains(&received.head.status) && self.kept.of::<Accept>().is_some() {
            return Err(mismatch("an answer that succeeds and switches nothing"));
        }
        let method = self.request.method;
        // The body ends as the received head says, whatever filters write into it: decided first, and once.
        let idle = Wait { ms: self.timeouts.idle, cause: Cause::Idle };
        let (mut source, mut length, reusable) = received.source(method, idle).map_err(relay::malformed)?;
        if let Some(repeating) = &mut self.repeating
            && let Some((cause, wait_ms)) = repeating.after(&received.head, self.grpc, uploaded, self.worker)
        {
            source.feed(received.take_rest());
            // What is here of the answer is passed over; more of it is not waited for.
            source.skip_buffered();
            return Ok(Done::Again { cause, wait_ms, reusable: reusable && source.is_clean() });
        }
        // Nothing more of an answer in whose place another is given is read, so only one that had no body leaves a connection
        // that can be used again.
        let clean = reusable && source.ended() && received.is_bare();
        let Received { head, options, protocol, .. } = &mut received;
        forward::response(head, options, self.settings.via(*protocol));
        if head.status >= 400
            && let Some(page) = choose(pages(self.route, self.settings), head.status, &self.request.fields, true)
        {
            let told = Told::of_upstream(head.status, self.facts.request_id);
            let own = page.dress(&mut head.fields, &told);
            return self.answer_with(received.head, own, clean, uploaded, answer).await;
        }
        self.way_back(head);
        if !self.kept.transforms.is_empty() && length != Length::Absent {
            length = Length::Unknown;
        }
        if !uploaded || self.worker.draining() || self.listener.is_closed() {
            answer.close_after();
        }
        answer.head(head, length);
        if options.lists_fields {
            answer.withhold_trailers(head.fields.listed().names());
        }
        source.feed(received.take_rest());
        relay::download(source.body(down, idle), answer, &mut self.kept.transforms).await?;
        if self.is_grpc && self.grpc.is_none() {
            self.grpc = source.trailers().and_then(|(bytes, fields)| grpc::Status::in_trailers(bytes, fields));
        }
        Ok(Done::Answered { reusable: reusable && source.is_clean() })
    }

    /// Walks the answer's head back through all filters. The cookie that keeps the client with its endpoint comes last: it is
    /// this client's alone, whatever becomes of the answer before.
    fn way_back(&mut self, head: &mut ResponseHead) {
        if let Some(route) = self.route {
            let Finishing { request, facts, kept, .. } = self;
            let mut context = Context { request, facts: *facts, kept };
            route.chain.response(&mut context, head, route.chain.len());
        }
        if let (Some(affinity), Some(endpoint)) = (self.affinity, self.endpoint) {
            affinity.tell(endpoint, self.facts.scheme, head, self.series);
        }
    }

    /// Answers with a page of the operator's in place of the upstream's body, of which nothing more is read.
    async fn answer_with(
        &mut self,
        mut head: ResponseHead,
        own: Bytes,
        reusable: bool,
        uploaded: bool,
        answer: &mut Answer<'_>,
    ) -> Result<Done, Failure> {
        // For filters and for HEAD; on the wire it is decided when the answer is framed.
        head.fields.set(b"content-length", itoa::Buffer::new().format(own.len()).as_bytes());
        self.way_back(&mut head);
        if !uploaded || self.worker.draining() || self.listener.is_closed() {
            answer.close_after();
        }
        let transforms = &mut self.kept.transforms;
        let length = if transforms.is_empty() { Length::Exact(own.len() as u64) } else { Length::Unknown };
        answer.head(&head, length);
        let sent = match self.request.method {
            Method::Head => answer.end(None, None).await,
            _ => relay::send_whole(own, answer, transforms).await,
        };
        sent.map_err(relay::answer_failure)?;
        Ok(Done::Answered { reusable })
    }

    async fn switch(&mut self, mut received: Received, answer: &mut Answer<'_>) -> Result<Done, Failure> {
        let Received { head, options, protocol: via, .. } = &mut received;
        let protocol = head.fields.first(Known::Upgrade);
        let agreed = self.websocket
            && options.upgrade
            && protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
            && self.kept.of::<Accept>().is_none_or(|accept| accept.is(head.fields.get(b"sec-websocket-accept")));
        if !agreed {
            return Err(mismatch("a 101 that was not asked for"));
        }
        forward::response(head, options, self.settings.via(*via));
        self.way_back(head);
        answer.switch(head, b"websocket");
        let carry = received.take_rest();
        answer.flush().await.map_err(relay::answer_failure)?;
        Ok(Done::Switched { carry })
    }
}

fn mismatch(detail: &str) -> Failure {
    Failure::new(Refusal::UpgradeMismatch, detail)
}
