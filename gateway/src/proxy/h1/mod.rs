//! A client's HTTP/1 connection: heads are read one after the other, each becomes an exchange, answers leave in order.
//!
//! An idle connection is a small task that waits without a buffer; everything an exchange needs is allocated for it and
//! gone after it. Requests a client pipelines wait in the buffer they came in; none is pipelined to an upstream.

pub mod answer;
pub mod body;
pub mod outgoing;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use http1::{Canonical, Fault, HeadLimits, Known, PathPolicy, Scanner};

use self::answer::{Answer, length_of};
use self::body::H1Body;
use super::body::Body;
use super::exchange::{Arrival, Departure, Exchange};
use super::fields::Fields;
use super::head::{Client, RequestHead};
use super::reply;
use super::trace::RequestId;
use super::wire::{Halt, Handshake, NoHandshake, Pace, Wait, Wire};
use crate::config::model::{ClientAddress, Underscores};
use crate::limits::{HEAD_READ_BYTES, LINGER_BYTES_MAX, LINGER_MS};
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, Remote, now_ms, now_us};
use crate::rt::{Buf, Socket};
use crate::snapshot::Settings;
use crate::tables::connections::Place;
use crate::worker::{Open, Worker};

/// A client's connection.
pub struct Connection {
    open: Open,
    wire: Wire,
    /// index into `Snapshot::listeners`
    listener: u32,
    peer: IpAddr,
    /// Received behind the last request.
    carry: Option<Buf>,
    served: u32,
    /// What was agreed on, if TLS is spoken.
    tls: Option<Box<Handshake>>,
    born_ms: u64,
    /// Room for one among the open connections.
    _place: Place,
}

/// What becomes of a connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Another request may come.
    Keep,
    Close,
    /// The client may still be sending: closing at once could destroy the answer on its way (RFC 9112 §9.6).
    Linger,
    /// The answer is broken and must not look whole.
    Reset,
}

