//! Who is well: checks, ejections, draining, and what of it survives.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use e2e::message::{Head, Message};
use e2e::origin::{Refusing, Serving, ok, readable};
use e2e::{Gateway, Origin, Peer, binary, patience};
use rustix::process::Signal;
use serde_json::Value;

/// Checks as fast as they may be made.
const QUICK: &str = "interval = \"100ms\", timeout = \"2s\", unhealthy_after = 2, healthy_after = 2";

/// A service that answers checks with one status and requests with another, each of which may change.
struct Service {
    serving: Serving,
    health: Arc<AtomicU16>,
    status: Arc<AtomicU16>,
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Service {
    fn at(origin: Origin, name: &'static str) -> Service {
        let (health, status) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let (checked, asked) = (health.clone(), status.clone());
        let serving = origin.answer(move |request| match request.head.start.contains(" /healthz ") {
            true => answer(checked.load(Ordering::Relaxed), ""),
            false => answer(asked.load(Ordering::Relaxed), name),
        });
        Service { serving, health, status }
    }

    fn new(name: &'static str) -> Service {
        Service::at(Origin::tcp().unwrap(), name)
    }

    fn address(&self) -> &str {
        self.serving.address()
    }

    fn turns(&self, health: u16) {
        self.health.store(health, Ordering::Relaxed);
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }
}

/// A gateway before two endpoints, `a` and `b`; `keys` are of their upstream.
fn before(keys: &str, a: &str, b: &str) -> Gateway {
    let config = format!("[upstream.main]\nendpoints = [\"{{a}}\", \"{{b}}\"]\n{keys}");
    Gateway::start_with(&config, &[("a", a), ("b", b)]).unwrap()
}

/// How often each service answered, and with what, of `count` requests.
fn tally(gateway: &Gateway, count: usize) -> BTreeMap<(u16, String), usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        let answer = gateway.get("/").unwrap();
        let text = answer.text();
        *tally.entry((answer.head.status(), text)).or_default() += 1;
    }
    tally
}

fn only(status: u16, name: &str, count: usize) -> BTreeMap<(u16, String), usize> {
    BTreeMap::from([((status, name.to_owned()), count)])
}

fn both(count: usize) -> BTreeMap<(u16, String), usize> {
    BTreeMap::from([((200, "a".to_owned()), count), ((200, "b".to_owned()), count)])
}

/// Sends requests until an event was told `times` times.
fn until(gateway: &Gateway, message: &str, times: usize) {
    let deadline = Instant::now() + patience();
    while gateway.said().matches(message).count() < times {
        assert!(Instant::now() < deadline, "`{message}` was never told: {}", gateway.said());
        gateway.get("/").unwrap();
    }
}

/// How the endpoint at `address` stands, by the admin listener.
fn endpoint(gateway: &Gateway, address: &str) -> Value {
    let said: Value = serde_json::from_str(&gateway.admin("/upstreams").unwrap().text()).unwrap();
    let endpoints = said["upstreams"][0]["endpoints"].as_array().unwrap();
    endpoints.iter().find(|endpoint| endpoint["address"] == address).unwrap().clone()
}

fn state(gateway: &Gateway, address: &str) -> String {
    endpoint(gateway, address)["state"].as_str().unwrap().to_owned()
}

/// A request that came to `origin` and is not answered yet: the client's connection and the service's.
fn running_at(gateway: &Gateway, origin: &Origin) -> (Peer, Peer) {
    loop {
        let mut client = gateway.client().unwrap();
        client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
        if readable(&[origin.socket(), client.socket()], patience()).unwrap()[0] {
            let mut running = origin.accept().unwrap();
            Head::read(&mut running).unwrap();
            return (client, running);
        }
    }
}

/// `bawab upstream` with these words, and what it ended with and said.
fn upstream(gateway: &Gateway, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary::path());
    command.arg("upstream").args(words).arg("--config").arg(gateway.config_file());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.into_owned())
}

