//! Clients that stay with the endpoint that answered them, by a cookie.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use e2e::message::Message;
use e2e::origin::{Refusing, Serving};
use e2e::{Gateway, Origin};

const STICKY: &str = "cookie = \"at\", keys = [{ signing_secret = \"0123456789abcdef0123456789abcdef\" }]";

/// A service that answers with its name, and remembers the cookies it was sent.
struct Service {
    serving: Serving,
    cookies: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn new(name: &'static str) -> Service {
        let cookies = Arc::<Mutex<Vec<String>>>::default();
        let seen = cookies.clone();
        let serving = Origin::tcp().unwrap().answer(move |request| {
            seen.lock().unwrap().extend(request.head.all("cookie").into_iter().map(str::to_owned));
            let path = request.head.start.split(' ').nth(1).unwrap_or_default();
            let caching = match path {
                "/public" => "Cache-Control: public, max-age=60\r\n",
                "/minute" => "Cache-Control: max-age=60\r\n",
                _ => "",
            };
            let status = if path == "/down" { 503 } else { 200 };
            format!("HTTP/1.1 {status} x\r\n{caching}Content-Length: {}\r\n\r\n{name}", name.len()).into_bytes()
        });
        Service { serving, cookies }
    }

    fn address(&self) -> &str {
        self.serving.address()
    }
}

fn gateway(keys: &str, services: &[&Service]) -> Gateway {
    let names = ["a", "b", "c"];
    let endpoints: Vec<String> = names[..services.len()].iter().map(|name| format!("\"{{{name}}}\"")).collect();
    let config = format!("[upstream.main]\nendpoints = [{}]\n{keys}", endpoints.join(", "));
    let values: Vec<(&str, &str)> = names.into_iter().zip(services.iter().map(|service| service.address())).collect();
    Gateway::start_with(&config, &values).unwrap()
}

fn ask(gateway: &Gateway, path: &str, cookie: &str) -> Message {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: e2e.test\r\n{cookie}\r\n")).unwrap()
}

/// The cookie an answer sets, as a browser sends it, and its attributes.
fn set(answer: &Message) -> Option<(String, String)> {
    let (pair, attributes) = answer.head.field("set-cookie")?.split_once("; ").unwrap();
    Some((pair.to_owned(), attributes.to_owned()))
}

/// A client's session: its cookie and who answered.
fn begin(gateway: &Gateway) -> (String, String) {
    let answer = ask(gateway, "/", "");
    (set(&answer).expect("a cookie").0, answer.text())
}

#[test]
fn a_client_stays_with_who_answered_first_and_others_take_turns() {
    let (a, b, c) = (Service::new("a"), Service::new("b"), Service::new("c"));
    let gateway = gateway(&format!("sticky = {{ {STICKY} }}"), &[&a, &b, &c]);
    let first = ask(&gateway, "/", "theme=dark");
    let (cookie, attributes) = set(&first).unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(first.head.field("cache-control"), Some("private"));
    for service in [&a, &b, &c] {
        let (host, port) = service.address().rsplit_once(':').unwrap();
        assert!(!cookie.contains(port) && !cookie.contains(host), "{cookie}");
    }
    for _ in 0..9 {
        let answer = ask(&gateway, "/", &format!("theme=dark; {cookie}; lang=ar"));
        assert_eq!((answer.text(), set(&answer)), (first.text(), None));
        assert_eq!(answer.head.field("cache-control"), None, "nothing was set");
    }
    let others: BTreeSet<String> = (0..9).map(|_| begin(&gateway).1).collect();
    assert_eq!(others.len(), 3, "who brings no cookie is in turn");
    let seen = [a, b, c].map(|service| service.cookies.lock().unwrap().clone()).concat();
    assert_eq!(seen.iter().filter(|cookie| *cookie == "theme=dark; lang=ar").count(), 9, "{seen:?}");
    assert!(seen.iter().all(|cookie| !cookie.contains("at=")), "the services see nothing of it: {seen:?}");
    let metrics = gateway.metrics().unwrap();
    let count = |cookie| metrics.sum("bawab_upstream_sessions_total", &[("upstream", "main"), ("cookie", cookie)]);
    assert_eq!([count("none"), count("kept"), count("unknown"), count("moved")], [10.0, 9.0, 0.0, 0.0]);
}

