//! Endpoints: round robin by weight, names, and an endpoint that is down.

use std::collections::BTreeMap;

use e2e::origin::{Refusing, Serving, ok};
use e2e::{Gateway, Origin};

fn named(name: &'static str) -> Serving {
    Origin::tcp().unwrap().answer(move |_| ok(name))
}

/// How often each origin answered `count` requests.
fn tally(gateway: &Gateway, count: usize) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        *tally.entry(gateway.get("/")?.text()).or_default() += 1;
    }
    Ok(tally)
}

#[test]
fn endpoints_take_turns() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let config = "[upstream.main]\nendpoints = [\"{a}\", \"{b}\", \"{c}\"]";
    let gateway = Gateway::start_with(config, &[("a", a.address()), ("b", b.address()), ("c", c.address())]).unwrap();
    let tally = tally(&gateway, 30).unwrap();
    assert!(tally.values().all(|&count| count == 10) && tally.len() == 3, "{tally:?}");
}

#[test]
fn an_endpoint_of_weight_three_gets_three_times_as_much_and_one_of_weight_zero_nothing() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let config =
        "[upstream.main]\nendpoints = [{ address = \"{a}\", weight = 3 }, \"{b}\", { address = \"{c}\", weight = 0 }]";
    let gateway = Gateway::start_with(config, &[("a", a.address()), ("b", b.address()), ("c", c.address())]).unwrap();
    let tally = tally(&gateway, 40).unwrap();
    assert_eq!(tally, BTreeMap::from([("a".to_owned(), 30), ("b".to_owned(), 10)]));
}

#[test]
fn an_endpoint_that_refuses_connections_costs_no_request() {
    let up = named("up");
    let down = Refusing::new().unwrap();
    let config = "[upstream.main]\nendpoints = [\"{down}\", \"{up}\"]";
    let gateway = Gateway::start_with(config, &[("down", down.address()), ("up", up.address())]).unwrap();
    let tally = tally(&gateway, 10).unwrap();
    assert_eq!(tally, BTreeMap::from([("up".to_owned(), 10)]));
}

#[test]
fn an_endpoint_that_ends_with_its_kept_connections_costs_no_request() {
    let (a, b) = (named("a"), named("b"));
    let config = "[upstream.main]\nendpoints = [\"{a}\", \"{b}\"]";
    let gateway = Gateway::start_with(config, &[("a", a.address()), ("b", b.address())]).unwrap();
    tally(&gateway, 4).unwrap();
    drop(a);
    // The first of them finds the connection closed, and then that there is nobody to open another one to.
    assert_eq!(tally(&gateway, 4).unwrap(), BTreeMap::from([("b".to_owned(), 4)]));
}

#[test]
fn an_endpoint_may_be_named() {
    let origin = named("named");
    let port = origin.address().rsplit(':').next().unwrap().to_owned();
    let gateway =
        Gateway::start_with("[upstream.main]\nendpoints = [\"localhost:{port}\"]", &[("port", &port)]).unwrap();
    let answer = gateway.get("/").unwrap();
    assert_eq!((answer.head.status(), answer.text().as_str()), (200, "named"));
}

#[test]
fn an_endpoint_that_comes_back_is_used_again() {
    let origin = Origin::tcp().unwrap();
    let address = origin.address().to_owned();
    let serving = origin.answer(|_| ok("x"));
    let gateway = Gateway::start("", &address).unwrap();
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
    drop(serving);
    assert_eq!(gateway.get("/").unwrap().refusal().unwrap(), (502, "upstream_connect_failed".to_owned()));
    let _back = Origin::tcp_at(&address).unwrap().answer(|_| ok("back"));
    assert_eq!(gateway.get("/").unwrap().text(), "back");
}
