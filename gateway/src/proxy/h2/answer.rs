//! The answer side of an HTTP/2 stream.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{Response, StatusCode};
use http1::{Field, Known};

use super::fields;
use super::meter::PER_ANSWER;
use super::outgoing::{self, broken};
use super::session::Session;
use crate::proxy::body::Length;
use crate::proxy::head::ResponseHead;
use crate::proxy::wire::{Chunk, Halt, Pace, Wait};

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
        let trailers =
            trailers.map(|(bytes, all)| fields::trailers(bytes, all, &self.hop_trailers)).filter(|all| !all.is_empty());
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
                outgoing::on_stream(&self.side.stream, |stream| stream.send_trailers(trailers))?;
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
    async fn data(&mut self, bytes: Bytes, last: bool) -> Result<(), Halt> {
        let H2Answer { side, session, sent, wait, pace, .. } = self;
        let moved = |count| {
            *sent += count as u64;
            session.meter.earn_data(count);
        };
        outgoing::data(&side.stream, bytes, last, None, *wait, pace, moved).await
    }
}

/// A head as `h2` takes it, with the fields for which `keep` holds and a length, if one is to be told.
fn encoded(head: &ResponseHead, length: Option<u64>, keep: impl Fn(Known) -> bool) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = fields::map(&head.fields, length, keep);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

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
