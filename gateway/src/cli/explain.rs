//! `bawab explain`: what the gateway would do, from a configuration file, or from the gateway that runs with it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::ask::{self, Method};
use super::{answer, show_problems};
use crate::config;
use crate::explain::ip;
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
    /// What the lists say about an address, which line says so, and whether it is banned.
    Ip(Ip),
}

#[derive(Debug, clap::Args)]
pub struct Ip {
    /// The client's address.
    address: IpAddr,
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = super::FILE_DEFAULT)]
    config: PathBuf,
    /// Ask the gateway that runs with this configuration: bans and the doors in the kernel are known there only.
    #[arg(long)]
    running: bool,
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
        What::Ip(ip) => address(ip),
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
    let snapshot = snapshot::compile(&loaded.config, &loaded.lists, &loaded.tls, &Metrics::new(1, &[]));
    let explained = explain(&snapshot, &question);
    let place = |index: usize| loaded.line(&format!("route[{index}].path"));
    let shown = answer(&explained.text(place));
    if explained.route.is_some() { shown } else { ExitCode::FAILURE }
}

/// By what runs.
fn running(route: &Route) -> ExitCode {
    let Route { method, url, headers, client, config, .. } = route;
    let mut pairs = vec![("method", method.as_str()), ("url", url), ("format", "text")];
    pairs.extend(headers.iter().map(|header| ("header", header.as_str())));
    pairs.extend(client.iter().map(|client| ("client", client.as_str())));
    ask::show(config, Method::Get, &format!("/explain/route?{}", ask::form(&pairs)))
}

/// By the lists as they are written now.
fn address(ip: &Ip) -> ExitCode {
    if ip.running {
        let query = ask::form(&[("address", &ip.address.to_string()), ("format", "text")]);
        return ask::show(&ip.config, Method::Get, &format!("/explain/ip?{query}"));
    }
    let loaded = match config::load(&ip.config) {
        Ok(loaded) => loaded,
        Err(problems) => return show_problems(&problems),
    };
    let snapshot = snapshot::compile(&loaded.config, &loaded.lists, &loaded.tls, &Metrics::new(1, &[]));
    answer(&ip::explain(&snapshot, ip.address, None).text())
}
