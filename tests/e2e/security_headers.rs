//! The preset of fields for browsers: what is added, what of the service's own stays, and where HSTS may be said.

use e2e::message::Message;
use e2e::origin::{Refusing, Serving};
use e2e::{Gateway, Origin};

const CONFIG: &str = r#"
[gateway]
trusted_hops = ["127.0.0.2/32"]

[[route]]
name = "preset"
path = "/preset"
upstream = "main"
auth = "none"
security_headers = true

[[route]]
name = "gone"
path = "/gone"
upstream = "gone"
auth = "none"
security_headers = true

[[route]]
name = "override"
path = "/override"
upstream = "main"
auth = "none"
[route.security_headers]
override = true
strict_transport_security = "off"
referrer_policy = "no-referrer"
frame = "same_origin"
cross_origin_opener_policy = "same-origin"
cross_origin_resource_policy = "same-site"
permissions_policy = "camera=()"

[[route]]
name = "policy"
path = "/policy"
upstream = "main"
auth = "none"
security_headers = { content_security_policy = "default-src 'none';", content_type_options = false, referrer_policy = "off" }

[[route]]
name = "edited"
path = "/edited"
upstream = "main"
auth = "none"
security_headers = true
headers = { response = { remove = ["X-Frame-Options"], set = { Referrer-Policy = "origin" } } }

[[route]]
name = "off"
path = "/off"
upstream = "main"
auth = "none"
security_headers = false

[upstream.gone]
endpoints = ["{gone}"]
"#;

/// A service that answers with the fields its client asks for.
fn origin() -> Serving {
    Origin::tcp().unwrap().answer(|request| {
        let asked = request.head.field("x-answer").unwrap_or_default().replace("|", "\r\n");
        let fields = if asked.is_empty() { String::new() } else { format!("{asked}\r\n") };
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").into_bytes()
    })
}

fn ask(gateway: &Gateway, path: &str, service_says: &str) -> Message {
    gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: e2e.test\r\nX-Answer: {service_says}\r\n\r\n")).unwrap()
}

/// The fields the preset knows, as they came, sorted.
fn said(answer: &Message) -> Vec<String> {
    const NAMES: [&str; 8] = [
        "strict-transport-security",
        "x-content-type-options",
        "x-frame-options",
        "content-security-policy",
        "referrer-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
        "permissions-policy",
    ];
    let fields = answer.head.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut said: Vec<String> =
        fields.filter(|(name, _)| NAMES.contains(&&**name)).map(|(name, value)| format!("{name}: {value}")).collect();
    said.sort();
    said
}

#[test]
fn the_preset_fills_in_what_the_service_does_not_say() {
    let origin = origin();
    let gone = Refusing::new().unwrap();
    let gateway = Gateway::start_with(CONFIG, &[("upstream", origin.address()), ("gone", gone.address())]).unwrap();
    let check = |path: &str, service_says: &str, expected: &[&str]| {
        assert_eq!(said(&ask(&gateway, path, service_says)), expected, "{path} {service_says}");
    };
    let preset = [
        "content-security-policy: frame-ancestors 'none'",
        "referrer-policy: strict-origin-when-cross-origin",
        "x-content-type-options: nosniff",
        "x-frame-options: DENY",
    ];
    check("/preset", "", &preset);
    // Its own word about frames is not mixed with ours, whichever way it says it.
    let rest = &preset[1..3];
    check("/preset", "X-Frame-Options: SAMEORIGIN", &[rest, &["x-frame-options: SAMEORIGIN"]].concat());
    let ancestors = "content-security-policy: script-src a; Frame-Ancestors https://a.example";
    check("/preset", ancestors, &[&[ancestors], rest].concat());
    let scripts = "content-security-policy: script-src 'self'";
    check("/preset", scripts, &[&[scripts], rest, &["x-frame-options: DENY"]].concat());
    check("/preset", "Referrer-Policy: origin", &[preset[0], "referrer-policy: origin", preset[2], preset[3]]);
    check(
        "/policy",
        "",
        &["content-security-policy: default-src 'none'; frame-ancestors 'none'", "x-frame-options: DENY"],
    );
    check(
        "/policy",
        "X-Frame-Options: ALLOWALL",
        &["content-security-policy: default-src 'none';", "x-frame-options: ALLOWALL"],
    );
    check("/edited", "", &[preset[0], "referrer-policy: origin", preset[2]]);
    check("/off", "", &[]);
    // A refusal is an answer to a browser, too.
    let answer = ask(&gateway, "/gone", "");
    assert_eq!((answer.head.status(), said(&answer)), (502, preset.map(str::to_owned).to_vec()));
}

#[test]
fn override_replaces_what_the_service_says() {
    let origin = origin();
    let gateway = Gateway::start_with(CONFIG, &[("upstream", origin.address()), ("gone", "127.0.0.1:1")]).unwrap();
    let service_says = "X-Frame-Options: ALLOWALL|Referrer-Policy: unsafe-url|Permissions-Policy: camera=*|\
        Content-Security-Policy: script-src 'self'|Cross-Origin-Opener-Policy: unsafe-none|\
        Cross-Origin-Resource-Policy: cross-origin|X-Content-Type-Options: sniff";
    assert_eq!(
        said(&ask(&gateway, "/override", service_says)),
        [
            "content-security-policy: frame-ancestors 'self'",
            "content-security-policy: script-src 'self'",
            "cross-origin-opener-policy: same-origin",
            "cross-origin-resource-policy: same-site",
            "permissions-policy: camera=()",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
            "x-frame-options: SAMEORIGIN",
        ]
    );
}

#[test]
fn hsts_is_said_to_clients_that_came_by_https_only() {
    let origin = origin();
    let gateway = Gateway::start_with(CONFIG, &[("upstream", origin.address()), ("gone", "127.0.0.1:1")]).unwrap();
    let hsts = |from: &str, fields: &str| {
        let address = gateway.address_of("main").unwrap();
        let mut client = e2e::Peer::connect_from(from.parse().unwrap(), address).unwrap();
        client.send(format!("GET /preset HTTP/1.1\r\nHost: e2e.test\r\n{fields}\r\n")).unwrap();
        Message::answer(&mut client, "GET").unwrap().head.field("strict-transport-security").map(str::to_owned)
    };
    let (trusted, stranger) = ("127.0.0.2", "127.0.0.3");
    assert_eq!(hsts(trusted, "X-Forwarded-Proto: https\r\n").as_deref(), Some("max-age=31536000"));
    assert_eq!(hsts(trusted, "X-Forwarded-Proto: http\r\n"), None);
    assert_eq!(hsts(trusted, ""), None);
    assert_eq!(hsts(stranger, "X-Forwarded-Proto: https\r\n"), None);
}
