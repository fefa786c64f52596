//! TLS towards services: who passes for one, who does not and how that is told, and what becomes of connections and files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use e2e::message::{Head, Message};
use e2e::origin::{Serving, ok};
use e2e::peer::End;
use e2e::tls::{Authority, Made, certificate, certificate_with, secure, serving, trusting};
use e2e::{Gateway, Origin, Peer, binary};
use rcgen::date_time_ymd;
use rustls::{Connection, HandshakeKind, ProtocolVersion, ServerConfig, version};
use tempfile::TempDir;

/// Begins the table. Handshakes of many cases at once take their time.
const TLS: &str = "[upstream.main.timeout]\nconnect = \"10s\"\n[upstream.main.tls]\n";

/// A folder with an authority, and a certificate of it for 127.0.0.1 and `books.internal`.
struct Stand {
    folder: TempDir,
    authority: Authority,
    books: Made,
}

const NAMES: &[&str] = &["127.0.0.1", "books.internal"];

fn stand() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority").unwrap();
    let books = authority.service("books", 7, NAMES, |_| {}).unwrap();
    Stand { folder, authority, books }
}

impl Stand {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The key by which the stand's authority is trusted.
    fn ca(&self) -> String {
        format!("ca = \"{}\"\n", self.authority.cert.display())
    }
}

/// What a service sees of whom it speaks to.
fn seen(peer: &Peer) -> String {
    let Some(tls @ Connection::Server(server)) = peer.tls() else { return "plain".to_owned() };
    format!(
        "sni={} version={} alpn={} resumed={} client={}",
        server.server_name().unwrap_or("none"),
        if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) { "1.3" } else { "1.2" },
        String::from_utf8_lossy(tls.alpn_protocol().unwrap_or(b"none")),
        tls.handshake_kind() == Some(HandshakeKind::Resumed),
        tls.peer_certificates().is_some(),
    )
}

/// A service that speaks TLS as `config` says, and answers with what it sees.
fn service(config: ServerConfig) -> Serving {
    let config = Arc::new(config);
    Origin::tcp().unwrap().serve(move |peer| {
        peer.set_patience(Duration::from_secs(600));
        peer.accept_tls(&config)?;
        while Message::request(peer).is_ok() {
            let answer = ok(seen(peer));
            peer.send(answer)?;
        }
        Ok(())
    })
}

fn showing(own: &Made) -> Serving {
    let mut config = serving(own, &[], None).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    service(config)
}

/// A gateway whose upstream has `tls`, and whatever stands behind that.
fn before(origin: &Serving, tls: &str) -> Gateway {
    Gateway::start(&format!("{TLS}{tls}"), origin.address()).unwrap()
}

/// What the service says it saw.
fn passes(gateway: &Gateway) -> String {
    let answer = gateway.get("/").unwrap();
    assert_eq!(answer.head.status(), 200, "{}\n{}", answer.text(), gateway.said());
    answer.text()
}

/// Asks, is refused, and returns what the access log says about it.
fn is_refused(gateway: &Gateway, name: &str, reason: &str) -> String {
    let answer = gateway.get("/").unwrap();
    assert_eq!(answer.refusal().unwrap(), (502, "upstream_tls_failed".to_owned()), "{name}");
    let line = gateway.access_log().unwrap().find(|line| line["refusal"] == "upstream_tls_failed").unwrap();
    assert_eq!((&line["ended_by"], &line["status"]), (&"upstream".into(), &502.into()), "{name}");
    let labels = [("upstream", "main"), ("reason", reason)];
    let metrics = gateway.metrics().unwrap();
    let (this, all) = ("bawab_upstream_tls_failures_total", [("upstream", "main")]);
    assert!(metrics.sum(this, &labels) >= 1.0, "{name}: not counted as {reason}: {}", metrics.counted());
    assert_eq!(metrics.sum(this, &labels), metrics.sum(this, &all), "{name}: counted as something else");
    // Nothing of why is the client's business.
    let detail = line["detail"].as_str().unwrap().to_owned();
    assert!(!answer.text().contains(&detail), "{name}");
    detail
}

