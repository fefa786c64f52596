//! The `bawab` command.

use std::process::ExitCode;

use clap::Parser as _;

// The data path allocates little, but a few small things for every exchange; this is the fastest allocator for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bawab::cli::dispatch(bawab::cli::Arguments::parse())
}
