//! What a configuration says, as a short name: the same for two texts that mean the same, whatever their comments, their
//! order of keys and the files they are spread over.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::tree::{Node, Value};
use super::veil::Veil;

/// Names a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Over everything, secrets too. Never shown: a short secret could be found by trying.
    exact: [u8; 32],
    /// Over everything but the values of secrets: 16 hexadecimal digits, for people and for comparing a fleet.
    pub shown: String,
}

impl Digest {
    /// Of a merged tree after variables were replaced and secrets read from their files. Linear in its size.
    pub(super) fn of(tree: &Node, veil: &Veil) -> Digest {
        let mut exact = Sha256::new();
        let mut shown = Sha256::new();
        add(tree, veil, false, &mut exact, &mut shown);
        let shown: [u8; 32] = shown.finalize().into();
        let shown = shown[..8].iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Digest { exact: exact.finalize().into(), shown }
    }
}

impl Digest {
    /// The same with a digest of what else stands in files: address lists, certificates.
    pub(super) fn with(self, other: &[u8]) -> Digest {
        let mut exact = Sha256::new();
        exact.update(self.exact);
        exact.update(other);
        let mut shown = Sha256::new();
        shown.update(self.shown.as_bytes());
        shown.update(other);
        let shown: [u8; 32] = shown.finalize().into();
        let text = |text: String, byte: &u8| {
            let mut text = text;
            let _ = write!(text, "{byte:02x}");
            text
        };
        Digest { exact: exact.finalize().into(), shown: shown[..8].iter().fold(String::new(), text) }
    }
}

fn add(node: &Node, veil: &Veil, secret: bool, exact: &mut Sha256, shown: &mut Sha256) {
    let mut both = |kind: u8, bytes: &[u8]| {
        // Kind and length go first, so that no two trees are the same bytes.
        let head = [&[kind][..], &(bytes.len() as u64).to_le_bytes()].concat();
        exact.update(&head);
        exact.update(bytes);
        if !secret {
            shown.update(&head);
            shown.update(bytes);
        }
    };
    match &node.value {
        Value::Text(text) => both(b's', text.text.as_bytes()),
        Value::Integer(number) => both(b'i', &number.unwrap_or_default().to_le_bytes()),
        Value::Float(number) => both(b'f', &number.to_bits().to_le_bytes()),
        Value::Boolean(yes) => both(b'b', &[u8::from(*yes)]),
        Value::Datetime => both(b'd', b""),
        Value::List(items) => {
            both(b'l', &(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| add(item, veil, secret, exact, shown));
        }
        Value::Table(table) => {
            both(b't', &(table.entries.len() as u64).to_le_bytes());
            let mut entries: Vec<_> = table.entries.iter().collect();
            entries.sort_by(|one, next| one.name.cmp(&next.name));
            for entry in entries {
                let name = [entry.name.as_bytes(), b"="].concat();
                exact.update(&name);
                shown.update(&name);
                add(&entry.node, veil, secret || veil.hides(&entry.name), exact, shown);
            }
        }
    }
}