#[test]
fn a_service_is_verified_by_its_address_or_its_name() {
    let stand = stand();
    let origin = showing(&stand.books);
    let gateway = before(&origin, &stand.ca());
    // An address is verified and not sent.
    assert_eq!(passes(&gateway), "sni=none version=1.3 alpn=http/1.1 resumed=false client=false");
    let metrics = gateway.metrics().unwrap();
    let full = [("upstream", "main"), ("outcome", "full")];
    assert_eq!(metrics.sum("bawab_upstream_tls_handshakes_total", &full), 1.0);
    assert_eq!(metrics.max("bawab_upstream_tls_unverified"), Some(0.0));
    // Its connection is kept as any other.
    passes(&gateway);
    assert_eq!(origin.connections(), 1);

    let gateway = before(&origin, &format!("{}server_name = \"Books.Internal\"", stand.ca()));
    assert_eq!(passes(&gateway), "sni=books.internal version=1.3 alpn=http/1.1 resumed=false client=false");

    // The host of the endpoint, as it is written.
    let local = stand.authority.service("local", 8, &["localhost"], |_| {}).unwrap();
    let origin = showing(&local);
    let port = origin.address().rsplit_once(':').unwrap().1;
    let config = format!("[upstream.main]\nretry = {{ attempts_max = 3 }}\n{TLS}{}", stand.ca());
    let gateway = Gateway::start(&config, &format!("localhost:{port}")).unwrap();
    assert!(passes(&gateway).starts_with("sni=localhost "));
}

#[test]
fn who_is_not_the_service_gets_no_request_and_the_log_says_why() {
    let stand = stand();
    let other = Authority::new(stand.path(), "other").unwrap();
    let made = |name: &str, names: &[&str], change: &dyn Fn(&mut rcgen::CertificateParams)| {
        stand.authority.service(name, 9, names, |params| change(params)).unwrap()
    };
    let wrong_name = made("wrong", &["films.internal"], &|_| {});
    let over = made("over", NAMES, &|params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 2, 3);
    });
    let early = made("early", NAMES, &|params| params.not_before = date_time_ymd(2090, 1, 1));
    let client = made("client", NAMES, &|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let foreign = other.service("foreign", 1, NAMES, |_| {}).unwrap();
    let own = certificate(stand.path(), "own", NAMES).unwrap();
    let crl = |name: &str, list: Vec<u8>| {
        let file = stand.path().join(name);
        fs::write(&file, list).unwrap();
        format!("crl = [\"{}\"]\n", file.display())
    };
    let revoking = crl("revoking.crl", stand.authority.list(&[7], 2090).unwrap());
    let old = crl("old.crl", stand.authority.list(&[], 2021).unwrap());
    let elsewhere = crl("elsewhere.crl", other.list(&[], 2090).unwrap());
    let pin = "pins = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n";
    let cases: [(&str, &Made, &str, &str, &str); 11] = [
        ("another name", &wrong_name, "", "name", "certificate not valid for name \"127.0.0.1\""),
        ("over", &over, "", "expired", "certificate expired: it was good until 2021-02-03T00:00:00"),
        ("too early", &early, "", "not_yet_valid", "certificate not valid yet: it begins at 2090-01-01T00:00:00"),
        ("for clients", &client, "", "certificate", "invalid certificate: "),
        ("another authority's", &foreign, "", "unknown_issuer", "unknown issuer"),
        ("its own", &own, "", "unknown_issuer", "unknown issuer"),
        ("revoked", &stand.books, &revoking, "revoked", "certificate revoked"),
        (
            "a list that is over",
            &stand.books,
            &old,
            "revocation_unknown",
            "the revocation list is over since 2021-01-01",
        ),
        ("a list of others", &stand.books, &elsewhere, "revocation_unknown", "no revocation list is of"),
        ("another key", &stand.books, pin, "pin", "pin mismatch"),
        ("a name of mine", &stand.books, "server_name = \"x.internal\"\n", "name", "not valid for name \"x.internal\""),
    ];
    for (name, own, keys, reason, words) in cases {
        let origin = showing(own);
        let gateway = before(&origin, &format!("{}{keys}", stand.ca()));
        let detail = is_refused(&gateway, name, reason);
        assert!(detail.contains(words), "{name}: {detail}");
    }
    // The same list lets those pass that are not on it.
    let fine = showing(&made("fine", NAMES, &|_| {}));
    passes(&before(&fine, &format!("{}{revoking}", stand.ca())));
}

