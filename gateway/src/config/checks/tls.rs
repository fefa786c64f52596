//! Who is asked for a certificate, and what that needs; how services are known. Whether the files are right is seen when they
//! are read (`tls`).

use std::collections::HashSet;

use super::super::tree::Node;
use super::super::walk::join;
use super::super::words::endpoint_host;
use crate::problem::Problem;

/// Of the listener at `path`.
pub(super) fn check(path: &str, listener: &Node, problems: &mut Vec<Problem>) {
    let Some(tls) = listener.get("tls") else { return };
    let path = join(path, "tls");
    let mut found: Vec<Problem> = Vec::new();
    let certificates = tls.get("certificates").map(Node::items).unwrap_or_default();
    for (index, certificate) in certificates.iter().enumerate() {
        let own = format!("{path}.certificates[{index}]");
        let written = |name: &str| {
            let at = |path: &str, node: &Node| (join(path, name), node.place);
            certificate
                .get(name)
                .map(|node| (at(&own, node), node))
                .or(tls.get(name).map(|node| (at(&path, node), node)))
        };
        match written("client_auth") {
            Some(((key, place), mode)) if asks(mode) && written("client_ca").is_none() => {
                let what = "clients are asked for a certificate, and nothing says whose are good: write `client_ca`";
                found.push(Problem::new(key, what).at(place));
            }
            Some(_) => {}
            None => found.extend(unasked(&own, certificate)),
        }
    }
    let is_decided = |table: &Node| table.get("client_auth").is_some();
    if !is_decided(tls) && !certificates.iter().any(is_decided) {
        found.extend(unasked(&path, tls));
    }
    if let Some(forward) = tls.get("forward_client_cert").filter(|forward| forward.text() == Some("set"))
        && !certificates.iter().chain([tls]).filter_map(|table| table.get("client_auth")).any(asks)
    {
        let what = "no client is asked for a certificate: write `client_auth`";
        found.push(Problem::new(join(&path, "forward_client_cert"), what).at(forward.place));
    }
    // What the listener says is a problem once, however many certificates go by it.
    let mut keys = HashSet::new();
    problems.extend(found.into_iter().filter(|problem| keys.insert(problem.key.clone())));
}

/// Of the upstream at `path`.
pub(super) fn upstream(path: &str, upstream: &Node, problems: &mut Vec<Problem>) {
    let tls = upstream.get("tls").filter(|tls| tls.is_true() || tls.table().is_some());
    let Some(tls) = tls else {
        if let Some(auto) = upstream.get("protocol").filter(|protocol| protocol.text() == Some("auto")) {
            let what = "it is agreed on within TLS: write `tls`, or what the service speaks";
            problems.push(Problem::new(join(path, "protocol"), what).at(auto.place));
        }
        return;
    };
    let key = join(path, "tls");
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if let (Some(node), None) = (tls.get(one), tls.get(other)) {
            let what = format!("a client certificate is two files: write `{other}`, too");
            problems.push(Problem::new(join(&key, one), what).at(node.place));
        }
    }
    if let (Some(list), None) = (tls.get("crl"), tls.get("ca")) {
        let what = "lists are of an authority of your own: write its `ca`";
        problems.push(Problem::new(join(&key, "crl"), what).at(list.place));
    }
    if let Some(any) = tls.get("danger_accept_any_certificate").filter(|node| node.is_true())
        && let Some((name, node)) = ["ca", "crl"].iter().find_map(|name| Some((name, tls.get(name)?)))
    {
        let problem = Problem::new(join(&key, name), "it means nothing where any certificate is taken").at(node.place);
        problems.push(problem.also(any.place, "any certificate"));
    }
    if tls.get("server_name").is_some() {
        return;
    }
    if let Some(dns) = upstream.get("dns")
        && let Some((key, node, what)) = unverifiable(dns)
    {
        let problem = Problem::new(join(&join(path, "dns"), key), what).at(node.place);
        problems.push(problem.also(tls.place, "it is to be verified"));
    }
    let endpoints = upstream.get("endpoints").map(Node::items).unwrap_or_default();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let address = endpoint.get("address").unwrap_or(endpoint);
        let Some(text) = address.text() else { continue };
        let what = match endpoint_host(text) {
            None => "a unix socket has no name its certificate could be for: write `server_name` in `tls`",
            Some(host) if crate::tls::server_name(host).is_none() => {
                "no certificate can be for this host: write `server_name` in `tls`"
            }
            Some(_) => continue,
        };
        let problem = Problem::new(format!("{path}.endpoints[{index}]"), what).at(address.place);
        problems.push(problem.also(tls.place, "it is to be verified"));
    }
}

/// Why a service that is found by `dns` has no name it could be verified by.
fn unverifiable(dns: &Node) -> Option<(&'static str, &Node, &'static str)> {
    if let Some(kind) = dns.get("type").filter(|kind| kind.text() == Some("srv")) {
        let what =
            "whoever can forge an SRV record could choose the name that is verified: write `server_name` in `tls`";
        return Some(("type", kind, what));
    }
    let name = dns.get("name")?;
    let what = "no certificate can be for this name: write `server_name` in `tls`";
    name.text().is_some_and(|text| crate::tls::server_name(text).is_none()).then_some(("name", name, what))
}

/// Also what is no mode at all: that has a problem of its own.
fn asks(mode: &Node) -> bool {
    mode.text() != Some("none")
}

/// What `table` says about certificates that nobody is asked for: whoever wrote it believes that they are.
fn unasked(path: &str, table: &Node) -> Option<Problem> {
    let (name, node) = ["client_ca", "client_crl"].iter().find_map(|name| Some((name, table.get(name)?)))?;
    let what = "no client is asked for a certificate: write `client_auth`";
    Some(Problem::new(join(path, name), what).at(node.place))
}
