//! Request heads (RFC 9112 §3, §5): a start line and fields, as ranges of the buffer they came in.
//!
//! httparse cuts the bytes; everything it is lenient about is checked here. When it refuses, a second, slow look finds
//! out why: refusals may cost more than requests, and never more than a pass over the head.

use std::mem::MaybeUninit;

use httparse::Status;

use crate::bytes::is_token;
use crate::fault::Fault;
use crate::field::Field;
use crate::fields::{self, CONNECTION_OPTIONS_MAX};
use crate::scan::{METHOD_BYTES_MAX, Scanner};
use crate::span::Span;
use crate::target::host_parts;

/// Bounds of one head. `max` passes, `max + 1` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Start line, fields and the empty line. Taken as 4 GiB when larger.
    pub head_bytes: usize,
    /// Field lines. Taken as [`FIELDS_MAX`] when larger.
    pub fields: usize,
    /// The request-target.
    pub target_bytes: usize,
}

/// More fields than this are never parsed, whatever [`HeadLimits::fields`] says: they are cut on the stack.
pub const FIELDS_MAX: usize = 1024;

/// Fields cut in the first attempt: 4 KiB of stack, not initialised. The usual limit (100) is below it.
const FIELDS_FEW: usize = 128;

/// The two versions with this syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// The method, as far as the gateway treats methods differently. Methods are case-sensitive (RFC 9110 §9.1): `get` is
/// [`Method::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    Other,
}

impl Method {
    #[inline]
    pub fn of(name: &[u8]) -> Method {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }

    /// The method as it is sent; empty for [`Method::Other`].
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Trace => "TRACE",
            Method::Connect => "CONNECT",
            Method::Other => "",
        }
    }

    /// The client asks for no change (RFC 9110 §9.2.1).
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }

    /// Sending it twice has the effect of sending it once (RFC 9110 §9.2.2).
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete)
    }
}

/// A request head without its fields. Spans are of the buffer it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine {
    pub method: Method,
    pub method_span: Span,
    /// As sent; [`crate::parse_target`] takes it apart.
    pub target: Span,
    pub version: Version,
    /// Value of the one Host field; its syntax has been checked. `None` only in HTTP/1.0.
    pub host: Option<Span>,
    /// Bytes of the head with its empty line: the body begins here.
    pub head_bytes: usize,
}

/// Reads one request head from the front of `bytes`: everything received and not yet consumed. `None`: read more.
///
/// Does what [`Scanner::scan`] followed by [`parse_request`] does, with the same verdicts however the bytes arrive, but
/// passes over a head that came in one piece, as nearly all do, once instead of twice. Also enforces
/// [`HeadLimits::head_bytes`] on a head that does not end.
#[inline]
pub fn read_request(
    scanner: &mut Scanner,
    bytes: &[u8],
    limits: &HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<Option<RequestLine>, Fault> {
    // A head that has begun to be scanned came in pieces: parsing it again after every piece would cost its square.
    if scanner.is_new()
        && let Ok(Status::Complete(line)) = attempt(bytes, limits, fields)
    {
        return Ok(Some(line));
    }
    read_in_two_steps(scanner, bytes, limits, fields)
}

/// The slow way of [`read_request`], and its definition.
#[cold]
fn read_in_two_steps(
    scanner: &mut Scanner,
    bytes: &[u8],
    limits: &HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<Option<RequestLine>, Fault> {
    match scan_within(scanner, bytes, limits)? {
        Some(len) => parse_request(&bytes[..len], limits, fields).map(Some),
        None => Ok(None),
    }
}

/// Where the head ends, if it does within the limit.
pub(crate) fn scan_within(scanner: &mut Scanner, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Fault> {
    let within = &bytes[..bytes.len().min(limits.head_bytes)];
    match scanner.scan(within)? {
        Some(len) => Ok(Some(len)),
        None if within.len() < limits.head_bytes => Ok(None),
        None if scanner.in_start_line() => Err(Fault::TargetTooLong),
        None => Err(Fault::HeadTooLarge),
    }
}

/// Parses the request head at the front of `head`, which [`Scanner::scan`] found to be complete; bytes after it are not
/// looked at. `fields` is cleared first and holds the fields in their order afterwards.
///
/// Checks method, target bytes, version, every field name and value, and Host (there once, required by HTTP/1.1, with
/// valid syntax). One pass, no allocation but the growth of `fields`.
pub fn parse_request(head: &[u8], limits: &HeadLimits, fields: &mut Vec<Field>) -> Result<RequestLine, Fault> {
    match attempt(head, limits, fields) {
        Ok(Status::Complete(line)) => Ok(line),
        Ok(Status::Partial) => Err(diagnose(head, limits, Fault::HeadIncomplete)),
        Err(fault) => Err(diagnose(head, limits, fault)),
    }
}

#[inline]
fn attempt(bytes: &[u8], limits: &HeadLimits, fields: &mut Vec<Field>) -> Result<Status<RequestLine>, Fault> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_FEW];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers[..limits.fields.min(FIELDS_FEW)]) {
        Ok(Status::Complete(head_bytes)) => finish(bytes, head_bytes, &request, limits, fields).map(Status::Complete),
        Ok(Status::Partial) => Ok(Status::Partial),
        Err(httparse::Error::TooManyHeaders) if limits.fields > FIELDS_FEW => attempt_many(bytes, limits, fields),
        Err(error) => Err(fault_of(error)),
    }
}

