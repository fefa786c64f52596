//! The tasks of this repository: `cargo xtask NAME`. One file a task; what they share is in `process` and `workspace`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a task talks to the person who started it")]

mod bench;
mod ci;
mod demo;
mod dist;
mod ebpf;
mod process;
mod setup;
mod test;
mod text;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

/// A task: its name, what it does in one line, and its code. `Ok(false)` means: it ran, and something it checked did not hold.
type Task = (&'static str, &'static str, fn(&[String]) -> Result<bool>);

const TASKS: &[Task] = &[
    ("setup", "install what tests and benches need, or say what to install (--check: only look)", setup::run),
    (
        "demo",
        "build, start the gateway before services of its own, send requests through it (--stay: keep it up)",
        demo::run,
    ),
    ("test", "run everything that can be tested here; list and count what cannot", test::run),
    ("ebpf", "build the XDP program that is committed (--check: build, test and compare it)", ebpf::run),
    ("dist", "make the Debian package and the tarball that are handed out (--test: try the package)", dist::run),
    (
        "ci",
        "what has to hold for every commit: fmt, text, deny, clippy, docs, ebpf, test, demo, instructions, dist",
        ci::run,
    ),
    (
        "bench",
        "run the gateway beside its peers: plain, tls, h2, grpc, handshake, idle, reload, routes, chaos, endpoints, stuck, takeover, xdp, instructions (each with --help)",
        bench::run,
    ),
];

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
