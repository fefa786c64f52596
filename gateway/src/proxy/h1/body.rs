//! A message body on an HTTP/1 connection, either side: decoded pieces out of received bytes, without moving them.

use http1::{ChunkLimits, Decoded, Decoder, Fault, Field, Framing};

use crate::filter::coding::decode::Broken;
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX};
use crate::proxy::wire::{Halt, Pace, Wait, WireReader};
use crate::rt::Buf;

/// Why a body did not come to its end.
#[derive(Debug)]
pub enum BodyError {
    /// The connection did not deliver the rest.
    Halted(Halt),
    /// The chunked coding is broken.
    Malformed(Fault),
    /// It is larger than its bound.
    TooLarge,
    /// It cannot be taken out of its content coding.
    Coded(Broken),
}

impl From<Halt> for BodyError {
    fn from(halt: Halt) -> Self {
        BodyError::Halted(halt)
    }
}

/// How far a body was read.
pub struct H1Body {
    left: Left,
    /// Received, not yet looked at. Once the body has ended: what follows it on the connection.
    carry: Option<Buf>,
    /// Bytes of body that may still come.
    room: u64,
    received: u64,
    pace: Pace,
}

enum Left {
    Nothing,
    Bytes(u64),
    Chunks(Box<Decoder>),
    /// All that was left were chunks, and they ended with these trailers.
    Trailers(Box<Decoder>),
    UntilClose,
}

impl H1Body {
    /// A body framed as `framing`, of at most `bytes_max`, whose sender must keep `pace`.
    pub fn new(framing: Framing, bytes_max: u64, pace: Pace) -> H1Body {
        let left = match framing {
            Framing::None | Framing::Length(0) => Left::Nothing,
            Framing::Length(length) => Left::Bytes(length),
            Framing::Chunked => Left::Chunks(Box::new(Decoder::new(ChunkLimits {
                extension_bytes: CHUNK_EXTENSION_BYTES_MAX,
                trailer_bytes: TRAILER_BYTES_MAX,
                trailer_fields: TRAILER_FIELDS_MAX,
            }))),
            Framing::UntilClose => Left::UntilClose,
        };
        H1Body { left, carry: None, room: bytes_max, received: 0, pace }
    }

    /// Bounds what may still come.
    pub fn bound(&mut self, bytes_max: u64) {
        self.room = bytes_max.saturating_sub(self.received);
    }

    /// Hands over what was received behind the head.
    pub fn feed(&mut self, buf: Buf) {
        debug_assert!(self.carry.is_none(), "a body is fed once");
        if !buf.is_empty() {
            self.carry = Some(buf);
        }
    }

    /// Nothing more comes: *complete* is this state and no other.
    pub fn ended(&self) -> bool {
        matches!(self.left, Left::Nothing | Left::Trailers(_))
    }

    /// Bytes of body seen so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether a piece, or the end, can be had without waiting.
    pub fn buffered(&self) -> bool {
        self.carry.is_some() || self.ended()
    }

    /// The trailers of an ended body and the bytes they lie in.
    pub fn trailers(&self) -> Option<(&[u8], &[Field])> {
        match &self.left {
            Left::Trailers(decoder) => Some(decoder.trailers()),
            _ => None,
        }
    }

    /// What followed the body on the connection.
    pub fn take_carry(&mut self) -> Option<Buf> {
        self.carry.take()
    }

    /// The whole body, taken, when its length is known, at most `bytes_max`, and all of it is here.
    pub fn buffered_whole(&mut self, bytes_max: usize) -> Option<bytes::Bytes> {
        let Left::Bytes(left) = self.left else { return None };
        let here = self.carry.as_ref()?.len();
        if left > bytes_max as u64 || left > here as u64 || self.received > 0 {
            return None;
        }
        self.next_buffered().ok().flatten().map(|piece| bytes::Bytes::copy_from_slice(piece.bytes()))
    }

    /// The next piece out of what was received already. `None`: nothing is there, or the body has ended.
    pub fn next_buffered(&mut self) -> Result<Option<Buf>, BodyError> {
        if self.ended() {
            return Ok(None);
        }
        match self.carry.take() {
            Some(buf) => self.accept(buf),
            None => Ok(None),
        }
    }

    /// The next piece; `None`: the body has ended.
    pub async fn next(&mut self, reader: &mut WireReader, wait: Wait) -> Result<Option<Buf>, BodyError> {
        loop {
            if let Some(piece) = self.next_buffered()? {
                return Ok(Some(piece));
            }
            if self.ended() {
                return Ok(None);
            }
            let started = self.pace.start();
            let buf = match reader.read(wait).await {
                Ok(buf) => buf,
                Err(Halt::Closed) if matches!(self.left, Left::UntilClose) => {
                    self.left = Left::Nothing;
                    return Ok(None);
                }
                Err(halt) => return Err(halt.into()),
            };
            self.pace.moved(started, buf.len())?;
            self.carry = Some(buf);
        }
    }

