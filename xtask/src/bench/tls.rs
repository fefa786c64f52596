//! `bench tls`: HTTP/1.1 over TLS 1.3 through each peer, on connections that stay; and a GiB each way through the gateway.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::front::Front;
use super::peers::{Part, Peer, Stage};
use super::rounds::{self, Turn};
use super::window::Window;
use super::wrk::{self, Ask};
use super::{Options, cost, gigabyte};

const PARTS: [&str; 2] = ["requests", "gigabyte"];

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 9)?;
    let seconds: u64 = options.number("--seconds", 3)?;
    let mut peers = options.peers(&Peer::SECURE)?;
    let parts: Vec<&str> = options.text("--parts").map_or_else(|| PARTS.to_vec(), |names| names.split(',').collect());
    options.done()?;
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    Peer::ensure_secure(&peers)?;
    if let Some(part) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("no part is named `{part}` (there are {})", PARTS.join(", "));
    }

    let stage = Stage::set_with_present(&mut peers)?;
    cost::stay_on(stage.loading_core)?;
    println!(
        "measured on core {}, load and backend on core {}; {rounds} rounds, {seconds} s each, {} connections",
        stage.measured_core,
        stage.loading_core,
        wrk::CONNECTIONS
    );
    let busy = cost::busy(stage.measured_core)?;
    let mut more = json!({ "seconds": seconds, "connections": wrk::CONNECTIONS, "busy_before": busy });
    let mut turns = Vec::new();
    let mut bars = Vec::new();
    if parts.contains(&"requests") {
        turns = requests(&stage, &peers, rounds, Duration::from_secs(seconds))?;
        println!("\nHTTP/1.1 over TLS 1.3: GET /small");
        rounds::show(&turns, &peers);
        bars.extend(rounds::bar(&turns, &[Peer::Nginx], "request", 1.0));
    }
    if parts.contains(&"gigabyte") && peers.contains(&Peer::Gateway) {
        let streams = gigabyte::measure(&stage)?;
        bars.extend(streams.iter().map(gigabyte::Stream::bar));
        more["gigabyte"] = streams.iter().map(gigabyte::Stream::json).collect();
    }
    for bar in &bars {
        println!("  {bar}");
    }
    rounds::close(stage.folder(), "tls", &turns, &bars, more)
}

fn requests(stage: &Stage, peers: &[Peer], rounds: usize, time: Duration) -> Result<Vec<Turn>> {
    let openssl = stage.write("openssl.cnf", include_str!("peers/openssl.cnf"), &[])?;
    let backend = stage.start_backend()?;
    let part = Part { front: Front::Tls, ..Part::new(backend.address) };
    let turns = rounds::run("tls", peers, rounds, |peer| {
        let running = stage.start_peer(peer, &part)?;
        let url = format!("https://{}/small", running.address);
        Window::measure(stage, running, &Ask { openssl: Some(&openssl), ..Ask::one(&url) }, time)
    })?;
    backend.server.stop()?;
    Ok(turns)
}
