//! HTTP/2 towards services: any protocol in and HTTP/2 out, on connections that many requests share.

use bytes::Bytes;
use e2e::http2::{ACK, Client, END_HEADERS, END_STREAM, Frames, code, kind, literal, on};
use e2e::http2_service::{Asked, Reply, data};
use e2e::message::{Message, chunk};
use e2e::metrics::Metrics;
use e2e::{Gateway, Http2Service, Kept, Origin, Peer};
use http::{HeaderMap, HeaderValue, Method, Request, Response};

const HTTP2: &str = "[upstream.main]\nprotocol = \"http2\"\n";

/// Answers with the request as text, its body and its trailers as they came.
fn echo(asked: &Asked) -> Reply {
    let head = &asked.head;
    let mut text = format!("{} {}\n", head.method(), head.uri());
    for (name, value) in head.headers() {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    let mut reply = Reply::ok(text);
    if !asked.body.is_empty() || head.method() == Method::HEAD {
        reply.pieces = vec![asked.body.clone()];
    }
    reply.trailers = asked.trailers.clone();
    reply
}

fn main_address(gateway: &Gateway) -> std::net::SocketAddr {
    gateway.address_of("main").unwrap()
}

fn echoing(overrides: &str) -> (Gateway, Http2Service) {
    let service = Http2Service::answer(echo).unwrap();
    (Gateway::start(&format!("{HTTP2}{overrides}"), &service.address()).unwrap(), service)
}

#[test]
fn an_http1_request_is_the_same_for_a_service_that_speaks_http2() {
    let (gateway, service) = echoing("");
    let mut client = Kept::connect(main_address(&gateway)).unwrap();
    let answer = client
        .ask("GET /a/%62/../c?x=1 HTTP/1.1\r\nHost: e2e.test\r\nX-Y: z\r\nConnection: te, x-z\r\nX-Z: 1\r\nTE: trailers\r\n\r\n")
        .unwrap();
    assert_eq!((answer.head.status(), answer.head.field("via")), (200, Some("2 bawab")));
    let text = answer.text();
    assert!(text.starts_with("GET http://e2e.test/a/c?x=1\n"), "{text}");
    for line in ["x-y: z", "te: trailers", "via: 1.1 bawab", "x-forwarded-proto: http"] {
        assert!(text.lines().any(|seen| seen == line), "no {line} in {text}");
    }
    for name in ["x-z:", "connection:", "host:", "content-length:"] {
        assert!(!text.lines().any(|seen| seen.starts_with(name)), "{name} in {text}");
    }
    let answer = client.ask("POST / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    assert_eq!(answer.body, b"hello");
    let mut client = gateway.client().unwrap();
    client.send("HEAD / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let answer = Message::answer(&mut client, "HEAD").unwrap();
    assert_eq!((answer.head.status(), answer.body.len()), (200, 0));
    assert_eq!(service.connections(), 1);
    let line = gateway.access_log().unwrap().of_path("/a/c").unwrap();
    assert_eq!((line["protocol"].as_str(), line["status"].as_u64()), (Some("HTTP/1.1"), Some(200)));
}

#[test]
fn bodies_and_trailers_pass_both_ways_on_streams_of_one_connection() {
    let (gateway, service) = echoing("");
    on(async {
        let client = Client::connect(main_address(&gateway)).await.unwrap();
        let asked = (0..40_u32).map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let body = Bytes::from(vec![number as u8; 1 + 5_000 * number as usize]);
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", HeaderValue::from(number));
                let request = Request::post(format!("http://e2e.test/{number}")).body(()).unwrap();
                let answer = client.send(request, body.clone(), Some(trailers)).await.unwrap();
                assert_eq!(answer.status, 200);
                assert!(answer.body == body, "{number}");
                assert_eq!(answer.trailers.unwrap()["x-sum"], number.to_string());
            })
        });
        for asked in asked.collect::<Vec<_>>() {
            asked.await.unwrap();
        }
    });
    assert_eq!(service.connections(), 1, "they share one");
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_connects_total", &[]), 1.0);
    assert_eq!(metrics.sum("bawab_requests_in_flight", &[]), 0.0);
}

