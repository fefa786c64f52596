//! `bench instructions`: user-space instructions of one whole exchange, counted by callgrind. The only figure here that a
//! busy machine does not move, so the only one with a bound of its own and not a ratio. And what ten endpoints that are
//! checked and ejected add to it, which `bench endpoints` shows with the kernel's part.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Options;
use crate::{process, workspace};

/// Instructions of one exchange over a kept connection, with the client and the service of the bench: 30,798 when this
/// was recorded (rustc 1.95, thin LTO). The bound leaves a tenth for another compiler's taste.
const INSTRUCTIONS_MAX: u64 = 34_000;

/// Endpoints that are checked, and what they may cost beside one that is not.
const ENDPOINTS: usize = 10;
const ENDPOINTS_RATIO_MAX: f64 = 1.03;

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
    let each = each(1)?;
    let verdict = |is_met: bool| if is_met { "met" } else { "missed" };
    let is_short = each <= INSTRUCTIONS_MAX;
    println!("{:<8}instructions an exchange: at most {INSTRUCTIONS_MAX}: {each}", verdict(is_short));
    let ratio = self::each(ENDPOINTS)? as f64 / each as f64;
    let is_even = ratio <= ENDPOINTS_RATIO_MAX;
    println!(
        "{:<8}with {ENDPOINTS} endpoints that are checked over one that is not: at most {ENDPOINTS_RATIO_MAX}: {ratio:.3}",
        verdict(is_even)
    );
    Ok(is_short && is_even)
}

/// Instructions of one exchange before so many endpoints.
fn each(endpoints: usize) -> Result<u64> {
    Ok((count(MANY, endpoints)? - count(FEW, endpoints)?) / (MANY - FEW))
}

/// Instructions of a process that runs so many exchanges.
fn count(exchanges: u64, endpoints: usize) -> Result<u64> {
    let program = workspace::target()?.join("release/exchange");
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([exchanges.to_string(), endpoints.to_string()])
        .output()
        .context("starting valgrind")?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let line = said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    line.and_then(|count| count.parse().ok()).with_context(|| format!("callgrind counted nothing:\n{said}"))
}
