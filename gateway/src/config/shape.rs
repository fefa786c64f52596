//! What a file may hold, taken from the JSON Schema of [`Config`]: the one description that the loader, `bawab schema` and
//! the reference share.
//!
//! Only what schemars writes for the model is understood: `type`, `enum`, `const`, `properties`, `items`, bounds, `$ref`,
//! alternatives, and the extensions `format` (a word of [`super::words`]), `x-min`, `x-max` and `x-missing`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value as Json;

use super::model::Config;
use super::words::{self, Wrong};

/// What a value must be.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Text(TextShape),
    Integer {
        min: i64,
        max: i64,
    },
    Float {
        min: f64,
        max: f64,
    },
    Boolean,
    List {
        item: Box<Shape>,
        /// Fewest items.
        min: usize,
    },
    /// Names the operator chooses, each with a value of one shape.
    Map {
        name: Option<Check>,
        item: Box<Shape>,
    },
    Table(TableShape),
    /// Tables told apart by the value of one key.
    Tagged {
        tag: String,
        variants: BTreeMap<String, TableShape>,
    },
    /// Alternatives that differ in kind: the value's kind chooses.
    Either(Vec<Shape>),
    /// Anything: left to serde.
    Any,
}

/// The grammar of a string.
pub(super) type Check = fn(&str) -> Result<(), Wrong>;

#[derive(Debug, Clone, Default)]
pub(super) struct TextShape {
    /// Name of the grammar, see [`words`]; empty when there is none.
    pub format: String,
    pub check: Option<Check>,
    /// Words that are taken whatever the grammar says. With no grammar: the only ones.
    pub choices: Vec<String>,
    /// Bounds of a time or size, as text.
    pub min: Option<String>,
    pub max: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TableShape {
    pub fields: BTreeMap<String, Field>,
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub shape: Shape,
    pub required: bool,
    /// What to do when it is missing.
    pub missing: Option<String>,
    /// First sentence of its meaning, as a hint beside a mark.
    pub meaning: String,
    #[cfg(test)]
    pub schema: Json,
}

/// The JSON Schema of a configuration.
pub fn schema() -> Json {
    schemars::schema_for!(Config).to_value()
}

/// The shape of a configuration.
pub(super) fn config() -> &'static Shape {
    static SHAPE: LazyLock<Shape> = LazyLock::new(|| Shape::of(&schema()));
    &SHAPE
}

impl Shape {
    /// `root` with its `$defs`.
    pub(super) fn of(root: &Json) -> Shape {
        Reader { root, depth: 0 }.shape(root)
    }

    /// What is expected, with its article.
    pub(super) fn expected(&self) -> String {
        match self {
            Shape::Text(text) => match text.format.as_str() {
                "interval" => r#"a time such as "30s""#.to_owned(),
                "size" => r#"a size such as "64KiB""#.to_owned(),
                "percentage" => r#"a share such as "12.5%""#.to_owned(),
                "" if !text.choices.is_empty() => crate::problem::alternatives(text.choices.iter().map(String::as_str)),
                _ => "a string".to_owned(),
            },
            Shape::Integer { .. } => "an integer".to_owned(),
            Shape::Float { .. } => "a number".to_owned(),
            Shape::Boolean => "true or false".to_owned(),
            Shape::List { .. } => "a list".to_owned(),
            Shape::Map { .. } | Shape::Table(_) | Shape::Tagged { .. } => "a table".to_owned(),
            Shape::Either(shapes) => shapes.iter().map(Shape::expected).collect::<Vec<_>>().join(" or "),
            Shape::Any => "a value".to_owned(),
        }
    }

    /// Every field below, with its key path; `<name>` stands for a chosen name, `[]` for an item. Recursive shapes were
    /// cut when they were read.
    pub(super) fn visit<'a>(&'a self, path: &str, seen: &mut dyn FnMut(&str, &'a Field)) {
        match self {
            Shape::List { item, .. } => item.visit(&format!("{path}[]"), seen),
            Shape::Map { item, .. } => item.visit(&format!("{path}.<name>"), seen),
            Shape::Table(table) => table.visit(path, seen),
            Shape::Tagged { variants, .. } => variants.values().for_each(|table| table.visit(path, seen)),
            Shape::Either(shapes) => shapes.iter().for_each(|shape| shape.visit(path, seen)),
            Shape::Text(_) | Shape::Integer { .. } | Shape::Float { .. } | Shape::Boolean | Shape::Any => {}
        }
    }
}

impl TableShape {
    fn visit<'a>(&'a self, path: &str, seen: &mut dyn FnMut(&str, &'a Field)) {
        for (name, field) in &self.fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            seen(&path, field);
            field.shape.visit(&path, seen);
        }
    }
}

/// A schema may refer to itself; below this depth it is left to serde. No key of the model is that deep.
const DEPTH_MAX: usize = 24;

