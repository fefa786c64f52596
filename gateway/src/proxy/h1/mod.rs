//! A client's HTTP/1 connection: heads are read one after the other, each becomes an exchange, answers leave in order.
//!
//! An idle connection is a small task that waits without a buffer; everything an exchange needs is allocated for it and
//! gone after it. Requests a client pipelines wait in the buffer they came in; none is pipelined to an upstream.

pub mod answer;
pub mod body;
pub mod outgoing;

use http1::{Fault, HeadLimits, Scanner};

use self::answer::{H1Answer, length_of};
use self::body::H1Body;
use super::answer::Answer;
use super::body::Body;
use super::connection::Connection;
use super::exchange::{Arrival, Departure, Exchange};
use super::fields::Fields;
use super::head::{Protocol, RequestHead};
use super::prepare::{Prepared, client_of};
use super::proxy_protocol;
use super::reply;
use super::trace::RequestId;
use super::wire::{Halt, Pace, Wait};
use crate::limits::{HEAD_READ_BYTES, LINGER_BYTES_MAX, LINGER_MS};
use crate::refusal::Refusal;
use crate::rt::Buf;
use crate::rt::deadline::{Cause, now_ms, now_us};
use crate::snapshot::Settings;

/// What becomes of a connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may come.
    Keep,
    Close,
    /// The client may still be sending: closing at once could destroy the answer on its way (RFC 9112 §9.6).
    Linger,
    /// The answer is broken and must not look whole.
    Reset,
    /// It began as HTTP/2 does; what was received is kept.
    Http2,
}

/// What was read instead of a head, or it.
enum Read {
    Head(Fields, http1::RequestLine),
    /// The connection is over.
    Nothing,
    /// The preface of HTTP/2 (RFC 9113 §3.4).
    Http2,
}

impl Connection {
    /// Waits for the first byte of a request without holding a buffer. `false`: the connection is over.
    pub(super) async fn wait_for_request(&mut self) -> bool {
        let wait = self.wait();
        match self.wire.reader.readable(wait).await {
            Ok(()) => true,
            Err(halt) => {
                self.count_halt(&halt);
                false
            }
        }
    }

    /// How long the client may be silent now.
    fn wait(&self) -> Wait {
        let pinned = self.open.worker().pinned();
        let settings = &pinned.snapshot.settings;
        match self.served {
            // One deadline covers everything from accept to a complete head. With TLS agreed on, it begins anew.
            0 => {
                let gone = if self.tls.is_some() { 0 } else { now_ms().saturating_sub(self.born_ms) };
                Wait { ms: settings.head_ms.saturating_sub(gone).max(1), cause: Cause::Silence }
            }
            _ => {
                let age_left = (self.born_ms + settings.connection_age_ms).saturating_sub(now_ms());
                Wait { ms: settings.keep_alive_ms.min(age_left), cause: Cause::KeepAlive }
            }
        }
    }

    pub(super) fn count_halt(&self, halt: &Halt) {
        let core = self.open.worker().core();
        match halt {
            Halt::Expired(Cause::Head | Cause::Silence) => core.timeouts_head.inc(),
            Halt::Expired(Cause::KeepAlive) => core.timeouts_keep_alive.inc(),
            _ => {}
        }
    }

