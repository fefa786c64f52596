//! TLS towards clients: which certificate they get, what they may speak, and what becomes of connections that speak nonsense.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e::message::Message;
use e2e::origin::{Serving, echo, ok};
use e2e::peer::End;
use e2e::tls::{Made, certificate, secure, trusting};
use e2e::{Gateway, Origin, Peer};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, version};
use tempfile::TempDir;

const GET: &str = "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

/// A gateway that shows these certificates, in front of an origin that answers with the head it saw.
fn serving(certificates: &[&Made], more: &str) -> (Gateway, Serving) {
    let pairs: Vec<String> = certificates
        .iter()
        .map(|made| format!("{{ cert = \"{}\", key = \"{}\" }}", made.cert.display(), made.key.display()))
        .collect();
    let listener = format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\ncertificates = [{}]\n{more}",
        pairs.join(", ")
    );
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    (Gateway::start(&listener, origin.address()).unwrap(), origin)
}

struct Stand {
    _folder: TempDir,
    api: Made,
    other: Made,
    client: Arc<ClientConfig>,
}

fn stand() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let api = certificate(folder.path(), "api", &["api.example.com", "*.wild.example.com"]).unwrap();
    let other = certificate(folder.path(), "other", &["other.example.com"]).unwrap();
    let client = trusting(&[&api.cert, &other.cert], &[]).unwrap();
    Stand { _folder: folder, api, other, client }
}

fn connect(gateway: &Gateway, name: &str, client: &Arc<ClientConfig>) -> anyhow::Result<Peer> {
    secure(gateway.client()?, name, client)
}

fn ask(peer: &mut Peer, request: &str) -> Message {
    peer.send(request).unwrap();
    Message::answer(peer, "GET").unwrap()
}

#[test]
fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let Stand { api, other, client, .. } = &stand();
    let (gateway, _origin) = serving(&[api, other], "");
    for name in ["api.example.com", "x.wild.example.com", "other.example.com"] {
        let mut peer = connect(&gateway, name, client).unwrap();
        assert_eq!(ask(&mut peer, GET).head.status(), 200, "{name}");
        // Keep-alive holds as it does without TLS.
        assert_eq!(ask(&mut peer, GET).head.status(), 200, "{name}");
    }
    // A wildcard is one label; who asks for somebody unknown sees the first certificate, and is not content.
    for name in ["a.b.wild.example.com", "wild.example.com", "nobody.example.org"] {
        let said = format!("{:#}", connect(&gateway, name, client).err().unwrap());
        assert!(said.contains("invalid peer certificate"), "{name}: {said}");
    }
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_tls_handshakes_total", &[("outcome", "full")]), 3.0);
}

#[test]
fn names_of_no_certificate_can_be_refused() {
    let Stand { api, client, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "unknown_names = \"refuse\"");
    assert!(connect(&gateway, "api.example.com", client).is_ok());
    let said = format!("{:#}", connect(&gateway, "other.example.com", client).err().unwrap());
    assert!(said.contains("received fatal alert"), "{said}");
    let failed = [("outcome", "failed")];
    gateway
        .metrics_when("a handshake failed", |metrics| metrics.sum("bawab_tls_handshakes_total", &failed) == 1.0)
        .unwrap();
}

#[test]
fn services_hear_that_the_client_came_by_https() {
    let Stand { api, client, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "");
    let mut peer = connect(&gateway, "api.example.com", client).unwrap();
    let seen = ask(&mut peer, GET).text().to_lowercase();
    assert!(seen.contains("x-forwarded-proto: https"), "{seen}");
}

#[test]
fn both_versions_are_spoken_unless_only_the_newer_may() {
    let Stand { api, client: _, .. } = &stand();
    let old = trusting(&[&api.cert], &[&version::TLS12]).unwrap();
    let new = trusting(&[&api.cert], &[&version::TLS13]).unwrap();
    let (gateway, _origin) = serving(&[api], "");
    for (client, spoken) in [(&old, ProtocolVersion::TLSv1_2), (&new, ProtocolVersion::TLSv1_3)] {
        let mut peer = connect(&gateway, "api.example.com", client).unwrap();
        assert_eq!(peer.tls().unwrap().protocol_version(), Some(spoken));
        assert_eq!(ask(&mut peer, GET).head.status(), 200);
    }
    let (gateway, _origin) = serving(&[api], "versions = \"modern\"");
    assert!(connect(&gateway, "api.example.com", &new).is_ok());
    assert!(connect(&gateway, "api.example.com", &old).is_err());
}

