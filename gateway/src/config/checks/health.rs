//! What must fit together in an upstream's `health` and `eject`.

use super::in_order;
use crate::config::tree::{Node, Value};
use crate::config::walk::join;
use crate::problem::Problem;

pub(super) fn check(path: &str, upstream: &Node, problems: &mut Vec<Problem>) {
    if let Some(health) = upstream.get("health") {
        checks(&join(path, "health"), health, upstream, problems);
    }
    if let Some(eject) = upstream.get("eject") {
        in_order(&join(path, "eject"), eject, "base", "max", problems);
        let off = |key| eject.get(key).and_then(Node::integer).flatten() == Some(0);
        let rated = ["success_rate", "failure_percentage"].into_iter().filter_map(|key| eject.get(key));
        let is_rated = rated.filter(|node| !matches!(node.value, Value::Boolean(false))).count() > 0;
        if !is_rated && ["consecutive_5xx", "consecutive_gateway", "consecutive_local"].into_iter().all(off) {
            let what = "every threshold is 0, so nothing would ever be ejected: leave it out";
            problems.push(Problem::new(join(path, "eject"), what).at(eject.place));
        }
        for key in ["interval", "failures"] {
            if let Some(node) = eject.get(key).filter(|_| !is_rated) {
                let what = "it is about `success_rate` and `failure_percentage`, and neither is written";
                problems.push(Problem::new(join(&join(path, "eject"), key), what).at(node.place));
            }
        }
    }
}

fn checks(path: &str, health: &Node, upstream: &Node, problems: &mut Vec<Problem>) {
    // Another kind of value is a problem of its own.
    if health.table().is_none() {
        return;
    }
    let on = |key| health.get(key).filter(|node: &&Node| matches!(node.value, Value::Boolean(true)));
    let (http, grpc, tcp) = (health.get("http"), on("grpc"), on("tcp"));
    let ways: Vec<(&str, &Node)> =
        [("http", http), ("grpc", grpc), ("tcp", tcp)].into_iter().filter_map(|(key, way)| Some((key, way?))).collect();
    match &ways[..] {
        [(_, first), rest @ ..] => {
            for (key, other) in rest {
                let what = "a check is by `http`, by `grpc` or by `tcp`: leave the others out";
                let problem = Problem::new(join(path, key), what).at(other.place);
                problems.push(problem.also(first.place, "another one"));
            }
        }
        [] => {
            let what = "nothing says how: write `http = \"/path\"`, `grpc = true` or `tcp = true`";
            problems.push(Problem::new(path, what).at(health.place));
        }
    }
    if let [(way, node)] = ways[..] {
        let strange: &[(&str, &str)] = match way {
            "http" => &[("grpc_service", "it means something for checks by `grpc` only")],
            "grpc" => &[("expect", "it means something for checks by `http` only")],
            _ => &[
                ("host", "it means something for checks by `http` or `grpc` only"),
                ("expect", "it means something for checks by `http` only"),
                ("grpc_service", "it means something for checks by `grpc` only"),
            ],
        };
        for (key, what) in strange {
            if let Some(strange) = health.get(key) {
                let problem = Problem::new(join(path, key), *what).at(strange.place);
                problems.push(problem.also(node.place, "how it is checked"));
            }
        }
    }
    let endpoints = upstream.get("endpoints").map(Node::items).unwrap_or_default();
    let mut addresses = endpoints.iter().map(|endpoint| endpoint.get("address").unwrap_or(endpoint));
    if let Some(port) = health.get("port")
        && let Some(socket) = addresses.find(|address| address.text().is_some_and(|text| text.starts_with("unix:")))
    {
        let problem = Problem::new(join(path, "port"), "a unix socket has no port").at(port.place);
        problems.push(problem.also(socket.place, "this endpoint"));
    }
}
