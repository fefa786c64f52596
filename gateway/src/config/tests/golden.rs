//! Each `tests/conf/NAME.toml` is loaded, and what is said about it is `NAME.problems` beside it, to the letter.
//! `BAWAB_BLESS=1 cargo test -p bawab golden` writes the answers anew; read the diff.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::load_with;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conf")
}

/// What the cases may ask the environment for.
fn environment(name: &str) -> Option<String> {
    match name {
        "TEXT" => Some("hunter".to_owned()),
        "SPACED" => Some("hunter hunter".to_owned()),
        "LINES" => Some("hunter\r\nX-Evil: 1".to_owned()),
        _ => None,
    }
}

fn said_about(path: &Path) -> String {
    let said = match load_with(path, &environment) {
        Ok(_) => "no problems\n".to_owned(),
        Err(problems) => problems.to_string(),
    };
    said.replace(&format!("{}/", folder().display()), "")
}

/// Names of the files that end so, without that end.
fn names(extension: &str) -> BTreeSet<String> {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    files.filter_map(|file| file.strip_suffix(extension).map(str::to_owned)).collect()
}

#[test]
fn every_problem_is_told_as_written() {
    let bless = std::env::var_os("BAWAB_BLESS").is_some_and(|value| value == "1");
    let cases = names(".toml");
    assert!(cases.len() >= 25, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for name in &cases {
        let said = said_about(&folder().join(format!("{name}.toml")));
        let expected = folder().join(format!("{name}.problems"));
        if bless {
            fs::write(&expected, &said).unwrap();
        } else if fs::read_to_string(&expected).ok().as_deref() != Some(&*said) {
            wrong.push(format!("{name}.toml\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "not what is in .problems:\n\n{}", wrong.join("\n"));
    assert_eq!(cases, names(".problems"), "a case without an answer, or an answer without a case");
}

#[test]
fn no_problem_shows_a_secret_or_what_the_environment_said() {
    for name in names(".toml") {
        let said = said_about(&folder().join(format!("{name}.toml")));
        assert!(!said.contains("hunter"), "{name}: {said}");
    }
}