/// [`attempt`] with 32 KiB of stack.
#[cold]
#[inline(never)]
fn attempt_many(bytes: &[u8], limits: &HeadLimits, fields: &mut Vec<Field>) -> Result<Status<RequestLine>, Fault> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers[..limits.fields.min(FIELDS_MAX)]) {
        Ok(Status::Complete(head_bytes)) => finish(bytes, head_bytes, &request, limits, fields).map(Status::Complete),
        Ok(Status::Partial) => Ok(Status::Partial),
        Err(error) => Err(fault_of(error)),
    }
}

/// Checks what httparse let pass and makes the result.
#[inline]
fn finish(
    bytes: &[u8],
    head_bytes: usize,
    request: &httparse::Request<'_, '_>,
    limits: &HeadLimits,
    fields: &mut Vec<Field>,
) -> Result<RequestLine, Fault> {
    fields.clear();
    if head_bytes > limits.head_bytes.min(u32::MAX as usize) {
        return Err(Fault::HeadTooLarge);
    }
    let head = &bytes[..head_bytes];
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Fault::RequestLineMalformed);
    };
    let method_span = Span::within(head, method.as_bytes());
    // httparse skips any number of empty lines, ended in anything.
    if !(method_span.start == 0 || (method_span.start == 2 && head.starts_with(b"\r\n"))) {
        return Err(Fault::LeadingEmptyLines);
    }
    if method.len() > METHOD_BYTES_MAX {
        return Err(Fault::MethodTooLong);
    }
    if target.len() > limits.target_bytes {
        return Err(Fault::TargetTooLong);
    }
    if !target.is_ascii() {
        return Err(Fault::TargetNotAscii);
    }
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    let seen = fields::collect(head, request.headers, fields);
    if !seen.crlf || !head.ends_with(b"\r\n\r\n") {
        return Err(Fault::BareLf);
    }
    if seen.connection_options > CONNECTION_OPTIONS_MAX {
        return Err(Fault::TooManyConnectionOptions);
    }
    match (seen.host_count, seen.host) {
        (0, _) if version == Version::Http11 => return Err(Fault::HostMissing),
        // Equal ones too: whoever takes the first and whoever takes the last may not be told apart later.
        (2.., _) => return Err(Fault::HostRepeated),
        (_, Some(host)) => drop(host_parts(host.of(head))?),
        (_, None) => {}
    }
    Ok(RequestLine {
        method: Method::of(method.as_bytes()),
        method_span,
        target: Span::within(head, target.as_bytes()),
        version,
        host: seen.host,
        head_bytes,
    })
}

