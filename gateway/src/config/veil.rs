//! Hides secrets in the text of files, so that a line shown beside a problem never holds one.
//!
//! A key is taken for a secret by its name, wherever it stands and even when it is misspelled: `tokn = "hunter2"` is an
//! unknown key, and its value a secret all the same.

use std::cell::RefCell;
use std::collections::HashMap;

use super::shape::Shape;
use super::tree::{Node, Value};
use crate::problem::{Place, Sources, closest};

/// The names of keys whose values are secrets.
pub(super) struct Veil {
    names: Vec<String>,
    /// What was decided about each name: files repeat a few names many times, and how close two are takes long to tell.
    decided: RefCell<HashMap<String, bool>>,
}

impl Veil {
    pub(super) fn new(shape: &Shape) -> Veil {
        let mut names = Vec::new();
        shape.visit("", &mut |path, field| {
            if matches!(&field.shape, Shape::Text(text) if text.format == "secret") {
                names.extend(path.rsplit('.').next().map(str::to_owned));
            }
        });
        names.dedup();
        Veil { names, decided: RefCell::default() }
    }

    pub(super) fn hides(&self, name: &str) -> bool {
        let mut decided = self.decided.borrow_mut();
        if let Some(hides) = decided.get(name) {
            return *hides;
        }
        let hides = closest(name, self.names.iter().map(String::as_str)).is_some();
        decided.insert(name.to_owned(), hides);
        hides
    }

    /// Masks the values of secret keys, whatever they are.
    pub(super) fn hide_values(&self, sources: &mut Sources, node: &Node) {
        match &node.value {
            Value::Table(table) => {
                for entry in &table.entries {
                    if self.hides(&entry.name) && !is_variable(&entry.node) {
                        sources.mask(entry.node.place);
                        self.hide_all(sources, &entry.node);
                    } else {
                        self.hide_values(sources, &entry.node);
                    }
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.hide_values(sources, item)),
            _ => {}
        }
    }

    /// A table's place is its header, so what is in it is masked one by one.
    fn hide_all(&self, sources: &mut Sources, node: &Node) {
        for entry in node.table().map(|table| table.entries.as_slice()).unwrap_or_default() {
            sources.mask(entry.node.place);
            self.hide_all(sources, &entry.node);
        }
        for item in node.items() {
            sources.mask(item.place);
            self.hide_all(sources, item);
        }
    }

    /// Masks by the look of lines, for text whose tree cannot be trusted: from the `=` behind a secret's name to the end of
    /// the line, or of the multi-line string that begins there.
    pub(super) fn hide_lines(&self, sources: &mut Sources, file: usize, text: &str) {
        let mut at = 0;
        while let Some(equals) = text[at..].find('=').map(|found| at + found) {
            at = equals + 1;
            let line_start = text[..equals].rfind('\n').map_or(0, |found| found + 1);
            let before = text[line_start..equals].trim_end();
            let name = before.trim_end_matches(['"', '\'']);
            let name = name.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next().unwrap_or(name);
            if name.is_empty() || !self.hides(name) {
                continue;
            }
            at += text[at..].len() - text[at..].trim_start_matches([' ', '\t']).len();
            let value = &text[at..];
            let opening = ["\"\"\"", "'''"].into_iter().find(|quotes| value.starts_with(quotes));
            let end = match opening {
                Some(quotes) => {
                    let inside = quotes.len();
                    value[inside..].find(quotes).map_or(text.len(), |found| at + found + 2 * inside)
                }
                None => value.find('\n').map_or(text.len(), |found| at + found),
            };
            sources.mask(Place { file, start: at, end });
            at = end;
        }
    }
}

/// `"${NAME}"` says where the secret is, not what it is.
fn is_variable(node: &Node) -> bool {
    let name = node.text().and_then(|text| text.strip_prefix("${")?.strip_suffix('}'));
    name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::shape;
    use super::*;
    use crate::problem::{Problem, Problems};

    fn check(text: &str) {
        let veil = Veil::new(shape::config());
        let (document, _) = toml::de::DeTable::parse_recoverable(text);
        let show = |hide: &dyn Fn(&mut Sources)| {
            let mut sources = Sources::default();
            sources.add(Path::new("a.toml"), text);
            hide(&mut sources);
            // Every line of it, as a problem would show it.
            let list =
                text.match_indices('\n').map(|(at, _)| Problem::new("", "").at(Place { file: 0, start: at, end: at }));
            Problems::new(list.collect(), Arc::new(sources)).to_string()
        };
        let by_value = show(&|sources| veil.hide_values(sources, &Node::read(0, &document)));
        let by_line = show(&|sources| veil.hide_lines(sources, 0, text));
        for shown in [by_value, by_line] {
            assert!(!shown.contains("hunter"), "{shown}");
            assert!(shown.contains("seen"), "{shown}");
        }
    }

    #[test]
    fn a_secret_is_hidden_wherever_its_key_stands() {
        check("token = \"hunter\"\nseen = 1\n");
        check("admin = { seen = 1, token = \"hunter\" }\n");
        check("[admin]\ntoken = \"hunter\" # seen\n".replace(" # seen", "\nseen = 1").as_str());
        check("[seen]\nTOKEN = 'hunter'\n");
        check("[seen]\n\"token\" = \"hunter\"\n");
        check("[seen]\ntokne = \"hunter\"\n");
        check("a.token = \"hunter\"\nseen = 1\n");
        check("token = \"\"\"\nhunter\nhunter\"\"\"\nseen = 1\n");
        check("token = '''hunter\n hunter'''\nseen = 1\n");
        check("token=[\"hunter\"]\nseen = 1\n");
    }
}
