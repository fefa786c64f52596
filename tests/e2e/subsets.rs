//! Routes that ask for some of an upstream's endpoints, by their tags.

use std::collections::BTreeMap;
use std::process::Command;

use e2e::origin::{Serving, ok};
use e2e::{Gateway, Origin, binary};

fn named(name: &'static str) -> Serving {
    Origin::tcp().unwrap().answer(move |_| ok(name))
}

const ROUTES: &str = r#"
[[route]]
name = "v2"
path = "/v2/**"
upstream = "main"
subset = ["v2"]
auth = "none"

[[route]]
name = "v2-eu"
path = "/v2-eu/**"
upstream = "main"
subset = { tags = ["v2", "eu"], fallback = "any" }
auth = "none"

[[route]]
name = "split"
path = "/split/**"
split = { by = "header:x-user", targets = [{ upstream = "main", subset = ["v1"] }, { upstream = "main", subset = ["v2"] }] }
auth = "none"

[[route]]
name = "all"
path = "/**"
upstream = "main"
auth = "none"
"#;

fn config(endpoints: &str) -> String {
    format!("[upstream.main]\npanic_threshold = \"0%\"\nendpoints = [{endpoints}]\n{ROUTES}")
}

const TAGGED: &str = r#"{ address = "{a}", tags = ["v1"] }, { address = "{b}", tags = ["v2", "eu"] }, { address = "{c}", tags = ["v2"] }"#;

fn tally(gateway: &Gateway, path: &str, count: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        let answer = gateway.get(path).unwrap();
        let text = if answer.head.status() == 200 { answer.text() } else { answer.refusal().unwrap().1 };
        *tally.entry(text).or_default() += 1;
    }
    tally
}

fn of(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn a_route_gets_the_endpoints_it_asks_for_and_refuses_or_falls_back_without_them() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let values = [("a", a.address()), ("b", b.address()), ("c", c.address())];
    let gateway = Gateway::start_with(&config(TAGGED), &values).unwrap();
    assert_eq!(tally(&gateway, "/v2/x", 8), of(&[("b", 4), ("c", 4)]));
    assert_eq!(tally(&gateway, "/v2-eu/x", 4), of(&[("b", 4)]));
    assert_eq!(tally(&gateway, "/x", 9), of(&[("a", 3), ("b", 3), ("c", 3)]));
    // Whoever comes with every second request gets its turns all the same.
    let turns: Vec<(String, String)> =
        (0..6).map(|_| (gateway.get("/v2/x").unwrap().text(), gateway.get("/x").unwrap().text())).collect();
    assert_eq!(turns.iter().filter(|(name, _)| name == "b").count(), 3, "{turns:?}");
    let mut seen = BTreeMap::<String, usize>::new();
    for user in 0..20 {
        let asked = || format!("GET /split/x HTTP/1.1\r\nHost: h\r\nX-User: {user}\r\n\r\n");
        let first = gateway.ask(asked()).unwrap().text() == "a";
        assert!((0..2).all(|_| (gateway.ask(asked()).unwrap().text() == "a") == first), "a user stays with a version");
        *seen.entry(first.to_string()).or_default() += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let drain = |address: &str| {
        let asked = format!("/upstreams/drain?upstream=main&endpoint={address}");
        assert_eq!(gateway.post(&asked, "").unwrap().head.status(), 200);
    };
    drain(b.address());
    assert_eq!(tally(&gateway, "/v2/x", 4), of(&[("c", 4)]));
    assert_eq!(tally(&gateway, "/v2-eu/x", 4), of(&[("a", 2), ("c", 2)]), "any other will do");
    drain(c.address());
    assert_eq!(tally(&gateway, "/v2/x", 2), of(&[("no_endpoint", 2)]));
    let event = gateway.event("no endpoint of a subset gets requests").unwrap();
    assert_eq!((&event["upstream"], &event["subset"]), (&"main".into(), &"v2".into()), "{event}");
    assert_eq!(tally(&gateway, "/x", 2), of(&[("a", 2)]));
}

#[test]
fn a_reload_changes_who_is_in_a_subset() {
    let (a, b) = (named("a"), named("b"));
    let first = r#"{ address = "{a}", tags = ["v1"] }, { address = "{b}", tags = ["v2"] }"#;
    let gateway = Gateway::start_with(&config(first), &[("a", a.address()), ("b", b.address())]).unwrap();
    assert_eq!(tally(&gateway, "/v2/x", 2), of(&[("b", 2)]));
    let drain = format!("/upstreams/drain?upstream=main&endpoint={}", a.address());
    assert_eq!(gateway.post(&drain, "").unwrap().head.status(), 200);
    let second = r#"{ address = "{a}", tags = ["v2"] }, { address = "{b}", tags = ["v2"] }"#;
    gateway.rewrite(&config(second)).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(tally(&gateway, "/v2/x", 2), of(&[("b", 2)]), "what is known of an endpoint outlives its tags");
    let undrain = format!("/upstreams/undrain?upstream=main&endpoint={}", a.address());
    assert_eq!(gateway.post(&undrain, "").unwrap().head.status(), 200);
    assert_eq!(tally(&gateway, "/v2/x", 4), of(&[("a", 2), ("b", 2)]));
    let said = gateway.admin("/upstreams").unwrap().text();
    assert!(said.contains("\"tags\":[\"v2\"]"), "{said}");
}

#[test]
fn check_warns_of_a_subset_nobody_is_in_and_explain_shows_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let endpoints =
        r#"{ address = "10.0.0.1:80", tags = ["v1"] }, { address = "10.0.0.2:80", tags = ["v2"], weight = 1 }"#;
    let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", config(endpoints));
    std::fs::write(&file, text).unwrap();
    let said = |words: &[&str]| {
        let output = Command::new(binary::path()).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let path = file.to_str().unwrap();
    let checked = said(&["check", path]);
    assert!(
        checked.contains("route[1].subset: no endpoint has all of these tags: any endpoint gets its requests"),
        "{checked}"
    );
    assert!(checked.contains("its endpoints have \"v1\" or \"v2\"") && checked.contains("1 warning"), "{checked}");
    let explained = |url: &str| said(&["explain", "route", "GET", url, "--config", path]);
    assert!(explained("http://h/v2/x").contains("upstream main (v2)"), "{}", explained("http://h/v2/x"));
    assert!(explained("http://h/v2-eu/x").contains("upstream main (eu and v2, else any)"));
    assert!(explained("http://h/split/x").contains("split: main (v1) 50.0%, main (v2) 50.0%"));
    assert!(explained("http://h/x").contains("then       upstream main\n"));
}