#[test]
fn an_endpoint_whose_check_turns_red_gets_nothing_until_it_is_green() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let gateway = before(&format!("health = {{ http = \"/healthz\", {QUICK} }}"), a.address(), b.address());
    gateway
        .metrics_when("checks that passed", |metrics| {
            metrics.sum("bawab_upstream_health_checks_total", &[("outcome", "passed")]) >= 4.0
        })
        .unwrap();
    assert_eq!(tally(&gateway, 10), both(5));
    a.turns(503);
    let event = gateway.event("an endpoint is unhealthy").unwrap();
    assert_eq!((&event["endpoint"], &event["seen"]), (&a.address().into(), &"status 503".into()), "{event}");
    assert_eq!(event["checks"], 2);
    assert_eq!(tally(&gateway, 10), only(200, "b", 10));
    let shown = endpoint(&gateway, a.address());
    assert_eq!((&shown["state"], &shown["last_check"]["passed"]), (&"unhealthy".into(), &false.into()), "{shown}");
    let metrics = gateway.metrics().unwrap();
    let count = |state| metrics.sum("bawab_upstream_endpoints", &[("upstream", "main"), ("state", state)]);
    assert_eq!([count("usable"), count("unhealthy"), count("ejected"), count("drained")], [1.0, 1.0, 0.0, 0.0]);
    a.turns(204);
    let event = gateway.event("an endpoint is healthy again").unwrap();
    assert_eq!((&event["seen"], &event["checks"]), (&"status 204".into(), &2.into()), "{event}");
    assert!(event["unhealthy_for"].is_string(), "{event}");
    assert_eq!(tally(&gateway, 10), both(5));
}

#[test]
fn an_endpoint_that_dies_is_out_and_comes_back_with_its_service() {
    // Where no client's end can be meanwhile.
    let address = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().to_string();
    let (a, b) = (Service::at(Origin::tcp_at(&address).unwrap(), "a"), Service::new("b"));
    let gateway = before(&format!("health = {{ tcp = true, {QUICK} }}"), &address, b.address());
    drop(a);
    let event = gateway.event("an endpoint is unhealthy").unwrap();
    assert!(event["seen"].as_str().unwrap().contains("refused"), "{event}");
    let failures = |gateway: &Gateway| gateway.metrics().unwrap().sum("bawab_upstream_connect_failures_total", &[]);
    let failed = failures(&gateway);
    assert_eq!(tally(&gateway, 10), only(200, "b", 10));
    assert_eq!(failures(&gateway), failed, "nobody tries it");
    let _a = Service::at(Origin::tcp_at(&address).unwrap(), "a");
    gateway.event("an endpoint is healthy again").unwrap();
    assert_eq!(tally(&gateway, 10), both(5));
}

#[test]
fn one_that_accepts_and_says_nothing_fails_its_first_check() {
    let (silent, b) = (Origin::tcp().unwrap(), Service::new("b"));
    let keys = "health = { http = \"/healthz\", interval = \"100ms\", timeout = \"2s\" }";
    let gateway = before(keys, silent.address(), b.address());
    let event = gateway.event("an endpoint is unhealthy").unwrap();
    assert_eq!((&event["endpoint"], &event["checks"]), (&silent.address().into(), &1.into()), "{event}");
    assert_eq!(event["seen"], "no answer within 2s");
    assert_eq!(tally(&gateway, 6), only(200, "b", 6));
}

#[test]
fn checks_go_where_the_configuration_says_and_say_so() {
    let main = Origin::tcp().unwrap();
    let checked = Origin::tcp().unwrap();
    let port = checked.address().rsplit(':').next().unwrap();
    let keys = format!(
        "health = {{ http = \"/ready?deep=1\", host = \"checks.test\", port = {port}, expect = [\"401\"], interval = \"1h\" }}"
    );
    let gateway = Gateway::start_with(&format!("[upstream.main]\n{keys}"), &[("upstream", main.address())]).unwrap();
    let mut peer = checked.accept().unwrap();
    let head = Head::read(&mut peer).unwrap();
    assert_eq!(head.start, "GET /ready?deep=1 HTTP/1.1");
    assert_eq!((head.field("host"), head.field("connection")), (Some("checks.test"), Some("close")));
    peer.send(answer(401, "who are you?")).unwrap();
    gateway
        .metrics_when("a check that passed", |metrics| {
            metrics.sum("bawab_upstream_health_checks_total", &[("upstream", "main"), ("outcome", "passed")]) == 1.0
        })
        .unwrap();
    assert!(main.accept_now().unwrap().is_none(), "the endpoint's own port is left alone");
}