#[test]
fn more_requests_than_streams_open_another_connection() {
    let service = Http2Service::serve(h2::server::Builder::new(), |_, mut respond| async move {
        // Held until the client has gone.
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        Ok(())
    })
    .unwrap();
    let overrides = format!("{HTTP2}pool = {{ streams_max = 2 }}");
    let gateway = Gateway::start(&overrides, &service.address()).unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = gateway.client().unwrap();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        clients.push(client);
    }
    let all = |metrics: &Metrics| {
        let sum = |name| metrics.sum(name, &[]);
        sum("bawab_upstream_connects_total") == 3.0 && sum("bawab_upstream_requests_total") == 5.0
    };
    gateway.metrics_when("two streams each on three connections", all).unwrap();
    assert_eq!(service.connections(), 3);
    // Who leaves makes room.
    clients.pop().unwrap().reset().unwrap();
    gateway.metrics_when("one is gone", |metrics| metrics.sum("bawab_requests_in_flight", &[]) == 4.0).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let six = |metrics: &Metrics| metrics.sum("bawab_upstream_requests_total", &[]) == 6.0;
    gateway.metrics_when("the sixth is sent", six).unwrap();
    assert_eq!(service.connections(), 3);
}

#[test]
fn a_large_answer_is_not_held() {
    const PIECES: usize = 256;
    let service = Http2Service::serve(h2::server::Builder::new(), |_, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false)?;
        for _ in 0..PIECES {
            data(&mut stream, Bytes::from(vec![b'x'; 1024 * 1024]), false).await?;
        }
        stream.send_data(Bytes::new(), true)
    })
    .unwrap();
    let gateway = Gateway::start(HTTP2, &service.address()).unwrap();
    let before = gateway.rss_bytes().unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.take_through(b"\r\n\r\n").unwrap();
    let mut got = 0;
    while let Some(piece) = chunk(&mut client).unwrap() {
        got += piece.len();
    }
    assert_eq!(got, PIECES * 1024 * 1024);
    let grown = gateway.rss_bytes().unwrap().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes more");
}

/// The service's side of the gateway's next connection.
fn service_side(origin: &Origin) -> Frames {
    Frames::accept(origin.accept().unwrap(), &[]).unwrap()
}

/// `:status: 200`, of HPACK's static table.
const OK: &[u8] = &[0x88];

fn answer(service: &mut Frames, stream: u32) {
    service.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, OK).unwrap();
}

/// GOAWAY with the last stream that was taken, and a reason.
fn away(last: u32, reason: u32) -> Vec<u8> {
    [last.to_be_bytes(), reason.to_be_bytes()].concat()
}

/// A client whose request is on its way, its answer not read yet.
fn asking(gateway: &Gateway, request: &str) -> Peer {
    let mut client = gateway.client().unwrap();
    client.send(request).unwrap();
    client
}

const POST: &str = "POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

fn status(client: &mut Peer) -> u16 {
    Message::answer(client, "GET").unwrap().head.status()
}

#[test]
fn what_a_service_did_not_take_is_sent_again_whatever_it_is() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    // A stream that is refused (RFC 9113 §8.7).
    let mut client = asking(&gateway, POST);
    let mut service = service_side(&origin);
    let first = service.request().unwrap();
    service.send(kind::RST_STREAM, 0, first.stream, &code::REFUSED_STREAM.to_be_bytes()).unwrap();
    let second = service.request().unwrap();
    assert_eq!(second.stream, first.stream + 2);
    let data = service.find(|frame| frame.kind == kind::DATA && frame.stream == second.stream).unwrap();
    assert_eq!(data.payload, b"hello");
    answer(&mut service, second.stream);
    assert_eq!(status(&mut client), 200);
    // One beyond the last that a GOAWAY speaks of (§6.8): by another connection.
    let mut client = asking(&gateway, POST);
    let third = service.request().unwrap();
    service.send(kind::GOAWAY, 0, 0, &away(second.stream, code::NO_ERROR)).unwrap();
    let mut other = service_side(&origin);
    let again = other.request().unwrap();
    assert!(third.stream > second.stream);
    answer(&mut other, again.stream);
    assert_eq!(status(&mut client), 200);
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_retries_total", &[("cause", "stale")]), 2.0);
    // Once: a service that refuses everything is not asked for ever.
    let mut client = asking(&gateway, "GET /twice HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..2 {
        let asked = other.request().unwrap();
        other.send(kind::RST_STREAM, 0, asked.stream, &code::REFUSED_STREAM.to_be_bytes()).unwrap();
    }
    assert_eq!(status(&mut client), 502);
}

