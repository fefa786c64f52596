//! Answers of our own: those of filters and routes, refusals, and the operator's pages in their place.

use bytes::Bytes;
use http1::{Known, Method};

use super::Exchange;
use crate::proxy::body::Length;
use crate::proxy::error_page::{self, Told};
use crate::proxy::head::ResponseHead;
use crate::proxy::{grpc, relay, reply};
use crate::refusal::Refusal;
use crate::route::action::Action;
use crate::snapshot::Route;

impl Exchange<'_> {
    /// Answers as the route itself says.
    pub(super) async fn answer_own(&mut self, route: &Route, action: &Action) -> Result<(), Refusal> {
        let (head, body) = match action {
            Action::Redirect(redirect) => redirect.answer(&self.context())?,
            Action::Respond(respond) => respond.answer(),
            Action::Upstream(_) | Action::Split(_) => unreachable!("answered by their upstream"),
        };
        self.answer_through(route, route.chain.len(), head, body).await;
        Ok(())
    }

    /// Sends an answer of our own back through the first `passed` filters.
    pub(super) async fn answer_through(&mut self, route: &Route, passed: usize, mut head: ResponseHead, body: Bytes) {
        self.complete_own(&mut head, &body);
        route.chain.response(&mut self.context(), &mut head, passed);
        self.send_own(head, body).await;
    }

    /// Adds what every answer of our own says. The length is there for filters and for HEAD (RFC 9110 §8.6): on the wire it
    /// is decided when the answer is framed.
    fn complete_own(&self, head: &mut ResponseHead, body: &Bytes) {
        if head.fields.first(Known::Date).is_none() {
            head.fields.add(b"date", &self.worker.date());
        }
        if !body.is_empty() {
            head.fields.set(b"content-length", itoa::Buffer::new().format(body.len()).as_bytes());
        }
    }

    /// Answers with one of the table, if an answer can still be given; else the connection is cut.
    pub(super) async fn refuse(&mut self, refusal: Refusal) {
        let core = self.worker.core();
        core.refusals[refusal.index()].inc();
        match refusal {
            Refusal::BodyTimeout => core.timeouts_body.inc(),
            Refusal::BodyTooSlow | Refusal::ClientTooSlow => core.slow_clients.inc(),
            Refusal::ClientStalled => core.timeouts_write.inc(),
            _ => {}
        }
        self.seen.refusal = Some(refusal);
        if !refusal.is_answered() {
            return;
        }
        if self.answer.started() {
            if self.is_grpc && !self.answer.complete() {
                // Whatever came before it, the call ends with what trailers say.
                let (bytes, fields) = grpc::trailers(refusal);
                // A caller that is gone needs no telling.
                let _ = self.answer.end(None, Some((&bytes, &fields))).await;
            }
            return;
        }
        // A body that is here already need not cost the client its connection.
        self.body.skip_buffered();
        self.kept.transforms.clear();
        if self.is_grpc {
            let mut head = grpc::refusal(refusal, &self.request_id);
            head.fields.add(b"date", &self.worker.date());
            if let Some(route) = self.route {
                route.chain.refusal(&mut self.context(), &mut head);
            }
            return self.send_own(head, Bytes::new()).await;
        }
        let allow = self.kept.of::<reply::Allow>().map(std::mem::take);
        let retry_after = self.kept.of::<reply::RetryAfter>().map_or(reply::RETRY_AFTER_S, |after| after.0);
        let (mut head, mut body) = reply::problem(refusal, &self.request_id, allow, retry_after);
        let pages = error_page::pages(self.route, &self.snapshot.settings);
        if let Some(page) = error_page::choose(pages, refusal.status(), &self.head.fields, false) {
            let told = Told::of(refusal, self.request_id.as_bytes());
            body = page.dress(&mut head.fields, &told);
        }
        self.complete_own(&mut head, &body);
        if let Some(route) = self.route {
            route.chain.refusal(&mut self.context(), &mut head);
        }
        self.send_own(head, body).await;
    }

    /// Sends an answer of our own.
    pub(super) async fn send_own(&mut self, head: ResponseHead, body: Bytes) {
        if !self.body.ended() || self.worker.draining() || self.listener.is_closed() {
            self.answer.close_after();
        }
        let transforms = &mut self.kept.transforms;
        let length = match transforms.is_empty() && !self.is_grpc {
            true => Length::Exact(body.len() as u64),
            false => Length::Unknown,
        };
        self.answer.head(&head, length);
        let sent = match self.head.method {
            Method::Head => self.answer.end(None, None).await,
            _ => relay::send_whole(body, &mut self.answer, transforms).await,
        };
        if let Err(halt) = sent {
            let failure = relay::answer_failure(halt);
            self.seen.detail = failure.detail;
            self.seen.refusal.get_or_insert(failure.refusal);
        }
    }
}
