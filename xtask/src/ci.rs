//! `cargo xtask ci`: what has to hold for every commit. Every step runs even after one failed, so that one run says all.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::setup::{self, Purpose};
use crate::{demo, process, test, text, workspace};

type Step = (&'static str, fn() -> Result<bool>);

/// The cheap ones first. Those that compile share one target folder and the debug profile.
const STEPS: &[Step] = &[
    ("fmt", || cargo(&["fmt", "--all", "--check"])),
    ("text", text::check),
    ("deny", deny),
    ("clippy", clippy),
    ("docs", docs),
    ("test", || test::run(&[])),
    ("demo", || demo::run(&[])),
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
        summary.push(format!("  {name:<8}{:<8}{:>4} s", if held { "ok" } else { "FAILED" }, begin.elapsed().as_secs()));
        all_held &= held;
    }
    println!("\n--- ci\n{}", summary.join("\n"));
    Ok(all_held)
}

fn cargo(words: &[&str]) -> Result<bool> {
    Ok(process::status(workspace::cargo()?.args(words))?.success())
}

/// The pinned toolchain has clippy (`rust-toolchain.toml` asks for it); a distribution's may not, and has no way to get it.
fn clippy() -> Result<bool> {
    if process::output(workspace::cargo()?.args(["clippy", "--version"])).is_err() {
        println!("not run: clippy: this toolchain has none; rustup's, which the repository pins, does");
        return Ok(true);
    }
    cargo(&["clippy", "--all-targets", "--quiet", "--", "-D", "warnings"])
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
    for line in setup::provide(&[Purpose::Check])? {
        println!("missing: {line}");
    }
    let Some(program) = setup::cargo_deny()? else {
        return Ok(false);
    };
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
