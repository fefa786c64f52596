//! HTTP/2 towards services: requests share connections ([`session`]), each a stream of its own ([`Call`]).
//!
//! Nobody's socket can be shut down to end a wait here, since others use it, too: each wait has a guard beside it, and a stream
//! that is dropped before it is over is reset (RFC 9113 §8.1).

mod session;

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use ::h2::client::ResponseFuture;
use ::h2::{RecvStream, SendStream};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http1::{Fault, Field, Known};

pub use self::session::{Lease, Place, Sessions};
use super::call::{Asked, HeadError, Received};
use crate::proxy::body::Length;
use crate::proxy::h2::outgoing::{self, broken};
use crate::proxy::h2::{fields, head};
use crate::proxy::wire::{Chunk, Halt, Pace, Wait};
use crate::rt::deadline::{Ender, Guard};
use crate::rt::{Either, select};

/// One request on a connection that is shared. Dropped before it is over, it is reset.
pub struct Call {
    lease: Lease,
    /// The head, until it leaves.
    request: RefCell<Option<Request<()>>>,
    /// Once the head has left.
    stream: RefCell<Option<SendStream<Bytes>>>,
    response: RefCell<Option<ResponseFuture>>,
    /// The deadline of the wait for a head.
    waiting: Guard,
    /// That of the wait for room to send.
    sending: Guard,
}

impl Call {
    pub fn new(lease: Lease) -> Call {
        Call {
            lease,
            request: RefCell::default(),
            stream: RefCell::default(),
            response: RefCell::default(),
            waiting: Guard::new(None),
            sending: Guard::new(None),
        }
    }

    /// Its connection has carried other requests.
    pub fn reused(&self) -> bool {
        self.lease.is_reused()
    }

    /// Encodes the head of the request.
    pub fn begin(&mut self, asked: &Asked<'_>) {
        *self.request.borrow_mut() = Some(encoded(asked, self.lease.scheme()));
    }

    pub fn outflow(&self) -> Outflow<'_> {
        Outflow { call: self, hop_trailers: Vec::new() }
    }

    /// That of the wait for a head.
    pub fn ender(&self) -> Ender {
        self.waiting.ender()
    }

    /// Waits for one head, interim or final. `first`: how long; `None`: the caller has set the deadline, or will.
    pub async fn head(&self, first: Option<Wait>) -> Result<Received, HeadError> {
        if let Some(first) = first {
            self.waiting.arm(first.ms, first.cause);
        }
        let came = select(poll_fn(|cx| self.poll_head(cx)), self.waiting.over()).await;
        self.waiting.disarm();
        match came {
            Either::Left(came) => came,
            Either::Right(cause) => Err(HeadError::Halted { halt: Halt::Expired(cause), received: false }),
        }
    }

    fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<Received, HeadError>> {
        let mut response = self.response.borrow_mut();
        let Some(waiting) = &mut *response else {
            return Poll::Ready(Err(HeadError::Halted { halt: Halt::Closed, received: false }));
        };
        let (parts, body) = match waiting.poll_informational(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(interim))) => (interim.into_parts().0, None),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(HeadError::Stream(error))),
            Poll::Ready(None) => match Pin::new(waiting).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answer)) => {
                    self.lease.answered();
                    let (parts, body): (_, RecvStream) = answer.into_parts();
                    *response = None;
                    (parts, Some(body))
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(HeadError::Stream(error))),
            },
        };
        // There is nothing to switch to (RFC 9113 §8.6).
        if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Err(HeadError::Malformed(Fault::StatusOutOfRange)));
        }
        let read = head::read_answer(&parts).map_err(HeadError::Malformed);
        Poll::Ready(read.map(|head| Received::on_stream(head, body)))
    }

    fn send_head(&self, last: bool) -> Result<(), Halt> {
        let Some(request) = self.request.borrow_mut().take() else { return Ok(()) };
        let (response, stream) = self.lease.send(request, last).map_err(broken)?;
        *self.response.borrow_mut() = Some(response);
        *self.stream.borrow_mut() = Some(stream);
        Ok(())
    }
}

/// The request's way up on a stream.
pub struct Outflow<'c> {
    call: &'c Call,
    /// Trailer fields that were for the hop before this one.
    hop_trailers: Vec<Box<[u8]>>,
}

