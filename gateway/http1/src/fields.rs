//! Turns the fields httparse found into ours, checking what it lets pass. One pass, for requests and responses.

use crate::bytes::{is_token_byte, trim};
use crate::fault::Fault;
use crate::field::{Field, Known, has_underscore};
use crate::span::Span;

/// Elements all Connection fields of a head may hold together. RFC 9110 §7.6.1 sets no bound; no sender needs five, and
/// every field of the head may be compared with every element.
pub(crate) const CONNECTION_OPTIONS_MAX: usize = 32;

/// What one pass over the fields learns about them.
#[derive(Default)]
pub(crate) struct Seen {
    /// Every line before the empty one ended in CRLF. httparse also takes LF.
    pub(crate) crlf: bool,
    pub(crate) host: Option<Span>,
    pub(crate) host_count: u32,
    pub(crate) connection_options: usize,
}

/// Fills `fields` from `headers`, all parsed from `head`. O(fields), and one growth of `fields` at most.
#[inline]
pub(crate) fn collect(head: &[u8], headers: &[httparse::Header<'_>], fields: &mut Vec<Field>) -> Seen {
    let mut seen = Seen { crlf: true, ..Seen::default() };
    // `extend` over a slice reserves once and writes without looking at the capacity again.
    fields.extend(headers.iter().map(|header| {
        let field = field(head, header);
        let start = field.name.start as usize;
        seen.crlf &= matches!(head.get(start.wrapping_sub(2)..start), Some(b"\r\n"));
        match field.known {
            Known::Host => {
                seen.host = Some(field.value);
                seen.host_count += 1;
            }
            Known::Connection => seen.connection_options += 1 + memchr::memchr_iter(b',', header.value).count(),
            _ => {}
        }
        field
    }));
    seen
}

#[inline]
pub(crate) fn field(head: &[u8], header: &httparse::Header<'_>) -> Field {
    let name = header.name.as_bytes();
    let known = Known::of(name);
    Field {
        name: Span::within(head, name),
        value: Span::within(head, header.value),
        known,
        // No known name has one.
        underscore: known == Known::Other && has_underscore(name),
    }
}

/// Why httparse did not like the lines of `section`, which ends with its empty line and has CRLF line ends only.
/// Slow and thorough: runs once, for a message that is refused.
pub(crate) fn diagnose(section: &[u8]) -> Option<Fault> {
    let mut rest = section;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            return None;
        }
        if matches!(line[0], b' ' | b'\t') {
            return Some(Fault::ObsFold);
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Some(Fault::FieldColonMissing);
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() {
            return Some(Fault::FieldNameEmpty);
        }
        if let Some(bad) = name.iter().position(|&byte| !is_token_byte(byte)) {
            let spaces = name[bad..].iter().all(|&byte| matches!(byte, b' ' | b'\t'));
            return Some(if spaces { Fault::FieldNameSpace } else { Fault::FieldNameNotToken });
        }
        if trim(value).iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
            return Some(Fault::FieldValueControl);
        }
    }
    None
}
