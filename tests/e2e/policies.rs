//! How endpoints are picked: by who is busy, by who is fast, by what requests have in common, and by how long they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::message::Message;
use e2e::origin::{Serving, ok};
use e2e::{Gateway, Origin, Peer, patience};

fn named(name: &'static str) -> Serving {
    Origin::tcp().unwrap().answer(move |_| ok(name))
}

/// An origin that says its name into the channel for every request it gets, and never answers.
fn stuck(name: &'static str, told: &Sender<&'static str>) -> Serving {
    let told = Mutex::new(told.clone());
    Origin::tcp().unwrap().serve(move |peer| {
        peer.set_patience(Duration::from_secs(600));
        Message::request(peer)?;
        told.lock().unwrap().send(name)?;
        peer.finish().map(drop)
    })
}

/// Three origins that answer with their names, and a gateway in front of them with `upstream` in its table.
fn three(upstream: &str) -> (Gateway, [Serving; 3]) {
    let origins = [named("a"), named("b"), named("c")];
    let gateway = start(&format!("endpoints = [\"{{a}}\", \"{{b}}\", \"{{c}}\"]\n{upstream}"), &origins);
    (gateway, origins)
}

fn start(upstream: &str, origins: &[Serving; 3]) -> Gateway {
    let values = [("a", origins[0].address()), ("b", origins[1].address()), ("c", origins[2].address())];
    Gateway::start_with(&format!("gateway.workers = 2\n[upstream.main]\n{upstream}"), &values).unwrap()
}

fn tally(answers: impl Iterator<Item = Result<String>>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally.entry(answer.unwrap()).or_default() += 1;
    }
    tally
}

/// Who answers a request with these fields.
fn ask(gateway: &Gateway, path: &str, fields: &str) -> Result<String> {
    let answer = gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: e2e.test\r\n{fields}\r\n"))?;
    anyhow::ensure!(answer.head.status() == 200, "{}", answer.head.start);
    Ok(answer.text())
}

#[test]
fn where_nobody_is_busy_requests_are_shared_by_weight() {
    for policy in ["least_request", "peak_ewma"] {
        let origins = [named("a"), named("b"), named("c")];
        let weights = format!(
            "balance = \"{policy}\"\nendpoints = [{{ address = \"{{a}}\", weight = 3 }}, \"{{b}}\", \
             {{ address = \"{{c}}\", weight = 0 }}]"
        );
        let gateway = start(&weights, &origins);
        let tally = tally((0..200).map(|_| ask(&gateway, "/", "")));
        assert!(!tally.contains_key("c") && tally["b"] > 0, "{policy}: {tally:?}");
        // Which of two idle ones is faster is chance.
        assert!(policy != "least_request" || (110..190).contains(&tally["a"]), "{policy}: {tally:?}");
    }
}

#[test]
fn who_is_used_later_gets_nothing_while_others_serve() {
    let origins = [named("a"), named("b"), named("c")];
    let gateway = start("endpoints = [\"{a}\", { address = \"{b}\", priority = 1 }, \"{c}\"]", &origins);
    let tally = tally((0..20).map(|_| ask(&gateway, "/", "")));
    assert_eq!(tally.keys().collect::<Vec<_>>(), ["a", "c"]);
}

/// Every value of `requests` goes to one endpoint, again and again, and all together go to all three.
fn sticks(gateway: &Gateway, what: &str, requests: impl Fn(usize) -> (String, String)) {
    let asked = |nth: usize| {
        let (path, fields) = requests(nth);
        ask(gateway, &path, &fields).unwrap()
    };
    let first: Vec<String> = (0..40).map(asked).collect();
    for _ in 0..2 {
        assert_eq!((0..40).map(asked).collect::<Vec<_>>(), first, "{what}");
    }
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{what}: {first:?}");
}

#[test]
fn what_requests_have_in_common_keeps_them_together() {
    for policy in ["maglev", "ring_hash"] {
        let on = |on: &str| three(&format!("balance = {{ policy = \"{policy}\", on = \"{on}\", load_max = 3 }}"));
        let (gateway, _origins) = on("header:X-User");
        sticks(&gateway, policy, |nth| (format!("/{}", nth % 7), format!("x-user: user-{nth}\r\n")));
        // Without it anybody answers.
        let without = tally((0..60).map(|_| ask(&gateway, "/", "")));
        assert_eq!(without.len(), 3, "{policy}: {without:?}");

        let (gateway, _origins) = on("cookie:session");
        sticks(&gateway, policy, |nth| ("/".to_owned(), format!("Cookie: a=b; session={nth}\r\n")));

        let (gateway, _origins) = on("path");
        sticks(&gateway, policy, |nth| (format!("/books/{nth}?page={}", nth * 3), String::new()));
    }
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let (gateway, _origins) = three("balance = { policy = \"maglev\", on = \"client\" }");
    let address = gateway.address_of("main").unwrap();
    let ask = |host: u8| -> Result<String> {
        let mut client = Peer::connect_from([127, 0, 9, host].into(), address)?;
        client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n")?;
        Ok(Message::answer(&mut client, "GET")?.text())
    };
    let first: Vec<String> = (1..=40).map(|host| ask(host).unwrap()).collect();
    assert_eq!((1..=40).map(|host| ask(host).unwrap()).collect::<Vec<_>>(), first);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{first:?}");
}

