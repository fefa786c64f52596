//! The compiled tables, against rows and against asking every route by itself.

use proptest::prelude::*;

use super::action::Action;
use super::explain::{self, Outcome};
use super::*;
use crate::balance::Destination;
use crate::config::model;
use crate::filter::Chain;
use crate::observe::metrics::Metrics;

/// What a route takes, from its TOML without `auth` and action.
pub(super) fn matcher(name: &str, text: &str) -> Matcher {
    let route: model::Route =
        toml::from_str(&format!("name = '{name}'\n{text}\nauth = 'none'\nupstream = 'u'")).expect(text);
    Matcher::of(&route)
}

fn table(matchers: Vec<Matcher>) -> RouteTable {
    let metrics = Metrics::new(1, &[]);
    let route = |matcher: &Matcher| Route {
        name: matcher.name.to_string(),
        action: Action::Upstream(Destination::whole(0)),
        chain: Chain::default(),
        pattern: matcher.path.clone(),
        timeouts: crate::snapshot::RouteTimeouts::default(),
        retry: None,
        mirrors: Vec::new(),
        gate: std::sync::Arc::default(),
        errors: Vec::new(),
        body_bytes_max: 0,
        path_policy: http1::PathPolicy::KEEP,
        websocket: false,
        series: metrics.route(&matcher.name),
    };
    RouteTable::new(matchers.into_iter().map(|matcher| (matcher.clone(), route(&matcher))).collect())
}

struct Request<'a> {
    host: &'a str,
    target: &'a str,
    method: &'a str,
    fields: Fields,
    client: &'a str,
    scheme: &'static str,
    server_name: Option<&'a str>,
    lot: u32,
}

impl<'a> Request<'a> {
    fn new(host: &'a str, target: &'a str, method: &'a str) -> Request<'a> {
        Request {
            host,
            target,
            method,
            fields: Fields::new(),
            client: "192.0.2.1",
            scheme: "http",
            server_name: None,
            lot: 0,
        }
    }

    fn asked(&self) -> Asked<'_> {
        let (path, query) =
            self.target.split_once('?').map_or((self.target, None), |(path, query)| (path, Some(query)));
        Asked {
            host: self.host.as_bytes(),
            path: path.as_bytes(),
            query: query.map(str::as_bytes),
            method: Method::of(self.method.as_bytes()),
            method_text: self.method.as_bytes(),
            fields: &self.fields,
            came: Came {
                client: self.client.parse().expect("an address"),
                scheme: self.scheme,
                server_name: self.server_name,
            },
            lot: self.lot,
        }
    }
}

fn found(table: &RouteTable, request: &Request<'_>) -> String {
    match table.find(&request.asked()) {
        Found::Route(route) => route.name.clone(),
        Found::MethodNotAllowed(allow) => format!("405 {allow}"),
        Found::Nothing => "404".to_owned(),
    }
}

fn explained(table: &RouteTable, request: &Request<'_>) -> String {
    match table.explain(&request.asked()).outcome {
        Outcome::Route(at) => table.routes[at].name.clone(),
        Outcome::MethodNotAllowed(allow) => format!("405 {allow}"),
        Outcome::Nothing => "404".to_owned(),
    }
}

#[track_caller]
fn check(table: &RouteTable, request: &Request<'_>, expected: &str) {
    let Request { method, host, target, .. } = request;
    assert_eq!(found(table, request), expected, "{method} {host}{target}");
    assert_eq!(explained(table, request), expected, "explain {method} {host}{target}");
}

fn routes(rows: &[(&str, &str)]) -> RouteTable {
    table(rows.iter().map(|(name, text)| matcher(name, text)).collect())
}

