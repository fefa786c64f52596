//! Finds the end of a head while its bytes arrive, looking at every byte once.
//!
//! Called after each read until it says where the head ends. It refuses what can never become a head as soon as it is
//! seen (a TLS handshake, HTTP/2, an LF without its CR) so that nobody is kept waiting for an end that will not come.

use crate::bytes::is_token_byte;
use crate::fault::Fault;

/// RFC 9112 §3 sets no bound; the longest registered method has 17 bytes, and without a bound a line of garbage that
/// happens to consist of token bytes would be waited on until the head limit.
pub const METHOD_BYTES_MAX: usize = 32;

/// How far one head has been looked at. Make a new one (`Scanner::default()`) for every head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    lines: Lines,
    /// Where the start line begins: 0, or 2 after an empty line.
    start: usize,
    /// The first bytes were found to begin a message.
    begun: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Request or response: a status line is told by its `HTTP/`, which no method can contain.
    #[default]
    Either,
    Response,
}

impl Scanner {
    /// A scanner that also refuses, from the first byte on, what is no status line.
    pub fn response() -> Scanner {
        Scanner { kind: Kind::Response, ..Scanner::default() }
    }

    /// `bytes` is everything read of this head so far; earlier calls saw a prefix of it. `Some(len)`: the head, with
    /// its empty line, is `bytes[..len]`. `None`: read more.
    ///
    /// One empty line before the request line is skipped (RFC 9112 §2.2) and counts as part of the head; a second one
    /// is refused. Every byte is looked at once over all calls, the first line's first 34 at most 34 times.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        if !self.begun {
            match begin(bytes, self.kind)? {
                Some(start) => {
                    *self = Scanner { lines: Lines::at(start), start, begun: true, kind: self.kind };
                }
                None => return Ok(None),
            }
        }
        self.lines.find_end(bytes)
    }

    /// True while nothing is known of the head but that its first bytes could begin a message.
    pub(crate) fn is_new(&self) -> bool {
        !self.begun
    }

    /// True while the first line has not ended: then it is the request-target that is too long, not the fields.
    pub(crate) fn in_start_line(&self) -> bool {
        self.lines.line == self.start
    }
}

/// Where the start line begins, once the first bytes can only be those of a message.
fn begin(bytes: &[u8], kind: Kind) -> Result<Option<usize>, Fault> {
    let start = match bytes {
        _ if kind == Kind::Response => 0,
        [] | [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    };
    let line = &bytes[start..];
    match line {
        [b'\r', b'\n', ..] if start == 2 => return Err(Fault::LeadingEmptyLines),
        // TLS record type 22 (RFC 8446 §5.1): a ClientHello. No text begins with it.
        [0x16, ..] => return Err(Fault::TlsHandshake),
        _ => {}
    }
    const STATUS_LINE: &[u8] = b"HTTP/";
    if line.starts_with(STATUS_LINE) && start == 0 {
        return Ok(Some(0));
    }
    if kind == Kind::Response {
        // An upstream that speaks another protocol may end its lines in anything: say that, not how they end.
        return if STATUS_LINE.starts_with(line) { Ok(None) } else { Err(Fault::NotHttp) };
    }
    // The preface of RFC 9113 §3.4 is made to look like a request of HTTP/2.0 without fields.
    const PREFACE: &[u8] = b"PRI * HTTP/2";
    if PREFACE.starts_with(&line[..line.len().min(PREFACE.len())]) {
        return if line.len() < PREFACE.len() { Ok(None) } else { Err(Fault::Http2Preface) };
    }
    match line.iter().take(METHOD_BYTES_MAX + 1).position(|&byte| !is_token_byte(byte)) {
        None if line.len() > METHOD_BYTES_MAX => Err(Fault::MethodTooLong),
        None => Ok(None),
        Some(at) => match (line[at], line.get(at + 1)) {
            (b' ', _) if at > 0 => Ok(Some(start)),
            // What `Lines` refuses by its own name.
            (b'\n' | 0, _) => Ok(Some(start)),
            (b'\r', None) => Ok(None),
            (b'\r', Some(b'\n')) => Err(Fault::RequestLineMalformed),
            (b'\r', Some(_)) => Ok(Some(start)),
            // A name and a colon, a banner, binary: no method ends here.
            (_, _) if at == 0 => Err(Fault::NotHttp),
            (_, _) => Err(Fault::MethodNotToken),
        },
    }
}

/// Finds the empty line that ends a section of CRLF lines; refuses LF, CR and NUL that stand alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    /// Where the line being read begins. `line <= checked`.
    line: usize,
    /// `bytes[..checked]` hold no end and no fault.
    checked: usize,
}

impl Lines {
    fn at(start: usize) -> Lines {
        Lines { line: start, checked: start }
    }

    /// `Some(len)`: the section, with its empty line, is `bytes[..len]`. Same contract as [`Scanner::scan`].
    #[inline]
    pub(crate) fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(found) = memchr::memchr3(b'\r', b'\n', 0, bytes.get(self.checked..).unwrap_or_default()) {
            let at = self.checked + found;
            match (bytes[at], bytes.get(at + 1)) {
                (b'\r', Some(b'\n')) if at == self.line => return Ok(Some(at + 2)),
                (b'\r', Some(b'\n')) => *self = Lines::at(at + 2),
                (b'\r', None) => {
                    self.checked = at;
                    return Ok(None);
                }
                (b'\r', Some(_)) => return Err(Fault::BareCr),
                // The LF of a CRLF was passed over together with its CR.
                (b'\n', _) => return Err(Fault::BareLf),
                (_, _) => return Err(Fault::Nul),
            }
        }
        self.checked = bytes.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on `bytes`, which must be the same whole, byte by byte, and cut anywhere in two.
    fn check(scanner: Scanner, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let whole = scanner.clone().scan(bytes);
        let mut one_by_one = scanner;
        let mut verdict = Ok(None);
        for end in 0..=bytes.len() {
            verdict = one_by_one.scan(&bytes[..end]);
            if verdict != Ok(None) {
                break;
            }
        }
        assert_eq!(verdict, whole, "byte by byte: {:?}", String::from_utf8_lossy(bytes));
        for cut in 0..=bytes.len() {
            let mut in_two = scanner;
            let verdict = match in_two.scan(&bytes[..cut]) {
                Ok(None) => in_two.scan(bytes),
                other => other,
            };
            assert_eq!(verdict, whole, "cut at {cut}: {:?}", String::from_utf8_lossy(bytes));
        }
        whole
    }

