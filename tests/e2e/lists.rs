//! Address lists and bans as user space enforces them; the kernel's part is in `door`.

use std::process::Command;

use e2e::message::Message;
use e2e::origin::{Serving, ok};
use e2e::{Gateway, Origin, Peer, binary};
use rustix::process::Signal;

fn serving(config: &str) -> (Gateway, Serving) {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start(config, origin.address()).unwrap();
    (gateway, origin)
}

/// A listener that learns its clients from a field, so that a test can be anybody.
const BEHIND_A_HOP: &str = r#"
[gateway]
trusted_hops = ["127.0.0.0/8"]
[[listener]]
name = "main"
address = "127.0.0.1:0"
client_address = "forwarded"
"#;

fn from(gateway: &Gateway, client: &str, target: &str) -> (u16, String) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {client}\r\n\r\n");
    let answer = gateway.ask(request).unwrap();
    match answer.head.status() {
        200 => (200, String::new()),
        _ => answer.refusal().unwrap(),
    }
}

fn denied() -> (u16, String) {
    (403, "address_denied".to_owned())
}

fn bawab(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary::path()).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn clients_on_a_list_are_refused_wherever_the_list_holds() {
    let (gateway, _origin) = serving(&format!(
        r#"{BEHIND_A_HOP}
        [list.drop]
        action = "deny"
        cidrs = ["203.0.113.0/24", "2001:db8::/32"]
        [list.tried]
        action = "deny"
        mode = "shadow"
        cidrs = ["198.51.100.0/24"]
        [list.partners]
        action = "named"
        cidrs = ["192.0.2.0/25", "203.0.113.0/24"]
        [list.staff]
        action = "named"
        cidrs = ["192.0.2.7"]
        [xdp]
        interfaces = ["nothing0"]
        mode = "off"
        manage = ["203.0.113.64/26"]
        [[route]]
        path = "/**"
        upstream = "main"
        auth = "none"
        [[route]]
        path = "/partners"
        upstream = "main"
        auth = "none"
        allow = ["partners"]
        [[route]]
        path = "/not-staff"
        upstream = "main"
        auth = "none"
        deny = ["staff"]
        "#
    ));
    for (client, target, expected) in [
        ("192.0.2.1", "/", (200, String::new())),
        ("203.0.113.7", "/", denied()),
        ("203.0.113.7", "/nowhere/../partners", denied()),
        ("203.0.113.70", "/", (200, String::new())),
        ("2001:db8:1::1", "/", denied()),
        ("198.51.100.1", "/", (200, String::new())),
        ("192.0.2.1", "/partners", (200, String::new())),
        ("192.0.2.200", "/partners", denied()),
        // Managed is let in whatever lists say; a route's own lists say whom it serves.
        ("203.0.113.70", "/partners", (200, String::new())),
        ("192.0.2.7", "/not-staff", denied()),
        ("192.0.2.8", "/not-staff", (200, String::new())),
    ] {
        assert_eq!(from(&gateway, client, target), expected, "{client} {target}");
    }
    let file = gateway.config_file();
    let explain = |address: &str, more: &[&str]| {
        let args = [&["explain", "ip", address, "--config", file.to_str().unwrap()], more].concat();
        bawab(&args)
    };
    let (code, said, _) = explain("203.0.113.7", &[]);
    assert_eq!(code, Some(0));
    assert!(
        said.contains("203.0.113.7 is turned away") && said.contains("drop, 203.0.113.0/24 in list.drop.cidrs[0]"),
        "{said}"
    );
    let (_, said, _) = explain("198.51.100.1", &["--running"]);
    assert!(said.contains("tried would turn it away, were it enforced"), "{said}");
    let (_, said, _) = explain("192.0.2.7", &["--running"]);
    assert!(said.contains("route /not-staff turns it away"), "{said}");
}

#[test]
fn a_connection_from_a_denied_peer_ends_at_accept() {
    let (gateway, _origin) = serving("");
    let mut kept = gateway.client().unwrap();
    kept.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut kept, "GET").unwrap().head.status(), 200);
    gateway.rewrite("[list.drop]\naction = \"deny\"\ncidrs = [\"127.0.0.1\"]").unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    // One that was let in before hears why with its next request.
    kept.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut kept, "GET").unwrap().refusal().unwrap(), denied());
    let mut new = gateway.client().unwrap();
    assert!(new.rest().is_err() || new.rest().unwrap().0.is_empty());
    gateway
        .metrics_when("a connection refused by a list", |metrics| {
            metrics.sum("bawab_connections_refused_total", &[("reason", "address_list")]) >= 1.0
        })
        .unwrap();
}