#[test]
fn when_nobody_is_well_all_are_served_but_those_taken_out_by_hand() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    a.turns(500);
    b.turns(500);
    let gateway = before(&format!("health = {{ http = \"/healthz\", {QUICK} }}"), a.address(), b.address());
    let event = gateway.event("too few endpoints are usable: all are used").unwrap();
    assert_eq!((&event["upstream"], &event["used"]), (&"main".into(), &2.into()), "{event}");
    assert_eq!(tally(&gateway, 10), both(5));
    assert!(upstream(&gateway, &["list"]).1.contains("main: too few endpoints are usable"));
    upstream(&gateway, &["drain", "main", a.address()]);
    assert_eq!(tally(&gateway, 10), only(200, "b", 10));
    upstream(&gateway, &["drain", "main", b.address()]);
    assert_eq!(gateway.get("/").unwrap().refusal().unwrap(), (503, "no_endpoint".to_owned()));
    upstream(&gateway, &["undrain", "main", b.address()]);
    b.turns(200);
    gateway.event("an upstream has enough usable endpoints again").unwrap();
    assert_eq!(tally(&gateway, 10), only(200, "b", 10));
}

#[test]
fn an_endpoint_that_answers_500_is_ejected_and_comes_back_by_itself() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    a.answers(500);
    let gateway = before("eject = { consecutive_5xx = 3, base = \"300ms\" }", a.address(), b.address());
    assert_eq!(tally(&gateway, 5).values().sum::<usize>(), 5);
    until(&gateway, "an endpoint is ejected", 1);
    let event = gateway.event("an endpoint is ejected").unwrap();
    assert_eq!((&event["endpoint"], &event["cause"]), (&a.address().into(), &"consecutive_5xx".into()), "{event}");
    assert_eq!((&event["threshold"], &event["time"]), (&3.into(), &"300ms".into()), "{event}");
    a.answers(200);
    gateway.event("an endpoint's ejection is over").unwrap();
    assert_eq!(tally(&gateway, 10), both(5));
    let metrics = gateway.metrics().unwrap();
    let labels = [("upstream", "main"), ("cause", "consecutive_5xx")];
    assert_eq!(metrics.sum("bawab_upstream_ejections_total", &labels), 1.0);
    let shown = endpoint(&gateway, a.address());
    assert_eq!((&shown["state"], &shown["ejections"]), (&"usable".into(), &1.into()));
}

#[test]
fn failures_with_successes_between_them_eject_nobody() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let gateway = before("eject = { consecutive_5xx = 2, base = \"1h\" }", a.address(), b.address());
    for status in [500, 200, 503, 404, 502, 200] {
        a.answers(status);
        // Each of the two has a turn.
        assert_eq!(tally(&gateway, 2)[&(status, "a".to_owned())], 1);
    }
    a.answers(500);
    tally(&gateway, 4);
    gateway.event("an endpoint is ejected").unwrap();
    assert_eq!(gateway.metrics().unwrap().sum("bawab_upstream_ejections_total", &[]), 1.0);
}

#[test]
fn one_that_refuses_connections_is_ejected_and_costs_nobody_anything_more() {
    let (down, b) = (Refusing::new().unwrap(), Service::new("b"));
    let gateway = before("eject = { consecutive_local = 3, base = \"1h\" }", down.address(), b.address());
    until(&gateway, "an endpoint is ejected", 1);
    let event = gateway.event("an endpoint is ejected").unwrap();
    assert_eq!((&event["endpoint"], &event["cause"]), (&down.address().into(), &"consecutive_local".into()));
    assert_eq!(state(&gateway, down.address()), "ejected");
    let failures = |gateway: &Gateway| gateway.metrics().unwrap().sum("bawab_upstream_connect_failures_total", &[]);
    let failed = failures(&gateway);
    assert_eq!(tally(&gateway, 20), only(200, "b", 20));
    assert_eq!(failures(&gateway), failed);
}

