//! Whatever is in a file, the loader answers with a configuration or with problems it can show, and serde never finds what
//! the walk did not.

use std::fs;
use std::path::Path;

use annotate_snippets::Renderer;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::config::{MISSED, load_with};

/// Loads `bytes` as a file, shows every problem in every way, and says whether it loaded.
fn check(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, bytes).unwrap();
    fs::create_dir(folder.path().join("lists")).unwrap();
    for name in ["lists/drop.txt", "lists/networks.csv", "lists/places.csv"] {
        fs::write(folder.path().join(name), read(&format!("conf/{name}"))).unwrap();
    }
    // Some variables are there and some are not.
    let environment = |name: &str| (name.len().is_multiple_of(2)).then(|| format!("{name}\r\n${{client_ip}}\""));
    match load_with(&path, &environment) {
        Ok(loaded) => {
            let route = loaded.place("route[0].auth.there.is.no[9].such");
            prop_assert!(route.is_some(), "a configuration without a route was loaded");
            Ok(true)
        }
        Err(problems) => {
            prop_assert!(problems.iter().next().is_some());
            let plain = problems.to_string();
            prop_assert!(!problems.render(&Renderer::styled()).is_empty());
            prop_assert!(!plain.contains(MISSED), "{}\n{plain}", String::from_utf8_lossy(bytes));
            prop_assert!(plain.chars().all(|c| c == '\n' || !c.is_control()), "{plain:?}");
            for problem in problems.iter() {
                let Some(place) = problem.place else { continue };
                prop_assert!(problems.sources().line_column(place).is_some(), "{problem:?}");
            }
            Ok(false)
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// What is put into or in place of text: whatever means something to TOML, to the grammars or to a terminal.
fn piece() -> impl Strategy<Value = String> {
    let chosen = [
        "",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ",",
        ".",
        "#",
        "\n",
        "\r\n",
        "\t",
        "\\",
        "\\u001b",
        "\u{1b}[31m",
        "\u{0}",
        "\u{202e}",
        "é",
        "中",
        "\u{1f600}",
        "${",
        "${client_ip}",
        "$${",
        "${HOME}",
        "}",
        "0",
        "-1",
        "65536",
        "99999999999999999999",
        "1.5",
        "nan",
        "inf",
        "0x10",
        "true",
        "1979-05-27",
        "[]",
        "{}",
        "[1]",
        "\"none\"",
        "\"/**\"",
        "\"/a/../b\"",
        "\"10s\"",
        "\"64KiB\"",
        "\"unix:\"",
        "\"[::1]:1\"",
        "\"*.\"",
        "\"auto\"",
        "{ address = \"a:1\" }",
        "[[route]]\n",
        "[route]\n",
        "[upstream.orders]\n",
        "[limits]\n",
        "auth = \"none\"\n",
    ];
    prop_oneof![4 => proptest::sample::select(chosen.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

/// `text` with the characters from one place to another replaced, or with a line repeated elsewhere.
fn mutate(text: &str, from: Index, len: usize, piece: &str, repeats_line: bool) -> String {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let first = from.index(starts.len());
    if repeats_line {
        let line = text[..starts[first]].lines().last().unwrap_or_default();
        return format!("{text}\n{line}\n");
    }
    let last = (first + len).min(starts.len() - 1);
    format!("{}{piece}{}", &text[..starts[first]], &text[starts[last]..])
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes: Vec<u8>) {
        check(&bytes)?;
    }

    #[test]
    fn text_of_toml_pieces_never_panics(pieces in proptest::collection::vec(piece(), 0..40)) {
        check(pieces.concat().as_bytes())?;
    }

    #[test]
    fn a_configuration_with_slips_never_panics(
        which: Index,
        slips in proptest::collection::vec((any::<Index>(), 0usize..12, piece(), proptest::bool::weighted(0.1)), 1..6),
    ) {
        let files = ["conf/minimal.toml", "conf/gateway.toml", "tests/conf/headers.toml", "tests/conf/endpoints.toml"];
        let mut text = read(files[which.index(files.len())]);
        for (from, len, piece, repeats_line) in slips {
            text = mutate(&text, from, len, &piece, repeats_line);
        }
        check(text.as_bytes())?;
    }

    /// The walk and serde agree: a value of any kind, put to any key of the reference, is a problem of the walk or none.
    #[test]
    fn any_value_for_any_key_is_judged_by_the_walk(which: Index, value in piece()) {
        let text = read("conf/gateway.toml");
        let lines: Vec<&str> = text.lines().collect();
        let keys: Vec<usize> = (0..lines.len())
            .filter(|number| lines[*number].split_once(" = ").is_some_and(|(key, _)| !key.contains(['#', ' ', '{'])))
            .collect();
        let chosen = keys[which.index(keys.len())];
        let key = lines[chosen].split_once(" = ").unwrap().0;
        let mutated: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(number, line)| if number == chosen { format!("{key} = {value}") } else { (*line).to_owned() })
            .collect();
        check(mutated.join("\n").as_bytes())?;
    }
}

#[test]
fn what_the_repository_holds_is_judged_too() {
    assert!(check(read("conf/minimal.toml").as_bytes()).unwrap());
    assert!(check(read("conf/gateway.toml").as_bytes()).unwrap());
    assert!(!check(b"").unwrap());
}