#[test]
fn what_a_service_may_have_acted_on_is_not_sent_again() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    // Within what a GOAWAY speaks of, and then nothing more comes.
    let mut client = asking(&gateway, POST);
    let mut service = service_side(&origin);
    let asked = service.request().unwrap();
    service.send(kind::GOAWAY, 0, 0, &away(asked.stream, code::NO_ERROR)).unwrap();
    service.peer.close().unwrap();
    assert_eq!(status(&mut client), 502);
    let line = gateway.access_log().unwrap().of_path("/post").unwrap();
    assert_eq!((line["refusal"].as_str(), line["attempts"].as_u64()), (Some("upstream_closed"), Some(1)));
    // A stream that is reset for any other reason.
    let mut client = asking(&gateway, &POST.replace("/post", "/reset"));
    let mut service = service_side(&origin);
    let asked = service.request().unwrap();
    service.send(kind::RST_STREAM, 0, asked.stream, &code::CANCEL.to_be_bytes()).unwrap();
    assert_eq!(status(&mut client), 502);
    let line = gateway.access_log().unwrap().of_path("/reset").unwrap();
    assert_eq!((line["refusal"].as_str(), line["attempts"].as_u64()), (Some("upstream_closed"), Some(1)));
    // The connection is as good as before.
    let mut client = asking(&gateway, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let asked = service.request().unwrap();
    answer(&mut service, asked.stream);
    assert_eq!(status(&mut client), 200);
}