    /// Takes the body's bytes out of `buf`, where they lie; what follows the body is kept apart.
    fn accept(&mut self, mut buf: Buf) -> Result<Option<Buf>, BodyError> {
        let piece = match &mut self.left {
            Left::Nothing | Left::Trailers(_) => None,
            Left::UntilClose => Some(buf),
            Left::Bytes(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.left = Left::Nothing;
                    self.carry = rest_of(&buf, taken);
                    buf.truncate(taken);
                }
                Some(buf)
            }
            Left::Chunks(decoder) => {
                let (range, consumed, ended) = decode_in_place(decoder, &mut buf).map_err(BodyError::Malformed)?;
                if ended {
                    self.carry = rest_of(&buf, consumed);
                    let Left::Chunks(decoder) = std::mem::replace(&mut self.left, Left::Nothing) else {
                        unreachable!("matched above")
                    };
                    self.left = Left::Trailers(decoder);
                } else if decoder.announced() > self.room {
                    return Err(BodyError::TooLarge);
                }
                buf.truncate(range.end);
                buf.advance(range.start);
                (!buf.is_empty()).then_some(buf)
            }
        };
        if let Some(piece) = &piece {
            let len = piece.len() as u64;
            self.received += len;
            self.room = self.room.checked_sub(len).ok_or(BodyError::TooLarge)?;
        }
        Ok(piece)
    }
}

/// What lies behind the first `consumed` bytes, in a buffer of its own.
fn rest_of(buf: &Buf, consumed: usize) -> Option<Buf> {
    match &buf.bytes()[consumed..] {
        [] => None,
        rest => Some(Buf::copy_of(rest).expect("a part of one buffer fits in another")),
    }
}

/// Decodes all chunks in `buf` and moves their data together where the first one's lies: one chunk moves nothing.
/// Returns the range of the data, the bytes consumed, and whether the coding has ended.
fn decode_in_place(decoder: &mut Decoder, buf: &mut Buf) -> Result<(std::ops::Range<usize>, usize, bool), Fault> {
    let (mut consumed, mut start, mut end) = (0, 0, 0);
    loop {
        let (n, decoded) = decoder.decode(&buf.bytes()[consumed..])?;
        match decoded {
            Decoded::Data { start: at, len } => {
                let from = consumed + at;
                if start == end {
                    (start, end) = (from, from + len);
                } else {
                    buf.shift(from, len, end);
                    end += len;
                }
            }
            Decoded::More => return Ok((start..end, consumed + n, false)),
            Decoded::End => return Ok((start..end, consumed + n, true)),
        }
        consumed += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(framing: Framing, text: &[u8]) -> H1Body {
        let mut body = H1Body::new(framing, 1000, Pace::new(0));
        body.feed(Buf::copy_of(text).expect("fits"));
        body
    }

    fn buffered(body: &mut H1Body) -> Vec<u8> {
        body.next_buffered().expect("good").map_or(Vec::new(), |piece| piece.bytes().to_vec())
    }

    #[test]
    fn chunks_come_out_as_one_piece_and_what_follows_is_kept() {
        let mut body = body(Framing::Chunked, b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: 1\r\n\r\nGET /");
        assert_eq!(buffered(&mut body), b"abcde");
        assert!(body.ended());
        let (bytes, trailers) = body.trailers().expect("ended with chunks");
        assert_eq!(trailers[0].name.of(bytes), b"t");
        assert_eq!(body.take_carry().expect("next request").bytes(), b"GET /");
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let mut body = body(Framing::Length(3), b"abcd");
        assert_eq!(buffered(&mut body), b"abc");
        assert!(body.ended());
        assert_eq!(body.take_carry().expect("rest").bytes(), b"d");
    }

    #[test]
    fn a_body_of_the_largest_size_passes_and_one_byte_more_does_not() {
        let check = |framing: Framing, text: &[u8]| {
            let mut body = H1Body::new(framing, 5, Pace::new(0));
            body.feed(Buf::copy_of(text).expect("fits"));
            body.next_buffered().map(|piece| piece.map(|piece| piece.len()))
        };
        assert!(matches!(check(Framing::Chunked, b"5\r\nabcde\r\n0\r\n\r\n"), Ok(Some(5))));
        assert!(matches!(check(Framing::Chunked, b"6\r\nabcdef\r\n0\r\n\r\n"), Err(BodyError::TooLarge)));
        assert!(matches!(check(Framing::Chunked, b"6\r\n"), Err(BodyError::TooLarge)));
        assert!(matches!(check(Framing::UntilClose, b"abcde"), Ok(Some(5))));
        assert!(matches!(check(Framing::UntilClose, b"abcdef"), Err(BodyError::TooLarge)));
    }

    #[test]
    fn a_part_of_a_chunk_line_is_no_piece() {
        let mut body = body(Framing::Chunked, b"1");
        assert!(body.next_buffered().expect("good so far").is_none());
        assert!(!body.ended());
        assert!(!body.buffered());
    }
}
