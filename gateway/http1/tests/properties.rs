//! What must hold for any message: how it is cut does not matter, what is written is read back, and neither way of
//! reading a head knows better than the other.

mod common;

use std::ops::Range;

use common::{CHUNKS, LIMITS, Side, pairs, read};
use http1::chunked::{encode_chunk_line, encode_trailers};
use http1::*;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Lines, and pieces of lines, of good and bad messages.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "GET http://a/ HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.0\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 304 \r\n",
    "CONNECT a:1 HTTP/1.1\r\n",
    "PRI * HTTP/2.0\r\n",
    "GET /\r\n",
    "Host: a\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: x\r\n",
    "Connection: close\r\n",
    "TE: trailers\r\n",
    "X_y: \t z \r\n",
    "a:\r\n",
    " folded\r\n",
    "X : a\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "0\r\n",
    "3\r\nabc\r\n",
    "3;a=\"b\"\r\nabc\r\n",
    "5\r\nabc",
    "ffffffffffffffff\r\n",
    "1;\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    "\u{e4}",
    "\x16\x03",
    "abc",
];

/// Messages as they should be, to be damaged.
const MESSAGES: &[&[u8]] = &[
    b"GET /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nX_Y: z\r\n\r\n",
    b"\r\nGET http://a.example:80/ HTTP/1.1\r\nhost:a.example\r\nConnection: keep-alive, x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=\"b\"\r\n!\r\n0\r\nX: y\r\n\r\nGET",
    b"POST / HTTP/1.1\r\nHost: [::1]:80\r\nTE: trailers\r\nConnection: te\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nEtag: \"a\"\r\n\r\nhello",
    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
];

/// What damage is done with.
const BYTES: &[u8] = b"\r\n\0 \t:;,/?#%0159afAGxX_\"\\\x01\x0b\x7f\x80\xe4\xff";

fn message() -> impl Strategy<Value = Vec<u8>> {
    let pieced = prop::collection::vec(select(PIECES), 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    let edit = (any::<Index>(), 0..3u8, select(BYTES));
    let damaged = (select(MESSAGES), prop::collection::vec(edit, 0..4)).prop_map(|(message, edits)| {
        let mut bytes = message.to_vec();
        for (at, how, byte) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    });
    let garbage = prop::collection::vec(select(BYTES), 0..40);
    prop_oneof![4 => pieced, 5 => damaged, 1 => garbage]
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![
        3 => Just(Side::Request),
        1 => Just(Side::Response(Method::Get)),
        1 => Just(Side::Response(Method::Head)),
        1 => Just(Side::Response(Method::Connect)),
    ]
}

/// Sorted offsets into something of unknown length.
fn cuts(count: Range<usize>) -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), count)
}

fn offsets(cuts: &[Index], len: usize) -> Vec<usize> {
    let mut offsets: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    offsets.sort_unstable();
    offsets
}

fn token() -> impl Strategy<Value = String> {
    "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,24}"
}

/// A value as it stands between the white space around it.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => 0x21..=0x7eu8, 1 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80..=0xffu8];
    prop::collection::vec(byte, 0..40).prop_map(|bytes| {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = bytes.iter().position(|byte| !is_space(byte)).unwrap_or(bytes.len());
        let end = bytes.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
        bytes[start..end].to_vec()
    })
}