impl Outflow<'_> {
    pub fn withhold_trailers(&mut self, names: Vec<Box<[u8]>>) {
        self.hop_trailers = names;
    }

    /// The deadline of the wait for room.
    pub fn ender(&self) -> Ender {
        self.call.sending.ender()
    }

    /// Sends the head if it has not left yet.
    pub fn flush(&mut self) -> Result<(), Halt> {
        self.call.send_head(false)
    }

    /// Sends a piece of the body that is not the last one.
    pub async fn piece(&mut self, piece: Chunk, wait: Wait) -> Result<(), Halt> {
        self.call.send_head(false)?;
        self.data(piece.into_shared(), false, wait).await
    }

    /// Sends the last piece, if any, and the end.
    pub async fn end(
        &mut self,
        piece: Option<Chunk>,
        trailers: Option<(&[u8], &[Field])>,
        wait: Wait,
    ) -> Result<(), Halt> {
        let trailers = trailers.map(|(bytes, all)| fields::trailers(bytes, all, &self.hop_trailers));
        let trailers = trailers.filter(|trailers| !trailers.is_empty());
        let piece = piece.filter(|piece| !piece.is_empty());
        if piece.is_none() && trailers.is_none() && self.call.request.borrow().is_some() {
            return self.call.send_head(true);
        }
        self.call.send_head(false)?;
        match trailers {
            None => self.data(piece.map(Chunk::into_shared).unwrap_or_default(), true, wait).await,
            Some(trailers) => {
                if let Some(piece) = piece {
                    self.data(piece.into_shared(), false, wait).await?;
                }
                outgoing::on_stream(&self.call.stream, |stream| stream.send_trailers(trailers))
            }
        }
    }

    async fn data(&self, bytes: Bytes, last: bool, wait: Wait) -> Result<(), Halt> {
        let mut pace = Pace::new(0);
        outgoing::data(&self.call.stream, bytes, last, Some(&self.call.sending), wait, &mut pace, |_| {}).await
    }
}

/// The head of a request as `h2` takes it.
fn encoded(asked: &Asked<'_>, scheme: Scheme) -> Request<()> {
    let mut request = Request::new(());
    // Methods are tokens, which is checked where they are received.
    *request.method_mut() = Method::from_bytes(asked.method).unwrap_or_default();
    *request.uri_mut() = uri(asked, scheme);
    let length = if let Length::Exact(length) = asked.length { Some(length) } else { None };
    *request.headers_mut() = fields::map(asked.fields, length, |known| known != Known::ContentLength);
    if asked.hop.te_trailers {
        request.headers_mut().insert(HeaderName::from_static("te"), HeaderValue::from_static("trailers"));
    }
    request
}

/// `:scheme`, `:authority` and `:path`. Without an authority only the path, which `h2` makes the others of.
fn uri(asked: &Asked<'_>, scheme: Scheme) -> Uri {
    let mut target = Vec::with_capacity(asked.path.len() + asked.query.map_or(0, |query| query.len() + 1));
    target.extend_from_slice(asked.path);
    if let Some(query) = asked.query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    let target = PathAndQuery::from_maybe_shared(Bytes::from(target)).or_else(|_| escaped(asked));
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = target.ok();
    if let Ok(authority) = Authority::try_from(asked.host) {
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
    }
    Uri::from_parts(parts).unwrap_or_default()
}

/// The same target, with what `http` does not take in it written by its number (RFC 3986 §2.1).
fn escaped(asked: &Asked<'_>) -> Result<PathAndQuery, http::uri::InvalidUri> {
    let mut target = String::new();
    let mut write = |bytes: &[u8]| {
        for &byte in bytes {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'%' | b'/' => target.push(char::from(byte)),
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';'
                | b'=' | b':' | b'@' | b'?' => target.push(char::from(byte)),
                _ => {
                    use std::fmt::Write as _;
                    // Writing to text does not fail.
                    let _ = write!(target, "%{byte:02X}");
                }
            }
        }
    };
    write(asked.path);
    if let Some(query) = asked.query {
        write(b"?");
        write(query);
    }
    PathAndQuery::try_from(target)
}
