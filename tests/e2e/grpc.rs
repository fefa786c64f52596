//! gRPC: a service's statuses and deadlines, and ours in its words.

use bytes::Bytes;
use e2e::http2::{Answer, Client, on};
use e2e::http2_service::{Asked, Reply, data};
use e2e::{Gateway, Http2Service};
use http::{HeaderMap, HeaderValue, Request, Response};

const GRPC: &str = "[upstream.main]\nprotocol = \"http2\"\n";

/// One message in its frame.
fn message(body: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    frame.into()
}

fn call(path: &str) -> Request<()> {
    Request::post(format!("http://e2e.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn status(number: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(number));
    trailers
}

/// A call that ends as its path says: `/service/14` in trailers behind a message, `/only/14` in the head.
fn service(asked: &Asked) -> Reply {
    let path = asked.head.uri().path().to_owned();
    let (kind, number) = path.rsplit_once('/').unwrap();
    let mut reply = Reply::ok("");
    reply.head = head();
    let number = HeaderValue::from_str(number).unwrap();
    match kind {
        "/only" => _ = reply.head.headers_mut().insert("grpc-status", number),
        _ => {
            reply.pieces = vec![asked.body.clone()];
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", number);
            trailers.insert("grpc-message", HeaderValue::from_static("as asked"));
            trailers.insert("x-detail-bin", HeaderValue::from_static("AAEC"));
            reply.trailers = Some(trailers);
        }
    }
    reply
}

async fn send(gateway: &Gateway, request: Request<()>) -> Answer {
    let client = Client::connect(gateway.address_of("main").unwrap()).await.unwrap();
    client.send(request, message(b"hello"), None).await.unwrap()
}

fn number(answer: &Answer) -> String {
    let trailers = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    let status = answer.fields.get("grpc-status").or(trailers);
    status.map(|status| status.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[test]
fn a_call_passes_with_its_status_and_is_logged_and_counted_by_it() {
    let service = Http2Service::answer(service).unwrap();
    let gateway = Gateway::start(GRPC, &service.address()).unwrap();
    on(async {
        let answer = send(&gateway, call("/service/0")).await;
        assert_eq!((answer.status.as_u16(), number(&answer).as_str()), (200, "0"));
        assert_eq!(answer.body, message(b"hello"));
        let answer = send(&gateway, call("/service/14")).await;
        let trailers = answer.trailers.unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"14".parse().unwrap(), &"as asked".parse().unwrap())
        );
        assert_eq!(trailers["x-detail-bin"], "AAEC");
        let answer = send(&gateway, call("/only/5")).await;
        assert_eq!((number(&answer).as_str(), answer.trailers.is_none(), answer.body.len()), ("5", true, 0));
        assert!(answer.fields.get("content-length").is_none());
    });
    for (path, name) in [("/service/0", "ok"), ("/service/14", "unavailable"), ("/only/5", "not_found")] {
        let line = gateway.access_log().unwrap().of_path(path).unwrap();
        assert_eq!((line["status"].as_u64(), line["grpc_status"].as_str()), (Some(200), Some(name)), "{path}");
        let metrics = gateway.metrics().unwrap();
        assert_eq!(metrics.sum("bawab_route_grpc_calls_total", &[("grpc_status", name)]), 1.0, "{path}");
    }
}

#[test]
fn what_we_refuse_is_said_in_the_words_of_grpc() {
    let service = Http2Service::answer(service).unwrap();
    let overrides = format!(
        "{GRPC}[upstream.gone]\nprotocol = \"http2\"\nendpoints = [\"127.0.0.1:1\"]\n\
         [[route]]\npath = \"/gone/**\"\nupstream = \"gone\"\nauth = \"none\"\n\
         [[route]]\npath = \"/small/**\"\nupstream = \"main\"\nauth = \"none\"\nbody_bytes = \"4B\"\n\
         [[route]]\npath = \"/closed/**\"\nupstream = \"main\"\nauth = \"none\"\nmaintenance = {{}}\n"
    );
    let gateway = Gateway::start(&overrides, &service.address()).unwrap();
    on(async {
        for (path, expected, code) in [
            ("/gone/x", "14", "upstream_connect_failed"),
            ("/small/x", "8", "body_too_large"),
            ("/closed/x", "14", "maintenance"),
            ("/nowhere", "12", "no_route"),
        ] {
            let answer = send(&gateway, call(path)).await;
            assert_eq!((answer.status.as_u16(), number(&answer).as_str()), (200, expected), "{path}");
            assert_eq!(answer.field("content-type"), "application/grpc");
            assert!(answer.field("grpc-message").starts_with(code), "{answer:?}");
            assert!(answer.body.is_empty() && answer.fields.get("content-length").is_none(), "{path}");
            let line = gateway.access_log().unwrap().of_path(path).unwrap();
            assert_eq!(line["refusal"].as_str(), Some(code));
            assert!(line["grpc_status"].is_string(), "{line}");
        }
        // Whoever does not speak gRPC is answered as before.
        let plain = Request::post("http://e2e.test/nowhere").body(()).unwrap();
        assert_eq!(send(&gateway, plain).await.status.as_u16(), 404);
    });
}

#[test]
fn a_callers_deadline_is_ours() {
    let service = Http2Service::serve(h2::server::Builder::new(), |request, mut respond| async move {
        if request.uri().path() == "/starts" {
            let mut stream = respond.send_response(head(), false)?;
            data(&mut stream, message(b"first"), false).await?;
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            return Ok(());
        }
        // Never answered.
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        Ok(())
    })
    .unwrap();
    let gateway = Gateway::start(GRPC, &service.address()).unwrap();
    on(async {
        let mut request = call("/silent");
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("200m"));
        let answer = send(&gateway, request).await;
        assert_eq!(number(&answer), "4");
        // The same when a part of the answer is out: its trailers say so.
        let mut request = call("/starts");
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("300m"));
        let answer = send(&gateway, request).await;
        assert_eq!(answer.body, message(b"first"));
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "4");
        assert!(trailers["grpc-message"].to_str().unwrap().starts_with("upstream_total_timeout"));
    });
    for path in ["/silent", "/starts"] {
        let line = gateway.access_log().unwrap().of_path(path).unwrap();
        assert_eq!(line["grpc_status"].as_str(), Some("deadline_exceeded"), "{path}");
    }
}

