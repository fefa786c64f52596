//! `cargo xtask test`: everything that can be tested here, and a plain list of what cannot.
//!
//! A test that lacks something it needs prints `not run: REASON` and returns; it is then counted as skipped, not as
//! passed. `not run: NAME: REASON` names a case within a test, which is counted beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::dist::{self, root};
use crate::setup::{self, Purpose};
use crate::{process, workspace};

pub(crate) fn run(words: &[String]) -> Result<bool> {
    ensure!(words.is_empty(), "usage: cargo xtask test");
    // The package is tried in a fresh Debian, which only root can enter.
    let purposes: &[Purpose] = match rustix::process::geteuid().is_root() {
        true => &[Purpose::Test, Purpose::Package],
        false => &[Purpose::Test],
    };
    for line in setup::provide(purposes)? {
        println!("missing: {line}");
    }
    // One build with the very features the tests have, so that the binary and the tests share it.
    process::run(workspace::cargo()?.args(["build", "--bins", "--tests"]))?;
    let folder = workspace::target()?.join("package");
    let program = workspace::target()?.join("debug/bawab");
    let mut command = workspace::cargo()?;
    command.args(["test", "--no-fail-fast"]).env("BAWAB_BIN", &program);
    match root::tarball(&folder)? {
        Err(reason) => _ = command.env("BAWAB_NO_PACKAGE", reason),
        // With the program the tests have: what a package needs besides it is the same, and costs no other build.
        Ok(tarball) => match dist::debian_package(&program, &folder.join("stage"), &folder)? {
            Some(package) => _ = command.env("BAWAB_PACKAGE", package).env("BAWAB_ROOT", tarball),
            None => _ = command.env("BAWAB_NO_PACKAGE", "cargo-deb is not installed"),
        },
    }
    counted(command, &[])
}

/// Tries a Debian package in a fresh Debian.
pub(crate) fn package(package: &Path) -> Result<bool> {
    let mut command = workspace::cargo()?;
    command.args(["test", "--package", "e2e", "--test", "e2e"]);
    match root::tarball(&workspace::target()?.join("package"))? {
        Err(reason) => _ = command.env("BAWAB_NO_PACKAGE", reason),
        Ok(tarball) => _ = command.env("BAWAB_PACKAGE", package).env("BAWAB_ROOT", tarball),
    }
    counted(command, &["package::"])
}

/// Runs `cargo test` to its end and says what came out. `words` are for the tests' own runner.
fn counted(mut command: Command, words: &[&str]) -> Result<bool> {
    // `--show-output`, because a test that was not run passes, and libtest keeps to itself what passing tests print.
    command.args(["--", "--show-output"]).args(words);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", process::shown(&command)))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if tally.read(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    // A runner that crashed, or a test that did not compile, leaves no result line of its own.
    if !status.success() && tally.failed == 0 {
        println!("{} ended with {status}", process::shown(&command));
        tally.failed = 1;
    }
    if tally.passed == 0 && tally.failed == 0 {
        bail!("no test ran");
    }
    println!("{tally}");
    Ok(tally.failed == 0)
}

/// What the runners' lines add up to.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    /// What was not run, with the reasons. Sets, because a helper may say the same thing twice.
    not_run: BTreeMap<String, BTreeSet<String>>,
    /// Tests among those, which their runner counts as passed.
    left_out: BTreeSet<String>,
    /// The test whose output is being shown.
    test: String,
    /// Within the output of tests that passed, which is of no interest otherwise.
    in_successes: bool,
}

impl Tally {
    /// Takes a line of output in. Whether it is worth showing.
    fn read(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.passed += count(counts, " passed");
            self.failed += count(counts, " failed");
        } else if let Some((name, reason)) = ignored(line) {
            self.leave_out(name, reason);
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            name.clone_into(&mut self.test);
        } else if let Some(item) = line.strip_prefix("not run: ") {
            let test = self.test.clone();
            let (name, reason) = item.split_once(": ").unwrap_or((&test, item));
            if name == test || test.ends_with(&format!("::{name}")) {
                self.leave_out(&test, reason);
                if self.in_successes {
                    self.left_out.insert(test);
                }
            } else {
                self.leave_out(name, reason);
            }
        } else if line == "successes:" {
            self.in_successes = true;
        } else if line == "failures:" {
            self.in_successes = false;
        }
        !self.in_successes
    }

    fn leave_out(&mut self, name: &str, reason: &str) {
        self.not_run.entry(name.to_owned()).or_default().insert(reason.to_owned());
    }
}

impl std::fmt::Display for Tally {
    /// The last line stands alone and in this form, for programs that look for it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.not_run.is_empty() {
            writeln!(f, "\nnot run ({}):", self.not_run.len())?;
        }
        for (name, reasons) in &self.not_run {
            let reasons: Vec<&str> = reasons.iter().map(String::as_str).collect();
            writeln!(f, "  {name}: {}", reasons.join("; "))?;
        }
        let passed = self.passed.saturating_sub(self.left_out.len());
        write!(f, "\n{passed} passed, {} failed, {} skipped", self.failed, self.not_run.len())
    }
}

/// The number before `what` in `ok. 3 passed; 0 failed; 1 ignored; ...`.
fn count(counts: &str, what: &str) -> usize {
    let part = counts.split(['.', ';']).find_map(|part| part.strip_suffix(what));
    part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// `test NAME ... ignored` or `test NAME ... ignored, REASON`.
fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    Some((name, rest.strip_prefix(", ").unwrap_or("ignored, no reason given")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, end: &str) {
        let mut tally = Tally::default();
        for line in output.lines() {
            tally.read(line);
        }
        assert_eq!(tally.to_string().trim_start(), end);
    }

    #[test]
    fn runners_are_added_up() {
        let output = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\nbang\n\nfailures:\n    b\n\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        check(output, "41 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn an_ignored_test_is_listed_with_its_reason() {
        let output = "test a ... ok\ntest slow ... ignored, takes a day\ntest old ... ignored\n\
            test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        check(
            output,
            "not run (2):\n  old: ignored, no reason given\n  slow: takes a day\n\n1 passed, 0 failed, 2 skipped",
        );
    }

    #[test]
    fn a_test_that_was_not_run_is_skipped_and_not_passed() {
        let output = "test a ... ok\ntest x::needs_tools ... ok\n\nsuccesses:\n\n---- x::needs_tools stdout ----\n\
            not run: no tool\nnot run: no tool\nnot run: needs_tools: no other tool\n\n\
            successes:\n    a\n    x::needs_tools\n\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let end = "not run (1):\n  x::needs_tools: no other tool; no tool\n\n1 passed, 0 failed, 1 skipped";
        check(output, end);
    }

    #[test]
    fn a_case_that_was_not_run_is_skipped_beside_its_test() {
        let output = "successes:\n\n---- rows stdout ----\nnot run: the third row: no IPv6\nnot run: the third row: no IPv6\n\nsuccesses:\n    rows\n\n\
            test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        check(output, "not run (1):\n  the third row: no IPv6\n\n1 passed, 0 failed, 1 skipped");
    }
}
