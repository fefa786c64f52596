//! Checks a tree against its [`Shape`]: unknown keys, missing ones, wrong kinds, grammar, bounds. Does not stop at the first
//! problem; replaces `${VAR}` and fills in secrets from files on the way, because both need to know what a string is for.

use std::path::{Path, PathBuf};

use super::expand::{Environment, expand};
use super::secrets;
use super::shape::{Check, Field, Shape, TableShape, TextShape};
use super::tree::{Node, Table, Text, Value};
use super::units::{Percentage, Size, Time};
use super::words::{self, Wrong};
use crate::problem::{PROBLEMS_MAX, Place, Problem, Sources, alternatives, closest, quoted};

/// What the walk needs to know and what it finds.
pub(super) struct Walk<'a> {
    pub environment: Environment<'a>,
    pub sources: &'a Sources,
    pub root: &'a Shape,
    pub problems: Vec<Problem>,
    /// Files that secrets were read from.
    pub secret_files: Vec<PathBuf>,
}

impl Walk<'_> {
    /// Checks `node`, which is at `path`, and everything below it. After it every string is as its key wants it, or there
    /// is a problem about it.
    pub(super) fn check(&mut self, path: &str, node: &mut Node, shape: &Shape) {
        if self.problems.len() >= PROBLEMS_MAX {
            return;
        }
        match (shape, &mut node.value) {
            (Shape::Any, _) | (Shape::Boolean, Value::Boolean(_)) => {}
            (Shape::Float { min, max }, Value::Float(_) | Value::Integer(Some(_))) => {
                // Neither is NaN within any bounds.
                if !node.number().is_some_and(|number| (*min..=*max).contains(&number)) {
                    self.problems.push(out_of_range(path, *min, *max).at(node.place));
                }
            }
            (Shape::Text(shape), Value::Text(text)) => {
                let problem = wrong_text(path, text, shape, &[], self.environment);
                self.problems.extend(problem.map(|problem| problem.at(node.place)));
            }
            (Shape::Integer { min, max }, Value::Integer(number)) => {
                if !number.is_some_and(|number| (*min..=*max).contains(&number)) {
                    let bounds = bounds(Some(&min.to_string()), Some(&max.to_string()));
                    self.problems.push(Problem::new(path, format!("out of range: {bounds}")).at(node.place));
                }
            }
            (Shape::List { item, min }, Value::List(items)) => {
                if items.len() < *min {
                    self.problems.push(Problem::new(path, "at least one is needed").at(node.place));
                }
                for (index, node) in items.iter_mut().enumerate() {
                    if self.problems.len() >= PROBLEMS_MAX {
                        return;
                    }
                    self.check(&format!("{path}[{index}]"), node, item);
                }
            }
            (Shape::Map { name, item }, Value::Table(table)) => self.check_map(path, table, *name, item),
            (Shape::Table(shape), Value::Table(table)) => self.check_table(path, table, node.place, shape, None),
            (Shape::Tagged { tag, variants }, Value::Table(table)) => {
                match table.get(tag).and_then(|entry| variants.get(entry.node.text()?)) {
                    Some(shape) => self.check_table(path, table, node.place, shape, Some(tag)),
                    None => self.problems.push(no_variant(path, table, node.place, tag, variants.keys())),
                }
            }
            (Shape::Either(shapes), Value::Text(text)) if let Some(shape) = shapes.iter().find_map(as_text) => {
                let problem = wrong_text(path, text, shape, shapes, self.environment);
                self.problems.extend(problem.map(|problem| problem.at(node.place)));
            }
            (Shape::Either(shapes), _) => match shapes.iter().find(|shape| takes(shape, node)) {
                Some(shape) => self.check(path, node, shape),
                None => self.problems.push(wrong_kind(path, node, shape)),
            },
            _ => self.problems.push(wrong_kind(path, node, shape)),
        }
    }

    fn check_map(&mut self, path: &str, table: &mut Table, name: Option<Check>, item: &Shape) {
        for entry in &mut table.entries {
            let path = join(path, &entry.name);
            if let Some(Err(wrong)) = name.map(|check| check(&entry.name)) {
                let problem = Problem::new(&path, wrong.why).meant(wrong.instead.as_deref());
                self.problems.push(problem.at(entry.name_place));
            }
            self.check(&path, &mut entry.node, item);
        }
    }

    fn check_table(&mut self, path: &str, table: &mut Table, place: Place, shape: &TableShape, tag: Option<&str>) {
        for entry in &mut table.entries {
            let path = join(path, &entry.name);
            match shape.fields.get(&entry.name) {
                _ if tag == Some(&entry.name) => {}
                Some(field) => self.check(&path, &mut entry.node, &field.shape),
                None if self.problems.len() >= PROBLEMS_MAX => return,
                None => {
                    let problem = self.unknown_key(&path, &entry.name, shape);
                    self.problems.push(problem.at(entry.name_place));
                }
            }
        }
        self.secret_files.extend(secrets::read(path, table, shape, self.sources, &mut self.problems));
        for (name, field) in &shape.fields {
            if field.required && table.get(name).is_none() && tag != Some(name) {
                self.problems.push(missing(&join(path, name), field).at(place));
            }
        }
    }

    fn unknown_key(&self, path: &str, name: &str, shape: &TableShape) -> Problem {
        let known = || shape.fields.keys().map(String::as_str);
        let problem = Problem::new(path, format!("unknown key {}", quoted(name)));
        if let Some(meant) = closest(name, known()) {
            return problem.meant(Some(meant));
        }
        // A right key in the wrong table.
        let mut elsewhere = Vec::new();
        self.root.visit("", &mut |path, _| {
            if path.rsplit('.').next() == Some(name) {
                elsewhere.push(path.replace("[]", ""));
            }
        });
        match elsewhere.as_slice() {
            [] => problem.hint(format!("known here: {}", known().collect::<Vec<_>>().join(", "))),
            places => problem.hint(format!("there is {}", places.join(" and "))),
        }
    }
}

