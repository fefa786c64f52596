//! Certificates of clients: who comes in, by which policy, over which connection, and what becomes known of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use e2e::binary::find;
use e2e::message::Message;
use e2e::origin::{Serving, echo};
use e2e::peer::End;
use e2e::tls::{Authority, Made, certificate, certificate_with, secure, trusting_as};
use e2e::{Gateway, Origin};
use rcgen::SanType;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};
use tempfile::TempDir;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

struct Stand {
    folder: TempDir,
    /// For `api.example.com` and `www.example.com`.
    api: Made,
    /// For `partners.example.com`.
    partners: Made,
    root: Authority,
    ada: Made,
}

fn stand() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let api = certificate(folder.path(), "api", &["api.example.com", "www.example.com"]).unwrap();
    let partners = certificate(folder.path(), "partners", &["partners.example.com", "*.partners.example.com"]).unwrap();
    let root = Authority::new(folder.path(), "Clients").unwrap();
    let ada = root.client("ada", 7, |_| {}).unwrap();
    Stand { folder, api, partners, root, ada }
}

impl Stand {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that trusts both certificates of the gateway.
    fn client(&self, own: Option<&Made>) -> Arc<ClientConfig> {
        self.client_of(&[], own)
    }

    fn client_of(&self, versions: &[&'static SupportedProtocolVersion], own: Option<&Made>) -> Arc<ClientConfig> {
        trusting_as(&[&self.api.cert, &self.partners.cert], versions, own).unwrap()
    }

    /// A gateway that shows `api` alone and asks for this.
    fn asking(&self, asked: &str) -> (Gateway, Serving) {
        let listener = format!("{}\n{asked}", shown(&[(&self.api, "")]));
        let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
        (Gateway::start(&listener, origin.address()).unwrap(), origin)
    }

    fn required(&self) -> String {
        format!("client_auth = \"required\"\nclient_ca = \"{}\"\n", self.root.cert.display())
    }
}

/// A listener that shows these, each with what it says of its own.
fn shown(certificates: &[(&Made, &str)]) -> String {
    let tables: Vec<String> = certificates
        .iter()
        .map(|(made, more)| format!("{{ cert = \"{}\", key = \"{}\"{more} }}", made.cert.display(), made.key.display()))
        .collect();
    format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\ncertificates = [{}]\n",
        tables.join(", ")
    )
}

