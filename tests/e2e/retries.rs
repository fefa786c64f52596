//! Requests that are sent again (`retry`) and upstreams that are asked no more than they may be (`limits`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::http2::{Client, on};
use e2e::message::Message;
use e2e::origin::{Refusing, Serving, ok};
use e2e::{Gateway, Origin, Peer};
use http::Request;

/// What a service does with a request.
enum Act {
    Answer(Vec<u8>),
    /// Says this and hangs up.
    Cut(&'static str),
    /// Says nothing until the gateway hangs up.
    Hang,
}

/// Two services that do what `act` says to the nth request that either of them gets.
struct Pair {
    gateway: Gateway,
    _services: [Serving; 2],
    seen: Arc<Mutex<Vec<(char, Message)>>>,
}

const CLOSED: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";

fn busy() -> Act {
    Act::Answer(CLOSED.into())
}

/// `config` begins with keys of the upstream.
fn pair(config: &str, act: impl Fn(usize, &Message) -> Act + Send + Sync + 'static) -> Pair {
    let seen = Arc::<Mutex<Vec<(char, Message)>>>::default();
    let act = Arc::new(act);
    let services = ['a', 'b'].map(|name| {
        let (seen, act) = (seen.clone(), act.clone());
        Origin::tcp().unwrap().serve(move |peer| {
            peer.set_patience(Duration::from_secs(600));
            while let Ok(request) = Message::request(peer) {
                let nth = {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.push((name, request.clone()));
                    seen.len() - 1
                };
                match act(nth, &request) {
                    Act::Answer(answer) => peer.send(answer)?,
                    Act::Cut(answer) => return peer.send(answer),
                    Act::Hang => drop(peer.rest()),
                }
            }
            Ok(())
        })
    });
    let config = format!("[upstream.main]\nendpoints = [\"{{a}}\", \"{{b}}\"]\n{config}");
    let values = [("a", services[0].address()), ("b", services[1].address())];
    let gateway = Gateway::start_with(&config, &values).unwrap();
    Pair { gateway, _services: services, seen }
}

impl Pair {
    /// Who was asked since the last call.
    fn asked(&self) -> Vec<(char, Message)> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn retries(&self, cause: &str) -> f64 {
        self.gateway.metrics().unwrap().sum("bawab_upstream_retries_total", &[("upstream", "main"), ("cause", cause)])
    }

    /// Attempts, what was tried again for, and why not, of the exchange on `path`.
    fn logged(&self, path: &str) -> (u64, String, String) {
        let line = self.gateway.access_log().unwrap().of_path(path).unwrap();
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (line["attempts"].as_u64().unwrap_or_default(), text("retried_for"), text("not_retried"))
    }
}

fn logged(attempts: u64, retried_for: &str, not_retried: &str) -> (u64, String, String) {
    (attempts, retried_for.to_owned(), not_retried.to_owned())
}

/// Bytes in which every piece shows where it belongs.
fn body(bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|at| b"0123456789abcdefghijklmnopqrstuvwxyz"[(at.wrapping_mul(0x9e37_79b9) >> 16) as usize % 36])
        .collect()
}

