//! The admin listener and what it shows.

use std::process::Command;

use e2e::origin::ok;
use e2e::{Gateway, Origin, Peer, binary};

#[test]
fn a_running_gateway_is_live_and_ready() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    assert_eq!(gateway.admin("/livez").unwrap().head.status(), 200);
    assert_eq!(gateway.admin("/readyz").unwrap().head.status(), 200);
    assert_eq!(gateway.admin("/nonsense").unwrap().head.status(), 404);
}

#[test]
fn requests_and_refusals_are_counted() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start(
        "[[route]]\nname = \"known\"\npath = \"/known\"\nupstream = \"main\"\nauth = \"none\"",
        origin.address(),
    )
    .unwrap();
    for _ in 0..3 {
        gateway.get("/known").unwrap();
    }
    gateway.get("/unknown").unwrap();
    gateway.ask("GET / HTTP/1.1\r\n\r\n").unwrap();
    let metrics = gateway
        .metrics_when("three answers and two refusals", |metrics| {
            metrics.sum("bawab_requests_total", &[]) == 5.0
                && metrics.sum("bawab_route_requests_total", &[("route", "known")]) == 3.0
                && metrics.sum("bawab_refusals_total", &[("code", "no_route")]) == 1.0
                && metrics.sum("bawab_refusals_total", &[("code", "host_missing")]) == 1.0
                && metrics.sum("bawab_requests_in_flight", &[]) == 0.0
        })
        .unwrap();
    assert_eq!(metrics.sum("bawab_upstream_requests_total", &[("upstream", "main")]), 3.0);
    assert_eq!(metrics.sum("bawab_upstream_connects_total", &[("upstream", "main")]), 1.0);
    assert_eq!(metrics.sum("bawab_upstream_reused_total", &[("upstream", "main")]), 2.0);
    assert_eq!(metrics.sum("bawab_route_duration_seconds_count", &[("route", "known")]), 3.0);
    assert_eq!(metrics.sum("bawab_task_panics_total", &[]), 0.0);
}

/// A label value is a name the operator wrote, never text a client sent.
#[test]
fn what_clients_send_makes_no_new_series() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    gateway.get("/warm").unwrap();
    gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
    let series = |gateway: &Gateway| gateway.metrics().unwrap().text().lines().count();
    let before = series(&gateway);
    for at in 0..50 {
        let request = format!("M{at} /{at} HTTP/1.1\r\nHost: h{at}.test\r\nUser-Agent: u{at}\r\n\r\n");
        assert_eq!(gateway.ask(request).unwrap().head.status(), 200);
    }
    gateway.metrics_when("all requests", |metrics| metrics.sum("bawab_requests_total", &[]) == 52.0).unwrap();
    let text = gateway.metrics().unwrap().text().to_owned();
    assert!(!text.contains("h7.test") && !text.contains("M7"), "{text}");
    assert!(series(&gateway) <= before + 3, "{before} series became {}", series(&gateway));
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[admin]\ntoken = \"s3cret-s3cret-s3cret\"", origin.address()).unwrap();
    assert_eq!(gateway.admin("/metrics").unwrap().head.status(), 401);
    let mut client = Peer::connect_unix(&gateway.dir().join("admin.sock")).unwrap();
    client
        .send("GET /metrics HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer s3cret-s3cret-s3cret\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(e2e::message::Message::answer(&mut client, "GET").unwrap().head.status(), 200);
    assert!(!gateway.said().contains("s3cret"), "the token is printed: {}", gateway.said());
}

#[test]
fn a_public_admin_address_without_a_token_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    let config = e2e::config::over_base("[admin]\naddress = \"0.0.0.0:0\"").unwrap();
    std::fs::write(
        &file,
        config.replace("{upstream}", "127.0.0.1:9").replace("{dir}", &dir.path().display().to_string()),
    )
    .unwrap();
    for command in ["check", "run"] {
        let output = Command::new(binary::path()).arg(command).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains("token"), "{command}: {} {said}", output.status);
    }
}