#[test]
fn a_ticket_spares_the_next_handshake_also_after_a_reload() {
    let Stand { api, client, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "");
    let kind = |expected| {
        let mut peer = connect(&gateway, "api.example.com", client).unwrap();
        // Tickets come with the first answer at the latest.
        assert_eq!(ask(&mut peer, GET).head.status(), 200);
        assert_eq!(peer.tls().unwrap().handshake_kind(), Some(expected));
    };
    kind(HandshakeKind::Full);
    kind(HandshakeKind::Resumed);
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    kind(HandshakeKind::Resumed);
    assert_eq!(gateway.metrics().unwrap().sum("bawab_tls_handshakes_total", &[("outcome", "resumed")]), 2.0);
}

#[test]
fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let Stand { _folder: folder, api, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "");
    let before = trusting(&[&api.cert], &[]).unwrap();
    let mut kept = connect(&gateway, "api.example.com", &before).unwrap();
    assert_eq!(ask(&mut kept, GET).head.status(), 200);
    certificate(folder.path(), "api", &["api.example.com"]).unwrap();
    let after = trusting(&[&api.cert], &[]).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert!(connect(&gateway, "api.example.com", &after).is_ok());
    assert!(connect(&gateway, "api.example.com", &trusting(&[&api.cert], &[]).unwrap()).is_ok());
    assert_eq!(ask(&mut kept, GET).head.status(), 200, "a connection keeps what it began with");
    // The key of another one: refused with both files, and the one before goes on.
    let foreign = certificate(folder.path(), "foreign", &["api.example.com"]).unwrap();
    fs::copy(&foreign.key, &api.key).unwrap();
    let refused = gateway.reload().unwrap();
    assert_eq!(refused.head.status(), 422);
    let said = refused.text();
    assert!(said.contains("listener[0].tls.certificates[0].key: ") && said.contains("is not the key of"), "{said}");
    assert!(connect(&gateway, "api.example.com", &after).is_ok());
}

#[test]
fn a_certificate_that_comes_after_its_name_is_waited_for() {
    let Stand { _folder: folder, .. } = &stand();
    let (late, key) = (folder.path().join("late.pem"), folder.path().join("late.key"));
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start("[gateway]\nwatch = true", origin.address()).unwrap();
    let listener = format!(
        "[gateway]\nwatch = true\n[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n\
         tls.certificates = [{{ cert = \"{}\", key = \"{}\" }}]\n",
        late.display(),
        key.display()
    );
    gateway.rewrite(&listener).unwrap();
    gateway.event("configuration not reloaded; the one before goes on").unwrap();
    let made = certificate(folder.path(), "late", &["api.example.com"]).unwrap();
    gateway.event("configuration reloaded").unwrap();
    let client = trusting(&[&made.cert], &[]).unwrap();
    assert_eq!(ask(&mut connect(&gateway, "api.example.com", &client).unwrap(), GET).head.status(), 200);
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    const BYTES: usize = 5 * 1024 * 1024;
    let Stand { api, client, .. } = &stand();
    let (pair, key) = (api.cert.display(), api.key.display());
    let origin = Origin::tcp().unwrap().answer(|request| {
        assert_eq!(request.body.len(), BYTES);
        e2e::origin::ok(String::from_utf8(request.body.clone()).unwrap())
    });
    let listener = format!(
        "[limits]\nbody_bytes = \"10MiB\"\n[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n\
         tls.certificates = [{{ cert = \"{pair}\", key = \"{key}\" }}]\n"
    );
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    let body: String = (0..BYTES / 8).map(|number| format!("{number:08x}")).collect();
    let mut peer = connect(&gateway, "api.example.com", client).unwrap();
    for _ in 0..2 {
        peer.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BYTES}\r\n\r\n")).unwrap();
        peer.send(&body).unwrap();
        let answer = Message::answer(&mut peer, "POST").unwrap();
        assert_eq!(answer.head.status(), 200);
        assert!(answer.text() == body, "another body came back");
    }
}

