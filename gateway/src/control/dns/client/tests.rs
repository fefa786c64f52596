use super::*;
use hickory_resolver::proto::rr::rdata::{A, CNAME};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn system(resolv_conf: &str, hosts: &str) -> System {
    let (_, search, ndots) = read(resolv_conf.as_bytes());
    let mut known = Hosts::default();
    known.read_hosts_conf(hosts.as_bytes()).unwrap();
    System { servers: Vec::new(), search, ndots, hosts: known }
}

#[test]
fn what_a_name_may_mean_is_asked_for_in_order() {
    let cluster = "nameserver 10.0.0.10\nsearch ns.svc.local svc.local\noptions ndots:2\n";
    let plain = "nameserver 10.0.0.10\nsearch svc.local\n";
    for (conf, text, expected) in [
        (cluster, "orders", &["orders.ns.svc.local.", "orders.svc.local.", "orders."][..]),
        (cluster, "a.orders", &["a.orders.ns.svc.local.", "a.orders.svc.local.", "a.orders."]),
        (cluster, "a.b.orders", &["a.b.orders.", "a.b.orders.ns.svc.local.", "a.b.orders.svc.local."]),
        (cluster, "orders.", &["orders."]),
        (plain, "a.orders", &["a.orders.", "a.orders.svc.local."]),
        (plain, "_http._tcp.orders", &["_http._tcp.orders.", "_http._tcp.orders.svc.local."]),
    ] {
        let candidates = system(conf, "").candidates(text);
        let shown: Vec<String> = candidates.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected, "{text} by {conf}");
    }
}

#[test]
fn servers_are_those_of_the_system_or_the_one_on_this_host() {
    let addresses = |text: &str| read(text.as_bytes()).0;
    assert_eq!(
        addresses("nameserver 192.0.2.1\nnameserver 2001:db8::1\n"),
        ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]
    );
    for text in ["", "search example.com\n", "nameserver nonsense\n"] {
        assert_eq!(addresses(text), ["127.0.0.1:53".parse().unwrap()], "{text}");
    }
}

#[test]
fn what_this_host_knows_is_not_asked_for() {
    let system = system("", "10.0.0.1 Orders.internal orders\n2001:db8::1 orders\n");
    let known =
        |text: &str| system.known(text).map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    assert_eq!(known("orders").as_deref(), Some("10.0.0.1 2001:db8::1"));
    assert_eq!(known("ORDERS.internal.").as_deref(), Some("10.0.0.1"));
    assert_eq!(known("books"), None);
    assert_eq!(known("localhost").as_deref(), Some("127.0.0.1 ::1"));
    assert_eq!(known("a.localhost.").as_deref(), Some("127.0.0.1 ::1"));
    assert_eq!(known("localhost.example"), None);
}

fn a(of: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(of), ttl, RData::A(A::new(10, 0, 0, last)))
}

fn alias(of: &str, ttl: u32, to: &str) -> Record {
    Record::from_rdata(name(of), ttl, RData::CNAME(CNAME(name(to))))
}

/// Where the aliases from `a.` end, how many records are there, and the TTL.
fn followed(answers: &[Record]) -> Option<(String, usize, u64)> {
    let (end, data, ttl) = follow(answers, &name("a."), RecordType::A)?;
    Some((end.to_string(), data.len(), ttl.as_secs()))
}

#[test]
fn aliases_are_followed_and_the_least_ttl_counts() {
    let check = |answers: &[Record], expected: Option<(&str, usize, u64)>| {
        let expected = expected.map(|(end, count, ttl)| (end.to_owned(), count, ttl));
        assert_eq!(followed(answers), expected, "{answers:?}");
    };
    check(&[a("a.", 60, 1), a("A.", 30, 2), a("b.", 1, 3)], Some(("a.", 2, 30)));
    check(&[a("c.", 60, 1), alias("b.", 9, "c."), alias("a.", 20, "b.")], Some(("c.", 1, 9)));
    // The rest is to be asked for.
    check(&[alias("a.", 20, "b.")], Some(("b.", 0, 20)));
    check(&[a("b.", 20, 1)], Some(("a.", 0, u64::from(u32::MAX))));
    check(&[alias("a.", 20, "b."), alias("b.", 20, "a.")], None);
    check(&[alias("a.", 20, "a.")], None);
    let chain = |steps: usize| -> Vec<Record> {
        let step = |nth: usize| if nth == 0 { "a.".to_owned() } else { format!("{nth}.") };
        let last = Record::from_rdata(name(&step(steps)), 20, RData::A(A::new(10, 0, 0, 1)));
        (0..steps).map(|nth| alias(&step(nth), 20, &step(nth + 1))).chain([last]).collect()
    };
    check(&chain(DNS_ALIASES_MAX), Some((&format!("{DNS_ALIASES_MAX}."), 1, 20)));
    check(&chain(DNS_ALIASES_MAX + 1), None);
}