#[test]
fn a_cookie_that_is_not_ours_means_nothing() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let gateway =
        gateway(&format!("sticky = {{ {STICKY}, secure = true, max_age = \"1h\", path = \"/shop\" }}"), &[&a, &b]);
    let (cookie, attributes) = set(&ask(&gateway, "/", "")).unwrap();
    assert_eq!(attributes, "Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax; Secure");
    let mut forged = cookie.clone().into_bytes();
    forged[5] ^= 1;
    for other in [String::from_utf8(forged).unwrap(), "at=".to_owned(), format!("at={}", a.address())] {
        let answers: Vec<Message> = (0..4).map(|_| ask(&gateway, "/", &other)).collect();
        assert!(answers.iter().all(|answer| set(answer).is_some()), "{other}");
        let turns: BTreeSet<String> = answers.iter().map(Message::text).collect();
        assert_eq!(turns.len(), 2, "{other}");
    }
    // Another one of the name, from before a change of paths: the good one counts.
    let answer = ask(&gateway, "/", &format!("at=old; {cookie}"));
    assert_eq!(set(&answer), None);
    assert_eq!(gateway.metrics().unwrap().sum("bawab_upstream_sessions_total", &[("cookie", "unknown")]), 12.0);
}

#[test]
fn secrets_change_without_losing_anybody_and_a_fleet_shares_them() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let (old, new) =
        ("{ signing_secret_file = \"{dir}/old\" }", "{ signing_secret = \"fedcba9876543210fedcba9876543210\" }");
    let keys = |keys: &[&str]| format!("sticky = {{ cookie = \"at\", keys = [{}] }}", keys.join(", "));
    let config = |keys: &str| format!("[upstream.main]\nendpoints = [\"{{a}}\", \"{{b}}\"]\n{keys}");
    let one = gateway(&format!("sticky = {{ {STICKY} }}"), &[&a, &b]);
    let (cookie, name) = begin(&one);
    std::fs::write(one.dir().join("old"), "0123456789abcdef0123456789abcdef\n").unwrap();
    one.rewrite(&config(&keys(&[old, new]))).unwrap();
    assert_eq!(one.reload().unwrap().head.status(), 200);
    let other = gateway(&keys(&[new, "{ signing_secret = \"0123456789abcdef0123456789abcdef\" }"]), &[&a, &b]);
    for gateway in [&one, &other] {
        for _ in 0..3 {
            assert_eq!(ask(gateway, "/", &cookie).text(), name);
        }
    }
    assert_eq!(set(&ask(&one, "/", &cookie)), None);
    let (anew, _) = set(&ask(&other, "/", &cookie)).expect("signed by the new secret, for the same endpoint");
    one.rewrite(&config(&keys(&[new]))).unwrap();
    assert_eq!(one.reload().unwrap().head.status(), 200);
    assert!((0..3).all(|_| ask(&one, "/", &anew).text() == name));
    assert!(set(&ask(&one, "/", &cookie)).is_some(), "the old secret is gone");
}

#[test]
fn a_drained_endpoint_keeps_its_clients_until_it_goes() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let gateway = gateway(&format!("sticky = {{ {STICKY} }}"), &[&a, &b]);
    let (cookie, name) = std::iter::repeat_with(|| begin(&gateway)).find(|(_, name)| name == "a").unwrap();
    let drain = format!("/upstreams/drain?upstream=main&endpoint={}", a.address());
    assert_eq!(gateway.post(&drain, "").unwrap().head.status(), 200);
    for _ in 0..4 {
        assert_eq!(ask(&gateway, "/", &cookie).text(), name);
        assert_eq!(begin(&gateway).1, "b", "who is new goes elsewhere");
    }
    // Its service ends: the request that finds out is answered by another one, which is who the client stays with.
    drop(a);
    let answer = ask(&gateway, "/", &cookie);
    let (moved, _) = set(&answer).unwrap();
    assert_eq!((answer.head.status(), answer.text().as_str()), (200, "b"));
    let answer = ask(&gateway, "/", &moved);
    assert_eq!((answer.text().as_str(), set(&answer)), ("b", None));
    assert_eq!(gateway.metrics().unwrap().sum("bawab_upstream_sessions_total", &[("cookie", "moved")]), 1.0);
}