    /// Reads one request and answers it.
    pub(super) async fn exchange(&mut self) -> After {
        let worker = self.open.worker().clone();
        let pinned = worker.pinned();
        let snapshot = &*pinned.snapshot;
        let settings = &*snapshot.settings;
        let listener = &snapshot.listeners[self.listener as usize];
        let started_us = now_us();
        let (mut fields, line) = match self.read_head(settings, listener.http2).await {
            Ok(Read::Head(fields, line)) => (fields, line),
            Ok(Read::Nothing) => return After::Close,
            Ok(Read::Http2) => return After::Http2,
            Err(refusal) => {
                worker.core().requests.inc();
                return Box::pin(self.refuse_head(settings, refusal)).await;
            }
        };
        self.served = self.served.saturating_add(1);
        worker.core().requests.inc();
        worker.core().requests_in_flight.inc();
        let prepared = Prepared::of(&fields, &line, listener.underscores);
        let Prepared { target, canonical, traits, framing, options } = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                worker.core().requests_in_flight.dec();
                return Box::pin(self.refuse_head(settings, refusal)).await;
            }
        };
        let rest = fields.arena().get(line.head_bytes..).filter(|rest| !rest.is_empty());
        // What follows the head gets a buffer of its own: the head stays where it is until its answer is out.
        let rest = rest.map(|rest| Buf::copy_of(rest).expect("a part of one buffer fits in another"));
        let client = client_of(&fields, listener.client_address, self.speaker, &settings.trusted_hops);
        fields.truncate_arena(line.head_bytes);
        let head = RequestHead::new(&line, line.version.into(), &target, canonical, traits, fields);
        let mut wire_body = H1Body::new(framing, u64::MAX, Pace::new(settings.rate_min));
        if let Some(rest) = rest {
            wire_body.feed(rest);
        }
        let keep = options.persists(line.version) && self.served < settings.requests_per_connection;
        let client_fd = self.wire.fd();
        let mut answer = H1Answer::new(
            &mut self.wire.writer,
            worker.take_scratch(),
            (line.method, line.version),
            keep,
            Wait { ms: settings.body_idle_ms, cause: Cause::Write },
            Pace::new(settings.rate_min),
        );
        answer.keep_until(self.born_ms + settings.connection_age_ms);
        let body = Body::Wire {
            body: &mut wire_body,
            reader: &mut self.wire.reader,
            wait: Wait { ms: settings.body_idle_ms, cause: Cause::Body },
            length: length_of(framing),
        };
        let arrival = Arrival {
            worker: &worker,
            pinned: &pinned,
            listener,
            options,
            client,
            scheme: if self.tls.is_some() { "https" } else { "http" },
            tls: self.tls.as_deref(),
            client_fd: Some(client_fd),
            websocket: false,
            started_us,
        };
        let mut exchange = Exchange::new(arrival, head, body, Answer::H1(answer));
        exchange.run().await;
        let departure = exchange.finish();
        worker.put_scratch(departure.scratch);
        self.carry = wire_body.take_carry();
        match departure {
            Departure { reset: true, .. } => After::Reset,
            Departure { keep: true, .. } if wire_body.ended() => After::Keep,
            // The client is told, but may be in the middle of its body, or have pipelined more.
            _ if !wire_body.ended() || self.carry.is_some() => After::Linger,
            _ => After::Close,
        }
    }

    /// Reads one head. `http2`: the connection may turn out to speak that.
    async fn read_head(&mut self, settings: &Settings, http2: bool) -> Result<Read, Refusal> {
        let limits =
            HeadLimits { head_bytes: settings.head_bytes, fields: settings.fields, target_bytes: settings.head_bytes };
        let mut scanner = Scanner::default();
        let first = self.served == 0;
        let mut armed = false;
        let mut buf = match self.carry.take() {
            // A head must fit behind what was in front of it.
            Some(carry) if carry.room() < settings.head_bytes => {
                Buf::copy_of(carry.bytes()).expect("a part of one buffer fits in another")
            }
            Some(carry) => carry,
            None => Buf::take(),
        };
        loop {
            let mut fields = Fields::over(buf);
            let (bytes, table) = fields.parse_into();
            let read = match bytes {
                [] => None,
                bytes => match http1::read_request(&mut scanner, bytes, &limits, table) {
                    Err(Fault::Http2Preface) if http2 && first && self.tls.is_none() => {
                        self.carry = fields.take_arena();
                        return Ok(Read::Http2);
                    }
                    read => read.map_err(|fault| match first && proxy_protocol::begins(bytes) {
                        true => Refusal::ProxyHeaderUnexpected,
                        false => Refusal::Malformed(fault),
                    })?,
                },
            };
            if let Some(line) = read {
                self.wire.reader.disarm();
                return Ok(Read::Head(fields, line));
            }
            let started = !fields.arena().is_empty();
            buf = fields.take_arena().expect("made over one");
            // Under TLS something came, if not a byte of the head yet.
            if !armed && (started || first || self.tls.is_some()) {
                // The first request's head has the deadline that began at accept.
                if first {
                    self.wire.reader.rename(Cause::Head);
                } else {
                    self.wire.reader.arm(Wait { ms: settings.head_ms, cause: Cause::Head });
                }
                armed = true;
            }
            let (result, filled) = self.wire.reader.read_armed(buf, HEAD_READ_BYTES).await;
            buf = filled;
            match result {
                Ok(_) => {}
                Err(halt) => {
                    self.count_halt(&halt);
                    return match halt {
                        Halt::Expired(Cause::Head) if !buf.is_empty() => Err(Refusal::HeadTimeout),
                        // An empty line before a request is nothing yet (RFC 9112 §2.2).
                        Halt::Closed if !matches!(buf.bytes(), b"" | b"\r" | b"\r\n") => {
                            Err(Refusal::Malformed(Fault::HeadIncomplete))
                        }
                        _ => Ok(Read::Nothing),
                    };
                }
            }
        }
    }

    /// Answers what never became an exchange. The connection ends: nobody knows where its next request would begin.
    pub(super) async fn refuse_head(&mut self, settings: &Settings, refusal: Refusal) -> After {
        let worker = self.open.worker().clone();
        self.wire.reader.disarm();
        worker.core().refusals[refusal.index()].inc();
        let request_id = RequestId::made(&mut worker.ids.borrow_mut());
        worker.log_refused_head(self.listener as usize, self.speaker.address, &request_id, refusal, Protocol::Http11);
        let (mut head, body) = reply::problem(refusal, &request_id, None, reply::RETRY_AFTER_S);
        head.fields.add(b"date", &worker.date());
        let mut answer = H1Answer::new(
            &mut self.wire.writer,
            worker.take_scratch(),
            (http1::Method::Other, http1::Version::Http11),
            false,
            Wait { ms: settings.body_idle_ms, cause: Cause::Write },
            Pace::new(0),
        );
        answer.head(&head, super::body::Length::Exact(body.len() as u64));
        // A client that is gone needs no answer.
        let _ = answer.end(Some(super::wire::Chunk::Shared(body)), None).await;
        worker.put_scratch(answer.into_scratch());
        After::Linger
    }

    /// Says that nothing more comes and reads what the client still sends, for a short while.
    pub(super) async fn linger(&mut self) {
        self.wire.writer.shutdown().await;
        let reader = &mut self.wire.reader;
        reader.arm(Wait { ms: LINGER_MS, cause: Cause::Head });
        let mut dropped = 0;
        // Most have nothing more to say: the wait holds no buffer.
        while dropped < LINGER_BYTES_MAX && reader.readable_armed().await.is_ok() {
            match reader.read_armed(Buf::take(), usize::MAX).await {
                (Ok(n), _) => dropped += n,
                (Err(_), _) => return,
            }
        }
    }
}
