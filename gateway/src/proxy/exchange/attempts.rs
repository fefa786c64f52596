//! Endpoints are tried until one answers or a repetition is not safe. What is decided about repetitions is decided in
//! [`retry`]; here it is done.
//!
//! Without a `retry` table a connection that is refused goes to another endpoint, and a kept connection that its service
//! closed is replaced once. A request for a tunnel knows no table: whoever opened one cannot open it again.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::{Exchange, Expectation, facts};
use crate::balance::{Destination, Endpoint, Endpoints, Keyed};
use crate::limits::BODY_HELD_FOR_RETRY_BYTES;
use crate::proxy::answer::Answer;
use crate::proxy::body::{Body, Length};
use crate::proxy::finishing::{Done, Finishing, Repeating};
use crate::proxy::grpc;
use crate::proxy::relay::{self, Failure, Sending, Sent, Upload};
use crate::proxy::replay::Replay;
use crate::proxy::retry::{self, Missed, Tries};
use crate::proxy::sticky::Affinity;
use crate::proxy::tunnel::{self, Ear, Mouth};
use crate::proxy::upstream::call::{Asked, Down};
use crate::proxy::upstream::{Aim, Channel, ConnectError, Connection, Reaching, enter, pick, reach};
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, now_ms, now_us};
use crate::snapshot::{HostPolicy, Route, Upstream, UpstreamTimeouts};
use crate::tables::health::Outcome;
use crate::worker::outcome_of_connect;

/// What an attempt came to, where it did not fail.
enum Attempt {
    /// The answer is out, and the connection back in the pool or closed.
    Over,
    /// Nothing went to the client, and another attempt follows.
    Again { cause: retry::Cause, wait_ms: u64 },
}

