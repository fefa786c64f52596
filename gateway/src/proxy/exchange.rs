//! The corridor: one request and its answer, top to bottom.
//!
//! It does not know which protocol the client spoke nor which the upstream speaks: it has a head, a body that yields pieces,
//! and an answer to write. Whatever happens, it ends here: counted, logged, its guards released.

mod attempts;
mod own;
mod steps;
mod tls;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use abi::Action as Standing;
use http1::{ConnectionOptions, Known, Method};

use super::answer::Answer;
use super::body::{Body, Length};
use super::forward;
use super::grpc;
use super::head::{Client, Protocol, RequestHead};
use super::mirror::Mirroring;
use super::reply;
use super::retry::{self, Denied, Tries};
use super::sticky::Affinity;
use super::trace::{RequestId, Trace};
use super::upstream::h1::Hop;
use super::websocket;
use super::wire::Handshake;
use crate::balance::Endpoint;
use crate::filter::{self, Facts, Kept};
use crate::observe::access_log::Record;
use crate::refusal::{Party, Refusal};
use crate::route::action::Action;
use crate::route::condition::WHOLE;
use crate::route::{Came, Found};
use crate::rt::deadline::{Ender, Guard, now_us};
use crate::snapshot::{Listener, Route, Snapshot};
use crate::tables::bans::unix_ms;
use crate::worker::{Pinned, Worker};

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
    /// The client speaks gRPC.
    is_grpc: bool,
    expectation: Expectation,
    mirroring: Option<Box<Mirroring<'a>>>,
    /// Where its upstream keeps clients with their endpoints.
    affinity: Option<Affinity<'a>>,
    /// Where the request may be sent again (`retry`).
    tries: Option<Box<Tries<'a>>>,
    seen: Seen,
}

/// What the log and the counters are told at the end.
#[derive(Default)]
struct Seen {
    started_us: u64,
    upstream: Option<usize>,
    endpoint: Option<Arc<Endpoint>>,
    attempts: u32,
    /// What it was sent again for the last time.
    retried_for: Option<retry::Cause>,
    /// One of them was on a kept connection that its service had closed.
    stale: bool,
    reused: bool,
    /// When the request of the last attempt, or its first part, was sent; 0: it was not.
    sent_us: u64,
    upstream_us: u64,
    refusal: Option<Refusal>,
    /// How a call of gRPC went, as far as its service has said.
    grpc: Option<grpc::Status>,
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
        let is_grpc = head.protocol == Protocol::Http2 && head.method == Method::Post && grpc::is_spoken(&head.fields);
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
            is_grpc,
            expectation,
            mirroring: None,
            affinity: None,
            tries: None,
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
        let to = match &route.action {
            Action::Upstream(to) => *to,
            Action::Split(split) => {
                let lot = self.worker.ids.borrow_mut().next_u64();
                split.pick(&self.head.fields, self.client.address, lot)
            }
            own => return Box::pin(self.answer_own(route, own)).await,
        };
        self.seen.upstream = Some(to.upstream);
        let settings = &self.snapshot.upstreams[to.upstream];
        let total = route.timeouts.over(settings.timeouts).total;
        // Who does not wait any longer needs no answer.
        let waited = if self.is_grpc { grpc::timeout_ms(&self.head.fields) } else { None };
        self.guard.arm_total(waited.map_or(total, |ms| ms.min(total)));
        self.affinity = Affinity::take(self.snapshot.endpoints[to.upstream].of(to.subset), &mut self.head.fields);
        if route.mirrors.is_empty() {
            return self.attempts(route, to, settings).await;
        }
        self.mirroring = Mirroring::draw(&route.mirrors, self.request_id.as_bytes());
        if self.body.ended() {
            self.mirror();
        }
        let outcome = self.attempts(route, to, settings).await;
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

    /// How a call of gRPC went: as we have said, or the service.
    fn grpc_status(&self) -> Option<grpc::Status> {
        let refusal = self.seen.refusal.filter(|_| self.is_grpc);
        refusal.map(grpc::Status::of_refusal).or(self.seen.grpc)
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
        let grpc = self.grpc_status();
        if let Some(route) = self.route {
            let series = route.series.core(worker.id);
            series.class(status).inc();
            series.duration.observe_us(duration_us);
            series.request_bytes.add(request_bytes);
            series.response_bytes.add(response_bytes);
            if let Some(grpc) = grpc {
                series.grpc[grpc.index()].inc();
            }
        }
        let mut retried_for = itoa::Buffer::new();
        let retried_for = match seen.retried_for {
            None => "",
            Some(retry::Cause::Status(status)) => retried_for.format(status),
            Some(retry::Cause::Grpc(status)) => status.name(),
            Some(cause) => retry::Cause::LABELS[cause.index()],
        };
        let denied = self.tries.as_ref().and_then(|tries| tries.denied);
        if let Some(upstream) = seen.upstream.filter(|_| denied.is_some()) {
            self.snapshot.upstreams[upstream].series.core(worker.id).denied(denied);
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
                grpc_status: grpc.map_or("", grpc::Status::name),
                route: self.route.map_or("", |route| &route.name),
                upstream: seen.upstream.map_or("", |index| &self.snapshot.upstreams[index].name),
                endpoint: seen.endpoint.as_ref().map_or("", |endpoint| &endpoint.label),
                attempts: seen.attempts,
                retried_for,
                not_retried: denied.map_or("", Denied::name),
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

/// Takes fields and not the exchange: its body may be borrowed by an upload that is still running.
fn facts<'f>(
    client: &'f Client,
    id: &'f RequestId,
    route: Option<&'f Route>,
    scheme: &'static str,
    tls: Option<&'f Handshake>,
) -> Facts<'f> {
    let client_certificate = tls.and_then(|tls| tls.client.as_deref());
    Facts { client, request_id: id.as_bytes(), route, scheme, client_certificate }
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