#[test]
fn the_most_specific_route_wins() {
    let table = routes(&[
        ("any", "path = '/**'"),
        ("a", "path = '/a/**'"),
        ("ab", "path = '/a/b/**'"),
        ("exact", "path = '/a/b'"),
        ("host", "host = 'api.example.com'\npath = '/**'"),
        ("wild", "host = '*.example.com'\npath = '/a/b'"),
        ("deep", "host = '*.eu.example.com'\npath = '/**'"),
    ]);
    for (host, path, expected) in [
        ("x", "/", "any"),
        ("x", "/a", "a"),
        ("x", "/a/", "a"),
        ("x", "/ab", "any"),
        ("x", "/a/b", "exact"),
        ("x", "/a/b/", "ab"),
        ("x", "/a/b/c/d", "ab"),
        ("API.example.com:8080", "/a/b", "host"),
        ("www.example.com.", "/a/b", "wild"),
        ("www.example.com", "/a/c", "a"),
        ("a.eu.example.com", "/a/b", "deep"),
        ("example.com", "/a/c", "a"),
        (".example.com", "/a/b", "exact"),
        ("", "/a/b", "exact"),
        ("x", "*", "404"),
    ] {
        check(&table, &Request::new(host, path, "GET"), expected);
    }
}

#[test]
fn methods_choose_among_routes_and_head_goes_with_get() {
    let table = routes(&[
        ("read", "path = '/x'\nmethods = ['GET']"),
        ("write", "path = '/x'\nmethods = ['POST', 'PUT']"),
        ("rest", "path = '/y'"),
        ("delete", "path = '/y'\nmethods = ['DELETE']"),
        ("below", "path = '/z/**'\nmethods = ['PATCH']"),
        ("own", "path = '/z/own'\nmethods = ['BREW']"),
        ("get", "path = '/h'\nmethods = ['GET']"),
        ("head", "path = '/h'\nmethods = ['HEAD']"),
        ("all", "path = '/g'"),
        ("only", "path = '/g'\nmethods = ['GET']"),
    ]);
    for (path, method, expected) in [
        ("/x", "GET", "read"),
        ("/x", "HEAD", "read"),
        ("/x", "PUT", "write"),
        ("/x", "DELETE", "405 GET, HEAD, POST, PUT"),
        ("/x", "put", "405 GET, HEAD, POST, PUT"),
        ("/y", "DELETE", "delete"),
        ("/y", "GET", "rest"),
        ("/z", "GET", "405 PATCH"),
        ("/z/own", "BREW", "own"),
        ("/z/own", "PATCH", "below"),
        ("/z/own", "GET", "405 BREW, PATCH"),
        ("/h", "HEAD", "head"),
        ("/h", "GET", "get"),
        ("/g", "HEAD", "only"),
        ("/g", "BREW", "all"),
        ("/", "GET", "404"),
    ] {
        check(&table, &Request::new("h", path, method), expected);
    }
}

/// The order of Gateway API's HTTPRoute rules, row by row: path, then method, then headers, then query.
#[test]
fn precedence_is_that_of_gateway_api() {
    let table = routes(&[
        ("exact", "path = '/match/exact'"),
        ("long", "path = '/match/exact/**'"),
        ("short", "path = '/match/**'"),
        ("method", "path = '/m/**'\nmethods = ['PATCH']"),
        ("header", "path = '/m/**'\nwhen.headers.version = 'four'"),
        ("two", "path = '/m/**'\nwhen.headers = { version = 'four', color = 'blue' }"),
        ("query", "path = '/m/**'\nwhen.query.animal = 'whale'"),
        ("plain", "path = '/m/**'"),
        ("regex", "path.regex = '/r/[a-z]+'"),
        ("below", "path = '/r/**'"),
        ("hand", "path = '/h/**'\npriority = 5"),
        ("finer", "path = '/h/x'"),
        ("template", "path = '/t/{id}'"),
        ("verb", "path = '/t/{id}:go'"),
        ("literal", "path = '/t/me'"),
    ]);
    let with = |target, method, lines: &[(&str, &str)]| {
        let mut request = Request::new("h", target, method);
        lines.iter().for_each(|(name, value)| request.fields.add(name.as_bytes(), value.as_bytes()));
        request
    };
    check(&table, &with("/match/exact", "GET", &[]), "exact");
    check(&table, &with("/match/exact/x", "GET", &[]), "long");
    check(&table, &with("/match/exactly", "GET", &[]), "short");
    check(&table, &with("/m", "PATCH", &[("version", "four")]), "method");
    check(&table, &with("/m", "GET", &[("Version", "four")]), "header");
    check(&table, &with("/m", "GET", &[("version", "four"), ("color", "blue")]), "two");
    check(&table, &with("/m?animal=whale", "GET", &[("version", "four")]), "header");
    check(&table, &with("/m?animal=whale", "GET", &[]), "query");
    check(&table, &with("/m?animal=cat", "GET", &[("version", "five")]), "plain");
    check(&table, &with("/r/abc", "GET", &[]), "regex");
    check(&table, &with("/r/abc1", "GET", &[]), "below");
    check(&table, &with("/h/x", "GET", &[]), "hand");
    check(&table, &with("/t/me", "GET", &[]), "literal");
    check(&table, &with("/t/7:go", "GET", &[]), "verb");
    check(&table, &with("/t/7", "GET", &[]), "template");
}

