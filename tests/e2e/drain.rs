//! Stopping: running exchanges end, idle connections do not hold the process up, new ones are not taken.

use std::net::TcpStream;
use std::time::Instant;

use e2e::message::{Head, Message};
use e2e::{Gateway, Origin, Peer};
use rustix::process::Signal;

const GET: &str = "GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n";

/// An exchange that the service has not answered yet: the client's connection and the service's.
fn running(gateway: &Gateway, origin: &Origin) -> (Peer, Peer) {
    let mut client = gateway.client().unwrap();
    client.send(GET).unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    (client, upstream)
}

#[test]
fn an_idle_gateway_ends_with_0() {
    let origin = Origin::tcp().unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let mut gateway = Gateway::start("", origin.address()).unwrap();
        gateway.signal(signal).unwrap();
        assert_eq!(gateway.exit().unwrap().code(), Some(0), "{}", gateway.said());
    }
}

#[test]
fn a_running_exchange_is_finished_and_its_connection_closed() {
    let origin = Origin::tcp().unwrap();
    let mut gateway = Gateway::start("", origin.address()).unwrap();
    let (mut client, mut upstream) = running(&gateway, &origin);
    gateway.signal(Signal::TERM).unwrap();
    gateway.event("draining").unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfinished").unwrap();
    let answer = Message::answer(&mut client, "GET").unwrap();
    assert_eq!(answer.text(), "finished");
    assert_eq!(answer.head.field("connection"), Some("close"));
    client.finish().unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_it_up() {
    let origin = Origin::tcp().unwrap().answer(|_| e2e::origin::ok("x"));
    let config = "[gateway]\ndrain = { delay = \"0s\", deadline = \"60s\" }";
    let mut gateway = Gateway::start(config, origin.address()).unwrap();
    let mut idle = gateway.client().unwrap();
    idle.send(GET).unwrap();
    Message::answer(&mut idle, "GET").unwrap();
    let mut silent = gateway.client().unwrap();
    let begun = Instant::now();
    gateway.signal(Signal::TERM).unwrap();
    idle.finish().unwrap();
    silent.finish().unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
    assert!(begun.elapsed().as_secs() < 30, "took {:?}", begun.elapsed());
}

#[test]
fn an_exchange_that_does_not_end_is_cut_at_the_deadline() {
    let origin = Origin::tcp().unwrap();
    let config = "[gateway]\ndrain = { delay = \"0s\", deadline = \"300ms\" }";
    let mut gateway = Gateway::start(config, origin.address()).unwrap();
    let (mut client, _upstream) = running(&gateway, &origin);
    gateway.signal(Signal::TERM).unwrap();
    client.rest().unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(3), "exchanges were cut");
}

#[test]
fn a_second_signal_cuts_what_runs() {
    let origin = Origin::tcp().unwrap();
    let config = "[gateway]\ndrain = { delay = \"0s\", deadline = \"10m\" }";
    let mut gateway = Gateway::start(config, origin.address()).unwrap();
    let (mut client, _upstream) = running(&gateway, &origin);
    gateway.signal(Signal::TERM).unwrap();
    gateway.event("draining").unwrap();
    gateway.signal(Signal::TERM).unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(3));
    client.rest().unwrap();
}

#[test]
fn a_client_that_asks_again_at_once_is_answered_and_told() {
    let origin = Origin::tcp().unwrap().answer(|_| e2e::origin::ok("x"));
    let mut gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    let mut answer = || {
        client.send(GET).unwrap();
        Message::answer(&mut client, "GET").unwrap()
    };
    answer();
    gateway.signal(Signal::TERM).unwrap();
    // Without a pause: who is silent for a second is let go.
    let deadline = Instant::now() + e2e::patience();
    while answer().head.field("connection") != Some("close") {
        assert!(Instant::now() < deadline, "it is never told");
    }
    client.finish().unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
}

#[test]
fn while_it_waits_for_load_balancers_it_serves_and_says_not_ready() {
    let origin = Origin::tcp().unwrap().answer(|_| e2e::origin::ok("x"));
    let config = "[gateway]\ndrain = { delay = \"10s\", deadline = \"1s\" }";
    let gateway = Gateway::start(config, origin.address()).unwrap();
    assert_eq!(gateway.admin("/readyz").unwrap().head.status(), 200);
    gateway.signal(Signal::TERM).unwrap();
    gateway.event("draining").unwrap();
    assert_eq!(gateway.admin("/readyz").unwrap().head.status(), 503);
    assert_eq!(gateway.admin("/livez").unwrap().head.status(), 200);
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
}

#[test]
fn a_closed_listener_takes_no_connections() {
    let origin = Origin::tcp().unwrap();
    let mut gateway = Gateway::start("", origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap();
    let (mut client, mut upstream) = running(&gateway, &origin);
    gateway.signal(Signal::TERM).unwrap();
    gateway.event("draining").unwrap();
    // The exchange above keeps the process up; its listeners close meanwhile.
    let deadline = Instant::now() + e2e::patience();
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "connections are still taken");
        std::thread::yield_now();
    }
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 204);
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
}

#[test]
fn what_was_logged_is_written_before_it_ends() {
    let origin = Origin::tcp().unwrap().answer(|_| e2e::origin::ok("x"));
    let mut gateway = Gateway::start("", origin.address()).unwrap();
    for at in 0..100 {
        gateway.get(&format!("/{at}")).unwrap();
    }
    gateway.signal(Signal::TERM).unwrap();
    gateway.exit().unwrap();
    let log = std::fs::read_to_string(gateway.dir().join("access.log")).unwrap();
    assert_eq!(log.lines().count(), 100);
    assert!(log.ends_with('\n'));
}
