//! What must fit together in address lists and in what names them.

use super::{Node, Problem, chosen, join, list};
use crate::problem::{closest, quoted};

/// Interfaces one gateway has a door on.
const INTERFACES_MAX: usize = 16;

/// Adds what is wrong with lists, with the door, and with the names listeners and routes use.
pub(super) fn check(tree: &Node, problems: &mut Vec<Problem>) {
    for (name, node) in chosen(tree, "list") {
        one(&join("list", name), node, problems);
    }
    for table in ["listener", "route"] {
        for (path, node) in list(tree, table) {
            for key in ["deny", "allow"] {
                names(tree, &path, node, key, problems);
            }
        }
    }
    if let Some(interfaces) = tree.get("xdp").and_then(|xdp| xdp.get("interfaces")) {
        let items = interfaces.items();
        if items.len() > INTERFACES_MAX {
            let what = format!("more than {INTERFACES_MAX} interfaces");
            problems.push(Problem::new("xdp.interfaces", what).at(interfaces.place));
        }
        let mut seen = super::Once::default();
        for (index, item) in items.iter().enumerate() {
            seen.see(format!("xdp.interfaces[{index}]"), item, item.text().map(str::to_owned), problems);
        }
    }
}

fn one(path: &str, node: &Node, problems: &mut Vec<Problem>) {
    if node.get("cidrs").is_none() && node.get("file").is_none() {
        let what = "it holds nothing: write `cidrs` or `file`";
        problems.push(Problem::new(path, what).at(node.place));
    }
    for key in ["format", "select", "locations"] {
        let says_something =
            |node: &&Node| node.text() != Some("auto") && node.table().is_none_or(|table| !table.entries.is_empty());
        if let Some(written) = node.get(key).filter(says_something)
            && node.get("file").is_none()
        {
            let what = "it is about a `file`, and there is none";
            problems.push(Problem::new(join(path, key), what).at(written.place));
        }
    }
    if let Some(locations) = node.get("locations")
        && node.get("select").is_none()
    {
        let what = "nothing is selected by it: write `select`";
        problems.push(Problem::new(join(path, "locations"), what).at(locations.place));
    }
    if let Some(mode) = node.get("mode").filter(|mode| mode.text() == Some("shadow"))
        && node.get("action").and_then(Node::text).is_some_and(|action| action != "deny")
    {
        let what = "only a list that denies can be tried out";
        problems.push(Problem::new(join(path, "mode"), what).at(mode.place));
    }
}

/// The lists a listener or a route names.
fn names(tree: &Node, path: &str, node: &Node, key: &str, problems: &mut Vec<Problem>) {
    let Some(names) = node.get(key) else { return };
    let known = || chosen(tree, "list").map(|(name, _)| name);
    for (index, item) in names.items().iter().enumerate() {
        let Some(name) = item.text() else { continue };
        if known().any(|known| known == name) {
            let mode = tree.get("list").and_then(|lists| lists.get(name)?.get("mode"));
            if let Some(mode) = mode.filter(|mode| mode.text() == Some("shadow")) {
                let what = format!("{} is in shadow mode, so it turns nobody away, here neither", quoted(name));
                let problem = Problem::new(format!("{path}.{key}[{index}]"), what).at(item.place);
                problems.push(problem.also(mode.place, "the mode"));
            }
            continue;
        }
        let problem = Problem::new(format!("{path}.{key}[{index}]"), format!("no list is named {}", quoted(name)));
        let problem = problem.at(item.place).meant(closest(name, known()));
        problems.push(match closest(name, known()) {
            Some(_) => problem,
            None => problem.hint(format!("there must be a `[{}]`", join("list", name))),
        });
    }
}
