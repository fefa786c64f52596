//! Endpoints by name: what DNS says, what it does not say, and what becomes of requests meanwhile.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use e2e::dns::{Data, Kind, Say};
use e2e::kept::Kept;
use e2e::message::{Head, Message};
use e2e::origin::{Refusing, Serving, ok};
use e2e::peer::End;
use e2e::{Dns, Gateway, Origin, binary};
use rustix::process::Signal;
use serde_json::Value;

const NAME: &str = "orders.test";

/// Names are looked up as often as may be.
const QUICK: &str = "[dns]\nresolvers = [\"{dns}\"]\nmin_ttl = \"10ms\"\nmax_ttl = \"10ms\"\ntimeout = \"1s\"\n";

/// Names are looked up once.
const ONCE: &str = "[dns]\nresolvers = [\"{dns}\"]\nmin_ttl = \"1h\"\nmax_ttl = \"1h\"\ntimeout = \"1s\"\n";

/// Upstream `main` by the addresses of [`NAME`].
const BY_ADDRESS: &str =
    "[upstream.main]\nendpoints = []\ndns = { name = \"orders.test\", type = \"a\", port = {port} }\n";

/// Upstream `main` by SRV records.
const BY_SERVICE: &str =
    "[upstream.main]\nendpoints = []\ndns = { name = \"_http._tcp.orders.test\", type = \"srv\" }\n";

fn named(origin: Origin, name: impl Into<String>) -> Serving {
    let name = name.into();
    origin.answer(move |_| ok(&name))
}

/// Services on one port of these loopback addresses, each of which answers with its address.
fn on_one_port(hosts: &[&str]) -> (u16, Vec<Serving>) {
    for _ in 0..50 {
        let first = Origin::tcp().unwrap();
        let port = first.address().parse::<SocketAddr>().unwrap().port();
        drop(first);
        let origins =
            hosts.iter().map(|host| Origin::tcp_at(&SocketAddr::new(host.parse().unwrap(), port).to_string()));
        if let Ok(origins) = origins.collect::<anyhow::Result<Vec<Origin>>>() {
            return (port, origins.into_iter().zip(hosts).map(|(origin, host)| named(origin, *host)).collect());
        }
    }
    panic!("no port is free on all of {hosts:?}");
}

/// The parts of a configuration, with this port: as a number it is no value to be filled in later.
fn whole(config: &[&str], port: u16) -> String {
    config.concat().replace("{port}", &port.to_string())
}

fn start(dns: &Dns, config: &[&str], port: u16) -> Gateway {
    Gateway::start_with(&whole(config, port), &[("dns", &dns.address())]).unwrap()
}

/// How often each service answered, of `count` requests. A refusal is its status and code.
fn tally(gateway: &Gateway, count: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        let answer = gateway.get("/").unwrap();
        let said = match answer.head.status() {
            200 => answer.text(),
            _ => format!("{:?}", answer.refusal().unwrap()),
        };
        *tally.entry(said).or_default() += 1;
    }
    tally
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

const NO_ENDPOINT: &str = "(503, \"no_endpoint\")";

fn shown(gateway: &Gateway) -> Value {
    let said: Value = serde_json::from_str(&gateway.admin("/upstreams").unwrap().text()).unwrap();
    said["upstreams"][0].clone()
}

