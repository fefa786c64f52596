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
    /// Of a call of gRPC; empty: it is none, or nobody has said.
    pub grpc_status: &'a str,
    pub route: &'a str,
    pub upstream: &'a str,
    pub endpoint: &'a str,
    /// Times the request was sent to an upstream; 0: never.
    pub attempts: u32,
    /// What the last but one attempt came to: a status, or `stale`, `connect`, `reset` or `timeout`.
    pub retried_for: &'a str,
    /// Why it was not sent again, though `retry` names what the last attempt came to.
    pub not_retried: &'static str,
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
    /// The subject of the client's certificate (RFC 4514), and 64 hex digits.
    pub client_cert_subject: &'a str,
    pub client_cert_sha256: &'a str,
}

/// Bytes a value may take in the line, after escaping. A path or a detail is what one searches for; the rest is context.
const LONG_BYTES_MAX: usize = 2_048;
const SHORT_BYTES_MAX: usize = 256;
/// How many of the values are long ones and short ones.
const LONG_COUNT: usize = 3;
const SHORT_COUNT: usize = 15;

/// What the names, the quotes, the numbers and the time take at most.
const FRAME_BYTES_MAX: usize = 768;

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
    text(line, b",\"grpc_status\":\"", record.grpc_status.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"route\":\"", record.route.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"upstream\":\"", record.upstream.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"endpoint\":\"", record.endpoint.as_bytes(), SHORT_BYTES_MAX);
    if record.attempts > 0 {
        number(line, b",\"attempts\":", u64::from(record.attempts));
        line.extend_from_slice(if record.reused { b",\"reused\":true" } else { b",\"reused\":false" });
    }
    text(line, b",\"retried_for\":\"", record.retried_for.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"not_retried\":\"", record.not_retried.as_bytes(), SHORT_BYTES_MAX);
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
    text(line, b",\"client_cert_subject\":\"", record.client_cert_subject.as_bytes(), SHORT_BYTES_MAX);
    text(line, b",\"client_cert_sha256\":\"", record.client_cert_sha256.as_bytes(), SHORT_BYTES_MAX);
    line.extend_from_slice(b"}\n");
}

