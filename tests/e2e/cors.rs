//! CORS as browsers speak it: preflights answered for the route they ask about, answers and refusals readable by the pages
//! that may read them, caches told what an answer depends on.

use e2e::message::Message;
use e2e::origin::{Serving, ok};
use e2e::{Gateway, Origin};

/// Two routes for one path, by method, of which only one speaks to other origins; and one that lets everybody in.
const CONFIG: &str = r#"
[[route]]
name = "read"
path = "/a"
methods = ["GET", "PUT"]
upstream = "main"
auth = "none"
body_bytes = "10B"
[route.cors]
origins = ["https://app.example", "https://*.apps.example", { regex = 'https://pr-[0-9]+\.example' }, "null"]
headers = ["content-type", "x-trace"]
expose = ["x-request-id", "etag"]
credentials = true
max_age = "1h"
private_network = true

[[route]]
name = "silent"
path = "/a"
methods = ["DELETE"]
upstream = "main"
auth = "none"

[[route]]
name = "rest"
path = "/a"
upstream = "main"
auth = "none"
cors = { origins = ["https://app.example"] }

[[route]]
name = "open"
path = "/open/**"
upstream = "main"
auth = "none"
cors = { origins = ["*"], methods = ["GET", "POST"], headers = ["*"] }

[[route]]
name = "gone"
path = "/gone"
upstream = "gone"
auth = "none"
cors = { origins = ["https://app.example"] }

[[route]]
name = "plain"
path = "/plain"
upstream = "main"
auth = "none"

[upstream.gone]
endpoints = ["{gone}"]
"#;

/// A service with rules of its own about other origins.
fn origin() -> Serving {
    Origin::tcp().unwrap().answer(|request| {
        if request.head.start.starts_with("OPTIONS ") {
            return b"HTTP/1.1 200 OK\r\nAllow: GET\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 8\r\n\r\nservice\n".to_vec();
        }
        if request.head.start.contains("varies") {
            return b"HTTP/1.1 200 OK\r\nVary: Accept, origin\r\nContent-Length: 0\r\n\r\n".to_vec();
        }
        let mut answer = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://evil.example\r\n\
            access-control-allow-CREDENTIALS: true\r\nAccess-Control-Expose-Headers: set-cookie\r\n"
            .to_vec();
        answer.extend_from_slice(&ok("hello")[b"HTTP/1.1 200 OK\r\n".len()..]);
        answer
    })
}

fn start(origin: &Serving) -> Gateway {
    let gone = e2e::origin::Refusing::new().unwrap();
    Gateway::start_with(CONFIG, &[("upstream", origin.address()), ("gone", gone.address())]).unwrap()
}

fn preflight(gateway: &Gateway, path: &str, origin: &str, method: &str, more: &str) -> Message {
    gateway
        .ask(format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: e2e.test\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n{more}\r\n"
        ))
        .unwrap()
}

fn get(gateway: &Gateway, path: &str, origin: &str) -> Message {
    gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: e2e.test\r\nOrigin: {origin}\r\n\r\n")).unwrap()
}

/// Every field that speaks about other origins, sorted.
fn said(answer: &Message) -> Vec<String> {
    let fields = answer.head.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let ours = fields.filter(|(name, _)| name.starts_with("access-control-") || name == "vary");
    let mut said: Vec<String> =
        ours.map(|(name, value)| format!("{}: {value}", name.replace("access-control-", "ac-"))).collect();
    said.sort();
    said
}

#[test]
fn a_preflight_is_answered_by_the_route_it_asks_about() {
    let origin = origin();
    let gateway = start(&origin);
    let more = "Access-Control-Request-Headers: content-type\r\nAccess-Control-Request-Private-Network: true\r\n";
    let answer = preflight(&gateway, "/a", "https://app.example", "PUT", more);
    assert_eq!((answer.head.status(), answer.head.field("content-length")), (204, None));
    assert!(answer.head.field("date").is_some());
    assert_eq!(
        said(&answer),
        [
            "ac-allow-credentials: true",
            "ac-allow-headers: content-type, x-trace",
            "ac-allow-methods: PUT",
            "ac-allow-origin: https://app.example",
            "ac-allow-private-network: true",
            "ac-max-age: 3600",
            "vary: access-control-request-method",
            "vary: origin",
        ]
    );
    // The route for everything else takes this one.
    let answer = preflight(&gateway, "/a", "https://app.example", "PATCH", "");
    assert_eq!(
        said(&answer),
        [
            "ac-allow-methods: PATCH",
            "ac-allow-origin: https://app.example",
            "ac-max-age: 600",
            "vary: access-control-request-method",
            "vary: origin",
        ]
    );
    let answer = preflight(&gateway, "/open/x", "https://who.example", "POST", "");
    assert_eq!(
        said(&answer),
        [
            "ac-allow-headers: *",
            "ac-allow-methods: GET, POST",
            "ac-allow-origin: *",
            "ac-max-age: 600",
            "vary: access-control-request-method",
        ]
    );
    assert_eq!(origin.connections(), 0, "no service was asked");
    // It is an exchange of that route.
    let answered = gateway.metrics_when("three preflights", |metrics| {
        let routes = ["read", "rest", "open"];
        routes
            .iter()
            .all(|route| metrics.sum("bawab_route_requests_total", &[("route", route), ("class", "2xx")]) == 1.0)
    });
    answered.unwrap();
}

