//! The door in the kernel, as an operator sees it: the real binary in a namespace, clients in another. For root only.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::message::Message;
use e2e::netns::{Network, ip};
use e2e::origin::ok;
use e2e::{Gateway, Origin, binary, patience};

/// How long a connection that must not come about is waited for.
const SHUT: Duration = Duration::from_millis(400);

macro_rules! root_only {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("not run: XDP programs and network namespaces are for root");
            return;
        }
    };
}

/// Removes what a gateway left in the kernel, however the test ends.
struct Detached<'a>(&'a str);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let _ = bawab(&["xdp", "detach", "--interface", self.0]);
    }
}

fn bawab(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary::path()).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn config(network: &Network, more: &str) -> String {
    format!(
        "[[listener]]\nname = \"main\"\naddress = \"10.78.0.1:0\"\n[xdp]\ninterfaces = [\"{}\"]\n{more}",
        network.interface
    )
}

/// An origin and a gateway, both on the gateway's side.
fn start(network: &Network, more: &str) -> (Gateway, e2e::origin::Serving) {
    network
        .at_gateway(|| {
            let origin = Origin::tcp()?.answer(|_| ok("x"));
            let gateway = Gateway::start(&config(network, more), origin.address())?;
            Ok((gateway, origin))
        })
        .unwrap()
}

fn served(network: &Network, from: &str, to: SocketAddr) -> Result<u16> {
    let mut client = network.connect(from, to, patience())?;
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")?;
    Ok(Message::answer(&mut client, "GET")?.head.status())
}

#[track_caller]
fn assert_shut(network: &Network, from: &str, to: SocketAddr) {
    assert!(network.connect(from, to, SHUT).is_err(), "{from} connects");
}

