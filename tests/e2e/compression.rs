//! Answers in the coding the client would have: what is compressed and what is not, piece by piece, at constant memory.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};

use anyhow::{Context, Result};
use e2e::message::{Head, Message, chunk};
use e2e::{End, Gateway, Origin, Peer};

const CONFIG: &str = r#"
[[route]]
name = "all"
path = "/**"
upstream = "main"
auth = "none"
compression = true

[[route]]
name = "own"
path = "/own/**"
upstream = "main"
auth = "none"
[route.compression]
algorithms = ["gzip"]
types = ["text/event-stream", "application/*"]
bytes_min = "0B"
level = "fast"
[route.headers]
request = { remove = ["accept-encoding"] }
response = { set = { etag = '"edited"' } }

[[route]]
name = "kept"
path = "/kept"
upstream = "main"
auth = "none"
compression = true
[route.headers.response.set]
cache-control = "no-transform"
"#;

/// Some text of that length that compresses.
fn text(len: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|n| format!("{{\"id\":{n},\"name\":\"n{}\"}},", n.wrapping_mul(2_654_435_761)).into_bytes())
        .take(len)
        .collect()
}

/// A decoder that has nothing in common with the gateway but the libraries.
fn decoder<'r>(coding: &str, coded: impl Read + 'r) -> Box<dyn Read + 'r> {
    match coding {
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(coded)),
        "br" => Box::new(brotli::Decompressor::new(coded, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(coded).unwrap()),
        other => panic!("{other} was not asked for"),
    }
}

fn decoded(answer: &Message) -> Vec<u8> {
    let mut whole = Vec::new();
    let coding = answer.head.field("content-encoding").expect("a coded answer");
    decoder(coding, &answer.body[..]).read_to_end(&mut whole).unwrap();
    whole
}

/// A service that answers `body` with the fields of `head`.
fn serving(head: &'static str, body: Vec<u8>) -> e2e::origin::Serving {
    Origin::tcp().unwrap().answer(move |request| {
        let body = if request.head.start.starts_with("HEAD ") { &[][..] } else { &body };
        [head.replace("LEN", &body.len().to_string()).as_bytes(), b"\r\n", body].concat()
    })
}

const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: LEN\r\n\
    ETag: \"v1\"\r\nAccept-Ranges: bytes\r\nContent-Digest: sha-256=:AAAA:\r\nVary: Accept\r\n";

fn get(gateway: &Gateway, path: &str, accept: &str) -> Message {
    gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: e2e.test\r\nAccept-Encoding: {accept}\r\n\r\n")).unwrap()
}

#[test]
fn the_clients_dearest_coding_is_used_and_the_head_says_so() {
    let body = text(300_000);
    let origin = serving(JSON, body.clone());
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br", "br"),
        ("gzip", "gzip"),
        ("br;q=0.5, gzip;q=0.6", "gzip"),
        ("*", "zstd"),
    ] {
        let answer = get(&gateway, "/a", accept);
        let field = |name: &str| answer.head.field(name);
        assert_eq!((answer.head.status(), field("content-encoding")), (200, Some(coding)), "{accept}");
        assert!(decoded(&answer) == body, "{coding}: not what was sent");
        assert!(answer.body.len() < body.len() / 2, "{coding}: {} bytes", answer.body.len());
        assert_eq!((field("content-length"), field("transfer-encoding")), (None, Some("chunked")));
        assert_eq!(answer.head.all("vary"), ["Accept", "accept-encoding"]);
        assert_eq!((field("etag"), field("accept-ranges"), field("content-digest")), (Some("W/\"v1\""), None, None));
    }
    for accept in ["", "deflate", "identity", "gzip;q=0", "gzip;q=0.5, identity", "identity;q=0"] {
        let answer = get(&gateway, "/a", accept);
        let field = |name: &str| answer.head.field(name);
        assert_eq!((field("content-encoding"), field("content-length")), (None, Some("300000")), "{accept}");
        assert!(answer.body == body);
        assert_eq!(answer.head.all("vary"), ["Accept", "accept-encoding"], "another client gets another one");
        assert_eq!((field("etag"), field("accept-ranges")), (Some("\"v1\""), Some("bytes")));
    }
}