#[test]
fn keys_can_be_pinned_also_those_that_nobody_vouches_for() {
    let stand = stand();
    let own = certificate_with(stand.path(), "own", &["elsewhere.internal"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    })
    .unwrap();
    let origin = showing(&own);
    let good = format!(
        "pins = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\", \"{}\"]\n",
        e2e::tls::pin(&own).unwrap()
    );
    let any = "danger_accept_any_certificate = true\n";
    // A pin is beside all else, not in its place.
    is_refused(&before(&origin, &format!("{}{good}", stand.ca())), "pinned and over", "expired");
    passes(&before(&origin, &format!("{any}{good}")));
    let another = format!("pins = [\"{}\"]\n", e2e::tls::pin(&stand.books).unwrap());
    is_refused(&before(&origin, &format!("{any}{another}")), "any, and another key", "pin");
    // Of an authority, and pinned.
    let origin = showing(&stand.books);
    passes(&before(&origin, &format!("{}{another}", stand.ca())));
}

#[test]
fn any_certificate_is_taken_only_where_that_is_written_and_it_is_loud() {
    let stand = stand();
    let own = certificate(stand.path(), "own", &["elsewhere.internal"]).unwrap();
    let origin = showing(&own);
    let gateway = before(&origin, "danger_accept_any_certificate = true");
    passes(&gateway);
    let warning = gateway.event("in the configuration").unwrap();
    assert_eq!(warning["level"], "WARN");
    let said = warning["warning"].as_str().unwrap();
    assert!(said.contains("upstream.main.tls.danger_accept_any_certificate: any certificate is taken"), "{said}");
    assert_eq!(gateway.metrics().unwrap().max("bawab_upstream_tls_unverified"), Some(1.0));
    let check = Command::new(binary::path()).arg("check").arg(gateway.config_file()).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success() && said.contains("any certificate is taken"), "{said}");
}

#[test]
fn the_system_s_roots_are_trusted_where_nothing_else_is_written() {
    let stand = stand();
    let origin = showing(&stand.books);
    let text = |folder: &str, tls: &str| {
        format!(
            "[gateway]\nworkers = 1\n[admin]\naddress = \"unix:{folder}/admin.sock\"\n[log]\nformat = \"json\"\n\
             access = \"{folder}/access.log\"\n[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[upstream.main]\nendpoints = [\"{}\"]\ntls = {tls}\n\
             [[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\n",
            origin.address()
        )
    };
    let start = |roots: &Path| {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary::path());
        command.args(["run", "gateway.toml"]).env("SSL_CERT_FILE", roots);
        Gateway::start_by(&mut command, &text(&dir.path().display().to_string(), "true"), dir).unwrap()
    };
    let gateway = start(&stand.authority.cert);
    passes(&gateway);
    // One that the system stops to trust is trusted no more.
    let other = Authority::new(stand.path(), "other").unwrap();
    fs::copy(&other.cert, &stand.authority.cert).unwrap();
    gateway.event("configuration reloaded").unwrap();
    is_refused(&gateway, "struck", "unknown_issuer");
}

