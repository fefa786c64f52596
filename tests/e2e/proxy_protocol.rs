//! Load balancers that say who the client is before its first byte (the PROXY protocol): ours written by hand, haproxy and curl.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::binary::{self, find};
use e2e::message::Message;
use e2e::metrics::Metrics;
use e2e::origin::{Serving, echo};
use e2e::tls::{certificate, trusting};
use e2e::{Gateway, Origin, Peer};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tempfile::TempDir;

/// The tests are the balancer at 127.0.0.1; whoever comes from another address is not.
const BEHIND_A_BALANCER: &str = r#"
[gateway]
trusted_hops = ["127.0.0.1/32"]
[[listener]]
name = "main"
address = "127.0.0.1:0"
client_address = "proxy_protocol"
"#;

const GET: &str = "GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n";
const LINE: &str = "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn serving(more: &str) -> (Gateway, Serving) {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    (Gateway::start(&format!("{BEHIND_A_BALANCER}{more}"), origin.address()).unwrap(), origin)
}

fn line(client: &str) -> String {
    LINE.replace("203.0.113.7", client)
}

fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[0x20 | command, family], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

/// Version 2 for a connection from `client`.
fn said_in_binary(client: SocketAddr) -> Vec<u8> {
    let ports = [client.port().to_be_bytes(), 443u16.to_be_bytes()].concat();
    match client.ip() {
        IpAddr::V4(ip) => binary(1, 0x11, &[&ip.octets()[..], &[192, 0, 2, 1], &ports].concat()),
        IpAddr::V6(ip) => binary(1, 0x21, &[&ip.octets()[..], &[0x20; 16], &ports].concat()),
    }
}

fn opened(gateway: &Gateway, header: impl AsRef<[u8]>) -> Peer {
    let mut peer = gateway.client().unwrap();
    peer.send(header).unwrap();
    peer
}

fn ask(peer: &mut Peer, request: &str) -> Message {
    peer.send(request).unwrap();
    Message::answer(peer, "GET").unwrap()
}

/// What the service saw in `X-Forwarded-For`.
fn forwarded_for(answer: &Message) -> String {
    let seen = answer.text();
    let value = seen.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-forwarded-for").then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(|| panic!("no X-Forwarded-For: {} {seen}", answer.head.start))
}

fn counted(gateway: &Gateway, outcome: &str, times: f64) {
    let holds = |metrics: &Metrics| metrics.sum("bawab_proxy_protocol_total", &[("outcome", outcome)]) == times;
    gateway.metrics_when(&format!("{times} of {outcome}"), holds).unwrap();
}

/// Closed without a word.
fn is_closed(peer: &mut Peer) {
    let (came, _) = peer.rest().unwrap();
    assert!(came.is_empty(), "{}", came.escape_ascii());
}

#[test]
fn headers_of_both_versions_say_who_the_client_is() {
    let (gateway, _origin) = serving("");
    let mut log = gateway.access_log().unwrap();
    let v4 = said_in_binary("203.0.113.9:56324".parse().unwrap());
    let mut named = said_in_binary("203.0.113.10:56324".parse().unwrap());
    // The name the client asked for, and some padding.
    let tlvs = [&[2, 0, 8][..], b"e2e.test", &[4, 0, 3, 0, 0, 0]].concat();
    named[15] += tlvs.len() as u8;
    named.extend(tlvs);
    for (at, (header, client)) in [
        (LINE.as_bytes().to_vec(), "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:203.0.113.8 ::ffff:192.0.2.1 56324 443\r\n".to_vec(), "203.0.113.8"),
        (v4, "203.0.113.9"),
        (named, "203.0.113.10"),
        (said_in_binary("[2001:db8::9]:1".parse().unwrap()), "2001:db8::9"),
        (said_in_binary("[::ffff:203.0.113.11]:1".parse().unwrap()), "203.0.113.11"),
    ]
    .into_iter()
    .enumerate()
    {
        // In one write, and in two.
        for together in [true, false] {
            let path = format!("/{at}/{together}");
            let request = format!("GET {path} HTTP/1.1\r\nHost: e2e.test\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n");
            let mut peer = if together {
                opened(&gateway, [&header[..], request.as_bytes()].concat())
            } else {
                let mut peer = opened(&gateway, &header);
                peer.send(&request).unwrap();
                peer
            };
            let answer = Message::answer(&mut peer, "GET").unwrap();
            // What the client says of others is not the balancer's word.
            assert_eq!(forwarded_for(&answer), client);
            assert_eq!(log.of_path(&path).unwrap()["client"], client);
            // And it stays so for the next request.
            assert_eq!(forwarded_for(&ask(&mut peer, GET)), client);
        }
    }
    counted(&gateway, "accepted", 14.0);
}