#[derive(Clone, Copy)]
struct Reader<'a> {
    root: &'a Json,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn shape(self, json: &'a Json) -> Shape {
        if self.depth > DEPTH_MAX {
            return Shape::Any;
        }
        let reader = Reader { depth: self.depth + 1, ..self };
        if let Some(name) = json.get("$ref").and_then(Json::as_str) {
            let target = name.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return target.map_or(Shape::Any, |target| reader.shape(target));
        }
        if let Some(alternatives) = json.get("anyOf").or_else(|| json.get("oneOf")).and_then(Json::as_array) {
            return reader.alternatives(alternatives);
        }
        if json.get("const").is_some() || json.get("enum").is_some() {
            return Shape::Text(TextShape { choices: choices(json), ..TextShape::default() });
        }
        match kind(json) {
            Some("string") => Shape::Text(text(json)),
            Some("integer") => integer(json),
            Some("number") => float(json),
            Some("boolean") => Shape::Boolean,
            Some("array") => Shape::List {
                item: Box::new(json.get("items").map_or(Shape::Any, |item| reader.shape(item))),
                min: json.get("minItems").and_then(Json::as_u64).and_then(|min| min.try_into().ok()).unwrap_or(0),
            },
            Some("object") => match json.get("additionalProperties") {
                Some(item @ Json::Object(_)) => Shape::Map {
                    name: format_of(json.get("propertyNames").unwrap_or(&Json::Null)).and_then(words::checker),
                    item: Box::new(reader.shape(item)),
                },
                _ => Shape::Table(reader.table(json)),
            },
            _ => Shape::Any,
        }
    }

    fn table(self, json: &'a Json) -> TableShape {
        let required: Vec<&str> =
            json.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
        let properties = json.get("properties").and_then(Json::as_object);
        let fields = properties.into_iter().flatten().map(|(name, json)| {
            let string = |key: &str| json.get(key).and_then(Json::as_str);
            let field = Field {
                shape: self.bounded(self.shape(json), json),
                required: required.contains(&name.as_str()),
                missing: string("x-missing").map(str::to_owned),
                meaning: first_sentence(string("description").unwrap_or_default()),
                #[cfg(test)]
                schema: json.clone(),
            };
            (name.clone(), field)
        });
        TableShape { fields: fields.collect() }
    }

    /// Bounds a field adds to what it refers to.
    fn bounded(self, shape: Shape, json: &Json) -> Shape {
        let bound = |key: &str| json.get(key).and_then(Json::as_str).map(str::to_owned);
        match shape {
            Shape::Text(text) => {
                Shape::Text(TextShape { min: bound("x-min").or(text.min), max: bound("x-max").or(text.max), ..text })
            }
            other => other,
        }
    }

    fn alternatives(self, alternatives: &'a [Json]) -> Shape {
        if let Some(tagged) = self.tagged(alternatives) {
            return tagged;
        }
        let mut shapes: Vec<Shape> = Vec::new();
        for json in alternatives.iter().filter(|json| kind(json) != Some("null")) {
            match (self.shape(json), shapes.iter_mut().find_map(as_text)) {
                // Unit variants with their own descriptions come one by one.
                (Shape::Text(text), Some(before)) => {
                    before.choices.extend(text.choices);
                    before.check = before.check.or(text.check);
                    if before.format.is_empty() {
                        before.format = text.format;
                    }
                }
                (Shape::Either(inner), _) => shapes.extend(inner),
                (shape, _) => shapes.push(shape),
            }
        }
        match shapes.pop() {
            Some(only) if shapes.is_empty() => only,
            Some(last) => {
                shapes.push(last);
                Shape::Either(shapes)
            }
            None => Shape::Any,
        }
    }

    /// An enum with `#[serde(tag = "kind")]`: every alternative is a table with one constant key of the same name.
    fn tagged(self, alternatives: &'a [Json]) -> Option<Shape> {
        let mut tag: Option<&str> = None;
        let mut variants = BTreeMap::new();
        for json in alternatives {
            let properties = json.get("properties")?.as_object()?;
            let (name, value) =
                properties.iter().find_map(|(name, json)| Some((name.as_str(), json.get("const")?.as_str()?)))?;
            if *tag.get_or_insert(name) != name {
                return None;
            }
            variants.insert(value.to_owned(), self.table(json));
        }
        Some(Shape::Tagged { tag: tag?.to_owned(), variants })
    }
}

fn as_text(shape: &mut Shape) -> Option<&mut TextShape> {
    match shape {
        Shape::Text(text) => Some(text),
        _ => None,
    }
}

/// `type`, without the `null` an `Option` adds.
fn kind(json: &Json) -> Option<&str> {
    match json.get("type")? {
        Json::String(kind) => Some(kind),
        Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).find(|kind| *kind != "null"),
        _ => None,
    }
}

fn choices(json: &Json) -> Vec<String> {
    let one = json.get("const").into_iter();
    let many = json.get("enum").and_then(Json::as_array).into_iter().flatten();
    one.chain(many).filter_map(Json::as_str).map(str::to_owned).collect()
}

fn format_of(json: &Json) -> Option<&str> {
    json.get("format")?.as_str()
}

fn text(json: &Json) -> TextShape {
    let format = format_of(json).unwrap_or_default();
    TextShape { format: format.to_owned(), check: words::checker(format), ..TextShape::default() }
}

fn integer(json: &Json) -> Shape {
    let (min, max) = match format_of(json) {
        Some("uint8") => (0, i64::from(u8::MAX)),
        Some("uint16") => (0, i64::from(u16::MAX)),
        Some("uint32") => (0, i64::from(u32::MAX)),
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        Some("int64") => (i64::MIN, i64::MAX),
        Some("uint64" | "uint") => (0, i64::MAX),
        _ => (i64::MIN, i64::MAX),
    };
    let bound = |key: &str| json.get(key).and_then(Json::as_i64);
    Shape::Integer { min: bound("minimum").unwrap_or(min), max: bound("maximum").unwrap_or(max) }
}

fn float(json: &Json) -> Shape {
    let bound = |key: &str| json.get(key).and_then(Json::as_f64);
    Shape::Float { min: bound("minimum").unwrap_or(f64::NEG_INFINITY), max: bound("maximum").unwrap_or(f64::INFINITY) }
}

fn first_sentence(text: &str) -> String {
    let sentence = text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.');
    let mut chars = sentence.chars();
    match chars.next() {
        // Not `URI` or `X-Forwarded-For`.
        Some(first) if chars.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => sentence.to_owned(),
    }
}
