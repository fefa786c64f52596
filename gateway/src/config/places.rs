//! Where each key path was written, for problems that are found after the tree is gone.

use std::collections::HashMap;

use super::tree::{Node, Value};
use super::walk::join;
use crate::problem::Place;

/// Key paths and the places of their values.
pub(super) struct Places(HashMap<String, Place>);

impl Places {
    pub(super) fn of(tree: &Node) -> Places {
        let mut places = HashMap::new();
        gather(String::new(), tree, &mut places);
        Places(places)
    }

    /// Where `key` or the nearest table or list above it is.
    pub(super) fn find(&self, key: &str) -> Option<Place> {
        let mut key = key;
        loop {
            if let Some(place) = self.0.get(key) {
                return Some(*place);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }
}

fn gather(path: String, node: &Node, places: &mut HashMap<String, Place>) {
    match &node.value {
        Value::Table(table) => {
            for entry in &table.entries {
                gather(join(&path, &entry.name), &entry.node, places);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                gather(format!("{path}[{index}]"), item, places);
            }
        }
        _ => {}
    }
    // The whole file is nowhere in it.
    if !path.is_empty() {
        places.insert(path, node.place);
    }
}
