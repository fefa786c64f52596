//! The answer side of an HTTP/2 stream.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http1::{Field, Known};

use super::meter::PER_ANSWER;
use super::session::Session;
use crate::proxy::body::Length;
use crate::proxy::forward;
use crate::proxy::head::ResponseHead;
use crate::proxy::wire::{Chunk, Halt, Pace, Wait};
use crate::rt::deadline::Guard;
use crate::rt::{Either, select};

/// Sends one answer.
pub struct H2Answer {
    side: Rc<Side>,
    session: Rc<Session>,
    /// The request was a HEAD.
    bodiless: bool,
    /// The final head, until it leaves.
    head: Option<Response<()>>,
    state: State,
    status: u16,
    sent: u64,
    /// Trailer fields that were for the hop before this one.
    hop_trailers: Vec<Box<[u8]>>,
    wait: Wait,
    pace: Pace,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was encoded yet: a refusal can still be sent.
    Open,
    /// The final head is encoded.
    Started,
    Complete,
}

/// Our side of a stream: the exchange sends on it, and who watches for its end asks it. No borrow is held over an await.
pub struct Side {
    respond: RefCell<SendResponse<Bytes>>,
    /// Once the final head has left.
    stream: RefCell<Option<SendStream<Bytes>>>,
}

impl Side {
    pub fn new(respond: SendResponse<Bytes>) -> Rc<Side> {
        Rc::new(Side { respond: RefCell::new(respond), stream: RefCell::default() })
    }

    /// The client has reset the stream, or its connection is gone.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let gone = match &mut *self.stream.borrow_mut() {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.borrow_mut().poll_reset(cx),
        };
        gone.map(|_| ())
    }

    /// Ends the stream before its answer is whole. Nothing happens to one that has ended.
    pub fn reset(&self, reason: Reason) {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => stream.send_reset(reason),
            None => self.respond.borrow_mut().send_reset(reason),
        }
    }
}

impl H2Answer {
    /// The answer on `side`. `bodiless`: to a HEAD. `wait`: how long the client may take nothing.
    pub fn new(side: Rc<Side>, session: Rc<Session>, bodiless: bool, wait: Wait, pace: Pace) -> H2Answer {
        H2Answer {
            side,
            session,
            bodiless,
            head: None,
            state: State::Open,
            status: 0,
            sent: 0,
            hop_trailers: Vec::new(),
            wait,
            pace,
        }
    }

    pub fn started(&self) -> bool {
        self.state != State::Open
    }

