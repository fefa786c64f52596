//! The answer's way back: framing decided, fields struck, filters in reverse, then piece by piece to the client.
//!
//! Apart from the exchange because the request's body may still be on its way up meanwhile: this holds everything else.

use bytes::Bytes;
use http1::{Known, Method};

use super::answer::Answer;
use super::body::Length;
use super::error_page::{Told, choose, pages};
use super::forward;
use super::head::{RequestHead, ResponseHead};
use super::relay::{self, Failure, Headed};
use super::replay::Replay;
use super::retry::{self, Later, Missed, Tries};
use super::sticky::Affinity;
use super::upstream::h1;
use super::websocket::Accept;
use super::wire::{Wait, WireReader};
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
    pub repeating: Option<Repeating<'e, 'r>>,
}

impl Repeating<'_, '_> {
    /// Whether the request is sent again instead of this answer, and after how many milliseconds.
    fn after(&mut self, head: &ResponseHead, uploaded: bool, worker: &Worker) -> Option<(retry::Cause, u64)> {
        let cause = retry::Cause::Status(head.status);
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
        reader: &mut WireReader,
        answer: &mut Answer<'_>,
        uploaded: bool,
    ) -> Result<Done, Failure> {
        let Headed { received, first_byte_us } = headed;
        self.first_byte_us = first_byte_us.max(self.sent_us);
        self.status = received.head.status;
        if let Some(endpoint) = self.endpoint {
            let took_us = self.first_byte_us - self.sent_us;
            endpoint.state.answered(received.head.status, took_us, self.first_byte_us / 1000);
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
        let (mut body, mut length, reusable) = relay::framed(&received, method)?;
        let h1::Received { mut head, line, options } = received;
        if let Some(repeating) = &mut self.repeating
            && let Some((cause, wait_ms)) = repeating.after(&head, uploaded, self.worker)
        {
            if let Some(rest) = h1::take_rest(&mut head, &line) {
                body.feed(rest);
            }
            // What is here of the answer is passed over; more of it is not waited for.
            while let Ok(Some(_)) = body.next_buffered() {}
            let reusable = reusable && body.ended() && body.take_carry().is_none();
            return Ok(Done::Again { cause, wait_ms, reusable });
        }
        forward::response(&mut head, &options, self.settings.via(line.version.into()));
        if head.status >= 400
            && let Some(page) = choose(pages(self.route, self.settings), head.status, &self.request.fields, true)
        {
            let told = Told::of_upstream(head.status, self.facts.request_id);
            let own = page.dress(&mut head.fields, &told);
            // Nothing more of this answer is read, so only one that had no body leaves a connection that can be used again.
            let clean = reusable && body.ended() && head.fields.arena().len() <= line.head_bytes;
            return self.answer_with(head, own, clean, uploaded, answer).await;
        }
        self.way_back(&mut head);
        if !self.kept.transforms.is_empty() && length != Length::Absent {
            length = Length::Unknown;
        }
        if !uploaded || self.worker.draining() || self.listener.is_closed() {
            answer.close_after();
        }
        answer.head(&head, length);
        if options.lists_fields {
            answer.withhold_trailers(head.fields.listed().names());
        }
        if let Some(rest) = h1::take_rest(&mut head, &line) {
            body.feed(rest);
        }
        let idle = Wait { ms: self.timeouts.idle, cause: Cause::Idle };
        relay::download(&mut body, reader, answer, &mut self.kept.transforms, idle).await?;
        // Bytes behind the answer were not asked for: whatever they are, the next exchange must not see them.
        Ok(Done::Answered { reusable: reusable && body.take_carry().is_none() })
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

    async fn switch(&mut self, received: h1::Received, answer: &mut Answer<'_>) -> Result<Done, Failure> {
        let h1::Received { mut head, line, options } = received;
        let protocol = head.fields.first(Known::Upgrade);
        let agreed = self.websocket
            && options.upgrade
            && protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
            && self.kept.of::<Accept>().is_none_or(|accept| accept.is(head.fields.get(b"sec-websocket-accept")));
        if !agreed {
            return Err(mismatch("a 101 that was not asked for"));
        }
        forward::response(&mut head, &options, self.settings.via(line.version.into()));
        self.way_back(&mut head);
        answer.switch(&head, b"websocket");
        let carry = h1::take_rest(&mut head, &line);
        answer.flush().await.map_err(relay::answer_failure)?;
        Ok(Done::Switched { carry })
    }
}

fn mismatch(detail: &str) -> Failure {
    Failure { refusal: Refusal::UpgradeMismatch, detail: detail.to_owned(), unanswered: false }
}
