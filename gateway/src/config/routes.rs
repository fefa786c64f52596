//! What must fit together in routes: one action each, names that exist, captures that the path has; and routes that take
//! requests from each other.
//!
//! Two steps. [`check`] works on the tree, like all of `checks`. [`between`] compares whole routes, so it wants them typed;
//! where the configuration does not load for another reason, [`readable`] gives it those that can be read.

use std::collections::{HashMap, HashSet};

use http1::{PathPolicy, Rule};

use super::checks::{Once, chosen, list, policies};
use super::model;
use super::places::Places;
use super::subsets;
use super::template::Template;
use super::tree::{Node, Table};
use super::walk::join;
use super::words::split_pattern;
use crate::limits::REGEX_ROUTES_PER_HOST_MAX;
use crate::problem::{PROBLEMS_MAX, Place, Problem, closest, quoted};
use crate::route::overlap::{self, Finding};
use crate::route::pattern::{End, PathPattern};
use crate::route::{HostPattern, Matcher};

/// What a route can do with a request; it does one of them.
const ACTIONS: [&str; 4] = ["upstream", "split", "redirect", "respond"];

/// Adds what is wrong with each route by itself and with the names it refers to.
pub(super) fn check(tree: &Node, problems: &mut Vec<Problem>) {
    let mut names = Once::default();
    for (path, route) in list(tree, "route") {
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
        if let Some(name) = route.get("name") {
            names.see(format!("{path}.name"), name, name.text().map(str::to_owned), problems);
        }
        hosts(&path, route, problems);
        action(tree, &path, route, problems);
        reachable(&path, route, problems);
        policies::route(&path, route, problems);
        let mut methods = Once::default();
        for (index, method) in route.get("methods").map(Node::items).unwrap_or_default().iter().enumerate() {
            methods.see(format!("{path}.methods[{index}]"), method, method.text().map(str::to_owned), problems);
        }
        for side in ["request", "response"] {
            for edit in ["set", "add"] {
                if let Some(edits) = route.get("headers").and_then(|headers| headers.get(side)?.get(edit)?.table()) {
                    field_names(&format!("{path}.headers.{side}.{edit}"), edits, problems);
                }
            }
        }
        conditions(&path, route, problems);
        captures(&path, route, problems);
    }
}

fn hosts(path: &str, route: &Node, problems: &mut Vec<Problem>) {
    let Some(host) = route.get("host") else { return };
    let mut hosts = Once::default();
    for (index, one) in host.items().iter().enumerate() {
        hosts.see(format!("{path}.host[{index}]"), one, one.text().map(str::to_ascii_lowercase), problems);
    }
}

