//! What must fit together in an upstream: its endpoints, its waits, when it is asked again.

use super::{Node, Once, Problem, health, in_order, join, sticky};
use crate::config::model::Retry;
use crate::config::units::Time;

/// Adds what is wrong in the upstream at `path`.
pub(super) fn check(path: &str, node: &Node, problems: &mut Vec<Problem>) {
    let endpoints = node.get("endpoints").map(Node::items).unwrap_or_default();
    let mut addresses = Once::default();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let address = endpoint.get("address").unwrap_or(endpoint);
        let key = format!("{path}.endpoints[{index}]");
        addresses.see(key, address, address.text().map(str::to_ascii_lowercase), problems);
        tags(&format!("{path}.endpoints[{index}].tags"), endpoint.get("tags"), problems);
    }
    let weight = |endpoint: &Node| endpoint.get("weight").and_then(Node::integer).flatten();
    let has_others = node.get("dns").is_some();
    if !endpoints.is_empty() && !has_others && endpoints.iter().all(|endpoint| weight(endpoint) == Some(0)) {
        let what = "every weight is 0, so none of them would get a request";
        let place = node.get("endpoints").map(|endpoints| endpoints.place);
        problems.push(Problem::new(join(path, "endpoints"), what).at(place));
    }
    dns(path, node, endpoints.is_empty(), problems);
    if let Some(host) = node.get("host").filter(|host| host.text() == Some("endpoint"))
        && let Some(socket) = endpoints
            .iter()
            .map(|endpoint| endpoint.get("address").unwrap_or(endpoint))
            .find(|address| address.text().is_some_and(|text| text.starts_with("unix:")))
    {
        let what = "a unix socket has no name a `Host` could hold: write the host it expects";
        problems.push(Problem::new(join(path, "host"), what).at(host.place).also(socket.place, "this endpoint"));
    }
    if let Some(timeout) = node.get("timeout") {
        for short in ["connect", "first_byte", "idle"] {
            in_order(&join(path, "timeout"), timeout, short, "total", problems);
        }
    }
    if let Some(pool) = node.get("pool") {
        in_order(&join(path, "pool"), pool, "idle", "age", problems);
    }
    if let Some(table) = node.get("retry") {
        retry(&join(path, "retry"), table, node.get("timeout"), problems);
    }
    if let Some(limits) = node.get("limits")
        && let (Some(one), Some(all)) = (limits.get("endpoint_requests_max"), limits.get("requests_max"))
        && let (Some(Some(one_count)), Some(Some(all_count))) = (one.integer(), all.integer())
        && one_count > all_count
    {
        let what = "more than `requests_max`, so it would never be reached";
        let problem = Problem::new(format!("{path}.limits.endpoint_requests_max"), what).at(one.place);
        problems.push(problem.also(all.place, "the smaller bound"));
    }
    health::check(path, node, problems);
    sticky::check(path, node, problems);
    super::tls::upstream(path, node, problems);
}

/// Adds what is wrong with the tags at `path`.
pub(in crate::config) fn tags(path: &str, tags: Option<&Node>, problems: &mut Vec<Problem>) {
    let mut seen = Once::default();
    for (index, tag) in tags.map(Node::items).unwrap_or_default().iter().enumerate() {
        seen.see(format!("{path}[{index}]"), tag, tag.text().map(str::to_owned), problems);
    }
}

/// Adds what is wrong between `endpoints` and `dns`.
fn dns(path: &str, upstream: &Node, is_alone: bool, problems: &mut Vec<Problem>) {
    let Some(dns) = upstream.get("dns") else {
        // Another kind of value is a problem of its own.
        if is_alone && upstream.table().is_some() {
            let what = "no endpoint: write its address into `endpoints`, or where it is to be looked up into `dns`";
            let place = upstream.get("endpoints").map_or(upstream.place, |endpoints| endpoints.place);
            problems.push(Problem::new(join(path, "endpoints"), what).at(place));
        }
        return;
    };
    if dns.table().is_none() {
        return;
    }
    let path = join(path, "dns");
    let is_srv = dns.get("type").and_then(Node::text) == Some("srv");
    match dns.get("port") {
        None if !is_srv => {
            let what = "missing: addresses have no port of their own, as `type = \"srv\"` has";
            problems.push(Problem::new(join(&path, "port"), what).at(dns.place));
        }
        Some(port) if is_srv => {
            let what = "every SRV record says its own port: leave it out";
            problems.push(Problem::new(join(&path, "port"), what).at(port.place));
        }
        _ => {}
    }
}

/// Adds what is wrong in the `retry` table at `path`. `timeout`: that of the same upstream or route.
pub(in crate::config) fn retry(path: &str, table: &Node, timeout: Option<&Node>, problems: &mut Vec<Problem>) {
    in_order(path, table, "back_off", "back_off_max", problems);
    let time = |node: &Node| node.text().and_then(|text| text.parse::<Time>().ok());
    let longest = Retry::default().back_off_max;
    if let Some(first) = table.get("back_off").filter(|_| table.get("back_off_max").is_none())
        && time(first).is_some_and(|first| first > longest)
    {
        let what = format!("longer than `back_off_max`, which is {longest} where nothing is written");
        problems.push(Problem::new(join(path, "back_off"), what).at(first.place));
    }
    for list in ["on", "methods"] {
        let mut seen = Once::default();
        for (index, item) in table.get(list).map(Node::items).unwrap_or_default().iter().enumerate() {
            seen.see(format!("{path}.{list}[{index}]"), item, item.text().map(str::to_owned), problems);
        }
    }
    let Some(per_try) = table.get("per_try") else { return };
    if let Some(total) = timeout.and_then(|timeout| timeout.get("total"))
        && let (Some(one), Some(all)) = (time(per_try), time(total))
        && one > all
    {
        let what = "longer than `timeout.total`, so it would never be reached";
        let problem = Problem::new(join(path, "per_try"), what).at(per_try.place);
        problems.push(problem.also(total.place, "the shorter time"));
    }
}