#[test]
fn a_connection_that_says_it_ends_is_left_and_what_runs_on_it_goes_on() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    let mut first = asking(&gateway, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut service = service_side(&origin);
    let running = service.request().unwrap();
    // In two steps, as a server that drains does.
    service.send(kind::GOAWAY, 0, 0, &away(u32::MAX >> 1, code::NO_ERROR)).unwrap();
    // When its ping is answered the gateway has seen the other.
    service.send(kind::PING, 0, 0, &[7; 8]).unwrap();
    service.find(|frame| frame.kind == kind::PING && frame.flags & ACK != 0).unwrap();
    let mut second = asking(&gateway, "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut other = service_side(&origin);
    let asked = other.request().unwrap();
    answer(&mut other, asked.stream);
    assert_eq!(status(&mut second), 200);
    service.send(kind::GOAWAY, 0, 0, &away(running.stream, code::NO_ERROR)).unwrap();
    answer(&mut service, running.stream);
    assert_eq!(status(&mut first), 200);
    // Nothing runs on it any more.
    service.peer.rest().unwrap();
}

#[test]
fn a_service_that_does_not_speak_http2_is_told_from_one_that_is_not_there() {
    let origin = Origin::tcp().unwrap().serve(|peer| {
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        peer.finish().map(drop)
    });
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    assert_eq!(gateway.get("/plain").unwrap().refusal().unwrap(), (502, "upstream_http2_broken".to_owned()));
    // A frame on a stream that nobody opened.
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    let mut client = asking(&gateway, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut service = service_side(&origin);
    service.request().unwrap();
    service.send(kind::DATA, 0, 99, b"x").unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().refusal().unwrap().1, "upstream_http2_broken");
    service.find(|frame| frame.kind == kind::GOAWAY).unwrap();
}

#[test]
fn waits_on_a_stream_are_those_of_the_upstream_and_others_do_not_suffer() {
    let origin = Origin::tcp().unwrap();
    let overrides = format!("{HTTP2}timeout = {{ first_byte = \"300ms\", idle = \"300ms\" }}");
    let gateway = Gateway::start(&overrides, origin.address()).unwrap();
    let mut silent = asking(&gateway, "GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut service = service_side(&origin);
    let first = service.request().unwrap();
    // Its stream is reset, its connection is not.
    let reset = service.find(|frame| frame.kind == kind::RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.code()), (first.stream, code::CANCEL));
    assert_eq!(status(&mut silent), 504);
    // A body that stops.
    let mut stops = asking(&gateway, "GET /stops HTTP/1.1\r\nHost: a\r\n\r\n");
    let second = service.request().unwrap();
    service.send(kind::HEADERS, END_HEADERS, second.stream, OK).unwrap();
    service.send(kind::DATA, 0, second.stream, b"part").unwrap();
    stops.take_through(b"part").unwrap();
    service.find(|frame| frame.kind == kind::RST_STREAM && frame.stream == second.stream).unwrap();
    assert_eq!(stops.rest().unwrap().0, b"\r\n", "no last chunk");
    // A service that opens no window for the request's body: 65,535 bytes are sent, and no more.
    let body = "x".repeat(200_000);
    let request = format!("POST /shut HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut shut = asking(&gateway, &request);
    let third = service.request().unwrap();
    service.find(|frame| frame.kind == kind::RST_STREAM && frame.stream == third.stream).unwrap();
    assert_eq!(status(&mut shut), 504);
    for (path, refusal) in [
        ("/silent", "upstream_first_byte_timeout"),
        ("/stops", "upstream_idle_timeout"),
        ("/shut", "upstream_idle_timeout"),
    ] {
        let line = gateway.access_log().unwrap().of_path(path).unwrap();
        assert_eq!(line["refusal"].as_str(), Some(refusal), "{path}");
    }
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_connects_total", &[]), 1.0);
}

#[test]
fn an_answer_may_come_before_the_request_is_whole() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").unwrap();
    let mut service = service_side(&origin);
    let asked = service.request().unwrap();
    service.send(kind::HEADERS, END_HEADERS, asked.stream, OK).unwrap();
    service.send(kind::DATA, 0, asked.stream, b"early").unwrap();
    client.take_through(b"early").unwrap();
    client.send("world").unwrap();
    service.find(|frame| frame.kind == kind::DATA && frame.payload == b"world").unwrap();
    service.send(kind::DATA, END_STREAM, asked.stream, b"late").unwrap();
    client.take_through(b"late").unwrap();
}

#[test]
fn interim_answers_pass_and_a_switch_of_protocols_does_not() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    let mut client =
        asking(&gateway, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let mut service = service_side(&origin);
    let asked = service.request().unwrap();
    service.send(kind::HEADERS, END_HEADERS, asked.stream, &literal(":status", "100")).unwrap();
    client.take_through(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    client.send("ok").unwrap();
    service.find(|frame| frame.kind == kind::DATA && frame.payload == b"ok").unwrap();
    let early = [literal(":status", "103"), literal("link", "</a>")].concat();
    service.send(kind::HEADERS, END_HEADERS, asked.stream, &early).unwrap();
    client.take_through(b"HTTP/1.1 103 ").unwrap();
    client.take_through(b"\r\n\r\n").unwrap();
    answer(&mut service, asked.stream);
    assert_eq!(status(&mut client), 200);
    let mut client = asking(&gateway, "GET /switch HTTP/1.1\r\nHost: a\r\n\r\n");
    let asked = service.request().unwrap();
    service.send(kind::HEADERS, END_HEADERS, asked.stream, &literal(":status", "101")).unwrap();
    assert_eq!(status(&mut client), 502);
}

/// Nothing an HTTP/2 service sends may end a field, or a head, for a client of HTTP/1.
#[test]
fn fields_that_would_break_http1_are_refused() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start(HTTP2, origin.address()).unwrap();
    let mut service: Option<Frames> = None;
    // What was wrong with the one before may have ended its connection.
    let next = |before: Option<Frames>| {
        if let Some(mut frames) = before
            && let Ok(asked) = frames.request()
        {
            return (frames, asked);
        }
        let mut frames = service_side(&origin);
        let asked = frames.request().unwrap();
        (frames, asked)
    };
    for (name, value) in [
        ("x-a", "1\r\nx-b: 2"),
        ("x-a", "1\n\nbody"),
        ("x-a", "1\0"),
        ("x a", "1"),
        ("x-a:", "1"),
        ("X-Upper", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
    ] {
        let mut client = asking(&gateway, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (mut frames, asked) = next(service.take());
        let head = [OK.to_vec(), literal(name, value)].concat();
        frames.send(kind::HEADERS, END_HEADERS | END_STREAM, asked.stream, &head).unwrap();
        let answer = Message::answer(&mut client, "GET").unwrap();
        assert_eq!(answer.head.status(), 502, "{name:?}: {value:?}");
        assert_eq!(answer.head.field("x-b"), None);
        service = Some(frames);
    }
    // A length that is not the body's.
    let mut client = asking(&gateway, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut frames, asked) = next(service.take());
    let head = [OK.to_vec(), literal("content-length", "10")].concat();
    frames.send(kind::HEADERS, END_HEADERS, asked.stream, &head).unwrap();
    frames.send(kind::DATA, END_STREAM, asked.stream, b"short").unwrap();
    assert!(Message::answer(&mut client, "GET").is_err(), "it must not look whole");
}
