//! HTTP/2 towards clients: the same exchange as by HTTP/1, and what only streams can do.

use std::time::Duration;

use bytes::Bytes;
use e2e::http2::{Client, END_HEADERS, END_STREAM, Frames, block, code, frame, get, kind, on};
use e2e::message::{Head, Message};
use e2e::origin::{echo, ok};
use e2e::{Gateway, Origin, Peer};
use http::{HeaderMap, HeaderValue, Method, Request};
use rustix::process::Signal;

fn echoing(overrides: &str) -> (Gateway, e2e::origin::Serving) {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    (Gateway::start(overrides, origin.address()).unwrap(), origin)
}

/// The upstream's view of the next request: its connection and its head.
fn seen(origin: &Origin) -> (Peer, Head) {
    let mut upstream = origin.accept().unwrap();
    let head = Head::read(&mut upstream).unwrap();
    (upstream, head)
}

fn main_address(gateway: &Gateway) -> std::net::SocketAddr {
    gateway.address_of("main").unwrap()
}

fn frames(gateway: &Gateway) -> Frames {
    Frames::open(gateway.client().unwrap(), &[]).unwrap()
}

#[test]
fn a_request_is_the_same_whichever_way_it_comes() {
    let (gateway, _origin) = echoing("");
    on(async {
        let client = Client::connect(main_address(&gateway)).await.unwrap();
        let mut request = get("/a/%62/../c?x=1");
        for (name, value) in
            [("cookie", "a=1"), ("cookie", "b=2"), ("x-y", "z"), ("te", "trailers"), ("x-request-id", "mine")]
        {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let answer = client.ask(request).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.field("via")), (200, "1.1 bawab"));
        let text = answer.text();
        assert!(text.starts_with("GET /a/c?x=1 HTTP/1.1"), "{text}");
        for line in ["host: e2e.test", "cookie: a=1; b=2", "x-y: z", "connection: te", "te: trailers", "via: 2 bawab"] {
            assert!(text.lines().any(|seen| seen.eq_ignore_ascii_case(line)), "no {line} in {text}");
        }
        assert!(!text.contains("mine"), "{text}");
        let answer = client.ask(Request::head("http://e2e.test/").body(()).unwrap()).await.unwrap();
        assert!(answer.body.is_empty() && !answer.field("content-length").is_empty());
        let answer = client.get("/nowhere/%zz").await.unwrap();
        assert_eq!(answer.status.as_u16(), 400);
        assert!(answer.text().contains("path_percent"), "{answer:?}");
    });
    let line = gateway.access_log().unwrap().of_path("/a/c").unwrap();
    assert_eq!(line["protocol"], "HTTP/2");
    assert_eq!(line["status"], 200);
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_http2_connections_total", &[]), 1.0);
    assert_eq!(metrics.sum("bawab_requests_total", &[]), 3.0);
    assert_eq!(metrics.sum("bawab_requests_in_flight", &[]), 0.0);
}