#[test]
fn how_a_request_came_chooses() {
    let table = routes(&[
        ("plain", "path = '/a'\nwhen.scheme = 'http'"),
        ("named", "path = '/a'\nwhen.sni = ['api.example.com', '*.wild.example.com']"),
        ("both", "path = '/a'\nwhen.scheme = 'https'\nwhen.sni = ['api.example.com']"),
        ("rest", "path = '/a'"),
    ]);
    for (scheme, server_name, expected) in [
        ("http", None, "plain"),
        ("https", Some("api.example.com"), "both"),
        ("https", Some("x.wild.example.com"), "named"),
        ("https", Some("example.com"), "rest"),
        ("https", None, "rest"),
    ] {
        let request = Request { scheme, server_name, ..Request::new("h", "/a", "GET") };
        assert_eq!(found(&table, &request), expected, "{scheme} {server_name:?}");
        assert_eq!(explained(&table, &request), expected, "{scheme} {server_name:?}");
    }
}

#[test]
fn clients_and_shares_choose() {
    let table = routes(&[
        ("inside", "path = '/**'\nwhen.client = ['10.0.0.0/8', '2001:db8::/32']"),
        ("canary", "path = '/**'\nwhen.percentage = '12.5%'"),
        ("rest", "path = '/**'"),
    ]);
    assert!(table.draws());
    for (client, lot, expected) in [
        ("10.1.2.3", 999_999, "inside"),
        ("::ffff:10.1.2.3", 999_999, "inside"),
        ("2001:db8::1", 999_999, "inside"),
        ("11.0.0.1", 124_999, "canary"),
        ("11.0.0.1", 125_000, "rest"),
    ] {
        check(&table, &Request { client, lot, ..Request::new("h", "/", "GET") }, expected);
    }
}

#[test]
fn a_branch_that_leads_nowhere_is_left_again() {
    let table = routes(&[
        ("deep", "path = '/a/{x}/c/d'"),
        ("literal", "path = '/a/b/{y}/e'"),
        ("rest", "path = '/a/**'"),
        ("gated", "path = '/a/b/c/f'\nwhen.headers.x = '1'"),
    ]);
    for (path, expected) in
        [("/a/b/c/d", "deep"), ("/a/b/c/e", "literal"), ("/a/b/c/x", "rest"), ("/a/b/c/f", "rest"), ("/a//c/d", "rest")]
    {
        check(&table, &Request::new("h", path, "GET"), expected);
    }
}

#[test]
fn an_explanation_says_who_else_and_why_not() {
    let table = routes(&[
        ("orders", "path = '/orders/**'"),
        ("canary", "path = '/orders/**'\nwhen.headers.x-canary = '1'"),
        ("write", "path = '/orders/{id}'\nmethods = ['POST']"),
        ("other", "host = 'other.example.com'\npath = '/orders/**'"),
        ("unlike", "path = '/books'"),
        ("catch", "path = '/**'"),
    ]);
    let request = Request::new("h", "/orders/7", "GET");
    let said = table.explain(&request.asked());
    assert_eq!(said.outcome, Outcome::Route(0));
    let others: Vec<(&str, &str)> = said.others.iter().map(|(at, why)| (&*table.routes[*at].name, &**why)).collect();
    assert_eq!(
        others,
        [
            ("catch", "takes it too, but `orders` has the more specific path"),
            ("canary", "its condition on the header `x-canary` does not hold"),
            ("write", "it takes POST only"),
            ("other", "its host is `other.example.com`"),
        ]
    );
}

