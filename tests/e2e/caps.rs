//! Bounds on connections: one more is closed at accept, and room that becomes free is used again.

use e2e::origin::ok;
use e2e::{Gateway, Origin, Peer};

fn origin() -> e2e::origin::Serving {
    Origin::tcp().unwrap().answer(|_| ok("x"))
}

/// A client that is connected for sure: it was answered.
fn served(gateway: &Gateway, from: &str) -> anyhow::Result<Peer> {
    let mut client = Peer::connect_from(from.parse()?, gateway.address_of("main")?)?;
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n")?;
    e2e::message::Message::answer(&mut client, "GET")?;
    Ok(client)
}

#[test]
fn one_connection_more_than_allowed_is_closed_and_counted() {
    let origin = origin();
    let gateway = Gateway::start("[limits]\nconnections = 3", origin.address()).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| served(&gateway, "127.0.0.1").unwrap()).collect();
    // Closed at accept: without an answer, even to a request.
    let mut refused = gateway.client().unwrap();
    let (came, _) = refused.rest().unwrap();
    assert!(came.is_empty(), "{}", came.escape_ascii());
    gateway
        .metrics_when("one connection refused", |metrics| {
            metrics.sum("bawab_connections_refused_total", &[("reason", "total_limit")]) == 1.0
        })
        .unwrap();

    drop(clients.pop());
    gateway.metrics_when("two open connections", |metrics| metrics.sum("bawab_connections_open", &[]) == 2.0).unwrap();
    served(&gateway, "127.0.0.1").unwrap();
}

#[test]
fn one_connection_more_from_one_address_is_closed_and_others_are_served() {
    let origin = origin();
    let gateway = Gateway::start("[limits]\nconnections_per_address = 2", origin.address()).unwrap();
    let mut clients: Vec<_> = (0..2).map(|_| served(&gateway, "127.0.0.2").unwrap()).collect();
    let mut refused = Peer::connect_from("127.0.0.2".parse().unwrap(), gateway.address_of("main").unwrap()).unwrap();
    assert!(refused.rest().unwrap().0.is_empty());
    served(&gateway, "127.0.0.3").unwrap();
    gateway
        .metrics_when("one connection refused", |metrics| {
            metrics.sum("bawab_connections_refused_total", &[("reason", "address_limit")]) == 1.0
        })
        .unwrap();

    clients.clear();
    gateway.metrics_when("no open connections", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
    served(&gateway, "127.0.0.2").unwrap();
}

/// The table of addresses is shared: two workers do not make twice the room.
#[test]
fn the_bound_holds_over_all_workers() {
    let origin = origin();
    let config = "[gateway]\nworkers = 2\n[limits]\nconnections_per_address = 4";
    let gateway = Gateway::start(config, origin.address()).unwrap();
    let open: Vec<_> = (0..20).filter_map(|_| served(&gateway, "127.0.0.4").ok()).collect();
    assert_eq!(open.len(), 4);
}
