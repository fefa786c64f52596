//! Clients and upstreams that take their time: each wait ends, and nobody else notices.

use std::time::{Duration, Instant};

use e2e::message::{Head, Message};
use e2e::origin::{ok, readable};
use e2e::{Gateway, Origin, Peer, patience};

/// Sends `bytes` one by one, `pause` apart, until something comes back or all are sent.
fn trickle(client: &mut Peer, bytes: &[u8], pause: Duration) -> anyhow::Result<()> {
    for byte in bytes {
        if readable(&[client.socket()], pause)?[0] || client.send([*byte]).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn a_head_that_trickles_in_is_refused_at_the_deadline_not_at_the_last_byte() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[timeouts]\nhead = \"1s\"", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    let begun = Instant::now();
    trickle(&mut client, &b"GET / HTTP/1.1\r\nX: y\r\n".repeat(1000), Duration::from_millis(50)).unwrap();
    let answer = Message::answer(&mut client, "GET").unwrap();
    assert_eq!(answer.refusal().unwrap(), (408, "head_timeout".to_owned()));
    assert!(begun.elapsed() >= Duration::from_millis(900), "refused after {:?}", begun.elapsed());
    assert!(begun.elapsed() < patience(), "refused after {:?}", begun.elapsed());
}

#[test]
fn a_thousand_half_sent_heads_are_closed_on_time_and_others_are_served() {
    const STUCK: usize = 1000;
    const OTHERS: usize = 50;
    let origin = Origin::tcp().unwrap().answer(|_| ok("served"));
    let gateway = Gateway::start("[timeouts]\nhead = \"8s\"", origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap();
    let mut stuck = Vec::new();
    for at in 0..STUCK {
        let from = format!("127.0.1.{}", 1 + at % 200).parse().unwrap();
        let mut client = Peer::connect_from(from, address).unwrap();
        client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\nX-Half").unwrap();
        stuck.push(client);
    }
    gateway.metrics_when("all of them", |metrics| metrics.sum("bawab_connections_open", &[]) == STUCK as f64).unwrap();
    for _ in 0..OTHERS {
        assert_eq!(gateway.get("/").unwrap().text(), "served");
    }
    // Not one of them went to make room for the others.
    let timeouts = gateway.metrics().unwrap().sum("bawab_client_timeouts_total", &[("wait", "head")]);
    assert_eq!(timeouts, 0.0, "{OTHERS} others were not served within the 8 s");
    let all_served = Instant::now();
    for client in &mut stuck {
        let answer = Message::answer(client, "GET").unwrap();
        assert_eq!(answer.refusal().unwrap(), (408, "head_timeout".to_owned()));
        client.rest().unwrap();
    }
    let took = all_served.elapsed();
    assert!(took < patience(), "the last was closed after {took:?}");
    gateway
        .metrics_when("a timeout each", |metrics| {
            metrics.sum("bawab_client_timeouts_total", &[("wait", "head")]) == STUCK as f64
                && metrics.sum("bawab_connections_open", &[]) == 0.0
        })
        .unwrap();
}

#[test]
fn a_body_below_the_minimum_rate_is_refused() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[limits]\nrate_min = \"1KiB\"", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("POST / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    let begun = Instant::now();
    // 100 bytes a second: far below the minimum, and never idle.
    trickle(&mut client, &[b'x'; 100_000], Duration::from_millis(10)).unwrap();
    let answer = Message::answer(&mut client, "POST").unwrap();
    assert_eq!(answer.refusal().unwrap(), (408, "body_too_slow".to_owned()));
    assert!(begun.elapsed() >= Duration::from_secs(4), "there is a grace; refused after {:?}", begun.elapsed());
    // What came of the body was passed on; the rest never will be.
    upstream.rest().unwrap();
    gateway.metrics_when("a slow client", |metrics| metrics.sum("bawab_slow_clients_total", &[]) == 1.0).unwrap();
}

#[test]
fn a_body_above_the_minimum_rate_is_taken_however_long_it_lasts() {
    let origin = Origin::tcp().unwrap().answer(|request| ok(request.body.len().to_string()));
    let gateway = Gateway::start("[limits]\nrate_min = \"100B\"", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("POST / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 70000\r\n\r\n").unwrap();
    // About 7 s at ten times the minimum.
    for _ in 0..70 {
        assert!(!readable(&[client.socket()], Duration::from_millis(100)).unwrap()[0], "answered before the end");
        client.send([b'x'; 1000]).unwrap();
    }
    assert_eq!(Message::answer(&mut client, "POST").unwrap().text(), "70000");
}

#[test]
fn a_reader_below_the_minimum_rate_is_let_go() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[limits]\nrate_min = \"1MiB\"", origin.address()).unwrap();
    let mut client = Peer::connect_with_receive_buffer(8 * 1024, gateway.address_of("main").unwrap()).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    let mut writer = upstream.writer().unwrap();
    let sending = std::thread::spawn(move || {
        let _ = writer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while writer.send([b'd'; 65536]).is_ok() {}
    });
    let begun = Instant::now();
    // Reads 4 KiB now and then: never idle, far below the minimum. What the kernel holds for it already may still come
    // when it has been let go, so the upstream tells.
    while !sending.is_finished() {
        assert!(begun.elapsed() < patience(), "it was never let go");
        let _ = client.take(4096);
        readable(&[upstream.socket()], Duration::from_millis(50)).unwrap();
    }
    sending.join().unwrap();
    gateway.metrics_when("a slow client", |metrics| metrics.sum("bawab_slow_clients_total", &[]) == 1.0).unwrap();
}

#[test]
fn a_reader_that_stops_is_let_go_and_so_is_its_upstream() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[timeouts]\nbody_idle = \"500ms\"", origin.address()).unwrap();
    let mut client = Peer::connect_with_receive_buffer(8 * 1024, gateway.address_of("main").unwrap()).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    let begun = Instant::now();
    while upstream.send([b'd'; 65536]).is_ok() {
        assert!(begun.elapsed() < patience(), "the upstream is still read from");
    }
    let (rest, _) = client.rest().unwrap();
    assert!(rest.len() < 100_000_000);
    gateway
        .metrics_when("a timeout", |metrics| metrics.sum("bawab_client_timeouts_total", &[("wait", "write")]) == 1.0)
        .unwrap();
}

