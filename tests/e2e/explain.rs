//! What the configuration means, asked of the program: who gets a request and why, and which routes tie or never match.

use std::process::Command;

use e2e::{Gateway, Origin, binary};

const EXPLAINED: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[upstream.orders]
endpoints = ["127.0.0.1:8000"]

[[route]]
name = "orders"
path = "/orders/**"
upstream = "orders"
auth = "none"
headers.response.set = { x-a = "b" }

[[route]]
name = "canary"
path = "/orders/**"
when.headers = { x-canary = "1" }
upstream = "orders"
auth = "none"

[[route]]
name = "everything"
path = "/**"
methods = ["GET"]
upstream = "orders"
auth = "none"
"#;

fn bawab(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary::path()).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn explain_says_who_gets_a_request_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, EXPLAINED).unwrap();
    let file = file.to_str().unwrap();
    let explain = |args: &[&str]| bawab(&[&["explain", "route", "--config", file], args].concat());
    let (code, said, _) = explain(&["GET", "https://api.example.com/orders/./7?x"]);
    assert_eq!(code, Some(0), "{said}");
    for line in [
        format!("route      orders  ({file}:10)"),
        "matched    any host, path /orders/**, all methods".to_owned(),
        "path       /orders/7, after it was made canonical".to_owned(),
        "filters    finish     headers".to_owned(),
        "then       upstream orders".to_owned(),
        format!("not        everything: takes it too, but `orders` has the more specific path  ({file}:24)"),
        format!("           canary: its condition on the header `x-canary` does not hold  ({file}:17)"),
    ] {
        assert!(said.lines().any(|said| said == line), "no `{line}` in\n{said}");
    }
    let (_, said, _) = explain(&["GET", "/orders/7", "-H", "X-Canary: 1"]);
    assert!(said.starts_with("route      canary"), "{said}");
    let (code, said, _) = explain(&["PUT", "/books"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("refused    405 method_not_allowed") && said.contains("allow      GET, HEAD"), "{said}");
    let (code, said, _) = explain(&["GET", "/a%2Fb"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("refused    400 path_encoded_slash"), "{said}");
    let (code, _, said) = explain(&["GET", "orders"]);
    assert_eq!((code, said.as_str()), (Some(2), "the URL begins with `http://`, `https://` or `/`\n"));
}

#[test]
fn explain_asks_the_gateway_that_runs() {
    let origin = Origin::tcp().unwrap();
    let route = "[[route]]\nname = \"first\"\npath = \"/a\"\nupstream = \"main\"\nauth = \"none\"";
    let gateway = Gateway::start(route, origin.address()).unwrap();
    let file = gateway.config_file();
    let explain = |url: &str| bawab(&["explain", "route", "--running", "--config", file.to_str().unwrap(), "GET", url]);
    let (code, said, _) = explain("/a");
    assert_eq!(code, Some(0));
    assert!(said.starts_with("route      first\n"), "{said}");
    let (code, said, _) = explain("/b c");
    assert_eq!(code, Some(2), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("gateway.toml");
    std::fs::write(&left, format!("{EXPLAINED}\n[admin]\naddress = \"unix:{}/admin.sock\"", dir.path().display()))
        .unwrap();
    let (code, _, said) = bawab(&["explain", "route", "--running", "--config", left.to_str().unwrap(), "GET", "/"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("nobody answers at") && said.contains("is the gateway running?"), "{said}");
}

#[test]
fn check_warns_of_routes_that_tie_or_never_match() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    let odd = r#"
[[route]]
name = "other"
path = "/orders/**"
when.headers = { x-other = "1" }
upstream = "orders"
auth = "none"

[[route]]
name = "down"
path = "/orders/**"
priority = 1
auth = "none"
respond = { status = 503 }
"#;
    std::fs::write(&file, format!("{EXPLAINED}{odd}")).unwrap();
    let (code, said, warned) = bawab(&["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert!(said.contains("no problems, 4 warnings"), "{said}");
    assert!(warned.contains("warning: route[0].path: never gets a request: `route[4]` goes first"), "{warned}");
    assert!(warned.contains("some requests fit this route and `route[1]` alike"), "{warned}");
}
