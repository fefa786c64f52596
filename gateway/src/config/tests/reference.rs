//! `conf/gateway.toml` is the reference: nothing is missing in it, and what it says about defaults and bounds is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::de::DeTable;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::shape::{self, Field, Shape};
use crate::config::tree::{Node, Value};
use crate::config::units::{Size, Time};
use crate::config::{load_with, read, walk};
use crate::explain::route::{Question, explain};
use crate::limits::{LIST_ENTRIES_MAX, LIST_LINE_BYTES_MAX, MIRRORS_PER_WORKER_MAX};
use crate::observe::metrics::Metrics;
use crate::problem::Place;
use crate::snapshot;

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name)
}

fn reference() -> String {
    fs::read_to_string(conf("gateway.toml")).unwrap()
}

/// The key of a line such as `# token = "..."`: a key that is shown but not set.
fn shown_key(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("# ")?.split_once(" = ")?;
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(name)
}

/// The reference with the lines that `which` picks brought to life.
fn uncommented(which: &dyn Fn(usize) -> bool) -> String {
    let text = reference();
    let lines = text.lines().enumerate().map(|(number, line)| match shown_key(line) {
        Some(_) if which(number) => &line[2..],
        _ => line,
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn every_file_in_conf_loads() {
    let mut count = 0;
    for entry in fs::read_dir(conf("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            count += 1;
            // The demo's services are where the demo starts them.
            let environment = |name: &str| match name {
                "DEMO_FOLDER" => Some("/demo".to_owned()),
                "DEMO_DNS" => Some("192.0.2.53:53".to_owned()),
                name => name.starts_with("DEMO_").then(|| format!("{}.test:9", name.replace('_', "-"))),
            };
            if let Err(problems) = load_with(&path, &environment) {
                panic!("{problems}");
            }
        }
    }
    assert!(count >= 2, "{count}");
}

#[test]
fn every_key_that_is_only_shown_loads_when_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("admin.token"), "geheim\n").unwrap();
    fs::create_dir(folder.path().join("lists")).unwrap();
    certificate(folder.path());
    fs::create_dir(folder.path().join("sticky")).unwrap();
    fs::write(folder.path().join("sticky/now.key"), [b'7'; 64]).unwrap();
    for name in ["drop.txt", "networks.csv", "places.csv"] {
        fs::copy(conf("lists").join(name), folder.path().join("lists").join(name)).unwrap();
    }
    let shown: Vec<usize> =
        (0..).zip(reference().lines()).filter(|(_, line)| shown_key(line).is_some()).map(|(n, _)| n).collect();
    assert!(shown.len() > 5, "{shown:?}");
    for number in shown {
        let path = folder.path().join("gateway.toml");
        fs::write(&path, uncommented(&|other| other == number)).unwrap();
        let environment = |name: &str| match name {
            "BAWAB_ADMIN_TOKEN" => Some("geheim".to_owned()),
            "STICKY_SECRET" => Some("7".repeat(64)),
            _ => None,
        };
        let loaded = load_with(&path, &environment).unwrap_or_else(|problems| panic!("{problems}"));
        let token = &loaded.config.admin.as_ref().unwrap().token;
        let sets_token =
            reference().lines().nth(number).and_then(shown_key).is_some_and(|key| key.starts_with("token"));
        assert_eq!(token.as_ref().is_some_and(|token| token.matches(b"geheim")), sets_token);
    }
}

/// What `tls` names: certificates and keys, roots of clients and of services with their revocation lists, an OCSP response,
/// ticket keys.
fn certificate(folder: &Path) {
    let folder = folder.join("tls");
    fs::create_dir(&folder).unwrap();
    for name in ["api", "partners", "gateway"] {
        let made = rcgen::generate_simple_self_signed(vec![format!("{name}.example.com")]).unwrap();
        fs::write(folder.join(format!("{name}.pem")), made.cert.pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        let (_, read) = X509Certificate::from_der(made.cert.der()).unwrap();
        fs::write(folder.join(format!("{name}.ocsp")), crate::tls::tests::staple(read.raw_serial(), 0x80, NEVER))
            .unwrap();
    }
    for name in ["clients", "services"] {
        let root = crate::tls::tests::Root::new(name);
        fs::write(folder.join(format!("{name}.pem")), root.pem()).unwrap();
        fs::write(folder.join(format!("{name}.crl")), root.list(&[], 2090)).unwrap();
    }
    for name in ["now", "before"] {
        fs::write(folder.join(format!("ticket-{name}.key")), [7; 80]).unwrap();
    }
}

/// As a GeneralizedTime.
const NEVER: &str = "20900101000000Z";

/// A key of the reference and what is said about it.
struct Said {
    value: Node,
    /// Behind the value, on its line.
    trailing: String,
    /// The comment above it.
    above: String,
    is_set: bool,
    /// Stands inside another key's value, on its line: the comment above is about both.
    is_within: bool,
}

/// Every key of the reference by its path in the schema.
fn said() -> BTreeMap<String, Said> {
    let live = reference();
    let text = uncommented(&|_| true);
    let (document, errors) = DeTable::parse_recoverable(&text);
    assert!(errors.is_empty(), "{errors:?}");
    let mut said = BTreeMap::new();
    gather(&Node::read(0, &document), shape::config(), "", &mut |path, name_place, value| {
        let line_start = text[..name_place.start].rfind('\n').map_or(0, |at| at + 1);
        let number = text[..line_start].lines().count();
        let line = text[line_start..].lines().next().unwrap();
        let above = text[..line_start].lines().rev().take_while(|line| line.starts_with('#'));
        let above: Vec<&str> = above.collect();
        let trailing = line.split_once(" # ").map_or("", |(_, comment)| comment);
        // Where a table is shown again, the first one says what its keys mean.
        said.entry(path.to_owned()).or_insert_with(|| Said {
            value: value.clone(),
            trailing: trailing.to_owned(),
            above: above.into_iter().rev().collect::<Vec<_>>().join(" "),
            is_within: !line.starts_with(path.rsplit('.').next().unwrap()),
            is_set: live.lines().nth(number) == Some(line),
        });
    });
    said
}

fn gather(node: &Node, shape: &Shape, path: &str, found: &mut dyn FnMut(&str, Place, &Node)) {
    match (shape, &node.value) {
        (Shape::Table(shape), Value::Table(table)) => {
            for entry in &table.entries {
                let field = shape.fields.get(&entry.name).unwrap_or_else(|| panic!("{path} has no {}", entry.name));
                let path = if path.is_empty() { entry.name.clone() } else { format!("{path}.{}", entry.name) };
                found(&path, entry.name_place, &entry.node);
                gather(&entry.node, &field.shape, &path, found);
            }
        }
        (Shape::Map { item, .. }, Value::Table(table)) => {
            table.entries.iter().for_each(|entry| gather(&entry.node, item, &format!("{path}.<name>"), found));
        }
        (Shape::List { item, .. }, Value::List(items)) => {
            items.iter().for_each(|node| gather(node, item, &format!("{path}[]"), found));
        }
        (Shape::Either(shapes), _) => {
            for shape in shapes.iter().filter(|shape| matches!(shape, Shape::Table(_))) {
                gather(node, shape, path, found);
            }
        }
        _ => {}
    }
}

fn fields() -> BTreeMap<String, Field> {
    let mut fields = BTreeMap::new();
    shape::config().visit("", &mut |path, field| {
        fields.insert(path.to_owned(), field.clone());
    });
    fields
}

fn is_table(shape: &Shape) -> bool {
    match shape {
        Shape::Table(_) => true,
        Shape::Map { item, .. } | Shape::List { item, .. } => matches!(**item, Shape::Table(_)),
        // `true`, or a table.
        Shape::Either(shapes) => shapes.iter().any(is_table),
        _ => false,
    }
}

#[test]
fn every_key_of_the_schema_is_in_the_reference() {
    let said: BTreeSet<String> = said().into_keys().collect();
    let known: BTreeSet<String> = fields().into_keys().collect();
    assert_eq!(said.symmetric_difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn nothing_of_the_schema_is_left_to_serde_alone() {
    for (path, field) in fields() {
        let mut shapes = vec![field.shape];
        while let Some(shape) = shapes.pop() {
            match shape {
                Shape::Any => panic!("{path} has a schema the loader does not understand"),
                Shape::List { item, .. } | Shape::Map { item, .. } => shapes.push(*item),
                Shape::Either(inner) => shapes.extend(inner),
                Shape::Text(text) => assert_eq!(text.check.is_some(), !text.format.is_empty(), "{path}: {text:?}"),
                _ => {}
            }
        }
    }
}

/// Whether `text`, as written in a file, is the value `json`.
fn same(format: &str, value: &Node, json: &Json) -> bool {
    match (&value.value, json) {
        (Value::Text(text), Json::String(json)) => match format {
            "interval" => text.text.parse::<Time>() == json.parse::<Time>(),
            "size" => text.text.parse::<Size>() == json.parse::<Size>(),
            _ => text.text == *json,
        },
        (Value::Integer(Some(number)), json) => json.as_i64() == Some(*number),
        (Value::Float(number), json) => json.as_f64() == Some(*number),
        (Value::Boolean(yes), json) => json.as_bool() == Some(*yes),
        (Value::List(items), Json::Array(json)) => {
            items.len() == json.len() && items.iter().zip(json).all(|(item, json)| same("", item, json))
        }
        (Value::Table(table), Json::Object(json)) => table.entries.is_empty() && json.is_empty(),
        _ => false,
    }
}

fn format(shape: &Shape) -> &str {
    match shape {
        Shape::Text(text) => &text.format,
        _ => "",
    }
}

#[test]
fn the_reference_shows_every_default_as_it_is() {
    let said = said();
    for (path, field) in fields() {
        let Said { value, trailing, above, is_set, is_within } = &said[&path];
        if is_table(&field.shape) {
            continue;
        }
        let default = field.schema.get("default").filter(|default| !default.is_null());
        if *is_within && !is_set && (default.is_some() || field.required) {
            let name = path.rsplit('.').next().unwrap();
            assert!(above.contains(&format!("`{name}`")), "{path} has no meaning");
            if let Some(Json::String(default)) = default {
                let said = format!("\"{default}\" (default)");
                assert!(above.contains(&said), "{path} does not say {said}");
            }
            continue;
        }
        let says_default = trailing.split([';', ',']).any(|part| part.trim() == "default");
        let says_required = trailing.starts_with("required");
        match default {
            Some(default) => {
                assert!(says_default && *is_set, "{path} does not say that it is the default");
                assert!(same(format(&field.shape), value, default), "{path}: {:?} is not {default}", value.value);
            }
            None if field.required => assert!(says_required && *is_set, "{path} does not say that it is required"),
            // A list that may be left out, of things without a default of their own.
            None if says_default => {
                assert!(!field.required && value.items().is_empty(), "{path} says it is the default");
            }
            // Of some keys one must be there.
            None if trailing.starts_with("one of") => {
                assert!(above.contains("Default: "), "{path} does not say what else")
            }
            None => assert!(above.contains("Default: ") && !is_set, "{path} does not say what happens without it"),
        }
        assert!(above.len() > 10 || says_required, "{path} has no meaning");
    }
}

#[test]
fn the_reference_shows_every_bound_and_choice() {
    let said = said();
    for (path, field) in fields() {
        let Said { trailing, above, .. } = &said[&path];
        let text = format!("{above} {trailing}");
        let mut shapes = vec![&field.shape];
        while let Some(shape) = shapes.pop() {
            match shape {
                Shape::Integer { min: i64::MIN, max: i64::MAX } => {}
                Shape::Integer { min, max } => {
                    let bounds = walk::bounds(Some(&min.to_string()), Some(&max.to_string()));
                    assert!(text.contains(&bounds), "{path} does not say {bounds}");
                }
                Shape::Float { min, max } => {
                    let bounds = walk::bounds(Some(&min.to_string()), Some(&max.to_string()));
                    assert!(text.contains(&bounds), "{path} does not say {bounds}");
                }
                Shape::Text(shape) => {
                    let bounds = walk::bounds(shape.min.as_deref(), shape.max.as_deref());
                    assert!(text.to_lowercase().contains(&bounds.to_lowercase()), "{path} does not say {bounds}");
                    for choice in &shape.choices {
                        assert!(text.contains(&format!("\"{choice}\"")), "{path} does not say {choice}");
                    }
                }
                Shape::Either(inner) => shapes.extend(inner),
                Shape::List { item, .. } => shapes.push(item),
                _ => {}
            }
        }
    }
}

#[test]
fn the_schema_says_the_defaults_it_has() {
    for (path, field) in fields() {
        let Some(default) = field.schema.get("default") else { continue };
        let text = field.schema["description"].as_str().unwrap_or_default();
        let wanted = match default {
            Json::String(text) if !text.is_empty() => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => continue,
        };
        let says = |word: &str| {
            let word = word.trim_matches(['`', '"', '.', ',', ';', ':']);
            word == wanted || matches!((word.parse::<Time>(), wanted.parse::<Time>()), (Ok(a), Ok(b)) if a == b)
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let found = words
            .windows(2)
            .any(|pair| (pair[0] == "Default" && says(pair[1])) || (says(pair[0]) && pair[1].starts_with("(default")));
        assert!(found, "{path}: {text:?} does not say that the default is {wanted}");
    }
}

#[test]
fn bounds_of_the_schema_are_those_of_the_code() {
    use crate::limits::{FIELDS_MAX, HEAD_BYTES_MAX};
    let fields = fields();
    assert_eq!(fields["limits.head_bytes"].schema["x-max"], Size(HEAD_BYTES_MAX as u64).to_string());
    assert_eq!(fields["limits.fields"].schema["maximum"], FIELDS_MAX);
}

/// The text of each block of that language in the page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let parts = page.split("```").skip(1).step_by(2);
    parts.filter_map(|part| part.strip_prefix(&format!("{language}\n")).map(str::to_owned)).collect()
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

/// A block of a page as a whole configuration: what it leaves out stands behind it, so that its lines keep their numbers.
fn whole(block: &str) -> String {
    let mut text = block.to_owned();
    let mut without = |table: &str, rest: &str| {
        if !block.lines().any(|line| line.starts_with(table)) {
            text.push_str(&format!("\n{table}\n{rest}\n"));
        }
    };
    without("[[listener]]", "address = \"127.0.0.1:8080\"");
    without("[upstream.orders]", "endpoints = [\"127.0.0.1:8000\"]");
    without("[[route]]", "path = \"/docs\"\nupstream = \"orders\"\nauth = \"none\"");
    for (name, table, rest) in [
        ("orders-v2", "[upstream.orders-v2]", "endpoints = [\"127.0.0.1:8001\"]"),
        ("drop", "[list.drop]", "action = \"deny\"\ncidrs = [\"203.0.113.0/24\"]"),
    ] {
        if block.contains(&format!("\"{name}\"")) {
            without(table, rest);
        }
    }
    text
}

/// A folder with every file that a page speaks of.
fn folder_of_pages() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("admin.token"), "geheim\n").unwrap();
    fs::create_dir(folder.path().join("lists")).unwrap();
    fs::copy(conf("lists/drop.txt"), folder.path().join("lists/drop.txt")).unwrap();
    certificate(folder.path());
    folder
}

#[test]
fn every_configuration_on_every_page_loads() {
    let mut pages = vec!["README.md".to_owned()];
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    let mut count = 0;
    for name in &pages {
        for block in blocks(&page(name), "toml") {
            let folder = folder_of_pages();
            let path = folder.path().join("gateway.toml");
            fs::write(&path, whole(&block)).unwrap();
            match load_with(&path, &|_| None) {
                Ok(loaded) => {
                    let warnings = loaded.warnings().map(|warnings| warnings.to_string());
                    assert_eq!(warnings, None, "{name}:\n{block}");
                }
                Err(problems) => panic!("{name}:\n{block}\n{problems}"),
            }
            count += 1;
        }
    }
    assert!(pages.len() >= 4 && count >= 18, "{count} blocks in {pages:?}");
}

#[test]
fn what_the_page_shows_of_explain_is_what_it_says() {
    let page = page("docs/configuration.md");
    let shown = blocks(&page, "console").into_iter().find(|block| block.contains("explain route")).unwrap();
    let (command, shown) = shown.split_once('\n').unwrap();
    let block = blocks(&page, "toml").into_iter().find(|block| block.contains("book-beta")).unwrap();
    let folder = folder_of_pages();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, whole(&block)).unwrap();
    let loaded = load_with(&path, &|_| None).unwrap();
    let url = command.split('\'').nth(1).unwrap();
    let question = Question::new("GET", url, &[], None).unwrap();
    let snapshot = snapshot::compile(&loaded.config, &loaded.lists, &loaded.tls, &Metrics::new(1, &[]));
    let said = explain(&snapshot, &question).text(|index| loaded.line(&format!("route[{index}].path")));
    assert_eq!(said.replace(&format!("{}/", folder.path().display()), ""), shown);
}

#[test]
fn the_page_shows_what_is_so() {
    let page = page("docs/configuration.md");
    let minimal = fs::read_to_string(conf("minimal.toml")).unwrap();
    assert_eq!(blocks(&page, "toml")[0], minimal);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let wrong = minimal.replace("upstream = \"orders\"", "upstream = \"ordesr\"").replace("auth = \"none\"\n", "");
    fs::write(&path, wrong).unwrap();
    let problems = load_with(&path, &|_| None).err().expect("two slips").to_string();
    assert_eq!(blocks(&page, "text")[0], problems.replace(&format!("{}/", folder.path().display()), ""));

    for (bound, what) in [
        (read::FILES_MAX as u64, format!("{} files", read::FILES_MAX)),
        (read::INCLUDE_DEPTH_MAX as u64, format!("{} deep", read::INCLUDE_DEPTH_MAX)),
        (read::FILE_BYTES_MAX, format!("{} MiB each", read::FILE_BYTES_MAX / 1024 / 1024)),
        (MIRRORS_PER_WORKER_MAX.into(), format!("{MIRRORS_PER_WORKER_MAX} copies of a worker")),
        (LIST_ENTRIES_MAX as u64, "4,000,000 entries".to_owned()),
        (LIST_LINE_BYTES_MAX as u64, format!("{LIST_LINE_BYTES_MAX} bytes a line")),
    ] {
        assert!(page.contains(&what), "the page does not say {bound}");
    }
    assert_eq!(LIST_ENTRIES_MAX, 4_000_000);
}
