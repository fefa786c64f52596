//! Many clients at once: each gets its own answer, whatever the others do, and nothing is left behind.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::message::Message;
use e2e::origin::{Serving, ok};
use e2e::{End, Gateway, Origin, Peer, patience};

/// Answers with the path and what the body was, now and then chunked or in two writes.
fn talkative() -> Serving {
    Origin::tcp().unwrap().serve(|peer| {
        peer.set_patience(Duration::from_secs(600));
        while let Ok(request) = Message::request(peer) {
            let path = request.head.start.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = format!("{path} {}", request.text());
            if path.ends_with("/chunked") {
                peer.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()))?;
                peer.send(format!("{body}\r\n0\r\n\r\n"))?;
            } else if path.ends_with("/hang-up") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nonly this")?;
                return Ok(());
            } else {
                peer.send(ok(body))?;
            }
        }
        Ok(())
    })
}

fn ask(client: &mut Peer, path: &str, body: &str) -> Result<()> {
    client.send(format!("POST {path} HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: {}\r\n\r\n{body}", body.len()))?;
    let answer = Message::answer(client, "POST")?;
    ensure!(answer.text() == format!("{path} {body}"), "asked for {path}, got {}", answer.text());
    Ok(())
}

#[test]
fn no_answer_reaches_another_client() {
    const CLIENTS: usize = 32;
    const REQUESTS: usize = 60;
    let origin = talkative();
    let gateway = Gateway::start("[gateway]\nworkers = 2", origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap();
    let play = |at: usize| -> Result<()> {
        let mut client = Peer::connect(address)?;
        for round in 0..REQUESTS {
            let own = format!("/{at}/{round}");
            match (at + round) % 8 {
                // Leaves in the middle of an answer that is cut as well.
                0 => {
                    client.send(format!("GET {own}/hang-up HTTP/1.1\r\nHost: e2e.test\r\n\r\n"))?;
                    if round % 2 == 0 {
                        client.reset()?;
                    } else {
                        client.rest()?;
                    }
                    client = Peer::connect(address)?;
                }
                // Leaves in the middle of its own body.
                1 => {
                    client.send("POST / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 100\r\n\r\nabc")?;
                    client = Peer::connect(address)?;
                }
                // Is refused.
                2 => {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")?;
                    ensure!(Message::answer(&mut client, "GET")?.refusal()?.1 == "host_repeated");
                    client = Peer::connect(address)?;
                }
                3 => ask(&mut client, &format!("{own}/chunked"), &"b".repeat(round * 50))?,
                _ => ask(&mut client, &own, &format!("body of {at} {round}"))?,
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let players: Vec<_> = (0..CLIENTS).map(|at| scope.spawn(move || play(at))).collect();
        for player in players {
            player.join().unwrap().unwrap();
        }
    });
    gateway
        .metrics_when("no connection and no exchange", |metrics| {
            metrics.sum("bawab_connections_open", &[]) == 0.0 && metrics.sum("bawab_requests_in_flight", &[]) == 0.0
        })
        .unwrap();
    assert_eq!(gateway.metrics().unwrap().sum("bawab_task_panics_total", &[]), 0.0);
}

/// A burst of clients that all leave badly must not leave descriptors or buffers behind.
#[test]
fn exchanges_that_end_badly_leave_nothing_behind() {
    let origin = talkative();
    let gateway = Gateway::start("[upstream.main]\npool = { idle_max = 0 }", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    ask(&mut client, "/warm", "x").unwrap();
    drop(client);
    gateway.metrics_when("no connections", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
    let before = gateway.descriptors().unwrap();
    for round in 0..40 {
        let mut clients: Vec<_> = (0..5).map(|_| gateway.client().unwrap()).collect();
        clients[0].send("GET / HT").unwrap();
        clients[1].send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").unwrap();
        clients[2].send("GET /hang-up HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        clients[3].send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        clients[4].send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").unwrap();
        for client in clients {
            if round % 2 == 0 { client.reset().unwrap() } else { drop(client) }
        }
    }
    gateway
        .metrics_when("no connections and no exchanges", |metrics| {
            metrics.sum("bawab_connections_open", &[]) == 0.0 && metrics.sum("bawab_requests_in_flight", &[]) == 0.0
        })
        .unwrap();
    let deadline = Instant::now() + patience();
    while gateway.descriptors().unwrap() > before + 2 {
        assert!(Instant::now() < deadline, "{} descriptors, before {before}", gateway.descriptors().unwrap());
        std::thread::yield_now();
    }
    gateway.metrics_when("the warm buffers only", |metrics| metrics.sum("bawab_buffers_live", &[]) <= 2.0).unwrap();
}

/// An idle connection costs a socket and a little state, no buffer.
#[test]
fn idle_connections_hold_no_buffers() {
    let origin = talkative();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut idle = Vec::new();
    for at in 0..200 {
        let mut client = gateway.client().unwrap();
        ask(&mut client, &format!("/{at}"), "x").unwrap();
        idle.push(client);
    }
    gateway.metrics_when("no buffers", |metrics| metrics.sum("bawab_buffers_live", &[]) <= 2.0).unwrap();
    for (at, client) in idle.iter_mut().enumerate() {
        ask(client, &format!("/again/{at}"), "y").unwrap();
    }
}

/// 2,000 connections opened and closed at once: none is forgotten half-way through accept.
#[test]
fn connections_that_close_at_once_are_forgotten() {
    let origin = talkative();
    let gateway = Gateway::start("", origin.address()).unwrap();
    for at in 0..2000 {
        let client = gateway.client().unwrap();
        if at % 2 == 0 {
            client.reset().unwrap();
        }
    }
    gateway.metrics_when("no connections", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
    let mut client = gateway.client().unwrap();
    ask(&mut client, "/still", "here").unwrap();
    client.fin().unwrap();
    assert_eq!(client.finish().unwrap(), End::Eof);
}