#[test]
fn an_upstream_that_stops_reading_is_given_up() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[upstream.main]\ntimeout = { idle = \"500ms\" }", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("POST / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 90000000\r\n\r\n").unwrap();
    let mut writer = client.writer().unwrap();
    let sending = std::thread::spawn(move || {
        for _ in 0..1000 {
            if writer.send([b'u'; 90_000]).is_err() {
                return;
            }
        }
    });
    let upstream = origin.accept().unwrap();
    let answer = Message::answer(&mut client, "POST").unwrap();
    assert_eq!(answer.refusal().unwrap(), (504, "upstream_idle_timeout".to_owned()));
    drop((client, upstream));
    sending.join().unwrap();
}

/// A client that waits for a slow upstream is not idle, nor does it send or read too slowly.
#[test]
fn waiting_for_the_upstream_is_not_the_clients_fault() {
    let origin = Origin::tcp().unwrap();
    let config = "[timeouts]\nhead = \"1s\"\nbody_idle = \"1s\"\nkeep_alive = \"1s\"";
    let gateway = Gateway::start(config, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("POST / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    let mut upstream = origin.accept().unwrap();
    Message::request(&mut upstream).unwrap();
    // Nothing may happen for far longer than the client's own waits.
    let quiet = readable(&[client.socket(), upstream.socket()], Duration::from_secs(3)).unwrap();
    assert_eq!(quiet, [false, false]);
    upstream.send(ok("late")).unwrap();
    assert_eq!(Message::answer(&mut client, "POST").unwrap().text(), "late");
}

#[test]
fn a_connection_that_became_too_old_is_told_so_with_its_answer() {
    let origin = Origin::tcp().unwrap();
    let config = "[timeouts]\nconnection_age = \"300ms\"\nkeep_alive = \"300ms\"";
    let gateway = Gateway::start(config, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    // Older than allowed by now; the running exchange is not cut for it.
    assert_eq!(readable(&[client.socket(), upstream.socket()], Duration::from_millis(600)).unwrap(), [false, false]);
    upstream.send(ok("old")).unwrap();
    let answer = Message::answer(&mut client, "GET").unwrap();
    assert_eq!((answer.text().as_str(), answer.head.field("connection")), ("old", Some("close")));
    client.finish().unwrap();
}
