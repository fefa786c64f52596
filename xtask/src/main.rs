//! The tasks of this repository: `cargo xtask NAME`. One file a task; what they share is in `process` and `workspace`.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a task talks to the person who started it"
)]

mod bench;
mod process;
mod wire;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

/// A task: its name, what it does in one line, and its code. `Ok(false)` means: it ran, and something it checked did not hold.
type Task = (&'static str, &'static str, fn(&[String]) -> Result<bool>);

const TASKS: &[Task] = &[(
    "bench",
    "run the gateway beside its peers: plain, idle, stuck (each with --help)",
    bench::run,
)];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = words.split_first() else {
        return usage();
    };
    let Some((_, _, task)) = TASKS.iter().find(|(known, ..)| known == name) else {
        eprintln!("no task is named `{name}`\n");
        return usage();
    };
    match task(rest) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: cargo xtask NAME\n");
    for (name, what, _) in TASKS {
        eprintln!("  {name:<8}{what}");
    }
    ExitCode::from(2)
}
