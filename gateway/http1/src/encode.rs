//! Writes heads (RFC 9112 §3, §4, §5). Nothing is allocated but the growth of `out`, which its owner keeps and reuses.
//!
//! Names and values must come from a parsed head or from checked configuration: they are written as they are.

use crate::field::Field;

/// Declares the registered statuses with their lines written out, so that the usual line is one copy.
macro_rules! statuses {
    ($($status:literal $reason:literal,)*) => {
        fn registered_line(status: u16) -> Option<&'static str> {
            match status {
                $($status => Some(concat!("HTTP/1.1 ", stringify!($status), " ", $reason, "\r\n")),)*
                _ => None,
            }
        }
    };
}

// The IANA registry of status codes; 418 is there to stay unused.
statuses! {
    100 "Continue",
    101 "Switching Protocols",
    102 "Processing",
    103 "Early Hints",
    104 "Upload Resumption Supported",
    200 "OK",
    201 "Created",
    202 "Accepted",
    203 "Non-Authoritative Information",
    204 "No Content",
    205 "Reset Content",
    206 "Partial Content",
    207 "Multi-Status",
    208 "Already Reported",
    226 "IM Used",
    300 "Multiple Choices",
    301 "Moved Permanently",
    302 "Found",
    303 "See Other",
    304 "Not Modified",
    305 "Use Proxy",
    307 "Temporary Redirect",
    308 "Permanent Redirect",
    400 "Bad Request",
    401 "Unauthorized",
    402 "Payment Required",
    403 "Forbidden",
    404 "Not Found",
    405 "Method Not Allowed",
    406 "Not Acceptable",
    407 "Proxy Authentication Required",
    408 "Request Timeout",
    409 "Conflict",
    410 "Gone",
    411 "Length Required",
    412 "Precondition Failed",
    413 "Content Too Large",
    414 "URI Too Long",
    415 "Unsupported Media Type",
    416 "Range Not Satisfiable",
    417 "Expectation Failed",
    421 "Misdirected Request",
    422 "Unprocessable Content",
    423 "Locked",
    424 "Failed Dependency",
    425 "Too Early",
    426 "Upgrade Required",
    428 "Precondition Required",
    429 "Too Many Requests",
    431 "Request Header Fields Too Large",
    451 "Unavailable For Legal Reasons",
    500 "Internal Server Error",
    501 "Not Implemented",
    502 "Bad Gateway",
    503 "Service Unavailable",
    504 "Gateway Timeout",
    505 "HTTP Version Not Supported",
    506 "Variant Also Negotiates",
    507 "Insufficient Storage",
    508 "Loop Detected",
    510 "Not Extended",
    511 "Network Authentication Required",
}

/// `HTTP/1.1`, the status and its registered reason phrase; an empty phrase when there is none. `status` has three
/// digits: those parsed and those we answer with have.
#[inline]
pub fn status_line(out: &mut Vec<u8>, status: u16) {
    debug_assert!((100..=999).contains(&status));
    match registered_line(status) {
        Some(line) => out.extend_from_slice(line.as_bytes()),
        None => {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
            out.extend_from_slice(b" \r\n");
        }
    }
}

/// The registered reason phrase; empty when there is none.
pub fn reason(status: u16) -> &'static str {
    let line = registered_line(status).unwrap_or_default();
    line.get("HTTP/1.1 000 ".len()..).map_or("", |phrase| phrase.trim_end())
}

/// `path` may be any form of request-target without its query.
#[inline]
pub fn request_line(out: &mut Vec<u8>, method: &[u8], path: &[u8], query: Option<&[u8]>) {
    const VERSION: &[u8] = b" HTTP/1.1\r\n";
    out.reserve(method.len() + path.len() + query.map_or(0, |query| query.len() + 1) + VERSION.len() + 1);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(path);
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(VERSION);
}

/// One field line.
#[inline]
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!name.is_empty() && !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// One field line with a decimal value.
#[inline]
pub fn field_u64(out: &mut Vec<u8>, name: &[u8], value: u64) {
    field(out, name, itoa::Buffer::new().format(value).as_bytes());
}

/// The field lines of `fields`, parsed from `head`, that `keep` says yes to, in their order.
///
/// Neighbours that are kept and already spelled `name: value` are copied together: a head of which little is removed
/// costs a copy for every gap, not four for every field.
#[inline]
pub fn fields(out: &mut Vec<u8>, head: &[u8], fields: &[Field], mut keep: impl FnMut(&Field) -> bool) {
    // The run of bytes of `head` found worth copying and not copied yet.
    let (mut run_start, mut run_end) = (0, 0);
    for each in fields.iter().filter(|field| keep(field)) {
        let start = each.name.start as usize;
        let end = each.value.end() + 2;
        let plain = each.value.start as usize == each.name.end() + 2
            && head.get(each.name.end()..each.name.end() + 2) == Some(b": ")
            && head.get(end - 2..end) == Some(b"\r\n");
        if plain && start == run_end {
            run_end = end;
            continue;
        }
        out.extend_from_slice(&head[run_start..run_end]);
        if plain {
            (run_start, run_end) = (start, end);
        } else {
            (run_start, run_end) = (0, 0);
            field(out, each.name.of(head), each.value.of(head));
        }
    }
    out.extend_from_slice(&head[run_start..run_end]);
}

/// The empty line after the fields.
#[inline]
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}
