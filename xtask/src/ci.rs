//! `cargo xtask ci`: what has to hold for every commit. Every step runs even after one failed, so that one run says all.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::setup::{self, Purpose};
use crate::{bench, demo, dist, ebpf, process, test, text, workspace};

type Step = (&'static str, fn() -> Result<bool>);

/// The cheap ones first, once what they need is there. Those that compile share one target folder and the debug profile,
/// but for the last two: what a release costs only a release build tells, and what is handed out is built by itself.
const STEPS: &[Step] = &[
    ("setup", tools),
    ("fmt", || cargo(&["fmt", "--all", "--check"])),
    ("text", text::check),
    ("deny", deny),
    ("clippy", || cargo(&["clippy", "--all-targets", "--quiet", "--", "-D", "warnings"])),
    ("docs", docs),
    ("ebpf", || ebpf::run(&["--check".to_owned()])),
    ("test", || test::run(&[])),
    ("demo", || demo::run(&[])),
    ("instructions", || bench::run(&["instructions".to_owned()])),
    ("dist", || dist::run(&["--test".to_owned()])),
];

pub(crate) fn run(words: &[String]) -> Result<bool> {
    ensure!(words.is_empty(), "usage: cargo xtask ci");
    let mut summary = Vec::new();
    let mut all_held = true;
    for (name, step) in STEPS {
        println!("\n--- {name}");
        let begin = Instant::now();
        let held = step().unwrap_or_else(|error| {
            println!("{error:#}");
            false
        });
        summary.push(format!(
            "  {name:<14}{:<8}{:>4} s",
            if held { "ok" } else { "FAILED" },
            begin.elapsed().as_secs()
        ));
        all_held &= held;
    }
    println!("\n--- ci\n{}", summary.join("\n"));
    Ok(all_held)
}

fn cargo(words: &[&str]) -> Result<bool> {
    Ok(process::status(workspace::cargo()?.args(words))?.success())
}

/// A step that lacks its tool fails as well; this one says what to install.
fn tools() -> Result<bool> {
    let missing = setup::provide(&[Purpose::Check])?;
    for line in &missing {
        println!("missing: {line}");
    }
    Ok(missing.is_empty())
}

/// Private items too: the code map links to them, and a dead link there misleads the next reader. So a link from a public
/// item to a private one is no mistake: these pages are for those who change the gateway.
fn docs() -> Result<bool> {
    let mut command = workspace::cargo()?;
    command.args(["doc", "--no-deps", "--document-private-items", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    Ok(process::status(&mut command)?.success())
}

/// Licences, sources and duplicates always; advisories where their database can be had.
fn deny() -> Result<bool> {
    let program = setup::CARGO_DENY.find()?.context("cargo-deny is not installed; `cargo xtask setup` installs it")?;
    let check = |words: &[&str]| -> Result<bool> {
        Ok(process::status(Command::new(&program).args(words).current_dir(workspace::root()?))?.success())
    };
    let held = check(&["--log-level", "warn", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"])?;
    let fetched = process::output(Command::new(&program).args(["fetch", "db"]).current_dir(workspace::root()?));
    if fetched.is_err() {
        println!("not run: advisories: their database cannot be fetched from here");
        return Ok(held);
    }
    Ok(check(&["--log-level", "error", "check", "advisories"])? && held)
}