/// Replaces the variables of a string; what is wrong with it then, if anything.
/// `others` are the alternatives of another kind.
fn wrong_text(
    path: &str,
    text: &mut Text,
    shape: &TextShape,
    others: &[Shape],
    environment: Environment<'_>,
) -> Option<Problem> {
    let problem = |wrong: Wrong, hidden: bool| {
        let problem = Problem::new(path, wrong.why);
        // What would be right instead may quote what the environment said.
        Some(match hidden {
            true => problem.hint("after its variables were replaced"),
            false => problem.meant(wrong.instead.as_deref()),
        })
    };
    match expand(&text.text, words::is_template(&shape.format), environment) {
        Ok(None) => {}
        Ok(Some(expanded)) => *text = Text { text: expanded, hidden: true },
        Err(wrong) => return problem(wrong, false),
    }
    if shape.choices.contains(&text.text) {
        return None;
    }
    let choices = || shape.choices.iter().map(String::as_str);
    match shape.check {
        None if shape.choices.is_empty() => return None,
        None => {
            let others = others.iter().filter(|other| !matches!(other, Shape::Text(_))).map(Shape::expected);
            let expected: Vec<_> = std::iter::once(alternatives(choices())).chain(others).collect();
            let why = format!("expected {}", expected.join(" or "));
            // With one choice the message has said it.
            let instead = closest(&text.text, choices()).filter(|_| expected.len() + shape.choices.len() > 2);
            let instead = instead.map(str::to_owned);
            return problem(Wrong { why, instead }, text.hidden);
        }
        Some(check) => {
            if let Err(wrong) = check(&text.text) {
                return problem(wrong, text.hidden);
            }
        }
    }
    let (min, max) = (shape.min.as_deref(), shape.max.as_deref());
    outside(&shape.format, &text.text, min, max)
        .then(|| Problem::new(path, format!("out of range: {}", bounds(min, max))))
}

