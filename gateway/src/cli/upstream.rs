//! `bawab upstream`: how endpoints stand, and taking one out and back in, asked over the admin listener of the gateway that runs.

use std::process::ExitCode;

use super::ask::{self, Method};
use super::xdp::Config;

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Every upstream with its endpoints: whether each gets requests, why not, what runs on it, its last check.
    List(Config),
    /// Takes an endpoint out: it gets no more requests, and what runs on it is finished. It stays so over reloads.
    Drain {
        /// Whose.
        upstream: String,
        /// Its address, or a name as the configuration has it, which means all its addresses.
        endpoint: String,
        #[command(flatten)]
        config: Config,
    },
    /// Takes an endpoint back in.
    Undrain {
        /// Whose.
        upstream: String,
        /// Its address, or a name as the configuration has it.
        endpoint: String,
        #[command(flatten)]
        config: Config,
    },
}

pub(super) fn main(what: &What) -> ExitCode {
    let change = |word: &str, upstream: &str, endpoint: &str, config: &Config| {
        let query = ask::form(&[("upstream", upstream), ("endpoint", endpoint), ("format", "text")]);
        ask::show(&config.file, Method::Post, &format!("/upstreams/{word}?{query}"))
    };
    match what {
        What::List(config) => ask::show(&config.file, Method::Get, "/upstreams?format=text"),
        What::Drain { upstream, endpoint, config } => change("drain", upstream, endpoint, config),
        What::Undrain { upstream, endpoint, config } => change("undrain", upstream, endpoint, config),
    }
}