#[test]
fn weight_zero_keeps_clients_and_gets_no_others() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let gateway = gateway(&format!("sticky = {{ {STICKY} }}"), &[&a, &b]);
    let (cookie, _) = std::iter::repeat_with(|| begin(&gateway)).find(|(_, name)| name == "a").unwrap();
    let config = format!(
        "[upstream.main]\nendpoints = [{{ address = \"{{a}}\", weight = 0 }}, \"{{b}}\"]\nsticky = {{ {STICKY} }}"
    );
    gateway.rewrite(&config).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    for _ in 0..4 {
        assert_eq!((ask(&gateway, "/", &cookie).text(), begin(&gateway).1), ("a".to_owned(), "b".to_owned()));
    }
}

#[test]
fn an_ejected_endpoint_keeps_nobody() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let keys = format!("sticky = {{ {STICKY} }}\neject = {{ consecutive_gateway = 2, base = \"1h\", max = \"1h\" }}");
    let gateway = gateway(&keys, &[&a, &b]);
    let (cookie, name) = begin(&gateway);
    for _ in 0..2 {
        assert_eq!(ask(&gateway, "/down", &cookie).head.status(), 503);
    }
    gateway.event("an endpoint is ejected").unwrap();
    let answer = ask(&gateway, "/", &cookie);
    assert_ne!(answer.text(), name);
    let (moved, _) = set(&answer).unwrap();
    assert!((0..3).all(|_| ask(&gateway, "/", &moved).text() == answer.text()));
}

#[test]
fn a_drained_endpoint_that_fails_keeps_nobody() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let keys = format!("sticky = {{ {STICKY} }}\neject = {{ consecutive_gateway = 2, base = \"1h\", max = \"1h\" }}");
    let gateway = gateway(&keys, &[&a, &b]);
    let (cookie, _) = std::iter::repeat_with(|| begin(&gateway)).find(|(_, name)| name == "a").unwrap();
    let drain = format!("/upstreams/drain?upstream=main&endpoint={}", a.address());
    assert_eq!(gateway.post(&drain, "").unwrap().head.status(), 200);
    for _ in 0..2 {
        assert_eq!(ask(&gateway, "/down", &cookie).text(), "a");
    }
    gateway.event("an endpoint is ejected").unwrap();
    assert_eq!(ask(&gateway, "/", &cookie).text(), "b");
}

#[test]
fn an_answer_any_cache_may_keep_carries_no_clients_cookie() {
    let (a, b) = (Service::new("a"), Service::new("b"));
    let gateway = gateway(&format!("sticky = {{ {STICKY} }}"), &[&a, &b]);
    let answer = ask(&gateway, "/public", "");
    assert_eq!((set(&answer), answer.head.field("cache-control")), (None, Some("public, max-age=60")));
    let answer = ask(&gateway, "/minute", "");
    assert!(set(&answer).is_some());
    let caching: Vec<&str> = answer.head.all("cache-control");
    assert_eq!(caching, ["max-age=60", "private"]);
}

#[test]
fn a_refusal_of_ours_names_nobody() {
    let down = Refusing::new().unwrap();
    let config = format!("[upstream.main]\nendpoints = [\"{{down}}\"]\nsticky = {{ {STICKY} }}");
    let gateway = Gateway::start_with(&config, &[("down", down.address())]).unwrap();
    let answer = gateway.get("/").unwrap();
    assert_eq!((answer.head.status(), answer.head.field("set-cookie")), (502, None));
}