    #[test]
    fn a_head_ends_after_its_empty_line() {
        for (bytes, end) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Some(18)),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n", Some(27)),
            (b"\r\nGET / HTTP/1.1\r\n\r\n", Some(20)),
            (b"HTTP/1.1 200 OK\r\n\r\nbody\n\0", Some(19)),
            (b"GET / HTTP/1.1\r\nhost: a\r\n", None),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r", None),
            (b"PRI * HTTP/1.1\r\n\r\n", Some(18)),
            (b"PRIME / HTTP/1.1\r\n\r\n", Some(20)),
            (b"", None),
            (b"\r", None),
            (b"\r\n", None),
            (b"\r\n\r", None),
        ] {
            assert_eq!(check(Scanner::default(), bytes), Ok(end), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn what_cannot_become_a_head_is_refused_at_once() {
        for (bytes, fault) in [
            (&b"\x16"[..], Fault::TlsHandshake),
            (b"\x16\x03\x01\x02\x00\x01", Fault::TlsHandshake),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Fault::Http2Preface),
            (b"PRI * HTTP/2", Fault::Http2Preface),
            (b"\r\n\r\n", Fault::LeadingEmptyLines),
            (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Fault::LeadingEmptyLines),
            (b"\nGET / HTTP/1.1", Fault::BareLf),
            (b"\r\n\nGET / HTTP/1.1", Fault::BareLf),
            (b"\rGET / HTTP/1.1", Fault::BareCr),
            (b"\0", Fault::Nul),
            (b"G\0", Fault::Nul),
            (b" GET / HTTP/1.1", Fault::NotHttp),
            (b"{\"json\": 1}", Fault::NotHttp),
            (b"\x80\x2e\x01", Fault::NotHttp),
            (b"\r\n\x16", Fault::TlsHandshake),
            (b"G\x80", Fault::MethodNotToken),
            (b"Host: a", Fault::MethodNotToken),
            (b"SSH-2.0-client\r\n", Fault::RequestLineMalformed),
            (b"GET / HTTP/1.1\n", Fault::BareLf),
            (b"GET / HTTP/1.1\r\nhost: a\n", Fault::BareLf),
            (b"GET / HTTP/1.1\r\nhost: a\rb", Fault::BareCr),
            (b"GET / HTTP/1.1\r\nhost: a\r\r\n", Fault::BareCr),
            (b"GET / HTTP/1.1\r\nhost: a\0b", Fault::Nul),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\r\n", Fault::BareCr),
        ] {
            assert_eq!(check(Scanner::default(), bytes), Err(fault), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_method_has_at_most_32_bytes() {
        let method = [b'M'; METHOD_BYTES_MAX + 1];
        let line = |len: usize| [&method[..len], b" / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(check(Scanner::default(), &line(METHOD_BYTES_MAX)), Ok(Some(METHOD_BYTES_MAX + 15)));
        assert_eq!(check(Scanner::default(), &line(METHOD_BYTES_MAX + 1)), Err(Fault::MethodTooLong));
        assert_eq!(check(Scanner::default(), &method), Err(Fault::MethodTooLong));
        assert_eq!(check(Scanner::default(), &method[1..]), Ok(None));
    }

    #[test]
    fn a_response_begins_with_its_version() {
        for (bytes, verdict) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Ok(Some(19))),
            (b"HTT", Ok(None)),
            (b"", Ok(None)),
            (b"220 ready\r\n", Err(Fault::NotHttp)),
            (b"GET / HTTP/1.1\r\n\r\n", Err(Fault::NotHttp)),
            (b"\r\nHTTP/1.1 200 OK\r\n\r\n", Err(Fault::NotHttp)),
            (b"\x15\x03\x01", Err(Fault::NotHttp)),
            (b"HTTP/1.1 200 OK\n", Err(Fault::BareLf)),
        ] {
            assert_eq!(check(Scanner::response(), bytes), verdict, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    /// What makes scanning linear: no byte is behind the scanner but a CR whose LF has not come.
    #[test]
    fn every_byte_is_looked_at_once() {
        let head = b"GET / HTTP/1.1\r\nhost: a.example\r\naccept: */*\r\n";
        let mut scanner = Scanner::default();
        for end in 5..=head.len() {
            scanner.scan(&head[..end]).unwrap();
            let pending = usize::from(head[end - 1] == b'\r');
            assert_eq!(scanner.lines.checked, end - pending);
        }
    }

    #[test]
    fn the_start_line_is_told_from_the_fields() {
        let mut scanner = Scanner::default();
        scanner.scan(b"\r\nGET /very/lo").unwrap();
        assert!(scanner.in_start_line());
        scanner.scan(b"\r\nGET /very/lo HTTP/1.1\r\nh").unwrap();
        assert!(!scanner.in_start_line());
    }
}
