//! From a path to one tree: reads files, follows `include`, merges. Every syntax error of every file is a problem.
//!
//! Files are read in a fixed order: a file, then what it includes, pattern by pattern, names sorted. Each is read once,
//! however many patterns it matches.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::expand::{Environment, expand};
use super::secrets::{read_bounded, reason};
use super::shape::Shape;
use super::tree::{Entry, Node, Table, Value};
use super::veil::Veil;
use super::walk::{folder, join};
use super::words;
use crate::problem::{Place, Problem, Problems, Sources, quoted};

/// Bytes of one file. 20,000 routes fit.
pub(super) const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Files in all.
pub(super) const FILES_MAX: usize = 1000;

/// How deep files include each other. More is a loop that symbolic links hide.
pub(super) const INCLUDE_DEPTH_MAX: usize = 8;

/// Syntax errors looked at in one file.
const SYNTAX_ERRORS_MAX: usize = 100;

/// Everything that was read.
pub(super) struct Read {
    /// All files as one table.
    pub tree: Node,
    pub sources: Sources,
    pub problems: Vec<Problem>,
    /// No file is missing from the tree, so that what is not there was not written.
    pub complete: bool,
    /// Folders in which files were looked for.
    pub folders: Vec<PathBuf>,
}

/// Reads `path` and what it includes. Fails only if `path` itself cannot be read.
pub(super) fn read(path: &Path, shape: &Shape, environment: Environment<'_>) -> Result<Read, Problems> {
    let mut reader = Reader {
        shape,
        environment,
        veil: Veil::new(shape),
        seen: HashSet::new(),
        found: Read {
            tree: Node { place: Place::whole(0), value: Value::Table(Table::default()) },
            sources: Sources::default(),
            problems: Vec::new(),
            complete: true,
            folders: Vec::new(),
        },
    };
    reader
        .file(path, 0)
        .map_err(|why| Problems::unreadable(Problem::new("", format!("cannot read `{}`: {why}", path.display()))))?;
    let Read { tree, problems, .. } = &mut reader.found;
    number_includes(tree, problems);
    Ok(reader.found)
}

struct Reader<'a> {
    shape: &'a Shape,
    environment: Environment<'a>,
    veil: Veil,
    /// Canonical paths of the files that were read.
    seen: HashSet<PathBuf>,
    found: Read,
}

impl Reader<'_> {
    /// Reads one file and what it includes into the tree. `Err`: it cannot be read, and why.
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), String> {
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if !self.seen.insert(canonical) {
            return Ok(());
        }
        let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|error| reason(&error))?;
        let Some(tree) = self.parse(path, bytes) else { return Ok(()) };
        let includes: Vec<(Place, String)> = tree
            .get("gateway")
            .and_then(|gateway| gateway.get("include"))
            .map(|include| {
                include.items().iter().filter_map(|item| Some((item.place, item.text()?.to_owned()))).collect()
            })
            .unwrap_or_default();
        if let (Value::Table(into), Value::Table(from)) = (&mut self.found.tree.value, tree.value) {
            merge(into, from, self.shape, "", &mut self.found.problems);
        }
        for (place, pattern) in includes {
            self.include(place, &pattern, depth + 1);
        }
        Ok(())
    }

    /// The file's tree. `None`: it has syntax errors, which are problems now; includes are then not followed.
    fn parse(&mut self, path: &Path, bytes: Vec<u8>) -> Option<Node> {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let file = self.found.sources.add(path, &text);
                self.veil.hide_lines(&mut self.found.sources, file, &text);
                let place = Place { file, start: at, end: at + '\u{fffd}'.len_utf8() };
                self.problem(Problem::new("", "not UTF-8, which TOML is written in").at(place));
                return None;
            }
        };
        let (document, errors) = DeTable::parse_recoverable(&text);
        let file = self.found.sources.add(path, &text);
        let tree = Node::read(file, &document);
        self.veil.hide_values(&mut self.found.sources, &tree);
        if errors.is_empty() {
            return Some(tree);
        }
        self.veil.hide_lines(&mut self.found.sources, file, &text);
        // The parser goes on after an error; what it says about the rest of that line is seldom news.
        let mut lines = HashSet::new();
        let mut errors: Vec<_> = errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
        errors.sort_by_key(|(span, _)| span.start);
        for (span, message) in errors.into_iter().take(SYNTAX_ERRORS_MAX) {
            let place = Place { file, start: span.start, end: span.end };
            if !lines.insert(self.found.sources.line_column(place).map(|(line, _)| line)) {
                continue;
            }
            let mut problem = Problem::new("", format!("not TOML: {message}")).at(place);
            if message == "duplicate key"
                && let Some(first) = text.get(span).and_then(|name| only_before(&tree, name, place))
            {
                problem = problem.also(first, "first written here");
            }
            self.problem(problem);
        }
        None
    }

    fn problem(&mut self, problem: Problem) {
        self.found.complete = false;
        self.found.problems.push(problem);
    }

    fn include(&mut self, place: Place, pattern: &str, depth: usize) {
        // Missing variables and malformed patterns are reported when all strings are checked.
        let Ok(expanded) = expand(pattern, false, self.environment) else {
            self.found.complete = false;
            return;
        };
        let pattern = expanded.as_deref().unwrap_or(pattern);
        if words::file_pattern(pattern).is_err() {
            self.found.complete = false;
            return;
        }
        let problem = |what: String| Problem::new("gateway.include", what).at(place);
        if depth > INCLUDE_DEPTH_MAX {
            let what = format!("files include each other more than {INCLUDE_DEPTH_MAX} deep");
            return self.problem(problem(what));
        }
        let pattern = folder(&self.found.sources, place).join(pattern);
        self.found.folders.extend(pattern.parent().map(Path::to_owned));
        let paths = match matches(&pattern) {
            Ok(paths) => paths,
            Err(why) => return self.problem(problem(format!("cannot list the folder: {why}"))),
        };
        for path in paths {
            if self.seen.len() >= FILES_MAX {
                return self.problem(problem(format!("more than {FILES_MAX} files")));
            }
            if let Err(why) = self.file(&path, depth) {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                self.problem(problem(match expanded {
                    Some(_) => format!("cannot read the file its variables name: {why}"),
                    None => format!("cannot read {}: {why}", quoted(&name)),
                }));
            }
        }
    }
}