#[test]
fn one_that_accepts_and_says_nothing_is_ejected() {
    let (silent, b) = (Origin::tcp().unwrap(), Service::new("b"));
    let keys = "eject = { consecutive_gateway = 2, consecutive_local = 0, base = \"1h\" }\ntimeout = { first_byte = \"50ms\" }";
    let gateway = before(keys, silent.address(), b.address());
    until(&gateway, "an endpoint is ejected", 1);
    assert_eq!(gateway.event("an endpoint is ejected").unwrap()["cause"], "consecutive_gateway");
    assert_eq!(tally(&gateway, 10), only(200, "b", 10));
}

#[test]
fn one_that_hangs_up_is_ejected_but_not_for_connections_it_kept() {
    let (cutting, b) = (Origin::tcp().unwrap(), Service::new("b"));
    let cutting = cutting.serve(|peer| {
        Message::request(peer)?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    });
    let gateway = before("eject = { consecutive_local = 3, base = \"1h\" }", cutting.address(), b.address());
    let deadline = Instant::now() + patience();
    while !gateway.said().contains("an endpoint is ejected") {
        assert!(Instant::now() < deadline, "{}", gateway.said());
        let mut client = gateway.client().unwrap();
        client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
        // Cut answers are what this is about.
        let _ = Message::answer(&mut client, "GET");
    }
    assert_eq!(gateway.event("an endpoint is ejected").unwrap()["endpoint"], cutting.address());
    assert_eq!(tally(&gateway, 10), only(200, "b", 10));

    // Answers one request a connection, and closes it without a word: what is kept turns out to be closed.
    let closing = Origin::tcp().unwrap().serve(|peer| {
        Message::request(peer)?;
        peer.send(ok("a"))
    });
    let gateway = before("eject = { consecutive_5xx = 1, base = \"1h\" }", closing.address(), b.address());
    let tally = tally(&gateway, 20);
    assert_eq!(tally.values().sum::<usize>(), 20);
    assert!(tally.keys().all(|(status, _)| *status == 200) && tally.len() == 2, "{tally:?}");
    assert_eq!(state(&gateway, closing.address()), "usable");
}

#[test]
fn clients_that_leave_say_nothing_about_an_endpoint() {
    let (slow, b) = (Origin::tcp().unwrap(), Service::new("b"));
    let gateway = before("eject = { consecutive_5xx = 1, base = \"1h\" }", slow.address(), b.address());
    for left in 1..=4 {
        let (client, _running) = running_at(&gateway, &slow);
        client.reset().unwrap();
        gateway
            .metrics_when("a client that left", |metrics| {
                metrics.sum("bawab_refusals_total", &[("code", "client_gone")]) == f64::from(left)
            })
            .unwrap();
    }
    assert_eq!(state(&gateway, slow.address()), "usable");
}

#[test]
fn no_more_than_a_share_is_ejected() {
    let services = ["a", "b", "c", "d"].map(Service::new);
    services[..3].iter().for_each(|service| service.answers(500));
    let keys = "eject = { consecutive_5xx = 2, base = \"1h\", share_max = \"50%\" }";
    let gateway = before_four(keys, &services);
    until(&gateway, "an endpoint fails and stays", 1);
    let states: Vec<String> = services.iter().map(|service| state(&gateway, service.address())).collect();
    assert_eq!(states.iter().filter(|state| *state == "ejected").count(), 2, "{states:?}");
    assert_eq!(states[3], "usable");
    let tally = tally(&gateway, 20);
    assert_eq!(tally.iter().filter(|((status, _), _)| *status == 500).map(|(_, count)| count).sum::<usize>(), 10);
    let metrics = gateway.metrics().unwrap();
    assert!(metrics.sum("bawab_upstream_ejections_refused_total", &[("upstream", "main")]) > 0.0);
    assert_eq!(gateway.said().matches("an endpoint fails and stays").count(), 1, "it is told once");
}

