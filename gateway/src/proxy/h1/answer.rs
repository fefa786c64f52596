//! The answer side of an HTTP/1 client connection: heads are encoded for the client's version, bodies framed, interim
//! answers sent or withheld.

use http1::{Field, Framing, Known, Method, Version, encode};

use super::outgoing::Outgoing;
use crate::proxy::body::Length;
use crate::proxy::head::ResponseHead;
use crate::proxy::wire::{Chunk, Halt, Pace, Wait, WireWriter};
use crate::rt::deadline::now_ms;

/// Pieces at least this long, and all after the first, are timed against the least rate: timing costs two clock reads.
const TIMED_BYTES: usize = 32 * 1024;

/// Sends one answer.
pub struct H1Answer<'a> {
    writer: &'a mut WireWriter,
    outgoing: Outgoing,
    request_method: Method,
    version: Version,
    /// The connection may live on after this exchange. Decided when the head is encoded.
    keep: bool,
    /// The age at which the connection ends, milliseconds of the process.
    keep_until_ms: u64,
    state: State,
    status: u16,
    /// The body's end is the connection's end.
    until_close: bool,
    wait: Wait,
    pace: Pace,
    pieces: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum State {
    /// Nothing was encoded yet: a refusal can still be sent.
    Open,
    /// The final head is encoded.
    Started,
    Complete,
}

impl<'a> H1Answer<'a> {
    pub fn new(
        writer: &'a mut WireWriter,
        scratch: Vec<u8>,
        request: (Method, Version),
        keep: bool,
        wait: Wait,
        pace: Pace,
    ) -> H1Answer<'a> {
        let (request_method, version) = request;
        H1Answer {
            writer,
            outgoing: Outgoing::new(scratch, false),
            request_method,
            version,
            keep,
            keep_until_ms: u64::MAX,
            state: State::Open,
            status: 0,
            until_close: false,
            wait,
            pace,
            pieces: 0,
        }
    }

    /// Past this time the answer is the connection's last, also when it began before.
    pub fn keep_until(&mut self, ms: u64) {
        self.keep_until_ms = ms;
    }

    /// The final head was encoded: no other answer can be sent any more.
    pub fn started(&self) -> bool {
        self.state != State::Open
    }

    pub fn complete(&self) -> bool {
        self.state == State::Complete
    }

    /// 0 before the final head.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Bytes of body sent.
    pub fn sent(&self) -> u64 {
        self.outgoing.sent()
    }

    /// Whether another request may follow on this connection.
    pub fn keeps(&self) -> bool {
        self.keep && self.complete()
    }

    /// The answer's body is delimited by the connection's end, so a broken one must not end in order.
    pub fn until_close(&self) -> bool {
        self.until_close
    }

    /// After this answer the connection is closed.
    pub fn close_after(&mut self) {
        self.keep = false;
    }

    pub fn into_scratch(self) -> Vec<u8> {
        self.outgoing.into_scratch()
    }

    /// Sends an interim (1xx) answer. HTTP/1.0 clients do not know them (RFC 9110 §15.2): withheld.
    pub async fn interim(&mut self, head: &ResponseHead) -> Result<(), Halt> {
        if self.version == Version::Http10 {
            return Ok(());
        }
        let mut outgoing = Outgoing::new(encoded(head, |_| true, &[]), false);
        outgoing.flush(self.writer, self.wait).await
    }

    /// Encodes the final head. It leaves with the first piece of the body, or with `flush`.
    pub fn head(&mut self, head: &ResponseHead, length: Length) {
        debug_assert!(!self.started(), "an exchange has one final answer");
        self.state = State::Started;
        self.status = head.status;
        let bodiless = self.request_method == Method::Head || matches!(head.status, 204 | 304);
        let chunked = !bodiless && length == Length::Unknown && self.version == Version::Http11;
        self.until_close = !bodiless && length == Length::Unknown && !chunked;
        self.keep &= !self.until_close && now_ms() < self.keep_until_ms;
        let mut out = std::mem::replace(&mut self.outgoing, Outgoing::new(Vec::new(), false)).into_scratch();
        encode::status_line(&mut out, head.status);
        // What describes the body's length stays where there is no body to describe it (RFC 9110 §8.6).
        let length_stays = bodiless && head.status != 204;
        head.fields.encode(&mut out, |known| known != Known::ContentLength || length_stays);
        match length {
            Length::Exact(length) if !bodiless => encode::field_u64(&mut out, b"content-length", length),
            _ if chunked => encode::field(&mut out, b"transfer-encoding", b"chunked"),
            _ => {}
        }
        match (self.keep, self.version) {
            (false, Version::Http11) => encode::field(&mut out, b"connection", b"close"),
            (true, Version::Http10) => encode::field(&mut out, b"connection", b"keep-alive"),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        self.outgoing = Outgoing::new(out, chunked);
    }

    /// Names trailer fields that go no further.
    pub fn withhold_trailers(&mut self, names: Vec<Box<[u8]>>) {
        self.outgoing.withhold_trailers(names);
    }

    /// Encodes a 101 head: `Upgrade` and `Connection` as the protocol switch needs them.
    pub fn switch(&mut self, head: &ResponseHead, protocol: &[u8]) {
        self.state = State::Started;
        self.status = head.status;
        self.keep = false;
        let fields: [(&[u8], &[u8]); 2] = [(b"connection", b"upgrade"), (b"upgrade", protocol)];
        self.outgoing = Outgoing::new(encoded(head, |known| known != Known::ContentLength, &fields), false);
    }

    /// Sends the head now, its body comes later or never.
    pub async fn flush(&mut self) -> Result<(), Halt> {
        self.outgoing.flush(self.writer, self.wait).await
    }

    /// Sends a piece of the body that is not the last one.
    pub async fn piece(&mut self, piece: Chunk) -> Result<(), Halt> {
        self.pieces += 1;
        if self.pieces == 1 && piece.len() < TIMED_BYTES {
            return self.outgoing.piece(self.writer, piece, self.wait).await;
        }
        let (started, len) = (self.pace.start(), piece.len());
        self.outgoing.piece(self.writer, piece, self.wait).await?;
        self.pace.moved(started, len)
    }

    /// Sends the last piece, if any, and the end.
    pub async fn end(&mut self, piece: Option<Chunk>, trailers: Option<(&[u8], &[Field])>) -> Result<(), Halt> {
        self.outgoing.end(self.writer, piece, trailers, self.wait).await?;
        self.state = State::Complete;
        Ok(())
    }

    /// The writing half, once the protocol was switched.
    pub fn writer(&mut self) -> &mut WireWriter {
        self.writer
    }
}

/// How a message from `framing` ends for the one who passes it on.
pub fn length_of(framing: Framing) -> Length {
    match framing {
        Framing::None => Length::Absent,
        Framing::Length(length) => Length::Exact(length),
        Framing::Chunked | Framing::UntilClose => Length::Unknown,
    }
}

fn encoded(head: &ResponseHead, keep: impl Fn(Known) -> bool, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    encode::status_line(&mut out, head.status);
    head.fields.encode(&mut out, keep);
    for (name, value) in more {
        encode::field(&mut out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    out
}
