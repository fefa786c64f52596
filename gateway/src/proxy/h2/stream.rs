//! One stream: a head, its exchange, and what the client does to it meanwhile.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http1::HeadLimits;

use super::answer::{H2Answer, Side};
use super::body::{H2Body, announced};
use super::head::{self, Received};
use super::session::Running;
use crate::proxy::answer::Answer;
use crate::proxy::body::{Body, Length};
use crate::proxy::exchange::{Arrival, Exchange};
use crate::proxy::head::Protocol;
use crate::proxy::prepare::client_of;
use crate::proxy::reply;
use crate::proxy::trace::RequestId;
use crate::proxy::wire::{Chunk, Pace, Wait};
use crate::refusal::Refusal;
use crate::rt::Job;
use crate::rt::deadline::{Cause, now_us};
use crate::worker::Pinned;

/// A stream whose request head is here and read.
pub struct Begun {
    running: Running,
    pinned: Rc<Pinned>,
    received: Result<Received, Refusal>,
    is_head: bool,
    incoming: RecvStream,
    respond: SendResponse<Bytes>,
    started_us: u64,
}

impl Begun {
    /// Reads the head at once: what `h2` has made of it is given back, and the next one is made in the same memory.
    pub fn new(
        running: Running,
        pinned: Rc<Pinned>,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Begun {
        let started_us = now_us();
        let session = running.session();
        let snapshot = &*pinned.snapshot;
        let settings = &*snapshot.settings;
        session.worker().core().requests.inc();
        let (parts, incoming) = request.into_parts();
        let limits =
            HeadLimits { head_bytes: settings.head_bytes, fields: settings.fields, target_bytes: settings.head_bytes };
        let listener = &snapshot.listeners[session.listener as usize];
        let received = head::read(&parts, &limits, listener.underscores);
        let is_head = parts.method == http::Method::HEAD;
        Begun { running, pinned, received, is_head, incoming, respond, started_us }
    }
}

impl Job for Begun {
    /// Answers the request.
    async fn run(self) {
        let Begun { running, pinned, received, is_head, incoming, respond, started_us } = self;
        let session = running.session();
        let worker = session.worker();
        let snapshot = &*pinned.snapshot;
        let settings = &*snapshot.settings;
        let listener = &snapshot.listeners[session.listener as usize];
        let core = worker.core();
        let side = Side::new(respond);
        let pace = Pace::new(settings.rate_min);
        let wait = Wait { ms: settings.body_idle_ms, cause: Cause::Write };
        let answer = H2Answer::new(side.clone(), session.clone(), is_head, wait, pace);
        let Received { head, options, websocket } = match received {
            Ok(received) => received,
            Err(refusal) => return Box::pin(refuse(&running, answer, is_head, refusal)).await,
        };
        core.requests_in_flight.inc();
        let announced = announced(&head.fields);
        let mut received =
            H2Body::new(incoming, announced, Wait { ms: settings.body_idle_ms, cause: Cause::Body }, pace);
        let arrival = Arrival {
            worker,
            pinned: &pinned,
            listener,
            options,
            client: client_of(&head.fields, listener.client_address, session.speaker, &settings.trusted_hops),
            scheme: if session.tls.is_some() { "https" } else { "http" },
            tls: session.tls.as_deref(),
            client_fd: None,
            websocket,
            started_us,
        };
        let body = if websocket { Body::Tunnel { body: &mut received } } else { Body::Stream { body: &mut received } };
        let mut exchange = Exchange::new(arrival, head, body, Answer::H2(answer));
        let ender = exchange.ender();
        {
            let mut whole = pin!(exchange.run());
            let mut gone = false;
            std::future::poll_fn(|cx| {
                loop {
                    if whole.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    if gone || side.poll_gone(cx).is_pending() {
                        return Poll::Pending;
                    }
                    // What runs for nobody ends now; it is polled once more to hear of it.
                    gone = true;
                    ender.end(Cause::ClientGone);
                }
            })
            .await;
        }
        let departure = exchange.finish();
        worker.put_scratch(departure.scratch);
        if departure.complete {
            if received.lacks_end() {
                Box::pin(received.hear_end()).await;
            }
        } else {
            side.reset(if departure.by_upstream { Reason::INTERNAL_ERROR } else { Reason::CANCEL });
        }
    }
}

/// Answers what never became an exchange.
async fn refuse(running: &Running, mut answer: H2Answer, is_head: bool, refusal: Refusal) {
    let session = running.session();
    let worker = session.worker();
    worker.core().refusals[refusal.index()].inc();
    let request_id = RequestId::made(&mut worker.ids.borrow_mut());
    worker.log_refused_head(session.listener as usize, session.speaker.address, &request_id, refusal, Protocol::Http2);
    let (mut head, body) = reply::problem(refusal, &request_id, None, reply::RETRY_AFTER_S);
    head.fields.add(b"date", &worker.date());
    answer.head(&head, Length::Exact(body.len() as u64));
    // A client that is gone needs no answer.
    let _ = answer.end((!is_head).then_some(Chunk::Shared(body)), None).await;
}