/// A gateway before four endpoints of one upstream.
fn before_four(keys: &str, services: &[Service; 4]) -> Gateway {
    let values: Vec<(&str, &str)> =
        ["a", "b", "c", "d"].into_iter().zip(services.iter().map(Service::address)).collect();
    let config = format!("[upstream.main]\nendpoints = [\"{{a}}\", \"{{b}}\", \"{{c}}\", \"{{d}}\"]\n{keys}");
    Gateway::start_with(&config, &values).unwrap()
}

#[test]
fn who_fails_takes_the_place_of_one_that_has_failed_and_passes_its_checks() {
    let services = ["a", "b", "c", "d"].map(Service::new);
    let keys = format!(
        "health = {{ http = \"/healthz\", {QUICK} }}\n\
         eject = {{ consecutive_5xx = 2, base = \"1h\", share_max = \"50%\" }}"
    );
    let gateway = before_four(&keys, &services);
    for (nth, service) in services[..2].iter().enumerate() {
        service.answers(500);
        until(&gateway, "an endpoint is ejected", nth + 1);
        service.answers(200);
    }
    services[2].answers(500);
    // There is no room until a check has passed since the first ejection.
    until(&gateway, "an endpoint's ejection ends early", 1);
    until(&gateway, "an endpoint is ejected", 3);
    let states: Vec<String> = services.iter().map(|service| state(&gateway, service.address())).collect();
    assert_eq!(states[2..], ["ejected", "usable"], "{}", gateway.said());
    assert_eq!(states.iter().filter(|state| *state == "ejected").count(), 2, "{states:?}");
    assert!(!tally(&gateway, 20).contains_key(&(500, "c".to_owned())));
}

#[test]
fn ejections_never_bring_everybody_back() {
    let services = ["a", "b", "c", "d"].map(Service::new);
    services[..3].iter().for_each(|service| service.answers(500));
    let keys = "eject = { consecutive_5xx = 2, base = \"1h\", share_max = \"100%\" }";
    let gateway = before_four(keys, &services);
    until(&gateway, "an endpoint fails and stays", 1);
    let ejected = services.iter().filter(|service| state(&gateway, service.address()) == "ejected");
    assert_eq!(ejected.count(), 2, "one more, and all four would get requests");
    assert!(!gateway.said().contains("too few endpoints are usable"), "{}", gateway.said());
    let tally = tally(&gateway, 20);
    assert_eq!(tally[&(200, "d".to_owned())], 10, "{tally:?}");
}

#[test]
fn when_checks_fail_those_that_have_only_failed_of_late_are_used_before_everybody_is() {
    let services = ["a", "b", "c", "d"].map(Service::new);
    let keys = format!("health = {{ http = \"/healthz\", {QUICK} }}\neject = {{ consecutive_5xx = 2, base = \"1h\" }}");
    let gateway = before_four(&keys, &services);
    for (nth, service) in services[..2].iter().enumerate() {
        service.answers(500);
        until(&gateway, "an endpoint is ejected", nth + 1);
        service.answers(200);
    }
    // Both have passed a check since they were ejected.
    let checked = |gateway: &Gateway| {
        gateway.metrics().unwrap().sum("bawab_upstream_health_checks_total", &[("outcome", "passed")])
    };
    let passed = checked(&gateway);
    gateway
        .metrics_when("checks of all four", |metrics| {
            metrics.sum("bawab_upstream_health_checks_total", &[("outcome", "passed")]) >= passed + 12.0
        })
        .unwrap();
    services[2].turns(500);
    gateway.event("an endpoint's ejection ends early").unwrap();
    gateway.event("an endpoint is unhealthy").unwrap();
    assert!(!gateway.said().contains("too few endpoints are usable"), "{}", gateway.said());
    assert_eq!(state(&gateway, services[2].address()), "unhealthy");
    assert!(!tally(&gateway, 20).contains_key(&(200, "c".to_owned())));
}

