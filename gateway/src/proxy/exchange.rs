//! The corridor: one request and its answer, top to bottom.
//!
//! It does not know which protocol the client spoke nor which the upstream speaks: it has a head, a body that yields pieces,
//! and an answer to write. Whatever happens, it ends here: counted, logged, its guards released.

mod own;
mod steps;
mod tls;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use abi::Action as Standing;
use bytes::Bytes;
use http1::{ConnectionOptions, Known, Method};

use super::answer::Answer;
use super::body::{Body, Length};
use super::finishing::{Done, Finishing};
use super::forward;
use super::head::{Client, Protocol, RequestHead};
use super::mirror::Mirroring;
use super::relay::{self, Failure, Sending, Sent, Upload};
use super::reply;
use super::trace::{RequestId, Trace};
use super::tunnel::{self, Ear, Mouth};
use super::upstream::h1::{self, Hop};
use super::upstream::{ConnectError, Connection};
use super::websocket;
use super::wire::{Handshake, WireReader};
use crate::balance::{Asking, Endpoint, Keyed};
use crate::filter::{self, Facts, Kept};
use crate::limits::BODY_HELD_FOR_RETRY_BYTES;
use crate::observe::access_log::Record;
use crate::refusal::{Party, Refusal};
use crate::route::action::Action;
use crate::route::condition::WHOLE;
use crate::route::{Came, Found};
use crate::rt::deadline::{Cause, Ender, Guard, now_ms, now_us};
use crate::snapshot::{HostPolicy, Listener, Route, Snapshot, Upstream, UpstreamTimeouts};
use crate::tables::bans::unix_ms;
use crate::tables::health::Outcome;
use crate::worker::{Pinned, Worker, outcome_of_connect};

/// One request and its answer.
pub struct Exchange<'a> {
    pub worker: &'a Rc<Worker>,
    snapshot: &'a Snapshot,
    pinned: &'a Rc<Pinned>,
    listener: &'a Listener,
    options: ConnectionOptions,
    head: RequestHead,
    body: Body<'a>,
    answer: Answer<'a>,
    client: Client,
    scheme: &'static str,
    tls: Option<&'a Handshake>,
    request_id: RequestId,
    trace: Trace,
    route: Option<&'a Route>,
    kept: Kept,
    guard: Guard,
    hop: Hop,
    expectation: Expectation,
    mirroring: Option<Box<Mirroring<'a>>>,
    seen: Seen,
}

/// What the log and the counters are told at the end.
#[derive(Default)]
struct Seen {
    started_us: u64,
    upstream: Option<usize>,
    endpoint: Option<Arc<Endpoint>>,
    attempts: u32,
    reused: bool,
    /// When the request of the last attempt, or its first part, was sent; 0: it was not.
    sent_us: u64,
    upstream_us: u64,
    refusal: Option<Refusal>,
    detail: String,
    tunnelled: (u64, u64),
}

/// What an exchange needs of the connection it came by.
pub struct Arrival<'a> {
    pub worker: &'a Rc<Worker>,
    pub pinned: &'a Rc<Pinned>,
    pub listener: &'a Listener,
    pub options: ConnectionOptions,
    pub client: Client,
    pub scheme: &'static str,
    /// What was agreed on, if TLS is spoken.
    pub tls: Option<&'a Handshake>,
    /// The client's socket, where it carries this exchange alone.
    pub client_fd: Option<std::os::fd::RawFd>,
    /// WebSocket was asked for in a way that the head does not show.
    pub websocket: bool,
    /// When the first byte of the request was there, microseconds of the process.
    pub started_us: u64,
}

/// What is left when an exchange is over.
pub struct Departure {
    /// Another request may follow, as far as the answer goes.
    pub keep: bool,
    /// The answer must not look complete: end the connection with a reset.
    pub reset: bool,
    /// The answer is whole.
    pub complete: bool,
    /// Whatever cut it was not the client's doing.
    pub by_upstream: bool,
    pub scratch: Vec<u8>,
}

