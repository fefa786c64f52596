//! Tickets a fleet shares, and staples: what is read from files beside certificates.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use e2e::message::Message;
use e2e::origin::{Serving, ok};
use e2e::tls::{Made, certificate, certificate_with, secure, staple, trusting};
use e2e::{Gateway, Origin};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme, version};

fn listener(made: &Made, of_certificate: &str, more: &str) -> String {
    format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
         certificates = [{{ cert = {:?}, key = {:?}{of_certificate} }}]\n{more}\n",
        made.cert, made.key
    )
}

fn serving(listener: &str) -> (Gateway, Serving) {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    (Gateway::start(listener, origin.address()).unwrap(), origin)
}

fn kind(gateway: &Gateway, client: &Arc<ClientConfig>) -> HandshakeKind {
    let mut peer = secure(gateway.client().unwrap(), "api.example.com", client).unwrap();
    peer.send("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut peer, "GET").unwrap().head.status(), 200);
    peer.tls().unwrap().handshake_kind().unwrap()
}

#[test]
fn a_ticket_of_one_process_is_good_at_another_with_the_same_keys() {
    let folder = tempfile::tempdir().unwrap();
    let api = certificate(folder.path(), "api", &["api.example.com"]).unwrap();
    let key = |name: &str, bytes: usize, seed: u8| {
        let path = folder.path().join(name);
        fs::write(&path, (0..bytes).map(|at| seed.wrapping_add(at as u8)).collect::<Vec<_>>()).unwrap();
        path
    };
    let (old, new, foreign) = (key("old.key", 48, 1), key("new.key", 80, 2), key("foreign.key", 80, 3));
    let with = |keys: &[&Path]| listener(&api, "", &format!("ticket_keys = {keys:?}"));
    let (one, _origin_one) = serving(&with(&[&old]));
    let (two, _origin_two) = serving(&with(&[&new, &old]));
    let (other, _origin_other) = serving(&with(&[&foreign]));
    let (alone, _origin_alone) = serving(&listener(&api, "", ""));
    for version in [&version::TLS12, &version::TLS13] {
        let client = || trusting(&[&api.cert], &[version]).unwrap();
        let from_one = client();
        assert_eq!(kind(&one, &from_one), HandshakeKind::Full);
        assert_eq!(kind(&two, &from_one), HandshakeKind::Resumed);
        let from_two = client();
        assert_eq!(kind(&two, &from_two), HandshakeKind::Full);
        assert_eq!(kind(&two, &from_two), HandshakeKind::Resumed);
        // The first process does not know the newer key yet, which makes tickets at the second.
        assert_eq!(kind(&one, &from_two), HandshakeKind::Full);
        for stranger in [&other, &alone] {
            let from_one = client();
            kind(&one, &from_one);
            assert_eq!(kind(stranger, &from_one), HandshakeKind::Full);
        }
    }
}

#[test]
fn a_new_ticket_key_is_seen_when_its_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let api = certificate(folder.path(), "api", &["api.example.com"]).unwrap();
    let key = folder.path().join("ticket.key");
    fs::write(&key, [1; 80]).unwrap();
    let (gateway, _origin) =
        serving(&format!("[gateway]\nwatch = true\n{}", listener(&api, "", &format!("ticket_keys = [{key:?}]"))));
    let client = trusting(&[&api.cert], &[]).unwrap();
    assert_eq!((kind(&gateway, &client), kind(&gateway, &client)), (HandshakeKind::Full, HandshakeKind::Resumed));
    fs::write(&key, [2; 80]).unwrap();
    gateway.event("configuration reloaded").unwrap();
    assert_eq!((kind(&gateway, &client), kind(&gateway, &client)), (HandshakeKind::Full, HandshakeKind::Resumed));
}

/// Trusts everybody and keeps what was stapled.
#[derive(Debug, Default)]
struct Stapled(Mutex<Option<Vec<u8>>>);

impl ServerCertVerifier for Stapled {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(ocsp.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What a new client finds stapled to the certificate.
fn stapled(gateway: &Gateway) -> Vec<u8> {
    let seen = Arc::new(Stapled::default());
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    assert_eq!(kind(gateway, &Arc::new(client)), HandshakeKind::Full);
    seen.0.lock().unwrap().take().unwrap()
}

#[test]
fn an_ocsp_response_is_stapled_as_long_as_it_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let serial = |params: &mut rcgen::CertificateParams| params.serial_number = Some(7.into());
    let api = certificate_with(folder.path(), "api", &["api.example.com"], serial).unwrap();
    let file = folder.path().join("api.ocsp");
    fs::write(&file, staple(7, "20900101000000Z")).unwrap();
    let (gateway, _origin) = serving(&listener(&api, &format!(", ocsp = {file:?}"), ""));
    assert_eq!(stapled(&gateway), staple(7, "20900101000000Z"));
    // A newer one is shown, one that is over is not.
    fs::write(&file, staple(7, "20910101000000Z")).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(stapled(&gateway), staple(7, "20910101000000Z"));
    fs::write(&file, staple(7, "20210101000000Z")).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(stapled(&gateway), b"");
    // One that is none changes nothing.
    fs::write(&file, staple(7, "20900101000000Z")).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    fs::write(&file, "no").unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 422);
    assert_eq!(stapled(&gateway), staple(7, "20900101000000Z"));
}

#[test]
fn files_that_will_not_do_are_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let serial = |params: &mut rcgen::CertificateParams| params.serial_number = Some(7.into());
    let api = certificate_with(folder.path(), "api", &["api.example.com"], serial).unwrap();
    for (name, bytes) in [
        ("no.ocsp", b"no".to_vec()),
        ("cut.ocsp", staple(7, "20900101000000Z").split_off(1)),
        ("later.ocsp", vec![0x30, 3, 0x0a, 1, 3]),
        ("foreign.ocsp", staple(8, "20900101000000Z")),
        ("over.ocsp", staple(7, "20210101000000Z")),
        ("short.key", vec![1; 32]),
    ] {
        fs::write(path(name), bytes).unwrap();
    }
    let ocsp = |name: &str| listener(&api, &format!(", ocsp = {:?}", path(name)), "");
    let keys = |name: &str| listener(&api, "", &format!("ticket_keys = [{:?}]", path(name)));
    for (config, said) in [
        (ocsp("nowhere.ocsp"), "certificates[0].ocsp: "),
        (ocsp("no.ocsp"), "no.ocsp: it is no OCSP response in DER"),
        (ocsp("cut.ocsp"), "cut.ocsp: it is no OCSP response in DER"),
        (ocsp("later.ocsp"), "later.ocsp: the responder did not answer but failed with status 3"),
        (ocsp("foreign.ocsp"), "foreign.ocsp: it is about another certificate"),
        (ocsp("over.ocsp"), "over.ocsp: it is over since 2021-01-01"),
        (keys("nowhere.key"), "ticket_keys[0]: "),
        (keys("short.key"), "short.key: it has 32 bytes and must have 80 (or 48)"),
    ] {
        let file = path("gateway.toml");
        let route = "[[route]]\npath = \"/**\"\nauth = \"none\"\nrespond = { status = 200 }\n";
        fs::write(&file, format!("{config}\n{route}")).unwrap();
        let output = Command::new(e2e::binary::path()).arg("check").arg(file).output().unwrap();
        let found = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(found.contains(said), "no `{said}` in\n{found}");
    }
}