/// The nearest of our faults, should [`diagnose`] find no better one.
pub(crate) fn fault_of(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::HeaderName => Fault::FieldNameNotToken,
        httparse::Error::HeaderValue => Fault::FieldValueControl,
        httparse::Error::NewLine => Fault::BareCr,
        httparse::Error::Status => Fault::StatusLineMalformed,
        httparse::Error::Token => Fault::RequestLineMalformed,
        httparse::Error::TooManyHeaders => Fault::TooManyFields,
        httparse::Error::Version => Fault::VersionMalformed,
    }
}

/// The first thing wrong with `bytes`, in the order they are sent; `fault` when that is what was found already.
#[cold]
fn diagnose(bytes: &[u8], limits: &HeadLimits, fault: Fault) -> Fault {
    let head = match scan_within(&mut Scanner::default(), bytes, limits) {
        Ok(Some(len)) => &bytes[..len],
        Ok(None) => return Fault::HeadIncomplete,
        Err(fault) => return fault,
    };
    let line_and_fields = head.strip_prefix(b"\r\n").unwrap_or(head);
    let Some(end) = memchr::memchr(b'\r', line_and_fields) else {
        return fault;
    };
    if let Some(fault) = diagnose_request_line(&line_and_fields[..end]) {
        return fault;
    }
    match fault {
        // Found by us, after httparse was content with every line.
        Fault::TargetTooLong
        | Fault::TargetNotAscii
        | Fault::TooManyFields
        | Fault::TooManyConnectionOptions
        | Fault::HostMissing
        | Fault::HostRepeated
        | Fault::HostEmpty
        | Fault::HostUserinfo
        | Fault::HostMalformed
        | Fault::HostPort => fault,
        _ => fields::diagnose(&line_and_fields[end + 2..]).unwrap_or(fault),
    }
}

/// What is wrong with `line`, without its CRLF.
fn diagnose_request_line(line: &[u8]) -> Option<Fault> {
    if line.starts_with(b"HTTP/") {
        return Some(Fault::RequestLineMalformed);
    }
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next(), parts.next());
    if !is_token(method) {
        return Some(Fault::MethodNotToken);
    }
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return Some(Fault::RequestLineMalformed);
    };
    if target.iter().any(|&byte| byte < 0x20 || byte == 0x7f) {
        return Some(Fault::TargetControl);
    }
    if !target.is_ascii() {
        return Some(Fault::TargetNotAscii);
    }
    let Some(version) = version else {
        return Some(Fault::Http09);
    };
    if parts.next().is_some() || version.is_empty() {
        return Some(Fault::RequestLineMalformed);
    }
    diagnose_version(version)
}

/// What is wrong with `version`, if anything.
pub(crate) fn diagnose_version(version: &[u8]) -> Option<Fault> {
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => None,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Some(Fault::VersionUnsupported),
        _ => Some(Fault::VersionMalformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_told_by_their_exact_name() {
        for (name, method) in [
            ("GET", Method::Get),
            ("HEAD", Method::Head),
            ("POST", Method::Post),
            ("PUT", Method::Put),
            ("DELETE", Method::Delete),
            ("OPTIONS", Method::Options),
            ("PATCH", Method::Patch),
            ("TRACE", Method::Trace),
            ("CONNECT", Method::Connect),
            ("get", Method::Other),
            ("QUERY", Method::Other),
            ("", Method::Other),
        ] {
            assert_eq!(Method::of(name.as_bytes()), method);
        }
    }

    #[test]
    fn safe_methods_are_idempotent_and_put_and_delete_are() {
        use Method::*;
        let all = [Get, Head, Post, Put, Delete, Options, Patch, Trace, Connect, Other];
        let safe: Vec<Method> = all.into_iter().filter(|method| method.is_safe()).collect();
        let idempotent: Vec<Method> = all.into_iter().filter(|method| method.is_idempotent()).collect();
        assert_eq!(safe, [Get, Head, Options, Trace]);
        assert_eq!(idempotent, [Get, Head, Put, Delete, Options, Trace]);
    }
}