impl<'a> Exchange<'a> {
    /// An exchange that has not begun. Built before it runs and not inside: a future that took its parts would keep room
    /// for them beside the whole.
    pub fn new(arrival: Arrival<'a>, mut head: RequestHead, body: Body<'a>, answer: Answer<'a>) -> Exchange<'a> {
        let Arrival { worker, options, client, .. } = arrival;
        let (request_id, trace) = {
            let mut ids = worker.ids.borrow_mut();
            (RequestId::new(&head.fields, client.trusted, &mut ids), Trace::new(&head.fields, &mut ids))
        };
        let hop = Hop {
            te_trailers: options.te_trailers,
            websocket: arrival.websocket || asks_for_websocket(&head, &options),
        };
        let expectation = expectation(&head);
        if expectation == Expectation::Ignored {
            head.fields.remove_known(Known::Expect);
        }
        let mut kept = Kept::default();
        if arrival.websocket {
            kept.put(websocket::ask(&mut head, &mut worker.ids.borrow_mut()));
        }
        Exchange {
            worker,
            snapshot: &arrival.pinned.snapshot,
            pinned: arrival.pinned,
            listener: arrival.listener,
            options,
            head,
            body,
            answer,
            client,
            scheme: arrival.scheme,
            tls: arrival.tls,
            request_id,
            trace,
            route: None,
            kept,
            guard: Guard::new(arrival.client_fd),
            hop,
            expectation,
            mirroring: None,
            seen: Seen { started_us: arrival.started_us, ..Seen::default() },
        }
    }

    /// How to end it from outside while it runs.
    pub fn ender(&self) -> Ender {
        self.guard.ender()
    }

    /// Runs it to its end.
    pub async fn run(&mut self) {
        if let Err(refusal) = self.corridor().await {
            // On the heap, like everything a small exchange does not need: what is not there need not be moved and cleared.
            Box::pin(self.refuse(refusal)).await;
        }
    }

    /// Find route → filters → upstream → filters → answer.
    async fn corridor(&mut self) -> Result<(), Refusal> {
        if self.expectation == Expectation::Unknown {
            return Err(Refusal::ExpectationFailed);
        }
        if self.head.method == Method::Connect {
            // What follows may be meant for the tunnel that is not there.
            self.answer.close_after();
            return Err(Refusal::ConnectUnsupported);
        }
        self.admit()?;
        self.check_direction()?;
        let route = self.find_route()?;
        self.route = Some(route);
        // Where a tunnel is asked for by a CONNECT, an answer that succeeds opens it (RFC 8441 §5): only a service that has
        // switched protocols may give one.
        if self.opens_by_success() && (!route.websocket || matches!(route.action, Action::Respond(_))) {
            return Err(Refusal::ConnectUnsupported);
        }
        if let Length::Exact(length) = self.body.length()
            && length > route.body_bytes_max
        {
            return Err(Refusal::BodyTooLarge);
        }
        self.body.bound(route.body_bytes_max);
        self.hop.websocket &= route.websocket;
        let said = forward::Said {
            client: &self.client,
            scheme: self.scheme,
            request_id: &self.request_id,
            trace: &self.trace,
            via: self.snapshot.settings.via(self.head.protocol),
            forwarded: self.snapshot.settings.forwarded,
            client_certificate: self.client_certificate().filter(|_| self.forwards_client()),
        };
        forward::request(&mut self.head, &self.options, self.listener.underscores, &said);
        if let Err(ended) = route.chain.request(self).await {
            return match ended.answer {
                filter::Answer::Refuse(refusal) => Err(refusal),
                filter::Answer::Send { head, body } => {
                    Box::pin(self.answer_through(route, ended.passed, head, body)).await;
                    Ok(())
                }
            };
        }
        self.decode_body();
        let upstream = match &route.action {
            Action::Upstream(upstream) => *upstream,
            Action::Split(split) => {
                let lot = self.worker.ids.borrow_mut().next_u64();
                split.pick(&self.head.fields, self.client.address, lot)
            }
            own => return Box::pin(self.answer_own(route, own)).await,
        };
        self.seen.upstream = Some(upstream);
        let settings = &self.snapshot.upstreams[upstream];
        self.guard.arm_total(route.timeouts.over(settings.timeouts).total);
        if route.mirrors.is_empty() {
            return self.attempts(route, upstream, settings).await;
        }
        self.mirroring = Mirroring::draw(&route.mirrors, self.request_id.as_bytes());
        if self.body.ended() {
            self.mirror();
        }
        let outcome = self.attempts(route, upstream, settings).await;
        if self.body.ended() {
            self.mirror();
        }
        outcome
    }

    fn opens_by_success(&self) -> bool {
        matches!(self.body, Body::Tunnel { .. })
    }

    /// Sends the copies of the request, whose body went up whole.
    fn mirror(&mut self) {
        if let Some(mirroring) = self.mirroring.take() {
            mirroring.send(self.worker, self.pinned, &self.head);
        }
    }

    /// Asks the lists that hold everywhere, those of the listener, and the bans. Also of connections that were let in: lists
    /// change, and behind a hop the client is another one with every request.
    fn admit(&self) -> Result<(), Refusal> {
        let client = self.client.address;
        let lists = &self.snapshot.lists;
        if lists.verdict(client).denies() || !self.listener.gate.admits(client) {
            return Err(Refusal::AddressDenied);
        }
        let bans = &self.worker.shared().bans;
        if bans.any() && bans.find(client, unix_ms()).is_some() && lists.standing(client).action != Standing::Manage {
            return Err(Refusal::AddressBanned);
        }
        Ok(())
    }

    fn find_route(&mut self) -> Result<&'a Route, Refusal> {
        let routes = &self.snapshot.routes;
        let lot = if routes.draws() { (self.worker.ids.borrow_mut().next_u64() % u64::from(WHOLE)) as u32 } else { 0 };
        let came = Came {
            client: self.client.address,
            scheme: self.scheme,
            server_name: self.tls.and_then(|tls| tls.server_name.as_deref()),
        };
        let (asked, is_preflight) = routes.asked(&self.head, came, lot);
        let (found, decoded) = routes.decide(&self.head, &asked).map_err(Refusal::Malformed)?;
        match found {
            Found::Route(route) => {
                if let Some(path) = decoded {
                    self.head.set_path(path);
                }
                if is_preflight {
                    self.kept.put(filter::cors::Preflight);
                }
                Ok(route)
            }
            Found::MethodNotAllowed(allow) => {
                self.kept.put(reply::Allow(allow));
                Err(Refusal::MethodNotAllowed)
            }
            Found::Nothing => Err(Refusal::NoRoute),
        }
    }

