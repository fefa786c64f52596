//! What must fit together where a route asks for some of an upstream's endpoints.

use super::checks::upstreams::tags;
use super::model::{Config, Fallback};
use super::places::Places;
use super::tree::Node;
use super::walk::join;
use crate::balance::Subsets;
use crate::limits::SUBSETS_PER_UPSTREAM_MAX;
use crate::problem::{Problem, alternatives, closest};

/// Adds what is wrong in the `subset` of `node`, which is at `path` and says which upstream in `upstream`.
pub(super) fn check(path: &str, node: &Node, problems: &mut Vec<Problem>) {
    let Some(subset) = node.get("subset") else { return };
    let path = join(path, "subset");
    match subset.get("tags") {
        Some(listed) => tags(&join(&path, "tags"), Some(listed), problems),
        None => tags(&path, Some(subset), problems),
    }
}

/// What a subset is told apart by, for who compares texts.
pub(super) fn shown(node: &Node) -> String {
    let Some(subset) = node.get("subset") else { return String::new() };
    let mut tags: Vec<&str> = subset.get("tags").unwrap_or(subset).items().iter().filter_map(Node::text).collect();
    tags.sort_unstable();
    format!(" with {}", tags.join(" and "))
}

/// Problems: too many subsets of one upstream. Warnings: those that no endpoint is in, so that every request would be refused,
/// or the subset mean nothing.
pub(super) fn between(config: &Config, places: &Places) -> (Vec<Problem>, Vec<Problem>) {
    let subsets = Subsets::of(config);
    let too_many = subsets.too_many().map(|upstream| {
        let key = join("upstream", upstream);
        let what = format!("routes ask for more than {SUBSETS_PER_UPSTREAM_MAX} different subsets of its endpoints");
        Problem::new(&key, what).at(places.find(&key))
    });
    let mut warnings = Vec::new();
    for (index, route) in config.route.iter().enumerate() {
        for (key, upstream, subset) in route.targets() {
            let (Some(subset), Some(upstream)) = (subset, config.upstream.get(upstream)) else { continue };
            let weighed = || upstream.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
            if weighed().any(|endpoint| subset.tags.iter().all(|tag| endpoint.tags.contains(tag))) {
                continue;
            }
            let then = match subset.fallback {
                Fallback::None => "every request is refused with 503 `no_endpoint`",
                Fallback::Any => "any endpoint gets its requests",
            };
            let key = format!("route[{index}].{key}");
            let mut problem = Problem::new(&key, format!("no endpoint has all of these tags: {then}"));
            let known: Vec<&str> = weighed().flat_map(|endpoint| &endpoint.tags).map(String::as_str).collect();
            let unknown = subset.tags.iter().find(|tag| !known.contains(&tag.as_str()));
            if let Some(meant) = unknown.and_then(|tag| closest(tag, known.iter().copied())) {
                problem = problem.meant(Some(meant));
            } else if known.is_empty() {
                problem = problem.hint("none of its endpoints has tags");
            } else if unknown.is_some() {
                let mut some = known;
                some.sort_unstable();
                some.dedup();
                problem = problem.hint(format!("its endpoints have {}", alternatives(some.into_iter().take(5))));
            }
            warnings.push(problem.at(places.find(&key)));
        }
    }
    (too_many.collect(), warnings)
}
