//! An answer as the exchange sees it, whichever protocol the client speaks.

use http1::Field;

use super::body::Length;
use super::h1::answer::H1Answer;
use super::h2::answer::H2Answer;
use super::head::ResponseHead;
use super::wire::{Chunk, Halt};

/// Sends one answer.
pub enum Answer<'a> {
    H1(H1Answer<'a>),
    H2(H2Answer),
}

impl Answer<'_> {
    /// The final head was encoded: no other answer can be sent any more.
    pub fn started(&self) -> bool {
        match self {
            Answer::H1(answer) => answer.started(),
            Answer::H2(answer) => answer.started(),
        }
    }

    pub fn complete(&self) -> bool {
        match self {
            Answer::H1(answer) => answer.complete(),
            Answer::H2(answer) => answer.complete(),
        }
    }

    /// 0 before the final head.
    pub fn status(&self) -> u16 {
        match self {
            Answer::H1(answer) => answer.status(),
            Answer::H2(answer) => answer.status(),
        }
    }

    /// Bytes of body sent.
    pub fn sent(&self) -> u64 {
        match self {
            Answer::H1(answer) => answer.sent(),
            Answer::H2(answer) => answer.sent(),
        }
    }

    /// Whether another request may follow on the connection, as far as this answer goes.
    pub fn keeps(&self) -> bool {
        match self {
            Answer::H1(answer) => answer.keeps(),
            Answer::H2(_) => true,
        }
    }

    /// The answer's body is delimited by the connection's end, so a broken one must not end in order.
    pub fn until_close(&self) -> bool {
        match self {
            Answer::H1(answer) => answer.until_close(),
            Answer::H2(_) => false,
        }
    }

    /// After this answer no other request can be read: where requests follow each other, the connection is closed.
    pub fn close_after(&mut self) {
        match self {
            Answer::H1(answer) => answer.close_after(),
            Answer::H2(_) => {}
        }
    }

    /// Sends an interim (1xx) answer.
    pub async fn interim(&mut self, head: &ResponseHead) -> Result<(), Halt> {
        match self {
            Answer::H1(answer) => answer.interim(head).await,
            Answer::H2(answer) => answer.interim(head),
        }
    }

    /// Encodes the final head. It leaves with the first piece of the body, or with `flush`.
    pub fn head(&mut self, head: &ResponseHead, length: Length) {
        match self {
            Answer::H1(answer) => answer.head(head, length),
            Answer::H2(answer) => answer.head(head, length),
        }
    }

    /// Names trailer fields that go no further.
    pub fn withhold_trailers(&mut self, names: Vec<Box<[u8]>>) {
        match self {
            Answer::H1(answer) => answer.withhold_trailers(names),
            Answer::H2(answer) => answer.withhold_trailers(names),
        }
    }

    /// Encodes the head that says that the protocol is switched.
    pub fn switch(&mut self, head: &ResponseHead, protocol: &[u8]) {
        match self {
            Answer::H1(answer) => answer.switch(head, protocol),
            Answer::H2(answer) => answer.switch(head),
        }
    }

    /// Sends the head now, its body comes later or never.
    pub async fn flush(&mut self) -> Result<(), Halt> {
        match self {
            Answer::H1(answer) => answer.flush().await,
            Answer::H2(answer) => answer.flush(),
        }
    }

    /// Sends a piece of the body that is not the last one.
    pub async fn piece(&mut self, piece: Chunk) -> Result<(), Halt> {
        match self {
            Answer::H1(answer) => answer.piece(piece).await,
            Answer::H2(answer) => answer.piece(piece).await,
        }
    }

    /// Sends the last piece, if any, and the end.
    pub async fn end(&mut self, piece: Option<Chunk>, trailers: Option<(&[u8], &[Field])>) -> Result<(), Halt> {
        match self {
            Answer::H1(answer) => answer.end(piece, trailers).await,
            Answer::H2(answer) => answer.end(piece, trailers).await,
        }
    }

    /// Memory for the next head.
    pub fn into_scratch(self) -> Vec<u8> {
        match self {
            Answer::H1(answer) => answer.into_scratch(),
            Answer::H2(_) => Vec::new(),
        }
    }
}
