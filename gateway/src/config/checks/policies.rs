//! What must fit together in the tables of a route's policies.

use super::{Node, Once, Problem, join, texts};
use crate::config::units::Size;
use crate::limits::{ORIGIN_REGEXES_MAX, ORIGINS_MAX};

/// Adds what is wrong in the policies of the route at `path`.
pub(in crate::config) fn route(path: &str, route: &Node, problems: &mut Vec<Problem>) {
    if let Some(cors) = route.get("cors") {
        self::cors(&join(path, "cors"), cors, problems);
    }
    if let Some(retry) = route.get("retry") {
        super::upstreams::retry(&join(path, "retry"), retry, route.get("timeout"), problems);
    }
    if let (Some(decoded), Some(all)) =
        (route.get("decompress_request").and_then(|table| table.get("bytes_max")), route.get("body_bytes"))
        && let (Some(decoded_max), Some(all_max)) = (size(decoded), size(all))
        && decoded_max > all_max
    {
        let what = "more than `body_bytes`, which holds for decoded bytes, too, so it would never be reached";
        let problem = Problem::new(format!("{path}.decompress_request.bytes_max"), what).at(decoded.place);
        problems.push(problem.also(all.place, "the smaller bound"));
    }
    for (table, list) in [("compression", "algorithms"), ("compression", "types")] {
        let Some(items) = route.get(table).and_then(|table| table.get(list)) else { continue };
        let mut seen = Once::default();
        for (index, item) in items.items().iter().enumerate() {
            let key = format!("{path}.{table}.{list}[{index}]");
            seen.see(key, item, item.text().map(str::to_ascii_lowercase), problems);
        }
    }
}

fn size(node: &Node) -> Option<u64> {
    node.text()?.parse::<Size>().ok().map(|size| size.0)
}

fn cors(path: &str, cors: &Node, problems: &mut Vec<Problem>) {
    let origins = cors.get("origins").map(Node::items).unwrap_or_default();
    let mut seen = Once::default();
    for (index, origin) in origins.iter().enumerate() {
        let written = origin.get("regex").unwrap_or(origin);
        seen.see(format!("{path}.origins[{index}]"), written, written.text().map(str::to_owned), problems);
    }
    let place = cors.get("origins").map(|origins| origins.place);
    let patterns = origins.iter().filter(|origin| origin.table().is_some()).count();
    for (count, max, what) in
        [(origins.len(), ORIGINS_MAX, "origins"), (patterns, ORIGIN_REGEXES_MAX, "regular expressions")]
    {
        if count > max {
            let what = format!("{count} {what}: at most {max} are compared");
            problems.push(Problem::new(join(path, "origins"), what).at(place));
        }
    }
    let any = origins.iter().position(|origin| origin.text() == Some("*"));
    if let Some(any) = any.filter(|_| origins.len() > 1) {
        let what = "`*` takes every origin, so the others mean nothing";
        problems.push(Problem::new(format!("{path}.origins[{any}]"), what).at(origins[any].place));
    }
    let Some(credentials) = cors.get("credentials").filter(|node| node.is_true()) else { return };
    // Fetch §3.3.5: with credentials a browser takes `*` for a name, and refuses it as an origin.
    for list in ["origins", "methods", "headers", "expose"] {
        let Some(any) = texts(cors.get(list)).position(|text| text == "*") else { continue };
        let what = "with `credentials` browsers take no `*` (Fetch §3.3.5): name what is meant";
        let node = cors.get(list).and_then(|list| list.items().iter().filter(|item| item.text().is_some()).nth(any));
        let problem = Problem::new(join(path, list), what).at(node.map(|node| node.place));
        problems.push(problem.also(credentials.place, "credentials"));
    }
}
