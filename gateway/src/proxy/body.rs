//! A request body as the exchange sees it, whichever protocol it comes by.

use bytes::{Bytes, BytesMut};
use http1::Field;

use super::decoded::Decoded;
use super::h1::body::{BodyError, H1Body};
use super::h2::body::{Answered, H2Body};
use super::replay::Again;
use super::wire::{Chunk, Wait, WireReader};
use crate::filter::coding::decode::Decoder;

/// What is known of a body's length before it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// There is none, and nothing says so on the wire: a GET, an answer to HEAD, 204, 304.
    Absent,
    Exact(u64),
    /// It ends when it ends.
    Unknown,
}

/// A request body.
pub enum Body<'a> {
    /// On its way on an HTTP/1 connection.
    Wire { body: &'a mut H1Body, reader: &'a mut WireReader, wait: Wait, length: Length },
    /// On its way on an HTTP/2 stream.
    Stream { body: &'a mut H2Body },
    /// None: what comes on the stream is for a tunnel, once that is open.
    Tunnel { body: &'a mut H2Body },
    /// Whole, here, to be sent or sent again: what is left to hand out, and the bytes it had.
    Held { bytes: Option<Bytes>, len: u64 },
    /// Another one, taken out of its content coding.
    Decoded(Box<Decoded<'a>>),
    /// Another one, whose beginning was sent before and is sent once more.
    Again(Box<Again<'a>>),
}

impl<'a> Body<'a> {
    /// The same body, decoded on its way. One without bytes has nothing to be decoded.
    pub fn decoded(self, decoder: Decoder) -> Body<'a> {
        match self.length() {
            Length::Absent | Length::Exact(0) => self,
            _ => Body::Decoded(Box::new(Decoded::new(self, decoder))),
        }
    }

    /// A body that is here. Nothing and no bytes are the same.
    pub fn held(bytes: Option<Bytes>) -> Body<'static> {
        let bytes = bytes.filter(|bytes| !bytes.is_empty());
        Body::Held { len: bytes.as_ref().map_or(0, |bytes| bytes.len() as u64), bytes }
    }

    /// Bytes that came from the client so far.
    pub fn received(&self) -> u64 {
        match self {
            Body::Wire { body, .. } => body.received(),
            Body::Stream { body } | Body::Tunnel { body } => body.received(),
            Body::Held { len, .. } => *len,
            Body::Decoded(decoded) => decoded.source().received(),
            Body::Again(again) => again.source().received(),
        }
    }

    /// Bounds a body of any length.
    pub fn bound(&mut self, bytes_max: u64) {
        match self {
            Body::Wire { body, .. } => body.bound(bytes_max),
            Body::Stream { body } => body.bound(bytes_max),
            Body::Tunnel { .. } | Body::Held { .. } | Body::Decoded(_) | Body::Again(_) => {}
        }
    }

    /// Makes what comes on a stream one side of a conversation ([`H2Body::converse`]). `None`: it is here, or comes otherwise.
    pub fn converse(&mut self, idle_ms: u64) -> Option<Answered> {
        match self {
            Body::Stream { body } => Some(body.converse(idle_ms)),
            Body::Decoded(decoded) => decoded.source_mut().converse(idle_ms),
            Body::Again(again) => again.source_mut().converse(idle_ms),
            Body::Wire { .. } | Body::Tunnel { .. } | Body::Held { .. } => None,
        }
    }

    /// A wait for its next piece may be broken off: nothing is lost.
    pub fn is_resumable(&self) -> bool {
        match self {
            Body::Stream { .. } | Body::Tunnel { .. } | Body::Held { .. } => true,
            Body::Again(again) => again.source().is_resumable(),
            Body::Wire { .. } | Body::Decoded(_) => false,
        }
    }

    /// The next piece; `None`: the body has ended.
    pub async fn next(&mut self) -> Result<Option<Chunk>, BodyError> {
        match self {
            Body::Wire { body, reader, wait, .. } => Ok(body.next(reader, *wait).await?.map(Chunk::Pooled)),
            Body::Stream { body } => Ok(body.next().await?.map(Chunk::Shared)),
            Body::Tunnel { .. } => Ok(None),
            Body::Held { bytes, .. } => Ok(bytes.take().map(Chunk::Shared)),
            // On the heap: it waits for another body in turn, and most bodies are not coded.
            Body::Decoded(decoded) => Box::pin(decoded.next()).await,
            Body::Again(again) => Box::pin(again.next()).await,
        }
    }

    /// The next piece, if it is here already.
    pub fn next_buffered(&mut self) -> Result<Option<Chunk>, BodyError> {
        match self {
            Body::Wire { body, .. } => Ok(body.next_buffered()?.map(Chunk::Pooled)),
            Body::Stream { body } => Ok(body.next_buffered()?.map(Chunk::Shared)),
            Body::Tunnel { .. } => Ok(None),
            Body::Held { bytes, .. } => Ok(bytes.take().map(Chunk::Shared)),
            Body::Decoded(decoded) => decoded.next_buffered(),
            Body::Again(again) => again.next_buffered(),
        }
    }

    /// Whether a piece, or the end, can be had without waiting.
    pub fn is_buffered(&mut self) -> bool {
        match self {
            Body::Wire { body, .. } => body.buffered(),
            Body::Stream { body } => body.is_buffered(),
            Body::Tunnel { .. } | Body::Held { .. } | Body::Decoded(_) | Body::Again(_) => self.ended(),
        }
    }

    /// Drops what is here already of a body nobody wants any more.
    pub fn skip_buffered(&mut self) {
        match self {
            // Not to be decoded only to be dropped.
            Body::Decoded(decoded) => decoded.source_mut().skip_buffered(),
            Body::Again(again) => again.rest().skip_buffered(),
            plain => while let Ok(Some(_)) = plain.next_buffered() {},
        }
    }

    /// Nothing more comes: the body is complete.
    pub fn ended(&self) -> bool {
        match self {
            Body::Wire { body, .. } => body.ended(),
            Body::Stream { body } => body.ended(),
            Body::Tunnel { .. } => true,
            Body::Held { bytes, .. } => bytes.is_none(),
            Body::Decoded(decoded) => decoded.ended(),
            Body::Again(again) => again.ended(),
        }
    }

    pub fn length(&self) -> Length {
        match self {
            Body::Wire { length, .. } => *length,
            Body::Stream { body } => body.length(),
            Body::Tunnel { .. } => Length::Absent,
            Body::Held { len, .. } => Length::Exact(*len),
            Body::Decoded(_) => Length::Unknown,
            Body::Again(again) => again.source().length(),
        }
    }

    /// The trailers of an ended body and the bytes they lie in.
    pub fn trailers(&self) -> Option<(&[u8], &[Field])> {
        match self {
            Body::Wire { body, .. } => body.trailers(),
            Body::Stream { body } => body.trailers(),
            Body::Tunnel { .. } | Body::Held { .. } => None,
            Body::Decoded(decoded) => decoded.source().trailers(),
            Body::Again(again) => again.source().trailers(),
        }
    }

    /// Waits for the whole body and holds it. `Err(TooLarge)`: it is longer than `bytes_max`. Trailers are dropped: who
    /// wants the whole body wants its bytes.
    pub async fn collect(&mut self, bytes_max: usize) -> Result<Bytes, BodyError> {
        if let Body::Held { bytes, .. } = self {
            return match bytes {
                Some(bytes) if bytes.len() > bytes_max => Err(BodyError::TooLarge),
                bytes => Ok(bytes.clone().unwrap_or_default()),
            };
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if whole.len() + piece.len() > bytes_max {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(piece.bytes());
        }
        let whole = whole.freeze();
        *self = Body::held(Some(whole.clone()));
        Ok(whole)
    }
}