#[test]
fn lists_and_bans_reach_the_kernel_and_outlive_the_gateway() {
    root_only!();
    let network = Network::new().unwrap();
    let _detached = Detached(&network.interface);
    let lists = "[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.3\"]\n";
    let (gateway, origin) = start(&network, lists);
    let to = gateway.address_of("main").unwrap();
    let file = gateway.config_file();
    let with = |args: &[&str]| bawab(&[args, &["--config", file.to_str().unwrap()]].concat());
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.3", to);
    let (_, said, _) = with(&["xdp", "status"]);
    assert!(said.contains(&format!("{}: attached, native", network.interface)), "{said}");
    let (_, said, _) = with(&["explain", "ip", "10.78.0.3", "--running"]);
    assert!(
        said.contains("turned away") && said.contains(&format!("says the same on {}", network.interface)),
        "{said}"
    );
    gateway
        .metrics_when("packets a list dropped", |metrics| {
            metrics.sum("bawab_xdp_list_packets_total", &[("list", "drop")]) >= 1.0
        })
        .unwrap();

    // A ban is there at once, and gone at once.
    let (code, said, _) = with(&["ban", "add", "10.78.0.4", "--for", "10m"]);
    assert_eq!(code, Some(0));
    assert!(said.contains(&format!("in the kernel on every port of {}", network.interface)), "{said}");
    assert_shut(&network, "10.78.0.4", to);
    assert_eq!(with(&["ban", "del", "10.78.0.4"]).0, Some(0));
    let deadline = Instant::now() + patience();
    while served(&network, "10.78.0.4", to).is_err() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(with(&["ban", "add", "10.78.0.5", "--for", "1h"]).0, Some(0));
    assert_shut(&network, "10.78.0.5", to);

    // The kill word lets everybody in, as far as the kernel goes.
    let bypass = |state: &str| bawab(&["xdp", "bypass", state, "--interface", &network.interface]);
    assert_eq!(bypass("on").1, format!("bypass is on on {}\n", network.interface));
    gateway.metrics_when("the bypass", |metrics| metrics.sum("bawab_xdp_bypassed", &[]) == 1.0).unwrap();
    assert!(with(&["xdp", "status"]).1.contains("BYPASSED"));
    network.connect("10.78.0.3", to, patience()).unwrap();
    assert_eq!(bypass("off").0, Some(0));
    assert_shut(&network, "10.78.0.3", to);

    // Killed without a word: the kernel goes on, and the next gateway finds bans and program where they were.
    gateway.signal(rustix::process::Signal::KILL).unwrap();
    drop((gateway, origin));
    assert_ne!(network.at_gateway(|| Ok(bawab(&["xdp", "detach", "--interface", "nothing0"]).1)).unwrap(), "");
    let (gateway, _origin) = start(&network, lists);
    let to = gateway.address_of("main").unwrap();
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.3", to);
    assert_shut(&network, "10.78.0.5", to);
    let file = gateway.config_file();
    let (_, said, _) = bawab(&["ban", "list", "--config", file.to_str().unwrap()]);
    assert!(said.contains("10.78.0.5"), "{said}");

    // Other lists without a gap; then no door any more.
    gateway.rewrite(&config(&network, "[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.4\"]\n")).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(served(&network, "10.78.0.3", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.4", to);
    gateway.rewrite("[[listener]]\nname = \"main\"\naddress = \"10.78.0.1:0\"").unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    let links = network
        .at_gateway(|| Ok(Command::new("ip").args(["-d", "link", "show", &network.interface]).output()?))
        .unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("prog/xdp"), "{links:?}");
    assert_eq!(served(&network, "10.78.0.4", to).unwrap(), 200);
}

#[test]
fn a_list_that_would_lock_out_is_refused() {
    root_only!();
    let network = Network::new().unwrap();
    let _detached = Detached(&network.interface);
    network.at_gateway(|| ip("route add default via 10.78.0.2")).unwrap();
    let (gateway, _origin) = start(&network, "");
    let to = gateway.address_of("main").unwrap();
    gateway.rewrite(&config(&network, "[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.0/24\"]\n")).unwrap();
    let refused = gateway.reload().unwrap();
    assert_eq!(refused.head.status(), 422);
    let said = refused.text();
    assert!(said.contains("list.drop: it would deny 10.78.0.2, this host's default gateway"), "{said}");
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    // What is managed may be on a list.
    let managed = "manage = [\"10.78.0.2/32\"]\n[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.0/24\"]\n";
    gateway.rewrite(&config(&network, managed)).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.3", to);
}

#[test]
fn new_connections_beyond_the_limit_are_dropped() {
    root_only!();
    let network = Network::new().unwrap();
    let _detached = Detached(&network.interface);
    let (gateway, _origin) = start(&network, "syn_limit = { rate = \"1/s\", burst = 5 }\n");
    let to = gateway.address_of("main").unwrap();
    let open: Vec<_> = (0..20).map(|_| network.connect("10.78.0.2", to, SHUT)).collect();
    let taken = open.iter().filter(|connection| connection.is_ok()).count();
    // Five at once and one a second: a SYN that is sent again may be the one.
    assert!((5..16).contains(&taken), "{taken} of 20");
    // Others have limits of their own.
    assert_eq!(served(&network, "10.78.0.3", to).unwrap(), 200);
    gateway
        .metrics_when("SYNs dropped", |metrics| metrics.sum("bawab_xdp_packets_total", &[("outcome", "syn_v4")]) >= 1.0)
        .unwrap();
}

#[test]
fn without_a_door_the_lists_hold_in_user_space_and_the_reason_is_said() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start(
        "[xdp]\ninterfaces = [\"nothing0\"]\nrequired = true\n[list.drop]\naction = \"deny\"\ncidrs = [\"127.0.0.1\"]",
        origin.address(),
    )
    .unwrap();
    gateway.event("XDP program not attached").unwrap();
    let ready = gateway.admin("/readyz").unwrap();
    assert_eq!((ready.head.status(), ready.json().unwrap()["reasons"][0].as_str()), (503, Some("xdp")));
    let mut client = gateway.client().unwrap();
    let _ = client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(Message::answer(&mut client, "GET").is_err());
    assert_eq!(gateway.metrics().unwrap().sum("bawab_xdp_attached", &[("interface", "nothing0")]), 0.0);
    let file = gateway.config_file();
    let (_, said, _) = bawab(&["xdp", "status", "--config", file.to_str().unwrap()]);
    assert!(said.contains("nothing0: NOT attached: there is no network interface `nothing0`"), "{said}");
}
