//! HTTP/2 towards services: any protocol in and HTTP/2 out, on connections that many requests share.

use bytes::Bytes;
use e2e::http2::{Client, get, on};
use e2e::http2_service::{Asked, Reply, data};
use e2e::message::{Message, chunk};
use e2e::metrics::Metrics;
use e2e::{Gateway, Http2Service, Kept};
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
