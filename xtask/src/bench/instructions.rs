//! `bench instructions`: user-space instructions of one whole exchange, counted by callgrind. The only figure here that a
//! busy machine does not move, so the only one with a bound of its own and not a ratio.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Options;
use crate::{process, workspace};

/// Instructions of one exchange over a kept connection, with the client and the service of the bench: 30,798 when this
/// was recorded (rustc 1.95, thin LTO). The bound leaves a tenth for another compiler's taste.
const INSTRUCTIONS_MAX: u64 = 34_000;

/// Two runs, so that what starting costs cancels out.
const FEW: u64 = 500;
const MANY: u64 = 1_500;

pub(super) fn run(words: &[String]) -> Result<bool> {
    Options::read(words)?.done()?;
    ensure!(process::find("valgrind").is_some(), "valgrind is not installed; `cargo xtask setup` installs it");
    process::run(workspace::cargo()?.args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "benches",
        "--bin",
        "exchange",
    ]))?;
    let each = (count(MANY)? - count(FEW)?) / (MANY - FEW);
    let verdict = if each <= INSTRUCTIONS_MAX { "met" } else { "missed" };
    println!("{verdict:<8}instructions an exchange: at most {INSTRUCTIONS_MAX}: {each}");
    Ok(each <= INSTRUCTIONS_MAX)
}

/// Instructions of a process that runs so many exchanges.
fn count(exchanges: u64) -> Result<u64> {
    let program = workspace::target()?.join("release/exchange");
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(exchanges.to_string())
        .output()
        .context("starting valgrind")?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let line = said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    line.and_then(|count| count.parse().ok()).with_context(|| format!("callgrind counted nothing:\n{said}"))
}
