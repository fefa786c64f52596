//! Where each key path was written, for problems that are found after the tree is gone.

use super::tree::{Node, Value};
use super::walk::join;
use crate::problem::Place;

/// The places of all values, in the shape of the tree: almost none of them is ever asked for, so no key path is spelled out
/// before one is.
pub(super) struct Places(Within);

struct Spot {
    place: Place,
    within: Within,
}

/// What lies below a place.
enum Within {
    Nothing,
    Table(Box<[(Box<str>, Spot)]>),
    List(Box<[Spot]>),
}

impl Places {
    pub(super) fn of(tree: &Node) -> Places {
        Places(Within::of(tree))
    }

    /// Where `key` or the nearest table or list above it is.
    pub(super) fn find(&self, key: &str) -> Option<Place> {
        // The whole file is nowhere in it.
        let mut found = None;
        let (mut within, mut rest) = (&self.0, key);
        while let Some((spot, behind)) = within.step(rest) {
            found = Some(spot.place);
            within = &spot.within;
            rest = behind.strip_prefix('.').unwrap_or(behind);
        }
        found
    }
}

impl Within {
    fn of(node: &Node) -> Within {
        let spot = |node: &Node| Spot { place: node.place, within: Within::of(node) };
        match &node.value {
            Value::Table(table) => {
                let entries = table.entries.iter().map(|entry| (entry.name.as_str().into(), spot(&entry.node)));
                Within::Table(entries.collect())
            }
            Value::List(items) => Within::List(items.iter().map(spot).collect()),
            _ => Within::Nothing,
        }
    }

    /// What the first name or index of `key` stands for, and the part of `key` behind it.
    fn step<'s, 'k>(&'s self, key: &'k str) -> Option<(&'s Spot, &'k str)> {
        match self {
            Within::Nothing => None,
            Within::Table(entries) => entries.iter().find_map(|(name, spot)| {
                let behind = match key.strip_prefix(&**name) {
                    Some(behind) if ends_here(behind) => behind,
                    // As `join` quotes it.
                    _ if key.starts_with('"') => key.strip_prefix(&*join("", name)).filter(|rest| ends_here(rest))?,
                    _ => return None,
                };
                Some((spot, behind))
            }),
            Within::List(items) => {
                let (index, behind) = key.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, behind))
            }
        }
    }
}

/// Whether a name ends where `behind` begins.
fn ends_here(behind: &str) -> bool {
    behind.is_empty() || behind.starts_with(['.', '['])
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::*;

    #[test]
    fn a_key_is_found_or_what_is_nearest_above_it() {
        let text = "[[route]]\npath = '/a'\npath_policy = { x = 1 }\n[[route]]\nhost = ['x', 'y']\n[upstream.\"a.b\"]\nhost = 'z'\n[upstream.a]\nhost = 'w'\n";
        let places = Places::of(&Node::read(0, &DeTable::parse(text).expect(text)));
        for (key, expected) in [
            ("route[0].path", Some("'/a'")),
            ("route[0].path_policy.x", Some("1")),
            ("route[0].path.regex", Some("'/a'")),
            ("route[0].pat", Some("[[route]]")),
            ("route[1].host[1]", Some("'y'")),
            ("route[1].host[2]", Some("['x', 'y']")),
            ("upstream.\"a.b\".host", Some("'z'")),
            ("upstream.a.host", Some("'w'")),
            ("upstream.a.timeout", Some("[upstream.a]")),
            ("gateway", None),
            ("", None),
        ] {
            let found = places.find(key).map(|place| &text[place.start..place.end]);
            assert_eq!(found, expected, "{key}");
        }
    }
}