fn action(tree: &Node, path: &str, route: &Node, problems: &mut Vec<Problem>) {
    let written: Vec<(&str, &Node)> = ACTIONS.iter().filter_map(|&key| Some((key, route.get(key)?))).collect();
    match &written[..] {
        [] => {
            let what = "nothing happens to its requests: write `upstream`, `split`, `redirect` or `respond`";
            problems.push(Problem::new(path, what).at(route.place));
        }
        [_] => {}
        [(first, node), (second, other), ..] => {
            let what = format!("`{first}` is written too, and a route does one thing");
            problems.push(Problem::new(join(path, second), what).at(other.place).also(node.place, "the other one"));
        }
    }
    if let Some(upstream) = route.get("upstream") {
        known_upstream(tree, &join(path, "upstream"), upstream, problems);
        subsets::check(path, route, problems);
    } else if let Some(subset) = route.get("subset") {
        let what = "it says which endpoints of `upstream`, and there is none: a `split` has one for each target";
        problems.push(Problem::new(join(path, "subset"), what).at(subset.place));
    }
    if let Some(split) = route.get("split") {
        let targets = split.get("targets").map(Node::items).unwrap_or_default();
        let mut upstreams = Once::default();
        for (index, target) in targets.iter().enumerate() {
            let Some(upstream) = target.get("upstream") else { continue };
            let key = format!("{path}.split.targets[{index}].upstream");
            known_upstream(tree, &key, upstream, problems);
            let name = upstream.text().map(|name| format!("{name}{}", subsets::shown(target)));
            upstreams.see(key, upstream, name, problems);
            subsets::check(&format!("{path}.split.targets[{index}]"), target, problems);
        }
        let weight = |target: &Node| target.get("weight").and_then(Node::integer).flatten();
        if !targets.is_empty() && targets.iter().all(|target| weight(target) == Some(0)) {
            let what = "every weight is 0, so none of them would get a request";
            problems.push(
                Problem::new(format!("{path}.split.targets"), what).at(split.get("targets").map(|node| node.place)),
            );
        }
    }
    for (index, mirror) in route.get("mirror").map(Node::items).unwrap_or_default().iter().enumerate() {
        if let Some(upstream) = mirror.get("upstream") {
            known_upstream(tree, &format!("{path}.mirror[{index}].upstream"), upstream, problems);
            subsets::check(&format!("{path}.mirror[{index}]"), mirror, problems);
        }
    }
    if let Some(fault) = route.get("fault")
        && ["delay", "abort"].iter().all(|key| fault.get(key).is_none())
    {
        let what = "nothing goes wrong: write `delay` or `abort`";
        problems.push(Problem::new(format!("{path}.fault"), what).at(fault.place));
    }
    websocket(tree, path, route, problems);
    let forwards = written.iter().any(|(key, _)| matches!(*key, "upstream" | "split"));
    for key in ["rewrite", "timeout", "retry", "mirror", "buffer_request"] {
        if let Some(node) = route.get(key).filter(|_| !forwards && !written.is_empty()) {
            let what = "it is about an upstream, and this route has none";
            problems.push(Problem::new(join(path, key), what).at(node.place));
        }
    }
    for key in ["rewrite", "redirect"] {
        let Some(table) = route.get(key) else { continue };
        let path = join(path, key);
        if let (Some(whole), Some(prefix)) = (table.get("path"), table.get("prefix")) {
            let what = "`path` is the whole path, so there is no prefix to replace";
            problems
                .push(Problem::new(join(&path, "prefix"), what).at(prefix.place).also(whole.place, "the whole path"));
        }
        if let Some(prefix) = table.get("prefix")
            && !ends_in_rest(route)
        {
            let what = "only a path that ends in `/**` has a part before it: write `path`";
            problems.push(Problem::new(join(&path, "prefix"), what).at(prefix.place));
        }
    }
    if let Some(redirect) = route.get("redirect") {
        let status = redirect.get("status").and_then(Node::integer).flatten();
        if let Some(status) = status.filter(|status| [304, 305, 306].contains(status)) {
            let what = format!("{status} sends nobody anywhere: 301, 302, 303, 307 or 308");
            problems.push(
                Problem::new(format!("{path}.redirect.status"), what).at(redirect.get("status").map(|node| node.place)),
            );
        }
        if ["scheme", "host", "path", "prefix"].iter().all(|key| redirect.get(key).is_none()) {
            let what = "it leads back to where it comes from: write `scheme`, `host`, `path` or `prefix`";
            problems.push(Problem::new(format!("{path}.redirect"), what).at(redirect.place));
        }
    }
    if let Some(respond) = route.get("respond")
        && let Some(body) = respond.get("body")
        && let Some(Some(status @ (204 | 205 | 304))) = respond.get("status").and_then(Node::integer)
        && body.text() != Some("")
    {
        let what = format!("an answer with status {status} has no body (RFC 9110 §15)");
        problems.push(Problem::new(format!("{path}.respond.body"), what).at(body.place));
    }
}

fn ends_in_rest(route: &Node) -> bool {
    let Some(text) = route.get("path").and_then(Node::text) else { return false };
    matches!(PathPattern::parse(text), Ok(PathPattern::Segments(pattern)) if pattern.end != End::Exact)
}

/// WebSocket is a switch of protocols, which HTTP/2 does not have; extended CONNECT is for clients alone so far.
fn websocket(tree: &Node, path: &str, route: &Node, problems: &mut Vec<Problem>) {
    let Some(upgrade) = route.get("upgrade") else { return };
    if !upgrade.items().iter().any(|protocol| protocol.text() == Some("websocket")) {
        return;
    }
    let split = route.get("split").and_then(|split| split.get("targets")).map(Node::items).unwrap_or_default();
    let named = split.iter().filter_map(|target| target.get("upstream")).chain(route.get("upstream"));
    for name in named.filter_map(Node::text) {
        let upstream = chosen(tree, "upstream").find(|(known, _)| *known == name);
        let protocol = upstream.and_then(|(_, upstream)| upstream.get("protocol"));
        if let Some(protocol) = protocol.filter(|protocol| protocol.text() == Some("http2")) {
            let what = "`websocket` needs an upstream that speaks HTTP/1.1";
            let problem = Problem::new(join(path, "upgrade"), what).at(upgrade.place);
            problems.push(problem.also(protocol.place, "this one speaks HTTP/2"));
        }
    }
}