/// Tells which `include` a problem is about: its number is known once all lists are joined.
fn number_includes(tree: &Node, problems: &mut [Problem]) {
    let includes = tree.get("gateway").and_then(|gateway| gateway.get("include")).map(Node::items).unwrap_or_default();
    for (index, include) in includes.iter().enumerate() {
        for problem in problems.iter_mut().filter(|problem| problem.place == Some(include.place)) {
            problem.key = format!("gateway.include[{index}]");
        }
    }
}

/// The files `pattern` stands for, sorted. Without a wildcard that is the path itself, there or not.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let Some(name) = pattern.file_name().and_then(|name| name.to_str()).filter(|name| name.contains(['*', '?'])) else {
        return Ok(vec![pattern.to_owned()]);
    };
    let folder = pattern.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // A wildcard may match nothing, and a folder that is not there holds nothing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(reason(&error)),
    };
    let mut names: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.file_name()).map_err(|error| reason(&error)))
        .filter(|file| file.as_ref().map_or(true, |file| file.to_str().is_some_and(|file| wildcard(name, file))))
        .collect::<Result<_, _>>()?;
    names.sort();
    let parent = pattern.parent().unwrap_or(Path::new(""));
    Ok(names.into_iter().map(|name| parent.join(name)).filter(|path| path.is_file()).collect())
}

/// Whether `pattern` stands for `name`. As in a shell, `*` and `?` do not stand for a leading dot: editors keep their
/// unsaved copies in such files. O(pattern × name).
fn wildcard(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: let the `*` take one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The one key `name` written before `place`; `None` if there are several, in different tables.
fn only_before(tree: &Node, name: &str, place: Place) -> Option<Place> {
    fn gather(node: &Node, name: &str, before: Place, found: &mut Vec<Place>) {
        for entry in node.table().map(|table| table.entries.as_slice()).unwrap_or_default() {
            if entry.name == name && entry.name_place < before {
                found.push(entry.name_place);
            }
            gather(&entry.node, name, before, found);
        }
        node.items().iter().for_each(|item| gather(item, name, before, found));
    }
    let mut found = Vec::new();
    gather(tree, name, place, &mut found);
    match found.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

/// Adds a later file's table to what is there: lists are joined, tables the gateway defines are merged key by key, and
/// whatever else is written twice is a problem, as is a chosen name.
fn merge(into: &mut Table, from: Table, shape: &Shape, path: &str, problems: &mut Vec<Problem>) {
    let before = names(into);
    for entry in from.entries {
        let field = match shape {
            Shape::Table(table) => table.fields.get(&entry.name).map(|field| &field.shape),
            _ => None,
        };
        let path = join(path, &entry.name);
        let Some(before) = before.get(&entry.name).and_then(|at| into.entries.get_mut(*at)) else {
            into.entries.push(entry);
            continue;
        };
        let Entry { name, name_place, node } = entry;
        let Node { place, value } = node;
        let left = match (field, &mut before.node.value, value) {
            (Some(Shape::List { .. }), Value::List(items), Value::List(more)) => {
                items.extend(more);
                None
            }
            (Some(shape @ Shape::Table(_)), Value::Table(table), Value::Table(more)) => {
                merge(table, more, shape, &path, problems);
                None
            }
            (Some(Shape::Map { .. }), Value::Table(table), Value::Table(more)) => {
                union(table, more, &path, problems);
                None
            }
            (_, _, value) => Some(value),
        };
        if let Some(value) = left {
            // An unknown key is reported as that, at both places.
            if field.is_some() {
                problems.push(twice(&path, name_place, before.name_place));
            }
            into.entries.push(Entry { name, name_place, node: Node { place, value } });
        }
    }
}

/// Adds chosen names, each of which may be there once.
fn union(into: &mut Table, from: Table, path: &str, problems: &mut Vec<Problem>) {
    let before = names(into);
    for entry in from.entries {
        if let Some(before) = before.get(&entry.name).and_then(|at| into.entries.get(*at)) {
            // Where the table was opened says more than the name inside the brackets.
            problems.push(twice(&join(path, &entry.name), entry.node.place, before.node.place));
        }
        into.entries.push(entry);
    }
}

/// Where each name is in `table`; of two, the first. One file has no name twice, so entries added later need no look.
fn names(table: &Table) -> HashMap<String, usize> {
    table.entries.iter().enumerate().rev().map(|(at, entry)| (entry.name.clone(), at)).collect()
}

fn twice(path: &str, second: Place, first: Place) -> Problem {
    Problem::new(path, "written twice").at(second).also(first, "first written here").hint("one of them must go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_a_part_of_a_name() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", false),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("*.toml", "a.toml~", false),
            ("a?.toml", "ab.toml", true),
            ("a?.toml", "a.toml", false),
            ("a*b*c", "axxbxxbc", true),
            ("a*b*c", "axxbxxb", false),
            ("*a", "aaaa", true),
            ("??", "é!", true),
            ("a", "a", true),
            ("", "", true),
        ] {
            assert_eq!(wildcard(pattern, name), expected, "{pattern} {name}");
        }
    }
}
