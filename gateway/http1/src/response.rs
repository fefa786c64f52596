//! Response heads (RFC 9112 §4, §5), read as strictly as requests: an upstream that can be made to answer ambiguously
//! splits the responses of other clients.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Status};

use crate::fault::Fault;
use crate::field::Field;
use crate::fields::{self, CONNECTION_OPTIONS_MAX};
use crate::request::{FIELDS_MAX, HeadLimits, Version, diagnose_version, fault_of, scan_within};
use crate::scan::Scanner;
use crate::span::Span;

/// Fields cut in the first attempt; see `request`.
const FIELDS_FEW: usize = 128;

/// A response head without its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine {
    /// 100 to 599.
    pub status: u16,
    /// Empty when there is none, or when it has bytes beyond ASCII. For logs: what is written is the registered phrase.
    pub reason: Span,
    pub version: Version,
    /// Bytes of the head with its empty line: the body begins here.
    pub head_bytes: usize,
}

/// Reads one response head from the front of `bytes`. `None`: read more. See [`crate::read_request`].
/// The scanner is a [`Scanner::response`], which refuses another protocol at its first byte.
#[inline]
pub fn read_response(
    scanner: &mut Scanner,
    bytes: &[u8],
    limits: &HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<Option<StatusLine>, Fault> {
    // A head that has begun to be scanned came in pieces: parsing it again after every piece would cost its square.
    if scanner.is_new()
        && let Ok(Status::Complete(line)) = attempt(bytes, limits, fields)
    {
        return Ok(Some(line));
    }
    read_in_two_steps(scanner, bytes, limits, fields)
}

/// The slow way of [`read_response`], and its definition.
#[cold]
fn read_in_two_steps(
    scanner: &mut Scanner,
    bytes: &[u8],
    limits: &HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<Option<StatusLine>, Fault> {
    // A response has no target: a first line without end is a head too large.
    let end = scan_within(scanner, bytes, limits)
        .map_err(|fault| if fault == Fault::TargetTooLong { Fault::HeadTooLarge } else { fault })?;
    match end {
        Some(len) => parse_response(&bytes[..len], limits, fields).map(Some),
        None => Ok(None),
    }
}

/// Parses the response head at the front of `head`, which [`Scanner::scan`] found to be complete; bytes after it are
/// not looked at. `fields` is cleared first. [`HeadLimits::target_bytes`] does not apply.
pub fn parse_response(head: &[u8], limits: &HeadLimits, fields: &mut Vec<Field>) -> Result<StatusLine, Fault> {
    match attempt(head, limits, fields) {
        Ok(Status::Complete(line)) => Ok(line),
        Ok(Status::Partial) => Err(diagnose(head, limits, Fault::HeadIncomplete)),
        Err(fault) => Err(diagnose(head, limits, fault)),
    }
}

#[inline]
fn attempt(bytes: &[u8], limits: &HeadLimits, fields: &mut Vec<Field>) -> Result<Status<StatusLine>, Fault> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_FEW];
    let mut response = httparse::Response::new(&mut []);
    let headers = &mut headers[..limits.fields.min(FIELDS_FEW)];
    match ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, headers) {
        Ok(Status::Complete(head_bytes)) => finish(bytes, head_bytes, &response, limits, fields).map(Status::Complete),
        Ok(Status::Partial) => Ok(Status::Partial),
        Err(httparse::Error::TooManyHeaders) if limits.fields > FIELDS_FEW => attempt_many(bytes, limits, fields),
        Err(error) => Err(fault_of(error)),
    }
}

/// [`attempt`] with 32 KiB of stack.
#[cold]
#[inline(never)]
fn attempt_many(bytes: &[u8], limits: &HeadLimits, fields: &mut Vec<Field>) -> Result<Status<StatusLine>, Fault> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let headers = &mut headers[..limits.fields.min(FIELDS_MAX)];
    match ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, headers) {
        Ok(Status::Complete(head_bytes)) => finish(bytes, head_bytes, &response, limits, fields).map(Status::Complete),
        Ok(Status::Partial) => Ok(Status::Partial),
        Err(error) => Err(fault_of(error)),
    }
}

/// Checks what httparse let pass and makes the result.
#[inline]
fn finish(
    bytes: &[u8],
    head_bytes: usize,
    response: &httparse::Response<'_, '_>,
    limits: &HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<StatusLine, Fault> {
    fields.clear();
    if head_bytes > limits.head_bytes.min(u32::MAX as usize) {
        return Err(Fault::HeadTooLarge);
    }
    let head = &bytes[..head_bytes];
    let (Some(minor), Some(status), Some(reason)) = (response.version, response.code, response.reason) else {
        return Err(Fault::StatusLineMalformed);
    };
    // httparse skips empty lines; before a response there are none (RFC 9112 §2.2 speaks of requests).
    if !head.starts_with(b"HTTP/") {
        return Err(Fault::NotHttp);
    }
    // RFC 9110 §15: others are invalid and to be treated as a 5xx, which a refusal is.
    if !(100..=599).contains(&status) {
        return Err(Fault::StatusOutOfRange);
    }
    let seen = fields::collect(head, response.headers, fields);
    if !seen.crlf || !head.ends_with(b"\r\n\r\n") {
        return Err(Fault::BareLf);
    }
    if seen.connection_options > CONNECTION_OPTIONS_MAX {
        return Err(Fault::TooManyConnectionOptions);
    }
    Ok(StatusLine {
        status,
        reason: if reason.is_empty() { Span::default() } else { Span::within(head, reason.as_bytes()) },
        version: if minor == 1 { Version::Http11 } else { Version::Http10 },
        head_bytes,
    })
}

/// The first thing wrong with `bytes`, in the order they are sent; `fault` when that is what was found already.
#[cold]
fn diagnose(bytes: &[u8], limits: &HeadLimits, fault: Fault) -> Fault {
    let head = match scan_within(&mut Scanner::response(), bytes, limits) {
        Ok(Some(len)) => &bytes[..len],
        Ok(None) => return Fault::HeadIncomplete,
        Err(Fault::TargetTooLong) => return Fault::HeadTooLarge,
        Err(fault) => return fault,
    };
    let Some(end) = memchr::memchr(b'\r', head) else {
        return fault;
    };
    let line = &head[..end];
    let version = &line[..memchr::memchr(b' ', line).unwrap_or(line.len())];
    if let Some(fault) = diagnose_version(version) {
        return fault;
    }
    let status_line_is_well_formed = match line.get(version.len()..) {
        Some([b' ', status @ ..]) => {
            status.len() >= 3
                && status[..3].iter().all(u8::is_ascii_digit)
                && matches!(status.get(3), None | Some(b' '))
                && !status.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
        }
        _ => false,
    };
    if !status_line_is_well_formed {
        return Fault::StatusLineMalformed;
    }
    match fault {
        Fault::StatusOutOfRange | Fault::TooManyFields | Fault::TooManyConnectionOptions => fault,
        _ => fields::diagnose(&head[end + 2..]).unwrap_or(fault),
    }
}