#[test]
fn the_last_usable_endpoint_is_never_ejected() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    a.answers(502);
    b.answers(502);
    let gateway =
        before("eject = { consecutive_gateway = 2, base = \"1h\", share_max = \"100%\" }", a.address(), b.address());
    until(&gateway, "an endpoint fails and stays", 1);
    let mut states = [state(&gateway, a.address()), state(&gateway, b.address())];
    states.sort();
    assert_eq!(states, ["ejected", "usable"]);
}

#[test]
fn nothing_is_ejected_unless_it_is_written() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    a.answers(500);
    let gateway = before("", a.address(), b.address());
    tally(&gateway, 40);
    assert_eq!(tally(&gateway, 10)[&(500, "a".to_owned())], 5);
    assert!(!gateway.said().contains("ejected"));
}

#[test]
fn failures_are_counted_over_all_workers() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    a.answers(500);
    let config = "[gateway]\nworkers = 4\n[upstream.main]\nendpoints = [\"{a}\", \"{b}\"]\n\
                  eject = { consecutive_5xx = 100, base = \"1h\" }";
    let gateway = Gateway::start_with(config, &[("a", a.address()), ("b", b.address())]).unwrap();
    until(&gateway, "an endpoint is ejected", 1);
    let sent = gateway.metrics().unwrap().sum("bawab_requests_total", &[]);
    // Each worker by itself would take some eight hundred.
    assert!((100.0..320.0).contains(&sent), "{sent}");
}

#[test]
fn a_drained_endpoint_finishes_what_runs_and_gets_nothing_new() {
    let (origin, b) = (Origin::tcp().unwrap(), Service::new("b"));
    let gateway = before("", origin.address(), b.address());
    let (mut client, mut running) = running_at(&gateway, &origin);
    let (code, said) = upstream(&gateway, &["drain", "main", origin.address()]);
    assert_eq!(code, Some(0), "{said}");
    let told =
        format!("{} of main is drained: 1 requests still run on it, 1 usable endpoints are left\n", origin.address());
    assert_eq!(said, told);
    let event = gateway.event("an endpoint is drained").unwrap();
    assert_eq!((&event["endpoint"], &event["in_flight"]), (&origin.address().into(), &1.into()), "{event}");
    assert_eq!(tally(&gateway, 10), only(200, "b", 10));
    let listed = upstream(&gateway, &["list"]).1;
    assert!(listed.contains("drained (by hand), weight 1, 1 in flight"), "{listed}");
    running.send(ok("finished")).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().text(), "finished");
    assert_eq!(upstream(&gateway, &["undrain", "main", origin.address()]).0, Some(0));
    drop(running);
    let _a = origin.answer(|_| ok("a"));
    // What was kept of the old connection may be found closed, and that one request goes on to the other.
    let tally = tally(&gateway, 10);
    assert!(tally[&(200, "a".to_owned())] >= 4 && tally.keys().all(|(status, _)| *status == 200), "{tally:?}");
}

#[test]
fn who_is_not_there_cannot_be_drained() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let gateway = before("", a.address(), b.address());
    for (words, told) in [
        (["drain", "mian", a.address()], "no upstream is named \"mian\" (did you mean \"main\"?)"),
        (["drain", "main", "10.0.0.1:80"], "no endpoint of \"main\" is at \"10.0.0.1:80\"; it has: 127.0.0.1:"),
    ] {
        let (code, said) = upstream(&gateway, &words);
        assert!(code == Some(1) && said.contains(told), "{said}");
    }
    assert_eq!(gateway.post("/upstreams/drain?upstream=main", "").unwrap().head.status(), 400);
    let drain = format!("/upstreams/drain?upstream=main&endpoint={}", a.address());
    assert_eq!(gateway.post(&drain, "Origin: http://evil.test\r\n").unwrap().head.status(), 403);
    assert_eq!(gateway.admin(&drain).unwrap().head.status(), 405);
    assert_eq!(gateway.admin("/upstreams?upstream=other").unwrap().head.status(), 404);
    assert_eq!(state(&gateway, a.address()), "usable");
}

