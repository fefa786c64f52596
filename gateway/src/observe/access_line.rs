//! One exchange as one line of JSON: the encoder of the access log. Pure: a record in, bytes out.
//!
//! Whatever bytes a client sends, a line is valid JSON on exactly one line and of bounded length, and shows nothing to a
//! terminal that the terminal would obey: controls (C1 and DEL too) are escaped, bytes that are not UTF-8 become U+FFFD.

use std::io::Write;
use std::net::IpAddr;

use super::rfc3339::Clock;

/// What one exchange leaves in the access log. Empty texts are left out of the line, and so are the numbers that say
/// there are none.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When the first byte of the request was there.
    pub time_unix_us: u64,
    pub listener: &'a str,
    /// The client's address as the listener decided it.
    pub client: IpAddr,
    pub request_id: &'a [u8],
    /// 32 hex digits, or empty.
    pub trace_id: &'a [u8],
    pub method: &'a [u8],
    pub host: &'a [u8],
    /// The canonical path, without the query: queries carry secrets.
    pub path: &'a [u8],
    pub protocol: &'static str,
    /// What the client was answered; 0: nothing.
    pub status: u16,
    pub route: &'a str,
    pub upstream: &'a str,
    pub endpoint: &'a str,
    /// Times the request was sent to an upstream; 0: never.
    pub attempts: u32,
    /// The last attempt went over a connection that had served before.
    pub reused: bool,
    /// Who ended the exchange early: `client`, `upstream` or `gateway`; empty: it is complete.
    pub ended_by: &'static str,
    /// Code of the refusal, when the answer is ours.
    pub refusal: &'static str,
    /// What we saw, for the log only.
    pub detail: &'a str,
    /// Body bytes from the client.
    pub request_bytes: u64,
    /// Body bytes to the client.
    pub response_bytes: u64,
    pub duration_us: u64,
    /// From the request sent to the first byte of the upstream's answer; 0: there was none.
    pub upstream_us: u64,
    pub user_agent: &'a [u8],
}

/// Bytes a value may take in the line, after escaping. A path or a detail is what one searches for; the rest is context.
const LONG_BYTES_MAX: usize = 2_048;
const SHORT_BYTES_MAX: usize = 256;
/// How many of the values are long ones and short ones.
const LONG_COUNT: usize = 3;
const SHORT_COUNT: usize = 11;

/// What the names, the quotes, the numbers and the time take at most.
const FRAME_BYTES_MAX: usize = 640;

/// No line is longer.
pub(super) const LINE_BYTES_MAX: usize =
    LONG_COUNT * (LONG_BYTES_MAX + CUT.len()) + SHORT_COUNT * (SHORT_BYTES_MAX + CUT.len()) + FRAME_BYTES_MAX;

/// Ends a value that was too long.
const CUT: &str = "…";