/// `bawab upstream list`.
fn listed(gateway: &Gateway) -> String {
    let mut command = Command::new(binary::path());
    command.args(["upstream", "list", "--config"]).arg(gateway.config_file());
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// Look-ups of a name that ended so.
fn looked_up(gateway: &Gateway, name: &str, outcome: &str) -> f64 {
    gateway.metrics().unwrap().sum("bawab_dns_lookups_total", &[("name", name), ("outcome", outcome)])
}

#[test]
fn the_addresses_of_a_name_are_endpoints() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1", "127.0.0.2"]);
    // What is no address of a host is none of a service: to connect to 0.0.0.0 is to connect to this host.
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.2", "127.0.0.1", "0.0.0.0", "127.0.0.2"]));
    let gateway = start(&dns, &[ONCE, BY_ADDRESS], port);
    assert_eq!(tally(&gateway, 10), counts(&[("127.0.0.1", 5), ("127.0.0.2", 5)]));
    let upstream = shown(&gateway);
    let endpoints = upstream["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2);
    assert_eq!(
        (&endpoints[0]["address"], &endpoints[0]["source"]),
        (&format!("127.0.0.1:{port}").into(), &"dns a orders.test".into())
    );
    let name = &upstream["names"][0];
    assert_eq!((&name["name"], &name["type"], &name["endpoints"]), (&NAME.into(), &"a".into(), &2.into()));
    assert!(name["answered"].is_string() && name["error"].is_null(), "{name}");
    let text = listed(&gateway);
    assert!(text.contains("  dns a orders.test: 2 endpoints, answered "), "{text}");
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_dns_addresses", &[("name", NAME), ("type", "a")]), 2.0);
    assert!(metrics.max("bawab_dns_answer_age_seconds").is_some());
}

#[test]
fn a_name_in_endpoints_stands_for_its_addresses_of_both_kinds() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("not run: this host has no IPv6");
        return;
    }
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1", "::1"]);
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    dns.says(NAME, Kind::Aaaa, Say::addresses(60, &["::1"]));
    let upstream = "[upstream.main]\nendpoints = [\"Orders.Test:{port}\"]\n";
    let gateway = start(&dns, &[ONCE, upstream], port);
    assert_eq!(tally(&gateway, 10), counts(&[("127.0.0.1", 5), ("::1", 5)]));
    let six = "[upstream.main]\nendpoints = []\ndns = { name = \"orders.test.\", type = \"aaaa\", port = {port} }\n";
    let gateway = start(&dns, &[ONCE, six], port);
    assert_eq!(tally(&gateway, 4), counts(&[("::1", 4)]));
}

#[test]
fn one_kind_of_address_that_cannot_be_had_costs_nothing_of_the_other() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1"]);
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    dns.says(NAME, Kind::Aaaa, Say::SERVFAIL);
    let gateway = start(&dns, &[ONCE, "[upstream.main]\nendpoints = [\"orders.test:{port}\"]\n"], port);
    assert_eq!(tally(&gateway, 3), counts(&[("127.0.0.1", 3)]));
    assert!(shown(&gateway)["names"][0]["error"].is_string());
}

#[test]
fn an_alias_is_followed_also_where_only_a_part_of_the_way_is_told() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1", "127.0.0.2"]);
    let alias = (None, Data::Alias("a.test".to_owned()));
    let address = (Some("a.test".to_owned()), Data::Address(IpAddr::from([127, 0, 0, 1])));
    dns.says(NAME, Kind::A, Say::Records(60, vec![alias.clone(), address]));
    let gateway = start(&dns, &[QUICK, BY_ADDRESS], port);
    assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.1", 2)]));
    dns.says("a.test", Kind::A, Say::addresses(60, &["127.0.0.2"]));
    dns.says(NAME, Kind::A, Say::Records(60, vec![alias]));
    gateway.event("endpoints changed").unwrap();
    assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.2", 2)]));
    // It leads to itself.
    dns.says(NAME, Kind::A, Say::Records(60, vec![(None, Data::Alias(NAME.to_owned()))]));
    let event = gateway.event("a name cannot be resolved").unwrap();
    assert_eq!(event["kept"], 1, "{event}");
    assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.2", 2)]));
}

