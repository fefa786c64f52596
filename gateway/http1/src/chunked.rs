//! The chunked coding (RFC 9112 §7.1): chunks, extensions and trailers in, ranges of data out; and the way back.
//!
//! The decoder keeps no data and copies only trailers. Extensions are checked against the grammar, counted and dropped:
//! they belong to one hop.

use crate::bytes::{hex, is_token_byte};
use crate::encode;
use crate::fault::Fault;
use crate::field::{Field, Known};
use crate::fields;
use crate::scan::Lines;

/// Bounds of one body. `max` passes, `max + 1` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Bytes between a chunk's size and the end of its line.
    pub extension_bytes: usize,
    /// Bytes of all trailer lines, without the empty line after them.
    pub trailer_bytes: usize,
    /// Trailer lines. Taken as [`TRAILER_FIELDS_MAX`] when larger.
    pub trailer_fields: usize,
}

/// More trailers than this are never parsed, whatever [`ChunkLimits::trailer_fields`] says: they are cut on the stack.
pub const TRAILER_FIELDS_MAX: usize = 128;

/// Hexadecimal digits of 2^64 - 1. More are refused even when they are zeros.
const SIZE_DIGITS_MAX: u8 = 16;

/// Framing bytes a body may have beyond its allowance (see [`OVERHEAD_PER_CHUNK`]). An attacker who sends one byte of
/// data with hundreds of extension costs us a read and a write for each; honest senders never come near.
const OVERHEAD_BYTES_MAX: u64 = 16 * 1024;

/// Framing bytes that count for nothing in each chunk: a size line of 14 bytes and the CRLF after the data. Bodies of
/// one-byte chunks, as event streams may send, have 6.
const OVERHEAD_PER_CHUNK: u64 = 16;

/// What one call of [`Decoder::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// All of the input was consumed and holds no more data: give it more.
    More,
    /// `input[start..start + len]` is data of the body. `len > 0`.
    Data { start: usize, len: usize },
    /// The body and its trailers are complete; what follows in the input is the next message.
    End,
}

/// Decodes one body. Make a new one for each.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    limits: ChunkLimits,
    /// Framing bytes beyond the allowance so far.
    overhead: u64,
    /// Bytes of the size line being read.
    line_bytes: u64,
    trailers: Trailers,
}