    pub fn complete(&self) -> bool {
        self.state == State::Complete
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn withhold_trailers(&mut self, names: Vec<Box<[u8]>>) {
        self.hop_trailers = names;
    }

    /// Sends an interim (1xx) answer.
    pub fn interim(&mut self, head: &ResponseHead) -> Result<(), Halt> {
        self.side.respond.borrow_mut().send_informational(encoded(head, None, |_| true)).map_err(broken)
    }

    /// Encodes the final head. It leaves with the first piece of the body, or with `flush`.
    pub fn head(&mut self, head: &ResponseHead, length: Length) {
        debug_assert!(!self.started(), "an exchange has one final answer");
        self.state = State::Started;
        self.status = head.status;
        self.bodiless |= matches!(head.status, 204 | 304);
        // What describes the body's length stays where there is no body to describe it (RFC 9110 §8.6).
        let length_stays = self.bodiless && head.status != 204;
        let length = match length {
            Length::Exact(length) if !self.bodiless => Some(length),
            _ => None,
        };
        self.head = Some(encoded(head, length, |known| known != Known::ContentLength || length_stays));
    }

    /// Encodes the head that opens a tunnel (RFC 8441 §5): what is 101 in HTTP/1.1 is 200 here.
    pub fn switch(&mut self, head: &ResponseHead) {
        self.state = State::Started;
        self.status = 200;
        let mut response = encoded(head, None, |known| known != Known::ContentLength);
        *response.status_mut() = StatusCode::OK;
        // It answers a key that the client has not sent.
        response.headers_mut().remove(http::header::SEC_WEBSOCKET_ACCEPT);
        self.head = Some(response);
    }

    /// Sends the head now, its body comes later or never.
    pub fn flush(&mut self) -> Result<(), Halt> {
        self.send_head(false)
    }

    /// Sends a piece of the body that is not the last one.
    pub async fn piece(&mut self, piece: Chunk) -> Result<(), Halt> {
        self.send_head(false)?;
        self.data(piece.into_shared(), false).await
    }

    /// Sends the last piece, if any, and the end.
    pub async fn end(&mut self, piece: Option<Chunk>, trailers: Option<(&[u8], &[Field])>) -> Result<(), Halt> {
        let trailers = trailers.map(|(bytes, fields)| self.trailers(bytes, fields)).filter(|all| !all.is_empty());
        let piece = piece.filter(|piece| !piece.is_empty());
        match (piece, trailers) {
            (None, None) if self.head.is_some() => self.send_head(true)?,
            (piece, None) => {
                self.send_head(false)?;
                self.data(piece.map(Chunk::into_shared).unwrap_or_default(), true).await?;
            }
            (piece, Some(trailers)) => {
                self.send_head(false)?;
                if let Some(piece) = piece {
                    self.data(piece.into_shared(), false).await?;
                }
                self.on_stream(|stream| stream.send_trailers(trailers))?;
            }
        }
        self.state = State::Complete;
        self.session.meter.earn(PER_ANSWER);
        Ok(())
    }

    fn send_head(&mut self, last: bool) -> Result<(), Halt> {
        if let Some(response) = self.head.take() {
            let stream = self.side.respond.borrow_mut().send_response(response, last).map_err(broken)?;
            *self.side.stream.borrow_mut() = Some(stream);
        }
        Ok(())
    }

    /// Sends all of `bytes`, as much at a time as the client's windows and our memory take.
    async fn data(&mut self, mut bytes: Bytes, last: bool) -> Result<(), Halt> {
        loop {
            let room = match bytes.len() {
                0 => 0,
                wanted => self.room(wanted).await?,
            };
            let now = bytes.split_to(room.min(bytes.len()));
            let is_last = bytes.is_empty();
            self.sent += now.len() as u64;
            self.session.meter.earn_data(now.len());
            self.on_stream(|stream| stream.send_data(now, last && is_last))?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Waits until at least one of `wanted` bytes may be sent.
    async fn room(&mut self, wanted: usize) -> Result<usize, Halt> {
        let room = self.on_stream(|stream| {
            stream.reserve_capacity(wanted);
            Ok(stream.capacity())
        })?;
        if room > 0 {
            return Ok(room);
        }
        let guard = Guard::new(None);
        guard.arm(self.wait.ms, self.wait.cause);
        let started = self.pace.start();
        let side = &self.side;
        let waiting = poll_fn(|cx| match &mut *side.stream.borrow_mut() {
            Some(stream) => stream.poll_capacity(cx),
            None => Poll::Ready(None),
        });
        match select(waiting, guard.over()).await {
            Either::Left(Some(Ok(room))) if room > 0 => {
                self.pace.moved(started, room.min(wanted))?;
                Ok(room)
            }
            Either::Left(Some(Err(error))) => Err(broken(error)),
            Either::Left(_) => Err(Halt::Closed),
            Either::Right(cause) => Err(Halt::Expired(cause)),
        }
    }

    fn on_stream<T>(&self, f: impl FnOnce(&mut SendStream<Bytes>) -> Result<T, h2::Error>) -> Result<T, Halt> {
        match &mut *self.side.stream.borrow_mut() {
            Some(stream) => f(stream).map_err(broken),
            None => Err(Halt::Closed),
        }
    }

    fn trailers(&self, bytes: &[u8], fields: &[Field]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for field in fields {
            let name = field.name.of(bytes);
            let passed = forward::is_trailer_allowed(name, field)
                && !self.hop_trailers.iter().any(|hop| hop.eq_ignore_ascii_case(name));
            if passed
                && let (Ok(name), Ok(value)) =
                    (HeaderName::from_bytes(name), HeaderValue::from_bytes(field.value.of(bytes)))
            {
                map.append(name, value);
            }
        }
        map
    }
}

fn broken(error: h2::Error) -> Halt {
    Halt::Broken(std::io::Error::other(error))
}

/// A head as `h2` takes it, with the fields for which `keep` holds and a length, if one is to be told. All values lie in one
/// text.
fn encoded(head: &ResponseHead, length: Option<u64>, keep: impl Fn(Known) -> bool) -> Response<()> {
    let mut digits = itoa::Buffer::new();
    let length = length.map(|length| digits.format(length).as_bytes());
    let passed = || {
        // Of fields that do not exist in HTTP/2 a client would make a malformed answer (RFC 9113 §8.2.2).
        let fields = head.fields.iter().filter(|(_, _, known)| keep(*known) && !known.is_hop_by_hop());
        fields.chain(length.map(|length| (&b"content-length"[..], length, Known::ContentLength)))
    };
    let (mut count, mut bytes) = (0, 0);
    for (_, value, _) in passed() {
        count += 1;
        bytes += value.len();
    }
    let mut text = BytesMut::with_capacity(bytes);
    passed().for_each(|(_, value, _)| text.extend_from_slice(value));
    let mut text = text.freeze();
    let mut fields = HeaderMap::with_capacity(count);
    for (name, value, known) in passed() {
        let value = HeaderValue::from_maybe_shared(text.split_to(value.len()));
        let name = match known {
            Known::Other => HeaderName::from_bytes(name),
            known => Ok(KNOWN_NAMES[known as usize].clone()),
        };
        // Both were checked when they were received or configured.
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = fields;
    response
}

/// Names by `Known as usize`, so that none of them is parsed for an answer.
static KNOWN_NAMES: LazyLock<Box<[HeaderName]>> = LazyLock::new(|| {
    let known = Known::ALL.iter().map(|known| HeaderName::from_static(known.name()));
    // Of what is not known the name is told; this one stands in its place.
    std::iter::once(http::header::HOST).chain(known).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_their_own() {
        for known in Known::ALL {
            assert_eq!(KNOWN_NAMES[*known as usize].as_str(), known.name());
        }
    }

    #[test]
    fn a_head_is_encoded_without_fields_of_the_hop_and_with_the_length_that_is_told() {
        let mut head = ResponseHead::new(200);
        for (name, value) in [
            (&b"Content-Type"[..], &b"text/plain"[..]),
            (b"X-Own", b"1"),
            (b"keep-alive", b"1"),
            (b"content-length", b"7"),
            (b"set-cookie", b"a"),
            (b"set-cookie", b"b"),
        ] {
            head.fields.add(name, value);
        }
        let response = encoded(&head, Some(12), |known| known != Known::ContentLength);
        let fields: Vec<_> = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(
            fields,
            [
                ("content-type", &b"text/plain"[..]),
                ("x-own", b"1"),
                ("set-cookie", b"a"),
                ("set-cookie", b"b"),
                ("content-length", b"12"),
            ]
        );
        assert_eq!(encoded(&head, None, |_| true).headers()["content-length"], "7");
    }
}
