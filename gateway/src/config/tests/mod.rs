//! Tests of the loader as a whole.

mod arbitrary;
mod golden;
mod reference;

/// What is told of a configuration that loads, as people see it.
pub(super) fn warnings_of(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    match super::load_with(&path, &|_| None) {
        Ok(loaded) => loaded.warnings().map(|warnings| warnings.to_string()).unwrap_or_default(),
        Err(problems) => panic!("{problems}"),
    }
}