#[test]
fn bodies_and_trailers_pass_both_ways_on_many_streams_at_once() {
    let origin = Origin::tcp().unwrap().serve(|peer| {
        while let Ok(request) = Message::request(peer) {
            let came = request.trailers.iter().map(|(name, value)| format!("{name}={value}")).collect::<String>();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")?;
            for piece in request.body.chunks(100_000) {
                peer.send(format!("{:x}\r\n", piece.len()))?;
                peer.send(piece)?;
                peer.send("\r\n")?;
            }
            peer.send(format!("0\r\nx-sum: {came}\r\n\r\n"))?;
        }
        Ok(())
    });
    let gateway = Gateway::start("", origin.address()).unwrap();
    on(async {
        let client = Client::connect(main_address(&gateway)).await.unwrap();
        let each = (0..16usize).map(|nth| {
            let client = client.clone();
            tokio::spawn(async move {
                let body: Vec<u8> = (0..nth * 100_001).map(|at| (at * 31 + nth) as u8).collect();
                let mut trailers = HeaderMap::new();
                trailers.insert("x-end", HeaderValue::from(nth));
                let request = Request::put("http://e2e.test/").body(()).unwrap();
                let answer = client.send(request, Bytes::from(body.clone()), Some(trailers)).await.unwrap();
                assert!(answer.body == body, "body {nth} came back changed");
                assert_eq!(answer.trailers.unwrap()["x-sum"], format!("x-end={nth}"));
            })
        });
        for task in each.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

#[test]
fn interim_answers_pass_and_a_body_is_asked_for() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    let head = block("POST", "/", &[("expect", "100-continue"), ("content-length", "4")]);
    client.send(kind::HEADERS, END_HEADERS, 1, &head).unwrap();
    let (mut upstream, head) = seen(&origin);
    assert_eq!(head.field("expect"), Some("100-continue"));
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").unwrap();
    for _ in 0..2 {
        let interim = client.find(|frame| frame.kind == kind::HEADERS).unwrap();
        assert_eq!(interim.flags & END_STREAM, 0);
    }
    client.send(kind::DATA, END_STREAM, 1, b"body").unwrap();
    assert_eq!(upstream.take(4).unwrap(), b"body");
    upstream.send(ok("done")).unwrap();
    assert_eq!(client.status(1).unwrap(), 200);
    assert_eq!(client.find(|frame| frame.kind == kind::DATA).unwrap().payload, b"done");
}

#[test]
fn a_stream_that_is_reset_ends_its_exchange_and_no_other() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    for stream in [1, 3] {
        client
            .send(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", &format!("/{stream}"), &[]))
            .unwrap();
    }
    let (mut first, head) = seen(&origin);
    let (mut second, _) = seen(&origin);
    assert!(head.start.contains("/1"));
    client.send(kind::RST_STREAM, 0, 1, &code::CANCEL.to_be_bytes()).unwrap();
    first.finish().unwrap();
    second.send(ok("still here")).unwrap();
    assert_eq!(client.status(3).unwrap(), 200);
    let line = gateway.access_log().unwrap().of_path("/1").unwrap();
    assert_eq!((line["refusal"].as_str(), line["ended_by"].as_str()), (Some("client_gone"), Some("client")));
    gateway.metrics_when("both are over", |metrics| metrics.sum("bawab_requests_in_flight", &[]) == 0.0).unwrap();
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", 2),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 2),
    ] {
        let mut client = frames(&gateway);
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/", &[])).unwrap();
        let (mut upstream, _) = seen(&origin);
        upstream.send(answer).unwrap();
        drop(upstream);
        let reset = client.find(|frame| frame.kind == kind::RST_STREAM).unwrap();
        assert_eq!((reset.stream, reset.code()), (1, expected));
        // The connection is none the worse for it.
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, 3, &block("GET", "/%zz", &[])).unwrap();
        assert_eq!(client.status(3).unwrap(), 400);
    }
    on(async {
        let client = Client::connect(main_address(&gateway)).await.unwrap();
        let asked = client.get("/");
        let answer = async {
            let (upstream, _) = seen(&origin);
            drop(upstream);
        };
        let (answer, ()) = tokio::join!(asked, async {
            tokio::task::yield_now().await;
            answer.await
        });
        let answer = answer.unwrap();
        assert_eq!(answer.status.as_u16(), 502);
        assert!(answer.text().contains("upstream_closed"), "{answer:?}");
    });
}

#[test]
fn an_answer_before_the_body_is_whole_stops_the_upload() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    client.send(kind::HEADERS, END_HEADERS, 1, &block("POST", "/", &[])).unwrap();
    client.send(kind::DATA, 0, 1, b"the beginning").unwrap();
    let (mut upstream, _) = seen(&origin);
    upstream.send("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").unwrap();
    assert_eq!(client.status(1).unwrap(), 404);
    // RFC 9113 §8.1: the answer is whole, and the rest of the request is not wanted.
    let reset = client.find(|frame| frame.kind == kind::RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.code()), (1, code::NO_ERROR));
}

