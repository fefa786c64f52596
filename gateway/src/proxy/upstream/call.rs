//! One request and its answer, whichever HTTP the service speaks: a way up and a way down that move at the same time.

use std::os::fd::RawFd;

use http1::{ConnectionOptions, Fault, Field, Framing, Method, StatusLine};

use super::Connection;
use super::h1::{self, Hop};
use super::h2::{Call, Outflow};
use crate::proxy::body::{Body, Length};
use crate::proxy::fields::Fields;
use crate::proxy::h1::answer::length_of;
use crate::proxy::h1::body::H1Body;
use crate::proxy::h1::outgoing::Outgoing;
use crate::proxy::h2::body::H2Body;
use crate::proxy::head::{Protocol, ResponseHead};
use crate::proxy::wire::{Chunk, Halt, Pace, Wait, WireReader, WireWriter};
use crate::rt::Buf;
use crate::rt::deadline::{Cause, Ender, Remote};
use crate::worker::Worker;

/// What a request goes by.
pub enum Channel {
    /// A connection of its own.
    H1(Connection),
    /// A stream on one that it shares.
    H2(Box<Call>),
}

/// What a service is asked.
pub struct Asked<'a> {
    pub method: &'a [u8],
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    pub host: &'a [u8],
    /// What is not passed on was struck before.
    pub fields: &'a Fields,
    pub length: Length,
    pub hop: Hop,
}

impl Channel {
    /// It has served before: the service may have closed it meanwhile.
    pub fn reused(&self) -> bool {
        match self {
            Channel::H1(connection) => connection.reused,
            Channel::H2(call) => call.reused(),
        }
    }

    /// The socket, if it carries this request alone.
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Channel::H1(connection) => Some(connection.wire.fd()),
            Channel::H2(_) => None,
        }
    }

    /// Encodes the head of a request, which leaves with the first piece of its body or with [`Up::flush`].
    pub fn begin<'c>(&'c mut self, asked: &Asked<'_>, worker: &Worker) -> (Up<'c>, Down<'c>) {
        match self {
            Channel::H1(connection) => {
                let mut scratch = worker.take_scratch();
                h1::encode_request(&mut scratch, asked);
                let outgoing = Outgoing::new(scratch, asked.length == Length::Unknown);
                let (reader, writer) = (&mut connection.wire.reader, &mut connection.wire.writer);
                (Up::H1 { outgoing, writer }, Down::H1 { reader, carry: None })
            }
            Channel::H2(call) => {
                call.begin(asked);
                (Up::H2(call.outflow()), Down::H2(call))
            }
        }
    }
}

/// A request's way up.
pub enum Up<'c> {
    H1 { outgoing: Outgoing, writer: &'c mut WireWriter },
    H2(Outflow<'c>),
}

impl Up<'_> {
    /// Names trailer fields that go no further.
    pub fn withhold_trailers(&mut self, names: Vec<Box<[u8]>>) {
        match self {
            Up::H1 { outgoing, .. } => outgoing.withhold_trailers(names),
            Up::H2(outflow) => outflow.withhold_trailers(names),
        }
    }

    /// Sends the head if it has not left yet.
    pub async fn flush(&mut self, wait: Wait) -> Result<(), Halt> {
        match self {
            Up::H1 { outgoing, writer } => outgoing.flush(writer, wait).await,
            Up::H2(outflow) => outflow.flush(),
        }
    }

    /// Sends a piece of the body that is not the last one.
    pub async fn piece(&mut self, piece: Chunk, wait: Wait) -> Result<(), Halt> {
        match self {
            Up::H1 { outgoing, writer } => outgoing.piece(writer, piece, wait).await,
            // On the heap: what waits for windows is larger than what waits for a socket.
            Up::H2(outflow) => Box::pin(outflow.piece(piece, wait)).await,
        }
    }

    /// Sends the last piece, if any, and the end.
    pub async fn end(
        &mut self,
        piece: Option<Chunk>,
        trailers: Option<(&[u8], &[Field])>,
        wait: Wait,
    ) -> Result<(), Halt> {
        match self {
            Up::H1 { outgoing, writer } => outgoing.end(writer, piece, trailers, wait).await,
            Up::H2(outflow) => Box::pin(outflow.end(piece, trailers, wait)).await,
        }
    }

    /// The deadline of what is being sent.
    pub fn deadline(&self) -> Deadline {
        match self {
            Up::H1 { writer, .. } => Deadline::Wire(writer.remote()),
            Up::H2(outflow) => Deadline::Stream(outflow.ender()),
        }
    }

    /// Gives memory back for the next head.
    pub fn into_scratch(self, worker: &Worker) {
        if let Up::H1 { outgoing, .. } = self {
            worker.put_scratch(outgoing.into_scratch());
        }
    }
}