fn known_upstream(tree: &Node, key: &str, upstream: &Node, problems: &mut Vec<Problem>) {
    let Some(name) = upstream.text() else { return };
    let known = || chosen(tree, "upstream").map(|(name, _)| name);
    if known().any(|known| known == name) {
        return;
    }
    let problem = |what: String| Problem::new(key, what).at(upstream.place);
    problems.push(match closest(name, known()) {
        _ if upstream.is_hidden() => problem("no upstream has the name that its variables give".to_owned()),
        Some(meant) => problem(format!("no upstream is named {}", quoted(name))).meant(Some(meant)),
        None => problem(format!("no upstream is named {}", quoted(name)))
            .hint(format!("there must be a `[{}]`", join("upstream", name))),
    });
}

/// A path that its own route's policy refuses gets no request.
fn reachable(path: &str, route: &Node, problems: &mut Vec<Problem>) {
    let Some(pattern) = route.get("path") else { return };
    let Some((exact, _)) = pattern.text().map(split_pattern) else { return };
    let own = |key: &str| route.get("path_policy").and_then(|policy| policy.get(key)?.text());
    let rule = |key: &str| match own(key) {
        Some("keep") => Rule::Keep,
        Some("decode") => Rule::Decode,
        _ => Rule::Refuse,
    };
    let policy = PathPolicy {
        encoded_slash: rule("encoded_slash"),
        backslash: rule("backslash"),
        semicolon: rule("semicolon"),
        refuse_double_slash: own("double_slash") == Some("refuse"),
    };
    let refused = |policy: &PathPolicy| http1::canonical_path(exact.as_bytes(), policy, &mut Vec::new()).err();
    // What no policy lets through was reported as malformed.
    if refused(&PathPolicy::KEEP).is_none()
        && let Some(fault) = refused(&policy)
    {
        let what = format!("this route's `path_policy` refuses such a path: {}", fault.detail());
        problems.push(Problem::new(format!("{path}.path"), what).at(pattern.place));
    }
}

/// Field names are the same in any case.
fn field_names(path: &str, table: &Table, problems: &mut Vec<Problem>) {
    let mut seen: HashMap<String, Place> = HashMap::new();
    for entry in &table.entries {
        if let Some(first) = seen.insert(entry.name.to_ascii_lowercase(), entry.name_place) {
            let problem = Problem::new(join(path, &entry.name), "written twice: field names are the same in any case");
            problems.push(problem.at(entry.name_place).also(first, "first written here"));
        }
    }
}

fn conditions(path: &str, route: &Node, problems: &mut Vec<Problem>) {
    let Some(when) = route.get("when") else { return };
    if let Some(headers) = when.get("headers").and_then(Node::table) {
        field_names(&format!("{path}.when.headers"), headers, problems);
    }
    for kind in ["headers", "query", "cookies"] {
        let Some(table) = when.get(kind).and_then(Node::table) else { continue };
        for entry in &table.entries {
            let Some(test) = entry.node.table() else { continue };
            let path = format!("{path}.when.{}", join(kind, &entry.name));
            let absent = test.entries.iter().any(|test| test.name == "present" && test.node.boolean() == Some(false));
            if test.entries.is_empty() {
                let what = "asks for nothing: write what the value must be, or `present = true`";
                problems.push(Problem::new(path, what).at(entry.node.place));
            } else if absent && test.entries.len() > 1 {
                let what = "what is not there has no value: nothing can be written beside `present = false`";
                problems.push(Problem::new(path, what).at(entry.node.place));
            }
        }
    }
}

/// What templates show of the path must be captured by it.
fn captures(path: &str, route: &Node, problems: &mut Vec<Problem>) {
    let mut templates: Vec<(String, &Node)> = Vec::new();
    for (table, key) in [("rewrite", "path"), ("rewrite", "host"), ("redirect", "path")] {
        if let Some(node) = route.get(table).and_then(|table| table.get(key)) {
            templates.push((format!("{path}.{table}.{key}"), node));
        }
    }
    for side in ["request", "response"] {
        for edit in ["set", "add"] {
            let edits = route.get("headers").and_then(|headers| headers.get(side)?.get(edit)?.table());
            for entry in edits.into_iter().flat_map(|table| &table.entries) {
                templates.push((format!("{path}.headers.{side}.{}", join(edit, &entry.name)), &entry.node));
            }
        }
    }
    // Most routes have none, and then their path need not be read here.
    let Some(written) = route.get("path").filter(|_| !templates.is_empty()) else { return };
    let pattern = match (written.text(), written.get("regex").and_then(Node::text)) {
        (Some(text), _) => PathPattern::parse(text),
        (_, Some(regex)) => PathPattern::regex(regex),
        _ => return,
    };
    let Ok(pattern) = pattern else { return };
    for (key, node) in templates {
        let Some(Ok(template)) = node.text().map(Template::parse) else { continue };
        for name in template.captures().filter(|name| !pattern.names().any(|known| known == *name)) {
            let problem = Problem::new(key.clone(), format!("the path captures no `{name}`")).at(node.place);
            problems.push(problem.meant(closest(name, pattern.names())).also(written.place, "the path"));
        }
    }
}