#[test]
fn a_balancer_may_speak_for_itself_or_for_nobody_it_can_name() {
    let (gateway, _origin) = serving("");
    let request = "GET / HTTP/1.1\r\nHost: e2e.test\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n";
    for (header, seen) in [
        // Itself: it is one of those whose fields are believed.
        (binary(0, 0, b""), "198.51.100.1, 127.0.0.1"),
        (binary(0, 0x11, b"whatever"), "198.51.100.1, 127.0.0.1"),
        // Somebody: nothing they say is believed.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), "127.0.0.1"),
        (binary(1, 0, b""), "127.0.0.1"),
        (binary(1, 0x31, &[b'/'; 216]), "127.0.0.1"),
    ] {
        let mut peer = opened(&gateway, &header);
        assert_eq!(forwarded_for(&ask(&mut peer, request)), seen, "{}", header.escape_ascii());
    }
    counted(&gateway, "local", 2.0);
    counted(&gateway, "unnamed", 4.0);
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let (gateway, _origin) = serving("");
    let client = "203.0.113.9:56324".parse().unwrap();
    for (header, client) in [(LINE.as_bytes().to_vec(), "203.0.113.7"), (said_in_binary(client), "203.0.113.9")] {
        let mut peer = gateway.client().unwrap();
        for byte in [&header[..], GET.as_bytes()].concat() {
            peer.send([byte]).unwrap();
        }
        assert_eq!(forwarded_for(&Message::answer(&mut peer, "GET").unwrap()), client);
    }
}