#[test]
fn a_name_that_leads_elsewhere_is_followed_when_its_ttl_is_over() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1", "127.0.0.2"]);
    // Below `min_ttl`, which holds instead.
    dns.says(NAME, Kind::A, Say::addresses(0, &["127.0.0.1"]));
    let gateway = start(&dns, &[QUICK, BY_ADDRESS], port);
    assert_eq!(tally(&gateway, 4), counts(&[("127.0.0.1", 4)]));
    dns.asked_again(NAME, Kind::A, 3).unwrap();
    assert!(!gateway.said().contains("endpoints changed"), "it said the same");
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.2"]));
    let event = gateway.event("endpoints changed").unwrap();
    let (added, removed) = (format!("127.0.0.2:{port}"), format!("127.0.0.1:{port}"));
    assert_eq!((&event["added"], &event["removed"]), (&added.into(), &removed.into()), "{event}");
    assert_eq!((&event["upstream"], &event["name"], &event["endpoints"]), (&"main".into(), &NAME.into(), &1.into()));
    assert_eq!(event["why"], "the answer of DNS has changed");
    assert_eq!(tally(&gateway, 4), counts(&[("127.0.0.2", 4)]));
}

#[test]
fn srv_records_say_ports_weights_and_priorities() {
    let dns = Dns::start().unwrap();
    let service = |name: &str| named(Origin::tcp().unwrap(), name);
    let (a, b, c, d) = (service("a"), service("b"), service("c"), service("d"));
    let port = |serving: &Serving| serving.address().parse::<SocketAddr>().unwrap().port();
    for host in ["host-a.test", "host-b.test"] {
        dns.says(host, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    }
    let of = "_http._tcp.orders.test";
    let records = [
        (10, 30, port(&a), "host-a.test"),
        (10, 10, port(&b), "host-b.test"),
        (20, 1, port(&c), "host-a.test"),
        // The target is not there: the others serve.
        (5, 1, port(&c), "gone.test"),
    ];
    dns.says(of, Kind::Srv, Say::services(60, &records));
    let gateway = start(&dns, &[QUICK, BY_SERVICE], 0);
    assert_eq!(tally(&gateway, 40), counts(&[("a", 30), ("b", 10)]));
    let endpoints = shown(&gateway)["endpoints"].clone();
    let told = |at: usize| (endpoints[at]["weight"].as_u64(), endpoints[at]["priority"].as_u64());
    assert_eq!(
        [told(0), told(1), told(2)],
        [(Some(3), Some(0)), (Some(1), Some(0)), (Some(1), Some(1))],
        "{endpoints}"
    );
    // The first priority is gone, and its place is taken by the next.
    dns.says(of, Kind::Srv, Say::services(60, &[(20, 1, port(&c), "host-a.test")]));
    gateway.event("endpoints changed").unwrap();
    assert_eq!(tally(&gateway, 4), counts(&[("c", 4)]));
    // Weight 0 beside another is a very small chance (RFC 2782).
    dns.says(of, Kind::Srv, Say::services(60, &[(1, 0, port(&c), "host-a.test"), (1, 1, port(&d), "host-b.test")]));
    gateway.event_again("endpoints changed", 2).unwrap();
    assert_eq!(tally(&gateway, 101), counts(&[("c", 1), ("d", 100)]));
    // A target that cannot be looked up for a while is where it was.
    dns.says("host-b.test", Kind::A, Say::SERVFAIL);
    let event = gateway.event("a name cannot be resolved").unwrap();
    assert!(event["error"].as_str().unwrap().contains("host-b.test"), "{event}");
    assert_eq!(tally(&gateway, 101), counts(&[("c", 1), ("d", 100)]));
    // "Decidedly not available": the root as the only target.
    dns.says(of, Kind::Srv, Say::services(60, &[(0, 0, 0, ".")]));
    gateway.event("a name leads nowhere any more").unwrap();
    assert_eq!(tally(&gateway, 1), counts(&[(NO_ENDPOINT, 1)]));
}

#[test]
fn srv_records_behind_an_alias_are_found() {
    let dns = Dns::start().unwrap();
    let service = named(Origin::tcp().unwrap(), "a");
    let port = service.address().parse::<SocketAddr>().unwrap().port();
    dns.says("host.test", Kind::A, Say::addresses(60, &["127.0.0.1"]));
    let target = "host.test".to_owned();
    let records = vec![
        (None, Data::Alias("_http._tcp.elsewhere.test".to_owned())),
        (Some("_http._tcp.elsewhere.test".to_owned()), Data::Service { priority: 1, weight: 1, port, target }),
    ];
    dns.says("_http._tcp.orders.test", Kind::Srv, Say::Records(60, records));
    let host = "host = \"endpoint\"\n";
    let gateway = start(&dns, &[ONCE, BY_SERVICE, host], 0);
    assert_eq!(tally(&gateway, 2), counts(&[("a", 2)]));
}

#[test]
fn a_service_sees_the_host_an_srv_record_names() {
    let dns = Dns::start().unwrap();
    let service = Origin::tcp().unwrap().answer(|request| ok(request.head.field("host").unwrap_or_default()));
    let port = service.address().parse::<SocketAddr>().unwrap().port();
    dns.says("host.test", Kind::A, Say::addresses(60, &["127.0.0.1"]));
    dns.says("_http._tcp.orders.test", Kind::Srv, Say::services(60, &[(1, 1, port, "Host.test")]));
    let gateway = start(&dns, &[ONCE, BY_SERVICE, "host = \"endpoint\"\n"], 0);
    assert_eq!(tally(&gateway, 1), counts(&[(&format!("host.test:{port}"), 1)]));
}

#[test]
fn an_answer_too_long_for_udp_comes_over_tcp() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1"]);
    let many: Vec<String> = (0..200).map(|number| format!("127.1.0.{number}")).collect();
    let mut all: Vec<&str> = many.iter().map(String::as_str).collect();
    all.push("127.0.0.1");
    dns.says(NAME, Kind::A, Say::TooLong(Box::new(Say::addresses(60, &all))));
    let gateway = start(&dns, &[ONCE, BY_ADDRESS], port);
    assert_eq!(shown(&gateway)["endpoints"].as_array().unwrap().len(), 201);
    let (udp, tcp) = dns.asked(NAME, Kind::A);
    assert!(udp >= 1 && tcp == 1, "{udp} by UDP, {tcp} by TCP");
}

