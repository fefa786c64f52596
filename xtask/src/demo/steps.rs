//! The steps of the demo, in the order of a request's way through the gateway; those that change it come last.

use std::time::Instant;

use anyhow::{Context, Result};
use e2e::Peer;
use e2e::http2::Client;
use e2e::message::{Head, Message, chunk, fields};
use serde_json::Value;

use super::addresses;
use super::gateway::Gateway;
use super::grpc;
use super::lifecycle;
use super::names;
use super::policies;
use super::routes;
use super::services::Services;
use super::stage::Stage;
use super::websocket;

type Step = fn(&mut Stage, &mut Gateway, &Services) -> Result<()>;

pub(super) const ALL: &[(&str, Step)] = &[
    ("a route by host and path", routing),
    ("two endpoints in turn, over one kept connection", round_robin),
    ("what a service is told, and what is kept from it", told),
    ("edits on the way back", edits),
    ("an upload, piece by piece, with a trailer", upload),
    ("a download, piece by piece, with a trailer", download),
    ("103 Early Hints before the answer", early_hints),
    ("a WebSocket", upgrade),
    ("HTTP/2: many requests at once on one connection", http2),
    ("gRPC: a call, and one that no route takes", grpc::call),
    ("a template, and another path and host for the service", routes::rewritten),
    ("a condition: the canary", routes::canary),
    ("a split, by weight and by session", routes::split),
    ("a redirect", routes::redirected),
    ("a service that is down on purpose", routes::maintained),
    ("an error page for browsers", routes::error_page),
    ("which route, and why: explain route", routes::explained),
    ("pages of other origins", policies::other_origins),
    ("a compressed answer", policies::compressed),
    ("fields for browsers", policies::for_browsers),
    ("a compressed upload", policies::compressed_upload),
    ("refused: what no route takes", unrouted),
    ("refused: requests that could mean two things", ambiguous),
    ("refused: a body too large", too_large),
    ("refused: services that are gone or silent", unreachable),
    ("an endpoint that fails: clients do not notice", failing),
    ("endpoints by DNS: a service that moves", names::moved),
    ("refused: addresses on a list", addresses::listed),
    ("refused: an address that is banned for a time", addresses::banned),
    ("the door in the kernel", addresses::door),
    ("the access log", access_log),
    ("health and metrics", admin),
    ("another configuration while it runs", lifecycle::reload),
    ("TLS, on a listener that comes while it runs", lifecycle::tls),
    ("another process takes over: SIGUSR2", lifecycle::take_over),
];

/// The trace of one request, to be found again in the access log.
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn routing(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, "GET /books/42 HTTP/1.1\r\nHost: api.example\r\n\r\n")?;
    let from_books = status(&answer) == 200 && answer.text().starts_with("books-");
    stage.check("api.example/books/42 reaches the books", from_books);
    let answer = stage.ask(gateway.public, "GET /a//b/./%63 HTTP/1.1\r\nHost: cats.static.example\r\n\r\n")?;
    stage.check("any name below static.example reaches the media", answer.text().starts_with("media received"));
    stage.check("the path arrives in its one canonical form", answer.text().contains("GET /a/b/c HTTP/1.1"));
    Ok(())
}

fn round_robin(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let mut client = Peer::connect(gateway.public)?;
    let mut servers = Vec::new();
    for _ in 0..4 {
        let answer = stage.ask_on(&mut client, "HEAD /books/42 HTTP/1.1\r\nHost: api.example\r\n\r\n")?;
        servers.push(answer.head.field("x-service").unwrap_or_default().to_owned());
    }
    let in_turn = servers[0] != servers[1] && servers[0] == servers[2] && servers[1] == servers[3];
    stage.check(&format!("each endpoint had every second request: {}", servers.join(", ")), in_turn);
    let get = |book: u8| format!("GET /books/{book} HTTP/1.1\r\nHost: api.example\r\n\r\n");
    stage.send(&mut client, &(get(1) + &get(2)))?;
    let (first, second) = (Message::answer(&mut client, "GET")?, Message::answer(&mut client, "GET")?);
    let in_order = first.text().contains("/books/1 ") && second.text().contains("/books/2 ");
    stage.check("two requests sent at once are answered in their order", in_order);
    Ok(())
}