/// Short paths over few segments, so that they meet.
fn a_pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "a:go", ""]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["{x}", "{x}:go", "{x}o"]).prop_map(str::to_owned),
    ];
    (prop::collection::vec(segment, 1..4), prop::sample::select(vec!["", "", "/**", "/{r=**}"])).prop_map(
        |(segments, end)| {
            let text = segments.iter().enumerate().fold(String::new(), |text, (at, segment)| {
                format!("{text}/{}", segment.replace("{x}", &format!("{{x{at}}}")))
            });
            format!("path = '{text}{end}'")
        },
    )
}

fn a_route() -> impl Strategy<Value = String> {
    let path = prop_oneof![
        8 => a_pattern(),
        1 => prop::sample::select(vec!["/a.*", "/[ab]/.*", "/(a|b)/c", "/.*"]).prop_map(|text| format!("path.regex = '{text}'")),
    ];
    let host =
        prop::sample::select(vec!["", "", "host = 'h'", "host = '*.h'", "host = '*.i.h'", "host = ['h', 'i.h']"]);
    let methods =
        prop::sample::select(vec!["", "", "methods = ['GET']", "methods = ['HEAD', 'POST']", "methods = ['BREW']"]);
    let when = prop::sample::select(vec![
        "",
        "",
        "",
        "when.headers.v = '1'",
        "when.headers = { v = '1', w.present = false }",
        "when.query.q.prefix = 'a'",
        "when.cookies.c = 'd'",
        "when.client = ['10.0.0.0/8']",
        "when.percentage = '50%'",
    ]);
    let priority = prop::sample::select(vec!["", "", "", "priority = 3", "priority = -1"]);
    (path, host, methods, when, priority)
        .prop_map(|(path, host, methods, when, priority)| [&*path, host, methods, when, priority].join("\n"))
}

