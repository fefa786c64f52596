//! `bench instructions`: user-space instructions of one whole exchange, over HTTP/1.1 and over HTTP/2, counted by callgrind.
//! The only figures here that a busy machine does not move, so the only ones with bounds of their own and not ratios. And what
//! ten endpoints that are checked and ejected add to it, which `bench endpoints` shows with the kernel's part.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Options;
use crate::{process, workspace};

/// A way a client speaks: its name, how the program of the bench is told, and the most instructions.
struct Row {
    name: &'static str,
    words: &'static [&'static str],
    instructions_max: u64,
}

/// Instructions of one exchange over a kept connection, with the client and the service of the bench: 31,781 and, of 32 streams
/// at a time, 46,495 when this was recorded (rustc 1.95, thin LTO). The bounds leave a tenth for another compiler's taste.
const ROWS: [Row; 2] = [
    Row { name: "an exchange", words: &[], instructions_max: 34_000 },
    Row { name: "an exchange over HTTP/2", words: &["http2"], instructions_max: 51_000 },
];

/// Endpoints that are checked, and what they may cost beside one that is not.
const ENDPOINTS: &str = "10";
const ENDPOINTS_RATIO_MAX: f64 = 1.03;

/// Two runs, so that what starting costs cancels out. Multiples of the streams at a time.
const FEW: u64 = 512;
const MANY: u64 = 1_536;

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
    let verdict = |is_met: bool| if is_met { "met" } else { "missed" };
    let (mut all_met, mut first) = (true, None);
    for Row { name, words, instructions_max } in ROWS {
        let each = each(words)?;
        let is_met = each <= instructions_max;
        println!("{:<8}instructions {name}: at most {instructions_max}: {each}", verdict(is_met));
        all_met &= is_met;
        first.get_or_insert(each);
    }
    let ratio = each(&[ENDPOINTS])? as f64 / first.unwrap_or(1) as f64;
    let is_even = ratio <= ENDPOINTS_RATIO_MAX;
    println!(
        "{:<8}with {ENDPOINTS} endpoints that are checked over one that is not: at most {ENDPOINTS_RATIO_MAX}: {ratio:.3}",
        verdict(is_even)
    );
    Ok(all_met && is_even)
}

/// Instructions of one exchange.
fn each(words: &[&str]) -> Result<u64> {
    Ok((count(MANY, words)? - count(FEW, words)?) / (MANY - FEW))
}

/// Instructions of a process that runs so many exchanges.
fn count(exchanges: u64, words: &[&str]) -> Result<u64> {
    let program = workspace::target()?.join("release/exchange");
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(exchanges.to_string())
        .args(words)
        .output()
        .context("starting valgrind")?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let line = said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    line.and_then(|count| count.parse().ok()).with_context(|| format!("callgrind counted nothing:\n{said}"))
}