#[test]
fn a_call_is_made_again_for_the_statuses_that_are_named_and_an_endpoint_is_judged_by_them() {
    let bad = Http2Service::answer(|_| {
        let mut reply = Reply::ok("");
        reply.head = head();
        reply.head.headers_mut().extend(status("14"));
        reply
    })
    .unwrap();
    let good = Http2Service::answer(service).unwrap();
    let overrides = format!(
        "[upstream.main]\nprotocol = \"http2\"\nendpoints = [\"{}\", \"{}\"]\n\
         eject = {{ consecutive_gateway = 3, base = \"1h\" }}\n\
         [upstream.main.retry]\non = [\"unavailable\"]\nmethods = [\"POST\"]\nbudget = \"100%\"\nback_off = \"0s\"\n",
        bad.address(),
        good.address()
    );
    let gateway = Gateway::start(&overrides, "").unwrap();
    let calls = |count| {
        on(async {
            for _ in 0..count {
                let answer = send(&gateway, call("/service/0")).await;
                assert_eq!(number(&answer), "0");
                assert_eq!(answer.body, message(b"hello"));
            }
        });
        gateway.metrics().unwrap().sum("bawab_upstream_retries_total", &[("cause", "grpc_status")])
    };
    assert!(calls(6) >= 3.0);
    // The control side ejects it, a moment after the third.
    gateway.event("an endpoint is ejected").unwrap();
    let before = calls(0);
    assert_eq!(calls(6), before);
    assert_eq!(gateway.access_log().unwrap().of_path("/service/0").unwrap()["grpc_status"], "ok");
}

/// Both sides of a call wait for each other: the caller for its answer, and whoever would send the call again for the caller.
#[test]
fn a_call_whose_caller_waits_for_its_answer_is_made_again_at_once() {
    let hangs_up = Http2Service::serve(h2::server::Builder::new(), |mut request, mut respond| async move {
        let piece = request.body_mut().data().await.transpose()?;
        assert_eq!(piece, Some(message(b"hello")));
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        Ok(())
    })
    .unwrap();
    let good = Http2Service::serve(h2::server::Builder::new(), |mut request, mut respond| async move {
        let piece = request.body_mut().data().await.transpose()?.unwrap_or_default();
        let mut stream = respond.send_response(head(), false)?;
        data(&mut stream, piece, false).await?;
        let rest = request.body_mut().data().await.transpose()?.unwrap_or_default();
        data(&mut stream, rest, false).await?;
        stream.send_trailers(status("0"))
    })
    .unwrap();
    let overrides = format!(
        "[upstream.main]\nprotocol = \"http2\"\nendpoints = [\"{}\", \"{}\"]\n\
         [upstream.main.retry]\non = [\"reset\"]\nmethods = [\"POST\"]\nbudget = \"100%\"\nback_off = \"0s\"\n",
        hangs_up.address(),
        good.address()
    );
    let gateway = Gateway::start(&overrides, "").unwrap();
    on(async {
        for _ in 0..3 {
            let client = Client::connect(gateway.address_of("main").unwrap()).await.unwrap();
            let (response, mut stream) =
                client.sender.clone().ready().await.unwrap().send_request(call("/chat"), false).unwrap();
            stream.send_data(message(b"hello"), false).unwrap();
            let mut answer = response.await.unwrap().into_body();
            assert_eq!(answer.data().await.unwrap().unwrap(), message(b"hello"));
            // Only now.
            stream.send_data(message(b"more"), true).unwrap();
            assert_eq!(answer.data().await.unwrap().unwrap(), message(b"more"));
            assert_eq!(answer.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        }
    });
    let metrics = gateway.metrics().unwrap();
    assert!(metrics.sum("bawab_upstream_retries_total", &[("cause", "reset")]) >= 1.0);
}
