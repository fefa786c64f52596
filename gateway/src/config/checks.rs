//! What must fit together: names that are referred to, what may be there once, bounds that depend on each other.
//!
//! Works on the tree and not on the model, so that it finds what it can while other keys are still wrong; what is missing
//! or malformed was reported before and is passed over here.

mod health;
mod lists;
pub(super) mod policies;
mod sticky;
mod tls;
pub(super) mod upstreams;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::routes;
use super::tree::Node;
use super::units::Time;
use super::walk::join;
use crate::problem::{Place, Problem, quoted};

/// Adds what is wrong between the keys of `tree`. A key with a problem of its own gets no second one.
pub(super) fn all(tree: &Node, problems: &mut Vec<Problem>) {
    let malformed: HashSet<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    let mut found = Vec::new();
    between(tree, &mut found);
    problems.extend(found.into_iter().filter(|problem| !malformed.contains(&problem.key)));
}

fn between(tree: &Node, problems: &mut Vec<Problem>) {
    at_least_one(tree, problems);
    listeners(tree, problems);
    admin(tree, problems);
    limits(tree, problems);
    if let Some(dns) = tree.get("dns") {
        in_order("dns", dns, "min_ttl", "max_ttl", problems);
    }
    for (name, node) in chosen(tree, "upstream") {
        upstreams::check(&join("upstream", name), node, problems);
    }
    routes::check(tree, problems);
    lists::check(tree, problems);
}

fn at_least_one(tree: &Node, problems: &mut Vec<Problem>) {
    for (list, remedy) in [
        ("listener", "none: write `[[listener]]` and its `address`"),
        ("route", "none: write `[[route]]` with `path`, `upstream` and `auth`"),
    ] {
        if tree.get(list).is_none() {
            problems.push(Problem::new(list, remedy).at(tree.place));
        }
    }
}

fn listeners(tree: &Node, problems: &mut Vec<Problem>) {
    let trusts = tree.get("gateway").and_then(|gateway| gateway.get("trusted_hops"));
    let mut names = Once::default();
    let mut addresses = Once::default();
    if let Some(admin) = tree.get("admin").and_then(|admin| admin.get("address")) {
        addresses.see("admin.address".to_owned(), admin, address(admin), problems);
    }
    for (path, listener) in list(tree, "listener") {
        if let Some(name) = listener.get("name") {
            names.see(format!("{path}.name"), name, name.text().map(str::to_owned), problems);
        }
        if let Some(node) = listener.get("address") {
            addresses.see(format!("{path}.address"), node, address(node), problems);
        }
        if let Some(node) = listener.get("client_address")
            && trusts.is_none_or(|trusts| trusts.items().is_empty())
        {
            let what = match node.text() {
                Some("forwarded") => "nobody's `X-Forwarded-For` would be believed: `gateway.trusted_hops` is empty",
                Some("proxy_protocol") => "nobody's PROXY header would be believed: `gateway.trusted_hops` is empty",
                _ => continue,
            };
            problems.push(Problem::new(format!("{path}.client_address"), what).at(node.place));
        }
        tls::check(&path, listener, problems);
    }
}

/// An address in the one form it is compared in. `None`: any port will do, so two of them are two sockets.
fn address(node: &Node) -> Option<String> {
    let text = node.text()?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => None,
        Ok(address) => Some(address.to_string()),
        Err(_) => Some(text.to_owned()),
    }
}

fn admin(tree: &Node, problems: &mut Vec<Problem>) {
    let Some(admin) = tree.get("admin") else { return };
    let Some(address) = admin.get("address") else { return };
    let is_public = address
        .text()
        .and_then(|text| text.parse::<SocketAddr>().ok())
        .is_some_and(|address| !address.ip().to_canonical().is_loopback());
    if is_public && admin.get("token").is_none() && admin.get("token_file").is_none() {
        let what = "whoever reaches this address could ask everything: it needs `token_file`, or a loopback address";
        problems.push(Problem::new("admin.address", what).at(address.place));
    }
}

fn limits(tree: &Node, problems: &mut Vec<Problem>) {
    if let Some(limits) = tree.get("limits")
        && let (Some(one), Some(all)) = (limits.get("connections_per_address"), limits.get("connections"))
        && let (Some(Some(one_count)), Some(Some(all_count))) = (one.integer(), all.integer())
        && one_count > all_count
    {
        let what = "more than `limits.connections`, so it would never be reached";
        let problem = Problem::new("limits.connections_per_address", what).at(one.place);
        problems.push(problem.also(all.place, "the smaller bound"));
    }
    if let Some(timeouts) = tree.get("timeouts") {
        for (short, long) in [
            ("head", "connection_age"),
            ("body_idle", "connection_age"),
            ("keep_alive", "connection_age"),
            ("tunnel_idle", "tunnel_age"),
        ] {
            in_order("timeouts", timeouts, short, long, problems);
        }
    }
}

/// Two waits of which the longer ends everything: the other must be shorter to mean anything. Only if both are written: a
/// default beyond a bound somebody chose does no harm.
fn in_order(path: &str, table: &Node, short: &str, long: &str, problems: &mut Vec<Problem>) {
    let (Some(first), Some(second)) = (table.get(short), table.get(long)) else { return };
    let time = |node: &Node| node.text().and_then(|text| text.parse::<Time>().ok());
    if let (Some(short_time), Some(long_time)) = (time(first), time(second))
        && short_time > long_time
    {
        let what = format!("longer than `{long}`, so it would never be reached");
        problems.push(Problem::new(join(path, short), what).at(first.place).also(second.place, "the shorter time"));
    }
}

/// Values of which each may be there once.
#[derive(Default)]
pub(super) struct Once {
    seen: HashMap<String, (String, Place)>,
}

impl Once {
    pub(super) fn see(&mut self, key: String, node: &Node, value: Option<String>, problems: &mut Vec<Problem>) {
        let Some(value) = value else { return };
        if let Some((other, place)) = self.seen.get(&value) {
            let what = match node.is_hidden() {
                true => format!("`{other}` says the same"),
                false => format!("`{other}` says {} too", quoted(node.text().unwrap_or_default())),
            };
            problems.push(Problem::new(key, what).at(node.place).also(*place, "the other one"));
            return;
        }
        self.seen.insert(value, (key, node.place));
    }
}

/// The items of the list `name`, each with its key path.
pub(super) fn list<'a>(tree: &'a Node, name: &'a str) -> impl Iterator<Item = (String, &'a Node)> {
    let items = tree.get(name).map(Node::items).unwrap_or_default();
    items.iter().enumerate().map(move |(index, item)| (format!("{name}[{index}]"), item))
}

/// The chosen names of the table `name` and what they stand for.
pub(super) fn chosen<'a>(tree: &'a Node, name: &str) -> impl Iterator<Item = (&'a str, &'a Node)> {
    let table = tree.get(name).and_then(Node::table);
    table.into_iter().flat_map(|table| table.entries.iter().map(|entry| (entry.name.as_str(), &entry.node)))
}

fn texts(node: Option<&Node>) -> impl Iterator<Item = &str> {
    node.map(Node::items).unwrap_or_default().iter().filter_map(Node::text)
}