#[test]
fn a_header_comes_before_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = certificate(folder.path(), "api", &["api.example.com"]).unwrap();
    let (gateway, _origin) = serving(&format!(
        "tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}",
        made.cert.display(),
        made.key.display()
    ));
    let config = trusting(&[&made.cert], &[]).unwrap();
    for hello_in_the_same_write in [true, false] {
        let name = ServerName::try_from("api.example.com").unwrap();
        let mut client = ClientConnection::new(config.clone(), name).unwrap();
        let mut first = LINE.as_bytes().to_vec();
        if hello_in_the_same_write {
            client.write_tls(&mut first).unwrap();
        }
        let mut peer = opened(&gateway, first).secure(client).unwrap();
        let answer = ask(&mut peer, GET);
        assert_eq!(forwarded_for(&answer), "203.0.113.7");
        assert!(answer.text().to_lowercase().contains("x-forwarded-proto: https"), "{}", answer.text());
    }
    // Half a greeting behind the header, and the rest byte by byte.
    let name = ServerName::try_from("api.example.com").unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut peer = opened(&gateway, [LINE.as_bytes(), &hello[..hello.len() / 2]].concat());
    for byte in &hello[hello.len() / 2..] {
        peer.send([*byte]).unwrap();
    }
    assert_eq!(forwarded_for(&ask(&mut peer.secure(client).unwrap(), GET)), "203.0.113.7");
    // Plain HTTP behind it is answered as it is without.
    let mut peer = opened(&gateway, format!("{LINE}{GET}"));
    assert_eq!(Message::answer(&mut peer, "GET").unwrap().refusal().unwrap(), (400, "tls_required".to_owned()));
    // TLS first is no header.
    is_closed(&mut opened(&gateway, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"));
    counted(&gateway, "malformed", 1.0);
}

#[test]
fn nobody_else_is_served() {
    let (gateway, _origin) = serving("");
    let address = gateway.address_of("main").unwrap();
    for first in [&format!("{LINE}{GET}"), GET] {
        let mut peer = Peer::connect_from("127.0.0.9".parse().unwrap(), address).unwrap();
        // It may be closed before the write.
        let _ = peer.send(first);
        is_closed(&mut peer);
    }
    counted(&gateway, "untrusted", 2.0);
    assert_eq!(gateway.metrics().unwrap().sum("bawab_requests_total", &[]), 0.0);
}

#[test]
fn what_is_no_header_closes_the_connection() {
    let (gateway, _origin) = serving("");
    let datagrams = binary(1, 0x12, &[0; 12]);
    let wrong_sum = binary(1, 0x11, &[&[0; 12][..], &[3, 0, 4, 1, 2, 3, 4]].concat());
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let bad: [&[u8]; 7] = [
        GET.as_bytes(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 056324 443\r\n",
        b"PROXY TCP4 203.0.113.7  192.0.2.1 56324 443\r\n",
        long.as_bytes(),
        &datagrams,
        &wrong_sum,
        b"\0\0\0\0",
    ];
    for first in bad {
        is_closed(&mut opened(&gateway, first));
    }
    // One that breaks off.
    let mut peer = opened(&gateway, "PROXY TCP4 203.0");
    peer.fin().unwrap();
    is_closed(&mut peer);
    counted(&gateway, "malformed", 8.0);
    // Who only looks whether somebody is here has done nothing wrong.
    drop(gateway.client().unwrap());
    gateway.metrics_when("no connections", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_proxy_protocol_total", &[]), 8.0);
    assert_eq!(metrics.sum("bawab_requests_total", &[]), 0.0);
}

#[test]
fn header_and_head_have_one_deadline() {
    let (gateway, _origin) = serving("[timeouts]\nhead = \"1s\"");
    for first in ["", "PROXY TCP4 203.0", LINE] {
        let begun = Instant::now();
        is_closed(&mut opened(&gateway, first));
        assert!(begun.elapsed() >= Duration::from_millis(900), "{first:?} was closed after {:?}", begun.elapsed());
    }
    for separate in [true, false] {
        let mut peer = if separate {
            let mut peer = opened(&gateway, LINE);
            peer.send("GET / HT").unwrap();
            peer
        } else {
            opened(&gateway, format!("{LINE}GET / HT"))
        };
        let answer = Message::answer(&mut peer, "GET").unwrap();
        assert_eq!(answer.refusal().unwrap(), (408, "head_timeout".to_owned()));
    }
    let timeouts = |metrics: &Metrics| metrics.sum("bawab_client_timeouts_total", &[("wait", "head")]) == 5.0;
    gateway.metrics_when("five timeouts", timeouts).unwrap();
}

/// A balancer keeps many connections open ahead of their clients: none holds a buffer.
#[test]
fn who_says_nothing_holds_nothing() {
    let (gateway, _origin) = serving("");
    let silent: Vec<_> = (0..200).map(|_| gateway.client().unwrap()).collect();
    let metrics = gateway
        .metrics_when("all of them", |metrics| metrics.sum("bawab_connections_open", &[]) == silent.len() as f64)
        .unwrap();
    assert_eq!(metrics.sum("bawab_buffers_live", &[]), 0.0);
}

#[test]
fn lists_and_bans_hold_for_the_client_and_not_for_the_balancer() {
    let (gateway, _origin) = serving(
        "deny = [\"here\"]\n[list.drop]\naction = \"deny\"\ncidrs = [\"203.0.113.7\", \"2001:db8:7::/48\"]\n\
         [list.here]\naction = \"named\"\ncidrs = [\"203.0.113.8\"]",
    );
    let refused = |metrics: &Metrics| metrics.sum("bawab_connections_refused_total", &[("reason", "address_list")]);
    for header in [
        LINE.as_bytes().to_vec(),
        line("203.0.113.8").into_bytes(),
        said_in_binary("[2001:db8:7::1]:1".parse().unwrap()),
    ] {
        is_closed(&mut opened(&gateway, [&header[..], GET.as_bytes()].concat()));
    }
    gateway.metrics_when("three refused", |metrics| refused(metrics) == 3.0).unwrap();
    let mut kept = opened(&gateway, line("203.0.113.9"));
    assert_eq!(ask(&mut kept, GET).head.status(), 200);
    let file = gateway.config_file();
    let ban = |address| {
        let args = ["ban", "add", address, "--config", file.to_str().unwrap()];
        Command::new(binary::path()).args(args).output().unwrap()
    };
    assert_eq!(ban("203.0.113.9").status.code(), Some(0));
    // One that was let in hears why; a new one does not come that far.
    assert_eq!(ask(&mut kept, GET).refusal().unwrap(), (403, "address_banned".to_owned()));
    is_closed(&mut opened(&gateway, line("203.0.113.9") + GET));
    gateway.metrics_when("four refused", |metrics| refused(metrics) == 4.0).unwrap();
    // A ban of the balancer would be one of everybody.
    assert_eq!(ban("127.0.0.1").status.code(), Some(1));
    assert_eq!(ask(&mut opened(&gateway, line("203.0.113.10")), GET).head.status(), 200);
}

#[test]
fn the_bound_on_an_address_counts_clients_and_the_one_on_all_counts_everybody() {
    let (gateway, _origin) = serving("[limits]\nconnections = 6\nconnections_per_address = 2");
    let served = |client: &str| {
        let mut peer = opened(&gateway, line(client));
        assert_eq!(ask(&mut peer, GET).head.status(), 200, "{client}");
        peer
    };
    let mut first: Vec<_> = (0..2).map(|_| served("203.0.113.7")).collect();
    is_closed(&mut opened(&gateway, format!("{LINE}{GET}")));
    let others: Vec<_> = (0..2).map(|_| served("203.0.113.8")).collect();
    let refused = |metrics: &Metrics, reason| metrics.sum("bawab_connections_refused_total", &[("reason", reason)]);
    gateway.metrics_when("one refused", |metrics| refused(metrics, "address_limit") == 1.0).unwrap();
    // Room that becomes free is used again.
    first.clear();
    gateway
        .metrics_when("two open", |metrics| metrics.sum("bawab_connections_open", &[]) == others.len() as f64)
        .unwrap();
    let _again = served("203.0.113.7");
    // Those that have not said for whom they are take room, too.
    let _silent: Vec<_> = (0..3).map(|_| gateway.client().unwrap()).collect();
    gateway.metrics_when("six open", |metrics| metrics.sum("bawab_connections_open", &[]) == 6.0).unwrap();
    is_closed(&mut opened(&gateway, ""));
    gateway.metrics_when("one more refused", |metrics| refused(metrics, "total_limit") == 1.0).unwrap();
}

#[test]
fn a_header_is_not_believed_where_none_is_expected() {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    for client_address in ["peer", "forwarded"] {
        let config = BEHIND_A_BALANCER.replace("proxy_protocol", client_address);
        let gateway = Gateway::start(&config, origin.address()).unwrap();
        for header in [LINE.as_bytes().to_vec(), said_in_binary("203.0.113.7:1".parse().unwrap())] {
            let mut peer = opened(&gateway, [&header[..], GET.as_bytes()].concat());
            let refusal = Message::answer(&mut peer, "GET").unwrap().refusal().unwrap();
            assert_eq!(refusal, (400, "proxy_header_unexpected".to_owned()), "{}", header.escape_ascii());
        }
    }
}

#[test]
fn a_reload_changes_the_rule_for_new_connections_only() {
    let (gateway, _origin) = serving("");
    let mut introduced = opened(&gateway, LINE);
    assert_eq!(forwarded_for(&ask(&mut introduced, GET)), "203.0.113.7");
    gateway.rewrite(&BEHIND_A_BALANCER.replace("proxy_protocol", "peer")).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    let mut direct = gateway.client().unwrap();
    assert_eq!(forwarded_for(&ask(&mut direct, GET)), "127.0.0.1");
    assert_eq!(forwarded_for(&ask(&mut introduced, GET)), "203.0.113.7");
    gateway.rewrite(BEHIND_A_BALANCER).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(forwarded_for(&ask(&mut direct, GET)), "127.0.0.1");
    assert_eq!(forwarded_for(&ask(&mut opened(&gateway, line("203.0.113.8")), GET)), "203.0.113.8");
}

/// haproxy in front of the gateway; ended and reaped on drop.
struct Balancer {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes connections on to `gateway` as they are, by a server line with `options`. Its listening socket is one of ours, so that
/// no port can be taken meanwhile. `None`: it is not installed.
fn haproxy(gateway: &Gateway, options: &str) -> Result<Option<Balancer>> {
    let Some(program) = find("haproxy") else { return Ok(None) };
    let dir = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let config = format!(
        "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 20s\n  timeout client 20s\n  timeout server 20s\n\
         frontend front\n  bind fd@0\n  default_backend back\n\
         backend back\n  server gateway {} {options}\n",
        gateway.address_of("main")?
    );
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let child = Command::new(program)
        // Not quiet: it would put something else in the place of its stdin.
        .args(["-db", "-f"])
        .arg(&file)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Some(Balancer { child, address, _dir: dir }))
}

/// curl without the user's own settings; `None`: it is not installed.
fn curl(args: &[&str]) -> Result<Option<Output>> {
    let Some(program) = find("curl") else { return Ok(None) };
    let output = Command::new(program)
        .args(["--disable", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*", "--insecure"])
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    anyhow::ensure!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(output))
}

/// What curl gets, and by which protocol.
fn curled(args: &[&str]) -> Option<String> {
    let args = [args, &["--write-out", "\nversion=%{http_version}\n"]].concat();
    curl(&args).unwrap().map(|output| String::from_utf8(output.stdout).unwrap().to_lowercase())
}

#[test]
fn haproxy_in_front_says_who_the_client_is() {
    let (gateway, _origin) = serving("");
    for (at, options) in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"].into_iter().enumerate()
    {
        let Some(balancer) = haproxy(&gateway, options).unwrap() else { return };
        let from = format!("127.0.0.{}", 70 + at);
        let mut client = Peer::connect_from(from.parse().unwrap(), balancer.address).unwrap();
        for _ in 0..2 {
            assert_eq!(forwarded_for(&ask(&mut client, GET)), from, "{options}");
        }
        let url = format!("http://{}/", balancer.address);
        for (how, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
            let Some(said) = curled(&["--interface", &from, how, &url]) else { continue };
            assert!(said.contains(&format!("x-forwarded-for: {from}\n")), "{options} {how}: {said}");
            assert!(said.contains(&format!("version={version}\n")), "{options} {how}: {said}");
        }
    }
}

#[test]
fn haproxy_in_front_passes_tls_on() {
    let folder = tempfile::tempdir().unwrap();
    let made = certificate(folder.path(), "api", &["api.example.com"]).unwrap();
    let (gateway, _origin) = serving(&format!(
        "tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}",
        made.cert.display(),
        made.key.display()
    ));
    let Some(balancer) = haproxy(&gateway, "send-proxy-v2").unwrap() else { return };
    let url = format!("https://{}/", balancer.address);
    for (how, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let Some(said) = curled(&["--interface", "127.0.0.80", how, &url]) else { return };
        assert!(said.contains("x-forwarded-for: 127.0.0.80\n"), "{how}: {said}");
        assert!(said.contains(&format!("version={version}\n")), "{how}: {said}");
    }
}

/// Its health checks are its own (LOCAL), and end no connection badly.
#[test]
fn haproxy_in_front_may_check_whether_the_gateway_is_there() {
    let (gateway, _origin) = serving("");
    let Some(_balancer) = haproxy(&gateway, "send-proxy-v2 check inter 50ms").unwrap() else { return };
    let local = |metrics: &Metrics| metrics.sum("bawab_proxy_protocol_total", &[("outcome", "local")]) >= 2.0;
    let metrics = gateway.metrics_when("two checks", local).unwrap();
    assert_eq!(metrics.sum("bawab_proxy_protocol_total", &[("outcome", "malformed")]), 0.0);
}

#[test]
fn curl_may_be_its_own_balancer() {
    let folder = tempfile::tempdir().unwrap();
    let made = certificate(folder.path(), "api", &["api.example.com"]).unwrap();
    for (scheme, tls) in [
        ("http", String::new()),
        (
            "https",
            format!(
                "tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}",
                made.cert.display(),
                made.key.display()
            ),
        ),
    ] {
        let (gateway, _origin) = serving(&tls);
        let url = format!("{scheme}://{}/", gateway.address_of("main").unwrap());
        let newer = if scheme == "http" { "--http2-prior-knowledge" } else { "--http2" };
        for (how, version) in [("--http1.1", "1.1"), (newer, "2")] {
            let Some(said) = curled(&["--haproxy-protocol", how, &url]) else { return };
            assert!(said.contains("x-forwarded-for: 127.0.0.1\n"), "{scheme} {how}: {said}");
            assert!(said.contains(&format!("version={version}\n")), "{scheme} {how}: {said}");
        }
        counted(&gateway, "accepted", 2.0);
    }
}