/// Fields without those that are checked further.
fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let free = |name: &String| !matches!(Known::of(name.as_bytes()), Known::Host | Known::Connection);
    let known = select(Known::ALL).prop_map(|known| known.name().to_owned());
    let name = prop_oneof![token(), known].prop_filter("is checked further", free);
    prop::collection::vec((name, value()), 0..15)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn how_a_message_is_cut_does_not_change_what_it_is(side in side(), bytes in message(), cuts in cuts(0..6)) {
        let whole = read(side, &bytes, &[]);
        // With a body that ends with the connection, what is not there yet is not missed.
        prop_assert_eq!(read(side, &bytes, &offsets(&cuts, bytes.len())), whole.clone());
        let each: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(read(side, &bytes, &each), whole);
    }

    #[test]
    fn what_follows_a_message_does_not_change_what_it_is(bytes in message(), more in message()) {
        if let Ok(Some(message)) = read(Side::Request, &bytes, &[]) {
            let followed = [&bytes[..message.used], &more].concat();
            prop_assert_eq!(read(Side::Request, &followed, &[]), Ok(Some(message)));
        }
    }

    #[test]
    fn reading_in_one_step_is_scanning_and_parsing(bytes in message()) {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let in_one_step = read_request(&mut Scanner::default(), &bytes, &LIMITS, &mut one);
        let in_two_steps = match Scanner::default().scan(&bytes) {
            Ok(Some(len)) => parse_request(&bytes[..len], &LIMITS, &mut two).map(Some),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        };
        prop_assert_eq!(in_one_step, in_two_steps);
        if matches!(in_one_step, Ok(Some(_))) {
            prop_assert_eq!(&one, &two);
        }
        let in_one_step = read_response(&mut Scanner::response(), &bytes, &LIMITS, &mut one);
        let in_two_steps = match Scanner::response().scan(&bytes) {
            Ok(Some(len)) => parse_response(&bytes[..len], &LIMITS, &mut two).map(Some),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        };
        prop_assert_eq!(in_one_step, in_two_steps);
    }

    /// The scanner that takes either kind is as good as one of the kind.
    #[test]
    fn a_scanner_of_either_kind_finds_the_same_end(bytes in message()) {
        if let Ok(Some(end)) = Scanner::response().scan(&bytes) {
            prop_assert_eq!(Scanner::default().scan(&bytes), Ok(Some(end)));
        }
    }

    #[test]
    fn an_accepted_head_holds_nothing_of_what_is_refused(bytes in message()) {
        let mut fields = Vec::new();
        let Ok(Some(line)) = read_request(&mut Scanner::default(), &bytes, &LIMITS, &mut fields) else { return Ok(()) };
        let head = &bytes[..line.head_bytes];
        prop_assert!(!head.contains(&0));
        for (at, byte) in head.iter().enumerate() {
            prop_assert!(*byte != b'\n' || head[at - 1] == b'\r');
            prop_assert!(*byte != b'\r' || head[at + 1] == b'\n');
        }
        // Everything between the empty lines is start line and fields, and nothing else.
        let lines = head.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
        prop_assert_eq!(lines, fields.len() + 1);
        for field in &fields {
            let (name, value) = (field.name.of(head), field.value.of(head));
            prop_assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':'));
            prop_assert!(value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)));
            prop_assert_eq!(value.trim_ascii(), value);
            prop_assert_eq!(field.known, Known::of(name));
            prop_assert_eq!(field.underscore, name.contains(&b'_'));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_request_that_is_written_is_read_back(
        method in token(), path in "/[!-\"$->@-~]{0,60}", query in prop::option::of("[!-\"$-~]{0,40}"), fields in fields(),
    ) {
        let mut head = Vec::new();
        encode::request_line(&mut head, method.as_bytes(), path.as_bytes(), query.as_deref().map(str::as_bytes));
        encode::field(&mut head, b"Host", b"a");
        for (name, value) in &fields {
            encode::field(&mut head, name.as_bytes(), value);
        }
        encode::end(&mut head);
        let mut parsed = Vec::new();
        let line = parse_request(&head, &LIMITS, &mut parsed).unwrap();
        prop_assert_eq!((line.method, line.version, line.head_bytes), (Method::of(method.as_bytes()), Version::Http11, head.len()));
        prop_assert_eq!(line.method_span.of(&head), method.as_bytes());
        if line.method != Method::Connect {
            let target = parse_target(&head, &line, line.host).unwrap();
            prop_assert_eq!(target.path.of(&head), path.as_bytes());
            prop_assert_eq!(target.query.map(|query| query.of(&head).to_vec()), query.as_ref().map(|query| query.as_bytes().to_vec()));
        }
        let expected: Vec<(Vec<u8>, Vec<u8>)> = [("Host".into(), b"a".to_vec())]
            .into_iter().chain(fields).map(|(name, value): (String, _)| (name.into_bytes(), value)).collect();
        prop_assert_eq!(pairs(&head, &parsed), expected);
        // Written again, from the spans, it is the same bytes.
        let mut again = Vec::new();
        encode::request_line(&mut again, line.method_span.of(&head), line.target.of(&head), None);
        encode::fields(&mut again, &head, &parsed, |_| true);
        encode::end(&mut again);
        prop_assert_eq!(again, head);
    }

    #[test]
    fn a_response_that_is_written_is_read_back(status in 100..600u16, fields in fields()) {
        let mut head = Vec::new();
        encode::status_line(&mut head, status);
        for (name, value) in &fields {
            encode::field(&mut head, name.as_bytes(), value);
        }
        encode::end(&mut head);
        let mut parsed = Vec::new();
        let line = parse_response(&head, &LIMITS, &mut parsed).unwrap();
        prop_assert_eq!((line.status, line.version, line.head_bytes), (status, Version::Http11, head.len()));
        let expected: Vec<(Vec<u8>, Vec<u8>)> = fields.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        prop_assert_eq!(pairs(&head, &parsed), expected);
    }

    /// Copying neighbours together is the same as writing each field, whatever space the sender used.
    #[test]
    fn kept_fields_are_written_as_each_would_be(
        fields in prop::collection::vec((token(), select(&["", " ", "\t ", "  "][..]), value(), select(&["", " "][..]), any::<bool>()), 0..15),
    ) {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        for (name, before, value, after, _) in &fields {
            head.extend_from_slice(&[name.as_bytes(), b":", before.as_bytes(), value, after.as_bytes(), b"\r\n"].concat());
        }
        head.extend_from_slice(b"\r\n");
        let mut parsed = Vec::new();
        prop_assume!(parse_response(&head, &LIMITS, &mut parsed).is_ok());
        let mut at = 0;
        let mut together = b"before".to_vec();
        encode::fields(&mut together, &head, &parsed, |_| { at += 1; fields[at - 1].4 });
        let mut each = b"before".to_vec();
        for (name, _, value, _, _) in fields.iter().filter(|field| field.4) {
            encode::field(&mut each, name.as_bytes(), value);
        }
        prop_assert_eq!(together, each);
    }

    #[test]
    fn a_chunked_body_that_is_written_is_read_back(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..12),
        trailers in prop::collection::vec((token(), value()), 0..4),
        cuts in cuts(0..20),
    ) {
        let mut body = Vec::new();
        let mut line = [0; 18];
        for chunk in &chunks {
            let len = encode_chunk_line(chunk.len(), &mut line);
            body.extend_from_slice(&line[..len]);
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        let mut section = Vec::new();
        for (name, value) in &trailers {
            encode::field(&mut section, name.as_bytes(), value);
        }
        encode::end(&mut section);
        prop_assume!(section.len() - 2 <= CHUNKS.trailer_bytes);
        body.extend_from_slice(b"0\r\n");
        body.extend_from_slice(&section);
        let end = body.len();
        body.extend_from_slice(b"next");

        let mut decoder = Decoder::new(CHUNKS);
        let (mut data, mut used, mut ended) = (Vec::new(), 0, false);
        for piece_end in offsets(&cuts, body.len()).into_iter().chain([body.len()]) {
            while !ended {
                let input = &body[used..piece_end];
                let (consumed, decoded) = decoder.decode(input).unwrap();
                used += consumed;
                match decoded {
                    Decoded::Data { start, len } => data.extend_from_slice(&input[start..start + len]),
                    Decoded::More => break,
                    Decoded::End => ended = true,
                }
            }
        }
        prop_assert!(ended);
        prop_assert_eq!(used, end);
        prop_assert_eq!(data, chunks.concat());
        let (arena, fields) = decoder.trailers();
        let kept: Vec<(Vec<u8>, Vec<u8>)> = trailers.into_iter()
            .filter(|(name, _)| !Known::of(name.replace('_', "-").as_bytes()).is_forbidden_in_trailers())
            .map(|(name, value)| (name.into_bytes(), value)).collect();
        prop_assert!(arena.is_empty() || arena == section, "nothing of the next message is kept");
        prop_assert_eq!(pairs(arena, fields), kept.clone());
        // And once more from the spans.
        let mut written = Vec::new();
        encode_trailers(&mut written, arena, fields, |_| true);
        let mut expected = b"0\r\n".to_vec();
        for (name, value) in &kept {
            encode::field(&mut expected, name, value);
        }
        encode::end(&mut expected);
        prop_assert_eq!(written, expected);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts(0..4)) {
        let mut decoder = Decoder::new(CHUNKS);
        let mut used = 0;
        for end in offsets(&cuts, bytes.len()).into_iter().chain([bytes.len()]) {
            while let Ok((consumed, Decoded::Data { .. })) = decoder.decode(&bytes[used..end]) {
                used += consumed;
            }
            used = end;
        }
        for side in [Side::Request, Side::Response(Method::Get)] {
            let _ = read(side, &bytes, &offsets(&cuts, bytes.len()));
        }
        let mut fields = Vec::new();
        let _ = parse_request(&bytes, &LIMITS, &mut fields);
        let _ = parse_response(&bytes, &LIMITS, &mut fields);
        let _ = host_parts(&bytes);
    }
}