/// `tag` is missing, or what it says is none of `variants`.
fn no_variant<'v>(
    path: &str,
    table: &Table,
    place: Place,
    tag: &str,
    variants: impl Iterator<Item = &'v String> + Clone,
) -> Problem {
    let path = join(path, tag);
    let variants = || variants.clone().map(String::as_str);
    let Some(entry) = table.get(tag) else {
        return Problem::new(path, format!("missing: {}", alternatives(variants()))).at(place);
    };
    let meant = closest(entry.node.text().unwrap_or_default(), variants());
    Problem::new(path, format!("expected {}", alternatives(variants()))).meant(meant).at(entry.node.place)
}

fn missing(path: &str, field: &Field) -> Problem {
    match &field.missing {
        Some(remedy) => Problem::new(path, format!("missing: {remedy}")),
        None => Problem::new(path, "missing").hint(&field.meaning),
    }
}

fn wrong_kind(path: &str, node: &Node, shape: &Shape) -> Problem {
    let problem = Problem::new(path, format!("expected {}, found {}", shape.expected(), node.kind())).at(node.place);
    let format = |shape: &Shape| match shape {
        Shape::Text(text) => text.format.clone(),
        _ => String::new(),
    };
    match (shape, &node.value) {
        (Shape::List { .. }, Value::Table(_)) => problem.hint(format!("each item is a `[[{path}]]`")),
        (Shape::List { .. }, _) => problem.hint("write it in `[` and `]`"),
        (Shape::Table(_) | Shape::Map { .. }, Value::List(_)) if path.contains('[') => {
            problem.hint("write it in `{` and `}`")
        }
        (Shape::Table(_) | Shape::Map { .. }, Value::List(_)) => problem.hint(format!("write `[{path}]`, once")),
        (Shape::Text(_), Value::Integer(Some(number))) => match format(shape).as_str() {
            "interval" => problem.hint(format!("write it with its unit: \"{number}s\" or \"{number}ms\"")),
            "size" => problem.hint(format!("write it with its unit: \"{number}B\"")),
            "percentage" => problem.hint(format!("write it with its sign: \"{number}%\"")),
            _ => problem,
        },
        (Shape::Integer { .. } | Shape::Float { .. } | Shape::Boolean, Value::Text(_)) => {
            problem.hint("write it without quotes")
        }
        _ => problem,
    }
}

fn out_of_range(path: &str, min: f64, max: f64) -> Problem {
    let bound = |bound: f64| bound.is_finite().then(|| bound.to_string());
    let bounds = bounds(bound(min).as_deref(), bound(max).as_deref());
    // Without bounds it is NaN.
    let bounds = if bounds.is_empty() { "any number".to_owned() } else { bounds };
    Problem::new(path, format!("out of range: {bounds}"))
}

fn as_text(shape: &Shape) -> Option<&TextShape> {
    match shape {
        Shape::Text(text) => Some(text),
        _ => None,
    }
}

/// Whether `shape` is for values of `node`'s kind.
fn takes(shape: &Shape, node: &Node) -> bool {
    matches!(
        (shape, &node.value),
        (Shape::Any, _)
            | (Shape::Text(_), Value::Text(_))
            | (Shape::Integer { .. }, Value::Integer(_))
            | (Shape::Float { .. }, Value::Float(_) | Value::Integer(_))
            | (Shape::Boolean, Value::Boolean(_))
            | (Shape::List { .. }, Value::List(_))
            | (Shape::Map { .. } | Shape::Table(_) | Shape::Tagged { .. }, Value::Table(_))
    )
}

fn outside(format: &str, text: &str, min: Option<&str>, max: Option<&str>) -> bool {
    fn beyond<T: std::str::FromStr + PartialOrd>(text: &str, min: Option<&str>, max: Option<&str>) -> bool {
        let parse = |text: &str| text.parse::<T>().ok();
        let Some(value) = parse(text) else { return false };
        min.and_then(parse).is_some_and(|min| value < min) || max.and_then(parse).is_some_and(|max| value > max)
    }
    match format {
        "interval" => beyond::<Time>(text, min, max),
        "size" => beyond::<Size>(text, min, max),
        "percentage" => beyond::<Percentage>(text, min, max),
        _ => false,
    }
}

