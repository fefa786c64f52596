//! Checks on the repository's text that no compiler makes.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::{process, workspace};

/// Longer files hold more than one idea; half a screen of grace beyond what the house asks for.
const RUST_LINES_MAX: usize = 700;
/// The two commands of a newcomer.
const COMMANDS: [&str; 2] = ["cargo xtask demo", "cargo xtask test"];
/// Beginnings of paths that exist on one machine only. Put together here, so that this file passes its own check.
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "home/")];

/// Looks at every tracked file.
pub(crate) fn check() -> Result<bool> {
    let root = workspace::root()?;
    let list = process::output(Command::new("git").args(["ls-files", "-z"]).current_dir(&root))?;
    let mut problems = Vec::new();
    let mut files = 0;
    for name in list.split_terminator('\0') {
        // Deleted but not committed yet, or not text: nothing to read.
        let Ok(text) = fs::read_to_string(root.join(name)) else { continue };
        files += 1;
        problems.extend(problems_of(name, &text));
    }
    let readme = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    problems.extend(
        COMMANDS
            .iter()
            .filter(|command| !readme.contains(*command))
            .map(|command| format!("README.md: does not name `{command}`")),
    );
    for problem in &problems {
        println!("{problem}");
    }
    println!("{files} files read, {} problems", problems.len());
    Ok(problems.is_empty())
}

fn problems_of(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(path) = MACHINE_PATHS.iter().find(|path| line.contains(*path)) {
            problems.push(format!("{name}:{}: `{path}` is a path of one machine", number + 1));
        }
    }
    let lines = text.lines().count();
    if name.ends_with(".rs") && lines > RUST_LINES_MAX {
        problems.push(format!("{name}: {lines} lines, at most {RUST_LINES_MAX}: it wants to be two files"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_machine_is_found_with_its_line() {
        let text = format!("fine\nsee {}x\n", MACHINE_PATHS[2]);
        assert_eq!(problems_of("a.md", &text), [format!("a.md:2: `{}` is a path of one machine", MACHINE_PATHS[2])]);
    }

    #[test]
    fn rust_files_have_a_length_and_others_do_not() {
        let text = "x\n".repeat(RUST_LINES_MAX);
        assert!(problems_of("a.rs", &text).is_empty());
        assert_eq!(problems_of("a.rs", &(text.clone() + "x\n")).len(), 1);
        assert!(problems_of("a.txt", &(text + "x\n")).is_empty());
    }
}
