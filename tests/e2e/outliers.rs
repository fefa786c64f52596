//! Endpoints that fail more often than the others, or too often, without doing so many times in a row.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use e2e::origin::Serving;
use e2e::{Gateway, Origin, patience};
use serde_json::Value;

/// A service of whose answers one in `every` is a success, and all are when `every` is 1.
struct Service {
    serving: Serving,
}

impl Service {
    fn new(every: usize, status: u16) -> Service {
        let asked = AtomicUsize::new(0);
        let serving = Origin::tcp().unwrap().answer(move |_| {
            let is_well = asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(every);
            let status = if is_well { 200 } else { status };
            format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").into_bytes()
        });
        Service { serving }
    }

    fn address(&self) -> &str {
        self.serving.address()
    }
}

/// A gateway that ejects by `rules` alone, and never for a row.
fn before(rules: &str, services: &[Service]) -> Gateway {
    let names: Vec<String> = (0..services.len()).map(|nth| format!("s{nth}")).collect();
    let endpoints: Vec<String> = names.iter().map(|name| format!("\"{{{name}}}\"")).collect();
    let config = format!(
        "[upstream.main]\nendpoints = [{}]\n[upstream.main.eject]\nconsecutive_5xx = 0\nconsecutive_gateway = 0\n\
         consecutive_local = 0\n{rules}",
        endpoints.join(", ")
    );
    let values: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(services.iter().map(Service::address)).collect();
    Gateway::start_with(&config, &values).unwrap()
}

/// Sends requests until an event was told so many times, and returns the last of them.
fn until(gateway: &Gateway, message: &str, times: usize) -> Value {
    let deadline = Instant::now() + patience();
    let mut client = gateway.client().unwrap();
    while gateway.said().matches(message).count() < times {
        assert!(Instant::now() < deadline, "`{message}` was never told: {}", gateway.said());
        client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
        e2e::message::Message::answer(&mut client, "GET").unwrap();
    }
    gateway.event_again(message, times).unwrap()
}

fn share(event: &Value, key: &str) -> f64 {
    event[key].as_str().unwrap().trim_end_matches('%').parse().unwrap()
}

#[test]
fn who_fails_more_often_than_the_others_is_ejected_for_a_time_that_grows() {
    let services: Vec<Service> = (0..6).map(|nth| Service::new(if nth == 2 { 3 } else { 1 }, 500)).collect();
    let rules = "interval = \"500ms\"\nbase = \"2s\"\nsuccess_rate = { requests_min = 5 }";
    let gateway = before(rules, &services);
    let event = until(&gateway, "an endpoint is ejected", 1);
    assert_eq!(
        (&event["endpoint"], &event["cause"]),
        (&services[2].address().into(), &"success_rate".into()),
        "{event}"
    );
    let (rate, least) = (share(&event, "success_rate"), share(&event, "least"));
    assert!(rate < least && rate < 60.0 && least < 100.0 && event["requests"].as_u64().unwrap() >= 5, "{event}");
    assert_eq!(event["time"], "2s");
    gateway.event("an endpoint's ejection is over").unwrap();
    let event = until(&gateway, "an endpoint is ejected", 2);
    assert_eq!((&event["endpoint"], &event["time"]), (&services[2].address().into(), &"4s".into()), "{event}");
    let metrics = gateway.metrics().unwrap();
    let ejected = |cause| metrics.sum("bawab_upstream_ejections_total", &[("upstream", "main"), ("cause", cause)]);
    assert_eq!([ejected("success_rate"), ejected("failure_percentage"), ejected("consecutive_5xx")], [2.0, 0.0, 0.0]);
}

#[test]
fn who_fails_too_often_is_ejected_but_never_the_last_one() {
    let services = [Service::new(10, 503), Service::new(10, 503)];
    let rules = "interval = \"500ms\"\nbase = \"1h\"\nmax = \"1h\"\nfailures = \"gateway\"\nshare_max = \"100%\"\n\
                 failure_percentage = { threshold = \"80%\", requests_min = 10 }";
    let gateway = before(rules, &services);
    let event = until(&gateway, "an endpoint is ejected", 1);
    assert_eq!(event["cause"], "failure_percentage", "{event}");
    assert!(share(&event, "success_rate") <= 20.0 && share(&event, "least") == 20.0, "{event}");
    let event = until(&gateway, "an endpoint fails and stays: too many are out, or it is the last", 1);
    assert_eq!(event["cause"], "failure_percentage", "{event}");
    let metrics = gateway.metrics().unwrap();
    let standing = |state| metrics.sum("bawab_upstream_endpoints", &[("upstream", "main"), ("state", state)]);
    assert_eq!([standing("usable"), standing("ejected")], [1.0, 1.0]);
    assert!(metrics.sum("bawab_upstream_ejections_refused_total", &[]) >= 1.0);
}

#[test]
fn failures_that_do_not_count_eject_nobody() {
    // All of its answers are 500, and only what a gateway says counts.
    let services = [Service::new(1_000_000, 500), Service::new(10, 503), Service::new(1, 500)];
    let rules = "interval = \"500ms\"\nbase = \"1h\"\nmax = \"1h\"\nfailures = \"gateway\"\n\
                 failure_percentage = { threshold = \"50%\", requests_min = 5 }";
    let gateway = before(rules, &services);
    let event = until(&gateway, "an endpoint is ejected", 1);
    assert_eq!(event["endpoint"], services[1].address(), "{event}");
    assert!(!gateway.said().contains("an endpoint fails and stays"), "{}", gateway.said());
}

#[test]
fn a_reload_begins_to_compare_and_ends_it() {
    let services = [Service::new(10, 500), Service::new(1, 500), Service::new(1, 500)];
    let gateway = before("failure_percentage = { requests_min = 1000000 }", &services);
    let rates = |rules: &str| {
        format!(
            "[upstream.main]\nendpoints = [\"{{s0}}\", \"{{s1}}\", \"{{s2}}\"]\n[upstream.main.eject]\nconsecutive_5xx = 10000\n{rules}"
        )
    };
    let rules = "interval = \"500ms\"\nbase = \"1h\"\nmax = \"1h\"\nfailure_percentage = { threshold = \"50%\", requests_min = 5 }";
    gateway.rewrite(&rates(rules)).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    until(&gateway, "an endpoint is ejected", 1);
    // Who is out stays out, whatever brought it there.
    gateway.rewrite(&rates("base = \"1h\"\nmax = \"1h\"")).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    let said: Value = serde_json::from_str(&gateway.admin("/upstreams").unwrap().text()).unwrap();
    let first = &said["upstreams"][0]["endpoints"][0];
    assert_eq!(first["state"], "ejected", "{first}");
    assert!(first["why"].as_str().unwrap().starts_with("failure_percentage, for "), "{first}");
}