/// `1KiB to 64KiB`, `at most 10m`.
pub(super) fn bounds(min: Option<&str>, max: Option<&str>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (None, Some(max)) => format!("at most {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, None) => String::new(),
    }
}

/// The key path of `name` in the table at `path`, quoted where TOML wants quotes.
pub(super) fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let name = if bare { name.to_owned() } else { quoted(name) };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// Folder of the file `place` is in: what relative paths written there are relative to.
pub(super) fn folder(sources: &Sources, place: Place) -> &Path {
    sources.path(place.file).and_then(Path::parent).unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::Deserialize;
    use toml::de::DeTable;

    use super::*;

    /// The kinds of schema the configuration has not yet, or has in one place only.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters")]
    struct Model {
        #[serde(default)]
        provider: BTreeMap<String, Provider>,
        #[serde(default)]
        share: Option<f64>,
        #[serde(default)]
        bound: Option<Bound>,
        #[serde(default)]
        free: Option<serde_json::Value>,
        #[serde(default)]
        tree: Option<Box<Model>>,
        #[serde(default)]
        flag: bool,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters")]
    struct Bound {
        #[schemars(range(min = 1.0, max = 2.5))]
        load: f64,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters")]
    enum Provider {
        Jwt { issuer: String },
        ApiKey { header: String, prefix: Option<String> },
    }

    fn check(text: &str, expected: &[&str]) {
        let shape = Shape::of(&schemars::schema_for!(Model).to_value());
        let mut tree = Node::read(0, &DeTable::parse(text).unwrap());
        let sources = Sources::default();
        let mut walk = Walk {
            environment: &|_| None,
            sources: &sources,
            root: &shape,
            problems: Vec::new(),
            secret_files: Vec::new(),
        };
        walk.check("", &mut tree, &shape);
        let said: Vec<String> =
            walk.problems.iter().map(|problem| format!("{}: {}", problem.key, problem.what)).collect();
        assert_eq!(said, expected, "{text}");
        // Serde agrees.
        let read = tree.into_toml().try_into::<Model>();
        assert_eq!(read.is_ok(), expected.is_empty(), "{text}: {read:?}");
    }

    #[test]
    fn one_key_tells_tables_apart() {
        check("[provider.a]\nkind = 'jwt'\nissuer = 'x'\n[provider.b]\nkind = 'api_key'\nheader = 'x'", &[]);
        check("[provider.a]\nkind = 'jwt'", &["provider.a.issuer: missing"]);
        check("[provider.a]\nkind = 'jwt'\nissuer = 'x'\nheader = 'y'", &["provider.a.header: unknown key \"header\""]);
        check("[provider.a]\nissuer = 'x'", &["provider.a.kind: missing: \"api_key\" or \"jwt\""]);
        check(
            "[provider.a]\nkind = 'apikey'\nheader = 1",
            &["provider.a.kind: expected \"api_key\" or \"jwt\" (did you mean \"api_key\"?)"],
        );
        check("[provider.a]\nkind = 7", &["provider.a.kind: expected \"api_key\" or \"jwt\""]);
        check("provider.a = 7", &["provider.a: expected a table, found an integer"]);
    }

    #[test]
    fn numbers_flags_and_free_values() {
        check("share = 0.5\nflag = true\nfree = { any = [1, 'thing'] }", &[]);
        check("share = 1", &[]);
        check("[bound]\nload = 1.5", &[]);
        check("[bound]\nload = 1", &[]);
        check(
            "share = 'half'\nflag = 'true'",
            &["share: expected a number, found a string", "flag: expected true or false, found a string"],
        );
    }

    #[test]
    fn a_shape_may_hold_itself() {
        check("tree.tree.tree.flag = true", &[]);
        check("tree.tree.tree.flga = true", &["tree.tree.tree.flga: unknown key \"flga\" (did you mean \"flag\"?)"]);
    }
}