fn put(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

#[test]
fn a_status_is_answered_by_another_endpoint_and_filters_see_one_answer() {
    let config = r#"
        retry = { on = ["503"] }
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        compression = true
        headers = { response = { add = { x-seen = "once" } } }
    "#;
    let pair = pair(config, |nth, _| match nth {
        0 => busy(),
        _ => {
            let text = "text ".repeat(1000);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", text.len());
            Act::Answer((head + &text).into_bytes())
        }
    });
    let answer = pair.gateway.ask("GET /x HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.head.all("x-seen"), ["once"]);
    assert_eq!(answer.head.all("content-encoding"), ["gzip"]);
    let asked = pair.asked();
    assert!(asked.len() == 2 && asked[0].0 != asked[1].0, "{asked:?}");
    assert_eq!(asked[0].1.head, asked[1].1.head, "the same request");
    assert_eq!(pair.retries("status"), 1.0);
    assert_eq!(pair.logged("/x"), logged(2, "503", ""));
}

#[test]
fn an_answer_that_is_given_up_leaves_a_connection_that_is_used_again_or_closed() {
    // Two answers to be given up: one that is here whole, and one that never ends.
    let long = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000000\r\n\r\nbusy";
    let pair = pair("retry = { budget_min = 100 }", move |_, request| match request.head.start.split(' ').nth(1) {
        Some("/ok") => Act::Answer(ok("ok")),
        Some("/long") => Act::Answer(long.into()),
        _ => busy(),
    });
    for _ in 0..3 {
        assert_eq!(pair.gateway.get("/short").unwrap().text(), "busy");
    }
    assert_eq!(pair.asked().len(), 6);
    let metrics = pair.gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_connects_total", &[]), 2.0, "one each, kept");
    // The second one is passed on, and the client leaves in its middle: nothing of either stays behind.
    let mut client = pair.gateway.client().unwrap();
    client.send("GET /long HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    client.take_through(b"busy").unwrap();
    client.reset().unwrap();
    let line = pair.logged("/long");
    assert_eq!(line, logged(2, "503", "attempts"));
    for _ in 0..4 {
        assert_eq!(pair.gateway.get("/ok").unwrap().text(), "ok");
    }
}

#[test]
fn a_service_that_hangs_up_is_replaced_before_the_first_byte_and_not_after_it() {
    let pair = pair("pool = { idle_max = 0 }\nretry = { on = [\"reset\"], budget_min = 100 }", |nth, request| {
        match (nth, request.head.start.split(' ').nth(1).unwrap_or_default()) {
            (0, "/before") => Act::Cut(""),
            (0, "/inside") => Act::Cut("HTTP/1.1 200 OK\r\nContent-Le"),
            (0, _) => Act::Cut("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
            _ => Act::Answer(ok("whole")),
        }
    });
    for path in ["/before", "/inside"] {
        assert_eq!(pair.gateway.get(path).unwrap().text(), "whole");
        assert_eq!((pair.asked().len(), pair.logged(path)), (2, logged(2, "reset", "")));
    }
    assert!(pair.gateway.get("/after").is_err(), "a broken answer looks broken");
    assert_eq!((pair.asked().len(), pair.logged("/after")), (1, logged(1, "", "")));
    assert_eq!(pair.retries("reset"), 2.0);
}

#[test]
fn an_attempt_has_its_own_time() {
    let config = r#"
        retry = { per_try = "200ms" }
        [[route]]
        path = "/none"
        upstream = "main"
        auth = "none"
        retry = { on = ["reset"], per_try = "200ms" }
    "#;
    let config = format!("{config}\n[[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"");
    let pair = pair(&config, |nth, _| if nth == 0 { Act::Hang } else { Act::Answer(ok("quick")) });
    assert_eq!(pair.gateway.get("/x").unwrap().text(), "quick");
    let asked = pair.asked();
    assert!(asked.len() == 2 && asked[0].0 != asked[1].0, "{asked:?}");
    assert_eq!(pair.logged("/x"), logged(2, "timeout", ""));
    let refusal = pair.gateway.get("/none").unwrap().refusal().unwrap();
    assert_eq!(refusal, (504, "upstream_first_byte_timeout".to_owned()));
    assert_eq!((pair.asked().len(), pair.logged("/none")), (1, logged(1, "", "")));
}

#[test]
fn a_post_is_sent_again_only_where_that_is_written() {
    let config = r#"
        retry = { on = ["503"] }
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        [[route]]
        path = "/written"
        upstream = "main"
        auth = "none"
        retry = { on = ["503"], methods = ["POST"] }
    "#;
    let pair = pair(config, |nth, _| if nth == 0 { busy() } else { Act::Answer(ok("ok")) });
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(pair.gateway.ask(post("/plain")).unwrap().head.status(), 503);
    assert_eq!((pair.asked().len(), pair.logged("/plain")), (1, logged(1, "", "method")));
    assert_eq!(pair.gateway.ask(post("/written")).unwrap().head.status(), 200);
    let asked = pair.asked();
    assert_eq!(asked.iter().map(|(_, request)| request.text()).collect::<Vec<_>>(), ["abc", "abc"]);
    assert_eq!(pair.gateway.get("/written").unwrap().head.status(), 503, "only what the list names");
}

#[test]
fn a_body_is_sent_again_to_the_byte_up_to_its_bound_and_not_beyond() {
    let pair = pair("retry = { on = [\"503\"], body_bytes = \"100KiB\", budget_min = 100 }", |nth, _| {
        if nth == 0 { busy() } else { Act::Answer(ok("ok")) }
    });
    let bound = 100 * 1024;
    let check = |name: &str, pieces: &[Vec<u8>], sent: &[u8], expected: u16| {
        let mut client = pair.gateway.client().unwrap();
        for piece in pieces {
            client.send(piece).unwrap();
        }
        assert_eq!(Message::answer(&mut client, "PUT").unwrap().head.status(), expected, "{name}");
        let asked = pair.asked();
        assert_eq!(asked.len(), if expected == 200 { 2 } else { 1 }, "{name}");
        for (_, request) in &asked {
            assert!(request.body == sent, "{name}: {} bytes", request.body.len());
        }
        if let [(_, first), (_, second)] = &asked[..] {
            assert_eq!(first.trailers, second.trailers, "{name}");
        }
        let denied = if expected == 200 { logged(2, "503", "") } else { logged(1, "", "body") };
        assert_eq!(pair.logged(name), denied, "{name}");
    };
    for (name, len, expected) in [("/small", 10, 200), ("/most", bound, 200), ("/more", bound + 1, 503)] {
        let sent = body(len);
        check(name, &[put(name, &sent)], &sent, expected);
    }
    for (name, len, expected) in [("/chunks", bound, 200), ("/chunks-more", bound + 1, 503)] {
        let sent = body(len);
        let head = format!("PUT {name} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        let mut pieces = vec![head.into_bytes()];
        for chunk in sent.chunks(30_000) {
            pieces.push([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        pieces.push(b"0\r\nX-Sum: 7\r\n\r\n".to_vec());
        check(name, &pieces, &sent, expected);
    }
}

/// An upstream of two endpoints that the case plays itself, whichever is asked first.
struct Played {
    gateway: Gateway,
    origins: [Origin; 2],
}

impl Played {
    fn new(config: &str) -> Played {
        let origins = [Origin::tcp().unwrap(), Origin::tcp().unwrap()];
        let config = format!("[upstream.main]\nendpoints = [\"{{a}}\", \"{{b}}\"]\n{config}");
        let values = [("a", origins[0].address()), ("b", origins[1].address())];
        Played { gateway: Gateway::start_with(&config, &values).unwrap(), origins }
    }

    /// The next connection of the gateway.
    fn accept(&self) -> Peer {
        let sockets = [self.origins[0].socket(), self.origins[1].socket()];
        let ready = e2e::origin::readable(&sockets, e2e::patience()).unwrap();
        let at = ready.iter().position(|&ready| ready).expect("a connection");
        self.origins[at].accept().unwrap()
    }
}

#[test]
fn an_upload_that_is_cut_goes_on_elsewhere_from_its_beginning() {
    let played = Played::new("pool = { idle_max = 0 }\nretry = { on = [\"reset\", \"503\"], budget_min = 1000 }");
    let sent = body(50_000);
    // The rest of the body comes when the first service was given up, or at the very moment.
    for (nth, (early, waits)) in
        [(false, true), (true, true), (false, false), (true, false)].iter().cycle().take(16).enumerate()
    {
        let name = format!("/{nth}");
        let mut client = played.gateway.client().unwrap();
        let request = put(&name, &sent);
        let (beginning, rest) = request.split_at(20_000);
        client.send(beginning).unwrap();
        let mut first = played.accept();
        first.take_through(b"\r\n\r\n").unwrap();
        first.take(10_000).unwrap();
        match (early, waits) {
            (_, true) => {
                match early {
                    false => first.reset().unwrap(),
                    true => {
                        first.send(CLOSED).unwrap();
                        // Nothing more is sent to it: it is given up.
                        first.rest().unwrap();
                    }
                }
                client.send(rest).unwrap();
            }
            (_, false) => std::thread::scope(|scope| {
                // Many pieces, so that one of them is on its way whenever the attempt ends.
                scope.spawn(|| rest.chunks(100).for_each(|piece| client.send(piece).unwrap()));
                match early {
                    false => first.reset().unwrap(),
                    true => first.send(CLOSED).unwrap(),
                }
            }),
        }
        let mut second = played.accept();
        let request = Message::request(&mut second).unwrap();
        assert!(request.body == sent, "{name}: {} bytes", request.body.len());
        second.send(ok("whole")).unwrap();
        assert_eq!(Message::answer(&mut client, "PUT").unwrap().text(), "whole", "{name}");
        // The client's connection goes on as well.
        client.send("GET /next HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut third = played.accept();
        assert_eq!(Message::request(&mut third).unwrap().head.start, "GET /next HTTP/1.1", "{name}");
        third.send(ok("next")).unwrap();
        assert_eq!(Message::answer(&mut client, "GET").unwrap().text(), "next", "{name}");
        let line = played.gateway.access_log().unwrap().of_path(&name).unwrap();
        assert_eq!((line["attempts"].as_u64(), line["request_bytes"].as_u64()), (Some(2), Some(50_000)), "{name}");
    }
}

#[test]
fn a_client_that_asks_before_it_sends_is_told_and_not_waited_for() {
    let played = Played::new("retry = { on = [\"503\"] }");
    let mut client = played.gateway.client().unwrap();
    client.send("PUT /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").unwrap();
    let mut first = played.accept();
    first.take_through(b"\r\n\r\n").unwrap();
    first.send(CLOSED).unwrap();
    assert_eq!(Message::answer(&mut client, "PUT").unwrap().text(), "busy");
    let line = played.gateway.access_log().unwrap().of_path("/x").unwrap();
    assert_eq!((line["attempts"].as_u64(), line["not_retried"].as_str()), (Some(1), Some("body")));
}

#[test]
fn a_budget_holds_when_everything_fails() {
    let config = "retry = { on = [\"503\"], attempts_max = 5, budget = \"20%\", budget_min = 3, back_off = \"1ms\" }";
    let pair = pair(config, |_, _| busy());
    let (clients, requests) = (8, 60);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = pair.gateway.client().unwrap();
                for _ in 0..requests {
                    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                    assert_eq!(Message::answer(&mut client, "GET").unwrap().text(), "busy");
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let all = f64::from(clients * requests);
    let asked = pair.asked().len() as f64;
    assert!(asked <= all * 1.2 + 3.0 * (seconds + 1.0), "{asked} of {all} in {seconds} s");
    assert!(asked >= all * 1.15, "{asked} of {all}: what the budget allows is used");
    let metrics = pair.gateway.metrics().unwrap();
    let main = [("upstream", "main")];
    assert_eq!(metrics.sum("bawab_upstream_retries_total", &main), asked - all);
    let over = metrics.sum("bawab_upstream_retries_over_budget_total", &main);
    let exhausted = metrics.sum("bawab_upstream_retries_exhausted_total", &main);
    assert_eq!(over + exhausted, all, "every request ended for one of the two");
    assert!(over > all / 2.0, "{over}");
}

#[test]
fn a_client_that_leaves_during_a_pause_ends_it() {
    let config = "retry = { on = [\"503\"], back_off = \"30s\", back_off_max = \"30s\" }";
    let pair = pair(config, |_, _| busy());
    let mut client = pair.gateway.client().unwrap();
    client.send("GET /gone HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let main = [("upstream", "main")];
    let asked = |metrics: &e2e::metrics::Metrics| metrics.sum("bawab_upstream_requests_total", &main) == 1.0;
    pair.gateway.metrics_when("one request", asked).unwrap();
    let begun = Instant::now();
    // One that closes in order may still read: only a reset says that nobody does.
    client.reset().unwrap();
    let line = pair.gateway.access_log().unwrap().of_path("/gone").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
    assert_eq!((line["refusal"].as_str(), line["attempts"].as_u64()), (Some("client_gone"), Some(1)));
    assert_eq!((pair.asked().len(), pair.retries("status")), (1, 0.0));
}

#[test]
fn a_pause_a_service_asks_for_is_made_or_the_answer_is_passed_on() {
    let config = "retry = { on = [\"503\", \"429\"], budget_min = 100, back_off_max = \"1s\" }";
    let pair = pair(config, |nth, request| {
        let path = request.head.start.split(' ').nth(1).unwrap_or_default();
        let (status, seconds) = path[1..].split_once('/').unwrap_or_default();
        match nth {
            0 => Act::Answer(
                format!("HTTP/1.1 {status} No\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
            ),
            _ => Act::Answer(ok("later")),
        }
    });
    for (path, expected, least) in [("/503/0", 200, 0), ("/503/1", 200, 1), ("/429/1", 200, 1), ("/503/2", 503, 0)] {
        let begun = Instant::now();
        let answer = pair.gateway.get(path).unwrap();
        assert_eq!(answer.head.status(), expected, "{path}");
        assert!(begun.elapsed() >= Duration::from_secs(least), "{path}: {:?}", begun.elapsed());
        pair.asked();
    }
    assert_eq!(pair.logged("/503/2"), logged(1, "", "pause"));
}

#[test]
fn a_client_of_http2_has_the_same() {
    let pair =
        pair("pool = { idle_max = 0 }\nretry = { on = [\"503\", \"reset\"], budget_min = 100 }", |nth, request| {
            match nth {
                0 if request.head.start.contains("/reset") => Act::Cut(""),
                0 => busy(),
                _ => Act::Answer(ok("ok")),
            }
        });
    let address = pair.gateway.address_of("main").unwrap();
    on(async {
        let client = Client::connect(address).await.unwrap();
        assert_eq!(client.get("/get").await.unwrap().text(), "ok");
        assert_eq!(pair.asked().len(), 2);
        for path in ["/status", "/reset"] {
            // The client leaves the length open, and sends more than a window.
            let sent = body(64 * 1024);
            let request = Request::put(format!("http://e2e.test{path}")).body(()).unwrap();
            let answer = client.send(request, Bytes::from(sent.clone()), None).await.unwrap();
            assert_eq!(answer.text(), "ok");
            let asked = pair.asked();
            assert_eq!(asked.len(), 2, "{path}");
            assert!(asked.iter().all(|(_, request)| request.body == sent), "{path}");
        }
    });
    assert_eq!(pair.logged("/reset"), logged(2, "reset", ""));
}

#[test]
fn an_upgrade_is_never_sent_again() {
    let config = r#"
        retry = { on = ["503", "reset"] }
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        upgrade = ["websocket"]
    "#;
    let pair = pair(config, |_, request| if request.head.start.contains("/cut") { Act::Cut("") } else { busy() });
    for (path, expected) in [("/busy", 503), ("/cut", 502)] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        assert_eq!(pair.gateway.ask(request).unwrap().head.status(), expected, "{path}");
        assert_eq!(pair.asked().len(), 1, "{path}");
    }
}

#[test]
fn a_mirror_gets_one_copy_of_what_was_sent_twice() {
    let shadow = Arc::new(Mutex::new(Vec::new()));
    let copies = shadow.clone();
    let mirror = Origin::tcp().unwrap().answer(move |request| {
        copies.lock().unwrap().push(request.body.clone());
        ok("")
    });
    let config = format!(
        r#"
        retry = {{ on = ["503"] }}
        [upstream.shadow]
        endpoints = ["{}"]
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        mirror = [{{ upstream = "shadow" }}]
        "#,
        mirror.address()
    );
    let pair = pair(&config, |nth, _| if nth == 0 { busy() } else { Act::Answer(ok("ok")) });
    let sent = body(40_000);
    assert_eq!(pair.gateway.ask(put("/x", &sent)).unwrap().text(), "ok");
    assert_eq!(pair.asked().len(), 2);
    let answered = |metrics: &e2e::metrics::Metrics| {
        metrics.sum("bawab_upstream_requests_total", &[("upstream", "shadow")]) == 1.0
    };
    pair.gateway.metrics_when("one copy", answered).unwrap();
    let deadline = Instant::now() + e2e::patience();
    while shadow.lock().unwrap().is_empty() && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let copies = shadow.lock().unwrap().clone();
    assert!(copies.len() == 1 && copies[0] == sent, "{} copies", copies.len());
}

#[test]
fn a_body_that_is_held_is_sent_again_whatever_its_length() {
    let config = r#"
        retry = { on = ["503"], body_bytes = "1KiB" }
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        buffer_request = "1MiB"
    "#;
    let pair = pair(config, |nth, _| if nth == 0 { busy() } else { Act::Answer(ok("ok")) });
    let sent = body(300_000);
    assert_eq!(pair.gateway.ask(put("/x", &sent)).unwrap().text(), "ok");
    assert!(pair.asked().iter().all(|(_, request)| request.body == sent));
}

#[test]
fn a_refused_connection_is_tried_again_where_that_is_written() {
    let down = Refusing::new().unwrap();
    let config = "[upstream.main]\nretry = { on = [\"connect\"], attempts_max = 4, back_off = \"10ms\", budget_min = 0, budget = \"0%\" }";
    let gateway = Gateway::start(config, down.address()).unwrap();
    let answer = gateway.ask("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(answer.refusal().unwrap(), (502, "upstream_connect_failed".to_owned()));
    let line = gateway.access_log().unwrap().of_path("/x").unwrap();
    assert_eq!((line["attempts"].as_u64(), line["not_retried"].as_str()), (Some(4), Some("attempts")));
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_retries_total", &[("cause", "connect")]), 3.0, "outside the budget");
    assert_eq!(metrics.sum("bawab_upstream_retries_exhausted_total", &[]), 1.0);
}

#[test]
fn a_kept_connection_that_was_closed_costs_no_attempt() {
    // The first request is answered and its connection kept; the second finds it closed, then one that is busy, then one that
    // answers: with two attempts in all, because the first was none.
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[upstream.main]\nretry = { on = [\"503\"] }", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET /one HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut kept = origin.accept().unwrap();
    Message::request(&mut kept).unwrap();
    kept.send(ok("one")).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().text(), "one");
    client.send("GET /two HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    Message::request(&mut kept).unwrap();
    drop(kept);
    let mut second = origin.accept().unwrap();
    Message::request(&mut second).unwrap();
    second.send(CLOSED).unwrap();
    let mut third = origin.accept().unwrap();
    Message::request(&mut third).unwrap();
    third.send(ok("two")).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().text(), "two");
    let line = gateway.access_log().unwrap().of_path("/two").unwrap();
    assert_eq!((line["attempts"].as_u64(), line["retried_for"].as_str()), (Some(3), Some("503")));
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_retries_total", &[("cause", "stale")]), 1.0);
    assert_eq!(metrics.sum("bawab_upstream_stale_connections_total", &[]), 1.0);
}

#[test]
fn an_upstream_is_asked_no_more_at_one_time_than_it_may() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[upstream.main]\nlimits = { requests_max = 1 }", origin.address()).unwrap();
    let mut first = gateway.client().unwrap();
    first.send("GET /one HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Message::request(&mut upstream).unwrap();
    let refused = gateway.get("/two").unwrap();
    assert_eq!(refused.refusal().unwrap(), (503, "upstream_overloaded".to_owned()));
    assert_eq!(refused.head.field("retry-after"), Some("1"));
    upstream.send(ok("one")).unwrap();
    assert_eq!(Message::answer(&mut first, "GET").unwrap().text(), "one");
    first.send("GET /three HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    Message::request(&mut upstream).unwrap();
    upstream.send(ok("three")).unwrap();
    assert_eq!(Message::answer(&mut first, "GET").unwrap().text(), "three");
    let metrics = gateway.metrics().unwrap();
    let limit = |limit| metrics.sum("bawab_upstream_overloaded_total", &[("upstream", "main"), ("limit", limit)]);
    assert_eq!((limit("requests_max"), limit("endpoint_requests_max")), (1.0, 0.0));
    assert_eq!(metrics.sum("bawab_refusals_total", &[("code", "upstream_overloaded")]), 1.0);
}

#[test]
fn an_endpoint_that_has_enough_is_passed_over() {
    let played = Played::new("limits = { endpoint_requests_max = 1 }\npool = { idle_max = 0 }");
    let ask = |path: &str| {
        let mut client = played.gateway.client().unwrap();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        client
    };
    let mut one = ask("/one");
    let mut first = played.accept();
    Message::request(&mut first).unwrap();
    // Whatever turn it is, the other one is asked.
    for nth in 0..3 {
        let mut client = ask(&format!("/{nth}"));
        let mut second = played.accept();
        assert_ne!(second.local_addr(), first.local_addr(), "{nth}");
        Message::request(&mut second).unwrap();
        if nth == 2 {
            assert_eq!(played.gateway.get("/full").unwrap().refusal().unwrap().1, "upstream_overloaded");
        }
        second.send(ok("x")).unwrap();
        assert_eq!(Message::answer(&mut client, "GET").unwrap().text(), "x");
    }
    first.send(ok("one")).unwrap();
    assert_eq!(Message::answer(&mut one, "GET").unwrap().text(), "one");
    let metrics = played.gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_overloaded_total", &[("limit", "endpoint_requests_max")]), 1.0);
}