#[test]
fn what_breaks_http_is_refused_by_name_or_reset() {
    let (gateway, _origin) = echoing("[limits]\nfields = 20\nhead_bytes = \"4KiB\"");
    let ask = |head: Vec<u8>| {
        let mut client = frames(&gateway);
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &head).unwrap();
        let answer =
            client.find(|frame| matches!(frame.kind, kind::HEADERS | kind::RST_STREAM | kind::GOAWAY)).unwrap();
        if answer.kind == kind::HEADERS { Ok(()) } else { Err(answer.code()) }
    };
    let field = |name: &str, value: &str| block("GET", "/", &[(name, value)]);
    for (what, head) in [
        ("connection", field("connection", "close")),
        ("transfer-encoding", field("transfer-encoding", "chunked")),
        ("upgrade", field("upgrade", "websocket")),
        ("te", field("te", "gzip")),
        ("an upper-case name", field("X-A", "b")),
        ("a length without a body", field("content-length", "3")),
        ("a pseudo-header of answers", field(":status", "200")),
        (
            "a pseudo-header behind a field",
            [block("GET", "/", &[("a", "b")]), e2e::http2::literal(":path", "/")].concat(),
        ),
    ] {
        assert_eq!(ask(head), Err(code::PROTOCOL_ERROR), "{what}");
    }
    let many: Vec<String> = (0..21).map(|nth| format!("x-{nth}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "v")).collect();
    for (what, head) in [
        ("another host", field("host", "other.test")),
        ("an underscore", field("a_b", "c")),
        ("many fields", block("GET", "/", &many)),
        ("a large head", field("x", &"y".repeat(5000))),
        ("a fine request", block("GET", "/", &[])),
    ] {
        assert_eq!(ask(head), Ok(()), "{what}");
    }
    let counted = |what: &str| gateway.metrics().unwrap().sum("bawab_refusals_total", &[("code", what)]);
    assert_eq!(counted("target_host_mismatch"), 1.0);
    assert_eq!(counted("field_name_underscore"), 1.0);
    assert_eq!(counted("too_many_fields"), 1.0);
}

#[test]
fn connect_is_refused_and_one_stream_too_many_can_be_sent_again() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[limits]\nhttp2_streams = 3", origin.address()).unwrap();
    on(async {
        let client = Client::connect(main_address(&gateway)).await.unwrap();
        let request = Request::builder().method(Method::CONNECT).uri("e2e.test:80").body(()).unwrap();
        let answer = client.ask(request).await.unwrap();
        assert_eq!(answer.status.as_u16(), 501);
    });
    let mut client = frames(&gateway);
    for stream in [1, 3, 5, 7] {
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", "/", &[])).unwrap();
    }
    let reset = client.find(|frame| frame.kind == kind::RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.code()), (7, code::REFUSED_STREAM));
}

