//! Health checks by gRPC: `grpc.health.v1.Health/Check`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use e2e::http2_service::{Asked, Reply};
use e2e::metrics::Metrics;
use e2e::{Gateway, Http2Service};
use http::{HeaderMap, HeaderValue, Response};

/// A service whose health is `status`; 99: it has no such service.
fn service(status: &Arc<AtomicU8>) -> Http2Service {
    let status = status.clone();
    Http2Service::answer(move |asked| answer(asked, status.load(Ordering::SeqCst))).unwrap()
}

fn answer(asked: &Asked, status: u8) -> Reply {
    let mut reply = Reply::ok("");
    reply.head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let number = |number: &'static str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(number));
        trailers
    };
    if asked.head.uri().path() != "/grpc.health.v1.Health/Check" {
        reply.trailers = Some(number("0"));
    } else if asked.body != b"\0\0\0\0\x07\x0a\x05books"[..] || status == 99 {
        reply.head.headers_mut().extend(number("12"));
    } else {
        reply.pieces = vec![Bytes::from(vec![0, 0, 0, 0, 2, 8, status])];
        reply.trailers = Some(number("0"));
    }
    reply
}

#[test]
fn an_endpoint_gets_requests_while_its_service_serves() {
    let (one, other) = (Arc::new(AtomicU8::new(1)), Arc::new(AtomicU8::new(1)));
    let services = [service(&one), service(&other)];
    let overrides = format!(
        "[upstream.main]\nprotocol = \"http2\"\nendpoints = [\"{}\", \"{}\"]\npanic_threshold = \"0%\"\n\
         health = {{ grpc = true, grpc_service = \"books\", interval = \"100ms\", unhealthy_after = 1, healthy_after = 1 }}\n",
        services[0].address(),
        services[1].address()
    );
    let gateway = Gateway::start(&overrides, "").unwrap();
    let usable =
        |count: f64| move |metrics: &Metrics| metrics.sum("bawab_upstream_endpoints", &[("state", "usable")]) == count;
    let passed = |metrics: &Metrics| metrics.sum("bawab_upstream_health_checks_total", &[("outcome", "passed")]) >= 2.0;
    gateway.metrics_when("both were checked", passed).unwrap();
    gateway.metrics_when("both are usable", usable(2.0)).unwrap();
    // NOT_SERVING.
    other.store(2, Ordering::SeqCst);
    gateway.metrics_when("one is out", usable(1.0)).unwrap();
    let event = gateway.event("an endpoint is unhealthy").unwrap();
    assert_eq!(event["seen"], "NOT_SERVING", "{event}");
    one.store(99, Ordering::SeqCst);
    gateway.metrics_when("both are out", usable(0.0)).unwrap();
    assert_eq!(gateway.get("/").unwrap().refusal().unwrap(), (503, "no_endpoint".to_owned()));
    let event = gateway.event_again("an endpoint is unhealthy", 2).unwrap();
    assert_eq!(event["seen"], "grpc-status 12 (unimplemented)", "{event}");
    one.store(1, Ordering::SeqCst);
    gateway.metrics_when("one is back", usable(1.0)).unwrap();
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
}

#[test]
fn who_does_not_speak_http2_does_not_pass() {
    let origin = e2e::Origin::tcp().unwrap().answer(|_| e2e::origin::ok("ok"));
    let overrides = "[upstream.main]\nhealth = { grpc = true, interval = \"100ms\", unhealthy_after = 1 }\n";
    let gateway = Gateway::start(overrides, origin.address()).unwrap();
    let event = gateway.event("an endpoint is unhealthy").unwrap();
    assert!(event["seen"].as_str().unwrap().starts_with("no answer by HTTP/2"), "{event}");
}
