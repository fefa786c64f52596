//! Request bodies that are decoded on their way: what the service gets, and what is refused.

use std::io::Write;

use anyhow::Result;
use e2e::message::{Head, Message, chunk};
use e2e::origin::Serving;
use e2e::{Gateway, Origin};

const MIB: usize = 1024 * 1024;

const CONFIG: &str = r#"
[[route]]
name = "all"
path = "/**"
upstream = "main"
auth = "none"
body_bytes = "4MiB"
decompress_request = true

[[route]]
name = "large"
path = "/large"
upstream = "main"
auth = "none"
body_bytes = "1GiB"
decompress_request = { ratio_max = 10_000 }

[[route]]
name = "small"
path = "/small"
upstream = "main"
auth = "none"
decompress_request = { bytes_max = "1000B" }

[[route]]
name = "plain"
path = "/plain"
upstream = "main"
auth = "none"
"#;

const CODINGS: [&str; 4] = ["gzip", "br", "zstd", "deflate"];

fn text(len: usize) -> Vec<u8> {
    (0u32..).flat_map(|n| format!("{n}: {}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).take(len).collect()
}

/// An encoder whose output is taken out piece by piece.
enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(coding: &str) -> Encoder {
        let (out, level) = (Vec::new(), flate2::Compression::default());
        match coding {
            "gzip" => Encoder::Gzip(flate2::write::GzEncoder::new(out, level)),
            "br" => Encoder::Br(Box::new(brotli::CompressorWriter::new(out, 4096, 5, 22))),
            "zstd" => Encoder::Zstd(zstd::stream::write::Encoder::new(out, 3).unwrap()),
            _ => Encoder::Deflate(flate2::write::ZlibEncoder::new(out, level)),
        }
    }

    /// What these bytes become, so that they can be decoded at once.
    fn piece(&mut self, bytes: &[u8]) -> Vec<u8> {
        let writer: &mut dyn Write = match self {
            Encoder::Gzip(writer) => writer,
            Encoder::Br(writer) => writer,
            Encoder::Zstd(writer) => writer,
            Encoder::Deflate(writer) => writer,
        };
        writer.write_all(bytes).unwrap();
        writer.flush().unwrap();
        std::mem::take(match self {
            Encoder::Gzip(writer) => writer.get_mut(),
            Encoder::Br(writer) => writer.get_mut(),
            Encoder::Zstd(writer) => writer.get_mut(),
            Encoder::Deflate(writer) => writer.get_mut(),
        })
    }

    fn end(self) -> Vec<u8> {
        match self {
            Encoder::Gzip(writer) => writer.finish().unwrap(),
            Encoder::Br(writer) => writer.into_inner(),
            Encoder::Zstd(writer) => writer.finish().unwrap(),
            Encoder::Deflate(writer) => writer.finish().unwrap(),
        }
    }
}

fn coded(coding: &str, text: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(coding);
    let mut coded = encoder.piece(text);
    coded.extend(encoder.end());
    coded
}

/// A service that answers with what it got: the body, and in fields how it came.
fn echo() -> Serving {
    Origin::tcp().unwrap().answer(|request| {
        let got = |name: &str| request.head.field(name).unwrap_or("none").to_owned();
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nX-Encoding: {}\r\nX-Framing: {}, {}\r\nX-Digest: {}\r\nContent-Length: {}\r\n\r\n",
            got("content-encoding"),
            got("content-length"),
            got("transfer-encoding"),
            got("content-digest"),
            request.body.len()
        )
        .into_bytes();
        answer.extend_from_slice(&request.body);
        answer
    })
}

fn head(path: &str, coding: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: e2e.test\r\nContent-Encoding: {coding}\r\nContent-Digest: x\r\nContent-Length: {length}\r\n\r\n"
    )
}

fn post(gateway: &Gateway, path: &str, coding: &str, body: &[u8]) -> Message {
    gateway.ask([head(path, coding, body.len()).as_bytes(), body].concat()).unwrap()
}

