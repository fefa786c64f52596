//! Which HTTP is agreed on with a service within TLS, and what becomes of requests when that changes.

use std::sync::Arc;

use bytes::Bytes;
use e2e::http2::{Client, END_HEADERS, END_STREAM, Frames, kind, on};
use e2e::http2_service::Reply;
use e2e::message::{Head, Message};
use e2e::origin::ok;
use e2e::tls::{Authority, serving};
use e2e::{Gateway, Http2Service, Origin, Peer};
use http::Request;
use rustls::ServerConfig;
use tempfile::TempDir;

/// What a service is asked by in tests of this file.
struct Stand {
    _folder: TempDir,
    authority: Authority,
    books: e2e::tls::Made,
}

fn stand() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority").unwrap();
    let books = authority.service("books", 7, &["127.0.0.1"], |_| {}).unwrap();
    Stand { _folder: folder, authority, books }
}

impl Stand {
    /// A service that speaks these.
    fn speaking(&self, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = serving(&self.books, &[], None).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    fn before(&self, address: &str, keys: &str, route: &str) -> Gateway {
        let config = format!(
            "[upstream.main]\n{keys}\n[upstream.main.timeout]\nconnect = \"10s\"\n[upstream.main.tls]\nca = \"{}\"\n\
             [[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\n{route}",
            self.authority.cert.display()
        );
        Gateway::start(&config, address).unwrap()
    }
}

/// The next connection, agreed on as `config` says, and on what.
fn agreed(origin: &Origin, config: &Arc<ServerConfig>) -> (Peer, String) {
    let mut peer = origin.accept().unwrap();
    peer.accept_tls(config).unwrap();
    let protocol = peer.tls().unwrap().alpn_protocol().map(|protocol| String::from_utf8(protocol.to_vec()).unwrap());
    (peer, protocol.unwrap_or_default())
}

fn asking(gateway: &Gateway, request: &str) -> Peer {
    let mut client = gateway.client().unwrap();
    client.send(request).unwrap();
    client
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// Answers the next stream with 204.
fn answer(frames: &mut Frames) {
    let stream = frames.request().unwrap().stream;
    // `:status: 204` (RFC 7541, appendix A).
    frames.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, &[0x89]).unwrap();
}

fn status(mut client: Peer) -> u16 {
    Message::answer(&mut client, "GET").unwrap().head.status()
}

#[test]
fn requests_share_a_connection_where_http2_is_agreed_on() {
    let stand = stand();
    for keys in ["", "protocol = \"auto\"", "protocol = \"http2\""] {
        let config = match keys {
            "protocol = \"http2\"" => stand.speaking(&[b"h2"]),
            _ => stand.speaking(&[b"h2", b"http/1.1"]),
        };
        let echo = |asked: &e2e::http2_service::Asked| Reply::ok(format!("{} {}", asked.head.uri(), asked.body.len()));
        let service = Http2Service::answer_over(Some(config), echo).unwrap();
        let gateway = stand.before(&service.address(), keys, "");
        let to = gateway.address_of("main").unwrap();
        on(async {
            let client = Client::connect(to).await.unwrap();
            let asked = (0..20).map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let body = Bytes::from(vec![b'x'; 50_000]);
                    let request = Request::post(format!("http://h/{number}")).body(()).unwrap();
                    let answer = client.send(request, body, None).await.unwrap();
                    assert_eq!(
                        (answer.status.as_u16(), &*answer.body),
                        (200, format!("https://h/{number} 50000").as_bytes())
                    );
                })
            });
            for asked in asked.collect::<Vec<_>>() {
                asked.await.unwrap();
            }
        });
        assert_eq!(service.connections(), 1, "{keys}");
        let metrics = gateway.metrics().unwrap();
        let labels = [("upstream", "main"), ("outcome", "full")];
        assert_eq!(metrics.sum("bawab_upstream_tls_handshakes_total", &labels), 1.0);
        assert_eq!(metrics.sum("bawab_upstream_connects_total", &[]), 1.0);
        assert_eq!(metrics.sum("bawab_upstream_reused_total", &[]), 19.0);
    }
}

#[test]
fn a_tunnel_gets_a_connection_of_http1_beside_those_of_http2() {
    let stand = stand();
    let both = stand.speaking(&[b"h2", b"http/1.1"]);
    let origin = Origin::tcp().unwrap();
    let gateway = stand.before(origin.address(), "", "upgrade = [\"websocket\"]\n");
    let client = asking(&gateway, GET);
    let (peer, protocol) = agreed(&origin, &both);
    assert_eq!(protocol, "h2");
    let mut frames = Frames::accept(peer, &[]).unwrap();
    answer(&mut frames);
    assert_eq!(status(client), 204);
    let mut tunnel = asking(&gateway, "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let (mut peer, protocol) = agreed(&origin, &both);
    assert_eq!(protocol, "http/1.1");
    Head::read(&mut peer).unwrap();
    peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello").unwrap();
    assert_eq!(Message::answer(&mut tunnel, "GET").unwrap().head.status(), 101);
    assert_eq!(tunnel.take(5).unwrap(), b"hello");
    // The others go on where they were.
    let client = asking(&gateway, GET);
    answer(&mut frames);
    assert_eq!(status(client), 204);
}

#[test]
fn what_a_service_speaks_may_change_with_each_connection() {
    let stand = stand();
    let (one, two) = (stand.speaking(&[b"http/1.1"]), stand.speaking(&[b"h2"]));
    let origin = Origin::tcp().unwrap();
    let gateway = stand.before(origin.address(), "", "");
    for _ in 0..3 {
        // Several at once, of whom nobody knows yet what is spoken.
        let clients = [asking(&gateway, GET), asking(&gateway, GET)];
        for _ in 0..2 {
            let (mut peer, protocol) = agreed(&origin, &one);
            assert_eq!(protocol, "http/1.1");
            Message::request(&mut peer).unwrap();
            peer.send(ok("one")).unwrap();
            peer.close().unwrap();
        }
        for client in clients {
            assert_eq!(status(client), 200);
        }
        // Known to speak HTTP/1.1, it does so no more.
        let client = asking(&gateway, GET);
        let (peer, protocol) = agreed(&origin, &two);
        assert_eq!(protocol, "h2");
        let mut frames = Frames::accept(peer, &[]).unwrap();
        answer(&mut frames);
        assert_eq!(status(client), 204);
        let client = asking(&gateway, GET);
        answer(&mut frames);
        assert_eq!(status(client), 204);
        frames.peer.close().unwrap();
        gateway
            .metrics_when("no connection that is kept", |metrics| {
                metrics.sum("bawab_upstream_connections_idle", &[]) == 0.0
            })
            .unwrap();
    }
}