#[test]
fn a_websocket_comes_by_extended_connect() {
    let origin = Origin::tcp().unwrap();
    let overrides =
        "[[route]]\nname = \"ws\"\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\nupgrade = [\"websocket\"]";
    let gateway = Gateway::start(overrides, origin.address()).unwrap();
    let ask = [
        e2e::http2::literal(":method", "CONNECT"),
        e2e::http2::literal(":protocol", "websocket"),
        block("", "/chat", &[("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")])
            [e2e::http2::literal(":method", "").len()..]
            .to_vec(),
    ]
    .concat();
    let mut client = frames(&gateway);
    client.send(kind::HEADERS, END_HEADERS, 1, &ask).unwrap();
    let (mut upstream, head) = seen(&origin);
    assert!(head.start.starts_with("GET /chat "), "{}", head.start);
    assert_eq!((head.field("upgrade"), head.field("connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(head.field("sec-websocket-protocol"), Some("chat"));
    let accept = accept_of(head.field("sec-websocket-key").unwrap());
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    upstream.send(format!("{switch}Sec-WebSocket-Accept: {accept}\r\n\r\nearly")).unwrap();
    assert_eq!(client.status(1).unwrap(), 200);
    assert_eq!(client.find(|frame| frame.kind == kind::DATA).unwrap().payload, b"early");
    client.send(kind::DATA, 0, 1, b"to the service").unwrap();
    assert_eq!(upstream.take(14).unwrap(), b"to the service");
    upstream.send("to the client").unwrap();
    assert_eq!(client.find(|frame| frame.kind == kind::DATA).unwrap().payload, b"to the client");
    client.send(kind::DATA, END_STREAM, 1, b"").unwrap();
    upstream.finish().unwrap();
    drop(upstream);
    let end =
        client.find(|frame| frame.stream == 1 && (frame.flags & END_STREAM != 0 || frame.kind == kind::RST_STREAM));
    assert_eq!(end.unwrap().kind, kind::DATA);
    // A service that has not understood the key is no WebSocket service.
    client.send(kind::HEADERS, END_HEADERS, 3, &ask).unwrap();
    let (mut upstream, _) = seen(&origin);
    upstream.send(format!("{switch}Sec-WebSocket-Accept: {accept}\r\n\r\n")).unwrap();
    client
        .find(|frame| frame.kind == kind::HEADERS && frame.stream == 3 && frame.payload.first() != Some(&0x88))
        .unwrap();
    let line = gateway.access_log().unwrap().find(|line| line["refusal"] == "upgrade_mismatch").unwrap();
    assert_eq!(line["status"], 502);
}

/// RFC 6455 §4.2.2, by another implementation than the gateway's.
fn accept_of(key: &str) -> String {
    use base64::Engine as _;
    let digest = sha1_smol::Sha1::from(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")).digest().bytes();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// GOAWAY in two steps: first nobody is sent away, then the last stream that is served is named (RFC 9113 §6.8).
fn goes_away_in_order(client: &mut Frames, last: u32) {
    let first = client.find(|frame| frame.kind == kind::GOAWAY).unwrap();
    assert_eq!((first.code(), &first.payload[..4]), (code::NO_ERROR, &[0x7f, 0xff, 0xff, 0xff][..]));
    let ping = client.find(|frame| frame.kind == kind::PING).unwrap();
    client.send(kind::PING, 1, 0, &ping.payload).unwrap();
    let second = client.find(|frame| frame.kind == kind::GOAWAY).unwrap();
    assert_eq!((second.code(), &second.payload[..4]), (code::NO_ERROR, &last.to_be_bytes()[..]));
}

#[test]
fn a_drain_lets_streams_finish_and_sends_nobody_away_unheard() {
    let origin = Origin::tcp().unwrap();
    let mut gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    let mut idle = frames(&gateway);
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/", &[])).unwrap();
    let (mut upstream, _) = seen(&origin);
    gateway.signal(Signal::TERM).unwrap();
    goes_away_in_order(&mut client, 1);
    goes_away_in_order(&mut idle, 0);
    assert!(matches!(idle.read(), Ok(None)), "an idle connection ends");
    upstream.send(ok("finished")).unwrap();
    assert_eq!(client.status(1).unwrap(), 200);
    assert_eq!(client.find(|frame| frame.kind == kind::DATA).unwrap().payload, b"finished");
    assert!(matches!(client.read(), Ok(None)));
    assert_eq!(gateway.exit().unwrap().code(), Some(0), "{}", gateway.said());
}

#[test]
fn connections_end_that_are_idle_old_or_have_asked_enough() {
    for (config, requests) in [
        ("[timeouts]\nkeep_alive = \"100ms\"", 1),
        ("[timeouts]\nhead = \"100ms\"", 0),
        ("[timeouts]\nconnection_age = \"200ms\"", 1),
        ("[limits]\nrequests_per_connection = 2", 2),
    ] {
        let (gateway, _origin) = echoing(config);
        let mut client = frames(&gateway);
        for nth in 0..requests {
            client.send(kind::HEADERS, END_HEADERS | END_STREAM, 2 * nth + 1, &block("GET", "/", &[])).unwrap();
        }
        goes_away_in_order(&mut client, (2 * requests).saturating_sub(1));
        while client.read().unwrap_or_else(|error| panic!("{config}: {error:#}")).is_some() {}
    }
}

#[test]
fn one_that_does_not_answer_is_not_waited_for() {
    let (gateway, _origin) = echoing("[timeouts]\nkeep_alive = \"100ms\"\nhead = \"1s\"");
    // The whole handshake at once, and then nothing: its GOAWAY is never answered.
    let mut mute = frames(&gateway);
    mute.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/", &[])).unwrap();
    assert!(mute.find(|frame| frame.kind == kind::GOAWAY).is_ok());
    while mute.read().unwrap_or_default().is_some() {}
    // Half a preface.
    let mut slow = gateway.client().unwrap();
    slow.send("PRI * HTTP/2.0\r\n\r\nSM").unwrap();
    slow.rest().unwrap();
    gateway.metrics_when("nobody is left", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
    assert_eq!(gateway.metrics().unwrap().sum("bawab_client_timeouts_total", &[("wait", "head")]), 1.0);
}

#[test]
fn a_client_that_opens_no_window_is_not_waited_for() {
    let origin = Origin::tcp().unwrap().answer(|_| ok(vec![b'x'; 300_000]));
    let gateway = Gateway::start("[timeouts]\nbody_idle = \"300ms\"", origin.address()).unwrap();
    let mut client = frames(&gateway);
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/stalled", &[])).unwrap();
    let reset = client.find(|frame| frame.kind == kind::RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.code()), (1, code::CANCEL));
    let line = gateway.access_log().unwrap().of_path("/stalled").unwrap();
    assert_eq!(line["refusal"], "client_stalled");
    // And one that sends nothing of the body it has begun.
    client.send(kind::HEADERS, END_HEADERS, 3, &block("POST", "/silent", &[])).unwrap();
    let line = gateway.access_log().unwrap().of_path("/silent").unwrap();
    assert_eq!((line["refusal"].as_str(), line["status"].as_u64()), (Some("body_timeout"), Some(408)));
}

#[test]
fn an_upload_is_as_fast_as_the_service_takes_it() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    client.send(kind::HEADERS, END_HEADERS, 1, &block("POST", "/", &[])).unwrap();
    let (_upstream, _) = seen(&origin);
    // The service reads nothing: what is on its way fills its buffers, then the window stays shut.
    let mut window = 65_535;
    let mut sent = 0;
    client.peer.set_patience(Duration::from_millis(500));
    while sent < 64 * 1024 * 1024 {
        while window >= 16_384 {
            client.send(kind::DATA, 0, 1, &[0; 16_384]).unwrap();
            window -= 16_384;
            sent += 16_384;
        }
        match client.read() {
            Ok(Some(frame)) if frame.kind == kind::WINDOW_UPDATE && frame.stream == 1 => {
                window += u32::from_be_bytes(frame.payload.try_into().unwrap());
            }
            Ok(Some(_)) => {}
            Ok(None) => panic!("the connection ended"),
            // Nothing more came.
            Err(_) => break,
        }
    }
    assert!(sent < 32 * 1024 * 1024, "{sent} bytes are held for a service that takes none");
}

/// What makes work and brings nothing: the frames, how often, and what the gateway says at the end.
fn floods() -> Vec<(&'static str, Vec<u8>, u32)> {
    let head = |stream: u32, flags: u8| frame(kind::HEADERS, flags, stream, &block("GET", "/", &[]));
    let rapid: Vec<u8> = (0..2000u32)
        .flat_map(|nth| {
            [head(2 * nth + 1, END_HEADERS | END_STREAM), frame(kind::RST_STREAM, 0, 2 * nth + 1, &[0, 0, 0, 8])]
                .concat()
        })
        .collect();
    // A window beyond what there may be: the gateway has to reset the stream itself (CVE-2025-8671).
    let made_you: Vec<u8> = (0..2000u32)
        .flat_map(|nth| {
            [
                head(2 * nth + 1, END_HEADERS | END_STREAM),
                frame(kind::WINDOW_UPDATE, 0, 2 * nth + 1, &[0x7f, 0xff, 0xff, 0xff]),
            ]
            .concat()
        })
        .collect();
    let mut continued = frame(kind::HEADERS, 0, 1, &block("GET", "/", &[]));
    for _ in 0..5000 {
        continued.extend(frame(kind::CONTINUATION, 0, 1, &e2e::http2::literal("x", "y")));
    }
    let begun = head(1, END_HEADERS);
    let all = |begin: &[u8], again: Vec<u8>| [begin, &again.repeat(10_000)].concat();
    vec![
        ("settings", all(b"", frame(kind::SETTINGS, 0, 0, b"")), code::ENHANCE_YOUR_CALM),
        ("ping", all(b"", frame(kind::PING, 0, 0, &[1; 8])), code::ENHANCE_YOUR_CALM),
        ("priority", all(b"", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1])), code::ENHANCE_YOUR_CALM),
        ("window updates", all(&begun, frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])), code::ENHANCE_YOUR_CALM),
        ("empty data", all(&begun, frame(kind::DATA, 0, 1, b"")), code::ENHANCE_YOUR_CALM),
        ("unknown frames", all(b"", frame(0xbe, 0, 0, b"x")), code::ENHANCE_YOUR_CALM),
        ("rapid reset", rapid, code::ENHANCE_YOUR_CALM),
        ("made you reset", made_you, code::ENHANCE_YOUR_CALM),
        ("continuation", continued, code::ENHANCE_YOUR_CALM),
    ]
}

