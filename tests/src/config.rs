//! The configuration a case starts from, and how a case's own text is laid over it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// One worker, so that what happens does not depend on which core took a connection; one listener, one upstream, one
/// route that takes everything. Everything else is the gateway's own default.
pub const BASE: &str = r#"
[gateway]
workers = 1
drain = { delay = "0s", deadline = "5s" }

[admin]
address = "unix:{dir}/admin.sock"

[log]
format = "json"
access = "{dir}/access.log"

[[listener]]
name = "main"
address = "127.0.0.1:0"

[upstream.main]
endpoints = ["{upstream}"]

[[route]]
name = "all"
path = "/**"
upstream = "main"
auth = "none"
"#;

/// `overrides` laid over [`BASE`].
pub fn over_base(overrides: &str) -> Result<String> {
    layered(&[BASE, overrides])
}

/// Each text laid over those before it: tables are merged key by key; any other value, arrays too, replaces what was
/// there.
pub fn layered(texts: &[&str]) -> Result<String> {
    let mut merged = Table::new();
    for text in texts {
        lay_over(&mut merged, text.parse().with_context(|| format!("in this configuration:\n{text}"))?);
    }
    Ok(merged.to_string())
}

fn lay_over(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// `{name}` in `text` replaced by its value. Other braces are TOML's own and stay.
pub fn fill(text: &str, values: &BTreeMap<String, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}