impl<'a> Exchange<'a> {
    /// Tries endpoints of `to` until one answers or a repetition is not safe.
    pub(super) async fn attempts(
        &mut self,
        route: &'a Route,
        to: Destination,
        upstream: &'a Upstream,
    ) -> Result<(), Refusal> {
        let index = to.upstream;
        let endpoints = self.snapshot.endpoints[index].of(to.subset);
        let load = &self.snapshot.loads[index];
        let series = upstream.series.core(self.worker.id);
        let timeouts = route.timeouts.over(upstream.timeouts);
        let _running = enter(self.worker, self.pinned, index)?;
        if let Some(table) = route.retry.as_ref().or(upstream.retry.as_ref()).filter(|_| !self.hop.websocket) {
            self.tries = Some(Box::new(Tries::new(table, load, self.head.method, self.head.method_text())));
        }
        let (fields, client) = (&self.head.fields, Some(self.client.address));
        let key = endpoints.key(Keyed { fields, client, path: self.head.path() });
        let aim = Aim { to, key, held: self.affinity.as_ref().and_then(Affinity::held) };
        let mut fresh = false;
        let mut tried = Vec::new();
        // What the attempt before came to, and the pause after it.
        let mut again: Option<(retry::Cause, u64)> = None;
        loop {
            if let Some((_, wait_ms)) = again
                && wait_ms > 0
            {
                Box::pin(self.pause(wait_ms)).await?;
            }
            let (endpoint, _attempt) = pick(self.worker, self.pinned, aim, &mut tried)?;
            self.seen.attempts += 1;
            if let Some((cause, _)) = again {
                self.seen.retried_for = Some(cause);
                series.retries[cause.index()].inc();
            }
            let begun_us = if self.tries.is_some() { now_us() } else { 0 };
            let channel = self.connect(upstream, &endpoint, fresh).await;
            self.seen.endpoint = Some(endpoint.clone());
            if let Err(error) = &channel {
                self.worker.judge(upstream, &endpoint, outcome_of_connect(error));
                if !matches!(error, ConnectError::Over(Cause::ClientGone)) {
                    endpoint.state.failed(now_ms());
                }
            }
            let channel = match channel {
                Ok(channel) => channel,
                Err(error) => match self.after_no_connection(&error, endpoints, tried.len()) {
                    Some(wait_ms) => {
                        tried.push(endpoint);
                        again = Some((retry::Cause::Connect, wait_ms));
                        continue;
                    }
                    None => return Err(self.connect_refusal(error)),
                },
            };
            let reused = channel.reused();
            let replay = self.hold(&channel);
            let over = self.guard.ender();
            // A connection of its own is shut down when the exchange is over; one that others use is not.
            let is_shared = matches!(channel, Channel::H2(_));
            let came = {
                let mut attempt = pin!(self.attempt(upstream, timeouts, channel, &replay, begun_us));
                poll_fn(|cx| match attempt.as_mut().poll(cx) {
                    Poll::Pending if is_shared && over.poll_over(cx).is_ready() => Poll::Ready(Err(Failure::over())),
                    came => came,
                })
                .await
            };
            match came {
                Ok(Attempt::Over) => return Ok(()),
                Ok(Attempt::Again { cause, wait_ms }) => {
                    let restored = replay.restore(&mut self.body);
                    debug_assert!(restored, "asked for before the answer was given up");
                    tried.push(endpoint);
                    again = Some((cause, wait_ms));
                }
                Err(failure) => {
                    self.guard.attach(None);
                    let over = self.guard.fired();
                    let refusal = match over {
                        Some(Cause::ClientGone) => Refusal::ClientGone,
                        Some(_) => Refusal::UpstreamTotalTimeout,
                        None => failure.refusal,
                    };
                    // A kept connection that was closed meanwhile says nothing about those that come.
                    if !(reused && failure.unanswered) {
                        self.judge(upstream, &endpoint, refusal);
                        series.failed(refusal);
                    }
                    let lives = over.is_none() && !self.answer.started();
                    // A kept connection that its service closed meanwhile is nobody's failure, nor is a stream that it did not
                    // take. Once: the next one is new.
                    let missed = failure.unprocessed || (reused && failure.unanswered && self.is_repeatable());
                    let stale = missed && lives && !self.seen.stale && replay.is_whole(true);
                    let next = match stale {
                        true => Some((retry::Cause::Stale, 0)),
                        false if lives => self.after_failure(&failure, &replay),
                        false => None,
                    };
                    match next {
                        Some(_) if replay.restore(&mut self.body) => {
                            match stale {
                                true => {
                                    series.stale_connections.inc();
                                    self.seen.stale = true;
                                    fresh = true;
                                }
                                false => tried.push(endpoint),
                            }
                            again = next;
                        }
                        _ => {
                            self.seen.detail = failure.detail;
                            return Err(refusal);
                        }
                    }
                }
            }
        }
    }

    async fn connect(
        &mut self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        fresh: bool,
    ) -> Result<Channel, ConnectError> {
        let wait_ms = upstream.timeouts.connect;
        let of_client;
        let identity = match endpoint.identity.link.proxy {
            None => &endpoint.identity,
            Some(_) => {
                of_client = endpoint.identity.for_client(self.client.address);
                &of_client
            }
        };
        let to = Reaching {
            worker: self.worker,
            identity,
            settings: upstream.pool,
            fresh,
            http1: self.hop.websocket,
            guard: &self.guard,
            wait_ms: self.tries.as_ref().map_or(wait_ms, |tries| tries.connect(wait_ms)),
        };
        let reached = reach(&to).await;
        upstream.series.core(self.worker.id).reached(&reached);
        let (channel, opened) = reached?;
        self.seen.reused = opened.is_none();
        Ok(channel)
    }

    fn connect_refusal(&mut self, error: ConnectError) -> Refusal {
        let refusal = error.refusal();
        self.seen.detail = error.detail().unwrap_or_default();
        refusal
    }