#[test]
fn floods_are_ended_and_others_are_served_meanwhile() {
    let (gateway, _origin) = echoing("");
    let before = gateway.rss_bytes().unwrap();
    for (what, flood, expected) in floods() {
        let mut client = frames(&gateway);
        let mut writer = client.peer.writer().unwrap();
        let neighbour = std::thread::scope(|scope| {
            // It may be cut while it writes.
            scope.spawn(move || drop(writer.send(&flood)));
            let neighbour = gateway.get("/").unwrap();
            let away =
                client.find(|frame| frame.kind == kind::GOAWAY).unwrap_or_else(|error| panic!("{what}: {error:#}"));
            assert_eq!(away.code(), expected, "{what}");
            let _ = client.peer.rest();
            neighbour
        });
        assert_eq!(neighbour.head.status(), 200, "{what}");
    }
    gateway.metrics_when("all are gone", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
    let grown = gateway.rss_bytes().unwrap().saturating_sub(before);
    assert!(grown < 24 * 1024 * 1024, "{grown} bytes more");
}

#[test]
fn a_small_head_that_unpacks_to_a_large_one_is_refused() {
    let (gateway, _origin) = echoing("");
    let mut client = frames(&gateway);
    // One entry of the dynamic table, named again and again: a byte each for four thousand.
    let mut head = block("GET", "/", &[]);
    let value = "v".repeat(3900);
    head.push(0x40);
    head.extend(&e2e::http2::literal("x-bomb", &value)[1..]);
    head.extend([0xbe; 4000]);
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &head).unwrap();
    let answer = client.find(|frame| matches!(frame.kind, kind::HEADERS | kind::RST_STREAM | kind::GOAWAY)).unwrap();
    match answer.kind {
        kind::GOAWAY => assert_ne!(answer.code(), code::NO_ERROR),
        _ => assert_eq!(answer.stream, 1),
    }
    assert!(gateway.rss_bytes().unwrap() < 100 * 1024 * 1024);
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
}

