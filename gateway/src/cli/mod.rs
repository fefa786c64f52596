//! The command line: one file per subcommand. Answers go to stdout, everything else to stderr.

mod ask;
pub mod ban;
pub mod check;
pub mod explain;
mod run;
pub mod schema;
pub mod upstream;
pub mod version;
pub mod xdp;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use annotate_snippets::Renderer;

use crate::problem::Problems;

/// Where the configuration is when nothing else is said.
pub const FILE_DEFAULT: &str = "/etc/bawab/gateway.toml";

/// The configuration is wrong.
pub const EXIT_PROBLEMS: u8 = 1;
/// The command line is wrong, or the file cannot be read. Also what clap ends with.
pub const EXIT_USAGE: u8 = 2;

/// An edge API gateway: an XDP door in the kernel, a thread-per-core io_uring proxy behind it.
#[derive(Debug, clap::Parser)]
#[command(name = "bawab", version = version::VERSION, override_usage = "bawab run|check|explain|upstream|xdp|ban|schema|version ...")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Runs the gateway until SIGTERM or SIGINT, then lets running exchanges finish.
    ///
    /// Ends with 0 if all of them did, 1 if it could not start, 2 if the file cannot be read, 3 if exchanges were cut.
    Run {
        /// The configuration.
        #[arg(default_value = FILE_DEFAULT)]
        file: PathBuf,
    },
    /// Reads a configuration as `run` does, and shows every problem it has.
    ///
    /// Ends with 0 if there is none, 1 if there are problems, 2 if the file cannot be read.
    Check {
        /// The configuration.
        #[arg(default_value = FILE_DEFAULT)]
        file: PathBuf,
    },
    /// Says what the gateway would do with a request or an address, and why.
    Explain {
        #[command(subcommand)]
        what: explain::What,
    },
    /// The door in the kernel: how it stands, how it is changed and removed.
    ///
    /// `bypass` and `detach` do what they do by themselves; the others ask the gateway that runs, at the `[admin]` address of its
    /// configuration.
    Xdp {
        #[command(subcommand)]
        what: xdp::What,
    },
    /// Who is turned away for a time, at the gateway that runs.
    ///
    /// It is asked at the `[admin]` address of its configuration.
    Ban {
        #[command(subcommand)]
        what: ban::What,
    },
    /// Endpoints of services, at the gateway that runs: how they stand, taking one out and back in.
    ///
    /// It is asked at the `[admin]` address of its configuration.
    Upstream {
        #[command(subcommand)]
        what: upstream::What,
    },
    /// Prints the JSON Schema of the configuration: every key with its meaning, default and bounds.
    Schema,
    /// Prints the version and how this binary was built.
    Version,
}

/// Runs a command to its end.
pub fn dispatch(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Run { file } => run::main(&file),
        Command::Check { file } => check::main(&file),
        Command::Xdp { what } => xdp::main(&what),
        Command::Ban { what } => ban::main(&what),
        Command::Upstream { what } => upstream::main(&what),
        Command::Explain { what } => explain::main(&what),
        Command::Schema => schema::main(),
        Command::Version => version::main(),
    }
}

/// Shows problems on stderr. What the process should end with.
pub fn show_problems(problems: &Problems) -> ExitCode {
    show(problems);
    ExitCode::from(if problems.is_unreadable() { EXIT_USAGE } else { EXIT_PROBLEMS })
}

/// In colour if stderr is a terminal that wants it.
pub(super) fn show(problems: &Problems) {
    let mut stderr = io::stderr().lock();
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let renderer = if stderr.is_terminal() && !is_plain { Renderer::styled() } else { Renderer::plain() };
    // Whoever closed stderr does not want to know.
    let _ = stderr.write_all(problems.render(&renderer).as_bytes());
}

/// Says what is wrong with a command.
fn usage(why: &str) -> ExitCode {
    // Whoever closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "{why}");
    ExitCode::from(EXIT_USAGE)
}

/// Prints a command's answer. A closed pipe (`bawab schema | head`) is no failure.
fn answer(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