#[test]
fn a_failure_keeps_the_last_answer() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1", "127.0.0.2"]);
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
    let quick = QUICK.replace("timeout = \"1s\"", "timeout = \"50ms\"\ntries = 1");
    let gateway = start(&dns, &[&quick, BY_ADDRESS], port);
    dns.says(NAME, Kind::A, Say::SERVFAIL);
    let event = gateway.event("a name cannot be resolved").unwrap();
    assert_eq!((&event["kept"], &event["level"]), (&1.into(), &"WARN".into()), "{event}");
    assert!(event["error"].as_str().unwrap().contains("Server Failure"), "{event}");
    assert_eq!(tally(&gateway, 4), counts(&[("127.0.0.1", 4)]));
    // Nothing at all. Neither the workers nor the admin listener wait for it.
    dns.says(NAME, Kind::A, Say::Silence);
    let failed = looked_up(&gateway, NAME, "failed");
    gateway
        .metrics_when("further failures", |metrics| {
            metrics.sum("bawab_dns_lookups_total", &[("name", NAME), ("outcome", "failed")]) >= failed + 3.0
        })
        .unwrap();
    assert_eq!(tally(&gateway, 4), counts(&[("127.0.0.1", 4)]));
    assert!(shown(&gateway)["names"][0]["error"].as_str().unwrap().contains("no answer within 50ms"));
    assert!(listed(&gateway).contains(", failing: "));
    assert_eq!(gateway.said().matches("a name cannot be resolved").count(), 1, "it is told once");
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
    gateway.event("a name can be resolved again").unwrap();
    assert!(!gateway.said().contains("endpoints changed"));
}

#[test]
fn an_answer_is_gone_by_no_longer_than_is_written() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1"]);
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
    let stale = QUICK.to_owned() + "stale_max = \"100ms\"\n";
    let gateway = start(&dns, &[&stale, BY_ADDRESS], port);
    assert_eq!(tally(&gateway, 1), counts(&[("127.0.0.1", 1)]));
    dns.says(NAME, Kind::A, Say::SERVFAIL);
    let event = gateway.event("a name leads nowhere any more").unwrap();
    assert!(event["why"].as_str().unwrap().contains("`dns.stale_max`"), "{event}");
    assert_eq!(gateway.event("endpoints changed").unwrap()["endpoints"], 0);
    assert_eq!(tally(&gateway, 1), counts(&[(NO_ENDPOINT, 1)]));
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
    gateway.event_again("endpoints changed", 2).unwrap();
    assert_eq!(tally(&gateway, 1), counts(&[("127.0.0.1", 1)]));
}

