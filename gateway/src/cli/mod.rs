//! The command line: one file a subcommand.

pub mod run;

use std::process::ExitCode;

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next()) {
        (Some(command), Some(file)) if command == "run" => run::run(file.as_ref()),
        _ => ExitCode::from(2),
    }
}