    /// Tries endpoints until one answers or a repetition is not safe.
    async fn attempts(&mut self, route: &Route, index: usize, upstream: &Upstream) -> Result<(), Refusal> {
        let endpoints = &self.snapshot.endpoints[index];
        let timeouts = route.timeouts.over(upstream.timeouts);
        let (fields, client) = (&self.head.fields, Some(self.client.address));
        let key = endpoints.key(Keyed { fields, client, path: self.head.path() });
        let mut fresh = false;
        let mut tried = Vec::new();
        loop {
            let lot = self.worker.ids.borrow_mut().next_u64();
            let asking = Asking { cursor: &self.pinned.cursors[index], tried: &tried, lot, key, now_ms: now_ms() };
            let endpoint = endpoints.pick(&asking).ok_or(Refusal::NoEndpoint)?.clone();
            let _running = endpoint.state.begin();
            self.seen.attempts += 1;
            let connection = self.connect(upstream, &endpoint, fresh).await;
            self.seen.endpoint = Some(endpoint.clone());
            if let Err(error) = &connection {
                self.worker.judge(upstream, &endpoint, outcome_of_connect(error));
                if !matches!(error, ConnectError::Over(Cause::ClientGone)) {
                    endpoint.state.failed(now_ms());
                }
            }
            let connection = match connection {
                Ok(connection) => connection,
                // Nothing was sent: another endpoint may take it.
                Err(ConnectError::Failed(_)) if self.seen.attempts < endpoints.tries() => {
                    upstream.series.core(self.worker.id).retries.inc();
                    tried.push(endpoint);
                    continue;
                }
                Err(error) => return Err(self.connect_refusal(error)),
            };
            let reused = connection.reused;
            let replay = if reused { self.hold_for_replay() } else { Replay::Not };
            match self.attempt(upstream, timeouts, connection).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    self.guard.attach(None);
                    let over = self.guard.fired();
                    // A kept connection that its service closed meanwhile is nobody's failure. Once: the next one is new.
                    if reused
                        && failure.unanswered
                        && over.is_none()
                        && !self.answer.started()
                        && replay.restore(&mut self.body)
                    {
                        upstream.series.core(self.worker.id).stale_connections.inc();
                        upstream.series.core(self.worker.id).retries.inc();
                        fresh = true;
                        continue;
                    }
                    self.seen.detail = failure.detail;
                    let refusal = match over {
                        Some(Cause::ClientGone) => Refusal::ClientGone,
                        Some(_) => Refusal::UpstreamTotalTimeout,
                        None => failure.refusal,
                    };
                    // A kept connection that was closed meanwhile says nothing about those that come.
                    if !(reused && failure.unanswered) {
                        self.judge(upstream, &endpoint, refusal);
                    }
                    return Err(refusal);
                }
            }
        }
    }

    async fn connect(
        &mut self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        fresh: bool,
    ) -> Result<Connection, ConnectError> {
        let series = upstream.series.core(self.worker.id);
        if !fresh && let Some(kept) = self.worker.pool.take(&endpoint.identity) {
            series.reused.inc();
            self.seen.reused = true;
            return Ok(kept);
        }
        self.seen.reused = false;
        let opened = Box::pin(Connection::open(&endpoint.identity, &self.guard, upstream.timeouts.connect)).await;
        match &opened {
            Ok(_) => series.connects.inc(),
            Err(_) => series.connect_failures.inc(),
        }
        opened
    }

    fn connect_refusal(&mut self, error: ConnectError) -> Refusal {
        if let ConnectError::Failed(error) = &error {
            self.seen.detail = error.to_string();
        }
        error.refusal()
    }

    /// Whether the request could be sent a second time, and the body that would be needed for it.
    fn hold_for_replay(&mut self) -> Replay {
        if !self.head.method.is_idempotent() {
            return Replay::Not;
        }
        match &mut self.body {
            body if body.ended() => Replay::Empty,
            Body::Held { bytes, .. } => Replay::Held(bytes.clone()),
            body => {
                let whole = match body {
                    Body::Wire { body, .. } => body.buffered_whole(BODY_HELD_FOR_RETRY_BYTES),
                    Body::Stream { body } => body.buffered_whole(BODY_HELD_FOR_RETRY_BYTES),
                    _ => None,
                };
                match whole {
                    Some(bytes) => {
                        self.body = Body::held(Some(bytes.clone()));
                        Replay::Held(Some(bytes))
                    }
                    None => Replay::Not,
                }
            }
        }
    }

    /// One request on one connection. On success the answer is out and the connection back in the pool or closed.
    async fn attempt(
        &mut self,
        upstream: &Upstream,
        timeouts: UpstreamTimeouts,
        mut connection: Connection,
    ) -> Result<(), Failure> {
        let series = upstream.series.core(self.worker.id);
        series.requests.inc();
        self.guard.attach(Some(connection.wire.fd()));
        let length = if self.hop.websocket { Length::Absent } else { self.body.length() };
        let mut scratch = self.worker.take_scratch();
        let host = match (self.head.sent_host(), &upstream.host) {
            (Some(host), _) => host,
            (None, HostPolicy::Keep) => self.head.authority(),
            (None, HostPolicy::Endpoint) => {
                self.seen.endpoint.as_ref().map_or(&b""[..], |endpoint| endpoint.written.as_bytes())
            }
            (None, HostPolicy::Fixed(host)) => host.as_bytes(),
        };
        h1::encode_request(&mut scratch, &self.head, host, length, self.hop);
        let mut outgoing = super::h1::outgoing::Outgoing::new(scratch, length == Length::Unknown);
        if self.options.lists_fields {
            outgoing.withhold_trailers(self.head.fields.listed().names());
        }
        let mut tee = self.mirroring.as_mut().map(|mirroring| mirroring.tee());
        if let Some(tee) = &mut tee {
            tee.restart();
        }
        let mut sending = Sending { body: &mut self.body, outgoing, timeouts, tee };
        let sent = relay::send_first(&mut sending, &mut connection.wire.writer).await?;
        let sent_us = now_us();
        self.seen.sent_us = sent_us;
        let mut finishing = Finishing {
            request: &mut self.head,
            facts: Facts {
                client: &self.client,
                request_id: self.request_id.as_bytes(),
                route: self.route,
                scheme: self.scheme,
                client_certificate: self.tls.and_then(|tls| tls.client.as_deref()),
            },
            kept: &mut self.kept,
            route: self.route,
            settings: &self.snapshot.settings,
            worker: self.worker,
            listener: self.listener,
            websocket: self.hop.websocket,
            timeouts,
            endpoint: self.seen.endpoint.as_deref(),
            sent_us,
            first_byte_us: 0,
            status: 0,
        };
        let (done, upload) = match sent {
            Sent::Part => {
                let finish = async |headed, reader: &mut WireReader, answer: &mut Answer<'_>, uploaded| {
                    finishing.answer(headed, reader, answer, uploaded).await
                };
                Box::pin(relay::upload_and_receive(sending, &mut connection, &mut self.answer, finish)).await?
            }
            sent => {
                self.worker.put_scratch(sending.outgoing.into_scratch());
                let reader = &mut connection.wire.reader;
                let headed = relay::receive(reader, &mut self.answer, timeouts).await?;
                let done = finishing.answer(headed, reader, &mut self.answer, sent == Sent::All).await?;
                (done, if sent == Sent::All { Upload::Complete } else { Upload::Stopped })
            }
        };
        let (first_byte_us, status) = (finishing.first_byte_us, finishing.status);
        self.seen.upstream_us = first_byte_us.saturating_sub(sent_us).max(1);
        series.first_byte.observe_us(self.seen.upstream_us);
        if let Some(endpoint) = &self.seen.endpoint {
            self.worker.judge(upstream, endpoint, Some(Outcome::of_status(status)));
        }
        match done {
            Done::Switched { carry } => {
                self.seen.tunnelled = Box::pin(self.tunnel(connection, carry)).await;
                self.guard.attach(None);
            }
            Done::Answered { reusable } => {
                self.guard.attach(None);
                if reusable && upload == Upload::Complete {
                    self.worker.pool.put(connection, upstream.pool);
                }
                if upload == Upload::Stopped {
                    self.answer.close_after();
                }
            }
        }
        Ok(())
    }

    async fn tunnel(&mut self, mut connection: Connection, carry: Option<crate::rt::Buf>) -> (u64, u64) {
        // The tunnel has deadlines of its own; what the exchange as a whole may take no longer counts.
        self.guard.arm_total(u64::MAX / 4);
        let settings = &self.snapshot.settings;
        let limits = tunnel::Limits { idle_ms: settings.tunnel_idle_ms, age_ms: settings.tunnel_age_ms };
        let (ear, mouth, early) = match (&mut self.body, &mut self.answer) {
            (Body::Wire { body, reader, .. }, Answer::H1(answer)) => {
                (Ear::Wire(reader), Mouth::Wire(answer.writer()), body.take_carry())
            }
            (Body::Tunnel { body }, Answer::H2(answer)) => (Ear::Stream(body), Mouth::Stream(answer), None),
            _ => return (0, 0),
        };
        tunnel::run((ear, mouth), &mut connection.wire, (early, carry), limits).await
    }

    /// Counts, logs, and says what becomes of the connection.
    pub fn finish(self) -> Departure {
        let (worker, seen) = (self.worker, &self.seen);
        let core = worker.core();
        let duration_us = now_us().saturating_sub(seen.started_us);
        let request_bytes = self.body.received() + seen.tunnelled.0;
        let response_bytes = self.answer.sent() + seen.tunnelled.1;
        let status = match seen.refusal {
            Some(refusal) if !self.answer.started() => refusal.status(),
            _ => self.answer.status(),
        };
        if let Some(route) = self.route {
            let series = route.series.core(worker.id);
            series.class(status).inc();
            series.duration.observe_us(duration_us);
            series.request_bytes.add(request_bytes);
            series.response_bytes.add(response_bytes);
        }
        core.requests_in_flight.dec();
        let mut lines = worker.lines.borrow_mut();
        if lines.enabled() {
            let head = &self.head;
            let client_certificate = self.client_certificate();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
            lines.write(&Record {
                time_unix_us: now.saturating_sub(duration_us),
                listener: &self.listener.name,
                client: self.client.address,
                request_id: self.request_id.as_bytes(),
                trace_id: self.trace.id(),
                method: head.method_text(),
                host: head.authority(),
                path: head.path(),
                protocol: head.protocol.name(),
                status,
                route: self.route.map_or("", |route| &route.name),
                upstream: seen.upstream.map_or("", |index| &self.snapshot.upstreams[index].name),
                endpoint: seen.endpoint.as_ref().map_or("", |endpoint| &endpoint.label),
                attempts: seen.attempts,
                reused: seen.reused,
                ended_by: seen.refusal.map_or("", |refusal| refusal.party().name()),
                refusal: seen.refusal.map_or("", Refusal::code),
                detail: &seen.detail,
                request_bytes,
                response_bytes,
                duration_us,
                upstream_us: seen.upstream_us,
                user_agent: head.fields.first(Known::UserAgent).unwrap_or_default(),
                client_cert_subject: client_certificate.map_or("", |certificate| &certificate.subject),
                client_cert_sha256: client_certificate.map_or("", |certificate| &certificate.fingerprint),
            });
        }
        let cut = self.answer.started() && !self.answer.complete();
        let by_upstream = seen.refusal.is_some_and(|refusal| refusal.party() != Party::Client);
        Departure {
            keep: self.answer.keeps(),
            complete: self.answer.complete(),
            by_upstream,
            reset: cut && by_upstream && self.answer.until_close(),
            scratch: self.answer.into_scratch(),
        }
    }
}