fn request(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Begins TLS for `name` and asks once. An error: it was not let in. Under TLS 1.3 a client only hears of that when it reads.
fn ask(gateway: &Gateway, name: &str, client: &Arc<ClientConfig>) -> Result<(Message, HandshakeKind)> {
    let mut peer = secure(gateway.client()?, name, client)?;
    peer.send(request(name))?;
    let answer = Message::answer(&mut peer, "GET")?;
    let kind = peer.tls().and_then(|tls| tls.handshake_kind()).unwrap();
    Ok((answer, kind))
}

fn check(folder: &Path, config: &str) -> String {
    let file = folder.join("gateway.toml");
    let route = "[[route]]\npath = \"/**\"\nauth = \"none\"\nrespond = { status = 200 }\n";
    fs::write(&file, format!("{config}\n{route}")).unwrap();
    let output = Command::new(e2e::binary::path()).arg("check").arg(file).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn only_clients_with_a_certificate_of_the_root_come_in() {
    let stand = stand();
    let (gateway, _origin) = stand.asking(&stand.required());
    let stranger = Authority::new(stand.folder.path(), "Others").unwrap().client("eve", 7, |_| {}).unwrap();
    let over = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let over = stand.root.client("over", 8, over).unwrap();
    let server = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    let server = stand.root.client("server", 9, server).unwrap();
    for version in VERSIONS {
        let client = |own| stand.client_of(&[version], own);
        assert_eq!(ask(&gateway, "api.example.com", &client(Some(&stand.ada))).unwrap().0.head.status(), 200);
        for (what, own) in
            [("none", None), ("a stranger's", Some(&stranger)), ("over", Some(&over)), ("a server's", Some(&server))]
        {
            assert!(ask(&gateway, "api.example.com", &client(own)).is_err(), "{what} {version:?}");
        }
    }
    let outcome = [("outcome", "client_certificate")];
    gateway
        .metrics_when("eight are refused", |metrics| metrics.sum("bawab_tls_handshakes_total", &outcome) == 8.0)
        .unwrap();
}

#[test]
fn where_it_is_optional_having_none_will_do_and_a_bad_one_will_not() {
    let stand = stand();
    let asked = stand.required().replace("required", "optional");
    let (gateway, _origin) = stand.asking(&asked);
    let stranger = Authority::new(stand.folder.path(), "Others").unwrap().client("eve", 7, |_| {}).unwrap();
    for version in VERSIONS {
        let client = |own| stand.client_of(&[version], own);
        assert!(ask(&gateway, "api.example.com", &client(None)).is_ok());
        assert!(ask(&gateway, "api.example.com", &client(Some(&stand.ada))).is_ok());
        assert!(ask(&gateway, "api.example.com", &client(Some(&stranger))).is_err());
    }
}

#[test]
fn the_revoked_do_not_come_in_nor_those_of_whom_nothing_is_known() {
    let stand = stand();
    let bob = stand.root.client("bob", 8, |_| {}).unwrap();
    let below = stand.root.below("Below").unwrap();
    let eve = below.client("eve", 9, |_| {}).unwrap();
    let chain = [fs::read(&eve.cert).unwrap(), fs::read(&below.cert).unwrap()].concat();
    fs::write(&eve.cert, chain).unwrap();
    let (list, of_below) = (stand.path("clients.crl"), stand.path("below.crl"));
    fs::write(&list, stand.root.list(&[8], 2090).unwrap()).unwrap();
    fs::write(&of_below, below.list(&[], 2090).unwrap()).unwrap();
    let asking = |lists: &[&Path]| format!("{}client_crl = {:?}\n", stand.required(), lists);
    let (gateway, _origin) = stand.asking(&asking(&[&list]));
    let comes_in = |own: &Made| ask(&gateway, "api.example.com", &stand.client(Some(own))).is_ok();
    assert!(comes_in(&stand.ada));
    assert!(!comes_in(&bob), "revoked");
    assert!(!comes_in(&eve), "no list of her issuer");
    let config = |lists: &[&Path]| format!("{}\n{}", shown(&[(&stand.api, "")]), asking(lists));
    gateway.rewrite(&config(&[&list, &of_below])).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert!(comes_in(&eve) && comes_in(&stand.ada) && !comes_in(&bob));
    // The authority between is revoked (its serial number is drawn), and with it who it signed for: here the list is over.
    fs::write(&of_below, below.list_pem(&[], 2021).unwrap()).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert!(!comes_in(&eve), "the list of her issuer is over");
    assert!(comes_in(&stand.ada));
}

#[test]
fn a_newer_list_holds_from_then_on_also_for_those_who_come_by_a_ticket() {
    let stand = stand();
    let list = stand.path("clients.crl");
    fs::write(&list, stand.root.list_pem(&[], 2090).unwrap()).unwrap();
    let asked = format!("{}client_crl = [{list:?}]\n", stand.required());
    let listener = format!("[gateway]\nwatch = true\n{}\n{asked}", shown(&[(&stand.api, "")]));
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    let client = stand.client(Some(&stand.ada));
    assert_eq!(ask(&gateway, "api.example.com", &client).unwrap().1, HandshakeKind::Full);
    assert_eq!(ask(&gateway, "api.example.com", &client).unwrap().1, HandshakeKind::Resumed);
    let mut kept = secure(gateway.client().unwrap(), "api.example.com", &client).unwrap();
    // The file is looked at: nobody asks for a reload.
    fs::write(&list, stand.root.list_pem(&[7], 2090).unwrap()).unwrap();
    gateway.event("configuration reloaded").unwrap();
    assert!(ask(&gateway, "api.example.com", &client).is_err());
    kept.send(request("api.example.com")).unwrap();
    assert_eq!(Message::answer(&mut kept, "GET").unwrap().head.status(), 200, "a connection keeps what it began with");
}

#[test]
fn a_ticket_is_good_under_its_own_policy_alone() {
    let stand = stand();
    let other = Authority::new(stand.folder.path(), "Others").unwrap();
    fs::write(stand.path("ticket.key"), (0..80).collect::<Vec<u8>>()).unwrap();
    let keys = format!("ticket_keys = [{:?}]\n", stand.path("ticket.key"));
    let required = stand.required();
    let optional = required.replace("required", "optional");
    let of_other = format!("client_auth = \"optional\"\nclient_ca = \"{}\"\n", other.cert.display());
    for keys in ["", &keys] {
        for version in VERSIONS {
            let client = stand.client_of(&[version], Some(&stand.ada));
            let (gateway, _origin) = stand.asking(&format!("{optional}{keys}"));
            let kind = || ask(&gateway, "api.example.com", &client).unwrap().1;
            assert_eq!((kind(), kind()), (HandshakeKind::Full, HandshakeKind::Resumed));
            let now = |asked: &str| {
                gateway.rewrite(&format!("{}\n{asked}{keys}", shown(&[(&stand.api, "")]))).unwrap();
                assert_eq!(gateway.reload().unwrap().head.status(), 200);
            };
            for (what, asked) in [("required", required.as_str()), ("nothing is asked", ""), ("optional", &optional)] {
                now(asked);
                assert_eq!((kind(), kind()), (HandshakeKind::Full, HandshakeKind::Resumed), "{what}");
            }
            // Under another root the certificate that is in the ticket is good for nothing.
            now(&of_other);
            assert!(ask(&gateway, "api.example.com", &client).is_err());
        }
    }
}

#[test]
fn a_certificate_that_ended_does_not_come_back_by_a_ticket() {
    let stand = stand();
    let (gateway, _origin) = stand.asking(&stand.required());
    let lets_in = |client: &Arc<ClientConfig>| ask(&gateway, "api.example.com", client).is_ok();
    for version in VERSIONS {
        // Long enough for the first handshake, also where that takes long.
        let came = [3, 10, 30].into_iter().find_map(|seconds| {
            let until = SystemTime::now() + Duration::from_secs(seconds);
            let short = stand.root.client("short", 8, |params| params.not_after = until.into()).unwrap();
            let client = stand.client_of(&[version], Some(&short));
            (lets_in(&client) && lets_in(&client)).then_some((client, until))
        });
        let (client, until) = came.expect("nobody came in while the certificate was in force");
        // The client goes on with its ticket.
        let deadline = Instant::now() + e2e::patience() + Duration::from_secs(30);
        while lets_in(&client) {
            assert!(Instant::now() < deadline, "still let in under {version:?}");
        }
        // Not before: a date is in whole seconds.
        assert!(SystemTime::now() > until - Duration::from_secs(1));
    }
}

#[test]
fn what_is_asked_goes_by_the_name_and_a_host_of_another_policy_is_misdirected() {
    let stand = stand();
    let own = format!(", client_auth = \"required\", client_ca = \"{}\"", stand.root.cert.display());
    let listener = shown(&[(&stand.api, ""), (&stand.partners, &own)]);
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    let (ada, nobody) = (stand.client(Some(&stand.ada)), stand.client(None));
    assert!(ask(&gateway, "api.example.com", &nobody).is_ok());
    assert!(ask(&gateway, "x.partners.example.com", &nobody).is_err());
    assert!(ask(&gateway, "x.partners.example.com", &ada).is_ok());
    for (name, client, hosts) in [
        (
            "api.example.com",
            &nobody,
            &[
                ("www.example.com", 200),
                ("nobody.example.org", 200),
                ("127.0.0.1", 200),
                ("partners.example.com", 421),
                ("PARTNERS.Example.com.:443", 421),
                ("x.partners.example.com", 421),
                // A route for `*.partners.example.com` takes it.
                ("a.x.partners.example.com", 421),
                ("api.example.com", 200),
            ][..],
        ),
        (
            "partners.example.com",
            &ada,
            &[
                ("partners.example.com:8443", 200),
                ("y.partners.example.com", 200),
                ("api.example.com", 421),
                ("nobody.example.org", 421),
                ("partners.example.com", 200),
            ],
        ),
    ] {
        let mut peer = secure(gateway.client().unwrap(), name, client).unwrap();
        for &(host, status) in hosts {
            peer.send(request(host)).unwrap();
            let answer = Message::answer(&mut peer, "GET").unwrap();
            assert_eq!(answer.head.status(), status, "{host} over {name}");
            if status == 421 {
                assert_eq!(answer.refusal().unwrap(), (421, "misdirected_request".to_owned()));
            }
            // What the target says goes before Host (RFC 9112 §3.2.2).
            peer.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
            assert_eq!(Message::answer(&mut peer, "GET").unwrap().head.status(), status, "{host} over {name}");
        }
    }
}

/// A client's first message as `records` of at most so many bytes each.
fn in_records(hello: &[u8], bytes_max: usize) -> Vec<u8> {
    // Behind the record's header.
    hello[5..].chunks(bytes_max).flat_map(|part| [&[0x16, 3, 1, 0, part.len() as u8], part].concat()).collect()
}

#[test]
fn where_there_are_several_policies_a_hello_may_come_in_any_pieces_and_nonsense_ends_at_once() {
    let stand = stand();
    let own = format!(", client_auth = \"required\", client_ca = \"{}\"", stand.root.cert.display());
    let listener = format!(
        "[timeouts]\ntls_handshake = \"2s\"\n{}unknown_names = \"refuse\"\n",
        shown(&[(&stand.api, ""), (&stand.partners, &own)])
    );
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    for version in VERSIONS {
        let client = stand.client_of(&[version], Some(&stand.ada));
        for (record_bytes, piece_bytes) in [(usize::MAX, 7), (100, usize::MAX), (40, 45), (1, 600)] {
            let name = "partners.example.com".try_into().unwrap();
            let mut connection = rustls::ClientConnection::new(client.clone(), name).unwrap();
            let mut hello = Vec::new();
            connection.write_tls(&mut hello).unwrap();
            if record_bytes < 256 {
                hello = in_records(&hello, record_bytes);
            }
            let mut peer = gateway.client().unwrap();
            peer.send_in_pieces(&hello, piece_bytes).unwrap();
            let mut peer = peer.secure(connection).unwrap();
            peer.send(request("partners.example.com")).unwrap();
            assert_eq!(Message::answer(&mut peer, "GET").unwrap().head.status(), 200, "{record_bytes} {piece_bytes}");
        }
    }
    // Each hears why, as far as there are words for it.
    let said = format!("{:#}", ask(&gateway, "nobody.example.org", &stand.client(None)).err().unwrap());
    assert!(said.contains("received fatal alert"), "{said}");
    let mut plain = gateway.client().unwrap();
    plain.send(request("api.example.com")).unwrap();
    assert_eq!(Message::answer(&mut plain, "GET").unwrap().refusal().unwrap(), (400, "tls_required".to_owned()));
    let mut garbled = gateway.client().unwrap();
    garbled.send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
    let (alert, end) = garbled.rest().unwrap();
    assert_eq!((alert.first(), end), (Some(&0x15), End::Eof));
    let mut endless = gateway.client().unwrap();
    // A first message of 16 MiB is announced, and more comes than anybody holds.
    endless.send([0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]).unwrap();
    // It may be cut while it still sends.
    let _ = endless.send(vec![0; 1024 * 1024]);
    assert!(endless.rest().is_ok());
    let mut half = gateway.client().unwrap();
    half.send([0x16, 3, 1, 2, 0, 1, 0]).unwrap();
    assert_eq!(half.finish().unwrap(), End::Eof);
    assert!(ask(&gateway, "api.example.com", &stand.client(None)).is_ok());
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_client_timeouts_total", &[("wait", "tls_handshake")]), 1.0);
    assert_eq!(metrics.sum("bawab_tls_handshakes_total", &[("outcome", "failed")]), 4.0);
}

#[test]
fn over_http_2_hosts_of_one_policy_share_a_connection_and_others_do_not() {
    let Some(curl) = find("curl") else {
        println!("not run: curl is not installed");
        return;
    };
    let stand = stand();
    let own = format!(", client_auth = \"required\", client_ca = \"{}\"", stand.root.cert.display());
    let listener = shown(&[(&stand.api, ""), (&stand.partners, &own)]);
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start(&listener, origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap();
    let output = Command::new(curl)
        .args(["--disable", "--silent", "--max-time", "20", "--noproxy", "*", "--http2", "--cacert"])
        .arg(&stand.api.cert)
        .args(["--resolve", &format!("api.example.com:{}:127.0.0.1", address.port())])
        .args(["--write-out", "%{http_version} %{http_code} %{num_connects}\n", "--output", "/dev/null"])
        .args(["--url", &format!("https://api.example.com:{}/", address.port())])
        .args(
            ["www.example.com", "partners.example.com", "api.example.com"]
                .map(|host| {
                    let url = format!("https://api.example.com:{}/", address.port());
                    let host = format!("Host: {host}");
                    [
                        "--next",
                        "--silent",
                        "--noproxy",
                        "*",
                        "--http2",
                        "--cacert",
                        stand.api.cert.to_str().unwrap(),
                        "--write-out",
                        "%{http_version} %{http_code} %{num_connects}\n",
                        "--output",
                        "/dev/null",
                        "--resolve",
                        &format!("api.example.com:{}:127.0.0.1", address.port()),
                        "--header",
                        &host,
                        "--url",
                        &url,
                    ]
                    .map(str::to_owned)
                })
                .concat(),
        )
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "2 200 1\n2 200 0\n2 421 0\n2 200 0\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reload_that_asks_for_more_holds_for_open_connections() {
    let stand = stand();
    let (gateway, _origin) = stand.asking("");
    let client = stand.client(Some(&stand.ada));
    let mut kept = secure(gateway.client().unwrap(), "api.example.com", &client).unwrap();
    let mut answer = || {
        kept.send(request("api.example.com")).unwrap();
        Message::answer(&mut kept, "GET").unwrap().head.status()
    };
    assert_eq!(answer(), 200);
    gateway.rewrite(&format!("{}\n{}", shown(&[(&stand.api, "")]), stand.required())).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(answer(), 421);
    assert!(ask(&gateway, "api.example.com", &client).is_ok());
}

#[test]
fn services_and_the_log_hear_who_the_client_is() {
    let stand = stand();
    let shown_by = certificate_with(stand.folder.path(), "api", &["api.example.com"], |params| {
        params.subject_alt_names.push(SanType::URI("spiffe://example.com/gateway".try_into().unwrap()));
    })
    .unwrap();
    let stand = Stand { api: shown_by, ..stand };
    let names = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "a\",O=Root;By=evil");
        params.subject_alt_names = vec![
            SanType::URI("spiffe://example.com/ada".try_into().unwrap()),
            SanType::DnsName("ada.example.com".try_into().unwrap()),
            SanType::URI("urn:a,Hash=evil".try_into().unwrap()),
        ];
    };
    let ada = stand.root.client("ada", 7, names).unwrap();
    let optional = stand.required().replace("required", "optional");
    let (gateway, _origin) = stand.asking(&format!("{optional}forward_client_cert = \"set\"\n"));
    let mut log = gateway.access_log().unwrap();
    let evil = "GET / HTTP/1.1\r\nHost: api.example.com\r\nX-Forwarded-Client-Cert: Hash=evil\r\n\
                x-forwarded-client-cert: Hash=evil\r\n\r\n";
    let more_evil = evil.replace("\r\n\r\n", "\r\nConnection: x-forwarded-client-cert\r\n\r\n");
    for version in VERSIONS {
        let client = stand.client_of(&[version], Some(&ada));
        // The second one comes by a ticket, and is known all the same.
        for request in [evil, &more_evil] {
            let mut peer = secure(gateway.client().unwrap(), "api.example.com", &client).unwrap();
            peer.send(request).unwrap();
            let seen = Message::answer(&mut peer, "GET").unwrap().text();
            let line = log.next_line().unwrap();
            let (hash, subject) = (line["client_cert_sha256"].as_str().unwrap(), line["client_cert_subject"].as_str());
            assert_eq!(hash.len(), 64);
            assert_eq!(subject, Some("OU=a\\22\\2CO\\3DRoot\\3BBy\\3Devil,CN=ada,O=Example"));
            let expected = format!(
                "By=spiffe://example.com/gateway;Hash={hash};Subject=\"OU=a\\22\\2CO\\3DRoot\\3BBy\\3Devil,CN=ada,O=Example\";\
                 URI=spiffe://example.com/ada;URI=\"urn:a,Hash=evil\";DNS=ada.example.com"
            );
            let said: Vec<&str> =
                seen.lines().filter(|line| line.to_ascii_lowercase().starts_with("x-forwarded-client-cert:")).collect();
            assert_eq!(said.len(), 1, "{seen}");
            assert_eq!(said[0].split_once(": ").unwrap().1, expected);
        }
    }
    // Who has no certificate has none, whatever it says.
    let mut peer = secure(gateway.client().unwrap(), "api.example.com", &stand.client(None)).unwrap();
    peer.send(evil).unwrap();
    let seen = Message::answer(&mut peer, "GET").unwrap().text().to_ascii_lowercase();
    assert!(!seen.contains("client-cert"), "{seen}");
    assert!(log.next_line().unwrap().get("client_cert_sha256").is_none());
}

#[test]
fn services_hear_nothing_unless_the_listener_says_so() {
    let stand = stand();
    let (gateway, _origin) = stand.asking(&stand.required());
    let seen = ask(&gateway, "api.example.com", &stand.client(Some(&stand.ada))).unwrap().0.text();
    assert!(!seen.to_ascii_lowercase().contains("client-cert"), "{seen}");
}

#[test]
fn files_that_will_not_do_are_named_with_the_reason() {
    let stand = stand();
    let path = |name: &str| stand.path(name);
    let root = stand.root.cert.display();
    fs::write(path("empty.crl"), "").unwrap();
    fs::write(path("cut.crl"), "-----BEGIN X509 CRL-----\nMIIB\n").unwrap();
    fs::write(path("no.crl"), [0x30, 3, 1, 2, 3]).unwrap();
    fs::write(path("over.crl"), stand.root.list(&[], 2021).unwrap()).unwrap();
    let foreign = Authority::new(stand.folder.path(), "Others").unwrap();
    fs::write(path("foreign.crl"), foreign.list(&[], 2090).unwrap()).unwrap();
    fs::File::create(path("long.crl")).unwrap().set_len(16 * 1024 * 1024 + 1).unwrap();
    let old = certificate_with(stand.folder.path(), "old", &[], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Old");
    })
    .unwrap();
    let list =
        |name: &str| format!("client_auth = \"required\"\nclient_ca = \"{root}\"\nclient_crl = [{:?}]", path(name));
    let two = {
        let own = format!(", client_auth = \"required\", client_ca = \"{root}\"");
        shown(&[(&stand.api, ""), (&stand.api, &own)])
    };
    let one = |asked: &str| format!("{}\n{asked}\n", shown(&[(&stand.api, "")]));
    for (config, said) in [
        (one("client_auth = \"required\""), "listener[0].tls.client_auth: clients are asked for a certificate"),
        (one("client_auth = \"required\"\nclient_ca = \"nowhere.pem\""), "nowhere.pem: No such file"),
        (
            one(&format!("client_auth = \"required\"\nclient_ca = {:?}", stand.ada.key)),
            "it holds a private key and no certificate",
        ),
        (one(&list("empty.crl")), "empty.crl: it holds no revocation list"),
        (one(&list("cut.crl")), "cut.crl: its PEM has a beginning and no end"),
        (one(&list("no.crl")), "no.crl: "),
        (one(&list("long.crl")), "long.crl: it has more than 16777216 bytes"),
        (
            one(&format!("client_auth = \"required\"\nclient_ca = {:?}", old.cert)),
            "old.pem: the root CN=Old is over since 2020-01-01",
        ),
        (one(&list("over.crl")), "over.crl: the list of CN=Clients is over since 2021-01-01"),
        (one(&list("foreign.crl")), "no list is of the root CN=Clients: every certificate below it is refused"),
        (two, "as `certificates[0]` is, and the two ask different things of clients"),
    ] {
        let found = check(stand.folder.path(), &config);
        assert!(found.contains(said), "no `{said}` in\n{found}");
    }
}
