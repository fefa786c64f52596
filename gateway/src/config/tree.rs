//! TOML as it was written: every key and value with its place, whatever file it came from. No meaning yet.

use toml::de::{DeArray, DeTable, DeValue};

use crate::problem::Place;

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Text),
    /// `None`: more than 64 bits hold.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    /// Nothing in a configuration is a date; it only has to be named in a message.
    Datetime,
    List(Vec<Node>),
    Table(Table),
}

/// A string.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub text: String,
    /// It holds what came from the environment or a secret's file; no message quotes it.
    pub hidden: bool,
}

/// Keys and values in the order in which they were written. After a merge a key may be there twice, which is a problem that
/// was reported; the first one counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub name_place: Place,
    pub node: Node,
}

impl Node {
    /// The tree of one file.
    pub(super) fn read(file: usize, document: &toml::Spanned<DeTable<'_>>) -> Node {
        let span = document.span();
        let place = Place { file, start: span.start, end: span.end };
        Node { place, value: Value::Table(Table::read(file, document.get_ref())) }
    }

    fn read_value(file: usize, value: &toml::Spanned<DeValue<'_>>) -> Node {
        let span = value.span();
        let place = Place { file, start: span.start, end: span.end };
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(Text { text: text.to_string(), hidden: false }),
            DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(yes) => Value::Boolean(*yes),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(list) => Value::List(Node::read_list(file, list)),
            DeValue::Table(table) => Value::Table(Table::read(file, table)),
        };
        Node { place, value }
    }

    fn read_list(file: usize, list: &DeArray<'_>) -> Vec<Node> {
        list.iter().map(|node| Node::read_value(file, node)).collect()
    }

    /// What it is, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a boolean",
            Value::Datetime => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The value of `name`, if this is a table that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.table()?.get(name).map(|entry| &entry.node)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Boolean(yes) => Some(yes),
            _ => None,
        }
    }

    pub(super) fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(&text.text),
            _ => None,
        }
    }

    /// The number, if this is one; `Some(None)`: more than 64 bits hold.
    pub(super) fn integer(&self) -> Option<Option<i64>> {
        match self.value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The number, if this is one and 64 bits hold it.
    pub(super) fn number(&self) -> Option<f64> {
        match self.value {
            Value::Float(number) => Some(number),
            Value::Integer(number) => number.map(|number| number as f64),
            _ => None,
        }
    }

    /// Whether a string holds what no message may quote.
    pub(super) fn is_hidden(&self) -> bool {
        matches!(&self.value, Value::Text(text) if text.hidden)
    }

    pub(super) fn is_true(&self) -> bool {
        matches!(self.value, Value::Boolean(true))
    }

    /// The items of a list; none if it is not one.
    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The same without places, for serde. Secrets are in it.
    pub(super) fn into_toml(self) -> toml::Value {
        match self.value {
            Value::Text(text) => toml::Value::String(text.text),
            Value::Integer(number) => toml::Value::Integer(number.unwrap_or(i64::MAX)),
            Value::Float(number) => toml::Value::Float(number),
            Value::Boolean(yes) => toml::Value::Boolean(yes),
            // Refused long before; serde only has to refuse it again.
            Value::Datetime => toml::Value::Boolean(false),
            Value::List(items) => toml::Value::Array(items.into_iter().map(Node::into_toml).collect()),
            Value::Table(table) => toml::Value::Table(table.into_toml()),
        }
    }
}

impl Table {
    fn read(file: usize, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| {
                let span = key.span();
                Entry {
                    name: key.get_ref().to_string(),
                    name_place: Place { file, start: span.start, end: span.end },
                    node: Node::read_value(file, value),
                }
            })
            .collect();
        entries.sort_by_key(|entry| entry.name_place);
        Table { entries }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    fn into_toml(self) -> toml::Table {
        // Backwards, so that of two the first one stays.
        self.entries.into_iter().rev().map(|entry| (entry.name, entry.node.into_toml())).collect()
    }
}
