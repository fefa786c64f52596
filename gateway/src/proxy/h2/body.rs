//! A request body on an HTTP/2 stream. The window a piece took is opened again when the next piece is asked for: a client
//! sends as fast as the service takes.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http1::{Fault, Field, Known, Span};

use crate::limits::{LINGER_MS, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX};
use crate::proxy::body::Length;
use crate::proxy::fields::Fields;
use crate::proxy::h1::body::BodyError;
use crate::proxy::wire::{Halt, Pace, Wait};
use crate::rt::deadline::{Cause, Guard};
use crate::rt::{Either, select};

/// How far a body was read.
pub struct H2Body {
    stream: RecvStream,
    length: Length,
    /// Taken from the stream and not handed out.
    pending: Option<Bytes>,
    /// Bytes handed out whose window is still shut.
    taken: usize,
    ended: bool,
    /// What came instead of a piece and was not told yet.
    failed: Option<BodyError>,
    trailers: Option<Box<Trailers>>,
    /// Bytes that may still come.
    room: u64,
    received: u64,
    wait: Wait,
    pace: Pace,
    /// Of a conversation: whether its answer has begun.
    answered: Option<Answered>,
}

/// Says of a body that goes on beside its answer that this has begun. All copies say the same.
#[derive(Clone, Default)]
pub struct Answered(Rc<Cell<bool>>);

impl Answered {
    pub fn set(&self) {
        self.0.set(true);
    }
}

#[derive(Default)]
struct Trailers {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl H2Body {
    /// The body of a request. `announced`: its `Content-Length`, which `h2` holds its sender to.
    pub fn new(stream: RecvStream, announced: Option<u64>, wait: Wait, pace: Pace) -> H2Body {
        let is_over = stream.is_end_stream();
        let length = match (is_over, announced) {
            (true, None) => Length::Absent,
            (_, Some(length)) => Length::Exact(length),
            (false, None) => Length::Unknown,
        };
        let ended = is_over || length == Length::Exact(0);
        H2Body {
            stream,
            length,
            pending: None,
            taken: 0,
            ended,
            failed: None,
            trailers: None,
            room: u64::MAX,
            received: 0,
            wait,
            pace,
            answered: None,
        }
    }

    /// Makes it one side of a conversation, as a call of gRPC is: it has no least rate, and pauses for as long as the other side
    /// may, `idle_ms`; once that has begun, as long as it likes, because then the pauses of the other side are what counts.
    pub fn converse(&mut self, idle_ms: u64) -> Answered {
        self.wait.ms = idle_ms;
        self.pace = Pace::new(0);
        // Anew for each attempt.
        self.answered.insert(Answered::default()).clone()
    }

    /// The body of a service's answer. `idle`: how long a piece may take.
    pub fn of_answer(stream: RecvStream, fields: &Fields, idle: Wait) -> H2Body {
        let announced = announced(fields);
        let mut body = H2Body::new(stream, announced, idle, Pace::new(0));
        // One without a body that does not say so has none, and not one of unknown length. What gRPC has to say without one is
        // in the head, and nobody there expects a length.
        if body.length == Length::Absent {
            let is_grpc = fields.get(b"grpc-status").is_some();
            body.length = if is_grpc { Length::Unknown } else { Length::Exact(0) };
        }
        body
    }

    pub fn length(&self) -> Length {
        self.length
    }

    /// Bounds what may still come.
    pub fn bound(&mut self, bytes_max: u64) {
        self.room = bytes_max.saturating_sub(self.received);
    }

    /// Nothing more comes: *complete* is this state and no other.
    pub fn ended(&self) -> bool {
        self.ended && self.pending.is_none() && self.failed.is_none()
    }

    /// All bytes that were announced came, but not the end of the stream: some clients send that in a frame of its own.
    pub fn lacks_end(&self) -> bool {
        self.ended && !self.stream.is_end_stream()
    }

    /// Waits a while for that end. A stream that is given up before is reset, which the client would hear in the middle of its
    /// request although it was answered.
    pub async fn hear_end(&mut self) {
        self.open_window();
        let guard = Guard::new(None);
        guard.arm(LINGER_MS, Cause::Body);
        // Trailers behind a length are for nobody: what has a length has none in HTTP/1.
        let end = poll_fn(|cx| {
            while let Some(Ok(_)) = ready!(self.stream.poll_data(cx)) {}
            Poll::Ready(())
        });
        select(end, guard.over()).await;
    }

    /// Bytes of body seen so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The trailers of an ended body and the bytes they lie in.
    pub fn trailers(&self) -> Option<(&[u8], &[Field])> {
        self.trailers.as_ref().map(|trailers| (&trailers.bytes[..], &trailers.fields[..]))
    }