/// An answer's way down.
pub enum Down<'c> {
    H1 {
        reader: &'c mut WireReader,
        /// What was received behind an interim head.
        carry: Option<Buf>,
    },
    H2(&'c Call),
}

impl Down<'_> {
    /// Waits for one head, interim or final. `first`: the wait for its first byte; `None`: the caller has set the deadline, or
    /// will.
    pub async fn head(&mut self, first: Option<Wait>, idle: Wait) -> Result<Received, HeadError> {
        match self {
            Down::H1 { reader, carry } => h1::read_head(reader, carry.take(), first, idle).await.map(Received::from),
            Down::H2(call) => call.head(first).await,
        }
    }

    /// Goes on behind an interim head.
    pub fn pass(&mut self, mut interim: Received) {
        if let Down::H1 { carry, .. } = self {
            *carry = interim.take_rest();
        }
    }

    /// The deadline of the wait for a head that is under way.
    pub fn deadline(&self) -> Deadline {
        match self {
            Down::H1 { reader, .. } => Deadline::Wire(reader.remote()),
            Down::H2(call) => Deadline::Stream(call.ender()),
        }
    }
}

/// The deadline of a wait that is under way. Used while what it belongs to lives.
#[derive(Clone, Copy)]
pub enum Deadline {
    Wire(Remote),
    Stream(Ender),
}

impl Deadline {
    pub fn arm(self, wait: Wait) {
        match self {
            Deadline::Wire(remote) => remote.arm(wait.ms, wait.cause),
            Deadline::Stream(ender) => ender.arm(wait.ms, wait.cause),
        }
    }

    /// Ends the wait now. Who calls this polls next what waits.
    pub fn cut(self, cause: Cause) {
        match self {
            Deadline::Wire(remote) => remote.cut(cause),
            Deadline::Stream(ender) => ender.end(cause),
        }
    }
}

/// Why there is no head.
#[derive(Debug)]
pub enum HeadError {
    /// Nothing came, or only a part. `received`: a part did.
    Halted {
        halt: Halt,
        received: bool,
    },
    Malformed(Fault),
    /// The stream, or the connection below it, has ended.
    Stream(::h2::Error),
}

/// The head of an answer, and where its body begins.
pub struct Received {
    pub head: ResponseHead,
    pub options: ConnectionOptions,
    pub protocol: Protocol,
    behind: Behind,
}

enum Behind {
    /// The head's arena holds, behind the head, what was received of the body.
    H1(StatusLine),
    /// `None`: it is interim, or its body was taken.
    H2(Option<::h2::RecvStream>),
}

impl From<h1::Received> for Received {
    fn from(received: h1::Received) -> Received {
        let h1::Received { head, line, options } = received;
        Received { head, options, protocol: line.version.into(), behind: Behind::H1(line) }
    }
}

impl Received {
    /// One that came on a stream. `body`: of a final one.
    pub fn on_stream(head: ResponseHead, body: Option<::h2::RecvStream>) -> Received {
        Received { head, options: ConnectionOptions::default(), protocol: Protocol::Http2, behind: Behind::H2(body) }
    }