/// The routes whose conditions can be read although something else is wrong, each with its index: enough to compare them.
pub(super) fn readable(tree: &Node, problems: &[Problem]) -> Vec<(usize, model::Route)> {
    let wrong: HashSet<&str> = problems.iter().filter_map(|problem| problem.key.strip_prefix("route[")).collect();
    let is_fine = |index: usize, key: &str| {
        let own = format!("{index}].{key}");
        !wrong
            .iter()
            .any(|wrong| wrong.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    };
    let routes = tree.get("route").map(Node::items).unwrap_or_default();
    let read = routes.iter().enumerate().filter_map(|(index, node)| {
        let mut kept = toml::Table::new();
        for key in ["name", "host", "path", "methods", "when", "priority"] {
            if let Some(node) = node.get(key) {
                match is_fine(index, key) {
                    true => {}
                    // It decides ties only.
                    false if key == "name" => continue,
                    false => return None,
                }
                kept.insert(key.to_owned(), node.clone().into_toml());
            }
        }
        kept.insert("auth".to_owned(), "none".into());
        kept.try_into().ok().map(|route| (index, route))
    });
    read.collect()
}

/// What is odd about routes taken together: what is wrong, and what one should know.
pub(super) fn between(routes: &[(usize, &model::Route)], places: &Places) -> (Vec<Problem>, Vec<Problem>) {
    let matchers: Vec<Matcher> = routes.iter().map(|(_, route)| Matcher::of(route)).collect();
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let key = |at: usize| format!("route[{}]", routes[at].0);
    let at = |route: usize, what: String| {
        let path = format!("{}.path", key(route));
        Problem::new(path.clone(), what).at(places.find(&path))
    };
    let with = |problem: Problem, other: usize| match places.find(&format!("{}.path", key(other))) {
        Some(place) => problem.also(place, format!("`{}`", key(other))),
        None => problem,
    };
    for (route, host) in regexes_too_many(&matchers) {
        let what = format!(
            "more than {REGEX_ROUTES_PER_HOST_MAX} regular expressions for `{host}`: every request to it would be compared with all of them"
        );
        problems.push(at(route, what));
    }
    for finding in overlap::report(&matchers) {
        match finding {
            Finding::Same { route, other } => {
                problems.push(with(at(route, format!("`{}` takes the same requests", key(other))), other));
            }
            Finding::Tie { route, first } => {
                let what = format!(
                    "some requests fit this route and `{}` alike, which gets them by its name: a `priority` would say which is meant",
                    key(first)
                );
                warnings.push(with(at(route, what), first));
            }
            Finding::Shadowed { route, by } => {
                let what = format!("never gets a request: `{}` goes first and takes all of them", key(by));
                warnings.push(with(at(route, what), by));
            }
            Finding::Never { route } => {
                let when = format!("{}.when", key(route));
                let what = "never gets a request: nothing fulfils its conditions";
                warnings.push(Problem::new(when.clone(), what).at(places.find(&when)));
            }
            Finding::Unseen { route } => {
                warnings
                    .push(at(route, "too many routes: from here on they were not compared with each other".to_owned()));
            }
        }
    }
    (problems, warnings)
}

/// The first route of each host that is one regular expression too many.
fn regexes_too_many(matchers: &[Matcher]) -> Vec<(usize, &HostPattern)> {
    let mut counts: HashMap<&HostPattern, usize> = HashMap::new();
    let mut found = Vec::new();
    for (route, matcher) in matchers.iter().enumerate() {
        let PathPattern::Regex(_) = *matcher.path else { continue };
        for host in &matcher.hosts {
            let count = counts.entry(host).or_default();
            *count += 1;
            if *count == REGEX_ROUTES_PER_HOST_MAX + 1 {
                found.push((route, host));
            }
        }
    }
    found
}