#[test]
fn that_there_is_no_such_name_is_believed_when_it_was_said_three_times() {
    for denial in [Say::NoName, Say::NoRecord] {
        let dns = Dns::start().unwrap();
        let (port, _services) = on_one_port(&["127.0.0.1"]);
        dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
        let gateway = start(&dns, &[QUICK, BY_ADDRESS], port);
        dns.says(NAME, Kind::A, denial);
        let event = gateway.event("a name leads nowhere any more").unwrap();
        assert!(event["why"].as_str().unwrap().ends_with(", said 3 times in a row"), "{event}");
        let kept = gateway.event("a name cannot be resolved").unwrap();
        assert_eq!(kept["kept"], 1, "the first time: {kept}");
        let event = gateway.event("endpoints changed").unwrap();
        assert_eq!((&event["level"], &event["endpoints"]), (&"ERROR".into(), &0.into()), "{event}");
        assert!(looked_up(&gateway, NAME, "denied") >= 3.0);
        assert_eq!(tally(&gateway, 2), counts(&[(NO_ENDPOINT, 2)]));
        assert!(listed(&gateway).contains("no endpoint"));
        dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
        gateway.event_again("endpoints changed", 2).unwrap();
        assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.1", 2)]));
    }
}

#[test]
fn a_name_that_is_not_there_stops_neither_the_start_nor_others() {
    let dns = Dns::start().unwrap();
    let (port, services) = on_one_port(&["127.0.0.1"]);
    let other = format!("[upstream.other]\nendpoints = [\"{}\"]\n", services[0].address());
    let routes = "[[route]]\npath = \"/\"\nupstream = \"main\"\nauth = \"none\"\n\
                  [[route]]\npath = \"/other\"\nupstream = \"other\"\nauth = \"none\"\n";
    let gateway = start(&dns, &[QUICK, BY_ADDRESS, &other, routes], port);
    let event = gateway.event("a name cannot be resolved").unwrap();
    assert_eq!(
        (&event["level"], &event["error"], &event["kept"]),
        (&"ERROR".into(), &"no such name".into(), &0.into())
    );
    let event = gateway.event("an upstream has no endpoint: nothing is known of its names").unwrap();
    assert_eq!(event["upstream"], "main");
    assert_eq!(gateway.get("/other").unwrap().text(), "127.0.0.1");
    assert_eq!(tally(&gateway, 1), counts(&[(NO_ENDPOINT, 1)]));
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
    gateway.event("endpoints changed").unwrap();
    assert_eq!(tally(&gateway, 1), counts(&[("127.0.0.1", 1)]));
}

