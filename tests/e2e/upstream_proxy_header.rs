//! PROXY headers towards services (`proxy_protocol` of an upstream): what a connection begins with, and whom it serves.

use std::net::IpAddr;

use e2e::http2::{END_HEADERS, END_STREAM, Frames, kind};
use e2e::message::{Head, Message};
use e2e::origin::ok;
use e2e::{Gateway, Origin, Peer};

fn gateway(version: &str, more: &str, origin: &Origin) -> Gateway {
    let overrides = format!("[upstream.main]\nproxy_protocol = \"{version}\"\n{more}");
    Gateway::start(&overrides, origin.address()).unwrap()
}

/// A client at this address that has asked for `path`.
fn asking(gateway: &Gateway, from: &str, path: &str) -> Peer {
    let from: IpAddr = from.parse().unwrap();
    let mut client = Peer::connect_from(from, gateway.address_of("main").unwrap()).unwrap();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    client
}

fn port(origin: &Origin) -> u16 {
    origin.address().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn a_connection_says_whom_it_serves_and_serves_nobody_else() {
    let origin = Origin::tcp().unwrap();
    let gateway = gateway("v1", "", &origin);
    let line = |address: &str| format!("PROXY TCP4 {address} 127.0.0.1 0 {}\r\n", port(&origin)).into_bytes();
    let mut client = asking(&gateway, "127.0.0.2", "/1");
    let mut first = origin.accept().unwrap();
    assert_eq!(first.take_through(b"\r\n").unwrap(), line("127.0.0.2"));
    assert!(Head::read(&mut first).unwrap().start.starts_with("GET /1 "));
    first.send(ok("1")).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().body, b"1");
    // Another client of the same address goes by the same connection, which says it once.
    let mut client = asking(&gateway, "127.0.0.2", "/2");
    assert!(Head::read(&mut first).unwrap().start.starts_with("GET /2 "));
    first.send(ok("2")).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().body, b"2");
    // One of another address does not, though that connection is free.
    let mut other = asking(&gateway, "127.0.0.3", "/3");
    let mut second = origin.accept().unwrap();
    assert_eq!(second.take_through(b"\r\n").unwrap(), line("127.0.0.3"));
    Head::read(&mut second).unwrap();
    second.send(ok("3")).unwrap();
    assert_eq!(Message::answer(&mut other, "GET").unwrap().body, b"3");
}

#[test]
fn the_binary_form_goes_before_the_preface_of_http2() {
    let origin = Origin::tcp().unwrap();
    let gateway = gateway("v2", "protocol = \"http2\"", &origin);
    let mut client = asking(&gateway, "127.0.0.4", "/");
    let mut peer = origin.accept().unwrap();
    let header = peer.take(28).unwrap();
    assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(header[12..24], [0x21, 0x11, 0, 12, 127, 0, 0, 4, 127, 0, 0, 1]);
    assert_eq!(header[24..], [&[0, 0][..], &port(&origin).to_be_bytes()].concat());
    let mut service = Frames::accept(peer, &[]).unwrap();
    let asked = service.request().unwrap();
    service.send(kind::HEADERS, END_HEADERS | END_STREAM, asked.stream, &[0x88]).unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 200);
}

#[test]
fn a_check_says_that_it_serves_nobody() {
    let origin = Origin::tcp().unwrap();
    let _gateway = gateway("v1", "health = { http = \"/healthz\" }", &origin);
    let mut peer = origin.accept().unwrap();
    assert_eq!(peer.take_through(b"\r\n").unwrap(), b"PROXY UNKNOWN\r\n");
    assert!(Head::read(&mut peer).unwrap().start.starts_with("GET /healthz "));
}