#[test]
fn chunk_lines_are_written_in_the_shortest_form() {
    let mut out = [0; 18];
    for len in [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_535, 1 << 20, usize::MAX] {
        let written = encode_chunk_line(len, &mut out);
        assert_eq!(out[..written], *format!("{len:x}\r\n").as_bytes());
    }
}

#[test]
fn status_lines_have_the_registered_phrase() {
    for (status, line) in [
        (200, "HTTP/1.1 200 OK\r\n"),
        (103, "HTTP/1.1 103 Early Hints\r\n"),
        (404, "HTTP/1.1 404 Not Found\r\n"),
        (599, "HTTP/1.1 599 \r\n"),
    ] {
        let mut out = Vec::new();
        encode::status_line(&mut out, status);
        assert_eq!(out, line.as_bytes());
    }
    let mut out = Vec::new();
    encode::field_u64(&mut out, b"age", u64::MAX);
    assert_eq!(out, b"age: 18446744073709551615\r\n");
}

#[test]
fn the_last_chunk_ends_a_body() {
    let mut decoder = Decoder::new(CHUNKS);
    assert_eq!(decoder.decode(chunked::LAST_CHUNK), Ok((5, Decoded::End)));
    assert_eq!(decoder.trailers(), (&b""[..], &[][..]));
}