#[test]
fn check_looks_nothing_up() {
    let dns = Dns::start().unwrap();
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    let gateway = start(&dns, &[ONCE, BY_ADDRESS], 80);
    let before = dns.asked(NAME, Kind::A);
    let output = Command::new(binary::path()).arg("check").arg(gateway.config_file()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(dns.asked(NAME, Kind::A), before);
}

#[test]
fn another_server_is_asked_when_one_fails() {
    let (broken, dns) = (Dns::start().unwrap(), Dns::start().unwrap());
    let (port, _services) = on_one_port(&["127.0.0.1"]);
    let nobody = Refusing::new().unwrap();
    broken.says(NAME, Kind::A, Say::SERVFAIL);
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    let servers = format!("\"{}\", \"{}\", \"{{dns}}\"", nobody.address(), broken.address());
    let gateway = start(&dns, &[&ONCE.replace("\"{dns}\"", &servers), BY_ADDRESS], port);
    assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.1", 2)]));
    assert!(broken.asked(NAME, Kind::A).0 >= 1);
    assert_eq!(looked_up(&gateway, NAME, "failed"), 0.0);
}

#[test]
fn a_name_is_looked_up_once_for_all_that_use_it() {
    let dns = Dns::start().unwrap();
    let (first, _first) = on_one_port(&["127.0.0.1", "127.0.0.2"]);
    let (second, _second) = on_one_port(&["127.0.0.2"]);
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.2"]));
    let other = format!("[upstream.other.dns]\nname = \"ORDERS.test\"\ntype = \"a\"\nport = {second}\n");
    let routes = "[[route]]\npath = \"/\"\nupstream = \"main\"\nauth = \"none\"\n\
                  [[route]]\npath = \"/other\"\nupstream = \"other\"\nauth = \"none\"\n";
    let gateway = start(&dns, &[ONCE, BY_ADDRESS, &other, routes], first);
    assert_eq!(gateway.get("/").unwrap().text(), "127.0.0.2");
    assert_eq!(gateway.get("/other").unwrap().text(), "127.0.0.2");
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_dns_lookups_total", &[]), 1.0, "{}", metrics.counted());
}

#[test]
fn a_reload_and_another_process_go_on_with_what_is_known() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1"]);
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    let gateway = start(&dns, &[ONCE, BY_ADDRESS], port);
    let before = dns.asked(NAME, Kind::A);
    // Whoever asks now gets nothing.
    dns.says(NAME, Kind::A, Say::Silence);
    gateway.rewrite(&whole(&[ONCE, BY_ADDRESS, "slow_start = \"1ms\"\n"], port)).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.1", 2)]));
    assert_eq!(dns.asked(NAME, Kind::A), before, "its time is not over");
    gateway.signal(Signal::USR2).unwrap();
    gateway.successor(1).unwrap();
    assert_eq!(tally(&gateway, 4), counts(&[("127.0.0.1", 4)]));
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
}

#[test]
fn other_servers_are_asked_at_once() {
    let (first, second) = (Dns::start().unwrap(), Dns::start().unwrap());
    let (port, _services) = on_one_port(&["127.0.0.1", "127.0.0.2"]);
    first.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    second.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.2"]));
    let gateway = start(&first, &[ONCE, BY_ADDRESS], port);
    assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.1", 2)]));
    gateway.rewrite(&whole(&[&ONCE.replace("{dns}", &second.address()), BY_ADDRESS], port)).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    gateway.event("endpoints changed").unwrap();
    assert_eq!(tally(&gateway, 2), counts(&[("127.0.0.2", 2)]));
}

#[test]
fn a_request_at_an_endpoint_that_goes_is_finished_and_its_connections_are_closed() {
    let dns = Dns::start().unwrap();
    let (port, mut services) = on_one_port(&["127.0.0.1", "127.0.0.2"]);
    drop(services.remove(0));
    let origin = Origin::tcp_at(&format!("127.0.0.1:{port}")).unwrap();
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1"]));
    let gateway = start(&dns, &[QUICK, BY_ADDRESS], port);
    let asks = || {
        let mut client = gateway.client().unwrap();
        client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
        let mut running = origin.accept().unwrap();
        Head::read(&mut running).unwrap();
        (client, running)
    };
    // Two at one time, so that each has its connection: one is kept when the endpoint goes, the other one comes back later.
    let ((mut early, mut kept), (mut late, mut running)) = (asks(), asks());
    kept.send(ok("early")).unwrap();
    assert_eq!(Message::answer(&mut early, "GET").unwrap().text(), "early");
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.2"]));
    gateway.event("endpoints changed").unwrap();
    assert_eq!(tally(&gateway, 3), counts(&[("127.0.0.2", 3)]));
    // Both far sooner than `pool.idle` says.
    assert_eq!(kept.finish().unwrap(), End::Eof);
    running.send(ok("late")).unwrap();
    assert_eq!(Message::answer(&mut late, "GET").unwrap().text(), "late");
    assert_eq!(running.finish().unwrap(), End::Eof);
}