    /// The next piece; `None`: the body has ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(piece) = self.next_buffered()? {
            return Ok(Some(piece));
        }
        if self.ended {
            return Ok(None);
        }
        loop {
            let guard = Guard::new(None);
            guard.arm(self.wait.ms, self.wait.cause);
            let started = self.pace.start();
            match select(self.next_unhurried(), guard.over()).await {
                Either::Left(piece) => {
                    let piece = piece?;
                    self.pace.moved(started, piece.as_ref().map_or(0, Bytes::len))?;
                    return Ok(piece);
                }
                Either::Right(_) if self.answered.as_ref().is_some_and(|answered| answered.0.get()) => {}
                Either::Right(cause) => return Err(Halt::Expired(cause).into()),
            }
        }
    }

    /// The same, for as long as it takes.
    pub async fn next_unhurried(&mut self) -> Result<Option<Bytes>, BodyError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next piece, if it is here already.
    pub fn next_buffered(&mut self) -> Result<Option<Bytes>, BodyError> {
        // Whoever goes on to wait is polled again with a waker of its own.
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(piece) => piece,
            Poll::Pending => Ok(None),
        }
    }

    /// Whether a piece, or the end, can be had without waiting.
    pub fn is_buffered(&mut self) -> bool {
        if self.pending.is_none() && !self.ended() {
            match self.next_buffered() {
                // It is handed out as if it came only then.
                Ok(Some(piece)) => {
                    self.received -= piece.len() as u64;
                    self.room += piece.len() as u64;
                    self.pending = Some(piece);
                }
                Ok(None) => {}
                Err(error) => self.failed = Some(error),
            }
        }
        self.pending.is_some() || self.failed.is_some() || self.ended()
    }

    /// The whole body, taken, when it is at most `bytes_max`, nothing was taken before, and all of it is here.
    pub fn buffered_whole(&mut self, bytes_max: usize) -> Option<Bytes> {
        if self.received > 0 || self.trailers.is_some() {
            return None;
        }
        let mut whole = BytesMut::new();
        while whole.len() <= bytes_max {
            match self.next_buffered() {
                Ok(Some(piece)) => whole.extend_from_slice(&piece),
                Ok(None) => break,
                // It belongs behind what came before it.
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        let whole = whole.freeze();
        if self.ended() && whole.len() <= bytes_max && self.trailers.is_none() {
            return Some(whole);
        }
        // Not all of it: what was taken is handed out as before.
        let len = whole.len() as u64;
        self.received -= len;
        self.room += len;
        self.pending = (!whole.is_empty()).then_some(whole);
        None
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        self.open_window();
        loop {
            let piece = match self.pending.take() {
                Some(piece) => piece,
                None if self.failed.is_some() => return Poll::Ready(self.failed.take().map_or(Ok(None), Err)),
                None if self.ended => return Poll::Ready(Ok(None)),
                None => match ready!(self.stream.poll_data(cx)) {
                    Some(Ok(piece)) => {
                        self.taken += piece.len();
                        piece
                    }
                    Some(Err(error)) => return Poll::Ready(Err(cut(error))),
                    None => {
                        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(cut)?;
                        self.ended = true;
                        self.trailers = trailers.map(|trailers| read_trailers(&trailers)).transpose()?;
                        return Poll::Ready(Ok(None));
                    }
                },
            };
            let len = piece.len() as u64;
            self.received += len;
            self.ended |= self.stream.is_end_stream() || self.length == Length::Exact(self.received);
            if piece.is_empty() {
                continue;
            }
            self.room = self.room.checked_sub(len).ok_or(BodyError::TooLarge)?;
            return Poll::Ready(Ok(Some(piece)));
        }
    }

    /// Lets the client send as much again as was taken.
    fn open_window(&mut self) {
        if self.taken > 0 {
            // A stream that is over has no window.
            let _ = self.stream.flow_control().release_capacity(std::mem::take(&mut self.taken));
        }
    }
}

/// What `Content-Length` says of a message that came by HTTP/2, where nothing is framed by it.
pub fn announced(fields: &Fields) -> Option<u64> {
    std::str::from_utf8(fields.first(Known::ContentLength)?).ok()?.parse().ok()
}

/// The client ended the stream, or its connection did.
fn cut(error: h2::Error) -> BodyError {
    BodyError::Halted(Halt::Broken(std::io::Error::other(error)))
}

fn read_trailers(trailers: &http::HeaderMap) -> Result<Box<Trailers>, BodyError> {
    let mut read = Box::<Trailers>::default();
    for (name, value) in trailers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        let start = read.bytes.len() as u32;
        read.bytes.extend_from_slice(name);
        read.bytes.extend_from_slice(value);
        read.fields.push(Field {
            name: Span { start, len: name.len() as u32 },
            value: Span { start: start + name.len() as u32, len: value.len() as u32 },
            known: Known::of(name),
            underscore: name.contains(&b'_'),
        });
    }
    match () {
        () if read.bytes.len() > TRAILER_BYTES_MAX => Err(BodyError::Malformed(Fault::TrailersTooLarge)),
        () if read.fields.len() > TRAILER_FIELDS_MAX => Err(BodyError::Malformed(Fault::TooManyTrailers)),
        () => Ok(read),
    }
}
