//! Tables of any size, and requests for all of their routes in an order that no cache foresees.
//!
//! Requests are drawn beforehand and lie behind each other in one text, as a head that was just parsed lies in a cache: a
//! look-up is charged for what it reads of the table, not of the request. However small the table, as many different
//! requests are made, so that no branch predictor learns them.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bawab::config::model::Config;
use bawab::lists::Lists;
use bawab::observe::metrics::Metrics;
use bawab::proxy::fields::Fields;
use bawab::route::{Asked, Came, Found, RouteTable};
use bawab::snapshot;

/// Routes of one file: `config::load` bounds the bytes of each.
const ROUTES_PER_FILE: usize = 10_000;

/// Requests drawn for a table; more when it has more routes, so that each of them is asked for.
pub const REQUESTS_MIN: usize = 100_000;

/// What the routes of a table look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Whole paths.
    Exact,
    /// Everything below a path of three segments.
    Prefix,
    /// Four segments, of which two are captures.
    Template,
    /// One route each for as many hosts.
    Hosts,
}

impl Mix {
    pub const ALL: [Mix; 4] = [Mix::Exact, Mix::Prefix, Mix::Template, Mix::Hosts];

    pub fn name(self) -> &'static str {
        match self {
            Mix::Exact => "exact",
            Mix::Prefix => "prefix",
            Mix::Template => "template",
            Mix::Hosts => "hosts",
        }
    }

    pub fn from_name(name: &str) -> Option<Mix> {
        Mix::ALL.into_iter().find(|mix| mix.name() == name)
    }

    /// A route in TOML.
    fn route(self, number: usize, text: &mut String) {
        let (service, resource) = (number / 100, number % 100);
        let line = match self {
            Mix::Exact => format!("path = \"/v1/service-{service}/resource-{resource}/status\""),
            Mix::Prefix => format!("path = \"/v1/service-{service}/resource-{resource}/**\""),
            Mix::Template => format!("path = \"/service-{service}/{{tenant}}/resource-{resource}/{{id}}\""),
            Mix::Hosts => format!("host = \"tenant-{number}.example.com\"\npath = \"/v1/**\""),
        };
        let _ = write!(text, "[[route]]\n{line}\nupstream = \"service\"\nauth = \"none\"\n\n");
    }

    /// Host and path of a request for a route; of one that goes as far as that and then finds nothing.
    fn request(self, number: usize, chance: u64, hit: bool) -> (String, String) {
        let (service, resource, id) = (number / 100, number % 100, chance % 1_000_000);
        let host = "api.example.com".to_owned();
        match (self, hit) {
            (Mix::Exact, true) => (host, format!("/v1/service-{service}/resource-{resource}/status")),
            (Mix::Exact, false) => (host, format!("/v1/service-{service}/resource-{resource}/statut")),
            (Mix::Prefix, true) => (host, format!("/v1/service-{service}/resource-{resource}/items/{id}")),
            (Mix::Prefix, false) => (host, format!("/v1/service-{service}/resources-{resource}/items/{id}")),
            (Mix::Template, true) => (host, format!("/service-{service}/tenant-{id}/resource-{resource}/{id}")),
            (Mix::Template, false) => (host, format!("/service-{service}/tenant-{id}/resource-{resource}/{id}/more")),
            (Mix::Hosts, true) => (format!("tenant-{number}.example.com"), format!("/v1/items/{id}")),
            (Mix::Hosts, false) => (format!("tenant-{number}.example.org"), format!("/v1/items/{id}")),
        }
    }
}

const HEAD: &str = "listener = [{ address = \"127.0.0.1:0\" }]\nupstream.service.endpoints = [\"127.0.0.1:9\"]\n";

/// A configuration of so many routes, not checked.
pub fn config(mix: Mix, routes: usize) -> Result<Config> {
    let mut text = HEAD.to_owned();
    (0..routes).for_each(|number| mix.route(number, &mut text));
    toml::from_str(&text).context("the bench writes what the gateway reads")
}

/// The same as files in `folder`, as many as are needed. Returns the one that includes the others.
pub fn write(mix: Mix, routes: usize, folder: &Path) -> Result<PathBuf> {
    for (at, first) in (0..routes).step_by(ROUTES_PER_FILE).enumerate() {
        let mut text = String::new();
        (first..routes.min(first + ROUTES_PER_FILE)).for_each(|number| mix.route(number, &mut text));
        fs::write(folder.join(format!("routes-{at}.toml")), text)?;
    }
    let file = folder.join("gateway.toml");
    fs::write(&file, format!("gateway.include = [\"routes-*.toml\"]\n{HEAD}"))?;
    Ok(file)
}

/// A compiled table of so many routes.
pub fn table(mix: Mix, routes: usize) -> Result<RouteTable> {
    Ok(RouteTable::new(snapshot::routes(&config(mix, routes)?, &Lists::default(), &Metrics::new(1, &[]))))
}

/// Requests, drawn and written down.
pub struct Requests {
    text: String,
    /// Where each host and its path begin; they end where the next begins.
    starts: Vec<(u32, u32)>,
    fields: Fields,
    hit: bool,
}

impl Requests {
    /// Requests for every one of `routes` equally often, shuffled. All of them find their route, or none finds any.
    pub fn draw(mix: Mix, routes: usize, hit: bool) -> Requests {
        let mut chance = Chance(0x5eed);
        let mut numbers: Vec<usize> = (0..routes).cycle().take(REQUESTS_MIN.next_multiple_of(routes)).collect();
        // Fisher and Yates.
        for at in (1..numbers.len()).rev() {
            numbers.swap(at, chance.next() as usize % (at + 1));
        }
        let mut requests =
            Requests { text: String::new(), starts: Vec::with_capacity(numbers.len() + 1), fields: Fields::new(), hit };
        for number in numbers {
            let (host, path) = mix.request(number, chance.next(), hit);
            let start = requests.text.len();
            requests.starts.push((start as u32, (start + host.len()) as u32));
            requests.text += &host;
            requests.text += &path;
        }
        let end = requests.text.len() as u32;
        requests.starts.push((end, end));
        requests
    }

    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Looks every one of them up. Returns how many have a route.
    pub fn look_up(&self, table: &RouteTable) -> usize {
        let text = self.text.as_bytes();
        let mut found = 0;
        for pair in self.starts.windows(2) {
            let [(host, path), (end, _)] = [pair[0], pair[1]];
            let asked = Asked {
                host: &text[host as usize..path as usize],
                path: &text[path as usize..end as usize],
                query: None,
                method: http1::Method::Get,
                method_text: b"GET",
                fields: &self.fields,
                came: Came { client: IpAddr::V4(Ipv4Addr::LOCALHOST), scheme: "http", server_name: None },
                lot: 0,
            };
            found += usize::from(matches!(table.find(&asked), Found::Route(_)));
        }
        found
    }

    /// Fails when `table` does not answer as it should; a figure of a table that finds nothing would say nothing.
    pub fn check(&self, table: &RouteTable) -> Result<()> {
        let (found, expected) = (self.look_up(table), if self.hit { self.count() } else { 0 });
        ensure!(found == expected, "{found} of {} requests found a route, {expected} should", self.count());
        Ok(())
    }
}

/// Numbers that look random and are the same every time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