    /// Where its body comes from, how long that is, and whether its connection can be used again as far as the head says.
    /// Decided once, before anything is edited. `idle`: how long a piece may take.
    pub fn source(&mut self, method: Method, idle: Wait) -> Result<(Source, Length, bool), Fault> {
        match &mut self.behind {
            Behind::H1(line) => {
                let (arena, fields) = (self.head.fields.arena(), self.head.fields.received());
                let framing = http1::response_framing(arena, method, line.status, line.version, fields)?;
                let persists = framing != Framing::UntilClose && self.options.persists(line.version);
                let body = H1Body::new(framing, u64::MAX, Pace::new(0));
                Ok((Source::H1(body), length_of(framing), persists))
            }
            Behind::H2(stream) => {
                let stream = stream.take().ok_or(Fault::StatusOutOfRange)?;
                let status = self.head.status;
                let body = H2Body::of_answer(stream, &self.head.fields, idle);
                let length = match body.length() {
                    _ if method == Method::Head || matches!(status, 204 | 304) => Length::Absent,
                    length => length,
                };
                Ok((Source::H2(Box::new(body)), length, true))
            }
        }
    }

    /// Takes what was received behind the head out of its arena. The head's received fields are gone with it.
    pub fn take_rest(&mut self) -> Option<Buf> {
        match &self.behind {
            Behind::H1(line) => h1::take_rest(&mut self.head, line),
            Behind::H2(_) => None,
        }
    }

    /// A copy of what was received behind the head, whose fields are still needed.
    pub fn take_rest_keeping_fields(&mut self) -> Option<Buf> {
        match &self.behind {
            Behind::H1(line) => h1::take_rest_keeping_fields(&mut self.head, line),
            Behind::H2(_) => None,
        }
    }

    /// Nothing was received behind the head.
    pub fn is_bare(&self) -> bool {
        match &self.behind {
            Behind::H1(line) => self.head.fields.arena().len() <= line.head_bytes,
            Behind::H2(_) => true,
        }
    }
}

/// Where an answer's body comes from.
pub enum Source {
    H1(H1Body),
    H2(Box<H2Body>),
}

impl Source {
    /// Hands over what was received behind the head.
    pub fn feed(&mut self, rest: Option<Buf>) {
        if let (Source::H1(body), Some(rest)) = (self, rest) {
            body.feed(rest);
        }
    }

    /// Nothing more comes: *complete* is this state and no other.
    pub fn ended(&self) -> bool {
        match self {
            Source::H1(body) => body.ended(),
            Source::H2(body) => body.ended(),
        }
    }

    /// Drops what is here of a body nobody wants. More of it is not waited for.
    pub fn skip_buffered(&mut self) {
        match self {
            Source::H1(body) => while let Ok(Some(_)) = body.next_buffered() {},
            Source::H2(body) => while let Ok(Some(_)) = body.next_buffered() {},
        }
    }

    /// The body has ended, and nothing came behind it: bytes that were not asked for, whatever they are, must not meet the
    /// next exchange.
    pub fn is_clean(&mut self) -> bool {
        match self {
            Source::H1(body) => body.ended() && body.take_carry().is_none(),
            Source::H2(body) => body.ended(),
        }
    }

    /// The trailers of an ended body and the bytes they lie in.
    pub fn trailers(&self) -> Option<(&[u8], &[Field])> {
        match self {
            Source::H1(body) => body.trailers(),
            Source::H2(body) => body.trailers(),
        }
    }

    /// The body, as it comes by `down`.
    pub fn body<'b>(&'b mut self, down: &'b mut Down<'_>, idle: Wait) -> Body<'b> {
        match (self, down) {
            (Source::H1(body), Down::H1 { reader, .. }) => {
                Body::Wire { body, reader, wait: idle, length: Length::Unknown }
            }
            (Source::H2(body), _) => Body::Stream { body },
            (Source::H1(_), Down::H2(_)) => unreachable!("a head comes by the way its body does"),
        }
    }
}