#[test]
fn when_an_endpoint_goes_the_keys_of_others_stay() {
    let balance = "balance = { policy = \"ring_hash\", on = \"path\" }";
    let (gateway, _origins) = three(balance);
    let all = || (0..60).map(|nth| ask(&gateway, &format!("/{nth}"), "").unwrap()).collect::<Vec<_>>();
    let before = all();
    gateway
        .rewrite(&format!("gateway.workers = 2\n[upstream.main]\nendpoints = [\"{{a}}\", \"{{b}}\"]\n{balance}"))
        .unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    let after = all();
    for (before, after) in before.iter().zip(&after) {
        assert!(after != "c" && (before == "c" || before == after), "{before} became {after}");
    }
}

#[test]
fn least_request_leaves_out_an_endpoint_that_hangs() {
    let (told, heard) = channel();
    let down = stuck("down", &told);
    let up = {
        let told = Mutex::new(told);
        Origin::tcp().unwrap().answer(move |_| {
            // The case may be over.
            let _ = told.lock().unwrap().send("up");
            ok("up")
        })
    };
    let values = [("down", down.address()), ("up", up.address())];
    let upstream = "[upstream.main]\nendpoints = [\"{down}\", \"{up}\"]\nbalance = \"least_request\"";
    let gateway = Gateway::start_with(upstream, &values).unwrap();
    let mut hanging = None;
    // Idle, either of them may be drawn.
    for _ in 0..1000 {
        let mut client = gateway.client().unwrap();
        client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
        match heard.recv_timeout(patience()).unwrap() {
            "up" => assert_eq!(Message::answer(&mut client, "GET").unwrap().text(), "up"),
            _ => {
                hanging = Some(client);
                break;
            }
        }
    }
    assert!(hanging.is_some(), "nobody was sent to the one that hangs");
    for _ in 0..30 {
        assert_eq!(ask(&gateway, "/", "").unwrap(), "up");
    }
}

#[test]
fn peak_ewma_leaves_the_slow_and_the_failing() {
    let slow = |_: &Message| {
        std::thread::park_timeout(Duration::from_millis(300));
        ok("other")
    };
    let failing = |_: &Message| b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nother".to_vec();
    for other in [Origin::tcp().unwrap().answer(slow), Origin::tcp().unwrap().answer(failing)] {
        let fast = named("fast");
        let values = [("fast", fast.address()), ("other", other.address())];
        let upstream = "[upstream.main]\nendpoints = [\"{other}\", \"{fast}\"]\nbalance = \"peak_ewma\"";
        let gateway = Gateway::start_with(upstream, &values).unwrap();
        let tally = tally((0..60).map(|_| Ok(gateway.get("/")?.text())));
        // Each has to answer once to be known. One in thirty by chance would be two more.
        assert!((1..=3).contains(&tally["other"]), "{tally:?}");
    }
}

/// Sends `count` requests for one path, one after the other, to origins that never answer: who got how many.
fn pile_up(balance: &str, count: usize) -> Result<BTreeMap<&'static str, usize>> {
    let (told, heard): (_, Receiver<&'static str>) = channel();
    let origins = [stuck("a", &told), stuck("b", &told), stuck("c", &told)];
    let gateway = start(&format!("endpoints = [\"{{a}}\", \"{{b}}\", \"{{c}}\"]\n{balance}"), &origins);
    let mut clients = Vec::new();
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        let mut client = gateway.client()?;
        client.send("GET /hot HTTP/1.1\r\nHost: e2e.test\r\n\r\n")?;
        clients.push(client);
        *counts.entry(heard.recv_timeout(patience()).context("no origin got the request")?).or_default() += 1;
    }
    Ok(counts)
}

#[test]
fn a_hot_key_spills_over_where_a_bound_is_set() {
    for policy in ["maglev", "ring_hash"] {
        let unbound = pile_up(&format!("balance = {{ policy = \"{policy}\", on = \"path\" }}"), 6).unwrap();
        assert_eq!(unbound.values().copied().collect::<Vec<_>>(), [6], "{policy}: {unbound:?}");
        let bound = format!("balance = {{ policy = \"{policy}\", on = \"path\", load_max = 1.25 }}");
        let bound = pile_up(&bound, 12).unwrap();
        // 1.25 times a third of twelve.
        assert!(bound.len() == 3 && bound.values().all(|&count| count <= 5), "{policy}: {bound:?}");
    }
}

#[test]
fn a_new_endpoint_starts_slowly_and_comes_to_its_share() {
    const SLOW_START: Duration = Duration::from_secs(3);
    let origins = [named("a"), named("b"), named("c")];
    let upstream = |endpoints: &str| format!("slow_start = \"3s\"\nendpoints = [{endpoints}]");
    let gateway = start(&upstream("\"{a}\", \"{b}\""), &origins);
    // Until those that are there have begun for good.
    let ready = Instant::now();
    while ready.elapsed() < SLOW_START {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let overrides = format!("gateway.workers = 2\n[upstream.main]\n{}", upstream("\"{a}\", \"{b}\", \"{c}\""));
    gateway.rewrite(&overrides).unwrap();
    let begun = Instant::now();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    let few = tally((0..60).map(|_| ask(&gateway, "/", "")));
    // What it can weigh by now at most, beside two that weigh 1.
    let weight = (0.1 + 0.9 * begun.elapsed().as_secs_f64() / SLOW_START.as_secs_f64()).min(1.0);
    let due = 60.0 * weight / (2.0 + weight);
    assert!((few.get("c").copied().unwrap_or(0) as f64) < due + 5.0, "{few:?}, due {due}");
    let deadline = Instant::now() + patience();
    loop {
        let tally = tally((0..30).map(|_| ask(&gateway, "/", "")));
        if tally.get("c").is_some_and(|&count| count >= 9) {
            return;
        }
        assert!(Instant::now() < deadline, "it never came to its share: {tally:?}");
    }
}