/// Where in the grammar the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size {
        digits: u8,
        size: u64,
    },
    /// In the rest of the line of a chunk of this size.
    Extension {
        size: u64,
        used: usize,
        at: At,
    },
    /// Before the LF of that line.
    LineFeed {
        size: u64,
    },
    /// In the data.
    Data {
        left: u64,
    },
    /// Before the CR, then the LF, after the data.
    DataCr,
    DataLf,
    /// In the trailer section.
    Trailers,
    Ended,
    Failed(Fault),
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS value ] )` the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// White space before a `;`, which must come.
    BeforeSemicolon,
    BeforeName,
    Name,
    /// White space after a name: `=` or `;` must come.
    AfterName,
    BeforeValue,
    Token,
    Quoted,
    QuotedPair,
    /// After the closing quote.
    AfterQuoted,
}

#[derive(Debug, Default)]
struct Trailers {
    /// The section as it was sent.
    arena: Vec<u8>,
    lines: Lines,
    fields: Vec<Field>,
    dropped_count: usize,
}

impl Decoder {
    /// Allocates nothing until a body has trailers.
    pub fn new(limits: ChunkLimits) -> Self {
        Decoder {
            state: State::Size { digits: 0, size: 0 },
            limits,
            overhead: 0,
            line_bytes: 0,
            trailers: Trailers::default(),
        }
    }

    /// Decodes from the front of `input`, up to the end of the first piece of data, of the body, or of the input.
    /// Returns how much of it was used, the data included; call again with the rest. A chunk that arrives in pieces is
    /// handed on in pieces. After a fault every call returns it again.
    ///
    /// The work of a call is bounded by the bytes it consumes.
    #[inline]
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Decoded), Fault> {
        match self.step(input) {
            Ok(step) => Ok(step),
            Err(fault) => {
                self.state = State::Failed(fault);
                Err(fault)
            }
        }
    }

    /// After [`Decoded::End`]: the trailer fields and the bytes their spans are of.
    ///
    /// Fields that may not stand in trailers ([`Known::is_forbidden_in_trailers`]), in their own spelling or with `_`
    /// for `-`, have been dropped: passing one on could change how the next hop understands a head it has already acted
    /// on. [`Decoder::dropped_trailers`] counts them.
    pub fn trailers(&self) -> (&[u8], &[Field]) {
        (&self.trailers.arena, &self.trailers.fields)
    }

    /// Trailer fields that were dropped.
    pub fn dropped_trailers(&self) -> usize {
        self.trailers.dropped_count
    }

    /// Bytes of data that were announced and have not come yet: what exceeds a bound can be refused before it is sent.
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            State::Extension { size, .. } | State::LineFeed { size } => size,
            _ => 0,
        }
    }

    /// True after [`Decoded::End`].
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    fn step(&mut self, input: &[u8]) -> Result<(usize, Decoded), Fault> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data { left } => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    return Ok((at + len, Decoded::Data { start: at, len }));
                }
                State::DataCr if byte == b'\r' => self.state = State::DataLf,
                State::DataLf if byte == b'\n' => self.state = State::Size { digits: 0, size: 0 },
                State::DataCr | State::DataLf => return Err(Fault::ChunkDataEnd),
                State::Size { digits, size } => self.state = self.size(byte, digits, size)?,
                State::Extension { size, used, at } => self.state = self.extension(byte, size, used, at)?,
                State::LineFeed { size } if byte == b'\n' => self.state = self.size_line_ended(size)?,
                State::LineFeed { .. } => return Err(Fault::ChunkLineEnd),
                State::Trailers => return self.trailer_bytes(input, at),
                State::Ended => return Ok((at, Decoded::End)),
                State::Failed(fault) => return Err(fault),
            }
            at += 1;
        }
        match self.state {
            State::Ended => Ok((at, Decoded::End)),
            State::Failed(fault) => Err(fault),
            _ => Ok((at, Decoded::More)),
        }
    }

    #[inline]
    fn size(&mut self, byte: u8, digits: u8, size: u64) -> Result<State, Fault> {
        if let Some(digit) = hex(byte) {
            if digits == SIZE_DIGITS_MAX {
                return Err(Fault::ChunkSizeOverflow);
            }
            // 16 digits fill 64 bits exactly.
            return Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) });
        }
        self.line_bytes = u64::from(digits) + 2;
        match byte {
            _ if digits == 0 => Err(Fault::ChunkSizeInvalid),
            b'\r' => Ok(State::LineFeed { size }),
            b'\n' => Err(Fault::ChunkLineEnd),
            b' ' | b'\t' | b';' => self.extension(byte, size, 0, At::BeforeSemicolon),
            _ => Err(Fault::ChunkSizeInvalid),
        }
    }

    /// One byte after the size. `used` bytes of extensions came before it.
    fn extension(&mut self, byte: u8, size: u64, used: usize, at: At) -> Result<State, Fault> {
        let complete = matches!(at, At::Name | At::Token | At::AfterQuoted | At::AfterName);
        match byte {
            // `AfterName` with white space and nothing behind it is not in the grammar, nor is a bare `;`.
            b'\r' if complete && at != At::AfterName => {
                self.line_bytes += used as u64;
                return Ok(State::LineFeed { size });
            }
            b'\r' => return Err(Fault::ChunkExtensionMalformed),
            b'\n' => return Err(Fault::ChunkLineEnd),
            0..=8 | 0x0b..=0x1f | 0x7f => return Err(Fault::ChunkExtensionControl),
            _ => {}
        }
        if used >= self.limits.extension_bytes {
            return Err(Fault::ChunkExtensionTooLong);
        }
        let space = matches!(byte, b' ' | b'\t');
        let next = match (at, byte) {
            (At::Quoted, b'"') => At::AfterQuoted,
            (At::Quoted, b'\\') => At::QuotedPair,
            // qdtext and quoted-pair: everything but controls, which were refused above.
            (At::Quoted | At::QuotedPair, _) => At::Quoted,
            (At::BeforeSemicolon | At::Name | At::AfterName | At::Token | At::AfterQuoted, b';') => At::BeforeName,
            (At::Name | At::AfterName, b'=') => At::BeforeValue,
            (At::BeforeValue, b'"') => At::Quoted,
            (At::BeforeSemicolon | At::BeforeName | At::BeforeValue, _) if space => at,
            (At::Name | At::AfterName, _) if space => At::AfterName,
            (At::Token | At::AfterQuoted, _) if space => At::BeforeSemicolon,
            (At::BeforeName | At::Name, _) if is_token_byte(byte) => At::Name,
            (At::BeforeValue | At::Token, _) if is_token_byte(byte) => At::Token,
            _ => return Err(Fault::ChunkExtensionMalformed),
        };
        Ok(State::Extension { size, used: used + 1, at: next })
    }

    fn size_line_ended(&mut self, size: u64) -> Result<State, Fault> {
        // As much framing as data is never too much; small chunks have their allowance.
        let allowance = size.saturating_add(OVERHEAD_PER_CHUNK);
        self.overhead = self.overhead.saturating_add(self.line_bytes + 2).saturating_sub(allowance);
        match size {
            _ if self.overhead > OVERHEAD_BYTES_MAX => Err(Fault::ChunkOverhead),
            0 => Ok(State::Trailers),
            left => Ok(State::Data { left }),
        }
    }

    /// Takes what belongs to the trailer section from `input[at..]`.
    fn trailer_bytes(&mut self, input: &[u8], at: usize) -> Result<(usize, Decoded), Fault> {
        let arena = &mut self.trailers.arena;
        if arena.is_empty() && input[at..].starts_with(b"\r\n") {
            self.state = State::Ended;
            return Ok((at + 2, Decoded::End));
        }
        // The empty line is not counted.
        let section_max = self.limits.trailer_bytes.saturating_add(2);
        let before = arena.len();
        arena.extend(input[at..].iter().take(section_max - before));
        match self.trailers.lines.find_end(arena)? {
            Some(end) => {
                arena.truncate(end);
                self.trailers.parse(self.limits.trailer_fields)?;
                self.state = State::Ended;
                Ok((at + end - before, Decoded::End))
            }
            None if arena.len() == section_max => Err(Fault::TrailersTooLarge),
            None => Ok((input.len(), Decoded::More)),
        }
    }
}

impl Trailers {
    fn parse(&mut self, fields_max: usize) -> Result<(), Fault> {
        let mut headers = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
        let headers = &mut headers[..fields_max.min(TRAILER_FIELDS_MAX)];
        let headers = match httparse::parse_headers(&self.arena, headers) {
            Ok(httparse::Status::Complete((_, headers))) => headers,
            Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyTrailers),
            // `lines` found the end of the section.
            Ok(httparse::Status::Partial) => return Err(Fault::FieldColonMissing),
            Err(error) => {
                return Err(fields::diagnose(&self.arena).unwrap_or(crate::request::fault_of(error)));
            }
        };
        for header in headers {
            let field = fields::field(&self.arena, header);
            if is_forbidden(&field, header.name) {
                self.dropped_count += 1;
            } else {
                self.fields.push(field);
            }
        }
        Ok(())
    }
}

/// True if the field, however it is spelled, may not stand in trailers.
fn is_forbidden(field: &Field, name: &str) -> bool {
    let known = if field.underscore { Known::of(name.replace('_', "-").as_bytes()) } else { field.known };
    known.is_forbidden_in_trailers()
}

/// The last chunk of a body without trailers, and its end.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the line before a chunk of `len` bytes to the front of `out` and returns its length. After the data comes
/// CRLF. `len` is not 0: that would be the last chunk.
#[inline]
pub fn encode_chunk_line(len: usize, out: &mut [u8; 18]) -> usize {
    debug_assert!(len > 0);
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1) as usize;
    for (at, digit) in out[..digits].iter_mut().enumerate() {
        *digit = DIGITS[len >> (4 * (digits - 1 - at)) & 15];
    }
    out[digits] = b'\r';
    out[digits + 1] = b'\n';
    digits + 2
}

/// Writes the last chunk, the trailer fields `keep` says yes to, and the end of the body.
pub fn encode_trailers(out: &mut Vec<u8>, arena: &[u8], fields: &[Field], keep: impl FnMut(&Field) -> bool) {
    out.extend_from_slice(b"0\r\n");
    encode::fields(out, arena, fields, keep);
    encode::end(out);
}