#[test]
fn a_listener_lets_in_those_of_its_lists() {
    let (gateway, _origin) = serving(
        r#"
        [list.others]
        action = "named"
        cidrs = ["192.0.2.0/24"]
        [[listener]]
        name = "main"
        address = "127.0.0.1:0"
        [[listener]]
        name = "closed"
        address = "127.0.0.1:0"
        allow = ["others"]
        "#,
    );
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
    let mut client = Peer::connect(gateway.address_of("closed").unwrap()).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").ok();
    assert!(Message::answer(&mut client, "GET").is_err());
}

#[test]
fn a_list_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("drop.txt");
    std::fs::write(&list, "203.0.113.7\n").unwrap();
    let (gateway, _origin) =
        serving(&format!("{BEHIND_A_HOP}\n[list.drop]\naction = \"deny\"\nfile = \"{}\"", list.display()));
    assert_eq!(from(&gateway, "203.0.113.7", "/"), denied());
    assert_eq!(from(&gateway, "203.0.113.8", "/").0, 200);
    // Only the list changes, and the gateway sees it by itself.
    std::fs::write(&list, "203.0.113.8 # another\n").unwrap();
    gateway.event("configuration reloaded").unwrap();
    assert_eq!(from(&gateway, "203.0.113.7", "/").0, 200);
    assert_eq!(from(&gateway, "203.0.113.8", "/"), denied());
    // A bad line refuses the whole; the list before goes on.
    std::fs::write(&list, "203.0.113.9\n203.0.113.300\n").unwrap();
    let refused = gateway.reload().unwrap();
    assert_eq!(refused.head.status(), 422);
    assert!(refused.text().contains("drop.txt:2: \\\"203.0.113.300\\\": not an IP address"), "{}", refused.text());
    assert_eq!(from(&gateway, "203.0.113.8", "/"), denied());
    assert_eq!(from(&gateway, "203.0.113.9", "/").0, 200);
}

#[test]
fn who_is_banned_stays_so_when_another_process_takes_over() {
    let (mut gateway, _origin) = serving(BEHIND_A_HOP);
    let file = gateway.config_file();
    let ban = |args: &[&str]| bawab(&[&["ban"], args, &["--config", file.to_str().unwrap()]].concat());
    assert_eq!(ban(&["add", "203.0.113.7", "--for", "1h", "--reason", "too loud"]).0, Some(0));
    assert_eq!(ban(&["add", "2001:db8::1"]).0, Some(0));
    gateway.signal(Signal::USR2).unwrap();
    gateway.successor(1).unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
    assert_eq!(from(&gateway, "203.0.113.7", "/"), (403, "address_banned".to_owned()));
    assert_eq!(from(&gateway, "203.0.113.8", "/").0, 200);
    let said = ban(&["list"]).1;
    assert!(said.contains("too loud") && said.contains("2001:db8::"), "{said}");
    assert_eq!(ban(&["del", "203.0.113.7"]).0, Some(0));
    assert_eq!(from(&gateway, "203.0.113.7", "/").0, 200);
}

#[test]
fn a_ban_holds_for_its_time_and_no_longer() {
    let (gateway, _origin) =
        serving(&format!("{BEHIND_A_HOP}\n[list.friends]\naction = \"exempt\"\ncidrs = [\"192.0.2.7\"]"));
    let file = gateway.config_file();
    let ban = |args: &[&str]| bawab(&[&["ban"], args, &["--config", file.to_str().unwrap()]].concat());
    let (code, said, wrong) = ban(&["add", "203.0.113.7", "--for", "1h", "--reason", "too loud"]);
    assert_eq!((code, wrong.as_str()), (Some(0), ""));
    assert_eq!(said, "203.0.113.7 is banned for 1h, in user space\n");
    assert_eq!(from(&gateway, "203.0.113.7", "/"), (403, "address_banned".to_owned()));
    assert_eq!(from(&gateway, "203.0.113.8", "/").0, 200);
    assert!(ban(&["list"]).1.contains("203.0.113.7") && ban(&["list"]).1.contains("too loud"));
    let (_, said, _) = bawab(&["explain", "ip", "203.0.113.7", "--running", "--config", file.to_str().unwrap()]);
    assert!(said.contains("turned away") && said.contains("too loud"), "{said}");
    // A reload is no reason to forget it.
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(from(&gateway, "203.0.113.7", "/"), (403, "address_banned".to_owned()));
    assert_eq!(ban(&["del", "203.0.113.7"]).1, "203.0.113.7 is banned no more\n");
    assert_eq!(from(&gateway, "203.0.113.7", "/").0, 200);
    assert_eq!(ban(&["del", "203.0.113.7"]).2, "this address is not banned\n");
    assert_eq!(ban(&["list"]).1, "nobody is banned\n");
    // An IPv6 client has a /64.
    assert_eq!(ban(&["add", "2001:db8::1", "--for", "300ms"]).0, Some(0));
    let begin = std::time::Instant::now();
    while from(&gateway, "2001:db8::2", "/").0 == 403 {
        assert!(begin.elapsed().as_secs() < 60);
    }
    assert!(begin.elapsed().as_millis() < 60_000);
    for (address, what) in [
        ("192.0.2.7", "192.0.2.7 is exempt by `list.friends`\n"),
        ("127.0.0.1", "127.0.0.1 is one of `gateway.trusted_hops`: all that comes through it would be banned\n"),
    ] {
        let (code, _, said) = ban(&["add", address]);
        assert_eq!((code, said.as_str()), (Some(1), what));
    }
    assert_eq!(ban(&["add", "nobody"]).0, Some(2));
    assert_eq!(ban(&["add", "203.0.113.7", "--for", "0s"]).0, Some(2));
}

