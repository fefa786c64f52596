//! Decides how a message body ends (RFC 9112 §6.3). Pure: fields in, [`Framing`] or fault out.
//! Nothing after this module looks at Content-Length or Transfer-Encoding to find the end of a body again.

use crate::bytes::trim;
use crate::fault::Fault;
use crate::field::{Field, Known};
use crate::request::{Method, Version};

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body: the message ends with its head.
    None,
    /// After this many bytes; 0 when Content-Length says so.
    Length(u64),
    /// With the last chunk and the trailers ([`crate::Decoder`]).
    Chunked,
    /// When the connection ends. Responses only.
    UntilClose,
}

/// What the fields say, before the message it is said of is considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Declared {
    Nothing,
    Length(u64),
    Chunked,
}

/// How the body of the request ends whose `fields` were parsed from `head`.
pub fn request_framing(head: &[u8], version: Version, fields: &[Field]) -> Result<Framing, Fault> {
    match declared(head, version, fields)? {
        // Cases 1 and 2 of RFC 9112 §6.3 cannot happen here because they speak of responses. CONNECT (case 2 speaks of
        // its answer) has no body of its own unless it declares one.
        // Case 3, both fields: refused in `declared`.
        // Case 4: chunked is final. Anything else is refused in `declared`, as case 4 demands for requests.
        Declared::Chunked => Ok(Framing::Chunked),
        // Case 5, invalid Content-Length: refused in `declared`.
        // Case 6.
        Declared::Length(length) => Ok(Framing::Length(length)),
        // Case 7.
        Declared::Nothing => Ok(Framing::None),
        // Case 8 cannot happen here because it speaks of responses.
    }
}

/// How the body of the response ends whose `fields` were parsed from `head`; `request_method` is what it answers.
///
/// Fields that contradict themselves are refused even where the response has no body: Content-Length of a HEAD or 304
/// is passed on to the client, so it must be one number.
pub fn response_framing(
    head: &[u8],
    request_method: Method,
    status: u16,
    version: Version,
    fields: &[Field],
) -> Result<Framing, Fault> {
    let declared = declared(head, version, fields)?;
    match (request_method, status, declared) {
        // Case 1: the head is all there is, whatever it declares.
        (Method::Head, _, _) | (_, 100..=199 | 204 | 304, _) => Ok(Framing::None),
        // Case 2: after the head comes a tunnel, which is not a body.
        (Method::Connect, 200..=299, _) => Ok(Framing::None),
        // Case 3, both fields: refused in `declared`.
        // Case 4: chunked is final. A response whose final coding is another ends with its connection by the RFC; we
        // refuse it in `declared`, for we could pass on neither the coding nor, without decoding it, the content.
        (_, _, Declared::Chunked) => Ok(Framing::Chunked),
        // Case 5, invalid Content-Length: refused in `declared`.
        // Case 6.
        (_, _, Declared::Length(length)) => Ok(Framing::Length(length)),
        // Case 7 cannot happen here because it speaks of requests.
        // Case 8.
        (_, _, Declared::Nothing) => Ok(Framing::UntilClose),
    }
}

/// The value of Content-Length, for passing it on where there is no body (HEAD, 304). Refuses what framing refuses.
pub fn content_length(head: &[u8], fields: &[Field]) -> Result<Option<u64>, Fault> {
    let mut length = None;
    for field in fields.iter().filter(|field| field.known == Known::ContentLength) {
        // RFC 9112 §6.3 case 5 lets us merge equal lengths. We refuse: they agree here, and a proxy upstream of us may
        // count differently. `5, 5` is the same thing on one line; its comma is no digit.
        if length.is_some() {
            return Err(Fault::ContentLengthRepeated);
        }
        length = Some(decimal(field.value.of(head))?);
    }
    Ok(length)
}

fn declared(head: &[u8], version: Version, fields: &[Field]) -> Result<Declared, Fault> {
    let mut lengths = false;
    let mut codings = false;
    for field in fields {
        lengths |= field.known == Known::ContentLength;
        codings |= field.known == Known::TransferEncoding;
    }
    match (lengths, codings) {
        (false, false) => Ok(Declared::Nothing),
        (true, false) => Ok(content_length(head, fields)?.map_or(Declared::Nothing, Declared::Length)),
        // RFC 9112 §6.3 case 3 lets a server handle it as chunked. We refuse: this is how requests are smuggled.
        (true, true) => Err(Fault::ContentLengthWithTransferEncoding),
        // RFC 9112 §6.1: framing is faulty even when everything else is in order.
        (false, true) if version == Version::Http10 => Err(Fault::TransferEncodingIn10),
        (false, true) => transfer_encoding(head, fields),
    }
}

/// One or more digits, at most 2^64 - 1. No sign, no white space inside, no list.
fn decimal(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        // A list is its own fault: it is what merging two fields makes of them (RFC 9110 §5.3).
        let list = value.iter().all(|&byte| byte.is_ascii_digit() || matches!(byte, b',' | b' ' | b'\t'));
        return Err(if list && value.contains(&b',') {
            Fault::ContentLengthRepeated
        } else {
            Fault::ContentLengthInvalid
        });
    }
    let mut length = 0u64;
    for digit in value {
        length = length
            .checked_mul(10)
            .and_then(|length| length.checked_add(u64::from(digit - b'0')))
            .ok_or(Fault::ContentLengthOverflow)?;
    }
    Ok(length)
}

/// The list of codings over all Transfer-Encoding fields must be exactly `chunked`, in any case.
fn transfer_encoding(head: &[u8], fields: &[Field]) -> Result<Declared, Fault> {
    let mut chunked_count = 0u32;
    let mut others = false;
    let mut last_is_chunked = false;
    for field in fields.iter().filter(|field| field.known == Known::TransferEncoding) {
        for coding in field.value.of(head).split(|&byte| byte == b',') {
            let coding = trim(coding);
            // Empty elements and parameters (`chunked;a=b`): allowed by the grammar, needed by nobody, and read as
            // "not chunked" by some.
            if !crate::bytes::is_token(coding) {
                return Err(Fault::TransferEncodingMalformed);
            }
            last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            chunked_count += u32::from(last_is_chunked);
            others |= !last_is_chunked;
        }
    }
    match (chunked_count, last_is_chunked, others) {
        (2.., _, _) => Err(Fault::ChunkedRepeated),
        (_, false, _) => Err(Fault::ChunkedNotLast),
        (_, true, true) => Err(Fault::TransferCodingUnknown),
        (_, true, false) => Ok(Declared::Chunked),
    }
}