#[test]
fn what_must_not_be_touched_goes_as_it_is() {
    let body = text(5000);
    let ok = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
    let rows: &[(&str, String, &str, bool)] = &[
        ("plain", ok.to_owned(), "/a", true),
        ("an error", ok.replace("200 OK", "500 Oops"), "/a", true),
        ("no-transform", format!("{ok}Cache-Control: max-age=1, No-Transform\r\n"), "/a", false),
        ("coded already", format!("{ok}Content-Encoding: br\r\n"), "/a", false),
        (
            "a range",
            format!("{}Content-Range: bytes 0-4999/9000\r\n", ok.replace("200 OK", "206 Partial Content")),
            "/a",
            false,
        ),
        ("an odd range", format!("{ok}Content-Range: bytes 0-4999/9000\r\n"), "/a", false),
        ("an image", ok.replace("text/plain", "image/png"), "/a", false),
        ("no type", "HTTP/1.1 200 OK\r\n".to_owned(), "/a", false),
        ("events", ok.replace("text/plain", "text/event-stream"), "/a", false),
        ("grpc", ok.replace("text/plain", "application/grpc+json"), "/a", false),
        ("grpc under a wide type", ok.replace("text/plain", "application/grpc+proto"), "/own/a", false),
        ("events where they are written", ok.replace("text/plain", "text/event-stream"), "/own/a", true),
        ("not a type of this route", ok.to_owned(), "/own/a", false),
        ("a type of this route", ok.replace("text/plain", "application/octet-stream"), "/own/a", true),
        ("an edit that forbids it", ok.to_owned(), "/kept", false),
    ];
    for (name, head, path, compressed) in rows {
        let head: &'static str = format!("{head}Content-Length: LEN\r\n").leak();
        let origin = serving(head, body.clone());
        let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
        let answer = get(&gateway, path, "gzip");
        let coded = answer.head.field("content-encoding") == Some("gzip");
        assert_eq!(coded, *compressed, "{name}: {:?}", answer.head);
        let came = if coded { decoded(&answer) } else { answer.body.clone() };
        assert!(came == body, "{name}: another body");
        assert_eq!(answer.head.field("transfer-encoding").is_some(), coded, "{name}");
        assert_eq!(answer.head.field("vary").is_some(), coded, "{name}");
    }
}

#[test]
fn the_sizes_of_answers_decide() {
    for (len, compressed) in [(0, false), (1, false), (1023, false), (1024, true), (1025, true)] {
        let origin = serving(JSON, text(len));
        let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
        let answer = get(&gateway, "/a", "gzip");
        assert_eq!(answer.head.field("content-encoding").is_some(), compressed, "{len}");
    }
    // Of no known length: compressed whatever it will be. The route's own edit of the ETag is weakened like any.
    let origin = serving(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n",
        b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n".to_vec(),
    );
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    let answer = get(&gateway, "/own/a", "gzip");
    assert_eq!((decoded(&answer), answer.head.field("etag")), (b"hi".to_vec(), Some("W/\"edited\"")));
    assert_eq!(answer.trailers, [("X-T".to_owned(), "1".to_owned())]);
}

#[test]
fn an_answer_without_a_body_stays_without_one() {
    let origin = Origin::tcp().unwrap().answer(|request| {
        let status = request.head.start.split(['/', ' ']).nth(2).unwrap_or_default();
        match status {
            "204" | "304" => {
                format!("HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nETag: \"v\"\r\n\r\n").into_bytes()
            }
            _ => b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\n".to_vec(),
        }
    });
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    let mut ask = |request: &str| {
        client.send(format!("{request} HTTP/1.1\r\nHost: e2e.test\r\nAccept-Encoding: gzip\r\n\r\n")).unwrap();
        Message::answer(&mut client, request.split(' ').next().unwrap()).unwrap().head
    };
    let head = ask("HEAD /a");
    assert_eq!((head.field("content-encoding"), head.field("content-length")), (None, Some("5000")));
    assert_eq!(head.field("vary"), Some("accept-encoding"));
    let head = ask("GET /204");
    assert_eq!((head.status(), head.field("content-encoding"), head.field("vary")), (204, None, None));
    let head = ask("GET /304");
    assert_eq!((head.status(), head.field("content-encoding")), (304, None));
    assert_eq!((head.field("vary"), head.field("etag")), (Some("accept-encoding"), Some("\"v\"")));
}

/// What of a coded body has come so far, decoded as far as it goes.
fn decoded_so_far(coding: &str, coded: &[u8]) -> Vec<u8> {
    let mut reader = decoder(coding, coded);
    let (mut whole, mut part) = (Vec::new(), [0; 100]);
    while let Ok(n) = reader.read(&mut part) {
        if n == 0 {
            break;
        }
        whole.extend_from_slice(&part[..n]);
    }
    whole
}

#[test]
fn a_slow_answer_is_not_held_back() {
    for coding in ["gzip", "br", "zstd"] {
        let origin = Origin::tcp().unwrap();
        let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
        let mut client = gateway.client().unwrap();
        client.send(format!("GET /a HTTP/1.1\r\nHost: e2e.test\r\nAccept-Encoding: {coding}\r\n\r\n")).unwrap();
        let mut upstream = origin.accept().unwrap();
        Head::read(&mut upstream).unwrap();
        upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(Head::read(&mut client).unwrap().field("content-encoding"), Some(coding), "the head comes first");
        let (mut coded, mut sent) = (Vec::new(), Vec::new());
        for line in ["one\n", "two\n", "x\n"] {
            upstream.send(format!("{:x}\r\n{line}\r\n", line.len())).unwrap();
            sent.extend_from_slice(line.as_bytes());
            // Nothing more is sent until this has come.
            while decoded_so_far(coding, &coded) != sent {
                coded.extend(chunk(&mut client).unwrap().expect("the body goes on"));
            }
        }
        upstream.send("0\r\n\r\n").unwrap();
        while let Some(more) = chunk(&mut client).unwrap() {
            coded.extend(more);
        }
        let mut whole = Vec::new();
        decoder(coding, &coded[..]).read_to_end(&mut whole).unwrap();
        assert_eq!(whole, sent);
    }
}