#[test]
fn what_is_known_of_endpoints_that_stay_is_kept() {
    let dns = Dns::start().unwrap();
    let status = Arc::new(AtomicU16::new(200));
    let answers = status.clone();
    let (port, services) = on_one_port(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    drop(services);
    let at = |host: &str| Origin::tcp_at(&format!("{host}:{port}")).unwrap();
    let _sick = at("127.0.0.1").answer(move |request| match request.head.start.contains(" /healthz ") {
        true => format!("HTTP/1.1 {} x\r\nContent-Length: 0\r\n\r\n", answers.load(Ordering::Relaxed)).into_bytes(),
        false => ok("sick"),
    });
    let _well = named(at("127.0.0.2"), "well");
    let _new = named(at("127.0.0.3"), "new");
    dns.says(NAME, Kind::A, Say::addresses(1, &["127.0.0.1", "127.0.0.2"]));
    // One check a minute after those of the start: what is not kept could not be found out again.
    let health = "health = { http = \"/healthz\", interval = \"1m\", unhealthy_after = 1 }\npanic_threshold = \"0%\"\n";
    status.store(503, Ordering::Relaxed);
    let gateway = start(&dns, &[QUICK, BY_ADDRESS, health], port);
    gateway.event("an endpoint is unhealthy").unwrap();
    for (nth, addresses) in [
        &["127.0.0.1", "127.0.0.2", "127.0.0.3"][..],
        &["127.0.0.1", "127.0.0.3"],
        &["127.0.0.1", "127.0.0.2", "127.0.0.3"],
    ]
    .into_iter()
    .enumerate()
    {
        dns.says(NAME, Kind::A, Say::addresses(1, addresses));
        gateway.event_again("endpoints changed", nth + 1).unwrap();
        let tally = tally(&gateway, 6);
        assert!(!tally.contains_key("sick") && tally.contains_key("new"), "{tally:?}");
        assert_eq!(shown(&gateway)["endpoints"][0]["state"], "unhealthy");
    }
    assert_eq!(gateway.said().matches("an endpoint is unhealthy").count(), 1);
}

#[test]
fn no_request_fails_while_addresses_change() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    dns.says(NAME, Kind::A, Say::addresses(0, &["127.0.0.1"]));
    let gateway = start(&dns, &[QUICK, BY_ADDRESS, "[gateway]\nworkers = 2\n"], port);
    let address = gateway.address_of("main").unwrap();
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let sets = [
        &["127.0.0.2"][..],
        &["127.0.0.2", "127.0.0.3"],
        &["127.0.0.1"],
        &["127.0.0.1", "127.0.0.2", "127.0.0.3"],
        &["127.0.0.3"],
    ];
    std::thread::scope(|scope| {
        let client = || {
            let mut kept = Kept::connect(address).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                let answer = kept.ask("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
                assert_eq!(answer.head.status(), 200, "{}", answer.text());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        let changes = scope.spawn(|| {
            // Ended also when an assertion ends this thread: the clients would go on for ever.
            let _end = OnDrop(|| is_over.store(true, Ordering::Relaxed));
            for (nth, addresses) in (0..4).flat_map(|_| sets).enumerate() {
                dns.says(NAME, Kind::A, Say::addresses(0, addresses));
                gateway.event_again("endpoints changed", nth + 1).unwrap();
            }
        });
        changes.join().unwrap();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let answered = answered.into_inner();
    assert!(answered > 100, "{answered}");
    assert_eq!(gateway.metrics().unwrap().sum("bawab_refusals_total", &[]), 0.0);
}

/// Runs a closure at the end of a scope, however it ends.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn servers_that_do_not_know_edns_are_asked_without_it() {
    let dns = Dns::start().unwrap();
    let (port, _services) = on_one_port(&["127.0.0.1"]);
    dns.forgets_edns();
    dns.says(NAME, Kind::A, Say::addresses(60, &["127.0.0.1"]));
    let gateway = start(&dns, &[ONCE, BY_ADDRESS], port);
    assert_eq!(tally(&gateway, 1), counts(&[("127.0.0.1", 1)]));
}