// The names are arrays, not slices: a copy of a known length is a few moves instead of a call.
fn number<const N: usize>(line: &mut Vec<u8>, name: &[u8; N], value: u64) {
    line.extend_from_slice(name);
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `name` (with the opening quote) and `value`, or nothing when `value` is empty.
fn text<const N: usize>(line: &mut Vec<u8>, name: &[u8; N], value: &[u8], bytes_max: usize) {
    if value.is_empty() {
        return;
    }
    line.extend_from_slice(name);
    if value.len() <= bytes_max && is_plain(value) {
        line.extend_from_slice(value);
    } else {
        escape(line, value, bytes_max);
    }
    line.push(b'"');
}

/// Whether `value` stands for itself in a JSON string, and on a terminal. Eight bytes at a time and no way out before the
/// end: a branch a byte would cost more than the copy that follows.
fn is_plain(value: &[u8]) -> bool {
    let odd = match value.last_chunk() {
        // The last eight overlap the ones before, which is quicker than looking at fewer.
        Some(last) => value.as_chunks().0.iter().fold(odd(last), |before, eight| before | odd(eight)),
        None => {
            let mut padded = [b' '; 8];
            padded[..value.len()].copy_from_slice(value);
            odd(&padded)
        }
    };
    odd == 0
}

/// Zero when none of the eight is a control, a quote, a backslash, DEL or beyond ASCII.
///
/// Each lane of eight bits leaves its answer in its high bit. A subtraction sets it when the lane was below what is
/// subtracted, and may borrow from the next lane, which can only find more there than is: so zero is always right, and
/// another value is when the lowest lane that has one is.
fn odd(eight: &[u8; 8]) -> u64 {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let lanes = u64::from_le_bytes(*eight);
    let control = lanes.wrapping_sub(EACH * 0x20);
    let quote = (lanes ^ (EACH * b'"' as u64)).wrapping_sub(EACH);
    let backslash = (lanes ^ (EACH * b'\\' as u64)).wrapping_sub(EACH);
    let delete = lanes.wrapping_add(EACH);
    (((control | quote | backslash) & !lanes) | lanes | delete) & (EACH << 7)
}

/// Any bytes as the inside of a JSON string, cut after `bytes_max` bytes of output.
#[cold]
pub(super) fn escape(line: &mut Vec<u8>, value: &[u8], bytes_max: usize) {
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn empty() -> Record<'static> {
        Record {
            time_unix_us: 0,
            listener: "",
            client: Ipv4Addr::UNSPECIFIED.into(),
            request_id: b"",
            trace_id: b"",
            method: b"",
            host: b"",
            path: b"",
            protocol: "",
            status: 0,
            route: "",
            upstream: "",
            endpoint: "",
            attempts: 0,
            grpc_status: "",
            retried_for: "",
            not_retried: "",
            reused: false,
            ended_by: "",
            refusal: "",
            detail: "",
            request_bytes: 0,
            response_bytes: 0,
            duration_us: 0,
            upstream_us: 0,
            user_agent: b"",
            client_cert_subject: "",
            client_cert_sha256: "",
        }
    }

    fn full() -> Record<'static> {
        Record {
            time_unix_us: 1_795_424_918_123_456,
            listener: "public",
            client: Ipv4Addr::new(192, 0, 2, 33).into(),
            request_id: b"01J9ZC7V3N8Q",
            trace_id: b"4bf92f3577b34da6a3ce929d0e0e4736",
            method: b"GET",
            host: b"api.example.com",
            path: b"/v1/books/7",
            protocol: "HTTP/1.1",
            status: 502,
            route: "books",
            upstream: "shelf",
            endpoint: "10.0.0.11:8000",
            attempts: 2,
            grpc_status: "unavailable",
            retried_for: "reset",
            not_retried: "attempts",
            reused: true,
            ended_by: "upstream",
            refusal: "upstream_reset",
            detail: "connection reset after 17 bytes of the head",
            request_bytes: 0,
            response_bytes: 212,
            duration_us: 4_321,
            upstream_us: 3_900,
            user_agent: b"curl/8.5.0",
            client_cert_subject: "CN=ada,O=Example",
            client_cert_sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    }

    fn line(record: &Record<'_>) -> Vec<u8> {
        let mut line = Vec::new();
        write(&mut line, &mut Clock::new(), record);
        assert!(line.len() <= LINE_BYTES_MAX, "{} bytes", line.len());
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n'));
        line
    }

    fn text_of(record: &Record<'_>) -> String {
        String::from_utf8(line(record)).unwrap()
    }

    fn json_of(record: &Record<'_>) -> Value {
        serde_json::from_slice(&line(record)).unwrap()
    }

    #[test]
    fn a_line_has_everything_there_was() {
        insta::assert_snapshot!(text_of(&full()), @r#"{"time":"2026-11-23T09:08:38.123456Z","listener":"public","client":"192.0.2.33","request_id":"01J9ZC7V3N8Q","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","method":"GET","host":"api.example.com","path":"/v1/books/7","protocol":"HTTP/1.1","status":502,"grpc_status":"unavailable","route":"books","upstream":"shelf","endpoint":"10.0.0.11:8000","attempts":2,"reused":true,"retried_for":"reset","not_retried":"attempts","ended_by":"upstream","refusal":"upstream_reset","detail":"connection reset after 17 bytes of the head","request_bytes":0,"response_bytes":212,"duration_us":4321,"upstream_us":3900,"user_agent":"curl/8.5.0","client_cert_subject":"CN=ada,O=Example","client_cert_sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}"#);
    }

    #[test]
    fn what_is_empty_is_left_out() {
        insta::assert_snapshot!(text_of(&empty()), @r#"{"time":"1970-01-01T00:00:00.000000Z","client":"0.0.0.0","status":0,"request_bytes":0,"response_bytes":0,"duration_us":0}"#);
    }

    /// The page of the documentation has a row for each field.
    #[test]
    fn every_field_is_on_the_page() {
        let page = include_str!("../../../docs/observability.md");
        let json = json_of(&full());
        for name in json.as_object().unwrap().keys() {
            assert!(page.contains(&format!("| `{name}` |")), "{name} is not on the page");
        }
    }

    #[test]
    fn bytes_that_would_break_a_line_or_a_terminal_are_escaped() {
        let cases: &[(&str, &[u8], &str)] = &[
            ("quotes", br#"a"b"#, r#"a\"b"#),
            ("backslash", br"a\b", r"a\\b"),
            ("line ends", b"a\r\nb\tc", r"a\r\nb\tc"),
            ("a colour", b"\x1b[31m", r"\u001b[31m"),
            ("NUL", b"\0", r"\u0000"),
            ("DEL", b"\x7f", r"\u007f"),
            ("C1, which some terminals obey", "\u{9b}31m".as_bytes(), r"\u009b31m"),
            ("letters of any script", "كتاب é 📚".as_bytes(), "كتاب é 📚"),
            ("a byte that is not UTF-8", b"a\xffb", "a\u{fffd}b"),
            ("a letter cut short", b"a\xd9", "a\u{fffd}"),
            ("a surrogate", b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        ];
        for (name, host, expected) in cases {
            let text = text_of(&Record { host, ..empty() });
            let expected = format!(r#","host":"{expected}","#);
            assert!(text.contains(&expected), "{name}: {text}");
        }
    }

    #[test]
    fn every_byte_at_every_place_is_plain_or_is_not() {
        for byte in 0..=u8::MAX {
            let expected = (0x20..0x7f).contains(&byte) && !b"\"\\".contains(&byte);
            for length in 1..=17 {
                for at in 0..length {
                    let mut value = vec![b' '; length];
                    value[at] = byte;
                    assert_eq!(is_plain(&value), expected, "{byte:#x} at {at} of {length}");
                    // A neighbour must not hide it, nor be taken for it.
                    let mut value = vec![b'~'; length];
                    value[at] = byte;
                    assert_eq!(is_plain(&value), expected, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_value_is_cut_where_it_would_be_too_long() {
        let cut = |host: &[u8]| json_of(&Record { host, ..empty() })["host"].as_str().unwrap().to_owned();
        let most = "h".repeat(SHORT_BYTES_MAX);
        assert_eq!(cut(most.as_bytes()), most);
        assert_eq!(cut(format!("{most}h").as_bytes()), format!("{most}…"));
        let quotes = "\"".repeat(SHORT_BYTES_MAX / 2);
        assert_eq!(cut(quotes.as_bytes()), quotes);
        assert_eq!(cut(format!("{quotes}\"").as_bytes()), format!("{quotes}…"));
        // Cut between letters, not inside one: `é` is two bytes.
        let odd = format!("h{}", "é".repeat(SHORT_BYTES_MAX / 2));
        assert_eq!(cut(odd.as_bytes()), format!("{}…", &odd[..SHORT_BYTES_MAX - 1]));
        assert_eq!(cut(&[b'\n'; 100_000]), format!("{}…", "\n".repeat(SHORT_BYTES_MAX / 2)));
    }

    #[test]
    fn the_longest_line_fits() {
        const LONG: &str = match std::str::from_utf8(&[1; 100_000]) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        };
        let bytes = LONG.as_bytes();
        let longest = line(&Record {
            time_unix_us: u64::MAX,
            listener: LONG,
            client: Ipv6Addr::from([0xffff; 8]).into(),
            request_id: bytes,
            trace_id: bytes,
            method: bytes,
            host: bytes,
            path: bytes,
            protocol: LONG,
            status: u16::MAX,
            route: LONG,
            upstream: LONG,
            endpoint: LONG,
            attempts: u32::MAX,
            grpc_status: LONG,
            retried_for: LONG,
            not_retried: LONG,
            reused: false,
            ended_by: LONG,
            refusal: LONG,
            detail: LONG,
            request_bytes: u64::MAX,
            response_bytes: u64::MAX,
            duration_us: u64::MAX,
            upstream_us: u64::MAX,
            user_agent: bytes,
            client_cert_subject: LONG,
            client_cert_sha256: LONG,
        });
        // Not far below, either, or the bound would say nothing.
        assert!(longest.len() > LINE_BYTES_MAX * 9 / 10, "{} bytes", longest.len());
        serde_json::from_slice::<Value>(&longest).unwrap();
    }

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        for address in ["0.0.0.0", "192.0.2.255", "::", "2001:db8::1", "::ffff:192.0.2.1"] {
            let client: IpAddr = address.parse().unwrap();
            assert_eq!(json_of(&Record { client, ..empty() })["client"], address);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_line_of_json(path: Vec<u8>, detail: String, user_agent: Vec<u8>) {
            let json = json_of(&Record {
                path: &path,
                detail: &detail,
                user_agent: &user_agent,
                ..empty()
            });
            // Short enough not to be cut, so what a reader gets is what was there.
            let expected = String::from_utf8_lossy(&path);
            prop_assert_eq!(json["path"].as_str().unwrap_or_default(), expected);
            prop_assert_eq!(json["detail"].as_str().unwrap_or_default(), detail);
        }

        #[test]
        fn no_line_shows_a_control_to_a_terminal(detail: Vec<u8>) {
            let text = text_of(&Record { host: &detail, ..empty() });
            prop_assert!(!text.contains(char::is_control), "{text:?}");
        }

        #[test]
        fn long_values_stay_within_the_line(seed: Vec<u8>, times in 1_usize..400) {
            let long = seed.repeat(times);
            json_of(&Record { path: &long, host: &long, user_agent: &long, ..empty() });
        }
    }
}