#[test]
fn lists_that_nobody_confirms_are_taken_back() {
    let (gateway, _origin) = serving(BEHIND_A_HOP);
    let file = gateway.config_file();
    let with = |address: &str| format!("{BEHIND_A_HOP}\n[list.drop]\naction = \"deny\"\ncidrs = [\"{address}\"]");
    let quiet = |config: String| config.replace("[gateway]", "[gateway]\nwatch = false");
    gateway.rewrite(&quiet(BEHIND_A_HOP.to_owned())).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    let xdp = |args: &[&str]| bawab(&[&["xdp"], args, &["--config", file.to_str().unwrap()]].concat());
    gateway.rewrite(&quiet(with("203.0.113.7"))).unwrap();
    let (code, said, wrong) = xdp(&["apply", "--confirm", "5s"]);
    assert_eq!((code, wrong.as_str()), (Some(0), ""), "{said}");
    assert_eq!(said, "applied; what ran before is back after 5s unless `bawab xdp confirm` comes first\n");
    assert_eq!(from(&gateway, "203.0.113.7", "/"), denied());
    gateway.event("nobody confirmed the configuration: the one before is in effect again").unwrap();
    assert_eq!(from(&gateway, "203.0.113.7", "/").0, 200);
    assert_eq!(xdp(&["confirm"]).0, Some(1));
    // The same file again, and this time somebody is there.
    assert_eq!(xdp(&["apply", "--confirm", "1m"]).0, Some(0));
    assert_eq!(xdp(&["confirm"]).1, "confirmed: it stays\n");
    assert_eq!(from(&gateway, "203.0.113.7", "/"), denied());
    // Too late: it runs already, and whoever asks hears how that can be.
    let (code, said, _) = xdp(&["apply", "--confirm", "1m"]);
    assert!(code == Some(0) && said.starts_with("unchanged") && said.contains("`gateway.watch = false`"), "{said}");
    assert_eq!(xdp(&["apply", "--confirm", "1s"]).2, "`confirm` is a time from 5s to 1h\n");
    let (code, _, said) = bawab(&["xdp", "bypass", "on", "--interface", "nothing0"]);
    assert_eq!((code, said.as_str()), (Some(2), "no XDP program of a gateway is attached\n"));
    assert!(xdp(&["status"]).1.contains("no interface has a door"));
}

#[test]
fn a_million_addresses_load_and_ten_million_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("many.txt");
    let many: String =
        (0..1_000_000u32).map(|number| format!("{}\n", std::net::Ipv4Addr::from(number * 2654 + 16_777_216))).collect();
    std::fs::write(&list, many).unwrap();
    let (gateway, _origin) =
        serving(&format!("{BEHIND_A_HOP}\n[list.many]\naction = \"deny\"\nfile = \"{}\"", list.display()));
    assert_eq!(from(&gateway, "1.0.0.0", "/"), denied());
    assert_eq!(from(&gateway, "1.0.0.1", "/").0, 200);
    let line = "203.0.113.7\n".repeat(1000);
    let mut file = std::io::BufWriter::new(std::fs::File::create(&list).unwrap());
    for _ in 0..10_000 {
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
    }
    drop(file);
    let refused = gateway.reload().unwrap();
    assert_eq!(refused.head.status(), 422);
    assert!(refused.text().contains("more than 4000000 addresses in all lists together"), "{}", refused.text());
    assert_eq!(from(&gateway, "1.0.0.0", "/"), denied());
}