    /// Whether there is another attempt where no connection could be opened, and after how many milliseconds. Nothing was sent:
    /// another endpoint may take any request.
    fn after_no_connection(&mut self, error: &ConnectError, endpoints: &Endpoints, tried: usize) -> Option<u64> {
        let refused = error.is_refused();
        if !refused && !matches!(error, ConnectError::Over(Cause::Connect)) {
            return None;
        }
        let missed = self.missed(retry::Cause::Connect, true);
        let attempts = self.counted();
        match &mut self.tries {
            Some(tries) if tries.retry().wants(retry::Cause::Connect) => {
                let elsewhere = tried + 1 < endpoints.list().len();
                tries.reconnect(attempts, if refused { endpoints.tries() } else { 0 }, elsewhere, &missed)
            }
            _ => (refused && attempts < endpoints.tries()).then_some(0),
        }
    }

    /// Whether there is another attempt after one that failed before its answer, and after how many milliseconds.
    fn after_failure(&mut self, failure: &Failure, replay: &Replay) -> Option<(retry::Cause, u64)> {
        let cause = failure.cause()?;
        let missed = self.missed(cause, replay.is_whole(true));
        let attempts = self.counted();
        self.tries.as_mut()?.repeat(attempts, &missed).map(|wait_ms| (cause, wait_ms))
    }

    fn missed(&self, cause: retry::Cause, replayable: bool) -> Missed {
        let lot = self.worker.ids.borrow_mut().next_u64();
        Missed { cause, retry_after: None, replayable, left_ms: self.guard.left(), lot, now_us: now_us() }
    }

    /// Attempts that count: one on a connection that its service had closed was none.
    fn counted(&self) -> u32 {
        self.seen.attempts - u32::from(self.seen.stale)
    }

    /// Whether the request may be sent twice where it is not known to have arrived once.
    fn is_repeatable(&self) -> bool {
        self.head.method.is_idempotent() || self.tries.as_ref().is_some_and(|tries| tries.takes_method())
    }

    /// What the attempt that follows leaves to be sent again.
    fn hold(&mut self, channel: &Channel) -> Replay {
        // A service may say of a stream that it did nothing with it.
        let shared = matches!(channel, Channel::H2(_));
        match &self.tries {
            _ if !self.is_repeatable() && shared => Replay::hold(&mut self.body, BODY_HELD_FOR_RETRY_BYTES, false),
            _ if !self.is_repeatable() => Replay::Not,
            Some(tries) => Replay::hold(&mut self.body, tries.retry().body_bytes_max, true),
            None if shared || channel.reused() => Replay::hold(&mut self.body, BODY_HELD_FOR_RETRY_BYTES, false),
            None => Replay::Not,
        }
    }

