//! The upstream side of HTTP/1: requests are encoded, answers' heads read and judged.

use http1::{ConnectionOptions, HeadLimits, Scanner, StatusLine, encode};

use super::call::{Asked, HeadError};
use crate::limits::{RESPONSE_FIELDS_MAX, RESPONSE_HEAD_BYTES_MAX};
use crate::proxy::body::Length;
use crate::proxy::fields::Fields;
use crate::proxy::head::ResponseHead;
use crate::proxy::wire::{Wait, WireReader};
use crate::rt::Buf;

const LIMITS: HeadLimits =
    HeadLimits { head_bytes: RESPONSE_HEAD_BYTES_MAX, fields: RESPONSE_FIELDS_MAX, target_bytes: 0 };

/// What the request says about this hop.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hop {
    /// The client reads trailers.
    pub te_trailers: bool,
    /// Ask for WebSocket.
    pub websocket: bool,
}

/// Encodes the head of a request.
pub fn encode_request(out: &mut Vec<u8>, asked: &Asked<'_>) {
    let Asked { method, path, query, host, fields, length, hop } = *asked;
    encode::request_line(out, method, path, query);
    encode::field(out, b"host", host);
    fields.encode(out, |_| true);
    encode_framing(out, length);
    match hop {
        Hop { websocket: true, .. } => {
            encode::field(out, b"connection", b"upgrade");
            encode::field(out, b"upgrade", b"websocket");
        }
        Hop { te_trailers: true, .. } => {
            encode::field(out, b"connection", b"te");
            encode::field(out, b"te", b"trailers");
        }
        Hop { .. } => {}
    }
    encode::end(out);
}

/// Encodes how the body of a request ends.
fn encode_framing(out: &mut Vec<u8>, length: Length) {
    match length {
        Length::Absent => {}
        Length::Exact(length) => encode::field_u64(out, b"content-length", length),
        Length::Unknown => encode::field(out, b"transfer-encoding", b"chunked"),
    }
}

/// The head of an answer. Its arena holds, behind the head, what was received of the body.
pub struct Received {
    pub head: ResponseHead,
    pub line: StatusLine,
    pub options: ConnectionOptions,
}

/// Reads one head, interim or final. `carry`: what was received behind an interim one. `first`: the wait for the first
/// byte; `None`: the caller has set the deadline, or will.
pub async fn read_head(
    reader: &mut WireReader,
    carry: Option<Buf>,
    first: Option<Wait>,
    idle: Wait,
) -> Result<Received, HeadError> {
    let mut scanner = Scanner::response();
    let mut fields = Fields::over(carry.unwrap_or_else(Buf::take));
    loop {
        let (bytes, table) = fields.parse_into();
        let received = !bytes.is_empty();
        if received {
            let line = http1::read_response(&mut scanner, bytes, &LIMITS, table).map_err(HeadError::Malformed)?;
            if let Some(line) = line {
                let options = http1::connection_options(bytes, table);
                return Ok(Received { head: ResponseHead { status: line.status, fields }, line, options });
            }
        }
        let mut buf = fields.take_arena().expect("made over one");
        if buf.room() == 0 {
            // A head within its limit that does not fit behind what was in front of it.
            buf = Buf::copy_of(buf.bytes()).expect("a part of one buffer fits in another");
        }
        match (received, first) {
            (true, _) => reader.arm(idle),
            (false, Some(first)) => reader.arm(first),
            (false, None) => {}
        }
        let (result, buf) = reader.read_armed(buf, usize::MAX).await;
        reader.disarm();
        result.map_err(|halt| HeadError::Halted { halt, received })?;
        fields = fields.with_arena(buf);
    }
}

/// Takes what was received behind the head out of its arena. The head's received fields are gone with it.
pub fn take_rest(head: &mut ResponseHead, line: &StatusLine) -> Option<Buf> {
    let mut buf = head.fields.take_arena()?;
    buf.advance(line.head_bytes);
    (!buf.is_empty()).then_some(buf)
}

/// A copy of what was received behind the head, for an answer whose fields are still needed.
pub fn take_rest_keeping_fields(head: &mut ResponseHead, line: &StatusLine) -> Option<Buf> {
    let rest = head.fields.arena().get(line.head_bytes..)?;
    let rest = Buf::copy_of(rest)?;
    head.fields.truncate_arena(line.head_bytes);
    (!rest.is_empty()).then_some(rest)
}
