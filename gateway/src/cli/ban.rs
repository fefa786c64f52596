//! `bawab ban`: who is turned away for a time, asked over the admin listener of the gateway that runs.

use std::net::IpAddr;
use std::process::ExitCode;

use super::ask::{self, Method};
use super::xdp::Config;

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Bans an IPv4 address, or the /64 of an IPv6 address.
    Add {
        /// Whom.
        address: IpAddr,
        /// For how long, such as 10m.
        #[arg(long = "for", value_name = "TIME", default_value = "1h")]
        time: String,
        /// Why, for whoever asks later.
        #[arg(long, value_name = "TEXT", default_value = "by hand")]
        reason: String,
        #[command(flatten)]
        config: Config,
    },
    /// Ends a ban.
    Del {
        /// Whose.
        address: IpAddr,
        #[command(flatten)]
        config: Config,
    },
    /// Every ban, the next to end first.
    List(Config),
}

pub(super) fn main(what: &What) -> ExitCode {
    match what {
        What::Add { address, time, reason, config } => {
            let address = address.to_string();
            let query = ask::form(&[("address", &address), ("for", time), ("reason", reason), ("format", "text")]);
            ask::show(&config.file, Method::Post, &format!("/bans?{query}"))
        }
        What::Del { address, config } => {
            let query = ask::form(&[("address", &address.to_string()), ("format", "text")]);
            ask::show(&config.file, Method::Delete, &format!("/bans?{query}"))
        }
        What::List(config) => ask::show(&config.file, Method::Get, "/bans?format=text"),
    }
}
