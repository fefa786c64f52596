//! One canonical path, seen alike by the route, the log and the upstream; what could be read in two ways is refused.

use e2e::origin::echo;
use e2e::{Gateway, Origin};

/// What becomes of a path.
enum Becomes {
    /// The upstream sees this.
    Path(&'static str),
    /// 400 with this code.
    Refused(&'static str),
}

use Becomes::{Path, Refused};

#[track_caller]
fn check(policy: &str, rows: &[(&str, Becomes)]) {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let config = format!(
        "[[route]]\nname = \"all\"\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\n[route.path_policy]\n{policy}"
    );
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    let mut wrong = Vec::new();
    for (sent, becomes) in rows {
        let answer = gateway.get(sent).unwrap();
        let logged = log.next_line().unwrap();
        let came = match answer.head.status() {
            200 => answer.text().lines().next().unwrap().to_owned(),
            _ => format!("{:?}", answer.refusal().unwrap()),
        };
        let expected = match becomes {
            Path(path) => format!("GET {path} HTTP/1.1"),
            Refused(code) => format!("{:?}", (400, *code)),
        };
        if came != expected {
            wrong.push(format!("{sent} became {came}, not {expected}"));
        }
        if let Path(path) = becomes
            && logged["path"] != path.split('?').next().unwrap()
        {
            wrong.push(format!("{sent} is logged as {}, not {path}", logged["path"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn a_path_has_one_spelling() {
    check(
        "",
        &[
            ("/", Path("/")),
            ("/a/b", Path("/a/b")),
            ("/a/b/", Path("/a/b/")),
            ("/%41%7a%2D%2e%5F%7E%30", Path("/Az-._~0")),
            ("/%C3%A9%e2%82%ac", Path("/%C3%A9%E2%82%AC")),
            ("/a%20b", Path("/a%20b")),
            ("/a%3fb%23c", Path("/a%3Fb%23c")),
            ("/a%25b", Path("/a%25b")),
            ("/%252e%252e/a", Path("/%252e%252e/a")),
            ("/%2525", Path("/%2525")),
            ("/a+b=c&d@e:f,g!h$i'(j)*", Path("/a+b=c&d@e:f,g!h$i'(j)*")),
            ("/a?b=/../c", Path("/a?b=/../c")),
            ("/.", Path("/")),
            ("/./a", Path("/a")),
            ("/a/.", Path("/a/")),
            ("/a/./b", Path("/a/b")),
            ("/a/..", Path("/")),
            ("/a/../b", Path("/b")),
            ("/a/b/../../c", Path("/c")),
            ("/a/%2e%2E/b", Path("/b")),
            ("/a/.%2e/b", Path("/b")),
            ("/a/%2e/b", Path("/a/b")),
            ("/a/...", Path("/a/...")),
            ("/a/..b/.c/d..", Path("/a/..b/.c/d..")),
            ("/a//b", Path("/a/b")),
            ("//a", Path("/a")),
            ("/a///", Path("/a/")),
            ("/a|b^c{d}e", Path("/a%7Cb%5Ec%7Bd%7De")),
            ("/\"<>`[]", Path("/%22%3C%3E%60%5B%5D")),
        ],
    );
}

#[test]
fn a_path_services_read_differently_is_refused() {
    check(
        "",
        &[
            ("/..", Refused("path_above_root")),
            ("/../a", Refused("path_above_root")),
            ("/a/../../b", Refused("path_above_root")),
            ("/%2e%2e/a", Refused("path_above_root")),
            ("/a%2Fb", Refused("path_encoded_slash")),
            ("/a%2fb", Refused("path_encoded_slash")),
            ("/..%2fadmin", Refused("path_hidden_dots")),
            ("/a%5Cb", Refused("path_encoded_backslash")),
            ("/a\\b", Refused("path_backslash")),
            ("/a\\..\\b", Refused("path_backslash")),
            ("/a;b", Refused("path_semicolon")),
            ("/a%3Bb", Refused("path_semicolon")),
            ("/a;x=y/b", Refused("path_semicolon")),
            ("/a/..;/b", Refused("path_dot_parameter")),
            ("/a/.;x/b", Refused("path_dot_parameter")),
            ("/a/%2e%2e;/b", Refused("path_dot_parameter")),
            ("/a//../b", Refused("path_dots_and_empty")),
            ("/a/..//b", Refused("path_dots_and_empty")),
            ("/a%00b", Refused("path_encoded_control")),
            ("/a%0d%0aX:y", Refused("path_encoded_control")),
            ("/a%7f", Refused("path_encoded_control")),
            ("/a%", Refused("path_percent")),
            ("/a%4", Refused("path_percent")),
            ("/a%zz", Refused("path_percent")),
            ("/a%u0041", Refused("path_percent")),
            ("/%c0%ae%c0%ae/a", Refused("path_overlong")),
            ("/%c0%af", Refused("path_overlong")),
            ("/%e0%80%af", Refused("path_overlong")),
            ("/%f0%80%80%af", Refused("path_overlong")),
        ],
    );
}

#[test]
fn a_route_may_keep_ambiguous_text() {
    check(
        "encoded_slash = \"keep\"\nbackslash = \"keep\"\nsemicolon = \"keep\"",
        &[
            ("/a%2fb", Path("/a%2Fb")),
            ("/a%5cb", Path("/a%5Cb")),
            ("/a;b%3bc", Path("/a;b%3Bc")),
            ("/a;x=y/../b", Path("/b")),
            ("/a\\b", Refused("path_backslash")),
            ("/a/..;/b", Refused("path_dot_parameter")),
            ("/a/..%2fb", Refused("path_hidden_dots")),
            ("/a%2f..%2fb", Refused("path_hidden_dots")),
            ("/a%2f../b", Refused("path_hidden_dots")),
            ("/a/..%5cb", Refused("path_hidden_dots")),
        ],
    );
}

#[test]
fn a_route_may_decode_ambiguous_text() {
    check(
        "encoded_slash = \"decode\"\nbackslash = \"decode\"\nsemicolon = \"decode\"",
        &[
            ("/a%2fb", Path("/a/b")),
            ("/a%5cb", Path("/a/b")),
            ("/a;b%3bc", Path("/a;b;c")),
            ("/a%2f..%2fb", Refused("path_hidden_dots")),
            ("/..%2f", Refused("path_hidden_dots")),
            ("/a/..%3b/b", Refused("path_dot_parameter")),
            ("/a%252fb", Path("/a%252fb")),
        ],
    );
}

#[test]
fn a_route_may_refuse_empty_segments() {
    check("double_slash = \"refuse\"", &[("/a//b", Refused("path_double_slash")), ("/a/b", Path("/a/b"))]);
}

/// The route is found by the path with everything kept; decoding must not lead around the route that owns the policy.
#[test]
fn a_path_that_decodes_into_another_route_is_refused() {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let config = r#"
        [[route]]
        name = "open"
        path = "/open/**"
        upstream = "main"
        auth = "none"
        path_policy = { encoded_slash = "decode" }
        [[route]]
        name = "closed"
        path = "/open/closed/**"
        upstream = "main"
        auth = "none"
    "#;
    let gateway = Gateway::start(config, origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    let answer = gateway.get("/open/a%2fb").unwrap();
    assert_eq!(answer.text().lines().next(), Some("GET /open/a/b HTTP/1.1"));
    assert_eq!(log.next_line().unwrap()["route"], "open");
    assert_eq!(gateway.get("/open/closed/a").unwrap().head.status(), 200);
    assert_eq!(log.next_line().unwrap()["route"], "closed");
    let answer = gateway.get("/open/closed%2fa").unwrap();
    assert_eq!(answer.refusal().unwrap().0, 400, "{:?}", answer.head);
}