#[test]
fn a_tunnel_goes_through_both_ways_and_its_end_is_said() {
    let Stand { api, client, .. } = &stand();
    let origin = Origin::tcp().unwrap();
    let config = format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n\
         tls.certificates = [{{ cert = \"{}\", key = \"{}\" }}]\n\
         [[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\nupgrade = [\"websocket\"]\n",
        api.cert.display(),
        api.key.display()
    );
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let mut peer = connect(&gateway, "api.example.com", client).unwrap();
    peer.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Message::request(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut peer, "GET").unwrap().head.status(), 101);
    // Each side speaks when it likes, more than a record at a time.
    let much = "0123456789abcdef".repeat(8 * 1024);
    for _ in 0..3 {
        peer.send(&much).unwrap();
        assert!(upstream.take(much.len()).unwrap() == much.as_bytes());
        upstream.send(&much).unwrap();
        assert!(peer.take(much.len()).unwrap() == much.as_bytes());
    }
    upstream.fin().unwrap();
    assert_eq!(peer.finish().unwrap(), End::Eof);
}

#[test]
fn what_is_no_tls_ends_at_once_and_nobody_else_notices() {
    let Stand { api, client, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "[timeouts]\ntls_handshake = \"2s\"");
    let mut neighbour = connect(&gateway, "api.example.com", client).unwrap();
    // Plain HTTP where TLS belongs.
    let mut plain = gateway.client().unwrap();
    let answer = ask(&mut plain, GET);
    assert_eq!(answer.refusal().unwrap(), (400, "tls_required".to_owned()));
    // A record that is none, in the middle of a connection.
    let mut garbled = connect(&gateway, "api.example.com", client).unwrap();
    assert_eq!(ask(&mut garbled, GET).head.status(), 200);
    garbled.send_below(&[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5]).unwrap();
    assert!(garbled.fill().is_err() || garbled.ended().is_some());
    // Somebody who never says a thing, and one who stops in the middle of a record.
    let mut silent = gateway.client().unwrap();
    let mut half = gateway.client().unwrap();
    half.send([0x16, 3, 1, 2, 0, 1, 0]).unwrap();
    assert_eq!(silent.finish().unwrap(), End::Eof);
    assert_eq!(half.finish().unwrap(), End::Eof);
    let late = [("wait", "tls_handshake")];
    gateway
        .metrics_when("two were too late", |metrics| metrics.sum("bawab_client_timeouts_total", &late) == 2.0)
        .unwrap();
    assert_eq!(ask(&mut neighbour, GET).head.status(), 200);
}

#[test]
fn handshakes_that_only_begin_keep_nobody_out() {
    const HALF: u8 = 11;
    let Stand { api, client, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "[gateway]\nworkers = 1");
    let to = gateway.address_of("main").unwrap();
    let mut half = Vec::new();
    for host in 1..=HALF {
        for _ in 0..100 {
            let mut peer = Peer::connect_from([127, 0, 1, host].into(), to).unwrap();
            peer.send([0x16]).unwrap();
            half.push(peer);
        }
    }
    let mut peer = connect(&gateway, "api.example.com", client).unwrap();
    assert_eq!(ask(&mut peer, GET).head.status(), 200);
    // The oldest had to go.
    assert_eq!(half[0].finish().unwrap(), End::Eof);
    let cut = [("outcome", "cut")];
    gateway
        .metrics_when("a hundred are cut", |metrics| metrics.sum("bawab_tls_handshakes_total", &cut) >= 100.0)
        .unwrap();
}

#[test]
fn an_end_is_said_before_the_connection_closes() {
    let Stand { api, client, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "[timeouts]\nkeep_alive = \"100ms\"");
    let mut peer = connect(&gateway, "api.example.com", client).unwrap();
    assert_eq!(ask(&mut peer, GET).head.status(), 200);
    assert_eq!(peer.finish().unwrap(), End::Eof);
    let mut peer = connect(&gateway, "api.example.com", client).unwrap();
    ask(&mut peer, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(peer.finish().unwrap(), End::Eof);
}

#[test]
fn routes_may_ask_how_a_client_came() {
    let Stand { api, other, client, .. } = &stand();
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let pair = |made: &Made| format!("{{ cert = \"{}\", key = \"{}\" }}", made.cert.display(), made.key.display());
    let config = format!(
        r#"
        [[listener]]
        name = "main"
        address = "127.0.0.1:0"
        [[listener]]
        name = "tls"
        address = "127.0.0.1:0"
        tls.certificates = [{}, {}]
        [[route]]
        path = "/**"
        priority = 1
        when.scheme = "http"
        redirect = {{ scheme = "https", status = 308 }}
        auth = "none"
        [[route]]
        path = "/orders/**"
        when.sni = ["other.example.com"]
        respond = {{ status = 200, body = "other" }}
        auth = "none"
        [[route]]
        path = "/orders/**"
        respond = {{ status = 200, body = "any" }}
        auth = "none"
        "#,
        pair(api),
        pair(other)
    );
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let moved = gateway.get("/orders/7?a=b").unwrap();
    assert_eq!(moved.head.status(), 308);
    assert!(moved.head.field("location").unwrap().ends_with("/orders/7?a=b"));
    assert!(moved.head.field("location").unwrap().starts_with("https://"));
    let to = gateway.address_of("tls").unwrap();
    for (name, said) in [("api.example.com", "any"), ("other.example.com", "other")] {
        let mut peer = secure(Peer::connect(to).unwrap(), name, client).unwrap();
        assert_eq!(ask(&mut peer, "GET /orders/7 HTTP/1.1\r\nHost: h\r\n\r\n").text(), said);
    }
}

#[test]
fn the_end_of_certificates_is_a_metric() {
    let Stand { api, .. } = &stand();
    let (gateway, _origin) = serving(&[api], "");
    let end = gateway.metrics().unwrap().sum("bawab_tls_certificate_expiry_seconds", &[("name", "api.example.com")]);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    assert!(end > (now + Duration::from_secs(86_400)).as_secs_f64(), "{end}");
}

#[test]
fn files_that_will_not_do_are_named_with_the_reason() {
    let Stand { _folder: folder, api, other, .. } = &stand();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("empty.pem"), "").unwrap();
    fs::write(path("cut.pem"), "-----BEGIN CERTIFICATE-----\nMIIB\n").unwrap();
    fs::write(path("locked.key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .unwrap();
    let over = e2e::tls::certificate_with(folder.path(), "over", &["api.example.com"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    })
    .unwrap();
    let check = |cert: &Path, key: &Path| {
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener.tls.certificates]]\ncert = \"{}\"\nkey = \"{}\"\n\
             [[route]]\npath = \"/**\"\nauth = \"none\"\nrespond = {{ status = 200 }}\n",
            cert.display(),
            key.display()
        );
        fs::write(path("gateway.toml"), config).unwrap();
        let file = path("gateway.toml");
        let output = std::process::Command::new(e2e::binary::path()).arg("check").arg(file).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for (cert, key, said) in [
        (path("nowhere.pem"), api.key.clone(), "No such file"),
        (path("empty.pem"), api.key.clone(), "it holds no certificate in PEM"),
        (path("cut.pem"), api.key.clone(), "a beginning and no end"),
        (api.key.clone(), api.key.clone(), "it holds a private key and no certificate"),
        (api.cert.clone(), api.cert.clone(), "it holds a certificate and no private key"),
        (api.cert.clone(), path("locked.key"), "the key is encrypted"),
        (api.cert.clone(), other.key.clone(), "is not the key of the certificate in"),
        (over.cert, over.key, "it is over since 2020-01-01"),
    ] {
        let found = check(&cert, &key);
        assert!(found.contains(said), "no `{said}` in\n{found}");
    }
}