    /// One request on one connection. `begun_us`: when the attempt began, where that counts.
    async fn attempt(
        &mut self,
        upstream: &Upstream,
        timeouts: UpstreamTimeouts,
        mut channel: Channel,
        replay: &Replay,
        begun_us: u64,
    ) -> Result<Attempt, Failure> {
        let series = upstream.series.core(self.worker.id);
        series.sent(self.seen.endpoint.as_ref().and_then(|endpoint| endpoint.about.distance));
        self.guard.attach(channel.fd());
        let length = if self.hop.websocket { Length::Absent } else { self.body.length() };
        let host = match (self.head.sent_host(), &upstream.host) {
            (Some(host), _) => host,
            (None, HostPolicy::Keep) => self.head.authority(),
            (None, HostPolicy::Endpoint) => {
                self.seen.endpoint.as_ref().map_or(&b""[..], |endpoint| endpoint.written.as_bytes())
            }
            (None, HostPolicy::Fixed(host)) => host.as_bytes(),
        };
        let asked = Asked {
            method: self.head.method_text(),
            path: self.head.sent_path(),
            query: self.head.query(),
            host,
            fields: &self.head.fields,
            length,
            hop: self.hop,
        };
        let (mut up, mut down) = channel.begin(&asked, self.worker);
        if self.options.lists_fields {
            up.withhold_trailers(self.head.fields.listed().names());
        }
        let mirror = self.mirroring.as_ref().map(|mirroring| mirroring.tee());
        if let Some(tee) = mirror {
            tee.restart();
        }
        let waits = match &self.tries {
            Some(tries) => tries.waits(timeouts, (now_us() - begun_us) / 1000),
            None => timeouts,
        };
        let settles = self.expectation != Expectation::Continue;
        let attempts = self.counted();
        let converses = self.is_grpc && !self.body.ended();
        let answered = if converses { self.body.converse(timeouts.idle) } else { None };
        let replay_tee = replay.tee();
        let mut sending =
            Sending { body: &mut self.body, up, timeouts: waits, mirror, replay: replay_tee, settles, answered };
        let sent = relay::send_first(&mut sending).await?;
        let sent_us = now_us();
        self.seen.sent_us = sent_us;
        let guard = &self.guard;
        let mut finishing = Finishing {
            request: &mut self.head,
            facts: facts(&self.client, &self.request_id, self.route, self.scheme, self.tls),
            kept: &mut self.kept,
            route: self.route,
            settings: &self.snapshot.settings,
            worker: self.worker,
            listener: self.listener,
            websocket: self.hop.websocket,
            timeouts,
            endpoint: self.seen.endpoint.as_deref(),
            affinity: self.affinity.as_ref(),
            series,
            sent_us,
            first_byte_us: 0,
            status: 0,
            is_grpc: self.is_grpc,
            grpc: None,
            repeating: self.tries.as_deref_mut().map(|tries| Repeating { tries, replay, attempts, settles, guard }),
        };
        let (done, upload) = match sent {
            Sent::Part => {
                let finish = async |headed, down: &mut Down<'_>, answer: &mut Answer<'_>, uploaded| {
                    finishing.answer(headed, down, answer, uploaded).await
                };
                Box::pin(relay::upload_and_receive(sending, &mut down, &mut self.answer, finish)).await?
            }
            sent => {
                sending.up.into_scratch(self.worker);
                let headed = relay::receive(&mut down, &mut self.answer, waits).await?;
                let done = finishing.answer(headed, &mut down, &mut self.answer, sent == Sent::All).await?;
                (done, if sent == Sent::All { Upload::Complete } else { Upload::Stopped })
            }
        };
        let (first_byte_us, status) = (finishing.first_byte_us, finishing.status);
        self.seen.grpc = finishing.grpc;
        if let Some(endpoint) = &self.seen.endpoint {
            let status = self.seen.grpc.map_or(status, grpc::Status::as_http);
            self.worker.judge(upstream, endpoint, Some(Outcome::of_status(status)));
        }
        self.seen.upstream_us = first_byte_us.saturating_sub(sent_us).max(1);
        series.first_byte.observe_us(self.seen.upstream_us);
        drop(down);
        self.guard.attach(None);
        match (done, channel) {
            (Done::Switched { carry }, Channel::H1(mut connection)) => {
                self.guard.attach(Some(connection.wire.fd()));
                self.seen.tunnelled = Box::pin(self.tunnel(&mut connection, carry)).await;
                self.guard.attach(None);
            }
            // No stream switches protocols.
            (Done::Switched { .. }, Channel::H2(_)) => {}
            (Done::Answered { reusable }, channel) => {
                self.part(upstream, channel, reusable && upload == Upload::Complete);
                if upload == Upload::Stopped {
                    self.answer.close_after();
                }
            }
            (Done::Again { cause, wait_ms, reusable }, channel) => {
                self.part(upstream, channel, reusable && upload == Upload::Complete);
                return Ok(Attempt::Again { cause, wait_ms });
            }
        }
        Ok(Attempt::Over)
    }

    /// Gives a connection back, if it is one's own and can be used again.
    fn part(&self, upstream: &Upstream, channel: Channel, reusable: bool) {
        if let Channel::H1(connection) = channel
            && reusable
        {
            self.worker.pool.put(connection, upstream.pool);
        }
    }

    async fn tunnel(&mut self, connection: &mut Connection, carry: Option<crate::rt::Buf>) -> (u64, u64) {
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
}