/// What a probe compares with lies in its bucket up to some length and elsewhere beyond it.
#[test]
fn texts_of_any_length_are_told_apart() {
    let of = |len: usize, last: char| format!("{}{last}", "x".repeat(len - 1));
    let mut rows = Vec::new();
    let mut requests = Vec::new();
    for len in (1..=60).chain([200, 250, 254, 255, 256, 600]) {
        for last in ['a', 'b'] {
            let text = of(len, last);
            for (kind, host, path, target) in [
                ("whole", "h", format!("/w/{text}"), format!("/w/{text}")),
                ("below", "h", format!("/b/{text}/**"), format!("/b/{text}/x")),
                ("captured", "h", format!("/c/{text}/{{x}}"), format!("/c/{text}/1")),
            ] {
                rows.push((format!("{kind}-{text}"), format!("host = '{host}'\npath = '{path}'")));
                requests.push((host.to_owned(), target, format!("{kind}-{text}")));
            }
            // All that a host has begins with the same text, and nothing else gets behind it.
            for kind in ["", "/one", "/two/{x}"] {
                let name = format!("begin{kind}-{text}");
                rows.push((name.clone(), format!("host = 'begin.{len}.{last}'\npath = '/{text}{kind}/**'")));
                let target = format!("/{text}{}/", kind.replace("{x}", "y"));
                requests.push((format!("begin.{len}.{last}"), target, name));
            }
            if len <= 60 {
                rows.push((format!("host-{text}"), format!("host = '{text}.example'\npath = '/**'")));
                requests.push((format!("{text}.example"), "/".to_owned(), format!("host-{text}")));
                rows.push((format!("suffix-{text}"), format!("host = '*.{text}.example'\npath = '/**'")));
                requests.push((format!("y.{text}.example"), "/".to_owned(), format!("suffix-{text}")));
            }
        }
    }
    let rows: Vec<(&str, &str)> = rows.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let table = routes(&rows);
    for (len, last) in [(3, 'a'), (40, 'b'), (600, 'a')] {
        let (host, text) = (format!("begin.{len}.{last}"), of(len, last));
        for target in
            ["/".to_owned(), format!("/{text}x"), format!("/{text}x/one"), format!("/y{text}"), "*".to_owned()]
        {
            assert_eq!(found(&table, &Request::new(&host, &target, "GET")), "404", "{host}{target}");
        }
    }
    for (host, target, expected) in &requests {
        assert_eq!(found(&table, &Request::new(host, target, "GET")), *expected, "{host}{target}");
        let only_one = expected.starts_with("whole") || expected.starts_with("captured");
        let further = if only_one { "404" } else { expected };
        assert_eq!(found(&table, &Request::new(host, &format!("{target}y/z"), "GET")), further, "{host}{target}y/z");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// The tables find what the rules say, whatever the routes.
    #[test]
    fn the_compiled_tables_agree_with_asking_every_route(
        texts in prop::collection::vec(a_route(), 1..12),
        requests in prop::collection::vec(
            (
                prop::sample::select(vec!["h", "x.h", "x.i.h", "i.h", "other"]),
                prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "a:go", "b:go", "zo", ""]), 1..5),
                prop::sample::select(vec!["GET", "HEAD", "POST", "BREW", "DELETE"]),
                prop::sample::select(vec!["", "?q=ab", "?q=b"]),
                any::<[bool; 3]>(),
                0u32..1_000_000,
            ),
            1..30,
        ),
    ) {
        let matchers: Vec<Matcher> =
            texts.iter().enumerate().map(|(at, text)| matcher(&format!("r{at:02}"), text)).collect();
        let table = table(matchers.clone());
        for (host, segments, method, query, [v, w, inside], lot) in requests {
            let target = format!("/{}{query}", segments.join("/"));
            let mut request = Request { lot, ..Request::new(host, &target, method) };
            if inside {
                request.client = "10.9.9.9";
            }
            if v {
                request.fields.add(b"V", b"1");
            }
            if w {
                request.fields.add(b"w", b"");
                request.fields.add(b"cookie", b"c=d");
            }
            prop_assert_eq!(found(&table, &request), explained(&table, &request), "{} {} {}", method, host, target);
            // The order in which routes stand in the file is no rule.
            let mut turned = matchers.clone();
            turned.reverse();
            let said = explain::explain(&turned, &request.asked());
            let name = match said.outcome {
                Outcome::Route(at) => turned[at].name.to_string(),
                Outcome::MethodNotAllowed(allow) => format!("405 {allow}"),
                Outcome::Nothing => "404".to_owned(),
            };
            prop_assert_eq!(found(&table, &request), name);
        }
    }

    /// Nobody's path or host makes a lookup fail or disagree.
    #[test]
    fn any_bytes_can_be_looked_up(host in prop::collection::vec(any::<u8>(), 0..40), path in prop::collection::vec(any::<u8>(), 0..60)) {
        let table = routes(&[("a", "path = '/{a}/b/**'"), ("b", "host = '*.h'\npath = '/x'"), ("c", "path.regex = '/.*'")]);
        let fields = Fields::new();
        let asked = Asked {
            host: &host,
            path: &path,
            query: Some(&path),
            method: Method::Get,
            method_text: b"GET",
            fields: &fields,
            came: Came { client: "192.0.2.1".parse().expect("an address"), scheme: "http", server_name: None },
            lot: 0,
        };
        let found = match table.find(&asked) {
            Found::Route(route) => Some(route.name.clone()),
            _ => None,
        };
        let said = match table.explain(&asked).outcome {
            Outcome::Route(at) => Some(table.routes[at].name.clone()),
            _ => None,
        };
        prop_assert_eq!(found, said);
    }
}