/// Appends `record` and a line feed to `line`; at most [`LINE_BYTES_MAX`] bytes. Does not allocate when that much is free.
/// About a nanosecond a byte.
pub(super) fn write(line: &mut Vec<u8>, clock: &mut Clock, record: &Record<'_>) {
    line.extend_from_slice(b"{\"time\":\"");
    line.extend_from_slice(clock.text(record.time_unix_us));
    line.push(b'"');
    text(line, b",\"listener\":\"", record.listener.as_bytes(), SHORT_BYTES_MAX);
    client(line, record.client);
    text(line, b",\"request_id\":\"", record.request_id, SHORT_BYTES_MAX);
    text(line, b",\"trace_id\":\"", record.trace_id, SHORT_BYTES_MAX);
    text(line, b",\"method\":\"", record.method, SHORT_BYTES_MAX);
    text(line, b",\"host\":\"", record.host, SHORT_BYTES_MAX);
    text(line, b",\"path\":\"", record.path, LONG_BYTES_MAX);
    text(line, b",\"protocol\":\"", record.protocol.as_bytes(), SHORT_BYTES_MAX);
    number(line, b",\"status\":", u64::from(record.status));
    text(line, b",\"route\":\"", record.route.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"upstream\":\"", record.upstream.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"endpoint\":\"", record.endpoint.as_bytes(), SHORT_BYTES_MAX);
    if record.attempts > 0 {
        number(line, b",\"attempts\":", u64::from(record.attempts));
        line.extend_from_slice(if record.reused { b",\"reused\":true" } else { b",\"reused\":false" });
    }
    text(line, b",\"ended_by\":\"", record.ended_by.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"refusal\":\"", record.refusal.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"detail\":\"", record.detail.as_bytes(), LONG_BYTES_MAX);
    number(line, b",\"request_bytes\":", record.request_bytes);
    number(line, b",\"response_bytes\":", record.response_bytes);
    number(line, b",\"duration_us\":", record.duration_us);
    if record.upstream_us > 0 {
        number(line, b",\"upstream_us\":", record.upstream_us);
    }
    text(line, b",\"user_agent\":\"", record.user_agent, LONG_BYTES_MAX);
    line.extend_from_slice(b"}\n");
}

fn number(line: &mut Vec<u8>, name: &[u8], value: u64) {
    line.extend_from_slice(name);
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `name` (with the opening quote) and `value`, or nothing when `value` is empty.
fn text(line: &mut Vec<u8>, name: &[u8], value: &[u8], bytes_max: usize) {
    if value.is_empty() {
        return;
    }
    line.extend_from_slice(name);
    // No early exit: the loop is over before a branch per byte would have been, because it runs sixteen bytes at a time.
    let plain = value.iter().fold(true, |plain, byte| plain & is_plain(*byte));
    if plain && value.len() <= bytes_max {
        line.extend_from_slice(value);
    } else {
        escape(line, value, bytes_max);
    }
    line.push(b'"');
}

/// Stands for itself in a JSON string, and on a terminal.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) & (byte != b'"') & (byte != b'\\')
}

/// Any bytes as the inside of a JSON string, cut after `bytes_max` bytes of output.
#[cold]
fn escape(line: &mut Vec<u8>, value: &[u8], bytes_max: usize) {
    let end = line.len() + bytes_max;
    // What comes out is never shorter than what goes in, so the rest of a long value cannot matter; without this it would
    // be looked at to its end only to be cut at its start.
    for chunk in value[..value.len().min(bytes_max + CUT.len() + 1)].utf8_chunks() {
        for char in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let mut hex = *b"\\u0000";
            let text: &[u8] = match char {
                '"' => b"\\\"",
                '\\' => b"\\\\",
                '\n' => b"\\n",
                '\r' => b"\\r",
                '\t' => b"\\t",
                // Controls, DEL and C1 included: a terminal that shows the log would obey them.
                control if control.is_control() => {
                    hex_digits(&mut hex[4..6], control as u32);
                    &hex
                }
                other => other.encode_utf8(&mut utf8).as_bytes(),
            };
            if !push_up_to(line, text, end) {
                return;
            }
        }
        if !chunk.invalid().is_empty() && !push_up_to(line, "\u{fffd}".as_bytes(), end) {
            return;
        }
    }
}

/// Appends `text` when it ends by `end`, else the mark of a cut.
fn push_up_to(line: &mut Vec<u8>, text: &[u8], end: usize) -> bool {
    let fits = line.len() + text.len() <= end;
    line.extend_from_slice(if fits { text } else { CUT.as_bytes() });
    fits
}

fn hex_digits(text: &mut [u8], mut value: u32) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// IPv4 by hand, because the standard library's way costs as much as the rest of the line.
fn client(line: &mut Vec<u8>, client: IpAddr) {
    line.extend_from_slice(b",\"client\":\"");
    match client {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    line.push(b'.');
                }
                line.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => {
            let _never_fails_on_a_vec = write!(line, "{address}");
        }
    }
    line.push(b'"');
}
