//! `bawab xdp`: the doors in the kernel, asked over the admin listener of the gateway that runs; `detach` is for when none does.

use std::path::PathBuf;
use std::process::ExitCode;

use super::ask::{self, Method};
use super::{answer, usage};
use crate::control;

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// How the XDP program stands on each interface: mode, lists, bans, what it turned away, and whom.
    Status(Config),
    /// Loads the configuration again. With --confirm what ran before comes back, all of it, unless `bawab xdp confirm` comes in time.
    ///
    /// A gateway that watches its files has loaded a change before it is asked: `gateway.watch = false` leaves it to you.
    Apply {
        /// A time such as 60s: lock yourself out, and you are in again after it.
        #[arg(long, value_name = "TIME")]
        confirm: Option<String>,
        #[command(flatten)]
        config: Config,
    },
    /// Keeps what `apply --confirm` brought.
    Confirm(Config),
    /// Turns every drop in the kernel off at once, or on again: without a gateway or a configuration, and over restarts.
    ///
    /// User space goes on turning away.
    Bypass {
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        state: String,
        /// One interface instead of all that have the program.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
    },
    /// Removes the XDP program and all it knows from an interface, or from all of them; no gateway may be running with it.
    Detach {
        /// One interface, whether it is there still or not. All of them if it is not said.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub struct Config {
    /// The configuration of the gateway that is asked.
    #[arg(long = "config", value_name = "FILE", default_value = super::FILE_DEFAULT)]
    pub(super) file: PathBuf,
}

pub(super) fn main(what: &What) -> ExitCode {
    match what {
        What::Status(config) => ask::show(&config.file, Method::Get, "/xdp?format=text"),
        What::Apply { confirm, config } => {
            let mut pairs = vec![("format", "text")];
            pairs.extend(confirm.iter().map(|time| ("confirm", time.as_str())));
            ask::show(&config.file, Method::Post, &format!("/xdp/apply?{}", ask::form(&pairs)))
        }
        What::Confirm(config) => ask::show(&config.file, Method::Post, "/xdp/confirm?format=text"),
        What::Bypass { state, interface } => match control::bypass(interface.as_deref(), state == "on") {
            Ok(on) if on.is_empty() => usage("no XDP program of a gateway is attached"),
            Ok(on) => answer(&match state.as_str() {
                "on" => {
                    format!("the kernel drops nothing any more on {}; user space turns away as before\n", on.join(", "))
                }
                _ => format!("the kernel drops again on {}\n", on.join(", ")),
            }),
            Err(error) => usage(&error.to_string()),
        },
        What::Detach { interface } => match control::detach(interface.as_deref()) {
            Ok(removed) if removed.is_empty() => answer("nothing was attached\n"),
            Ok(removed) => answer(&format!("detached from {}\n", removed.join(", "))),
            Err(error) => usage(&error.to_string()),
        },
    }
}
