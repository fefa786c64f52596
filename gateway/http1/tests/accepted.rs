//! What is unusual and valid is read, and read as what it says; and the side of every limit that passes.

mod common;

use common::{CHUNKS, LIMITS, Message, Side, Start, read, read_every_way, request};
use http1::*;

/// The one message `bytes` are.
fn accept(side: Side, bytes: &[u8]) -> Message {
    match read_every_way(side, bytes) {
        Ok(Some(message)) => message,
        other => panic!("{}: {other:?}", common::text(bytes)),
    }
}

fn line(message: &Message) -> (RequestLine, Target) {
    match message.start {
        Start::Request(line, target) => (line, target),
        Start::Response(_) => panic!("a request was read"),
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

#[test]
fn a_request_is_taken_apart() {
    let bytes = b"POST /a/b?c=d HTTP/1.1\r\nHost: a.example:8080\r\nX_Y: z\r\nContent-Length: 3\r\n\r\nabcGET";
    let message = accept(Side::Request, bytes);
    let (line, target) = line(&message);
    assert_eq!((line.method, line.version, line.method_span.of(bytes)), (Method::Post, Version::Http11, &b"POST"[..]));
    assert_eq!(line.target.of(bytes), b"/a/b?c=d");
    assert_eq!(line.host.unwrap().of(bytes), b"a.example:8080");
    assert_eq!(target.form, Form::Origin);
    assert_eq!((target.path.of(bytes), target.query.unwrap().of(bytes)), (&b"/a/b"[..], &b"c=d"[..]));
    assert_eq!(target.authority, line.host);
    assert_eq!(message.framing, Framing::Length(3));
    assert_eq!((message.body, message.used), (b"abc".to_vec(), bytes.len() - 3));
    assert_eq!(message.fields, owned(&[("Host", "a.example:8080"), ("X_Y", "z"), ("Content-Length", "3")]));
    let mut fields = Vec::new();
    parse_request(bytes, &LIMITS, &mut fields).unwrap();
    let known: Vec<(Known, bool)> = fields.iter().map(|field| (field.known, field.underscore)).collect();
    assert_eq!(known, [(Known::Host, false), (Known::Other, true), (Known::ContentLength, false)]);
}

#[test]
fn unusual_requests_are_valid() {
    for (name, head) in [
        ("an empty line first", "\nGET / HTTP/1.1\nHost: a"),
        ("http/1.0 without host", "GET / HTTP/1.0"),
        ("an unknown method", "get / HTTP/1.1\nHost: a"),
        ("a method of punctuation", "!#$%&'*+-.^_`|~ / HTTP/1.1\nHost: a"),
        ("the longest method", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\nHost: a"),
        ("host in any case", "GET / HTTP/1.1\nhOST: a"),
        ("no space after the colon", "GET / HTTP/1.1\nHost:a"),
        ("much space around a value", "GET / HTTP/1.1\nHost: \t a \t "),
        ("an empty value", "GET / HTTP/1.1\nHost: a\nX:"),
        ("a value of spaces", "GET / HTTP/1.1\nHost: a\nX:  \t"),
        ("tab in a value", "GET / HTTP/1.1\nHost: a\nX: a\tb"),
        ("a value beyond ascii", "GET / HTTP/1.1\nHost: a\nX: \u{e4}"),
        ("a name of punctuation", "GET / HTTP/1.1\nHost: a\n!#$%&'*+-.^_`|~: a"),
        ("a name of digits", "GET / HTTP/1.1\nHost: a\n1: a"),
        ("a field many times", "GET / HTTP/1.1\nHost: a\nX: a\nX: b\nx: c"),
        ("braces in the query", "GET /?a={\"b\":[1]}|^` HTTP/1.1\nHost: a"),
        ("a query of question marks", "GET /??? HTTP/1.1\nHost: a"),
        ("a bracketed host", "GET / HTTP/1.1\nHost: [::1]:80"),
        ("the absolute form", "GET http://a/b HTTP/1.1\nHost: a"),
        ("the absolute form with the default port", "GET http://a:80/b HTTP/1.1\nHost: a"),
        ("the default port in host", "GET https://a/b HTTP/1.1\nHost: a:443"),
        ("other case in the authority", "GET HTTP://EXAMPLE.com/b HTTP/1.1\nHost: example.COM"),
        ("the absolute form in http/1.0", "GET http://a/b HTTP/1.0"),
        ("OPTIONS *", "OPTIONS * HTTP/1.1\nHost: a"),
        ("CONNECT", "CONNECT a:443 HTTP/1.1\nHost: a:443"),
        ("CONNECT with host without port", "CONNECT a:443 HTTP/1.1\nHost: a"),
        ("CONNECT to an address", "CONNECT [::1]:443 HTTP/1.1\nHost: [::1]:443"),
        (
            "32 connection options",
            "GET / HTTP/1.1\nHost: a\nConnection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a",
        ),
    ] {
        let bytes = request(head);
        let message = accept(Side::Request, &bytes);
        assert_eq!((message.framing, message.used), (Framing::None, bytes.len()), "{name}");
    }
}

#[test]
fn spaces_around_values_are_not_part_of_them() {
    let message = accept(Side::Request, &request("GET / HTTP/1.1\nHost: \t a \t \nX: \t\nY:\nZ:a b"));
    assert_eq!(message.fields, owned(&[("Host", "a"), ("X", ""), ("Y", ""), ("Z", "a b")]));
}

#[test]
fn every_form_of_target_is_taken_apart() {
    for (head, form, scheme, authority, path, query) in [
        ("GET / HTTP/1.1\nHost: h", Form::Origin, None, Some("h"), "/", None),
        ("GET /? HTTP/1.1\nHost: h", Form::Origin, None, Some("h"), "/", Some("")),
        ("GET //a?b/c HTTP/1.1\nHost: h", Form::Origin, None, Some("h"), "//a", Some("b/c")),
        ("GET /a:b@c HTTP/1.0", Form::Origin, None, None, "/a:b@c", None),
        ("GET http://h/a?b HTTP/1.1\nHost: h", Form::Absolute, Some("http"), Some("h"), "/a", Some("b")),
        ("GET HTTPS://h:443 HTTP/1.1\nHost: H", Form::Absolute, Some("HTTPS"), Some("h:443"), "", None),
        ("GET http://h?a:b@/c HTTP/1.1\nHost: h", Form::Absolute, Some("http"), Some("h"), "", Some("a:b@/c")),
        ("GET http://[::1]:80/a HTTP/1.1\nHost: [::1]", Form::Absolute, Some("http"), Some("[::1]:80"), "/a", None),
        ("OPTIONS http://h HTTP/1.1\nHost: h", Form::Absolute, Some("http"), Some("h"), "", None),
        ("OPTIONS * HTTP/1.1\nHost: h", Form::Asterisk, None, Some("h"), "*", None),
        ("CONNECT h:1 HTTP/1.1\nHost: h:1", Form::Authority, None, Some("h:1"), "", None),
    ] {
        let bytes = request(head);
        let (_, target) = line(&accept(Side::Request, &bytes));
        let text = |span: Span| std::str::from_utf8(span.of(&bytes)).unwrap();
        assert_eq!(target.form, form, "{head}");
        assert_eq!(target.scheme.map(text), scheme, "{head}");
        assert_eq!(target.authority.map(text), authority, "{head}");
        assert_eq!(text(target.path), path, "{head}");
        assert_eq!(target.query.map(text), query, "{head}");
    }
}

#[test]
fn request_bodies_end_where_the_fields_say() {
    for (fields, framing) in [
        ("X: y", Framing::None),
        ("Content-Length: 0", Framing::Length(0)),
        ("Content-Length: 007", Framing::Length(7)),
        ("Content-Length: 18446744073709551615", Framing::Length(u64::MAX)),
        ("Transfer-Encoding: chunked", Framing::Chunked),
        ("transfer-encoding: \tCHUNKED ", Framing::Chunked),
    ] {
        let head = request(&format!("POST / HTTP/1.1\nHost: a\n{fields}"));
        let mut parsed = Vec::new();
        let line = parse_request(&head, &LIMITS, &mut parsed).unwrap();
        assert_eq!(request_framing(&head, line.version, &parsed), Ok(framing), "{fields}");
    }
}

#[test]
fn response_bodies_end_where_the_rfc_says() {
    let length = "HTTP/1.1 200 OK\nContent-Length: 5";
    let chunked = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked";
    for (method, head, framing) in [
        (Method::Get, "HTTP/1.1 200 OK", Framing::UntilClose),
        (Method::Get, "HTTP/1.0 200 OK\nContent-Length: 5", Framing::Length(5)),
        (Method::Get, length, Framing::Length(5)),
        (Method::Get, chunked, Framing::Chunked),
        (Method::Head, length, Framing::None),
        (Method::Head, chunked, Framing::None),
        (Method::Head, "HTTP/1.1 200 OK", Framing::None),
        (Method::Get, "HTTP/1.1 100 Continue", Framing::None),
        (Method::Get, "HTTP/1.1 101 Switching Protocols\nContent-Length: 5", Framing::None),
        (Method::Get, "HTTP/1.1 103 Early Hints", Framing::None),
        (Method::Get, "HTTP/1.1 204 No Content\nTransfer-Encoding: chunked", Framing::None),
        (Method::Get, "HTTP/1.1 205 Reset Content\nContent-Length: 0", Framing::Length(0)),
        (Method::Get, "HTTP/1.1 304 Not Modified\nContent-Length: 5", Framing::None),
        (Method::Connect, "HTTP/1.1 200 OK\nContent-Length: 5", Framing::None),
        (Method::Connect, "HTTP/1.1 407 Proxy Authentication Required\nContent-Length: 5", Framing::Length(5)),
        (Method::Post, "HTTP/1.1 599 ?", Framing::UntilClose),
    ] {
        let head = request(head);
        let mut fields = Vec::new();
        let line = parse_response(&head, &LIMITS, &mut fields).unwrap();
        let decided = response_framing(&head, method, line.status, line.version, &fields);
        assert_eq!(decided, Ok(framing), "{}", common::text(&head));
    }
}

#[test]
fn the_length_of_what_has_no_body_can_be_asked_for() {
    let mut fields = Vec::new();
    for (head, length) in
        [("HTTP/1.1 304 Not Modified\nContent-Length: 5", Some(5)), ("HTTP/1.1 304 Not Modified", None)]
    {
        let head = request(head);
        parse_response(&head, &LIMITS, &mut fields).unwrap();
        assert_eq!(framing::content_length(&head, &fields), Ok(length));
    }
}

#[test]
fn unusual_responses_are_valid() {
    for (head, status, reason) in [
        ("HTTP/1.1 200 OK", 200, "OK"),
        ("HTTP/1.1 200 ", 200, ""),
        ("HTTP/1.1 200", 200, ""),
        ("HTTP/1.0 404 Not  Found\t!", 404, "Not  Found\t!"),
        ("HTTP/1.1 299 G\u{fc}nstig", 299, ""),
        ("HTTP/1.1 100 ", 100, ""),
        ("HTTP/1.1 599 x", 599, "x"),
    ] {
        let bytes = request(head);
        let message = accept(Side::Response(Method::Get), &bytes);
        let Start::Response(line) = message.start else { panic!("a response was read") };
        assert_eq!((line.status, line.reason.of(&bytes)), (status, reason.as_bytes()), "{head}");
    }
}

#[test]
fn chunked_bodies_are_joined() {
    for (body, data, trailers) in [
        ("0\r\n\r\n", "", &[][..]),
        ("0000\r\n\r\n", "", &[]),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", &[]),
        ("5\r\nhello\r\n6\r\n world\r\n00\r\n\r\n", "hello world", &[]),
        ("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", &[]),
        ("000000000000000a\r\n0123456789\r\n0\r\n\r\n", "0123456789", &[]),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", &[]),
        ("1;a\r\nx\r\n0;b\r\n\r\n", "x", &[]),
        ("1;a=b;c=\"d;\\\"\\\\\"\r\nx\r\n0\r\n\r\n", "x", &[]),
        ("1 \t;\ta \t= b ; c\r\nx\r\n0\r\n\r\n", "x", &[]),
        ("1;a=\"\"\r\nx\r\n0\r\n\r\n", "x", &[]),
        ("1;a=\"\u{e4} \t;=,\" ;b\r\nx\r\n0\r\n\r\n", "x", &[]),
        ("1\r\nx\r\n0\r\nX: y\r\n\r\n", "x", &[("X", "y")]),
        ("0\r\nX: y\r\nz:\r\n\r\n", "", &[("X", "y"), ("z", "")]),
    ] {
        let bytes =
            [request("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked").as_slice(), body.as_bytes(), b"GET"]
                .concat();
        let message = accept(Side::Request, &bytes);
        assert_eq!(message.body, data.as_bytes(), "{body:?}");
        assert_eq!(message.trailers, owned(trailers), "{body:?}");
        assert_eq!(message.used, bytes.len() - 3, "{body:?}");
    }
}

#[test]
fn trailers_that_would_change_the_head_are_dropped() {
    let limits = ChunkLimits { extension_bytes: 0, trailer_bytes: 64 * 1024, trailer_fields: 128 };
    let mut body = b"0\r\n".to_vec();
    for known in Known::ALL {
        encode::field(&mut body, known.name().as_bytes(), b"a");
    }
    for alias in ["X_Forwarded_For", "content_length", "x-forwarded_proto"] {
        encode::field(&mut body, alias.as_bytes(), b"a");
    }
    encode::field(&mut body, b"grpc-status", b"0");
    encode::field(&mut body, b"my_checksum", b"1");
    encode::end(&mut body);
    let mut decoder = Decoder::new(limits);
    assert_eq!(decoder.decode(&body), Ok((body.len(), Decoded::End)));
    let (arena, fields) = decoder.trailers();
    let kept: Vec<&[u8]> = fields.iter().map(|field| field.name.of(arena)).collect();
    let harmless = ["user-agent", "referer", "last-modified", "etag", "server", "grpc-status", "my_checksum"];
    assert_eq!(kept, harmless.map(str::as_bytes));
    assert_eq!(decoder.dropped_trailers(), Known::ALL.len() - 5 + 3);
    assert!(decoder.is_ended());
    assert_eq!(decoder.decode(b"next"), Ok((0, Decoded::End)));
}

#[test]
fn a_decoder_repeats_its_fault() {
    let mut decoder = Decoder::new(CHUNKS);
    assert_eq!(decoder.decode(b"x"), Err(Fault::ChunkSizeInvalid));
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(Fault::ChunkSizeInvalid));
    assert_eq!(decoder.decode(b""), Err(Fault::ChunkSizeInvalid));
}

#[test]
fn connection_options_are_found_on_all_lines() {
    let options = |lines: &str| accept(Side::Request, &request(&format!("GET / HTTP/1.1\nHost: a\n{lines}"))).options;
    let none = ConnectionOptions::default();
    for (lines, expected) in [
        ("X: close", none),
        ("Connection: close", ConnectionOptions { close: true, ..none }),
        ("Connection: Keep-Alive", ConnectionOptions { keep_alive: true, ..none }),
        ("connection: a\nConnection: ,, CLOSE ,", ConnectionOptions { close: true, lists_fields: true, ..none }),
        ("Connection: upgrade", none),
        (
            "Connection: keep-alive, Upgrade\nUpgrade: websocket",
            ConnectionOptions { keep_alive: true, upgrade: true, ..none },
        ),
        ("Upgrade: websocket", none),
        ("TE: trailers", none),
        ("TE: gzip;q=0.5 , Trailers\nConnection: te", ConnectionOptions { te_trailers: true, ..none }),
        ("Connection: te", none),
        ("Connection: X-A", ConnectionOptions { lists_fields: true, ..none }),
        ("Connection: proxy-connection, trailer, transfer-encoding", none),
        ("Connection: closed, \"close\", close;a", ConnectionOptions { lists_fields: true, ..none }),
        ("Connection:", none),
    ] {
        assert_eq!(options(lines), expected, "{lines}");
    }
}

#[test]
fn connections_persist_by_version_unless_closed() {
    let none = ConnectionOptions::default();
    let keep_alive = ConnectionOptions { keep_alive: true, ..none };
    let close = ConnectionOptions { close: true, ..none };
    let both = ConnectionOptions { close: true, keep_alive: true, ..none };
    for (options, in_10, in_11) in
        [(none, false, true), (keep_alive, true, true), (close, false, false), (both, false, false)]
    {
        assert_eq!(
            (options.persists(Version::Http10), options.persists(Version::Http11)),
            (in_10, in_11),
            "{options:?}"
        );
    }
}

#[test]
fn listed_fields_are_found_in_any_case_and_whole() {
    let head = request("GET / HTTP/1.1\nHost: a\nConnection: X-A , x-b\nConnection: \tX-C");
    let mut fields = Vec::new();
    parse_request(&head, &LIMITS, &mut fields).unwrap();
    for (name, listed) in
        [("x-a", true), ("X-B", true), ("x-c", true), ("x-", false), ("x-a , x-b", false), ("host", false)]
    {
        assert_eq!(is_connection_listed(&head, &fields, name.as_bytes()), listed, "{name}");
    }
}

/// A message with this much of something.
type Make<'a> = &'a dyn Fn(usize) -> Vec<u8>;

#[test]
fn exactly_as_much_as_a_limit_allows_passes() {
    let of_target = |bytes: usize| request(&format!("GET /{} HTTP/1.1\nHost: a", "a".repeat(bytes - 1)));
    let of_fields = |count: usize| request(&format!("GET / HTTP/1.1\n{}Host: a", "X: y\n".repeat(count - 1)));
    let of_head = |bytes: usize| {
        let fixed = request("GET / HTTP/1.1\nHost: a\nX: ").len();
        request(&format!("GET / HTTP/1.1\nHost: a\nX: {}", "y".repeat(bytes - fixed)))
    };
    let with_body = |body: String| {
        [request("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked").as_slice(), body.as_bytes()].concat()
    };
    let of_extension = |bytes: usize| with_body(format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(bytes - 1)));
    let of_trailers = |bytes: usize| with_body(format!("0\r\nX: {}\r\n\r\n", "y".repeat(bytes - 5)));
    let of_trailer_count = |count: usize| with_body(format!("0\r\n{}\r\n", "X: y\r\n".repeat(count)));
    let rows: [(Make<'_>, usize, Fault); 6] = [
        (&of_target, LIMITS.target_bytes, Fault::TargetTooLong),
        (&of_fields, LIMITS.fields, Fault::TooManyFields),
        (&of_head, LIMITS.head_bytes, Fault::HeadTooLarge),
        (&of_extension, CHUNKS.extension_bytes, Fault::ChunkExtensionTooLong),
        (&of_trailers, CHUNKS.trailer_bytes, Fault::TrailersTooLarge),
        (&of_trailer_count, CHUNKS.trailer_fields, Fault::TooManyTrailers),
    ];
    for (make, max, fault) in rows {
        let (fits, exceeds) = (make(max), make(max + 1));
        for cuts in [vec![], (0..exceeds.len()).collect()] {
            assert!(matches!(read(Side::Request, &fits, &cuts), Ok(Some(_))), "{max} before {fault:?}");
            assert_eq!(read(Side::Request, &exceeds, &cuts), Err(fault));
        }
    }
}

#[test]
fn a_response_head_has_the_same_limits() {
    let of_fields = |count: usize| request(&format!("HTTP/1.1 200 OK\n{}X: z", "X: y\n".repeat(count - 1)));
    let of_head = |bytes: usize| request(&format!("HTTP/1.1 200 OK\nX: {}", "y".repeat(bytes - 24)));
    let of_reason = |bytes: usize| request(&format!("HTTP/1.1 200 {}", "y".repeat(bytes - 17)));
    let rows: [(Make<'_>, usize, Fault); 3] = [
        (&of_fields, LIMITS.fields, Fault::TooManyFields),
        (&of_head, LIMITS.head_bytes, Fault::HeadTooLarge),
        (&of_reason, LIMITS.head_bytes, Fault::HeadTooLarge),
    ];
    for (make, max, fault) in rows {
        let (fits, exceeds) = (make(max), make(max + 1));
        for cuts in [vec![], (0..exceeds.len()).collect()] {
            let side = Side::Response(Method::Get);
            assert!(matches!(read(side, &fits, &cuts), Ok(Some(_))), "{max} before {fault:?}");
            assert_eq!(read(side, &exceeds, &cuts), Err(fault));
        }
    }
}

#[test]
fn more_fields_than_fit_the_first_attempt_are_parsed() {
    let limits = HeadLimits { head_bytes: 1 << 20, fields: usize::MAX, target_bytes: 100 };
    let mut fields = Vec::new();
    for count in [127, 128, 129, 1024, 1025] {
        let expected = if count > request::FIELDS_MAX { Err(Fault::TooManyFields) } else { Ok(count) };
        let head = common::request(&format!("GET / HTTP/1.1\n{}Host: a", "X: y\n".repeat(count - 1)));
        assert_eq!(parse_request(&head, &limits, &mut fields).map(|_| fields.len()), expected);
        let head = common::request(&format!("HTTP/1.1 200 OK\n{}X: z", "X: y\n".repeat(count - 1)));
        assert_eq!(parse_response(&head, &limits, &mut fields).map(|_| fields.len()), expected);
    }
}

#[test]
fn bodies_of_tiny_chunks_are_no_overhead() {
    let mut decoder = Decoder::new(CHUNKS);
    for _ in 0..200_000 {
        assert_eq!(decoder.decode(b"1\r\nx"), Ok((4, Decoded::Data { start: 3, len: 1 })));
        assert_eq!(decoder.decode(b"\r\n"), Ok((2, Decoded::More)));
    }
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Ok((5, Decoded::End)));
}