#[test]
fn the_service_gets_plain_bytes() {
    let origin = echo();
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    // All on one connection: each body ends where it should.
    let mut client = gateway.client().unwrap();
    for coding in CODINGS {
        for len in [0, 1, 1000, 300_000] {
            let text = text(len);
            let coded = coded(coding, &text);
            client.send(head("/a", coding, coded.len())).unwrap();
            client.send_in_pieces(&coded, 20_000).unwrap();
            let answer = Message::answer(&mut client, "POST").unwrap();
            assert_eq!(answer.head.status(), 200, "{coding} {len}");
            assert!(answer.body == text, "{coding} {len}: another body");
            let field = |name: &str| answer.head.field(name).unwrap();
            assert_eq!((field("x-encoding"), field("x-framing")), ("none", "none, chunked"), "{coding} {len}");
            assert_eq!(field("x-digest"), "none", "it was of the coded bytes");
        }
    }
    let chunked = [
        b"POST /a HTTP/1.1\r\nHost: e2e.test\r\nContent-Encoding: X-GZIP, identity\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        coded("gzip", b"hello").iter().flat_map(|byte| [&b"1\r\n"[..], &[*byte], b"\r\n"].concat()).collect(),
        b"0\r\n\r\n".to_vec(),
    ];
    assert_eq!(gateway.ask(chunked.concat()).unwrap().text(), "hello");
    // What the log calls bytes of the request is what the client sent.
    let series = gateway.metrics_when("the bytes sent", |metrics| {
        metrics.sum("bawab_route_request_bytes_total", &[("route", "all")]) > 0.0
    });
    let plain: usize = CODINGS.len() * (1 + 1000 + 300_000) + 5;
    assert!(series.unwrap().sum("bawab_route_request_bytes_total", &[("route", "all")]) < plain as f64 / 1.5);
}