#[test]
fn what_speaks_no_tls_or_another_one_is_told_apart() {
    let stand = stand();
    let old = || service(serving(&stand.books, &[&version::TLS12], None).unwrap());
    // TLS 1.2 is spoken, unless only the newer may.
    let origin = old();
    assert_eq!(passes(&before(&origin, &stand.ca())), "sni=none version=1.2 alpn=none resumed=false client=false");
    let modern = before(&origin, &format!("{}versions = \"modern\"", stand.ca()));
    let detail = is_refused(&modern, "an old one", "protocol");
    assert!(detail.contains("protocol version"), "{detail}");
    // Plain HTTP.
    let origin = Origin::tcp().unwrap().serve(|peer| {
        peer.fill()?;
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let detail = is_refused(&before(&origin, &stand.ca()), "plain", "no_tls");
    assert_eq!(detail, "what the service speaks is no TLS");
    // Hangs up on the first word.
    let origin = Origin::tcp().unwrap().serve(|peer| peer.fill().map(drop));
    let detail = is_refused(&before(&origin, &stand.ca()), "hanging up", "closed");
    assert!(detail.contains("during the TLS handshake"), "{detail}");
    // No protocol in common, said and not said.
    let mut config = serving(&stand.books, &[], None).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let origin = service(config);
    let config = format!("[upstream.main]\nprotocol = \"http1\"\n{TLS}{}", stand.ca());
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let detail = is_refused(&gateway, "h2 alone", "protocol");
    assert!(detail.contains("ALPN"), "{detail}");
    let origin = service(serving(&stand.books, &[], None).unwrap());
    let config = format!("[upstream.main]\nprotocol = \"http2\"\n{TLS}{}", stand.ca());
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let detail = is_refused(&gateway, "no h2", "protocol");
    assert_eq!(detail, "the service does not agree on HTTP/2 (ALPN `h2`)");
}

#[test]
fn a_handshake_takes_no_longer_than_a_connection_may() {
    let stand = stand();
    let origin = Origin::tcp().unwrap();
    let config = format!("[upstream.main.timeout]\nconnect = \"300ms\"\n[upstream.main.tls]\n{}", stand.ca());
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut silent = origin.accept().unwrap();
    let answer = Message::answer(&mut client, "GET").unwrap();
    assert_eq!(answer.refusal().unwrap(), (504, "upstream_connect_timeout".to_owned()));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    // It was spoken to, and then let go.
    let (hello, _) = silent.rest().unwrap();
    assert_eq!(hello.first(), Some(&0x16), "a handshake's record");
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_upstream_tls_failures_total", &[("upstream", "main")]), 0.0);
    assert_eq!(metrics.sum("bawab_upstream_connect_failures_total", &[("upstream", "main")]), 1.0);
}

#[test]
fn a_service_that_wants_a_certificate_gets_ours() {
    let stand = stand();
    let own = stand.authority.client("gateway", 20, |_| {}).unwrap();
    let others = Authority::new(stand.path(), "others").unwrap();
    let foreign = others.client("foreign", 21, |_| {}).unwrap();
    let keys =
        |made: &Made| format!("{}cert = \"{}\"\nkey = \"{}\"\n", stand.ca(), made.cert.display(), made.key.display());
    for versions in [[&version::TLS12], [&version::TLS13]] {
        let origin = service(serving(&stand.books, &versions, Some(&stand.authority)).unwrap());
        let gateway = before(&origin, &keys(&own));
        assert!(passes(&gateway).ends_with("client=true"));
        let metrics = gateway.metrics().unwrap();
        assert!(metrics.max("bawab_upstream_tls_certificate_expiry_seconds").unwrap() > 0.0);
        // In TLS 1.3 it says so when the handshake is over for us, in 1.2 within it.
        let detail = is_refused(&before(&origin, &keys(&foreign)), "another's", "client_certificate");
        assert!(detail.contains("client certificate"), "{detail}");
        let detail = is_refused(&before(&origin, &stand.ca()), "none", "client_certificate");
        assert_eq!(detail, "the service wants a client certificate");
    }
    // Who is not asked shows nothing.
    let origin = showing(&stand.books);
    assert!(passes(&before(&origin, &keys(&own))).ends_with("client=false"));
}

#[test]
fn files_that_change_hold_for_new_connections_and_bad_ones_for_none() {
    let stand = stand();
    let own = stand.authority.client("gateway", 20, |_| {}).unwrap();
    let origin = service(serving(&stand.books, &[], Some(&stand.authority)).unwrap());
    let tls = format!("{}cert = \"{}\"\nkey = \"{}\"\n", stand.ca(), own.cert.display(), own.key.display());
    let gateway = Arc::new(before(&origin, &tls));
    passes(&gateway);
    // Somebody asks all the time, and always gets an answer.
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking = std::thread::spawn({
        let (gateway, over, asked) = (gateway.clone(), over.clone(), asked.clone());
        move || {
            while !over.load(Ordering::Relaxed) {
                passes(&gateway);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let connections = origin.connections();
    stand.authority.client("gateway", 22, |_| {}).unwrap();
    gateway.event("configuration reloaded").unwrap();
    let since = asked.load(Ordering::Relaxed);
    while asked.load(Ordering::Relaxed) < since + 2 {
        std::thread::yield_now();
    }
    assert!(origin.connections() > connections, "a kept connection was one of who we were before");
    // The key of another one: the pair before goes on.
    let foreign = certificate(stand.path(), "foreign", &["x"]).unwrap();
    fs::copy(&foreign.key, &own.key).unwrap();
    let refused = gateway.reload().unwrap();
    assert_eq!(refused.head.status(), 422);
    let said = refused.text();
    assert!(said.contains("upstream.main.tls.key: ") && said.contains("is not the key of"), "{said}");
    over.store(true, Ordering::Relaxed);
    asking.join().unwrap();
    // Another authority: whom it does not vouch for is the service no more.
    stand.authority.client("gateway", 23, |_| {}).unwrap();
    let other = Authority::new(stand.path(), "other").unwrap();
    fs::copy(&other.cert, &stand.authority.cert).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    is_refused(&gateway, "of the authority before", "unknown_issuer");
}

#[test]
fn tickets_spare_handshakes_and_are_counted() {
    let stand = stand();
    for versions in [[&version::TLS12], [&version::TLS13]] {
        let mut config = serving(&stand.books, &versions, None).unwrap();
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let origin = service(config);
        // Nothing is kept but what was agreed on.
        let text = |more: &str| format!("[upstream.main.pool]\nidle_max = 0\n{TLS}{}{more}", stand.ca());
        let gateway = Gateway::start(&text(""), origin.address()).unwrap();
        assert!(passes(&gateway).contains("resumed=false"));
        assert!(passes(&gateway).contains("resumed=true"));
        // A reload that is about something else forgets nothing.
        gateway.rewrite(&format!("{}[timeouts]\nhead = \"9s\"\n", text(""))).unwrap();
        assert_eq!(gateway.reload().unwrap().head.status(), 200);
        assert!(passes(&gateway).contains("resumed=true"));
        // What was agreed on under other settings is not gone on with.
        let pin = e2e::tls::pin(&stand.books).unwrap();
        gateway.rewrite(&text(&format!("pins = [\"{pin}\"]\n"))).unwrap();
        assert_eq!(gateway.reload().unwrap().head.status(), 200);
        assert!(passes(&gateway).contains("resumed=false"));
        let metrics = gateway.metrics().unwrap();
        let counted =
            |outcome| metrics.sum("bawab_upstream_tls_handshakes_total", &[("upstream", "main"), ("outcome", outcome)]);
        assert_eq!((counted("full"), counted("resumed")), (2.0, 2.0));
    }
}

#[test]
fn a_ticket_does_not_outlive_the_certificate_it_was_given_with() {
    let stand = stand();
    let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let showing = |own: &Made| {
        let mut config = serving(own, &[], None).unwrap();
        config.ticketer = ticketer.clone();
        Arc::new(config)
    };
    let shown = Arc::new(Mutex::new(showing(&stand.books)));
    let service = shown.clone();
    let origin = Origin::tcp().unwrap().serve(move |peer| {
        let config = service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        peer.accept_tls(&config)?;
        while Message::request(peer).is_ok() {
            let answer = ok(seen(peer));
            peer.send(answer)?;
        }
        Ok(())
    });
    let config = format!("[upstream.main.pool]\nidle_max = 0\n{TLS}server_name = \"books.internal\"\n{}", stand.ca());
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let now_s = || UNIX_EPOCH.elapsed().unwrap().as_secs();
    let put = |own: &Made| *shown.lock().unwrap() = showing(own);
    // A busy machine may need longer than a short life.
    let over_s = [2, 4, 8, 16].into_iter().find_map(|life_s| {
        let over_s = now_s() + life_s;
        let short = stand.authority.service("short", over_s, NAMES, |params| {
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(over_s);
        });
        // No ticket of another certificate is left: those there are are taken with each request, and as many given.
        put(&short.unwrap());
        let fresh = (0..10).all(|_| gateway.get("/").unwrap().head.status() == 200);
        (fresh && now_s() < over_s).then_some(over_s)
    });
    let over_s = over_s.expect("a life that is long enough");
    assert!(passes(&gateway).contains("resumed=true"));
    let refused = || gateway.metrics().unwrap().sum("bawab_refusals_total", &[("code", "upstream_tls_failed")]);
    let refused_before = refused();
    put(&stand.books);
    while now_s() <= over_s {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    // The ticket is good for the service, and what it stands for is over: asked anew, and nobody hears of it.
    assert!(passes(&gateway).contains("resumed=false"));
    assert!(passes(&gateway).contains("resumed=true"));
    assert_eq!(refused(), refused_before);
}

#[test]
fn a_body_without_a_length_is_whole_only_if_its_end_is_said() {
    let stand = stand();
    let config = Arc::new(serving(&stand.books, &[], None).unwrap());
    let origin = Origin::tcp().unwrap().serve(move |peer| {
        peer.accept_tls(&config)?;
        let request = Message::request(peer)?;
        peer.send("HTTP/1.1 200 OK\r\n\r\nhalf of it")?;
        if request.head.start.contains("/said") { peer.say_end() } else { peer.fin() }
    });
    let gateway = before(&origin, &stand.ca());
    let ask = |path: &str| {
        let mut client = gateway.client().unwrap();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        let answer = Message::answer(&mut client, "GET");
        (answer, client)
    };
    assert_eq!(ask("/said").0.unwrap().text(), "half of it");
    // The client must not take it for whole either: its chunks do not end.
    let (cut, mut client) = ask("/cut");
    assert!(cut.is_err(), "{:?}", cut.map(|answer| answer.text()));
    assert_ne!(client.rest().map(|(_, end)| end).ok(), None);
    let line = gateway.access_log().unwrap().of_path("/cut").unwrap();
    assert_eq!((&line["refusal"], &line["ended_by"]), (&"upstream_body_cut".into(), &"upstream".into()));
}

#[test]
fn what_comes_behind_an_answer_is_nobody_s_answer() {
    let stand = stand();
    let config = Arc::new(serving(&stand.books, &[], None).unwrap());
    let origin = Origin::tcp().unwrap().serve(move |peer| {
        peer.accept_tls(&config)?;
        while Message::request(peer).is_ok() {
            // Two records that leave together.
            peer.send_together(&[ok("asked").as_slice(), ok("not asked").as_slice()])?;
        }
        Ok(())
    });
    let gateway = before(&origin, &stand.ca());
    for _ in 0..5 {
        assert_eq!(passes(&gateway), "asked");
    }
    assert_eq!(origin.connections(), 5);
}

#[test]
fn a_tunnel_goes_through_tls_on_both_sides() {
    let stand = stand();
    let front = certificate(stand.path(), "front", &["api.example.com"]).unwrap();
    let origin = Origin::tcp().unwrap();
    let config = format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\ntls.certificates = [{{ cert = \"{}\", key = \"{}\" }}]\n\
         {TLS}{}[[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\nupgrade = [\"websocket\"]\n",
        front.cert.display(),
        front.key.display(),
        stand.ca()
    );
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let client = trusting(&[&front.cert], &[]).unwrap();
    let mut peer = secure(gateway.client().unwrap(), "api.example.com", &client).unwrap();
    peer.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    upstream.accept_tls(&Arc::new(serving(&stand.books, &[], None).unwrap())).unwrap();
    Head::read(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut peer, "GET").unwrap().head.status(), 101);
    let much = "0123456789abcdef".repeat(8 * 1024);
    for _ in 0..3 {
        peer.send(&much).unwrap();
        assert!(upstream.take(much.len()).unwrap() == much.as_bytes());
        upstream.send(&much).unwrap();
        assert!(peer.take(much.len()).unwrap() == much.as_bytes());
    }
    upstream.say_end().unwrap();
    upstream.fin().unwrap();
    assert_eq!(peer.finish().unwrap(), End::Eof);
}

#[test]
fn another_endpoint_takes_what_one_that_is_not_the_service_did_not_get() {
    let stand = stand();
    let other = Authority::new(stand.path(), "other").unwrap();
    let foreign = other.service("foreign", 1, NAMES, |_| {}).unwrap();
    let (good, bad) = (showing(&stand.books), showing(&foreign));
    let config = format!(
        "[upstream.main]\nendpoints = [\"{{good}}\", \"{{bad}}\"]\neject = {{ consecutive_local = 2, base = \"1h\" }}\n\
         {TLS}{}",
        stand.ca()
    );
    let gateway = Gateway::start_with(&config, &[("good", good.address()), ("bad", bad.address())]).unwrap();
    let mut posted = 0;
    while !gateway.said().contains("an endpoint is ejected") {
        // Nothing was sent to the wrong one, so that also goes elsewhere what must not be sent twice.
        let answer = gateway.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").unwrap();
        assert_eq!(answer.head.status(), 200);
        posted += 1;
        assert!(posted < 1000, "{}", gateway.said());
    }
    let metrics = gateway.metrics().unwrap();
    let failed = metrics.sum("bawab_upstream_tls_failures_total", &[("reason", "unknown_issuer")]);
    assert!(failed >= 2.0, "{failed}");
    assert_eq!(metrics.sum("bawab_upstream_retries_total", &[("cause", "connect")]), failed);
}

#[test]
fn checks_verify_as_requests_do() {
    let stand = stand();
    let wrong = stand.authority.service("wrong", 9, &["films.internal"], |_| {}).unwrap();
    let (good, bad) = (showing(&stand.books), showing(&wrong));
    for check in ["http = \"/healthz\"", "tcp = true"] {
        let config = format!(
            "[upstream.main]\nendpoints = [\"{{good}}\", \"{{bad}}\"]\npanic_threshold = \"0%\"\n\
             health = {{ {check}, interval = \"100ms\", timeout = \"5s\", unhealthy_after = 2 }}\n{TLS}{}",
            stand.ca()
        );
        let gateway = Gateway::start_with(&config, &[("good", good.address()), ("bad", bad.address())]).unwrap();
        let event = gateway.event("an endpoint is unhealthy").unwrap();
        assert_eq!(event["endpoint"], bad.address());
        assert!(event["seen"].as_str().unwrap().contains("not valid for name"), "{event}");
        passes(&gateway);
        let outcome = |outcome| [("upstream", "main"), ("outcome", outcome)];
        let checks = "bawab_upstream_health_checks_total";
        gateway
            .metrics_when("checks of both", |metrics| {
                metrics.sum(checks, &outcome("passed")) >= 2.0 && metrics.sum(checks, &outcome("tls")) >= 1.0
            })
            .unwrap();
    }
}

#[test]
fn copies_of_requests_go_by_tls_too() {
    let stand = stand();
    let origin = Origin::tcp().unwrap().answer(|_| ok("main"));
    let copies = showing(&stand.books);
    let config = format!(
        "[upstream.copies]\nendpoints = [\"{{copies}}\"]\n[upstream.copies.tls]\n{}\
         [[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\nmirror = [{{ upstream = \"copies\" }}]\n",
        stand.ca()
    );
    let values = [("upstream", origin.address()), ("copies", copies.address())];
    let gateway = Gateway::start_with(&config, &values).unwrap();
    assert_eq!(passes(&gateway), "main");
    let full = [("upstream", "copies"), ("outcome", "full")];
    let sent = |metrics: &e2e::metrics::Metrics| {
        metrics.sum("bawab_upstream_tls_handshakes_total", &full) == 1.0
            && metrics.sum("bawab_upstream_first_byte_seconds_count", &[("upstream", "copies")]) >= 0.0
            && metrics.sum("bawab_mirrors_total", &[("outcome", "sent")]) == 1.0
    };
    let metrics = gateway.metrics_when("a copy", sent).unwrap();
    assert_eq!(metrics.sum("bawab_mirrors_total", &[("outcome", "failed")]), 0.0);
}

#[test]
fn files_are_looked_at_before_anything_is_served() {
    let stand = stand();
    let own = stand.authority.client("gateway", 20, |_| {}).unwrap();
    let other = stand.authority.client("other", 21, |_| {}).unwrap();
    let over = stand.authority.client("over", 22, |params| params.not_after = date_time_ymd(2021, 1, 1)).unwrap();
    let sealed = stand.path().join("sealed.key");
    fs::write(&sealed, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n").unwrap();
    let pair = |cert: &Path, key: &Path| format!("cert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
    let nothing = stand.path().join("nothing.pem");
    let check = |tls: &str| {
        let file = stand.path().join("gateway.toml");
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.main]\nendpoints = [\"127.0.0.1:9\"]\n[upstream.main.tls]\n{tls}\
             [[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\n"
        );
        fs::write(&file, text).unwrap();
        let out = Command::new(binary::path()).arg("check").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
        (out.status.success(), said)
    };
    let cases = [
        (pair(&own.cert, &other.key), false, "is not the key of the certificate in"),
        (pair(&own.cert, &sealed), false, "the key is encrypted"),
        (pair(&own.key, &own.key), false, "it holds a private key and no certificate"),
        (pair(&over.cert, &over.key), true, "it is over since 2021-01-01T00:00:00.000000Z: services will refuse it"),
        (format!("ca = \"{}\"\n", nothing.display()), false, "upstream.main.tls.ca: "),
        (format!("{}crl = [\"{}\"]\n", stand.ca(), own.cert.display()), false, "it holds no revocation list"),
        (pair(&own.cert, &own.key), true, ""),
    ];
    for (keys, passed, words) in cases {
        let keys = if keys.contains("ca = ") { keys } else { format!("{}{keys}", stand.ca()) };
        let (succeeded, said) = check(&keys);
        assert_eq!(succeeded, passed, "{keys}: {said}");
        assert!(said.contains(words), "{keys}: {said}");
    }
}
