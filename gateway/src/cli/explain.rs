//! `bawab explain`: what the gateway would do, from a configuration file, or from the gateway that runs with it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{EXIT_USAGE, answer, ask, show_problems};
use crate::config;
use crate::explain::route::{Question, explain};
use crate::observe::metrics::Metrics;
use crate::snapshot;

/// What to explain.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Which route a request gets, why, and which others came close.
    ///
    /// Ends with 0 if there is a route, 1 if the request is refused or the configuration has problems, 2 if the command is wrong.
    Route(Route),
}

#[derive(Debug, clap::Args)]
pub struct Route {
    /// The method, such as GET.
    method: String,
    /// `https://host/path?query`, or `/path` for any host.
    url: String,
    /// A header field, `name: value`. May be there several times.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// The client's address. 127.0.0.1 if it is not said.
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = super::FILE_DEFAULT)]
    config: PathBuf,
    /// Ask the gateway that runs with this configuration, over its admin listener, instead of reading the routes here.
    #[arg(long)]
    running: bool,
}

pub(super) fn main(what: &What) -> ExitCode {
    match what {
        What::Route(route) => match route.running {
            true => running(route),
            false => written(route),
        },
    }
}

/// By the configuration as it is written now.
fn written(route: &Route) -> ExitCode {
    let question = match Question::new(&route.method, &route.url, &route.headers, route.client.as_deref()) {
        Ok(question) => question,
        Err(why) => return super::usage(&why),
    };
    let loaded = match config::load(&route.config) {
        Ok(loaded) => loaded,
        Err(problems) => return show_problems(&problems),
    };
    let snapshot = snapshot::compile(&loaded.config, &loaded.lists, &Metrics::new(1, &[]));
    let explained = explain(&snapshot, &question);
    let place = |index: usize| loaded.line(&format!("route[{index}].path"));
    let shown = answer(&explained.text(place));
    if explained.route.is_some() { shown } else { ExitCode::FAILURE }
}

/// By what runs.
fn running(route: &Route) -> ExitCode {
    let Route { method, url, headers, client, config, .. } = route;
    let mut query = form(&[("method", method), ("url", url)]);
    for header in headers {
        query.push_str(&format!("&{}", form(&[("header", header)])));
    }
    if let Some(client) = client {
        query.push_str(&format!("&{}", form(&[("client", client)])));
    }
    show(config, &format!("/explain/route?{query}&format=text"))
}

/// Asks the admin listener of `config` and prints what it says.
fn show(config: &Path, target: &str) -> ExitCode {
    let loaded = match config::load(config) {
        Ok(loaded) => loaded,
        Err(problems) => return show_problems(&problems),
    };
    match ask::get(&loaded.config, target) {
        Ok(said) => {
            let shown = answer(&said.body);
            match said.status {
                200 => shown,
                400 => ExitCode::from(EXIT_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
        Err(why) => super::usage(&why),
    }
}

/// Pairs as a query holds them (WHATWG URL §5.2).
fn form(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
            out
        })
    };
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    pairs.join("&")
}