#[test]
fn what_is_not_coded_is_not_touched() {
    let origin = echo();
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    let seen = |answer: &Message| {
        let field = |name: &str| answer.head.field(name).unwrap().to_owned();
        (answer.text(), field("x-encoding"), field("x-framing"))
    };
    let say = |text: &str, encoding: &str, framing: &str| (text.to_owned(), encoding.to_owned(), framing.to_owned());
    let plain = gateway.ask("POST /a HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    assert_eq!(seen(&plain), say("hi", "none", "2, none"));
    assert_eq!(seen(&post(&gateway, "/a", "identity", b"hi")), say("hi", "none", "2, none"));
    let bodiless = gateway.ask("GET /a HTTP/1.1\r\nHost: e2e.test\r\nContent-Encoding: gzip\r\n\r\n").unwrap();
    assert_eq!(seen(&bodiless), say("", "none", "none, none"));
    assert_eq!(seen(&post(&gateway, "/a", "br", b"")), say("", "none", "0, none"));
    // A route that does not decode passes everything on as it is.
    assert_eq!(seen(&post(&gateway, "/plain", "aws-chunked", b"hi")), say("hi", "aws-chunked", "2, none"));
}

#[test]
fn another_coding_is_refused_with_those_we_speak() {
    let origin = echo();
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    for coding in ["compress", "gzip, br", "gzip\r\nContent-Encoding: gzip", "aws-chunked", "gzip;q=1", "*"] {
        let answer = post(&gateway, "/a", coding, b"hi");
        assert_eq!(answer.refusal().unwrap(), (415, "body_coding_unsupported".to_owned()), "{coding}");
        assert_eq!(answer.head.field("accept-encoding"), Some("gzip, br, zstd, deflate"));
    }
    assert_eq!(origin.connections(), 0, "no service saw any of it");
}

#[test]
fn what_is_not_in_its_coding_is_refused_and_the_service_gets_no_whole_body() {
    let text = text(200_000);
    for coding in CODINGS {
        let good = coded(coding, &text);
        let mut wrong = good.clone();
        for byte in &mut wrong[good.len() / 2..good.len() / 2 + 50] {
            *byte = !*byte;
        }
        let rows = [
            ("not coded at all", b"just text, and not in this coding".to_vec()),
            ("broken in the middle", wrong),
            ("cut short", good[..good.len() - 1].to_vec()),
            ("with bytes behind its end", [&good[..], b"and more"].concat()),
        ];
        for (name, body) in rows {
            // Brotli has no checksum: what was changed may decode to something else.
            if coding == "br" && name == "broken in the middle" {
                continue;
            }
            let origin = Origin::tcp().unwrap();
            let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
            let answer = post(&gateway, "/a", coding, &body);
            assert_eq!(answer.refusal().unwrap(), (400, "body_coding_malformed".to_owned()), "{coding}, {name}");
            // The service may have got a beginning of it; never an end.
            if let Ok(Some(mut upstream)) = origin.accept_now() {
                let (got, _) = upstream.rest().unwrap();
                assert!(!got.ends_with(b"0\r\n\r\n"), "{coding}, {name}: {}", got.len());
            }
        }
    }
}

#[test]
fn a_bomb_is_refused_before_it_is_large() {
    for coding in CODINGS {
        let bomb = coded(coding, &vec![0; 64 * MIB]);
        assert!(bomb.len() < MIB, "{coding}: {}", bomb.len());
        let origin = Origin::tcp().unwrap().serve(|peer| {
            peer.rest()?;
            Ok(())
        });
        let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
        let before = gateway.rss_bytes().unwrap();
        let answer = post(&gateway, "/a", coding, &bomb);
        assert_eq!(answer.refusal().unwrap(), (413, "body_too_dense".to_owned()), "{coding}");
        let after = gateway.rss_bytes().unwrap();
        assert!(after < before + 8 * MIB as u64, "{coding}: memory grew from {before} to {after}");
        gateway
            .metrics_when("the refusal", |metrics| {
                metrics.sum("bawab_refusals_total", &[("code", "body_too_dense")]) == 1.0
            })
            .unwrap();
    }
}

#[test]
fn the_bounds_hold_for_decoded_bytes() {
    let origin = echo();
    let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
    for coding in CODINGS {
        for (path, most) in [("/small", 1000), ("/a", 4 * MIB)] {
            let check = |len: usize| post(&gateway, path, coding, &coded(coding, &text(len)));
            assert!(check(most).body == text(most), "{coding} {path}");
            assert_eq!(check(most + 1).refusal().unwrap(), (413, "body_too_large".to_owned()), "{coding} {path}");
        }
    }
}

#[test]
fn a_slow_body_is_not_held_back() {
    for coding in CODINGS {
        let origin = Origin::tcp().unwrap();
        let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
        let mut client = gateway.client().unwrap();
        client
            .send(format!(
                "POST /a HTTP/1.1\r\nHost: e2e.test\r\nContent-Encoding: {coding}\r\nTransfer-Encoding: chunked\r\n\r\n"
            ))
            .unwrap();
        let mut send = |piece: Vec<u8>| {
            if !piece.is_empty() {
                let length = piece.len();
                client.send([format!("{length:x}\r\n").as_bytes(), &piece, b"\r\n"].concat()).unwrap();
            }
        };
        let mut encoder = Encoder::new(coding);
        let mut upstream = None;
        for line in ["one\n", "two\n"] {
            send(encoder.piece(line.as_bytes()));
            let upstream = upstream.get_or_insert_with(|| {
                let mut upstream = origin.accept().unwrap();
                Head::read(&mut upstream).unwrap();
                upstream
            });
            // Nothing more is sent until this has come.
            assert_eq!(chunk(upstream).unwrap().as_deref(), Some(line.as_bytes()), "{coding}");
        }
        send(encoder.end());
        client.send("0\r\nX-T: 1\r\n\r\n").unwrap();
        let mut upstream = upstream.unwrap();
        assert_eq!(chunk(&mut upstream).unwrap(), None);
        assert_eq!(e2e::message::fields(&mut upstream).unwrap(), [("X-T".to_owned(), "1".to_owned())]);
        upstream.send(e2e::origin::ok("got it")).unwrap();
        assert_eq!(Message::answer(&mut client, "POST").unwrap().text(), "got it");
    }
}

#[test]
fn a_large_body_is_decoded_at_constant_memory() {
    const PIECES: usize = 256;
    let piece = text(128 * 1024);
    for coding in CODINGS {
        let origin = Origin::tcp().unwrap();
        let gateway = Gateway::start(CONFIG, origin.address()).unwrap();
        let before = gateway.rss_bytes().unwrap();
        let mut client = gateway.client().unwrap();
        let mut writer = client.writer().unwrap();
        let (coding_name, sent) = (coding, piece.clone());
        let writing = std::thread::spawn(move || -> Result<()> {
            writer.send(format!(
                "POST /large HTTP/1.1\r\nHost: e2e.test\r\nContent-Encoding: {coding_name}\r\nTransfer-Encoding: chunked\r\n\r\n"
            ))?;
            let mut encoder = Encoder::new(coding_name);
            for _ in 0..PIECES {
                let coded = encoder.piece(&sent);
                writer.send([format!("{:x}\r\n", coded.len()).as_bytes(), &coded, b"\r\n"].concat())?;
            }
            let coded = encoder.end();
            writer.send([format!("{:x}\r\n", coded.len()).as_bytes(), &coded, b"\r\n0\r\n\r\n"].concat())
        });
        let mut upstream = origin.accept().unwrap();
        Head::read(&mut upstream).unwrap();
        let (mut at, mut most) = (0, 0);
        let twice = piece.repeat(2);
        while let Some(got) = chunk(&mut upstream).unwrap() {
            let from = at % piece.len();
            assert!(got == twice[from..from + got.len()], "{coding}: not what was sent at {at}");
            at += got.len();
            if at % MIB < got.len() {
                most = most.max(gateway.rss_bytes().unwrap());
            }
        }
        writing.join().unwrap().unwrap();
        assert_eq!(at, PIECES * piece.len(), "{coding}");
        e2e::message::fields(&mut upstream).unwrap();
        upstream.send(e2e::origin::ok("")).unwrap();
        assert_eq!(Message::answer(&mut client, "POST").unwrap().head.status(), 200);
        assert!(most < before + 24 * MIB as u64, "{coding}: memory grew from {before} to {most}");
    }
}