#[test]
fn a_preflight_of_others_gets_no_permission_but_an_answer() {
    let origin = origin();
    let gateway = start(&origin);
    for stranger in [
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil",
        "https://apps.example",
        "https://pr-.example",
    ] {
        let answer = preflight(&gateway, "/a", stranger, "GET", "");
        assert_eq!(answer.head.status(), 204, "{stranger}");
        assert_eq!(said(&answer), ["vary: access-control-request-method", "vary: origin"], "{stranger}");
    }
    assert_eq!(origin.connections(), 0, "no service was asked");
}

#[test]
fn a_preflight_for_a_route_that_says_nothing_goes_on_like_any_options() {
    let origin = origin();
    let gateway = start(&origin);
    // `silent` takes DELETE and has no table; OPTIONS itself is taken by `rest`, which must not speak for it.
    let answer = preflight(&gateway, "/a", "https://app.example", "DELETE", "");
    assert_eq!((answer.head.status(), &*answer.text()), (200, "service\n"));
    assert_eq!(said(&answer), ["vary: origin"]);
    let answer = preflight(&gateway, "/plain", "https://app.example", "GET", "");
    assert_eq!((answer.head.status(), said(&answer)), (200, vec!["ac-allow-origin: *".to_owned()]));
    // No preflight: nothing is asked about, or nobody asks.
    let answer = gateway.ask("OPTIONS /a HTTP/1.1\r\nHost: e2e.test\r\nOrigin: https://app.example\r\n\r\n").unwrap();
    assert_eq!((answer.head.status(), &*answer.text()), (200, "service\n"));
    let asks = "OPTIONS /a HTTP/1.1\r\nHost: e2e.test\r\nAccess-Control-Request-Method: GET\r\n\r\n";
    assert_eq!(gateway.ask(asks).unwrap().text(), "service\n");
    let not_a_method = preflight(&gateway, "/a", "https://app.example", "G(T", "");
    assert_eq!(not_a_method.text(), "service\n");
}

#[test]
fn an_answer_says_whose_page_may_read_it() {
    let origin = origin();
    let gateway = start(&origin);
    let told = |origin: &str| {
        [
            "ac-allow-credentials: true".to_owned(),
            format!("ac-allow-origin: {origin}"),
            "ac-expose-headers: x-request-id, etag".to_owned(),
            "vary: origin".to_owned(),
        ]
    };
    for page in ["https://app.example", "https://x.y.apps.example", "https://pr-17.example", "null"] {
        let answer = get(&gateway, "/a", page);
        assert_eq!((answer.head.status(), &*answer.text()), (200, "hello"));
        assert_eq!(said(&answer), told(page));
    }
    for page in ["https://evil.example", "https://apps.example", "NULL"] {
        let answer = get(&gateway, "/a", page);
        assert_eq!((answer.head.status(), said(&answer)), (200, vec!["vary: origin".to_owned()]), "{page}");
    }
    assert_eq!(said(&gateway.get("/a").unwrap()), ["vary: origin"], "also where no page asks");
    // Everybody may: the answer does not depend on who asks, and says so to caches.
    assert_eq!(said(&gateway.get("/open/").unwrap()), ["ac-allow-origin: *"]);
    assert_eq!(said(&get(&gateway, "/open/", "https://who.example")), ["ac-allow-origin: *"]);
    let varies = get(&gateway, "/open/varies", "https://who.example");
    assert_eq!(said(&varies), ["ac-allow-origin: *", "vary: Accept, origin"]);
    // Without the table nobody touches what the service says.
    assert_eq!(
        get(&gateway, "/plain", "https://app.example").head.field("access-control-allow-origin"),
        Some("https://evil.example")
    );
}

#[test]
fn a_refusal_is_readable_like_an_answer() {
    let origin = origin();
    let gateway = start(&origin);
    let too_large = "PUT /a HTTP/1.1\r\nHost: e2e.test\r\nOrigin: https://app.example\r\nContent-Length: 11\r\n\r\n";
    let answer = gateway.ask(too_large).unwrap();
    assert_eq!(answer.refusal().unwrap(), (413, "body_too_large".to_owned()));
    assert_eq!(
        said(&answer),
        [
            "ac-allow-credentials: true",
            "ac-allow-origin: https://app.example",
            "ac-expose-headers: x-request-id, etag",
            "vary: origin",
        ]
    );
    let answer = get(&gateway, "/gone", "https://app.example");
    assert_eq!(answer.head.status(), 502);
    assert_eq!(said(&answer), ["ac-allow-origin: https://app.example", "vary: origin"]);
    let answer = get(&gateway, "/gone", "https://evil.example");
    assert_eq!((answer.head.status(), said(&answer)), (502, vec!["vary: origin".to_owned()]));
}