#[test]
fn a_reload_forgets_neither_who_is_ill_nor_who_is_out() {
    let services = ["a", "b", "c", "d"].map(Service::new);
    let [a, b, c, _] = &services;
    let values: Vec<(&str, &str)> =
        ["a", "b", "c", "d"].into_iter().zip(services.iter().map(Service::address)).collect();
    let endpoints = "[upstream.main]\nendpoints = [\"{a}\", \"{b}\", \"{c}\", \"{d}\"]\npanic_threshold = \"10%\"";
    let health = format!("health = {{ http = \"/healthz\", {QUICK} }}");
    let eject = "eject = { consecutive_5xx = 2, base = \"1h\" }";
    let gateway = Gateway::start_with(&format!("{endpoints}\n{health}\n{eject}"), &values).unwrap();
    a.answers(500);
    until(&gateway, "an endpoint is ejected", 1);
    b.turns(500);
    gateway.event("an endpoint is unhealthy").unwrap();
    upstream(&gateway, &["drain", "main", c.address()]);
    assert_eq!(tally(&gateway, 10), only(200, "d", 10));
    a.answers(200);
    let checks = |gateway: &Gateway| gateway.metrics().unwrap().sum("bawab_upstream_health_checks_total", &[]);
    for nth in 0..3 {
        let more = format!("[limits]\nfields = {}\n{endpoints}\n{health}\n{eject}", 90 + nth);
        gateway.rewrite(&more).unwrap();
        gateway.reload().unwrap();
        assert_eq!(tally(&gateway, 10), only(200, "d", 10));
    }
    let states = |gateway: &Gateway| services.each_ref().map(|service| state(gateway, service.address()));
    assert_eq!(states(&gateway), ["ejected", "unhealthy", "drained", "usable"]);
    let before = checks(&gateway);
    gateway
        .metrics_when("checks that go on", |metrics| {
            metrics.sum("bawab_upstream_health_checks_total", &[]) >= before + 8.0
        })
        .unwrap();
    let metrics = gateway.metrics().unwrap();
    let count = |state| metrics.sum("bawab_upstream_endpoints", &[("upstream", "main"), ("state", state)]);
    assert_eq!(["usable", "unhealthy", "ejected", "drained"].map(count), [1.0; 4]);

    // Nobody would find out that they are well again.
    gateway.rewrite(endpoints).unwrap();
    gateway.reload().unwrap();
    assert_eq!(states(&gateway), ["usable", "usable", "drained", "usable"]);
    let tally = tally(&gateway, 9);
    assert_eq!(tally.values().copied().collect::<Vec<_>>(), [3, 3, 3], "{tally:?}");
}

#[test]
fn a_new_process_goes_on_with_what_the_one_before_knew() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let mut gateway = before("eject = { consecutive_5xx = 2, base = \"1h\" }", a.address(), b.address());
    a.answers(500);
    until(&gateway, "an endpoint is ejected", 1);
    a.answers(200);
    gateway.signal(Signal::USR2).unwrap();
    gateway.successor(1).unwrap();
    gateway.exit().unwrap();
    let shown = endpoint(&gateway, a.address());
    assert_eq!((&shown["state"], &shown["ejections"]), (&"ejected".into(), &1.into()), "{shown}");
    let mut tally = BTreeMap::new();
    for _ in 0..10 {
        *tally.entry(gateway.get("/").unwrap().text()).or_insert(0) += 1;
    }
    assert_eq!(tally, BTreeMap::from([("b".to_owned(), 10)]));
}

#[test]
fn an_ejection_ends_early_when_checks_that_failed_pass_again() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let keys = format!("health = {{ http = \"/healthz\", {QUICK} }}\neject = {{ consecutive_5xx = 2, base = \"1h\" }}");
    let gateway = before(&keys, a.address(), b.address());
    a.answers(500);
    until(&gateway, "an endpoint is ejected", 1);
    assert_eq!(state(&gateway, a.address()), "ejected", "checks that go on passing do not end it");
    a.turns(500);
    gateway.event("an endpoint is unhealthy").unwrap();
    a.answers(200);
    a.turns(200);
    gateway.event("an endpoint is healthy again").unwrap();
    assert_eq!(tally(&gateway, 10), both(5));
}
