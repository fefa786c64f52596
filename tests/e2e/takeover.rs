//! A new process takes over the sockets of the one before it: no connection is refused, reset or left without an answer.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use e2e::gateway::end;
use e2e::message::{Head, Message};
use e2e::{Gateway, Origin, Peer, origin};
use rustix::process::{Signal, kill_process};

const GET: &str = "GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n";

#[test]
fn what_runs_is_finished_by_the_old_and_what_comes_is_served_by_the_new() {
    let origin = Origin::tcp().unwrap();
    let mut gateway = Gateway::start("", origin.address()).unwrap();
    let mut streaming = gateway.client().unwrap();
    streaming.send(GET).unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").unwrap();
    gateway.signal(Signal::USR2).unwrap();
    let successor = gateway.successor(1).unwrap();
    assert_ne!(successor, gateway.pid().unwrap());
    gateway.event_again("ready", 2).unwrap();
    let mut new = gateway.client().unwrap();
    new.send(GET).unwrap();
    let mut second = origin.accept().unwrap();
    Head::read(&mut second).unwrap();
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew").unwrap();
    let answer = Message::answer(&mut new, "GET").unwrap();
    assert_eq!(answer.text(), "new");
    assert_eq!(answer.head.field("connection"), None, "the new one keeps its connections");
    upstream.send("4\r\nlast\r\n0\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut streaming, "GET").unwrap().text(), "firstlast");
    streaming.finish().unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(0), "{}", gateway.said());
    // The admin socket is the new one's now, in its old place.
    assert_eq!(gateway.admin("/readyz").unwrap().head.status(), 200);
    assert!(end(successor, Signal::TERM));
    assert!(!gateway.dir().join("admin.sock").exists());
}

#[test]
fn a_kept_connection_is_told_with_its_next_answer() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send(GET).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.field("connection"), None);
    gateway.signal(Signal::USR2).unwrap();
    gateway.event("draining").unwrap();
    client.send(GET).unwrap();
    let answer = Message::answer(&mut client, "GET").unwrap();
    assert_eq!(answer.head.field("connection"), Some("close"));
    client.finish().unwrap();
}

#[test]
fn a_program_that_does_not_start_changes_nothing() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("[gateway]\nwatch = false", origin.address()).unwrap();
    let whole = fs::read_to_string(gateway.config_file()).unwrap();
    fs::write(gateway.config_file(), "nonsense").unwrap();
    gateway.signal(Signal::USR2).unwrap();
    let event = gateway.event("the new process did not take over; this one goes on").unwrap();
    assert!(event["why"].as_str().unwrap().contains("exit status: 1"), "{event}");
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
    // And it can be tried again.
    fs::write(gateway.config_file(), whole).unwrap();
    gateway.signal(Signal::USR2).unwrap();
    gateway.successor(1).unwrap();
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
}

#[test]
fn a_new_configuration_comes_with_the_new_process() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let mut gateway = Gateway::start("[gateway]\nwatch = false", origin.address()).unwrap();
    let listeners = "[[listener]]\nname = \"second\"\naddress = \"127.0.0.2:0\"\n";
    gateway.rewrite(&format!("[gateway]\nworkers = 3\n{listeners}")).unwrap();
    gateway.signal(Signal::USR2).unwrap();
    gateway.successor(1).unwrap();
    // What it does not listen on any more is closed by the old one.
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
    assert!(Peer::connect(gateway.address_of("main").unwrap()).is_err());
    let mut client = Peer::connect(gateway.address_of("second").unwrap()).unwrap();
    client.send(GET).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 200);
    assert_eq!(gateway.metrics().unwrap().sum("bawab_workers", &[]), 3.0);
}

#[test]
fn one_process_after_the_other_loses_no_request() {
    const TIMES: usize = 5;
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let mut gateway = Gateway::start("[gateway]\nworkers = 2", origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap();
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for keeps in [true, true, false, false] {
            let (done, asked) = (&done, &asked);
            scope.spawn(move || {
                let mut client = Peer::connect(address).unwrap();
                while !done.load(Ordering::Relaxed) {
                    client.send(GET).unwrap();
                    let answer = Message::answer(&mut client, "GET").unwrap();
                    assert_eq!(answer.head.status(), 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !keeps || answer.head.field("connection") == Some("close") {
                        client = Peer::connect(address).unwrap();
                    }
                }
            });
        }
        let mut current = gateway.pid().unwrap();
        for time in 1..=TIMES {
            kill_process(current, Signal::USR2).unwrap();
            current = gateway.successor(time).unwrap();
            gateway.event_again("drained", time).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
    assert!(asked.into_inner() > 10 * TIMES);
}