fn told(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let request = format!(
        "GET /books/7?lang=ar HTTP/1.1\r\nHost: api.example\r\nX-Forwarded-For: 198.51.100.9\r\nX-Debug: 1\r\n\
         X-Hop: only for the gateway\r\nConnection: X-Hop\r\ntraceparent: 00-{TRACE_ID}-00f067aa0ba902b7-01\r\n\r\n"
    );
    let answer = stage.ask(gateway.public, &request)?;
    let text = answer.text().to_ascii_lowercase();
    let has = |line: &str| text.lines().any(|known| known == line);
    stage.check("the query arrives as it was", text.contains("get /books/7?lang=ar http/1.1"));
    let own_word = has("x-forwarded-for: 127.0.0.1") && !text.contains("198.51.100.9");
    stage.check("who the client is: decided here, whatever the client claims", own_word);
    stage.check("X-Forwarded-Proto and Via are there", has("x-forwarded-proto: http") && has("via: 1.1 bawab"));
    stage.check("the trace goes on", text.contains(&format!("traceparent: 00-{TRACE_ID}-")));
    stage.check("fields for the gateway only are kept from it", !text.contains("x-hop"));
    stage.check("the route's edits: X-Shelf set, X-Debug removed", has("x-shelf: books") && !text.contains("x-debug"));
    Ok(())
}

fn edits(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, "GET /books/8 HTTP/1.1\r\nHost: api.example\r\n\r\n")?;
    let field = |name: &str| answer.head.field(name);
    stage.check("X-Powered-By is removed", field("x-powered-by").is_none());
    stage.check("X-Frame-Options is added", field("x-frame-options") == Some("DENY"));
    stage.check("X-Request-Id is the request's id", field("x-request-id").is_some_and(|id| !id.is_empty()));
    Ok(())
}

fn upload(stage: &mut Stage, gateway: &mut Gateway, services: &Services) -> Result<()> {
    let mut client = Peer::connect(gateway.public)?;
    let head =
        "POST /media/upload HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n";
    stage.send(&mut client, head)?;
    for piece in ["the first piece", "the second"] {
        stage.send(&mut client, &format!("{:x}\r\n{piece}\r\n", piece.len()))?;
        let size = services.arrived.recv_timeout(e2e::patience()).context("the service has not got it")?;
        stage.check(&format!("the service has these {size} bytes before more is sent"), size == piece.len());
    }
    stage.send(&mut client, "0\r\nX-Checksum: 1dea\r\n\r\n")?;
    let answer = Message::answer(&mut client, "POST")?;
    stage.received(&answer);
    stage.check("all of it arrived, the trailer too", answer.text() == "25 bytes, X-Checksum trailer: 1dea\n");
    Ok(())
}

fn download(stage: &mut Stage, gateway: &mut Gateway, services: &Services) -> Result<()> {
    let mut client = Peer::connect(gateway.public)?;
    stage.send(&mut client, "GET /media/download HTTP/1.1\r\nHost: api.example\r\nTE: trailers\r\n\r\n")?;
    let head = Head::read(&mut client)?;
    stage.received_head(&head);
    let first = chunk(&mut client)?.context("an empty body")?;
    stage.check("the first half is here while the service holds the second back", first == b"first half, ");
    services.go_on.send(())?;
    let mut rest = Vec::new();
    while let Some(piece) = chunk(&mut client)? {
        rest.extend(piece);
    }
    let trailers = fields(&mut client)?;
    stage.check("then the second half", rest == b"second half\n");
    let has_lines = trailers.iter().any(|(name, value)| name.eq_ignore_ascii_case("x-lines") && value == "1");
    stage.check("and its trailer", has_lines);
    Ok(())
}