/// What can be sent again.
enum Replay {
    Not,
    Empty,
    Held(Option<Bytes>),
}

impl Replay {
    /// Puts the body back as it was. `false`: the request must not be repeated.
    fn restore(self, body: &mut Body<'_>) -> bool {
        match self {
            Replay::Not => false,
            Replay::Empty => true,
            Replay::Held(bytes) => {
                *body = Body::held(bytes);
                true
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expectation {
    Nothing,
    /// Not to be passed on either.
    Ignored,
    Continue,
    Unknown,
}

/// RFC 9110 §10.1.1: `100-continue` is the only expectation; HTTP/1.0 clients have none.
fn expectation(head: &RequestHead) -> Expectation {
    match head.fields.first(Known::Expect) {
        Some(_) if head.protocol == Protocol::Http10 => Expectation::Ignored,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Expectation::Continue,
        Some(_) => Expectation::Unknown,
        None => Expectation::Nothing,
    }
}

/// RFC 6455 §4.1: a GET of HTTP/1.1 that offers `websocket`.
fn asks_for_websocket(head: &RequestHead, options: &ConnectionOptions) -> bool {
    options.upgrade
        && head.method == Method::Get
        && head.protocol == Protocol::Http11
        && head.fields.first(Known::Upgrade).is_some_and(|protocols| {
            protocols
                .split(|&byte| byte == b',')
                .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
        })
}
