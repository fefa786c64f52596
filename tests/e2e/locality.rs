//! Endpoints that are near go first.

use std::collections::BTreeMap;

use e2e::origin::{Refusing, Serving, ok};
use e2e::{Gateway, Origin};

fn named(name: &'static str) -> Serving {
    Origin::tcp().unwrap().answer(move |_| ok(name))
}

fn tally(gateway: &Gateway, count: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        *tally.entry(gateway.get("/").unwrap().text()).or_default() += 1;
    }
    tally
}

fn of(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// A gateway in a zone, before endpoints in three places.
fn config(here: &str, rest: &str) -> String {
    format!(
        r#"
[gateway]
{here}
[upstream.main]
endpoints = [
  {{ address = "{{a}}", zone = "a1", datacenter = "a" }},
  {{ address = "{{b}}", zone = "a1", datacenter = "a" }},
  {{ address = "{{c}}", zone = "a2", datacenter = "a" }},
  {{ address = "{{d}}", zone = "b1", datacenter = "b" }},
]
{rest}"#
    )
}

const HERE: &str = "zone = \"a1\"\ndatacenter = \"a\"";

#[test]
fn requests_stay_in_the_zone_and_spill_over_by_the_share_that_is_lost() {
    let services = ["a", "b", "c", "d"].map(named);
    let [a, b, c, d] = services.each_ref().map(Serving::address);
    let gateway = Gateway::start_with(&config(HERE, ""), &[("a", a), ("b", b), ("c", c), ("d", d)]).unwrap();
    assert_eq!(tally(&gateway, 10), of(&[("a", 5), ("b", 5)]));
    let drain = |what: &str, address: &str| {
        let asked = format!("/upstreams/{what}?upstream=main&endpoint={address}");
        assert_eq!(gateway.post(&asked, "").unwrap().head.status(), 200);
    };
    // Who is taken out by hand has no share that could be lost.
    drain("drain", a);
    assert_eq!(tally(&gateway, 10), of(&[("b", 10)]));
    drain("drain", b);
    assert_eq!(tally(&gateway, 10), of(&[("c", 10)]), "another zone of the datacenter");
    drain("drain", c);
    assert_eq!(tally(&gateway, 10), of(&[("d", 10)]));
    drain("undrain", a);
    assert_eq!(tally(&gateway, 10), of(&[("a", 10)]));
    let metrics = gateway.metrics().unwrap();
    let sent = |distance| metrics.sum("bawab_upstream_requests_by_distance_total", &[("distance", distance)]);
    assert_eq!([sent("zone"), sent("datacenter"), sent("far")], [30.0, 10.0, 10.0]);
    let said = gateway.admin("/upstreams").unwrap().text();
    assert!(said.contains("\"zone\":\"a2\"") && said.contains("\"datacenter\":\"b\""), "{said}");
}

#[test]
fn an_ejected_endpoint_sends_a_part_of_the_requests_to_the_next_place() {
    let down = Origin::tcp().unwrap().answer(|_| b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n".to_vec());
    let services = ["b", "c", "d"].map(named);
    let [b, c, d] = services.each_ref().map(Serving::address);
    let eject = "eject = { consecutive_gateway = 1, base = \"1h\", max = \"1h\" }";
    let values = [("a", down.address()), ("b", b), ("c", c), ("d", d)];
    let gateway = Gateway::start_with(&config(HERE, eject), &values).unwrap();
    tally(&gateway, 2);
    gateway.event("an endpoint is ejected").unwrap();
    assert_eq!(tally(&gateway, 20), of(&[("b", 14), ("c", 6)]), "half of the zone carries 1.4 times as much");
}

#[test]
fn a_zone_that_refuses_costs_no_request() {
    let (down, c, d) = (Refusing::new().unwrap(), named("c"), named("d"));
    let other = Refusing::new().unwrap();
    let values = [("a", down.address()), ("b", other.address()), ("c", c.address()), ("d", d.address())];
    let gateway = Gateway::start_with(&config(HERE, ""), &values).unwrap();
    assert_eq!(tally(&gateway, 5), of(&[("c", 5)]), "the nearest of those that were not tried");
}

#[test]
fn a_reload_moves_the_gateway_and_may_ignore_where_things_are() {
    let services = ["a", "b", "c", "d"].map(named);
    let [a, b, c, d] = services.each_ref().map(Serving::address);
    let gateway = Gateway::start_with(&config("", ""), &[("a", a), ("b", b), ("c", c), ("d", d)]).unwrap();
    let all = of(&[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
    assert_eq!(tally(&gateway, 8), all, "a gateway that does not know where it is");
    for (here, rest, expected) in [
        ("zone = \"b1\"", "", of(&[("d", 8)])),
        ("datacenter = \"b\"", "", of(&[("d", 8)])),
        ("zone = \"elsewhere\"", "", all.clone()),
        (HERE, "locality = \"ignore\"", all),
    ] {
        gateway.rewrite(&config(here, rest)).unwrap();
        assert_eq!(gateway.reload().unwrap().head.status(), 200);
        assert_eq!(tally(&gateway, 8), expected, "{here} {rest}");
    }
}