fn early_hints(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let mut client = Peer::connect(gateway.public)?;
    stage.send(&mut client, "GET /media/hints HTTP/1.1\r\nHost: api.example\r\n\r\n")?;
    let hints = Head::read(&mut client)?;
    stage.received_head(&hints);
    let answer = Message::answer(&mut client, "GET")?;
    stage.received(&answer);
    stage.check("the hints come first, with their Link", hints.status() == 103 && hints.field("link").is_some());
    stage.check("then the answer", status(&answer) == 200 && answer.text() == "page\n");
    Ok(())
}

fn failing(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let mut client = Peer::connect(gateway.public)?;
    let mut answered = 0;
    for _ in 0..6 {
        let answer = stage.ask_on(&mut client, "HEAD /half/1 HTTP/1.1\r\nHost: api.example\r\n\r\n")?;
        answered += usize::from(status(&answer) == 200);
    }
    stage.check("six requests, six answers, though every other one met nobody", answered == 6);
    // The gateway's control side hears of it a moment later.
    let deadline = Instant::now() + e2e::patience();
    let ejected = loop {
        let said = gateway.command(&["upstream", "list"]).output().context("starting bawab")?;
        let ejected = String::from_utf8_lossy(&said.stdout).contains("ejected");
        if ejected || Instant::now() > deadline {
            break ejected;
        }
    };
    stage.run(&mut gateway.command(&["upstream", "list"]))?;
    stage.check("the one that is not there gets no more requests", ejected);
    Ok(())
}