#[test]
fn bytes_that_are_no_frames_end_the_connection() {
    let (gateway, _origin) = echoing("");
    for (what, bytes) in [
        ("a frame too large", frame(kind::DATA, 0, 1, &[0; 20_000])),
        ("data on no stream", frame(kind::DATA, 0, 0, b"x")),
        ("data on a stream nobody opened", frame(kind::DATA, 0, 1, b"x")),
        ("a ping of seven bytes", frame(kind::PING, 0, 0, &[0; 7])),
        ("an even stream", frame(kind::HEADERS, END_HEADERS | END_STREAM, 2, &block("GET", "/", &[]))),
        ("a head that is no hpack", frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 9])),
        ("settings that are none", frame(kind::SETTINGS, 0, 0, &[0; 5])),
    ] {
        let mut client = frames(&gateway);
        client.peer.send(&bytes).unwrap();
        let away = client.find(|frame| frame.kind == kind::GOAWAY).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_ne!(away.code(), code::NO_ERROR, "{what}");
    }
    let mut client = gateway.client().unwrap();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    client.rest().unwrap();
    gateway.metrics_when("all are gone", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
}

#[test]
fn a_client_that_goes_ends_all_it_has_asked_for() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    let mut upstreams = Vec::new();
    for stream in [1, 3, 5] {
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", "/", &[])).unwrap();
        upstreams.push(seen(&origin).0);
    }
    client.peer.reset().unwrap();
    for mut upstream in upstreams {
        upstream.finish().unwrap();
    }
    gateway
        .metrics_when("nothing runs", |metrics| {
            metrics.sum("bawab_requests_in_flight", &[]) == 0.0 && metrics.sum("bawab_connections_open", &[]) == 0.0
        })
        .unwrap();
}
