//! The access log: one line of JSON an exchange, whatever clients send, reopened on SIGUSR1.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use e2e::binary::find;
use e2e::origin::ok;
use e2e::{Gateway, Origin, binary};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn a_line_says_what_happened() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("hello"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    gateway
        .ask("POST /a/../b?secret=1 HTTP/1.1\r\nHost: e2e.test\r\nUser-Agent: e2e/1\r\nContent-Length: 3\r\n\r\nabc")
        .unwrap();
    let line = log.next_line().unwrap();
    for (key, value) in [
        ("listener", "main"),
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("host", "e2e.test"),
        ("path", "/b"),
        ("protocol", "HTTP/1.1"),
        ("route", "all"),
        ("upstream", "main"),
        ("endpoint", origin.address()),
        ("user_agent", "e2e/1"),
    ] {
        assert_eq!(line[key], value, "{key} in {line:#}");
    }
    for (key, value) in [("status", 200), ("attempts", 1), ("request_bytes", 3), ("response_bytes", 5)] {
        assert_eq!(line[key], value, "{key} in {line:#}");
    }
    assert!(line["duration_us"].as_u64().is_some_and(|us| us > 0), "{line:#}");
    assert!(
        line["upstream_us"].as_u64().is_some_and(|us| us > 0 && us <= line["duration_us"].as_u64().unwrap()),
        "{line:#}"
    );
    assert_eq!(line["trace_id"].as_str().map(str::len), Some(32), "{line:#}");
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line:#}");
    for key in ["ended_by", "refusal", "detail"] {
        assert_eq!(line.get(key), None, "{line:#}");
    }
    assert!(!line.to_string().contains("secret"), "{line:#}");
}

/// The client, its log and its upstream speak of one request by one name.
#[test]
fn the_request_id_is_the_same_everywhere() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET /a HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    let request = e2e::message::Head::read(&mut upstream).unwrap();
    drop(upstream);
    let answer = e2e::message::Message::answer(&mut client, "GET").unwrap();
    let id = request.field("x-request-id").unwrap();
    assert_eq!(answer.head.field("x-request-id"), Some(id));
    assert_eq!(answer.json().unwrap()["request_id"], id);
    let line = log.next_line().unwrap();
    assert_eq!(line["request_id"], id);
    assert_eq!(Some(line["trace_id"].as_str().unwrap()), request.field("traceparent").unwrap().split('-').nth(1));
}

#[test]
fn no_client_can_write_a_line_of_its_own() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    let agent = b"quote\" backslash\\ \x9b31m \xff\xfe \xe2\x80\xa8 {\"status\":500}\t";
    let mut request = b"GET /%22%7B?x HTTP/1.1\r\nHost: e2e.test\r\nUser-Agent: ".to_vec();
    request.extend_from_slice(agent);
    request.extend_from_slice(b"\r\n\r\n");
    assert_eq!(gateway.ask(request).unwrap().head.status(), 200);
    let line = log.next_line().unwrap();
    assert!(line["user_agent"].as_str().is_some_and(|text| text.starts_with("quote\" backslash\\ ")), "{line:#}");
    let text = fs::read(log.path()).unwrap();
    assert_eq!(text.iter().filter(|&&byte| byte == b'\n').count(), 1);
    assert!(text.iter().all(|&byte| byte == b'\n' || !byte.is_ascii_control()), "{}", text.escape_ascii());
}

#[test]
fn a_moved_log_is_reopened_on_sigusr1_and_no_line_is_lost() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    gateway.get("/before").unwrap();
    log.of_path("/before").unwrap();
    let moved = gateway.dir().join("access.log.1");
    fs::rename(log.path(), &moved).unwrap();
    gateway.signal(Signal::USR1).unwrap();
    log.reopen();
    // Until the signal is handled, lines go on into the moved file.
    let mut count = 0;
    while !log.path().exists() {
        gateway.get(&format!("/{count}")).unwrap();
        count += 1;
    }
    gateway.get("/after").unwrap();
    log.of_path("/after").unwrap();
    let lines =
        |path| fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let old: Vec<Value> = lines(moved.as_path());
    let new: Vec<Value> = lines(log.path());
    assert_eq!(old.len() + new.len(), count + 2);
}

/// The package's own file, but for the folder and the user, which are this machine's.
#[test]
fn logrotate_rotates_as_the_package_has_it() {
    let Some(program) = find("logrotate") else { return };
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    let dir = gateway.dir();
    let text = fs::read_to_string(binary::workspace().join("conf/bawab.logrotate")).unwrap();
    let mut text = text.replace("/var/log/bawab", &dir.display().to_string());
    assert!(text.contains("\tsu bawab bawab\n"), "{text}");
    text = text.replace("\tsu bawab bawab\n", "");
    fs::write(dir.join("logrotate.conf"), text).unwrap();
    // systemd's answer to who the main process is.
    let systemctl = format!("#!/bin/sh\necho {}\n", gateway.pid().unwrap());
    fs::create_dir(dir.join("bin")).unwrap();
    fs::write(dir.join("bin/systemctl"), systemctl).unwrap();
    fs::set_permissions(dir.join("bin/systemctl"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    for rotation in 1..=3 {
        gateway.get(&format!("/{rotation}")).unwrap();
        log.of_path(&format!("/{rotation}")).unwrap();
        let mut command = Command::new(&program);
        command.arg("--force").arg("--state").arg(dir.join("state")).arg(dir.join("logrotate.conf"));
        let output = command.env("PATH", &path).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{} {said}", output.status);
        gateway.event_again("access log reopened", rotation).unwrap();
        log.reopen();
    }
    gateway.get("/last").unwrap();
    log.of_path("/last").unwrap();
    // One line each: the newest two as text, the oldest compressed.
    let lines = |name: &str| fs::read_to_string(dir.join(name)).unwrap().lines().count();
    assert_eq!(["access.log", "access.log.1"].map(lines), [1, 1]);
    assert!(dir.join("access.log.2.gz").exists() && dir.join("access.log.3.gz").exists());
    assert!(!dir.join("access.log.2").exists());
}

#[test]
fn a_log_that_is_off_is_not_written() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let mut gateway = Gateway::start("[log]\naccess = \"off\"", origin.address()).unwrap();
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
    gateway.signal(Signal::TERM).unwrap();
    gateway.exit().unwrap();
    assert!(!gateway.dir().join("access.log").exists());
}