#[test]
fn a_broken_answer_does_not_look_whole() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET /a HTTP/1.1\r\nHost: e2e.test\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\nhalf").unwrap();
    Head::read(&mut client).unwrap();
    drop(upstream);
    let (rest, _) = client.rest().unwrap();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", rest.escape_ascii());
}

#[test]
fn a_client_of_http_1_0_reads_to_the_end() {
    let body = text(100_000);
    let origin = serving(JSON, body.clone());
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET /a HTTP/1.0\r\nHost: e2e.test\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    let head = Head::read(&mut client).unwrap();
    assert_eq!((head.field("content-encoding"), head.field("transfer-encoding")), (Some("gzip"), None));
    let (coded, end) = client.rest().unwrap();
    assert!(decoded_so_far("gzip", &coded) == body);
    assert_eq!(end, End::Eof);
}

/// The chunks of a body as one stream.
struct Chunks<'p> {
    peer: &'p mut Peer,
    left: std::io::Cursor<Vec<u8>>,
}

impl Read for Chunks<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.left.read(into)? {
                0 => match chunk(self.peer).map_err(std::io::Error::other)? {
                    Some(next) => self.left = std::io::Cursor::new(next),
                    None => return Ok(0),
                },
                n => return Ok(n),
            }
        }
    }
}

#[test]
fn a_large_answer_is_compressed_at_constant_memory_while_others_are_served() {
    const PIECES: usize = 256;
    let piece = text(64 * 1024);
    for coding in ["gzip", "br", "zstd"] {
        let origin = Origin::tcp().unwrap();
        let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
        let before = gateway.rss_bytes().unwrap();
        let mut client = gateway.client().unwrap();
        client.send(format!("GET /a HTTP/1.1\r\nHost: e2e.test\r\nAccept-Encoding: {coding}\r\n\r\n")).unwrap();
        let mut upstream = origin.accept().unwrap();
        Head::read(&mut upstream).unwrap();
        let sent = piece.clone();
        let writing = std::thread::spawn(move || -> Result<()> {
            let length = PIECES * sent.len();
            upstream
                .send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"))?;
            (0..PIECES).try_for_each(|_| upstream.send(&sent))
        });
        Head::read(&mut client).unwrap();
        let mut reader = decoder(coding, Chunks { peer: &mut client, left: std::io::Cursor::default() });
        let (mut got, mut most) = (vec![0; piece.len()], 0);
        for at in 0..PIECES {
            reader.read_exact(&mut got).with_context(|| format!("{coding}, piece {at}")).unwrap();
            assert!(got == piece, "{coding}: piece {at} is not what was sent");
            if at % 64 == 0 {
                most = most.max(gateway.rss_bytes().unwrap());
                // Another client is not made to wait for the end of it.
                assert_eq!(gateway.ask("CONNECT / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap().head.status(), 400);
            }
        }
        assert_eq!(reader.read(&mut got).unwrap(), 0);
        drop(reader);
        writing.join().unwrap().unwrap();
        assert!(most < before + 16 * 1024 * 1024, "{coding}: memory grew from {before} to {most}");
    }
}

#[test]
fn one_more_than_may_be_compressed_goes_as_it_is() {
    const AT_ONE_TIME: usize = 128;
    // Answers begin at once and end when all may.
    let ending = Arc::new((Mutex::new(false), Condvar::new()));
    let may_end = Arc::clone(&ending);
    let origin = Origin::tcp().unwrap().serve(move |peer| {
        Head::read(peer)?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")?;
        let (may, told) = &*may_end;
        drop(told.wait_while(may.lock().unwrap(), |may| !*may).unwrap());
        peer.send("0\r\n\r\n")
    });
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    let open = || {
        let mut client = gateway.client().unwrap();
        client.send("GET /a HTTP/1.1\r\nHost: e2e.test\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
        let coded = Head::read(&mut client).unwrap().field("content-encoding").is_some();
        (client, coded)
    };
    let mut held: Vec<Peer> = Vec::new();
    for at in 0..AT_ONE_TIME {
        let (client, coded) = open();
        assert!(coded, "{at}");
        held.push(client);
    }
    let (mut extra, coded) = open();
    assert!(!coded);
    assert_eq!(chunk(&mut extra).unwrap().unwrap(), b"hi");
    gateway
        .metrics_when("one that was not compressed", |metrics| {
            metrics.sum("bawab_compressions_missed_total", &[]) == 1.0
        })
        .unwrap();
    // Their places are free again once they have ended.
    *ending.0.lock().unwrap() = true;
    ending.1.notify_all();
    for client in &mut held {
        while chunk(client).unwrap().is_some() {}
    }
    assert!(open().1);
}
