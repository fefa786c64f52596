//! What the licences of the libraries in the program ask to be told: who ships the program ships this beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{process, workspace};

/// Beginnings of the names of files that hold a licence or a notice, in lower case.
const NAMES: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];

/// A library the program is built with.
struct Library {
    /// Name and version.
    name: String,
    /// SPDX expression.
    licence: String,
    folder: PathBuf,
}

/// Each library with its licence, and every text once, with the libraries it comes from.
pub(super) fn text() -> Result<String> {
    let mut text =
        "Bawab contains these libraries, and the standard library of Rust (MIT OR Apache-2.0).\n\n".to_owned();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for library in libraries()? {
        writeln!(text, "{}: {}", library.name, library.licence)?;
        for file in licence_files(&library.folder)? {
            let licence = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            // Line ends and the space at them are no difference.
            let licence = licence.trim().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
            texts.entry(licence).or_default().push(library.name.clone());
        }
    }
    for (licence, names) in texts {
        let names: BTreeSet<String> = names.into_iter().collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        write!(text, "\n{}\n{names}:\n\n{licence}\n", "-".repeat(78))?;
    }
    Ok(text)
}

/// The folders that hold the libraries' sources.
pub(super) fn library_folders() -> Result<BTreeSet<PathBuf>> {
    Ok(libraries()?.iter().filter_map(|library| library.folder.parent().map(Path::to_owned)).collect())
}

/// Every library the program is linked from or compiled with, by name; build scripts and tests are not in it.
fn libraries() -> Result<Vec<Library>> {
    let mut command = workspace::cargo()?;
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &platform]);
    let metadata: Value = serde_json::from_str(&process::output(&mut command)?).context("reading `cargo metadata`")?;
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let ours = packages.values().find(|package| package["name"] == "bawab").context("there is no package `bawab`")?;
    let mut found = BTreeSet::new();
    let mut open = vec![ours["id"].as_str().unwrap_or_default()];
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let deps = nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        open.extend(deps.filter(|dep| is_normal(dep)).filter_map(|dep| dep["pkg"].as_str()));
    }
    let library = |package: &&Value| {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let folder = PathBuf::from(text("manifest_path")).parent()?.to_owned();
        Some(Library { name: format!("{} {}", text("name"), text("version")), licence: text("license"), folder })
    };
    // What has no source is of this repository.
    let others =
        found.iter().filter_map(|id| packages.get(id).copied()).filter(|package| package["source"].is_string());
    let mut libraries: Vec<Library> = others.filter_map(|package| library(&package)).collect();
    libraries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(libraries)
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    list.as_array().into_iter().flatten().filter_map(|item| Some((item["id"].as_str()?, item))).collect()
}

/// Neither for tests nor for a build script only.
fn is_normal(dep: &Value) -> bool {
    dep["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null())
}

fn licence_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            path.is_file() && NAMES.iter().any(|beginning| name.starts_with(beginning))
        })
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_named_and_what_only_tests_use_is_not() {
        let text = text().unwrap();
        let has = |name: &str| text.lines().any(|line| line.starts_with(&format!("{name} ")) && line.contains(": "));
        assert!(has("monoio") && has("libmimalloc-sys"));
        assert!(!has("proptest") && !has("criterion"));
        assert!(text.contains("Permission is hereby granted, free of charge"));
    }
}