/// Serves one client connection to its end.
///
/// A block and not an `async fn`: that would hold the connection twice, as an argument and as a variable, and an idle
/// connection is little more than this future.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold the connection twice")]
pub fn serve(mut connection: Connection) -> impl Future<Output = ()> {
    async move {
        if !connection.secure().await {
            return;
        }
        loop {
            if connection.carry.is_none() && !connection.wait_for_request().await {
                connection.wire.say_end();
                break;
            }
            // On the heap, so that the waiting task above stays small.
            match Box::pin(connection.exchange()).await {
                After::Keep => {}
                After::Close => {
                    connection.wire.say_end();
                    break;
                }
                After::Linger => {
                    Box::pin(connection.linger()).await;
                    break;
                }
                After::Reset => {
                    connection.wire.reader.reset();
                    break;
                }
            }
        }
    }
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(open: Open, socket: Socket, peer: IpAddr, listener: usize, place: Place) -> Connection {
        Connection {
            open,
            wire: Wire::plain(socket),
            listener: listener as u32,
            peer: peer.to_canonical(),
            carry: None,
            served: 0,
            tls: None,
            born_ms: now_ms(),
            _place: place,
        }
    }

    /// Agrees on TLS where the listener wants it. `false`: the connection is over.
    async fn secure(&mut self) -> bool {
        let worker = self.open.worker().clone();
        let pinned = worker.pinned();
        let Some(tls) = &pinned.snapshot.listeners[self.listener as usize].tls else { return true };
        let core = worker.core();
        let ms = pinned.snapshot.settings.tls_handshake_ms;
        // Who says nothing holds nothing, and does not hold up a drain.
        if let Err(halt) = self.wire.reader.readable(Wait { ms, cause: Cause::Silence }).await {
            if matches!(halt, Halt::Expired(_)) {
                core.timeouts_handshake.inc();
            }
            return false;
        }
        let ms = (self.born_ms + ms).saturating_sub(now_ms()).max(1);
        let place = Handshaking::enter(&worker, self.wire.reader.remote());
        // On the heap: the task is to be small once this is over.
        let wait = Wait { ms, cause: Cause::Handshake };
        let done = Box::pin(self.wire.accept_tls(tls.config.clone(), wait)).await;
        let was_cut = place.was_cut();
        drop(place);
        match done {
            Ok(handshake) => {
                let counter = if handshake.resumed { &core.handshakes_resumed } else { &core.handshakes_full };
                counter.inc();
                self.tls = Some(Box::new(handshake));
                true
            }
            Err(NoHandshake::Halted(Halt::Expired(_))) => {
                // Whoever cut it has counted it.
                if !was_cut {
                    core.timeouts_handshake.inc();
                }
                false
            }
            Err(NoHandshake::Plain) => {
                core.requests.inc();
                core.handshakes_failed.inc();
                Box::pin(self.refuse_head(&pinned.snapshot.settings, Refusal::TlsRequired)).await;
                Box::pin(self.linger()).await;
                false
            }
            // A client that is gone, or looked whether somebody is here.
            Err(NoHandshake::Halted(_)) => false,
            Err(NoHandshake::Tls(error)) => {
                core.handshakes_failed.inc();
                tracing::debug!(%error, peer = %self.peer, "no TLS handshake");
                false
            }
        }
    }

    /// Waits for the first byte of a request without holding a buffer. `false`: the connection is over.
    async fn wait_for_request(&mut self) -> bool {
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
            // One deadline covers everything from accept to a complete head: it is set here and not again.
            0 => Wait { ms: settings.head_ms, cause: Cause::Silence },
            _ => {
                let age_left = (self.born_ms + settings.connection_age_ms).saturating_sub(now_ms());
                Wait { ms: settings.keep_alive_ms.min(age_left), cause: Cause::KeepAlive }
            }
        }
    }

    fn count_halt(&self, halt: &Halt) {
        let core = self.open.worker().core();
        match halt {
            Halt::Expired(Cause::Head | Cause::Silence) => core.timeouts_head.inc(),
            Halt::Expired(Cause::KeepAlive) => core.timeouts_keep_alive.inc(),
            _ => {}
        }
    }

    /// Reads one request and answers it.
    async fn exchange(&mut self) -> After {
        let worker = self.open.worker().clone();
        let pinned = worker.pinned();
        let snapshot = &*pinned.snapshot;
        let settings = &*snapshot.settings;
        let listener = &snapshot.listeners[self.listener as usize];
        let started_us = now_us();
        let (mut fields, line) = match self.read_head(settings).await {
            Ok(Some(read)) => read,
            Ok(None) => return After::Close,
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
        let client = client_of(&fields, listener.client_address, self.peer, &settings.trusted_hops);
        fields.truncate_arena(line.head_bytes);
        let head = RequestHead::new(&line, &target, canonical, traits, fields);
        let mut wire_body = H1Body::new(framing, u64::MAX, Pace::new(settings.rate_min));
        if let Some(rest) = rest {
            wire_body.feed(rest);
        }
        let keep = options.persists(line.version) && self.served < settings.requests_per_connection;
        let client_fd = self.wire.fd();
        let mut answer = Answer::new(
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
            server_name: self.tls.as_ref().and_then(|tls| tls.server_name.as_deref()),
            client_fd,
            started_us,
        };
        let mut exchange = Exchange::new(arrival, head, body, answer);
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

    /// Reads one head. `Ok(None)`: the connection is over without one.
    async fn read_head(&mut self, settings: &Settings) -> Result<Option<(Fields, http1::RequestLine)>, Refusal> {
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
            if !bytes.is_empty()
                && let Some(line) =
                    http1::read_request(&mut scanner, bytes, &limits, table).map_err(Refusal::Malformed)?
            {
                self.wire.reader.disarm();
                return Ok(Some((fields, line)));
            }
            let started = !bytes.is_empty();
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
                        _ => Ok(None),
                    };
                }
            }
        }
    }

    /// Answers what never became an exchange. The connection ends: nobody knows where its next request would begin.
    async fn refuse_head(&mut self, settings: &Settings, refusal: Refusal) -> After {
        let worker = self.open.worker().clone();
        self.wire.reader.disarm();
        worker.core().refusals[refusal.index()].inc();
        let request_id = RequestId::made(&mut worker.ids.borrow_mut());
        worker.log_refused_head(self.listener as usize, self.peer, &request_id, refusal);
        let (mut head, body) = reply::problem(refusal, &request_id, None, reply::RETRY_AFTER_S);
        head.fields.add(b"date", &worker.date());
        let mut answer = Answer::new(
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
    async fn linger(&mut self) {
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

/// A handshake under way, known to its worker as long as this lives.
struct Handshaking<'a> {
    worker: &'a Worker,
    number: u64,
}

impl<'a> Handshaking<'a> {
    /// Takes a place, the oldest one's if there is no other. `reader`: of a half that lives as long as this.
    fn enter(worker: &'a Worker, reader: Remote) -> Handshaking<'a> {
        let (number, oldest) = worker.handshakes.borrow_mut().enter(reader);
        if let Some(oldest) = oldest {
            worker.core().handshakes_cut.inc();
            oldest.arm(0, Cause::Handshake);
        }
        Handshaking { worker, number }
    }

    fn was_cut(&self) -> bool {
        !self.worker.handshakes.borrow().contains(self.number)
    }
}

impl Drop for Handshaking<'_> {
    fn drop(&mut self) {
        self.worker.handshakes.borrow_mut().leave(self.number);
    }
}

/// A head that HTTP finds nothing wrong with.
struct Prepared {
    target: http1::Target,
    canonical: Option<Vec<u8>>,
    traits: http1::PathTraits,
    framing: http1::Framing,
    options: http1::ConnectionOptions,
}

impl Prepared {
    fn of(fields: &Fields, line: &http1::RequestLine, underscores: Underscores) -> Result<Prepared, Refusal> {
        let (bytes, table) = (fields.arena(), fields.received());
        if underscores == Underscores::Refuse && table.iter().any(|field| field.underscore) {
            return Err(Refusal::FieldNameUnderscore);
        }
        let target = http1::parse_target(bytes, line, line.host).map_err(Refusal::Malformed)?;
        let framing = http1::request_framing(bytes, line.version, table).map_err(Refusal::Malformed)?;
        let options = http1::connection_options(bytes, table);
        let (canonical, traits) = match target.form {
            http1::Form::Origin | http1::Form::Absolute if !target.path.is_empty() => {
                let mut path = Vec::new();
                match http1::canonical_path(target.path.of(bytes), &PathPolicy::KEEP, &mut path) {
                    Ok(Canonical::Unchanged(traits)) => (None, traits),
                    Ok(Canonical::Rewritten(traits)) => (Some(path), traits),
                    Err(fault) => return Err(Refusal::Malformed(fault)),
                }
            }
            // RFC 9112 §3.2.4: an absolute form without a path means the server as a whole for OPTIONS.
            http1::Form::Absolute if line.method == http1::Method::Options => {
                (Some(b"*".to_vec()), http1::PathTraits::default())
            }
            http1::Form::Absolute => (Some(b"/".to_vec()), http1::PathTraits::default()),
            _ => (None, http1::PathTraits::default()),
        };
        Ok(Prepared { target, canonical, traits, framing, options })
    }
}

/// A head that did not come over a connection, read as one that did. `text` is all of it, at most one buffer.
pub fn read_head(text: &[u8], limits: &HeadLimits, underscores: Underscores) -> Result<RequestHead, Refusal> {
    let mut fields = Fields::over(Buf::copy_of(text).ok_or(Refusal::Malformed(Fault::HeadTooLarge))?);
    let (bytes, table) = fields.parse_into();
    let line = http1::read_request(&mut Scanner::default(), bytes, limits, table).map_err(Refusal::Malformed)?;
    let line = line.ok_or(Refusal::Malformed(Fault::HeadIncomplete))?;
    let Prepared { target, canonical, traits, .. } = Prepared::of(&fields, &line, underscores)?;
    Ok(RequestHead::new(&line, &target, canonical, traits, fields))
}

/// Decides the client's address, once.
fn client_of(fields: &Fields, rule: ClientAddress, peer: IpAddr, trusted_hops: &[ipnet::IpNet]) -> Client {
    let is_trusted = |address: IpAddr| trusted_hops.iter().any(|hop| hop.contains(&address));
    let trusted = !trusted_hops.is_empty() && is_trusted(peer);
    let address = match rule {
        ClientAddress::Forwarded if trusted => walk_forwarded(fields, peer, is_trusted),
        _ => peer,
    };
    Client { address, peer, trusted }
}

/// Walks `X-Forwarded-For` from the right past trusted hops. What cannot be read ends the walk: nothing left of it is
/// believed.
fn walk_forwarded(fields: &Fields, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let values: Vec<&[u8]> =
        fields.iter().filter(|&(_, _, known)| known == Known::XForwardedFor).map(|(_, value, _)| value).collect();
    let mut client = peer;
    for element in values.iter().rev().flat_map(|value| value.rsplit(|&byte| byte == b',')) {
        let Some(address) = std::str::from_utf8(element.trim_ascii()).ok().and_then(parse_forwarded) else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// An address as hops write it: bare, with a port, or IPv6 in brackets.
fn parse_forwarded(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()));
    let address = address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        let hops = ["10.0.0.0/8".parse().expect("net")];
        let check = |peer: &str, values: &[&str], expected: &str| {
            let mut fields = Fields::new();
            values.iter().for_each(|value| fields.add(b"x-forwarded-for", value.as_bytes()));
            let peer = peer.parse().expect("address");
            let client = client_of(&fields, ClientAddress::Forwarded, peer, &hops);
            assert_eq!(client.address.to_string(), expected, "{peer} {values:?}");
        };
        check("10.1.1.1", &[], "10.1.1.1");
        check("10.1.1.1", &["203.0.113.7"], "203.0.113.7");
        check("10.1.1.1", &["1.2.3.4, 203.0.113.7, 10.2.2.2"], "203.0.113.7");
        check("10.1.1.1", &["1.2.3.4", "203.0.113.7"], "203.0.113.7");
        check("10.1.1.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3");
        check("10.1.1.1", &["203.0.113.7, nonsense"], "10.1.1.1");
        check("10.1.1.1", &["203.0.113.7:1234"], "203.0.113.7");
        check("10.1.1.1", &["[2001:db8::1]:443"], "2001:db8::1");
        check("10.1.1.1", &["::ffff:203.0.113.7"], "203.0.113.7");
        check("192.0.2.1", &["203.0.113.7"], "192.0.2.1");
    }
}