fn http2(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let paths: Vec<String> = (1..=8).map(|book| format!("/books/{book}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    stage.note(&format!("GET of {} at once, on one connection that begins as HTTP/2 does", paths.join(", ")));
    let to = gateway.public;
    let answers = e2e::http2::on(async { Client::connect(to).await?.get_all("api.example", &paths).await })?;
    let all = answers.iter().zip(&paths).all(|(answer, path)| answer.text().contains(&format!("GET {path} HTTP/1.1")));
    stage.check("each has its own answer", all && answers.iter().all(|answer| answer.status == 200));
    let first = answers[0].text();
    first.lines().for_each(|line| println!("  <   {line}"));
    stage.check("the service hears of it in Via: 2 bawab", first.contains("via: 2 bawab"));
    let edited = answers.iter().all(|answer| answer.field("x-frame-options") == "DENY");
    stage.check("routes and edits are those of HTTP/1", edited);
    Ok(())
}

fn upgrade(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut client = Peer::connect(gateway.public)?;
    let request = format!(
        "GET /live HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    let answer = stage.ask_on(&mut client, &request)?;
    stage.check("the service's 101 comes back", status(&answer) == 101);
    let accepted = answer.head.field("sec-websocket-accept") == Some(websocket::accept(KEY).as_str());
    stage.check("and it understood this very handshake", accepted);
    client.send(websocket::client_text("salam")?)?;
    let (_, text) = websocket::read(&mut client)?;
    stage.note(&format!("> salam  < {}", String::from_utf8_lossy(&text)));
    stage.check("frames go both ways", text == b"salam");
    client.send(websocket::client_close()?)?;
    websocket::read(&mut client)?;
    let end = client.finish()?;
    stage.check(&format!("the close ends the tunnel ({end:?})"), end == e2e::End::Eof);
    Ok(())
}

fn unrouted(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    refused(stage, gateway, "GET / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n", 404, "no_route")?;
    let request = "DELETE /books/42 HTTP/1.1\r\nHost: api.example\r\n\r\n";
    let answer = refused(stage, gateway, request, 405, "method_not_allowed")?;
    stage.check("and says what it takes", answer.head.field("allow").is_some_and(|allow| allow.contains("GET")));
    Ok(())
}

fn ambiguous(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let post = "POST /media/notes HTTP/1.1\r\nHost: api.example\r\n";
    let smuggled = format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    malformed(stage, gateway, &smuggled, "two kinds of length")?;
    let lengths = format!("{post}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd");
    malformed(stage, gateway, &lengths, "lengths that differ")?;
    let hosts = "GET /books/1 HTTP/1.1\r\nHost: api.example\r\nHost: other.example\r\n\r\n";
    malformed(stage, gateway, hosts, "two hosts")?;
    let slash = "GET /books/..%2fadmin HTTP/1.1\r\nHost: api.example\r\n\r\n";
    malformed(stage, gateway, slash, "a slash in disguise")
}

fn too_large(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    // The route takes 1 KiB: one byte more is refused by its announced length, before it is sent.
    let post =
        |length: usize| format!("POST /media/notes HTTP/1.1\r\nHost: api.example\r\nContent-Length: {length}\r\n\r\n");
    refused(stage, gateway, &post(1025), 413, "body_too_large")?;
    let mut client = Peer::connect(gateway.public)?;
    stage.send(&mut client, &post(1024))?;
    client.send([b'n'; 1024])?;
    let answer = Message::answer(&mut client, "POST")?;
    stage.check("exactly 1 KiB is taken", status(&answer) == 200);
    Ok(())
}

fn unreachable(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n\r\n");
    refused(stage, gateway, &get("/gone"), 502, "upstream_connect_failed")?;
    refused(stage, gateway, &get("/slow"), 504, "upstream_first_byte_timeout")?;
    Ok(())
}

fn access_log(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let line = gateway.access_line(|line| line["trace_id"] == TRACE_ID)?;
    stage.note(&line);
    let line: Value = serde_json::from_str(&line)?;
    stage.check("the request of the trace has its line", line["route"] == "books" && line["status"] == 200);
    stage.check("without its query", line["path"] == "/books/7");
    let line = gateway.access_line(|line| line["refusal"] == "upstream_first_byte_timeout")?;
    stage.note(&line);
    let line: Value = serde_json::from_str(&line)?;
    stage.check("a refusal says why and who ended it", line["status"] == 504 && line["ended_by"] == "upstream");
    Ok(())
}

fn admin(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n");
    for path in ["/livez", "/readyz"] {
        let answer = stage.ask_admin(&gateway.admin, &get(path))?;
        stage.check(&format!("{path} answers 200"), status(&answer) == 200);
    }
    let mut client = Peer::connect_unix(&gateway.admin)?;
    stage.send(&mut client, &get("/metrics"))?;
    let text = Message::answer(&mut client, "GET")?.text();
    let wanted = ["bawab_requests_total", "bawab_refusals_total", "bawab_connections_accepted_total"];
    for line in text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")) {
        stage.note(&format!("< {line}"));
    }
    let metrics = e2e::metrics::Metrics::parse(&text);
    let unrouted = metrics.sum("bawab_refusals_total", &[("code", "no_route")]);
    stage.check("the three requests without a route, one of them a call, are counted as such", unrouted == 3.0);
    stage.check("requests are counted", metrics.sum("bawab_requests_total", &[]) > 20.0);
    Ok(())
}

/// Sends what has to be refused with this status and code.
fn refused(stage: &mut Stage, gateway: &Gateway, request: &str, status: u16, code: &str) -> Result<Message> {
    let answer = stage.ask(gateway.public, request)?;
    let refusal = answer.refusal()?;
    stage.check(&format!("{status} {code}"), refusal == (status, code.to_owned()));
    Ok(answer)
}

/// Sends what has to be refused with 400, whatever its code.
fn malformed(stage: &mut Stage, gateway: &Gateway, request: &str, what: &str) -> Result<()> {
    let answer = stage.ask(gateway.public, request)?;
    let (status, code) = answer.refusal()?;
    stage.check(&format!("{what}: 400 {code}"), status == 400);
    Ok(())
}

fn status(answer: &Message) -> u16 {
    answer.head.status()
}
