//! A new process takes over the sockets of the one before it: no connection is refused, reset or left without an answer.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use e2e::gateway::{end, started_with};
use e2e::message::{Head, Message};
use e2e::{Gateway, Kept, Origin, Peer, origin, patience, root};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal, kill_process};

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
    let mut answer = || {
        client.send(GET).unwrap();
        Message::answer(&mut client, "GET").unwrap()
    };
    assert_eq!(answer().head.field("connection"), None);
    gateway.signal(Signal::USR2).unwrap();
    // Without a pause, however long the new process takes: who is silent for a second is let go by the old one.
    let deadline = Instant::now() + patience();
    while answer().head.field("connection") != Some("close") {
        assert!(Instant::now() < deadline, "it is never told");
    }
    client.finish().unwrap();
    gateway.successor(1).unwrap();
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

/// Whoever stops the service means all of it, whatever was about to take over.
#[test]
fn a_stop_while_the_new_process_starts_ends_both() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let mut gateway = Gateway::start("[gateway]\nwatch = false", origin.address()).unwrap();
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
    // The new process waits for somebody to write its configuration, for as long as the test likes.
    let whole = fs::read(gateway.config_file()).unwrap();
    fs::remove_file(gateway.config_file()).unwrap();
    mknodat(CWD, gateway.config_file(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    gateway.signal(Signal::USR2).unwrap();
    gateway.event("a new process is started to take over").unwrap();
    // Without a reader it does not open.
    let deadline = Instant::now() + patience();
    let mut writer = loop {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        match fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(gateway.config_file()) {
            Ok(writer) => break writer,
            Err(error) => assert!(Instant::now() < deadline, "the new process does not read: {error}"),
        }
        std::thread::yield_now();
    };
    let old = gateway.pid().unwrap();
    let new: Vec<Pid> = started_with(&gateway.config_file()).into_iter().filter(|pid| *pid != old).collect();
    let [new] = new[..] else { panic!("one process starts: {new:?}") };
    gateway.signal(Signal::TERM).unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(0), "{}", gateway.said());
    writer.write_all(&whole).unwrap();
    drop(writer);
    root::gone(new).unwrap();
    assert_eq!(started_with(&gateway.config_file()), []);
    assert!(gateway.client().is_err(), "somebody listens still");
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
                let mut client = Kept::connect(address).unwrap();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.ask(GET).unwrap().head.status(), 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !keeps {
                        client.reconnect().unwrap();
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
