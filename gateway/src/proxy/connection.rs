//! A client's connection: what is agreed on before the first request, and which protocol speaks then.
//!
//! ```text
//! accept → (PROXY header: who the client is) → (TLS: name, ALPN) → http/1 | http/2
//! ```
//!
//! Whether a PROXY header comes first is what the listener says, never what the bytes look like.
//!
//! Under TLS the protocol is what ALPN chose (RFC 7301). Without, HTTP/2 is spoken to whoever begins with its preface
//! (RFC 9113 §3.3, prior knowledge), and HTTP/1 to everybody else.

use std::future::Future;
use std::net::IpAddr;

use super::h1::After;
use super::h2;
use super::head::Speaker;
use super::proxy_protocol::{self, Source};
use super::wire::{Halt, Handshake, NoHandshake, Wait, Wire};
use crate::limits::HEAD_READ_BYTES;
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, Remote, now_ms};
use crate::rt::{Buf, Socket};
use crate::tables::connections::Place;
use crate::worker::{Open, Worker};

/// A client's connection.
pub struct Connection {
    pub(super) open: Open,
    pub(super) wire: Wire,
    /// index into `Snapshot::listeners`
    pub(super) listener: u32,
    pub(super) speaker: Speaker,
    /// A PROXY header comes first.
    introduced: bool,
    /// Received behind the last request, or behind the PROXY header.
    pub(super) carry: Option<Buf>,
    pub(super) served: u32,
    /// What was agreed on, if TLS is spoken.
    pub(super) tls: Option<Box<Handshake>>,
    pub(super) born_ms: u64,
    /// Room for one among the open connections.
    pub(super) place: Place,
}

/// Serves one client connection to its end.
///
/// A block and not an `async fn`: that would hold the connection twice, as an argument and as a variable, and an idle
/// connection is little more than this future.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold the connection twice")]
pub fn serve(mut connection: Connection) -> impl Future<Output = ()> {
    async move {
        if connection.introduced && !connection.meet().await {
            return;
        }
        // On the heap: the task is to be small once this is over.
        if connection.wants_tls() && !Box::pin(connection.secure()).await {
            return;
        }
        if connection.tls.as_ref().is_some_and(|tls| tls.http2) {
            return Box::pin(h2::serve(connection)).await;
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
                After::Http2 => return Box::pin(h2::serve(connection)).await,
            }
        }
    }
}

impl Connection {
    /// A connection that was just accepted. `introduced`: a PROXY header comes first, and `place` is counted for the client it
    /// names.
    pub fn new(
        open: Open,
        socket: Socket,
        peer: IpAddr,
        introduced: bool,
        listener: usize,
        place: Place,
    ) -> Connection {
        Connection {
            open,
            wire: Wire::plain(socket),
            listener: listener as u32,
            speaker: Speaker { address: peer.to_canonical(), is_known: true },
            introduced,
            carry: None,
            served: 0,
            tls: None,
            born_ms: now_ms(),
            place,
        }
    }

    /// Reads the PROXY header and takes the connection for that of whom it names. `false`: the connection is over.
    async fn meet(&mut self) -> bool {
        let head_ms = self.open.worker().pinned().snapshot.settings.head_ms;
        // Who says nothing holds nothing. The deadline is that of the first head and goes on with it.
        if let Err(halt) = self.wire.reader.readable(Wait { ms: head_ms, cause: Cause::Silence }).await {
            self.count_halt(&halt);
            return false;
        }
        // On the heap: the task is to be small once this is over.
        match Box::pin(self.read_proxy_header()).await {
            Some(source) => self.admit(source),
            None => false,
        }
    }

    /// Reads the PROXY header; what came behind it is kept. `None`: the connection is over.
    async fn read_proxy_header(&mut self) -> Option<Source> {
        let worker = self.open.worker().clone();
        let core = worker.core();
        self.wire.reader.rename(Cause::Head);
        // It fits: no header is waited for that is longer than a fourth of it.
        let mut buf = Buf::take();
        loop {
            let (result, filled) = self.wire.reader.read_armed(buf, HEAD_READ_BYTES).await;
            buf = filled;
            if let Err(halt) = result {
                self.count_halt(&halt);
                // Whoever only looked whether somebody is here has said nothing wrong.
                if matches!(halt, Halt::Closed) && !buf.is_empty() {
                    core.proxy_headers_malformed.inc();
                }
                return None;
            }
            match proxy_protocol::parse(buf.bytes()) {
                Ok(None) => {}
                Ok(Some(header)) => {
                    buf.advance(header.consumed);
                    self.carry = (!buf.is_empty()).then_some(buf);
                    return Some(header.source);
                }
                Err(malformed) => {
                    core.proxy_headers_malformed.inc();
                    tracing::debug!(%malformed, peer = %self.speaker.address, "no PROXY header");
                    return None;
                }
            }
        }
    }

    /// Lets the client in whom the peer names, as whoever connects without a hop is let in at accept. `false`: it is not.
    fn admit(&mut self, source: Source) -> bool {
        let worker = self.open.worker();
        let core = worker.core();
        match source {
            Source::Hop => core.proxy_headers_local.inc(),
            Source::Unnamed => {
                core.proxy_headers_unnamed.inc();
                self.speaker.is_known = false;
            }
            Source::Client { client, .. } => {
                core.proxy_headers_accepted.inc();
                self.speaker.address = client.ip().to_canonical();
            }
        }
        let client = self.speaker.address;
        let pinned = worker.pinned();
        if !worker.admits(&pinned.snapshot, self.listener as usize, client) {
            core.connections_refused_list.inc();
            return false;
        }
        if self.place.count_for(client, pinned.snapshot.settings.connections_per_address_max).is_err() {
            core.connections_refused_address_limit.inc();
            return false;
        }
        true
    }

    fn wants_tls(&self) -> bool {
        self.open.worker().pinned().snapshot.listeners[self.listener as usize].tls.is_some()
    }

    /// Agrees on TLS where the listener wants it. `false`: the connection is over.
    async fn secure(&mut self) -> bool {
        let worker = self.open.worker().clone();
        let pinned = worker.pinned();
        let Some(tls) = &pinned.snapshot.listeners[self.listener as usize].tls else { return true };
        let core = worker.core();
        let ms = pinned.snapshot.settings.tls_handshake_ms;
        // Who says nothing holds nothing, and does not hold up a drain.
        if self.carry.is_none()
            && let Err(halt) = self.wire.reader.readable(Wait { ms, cause: Cause::Silence }).await
        {
            if matches!(halt, Halt::Expired(_)) {
                core.timeouts_handshake.inc();
            }
            return false;
        }
        let ms = (self.born_ms + ms).saturating_sub(now_ms()).max(1);
        let place = Handshaking::enter(&worker, self.wire.reader.remote());
        // On the heap: the task is to be small once this is over.
        let wait = Wait { ms, cause: Cause::Handshake };
        let received = self.carry.take();
        let done = Box::pin(self.wire.accept_tls(tls, received, wait)).await;
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
            Err(NoHandshake::Certificate(error)) => {
                core.handshakes_client_certificate.inc();
                tracing::debug!(%error, client = %self.speaker.address, "no TLS handshake without a certificate that is let in");
                false
            }
            Err(NoHandshake::Tls(error)) => {
                core.handshakes_failed.inc();
                tracing::debug!(%error, client = %self.speaker.address, "no TLS handshake");
                false
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
