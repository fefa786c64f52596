//! `bench h2`: HTTP/2 over TLS 1.3 towards clients, HTTP/1.1 towards the service, through each peer, under h2load.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::front::Front;
use super::h2load::{self, CONNECTIONS_H2, STREAMS};
use super::peers::{Part, Peer, Stage};
use super::rounds;
use super::window::Window;
use super::{Options, cost};

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 9)?;
    let seconds: u64 = options.number("--seconds", 3)?;
    let mut peers = options.peers(&Peer::SECURE)?;
    options.done()?;
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    Peer::ensure_secure(&peers)?;

    let stage = Stage::set_with_present(&mut peers)?;
    cost::stay_on(stage.loading_core)?;
    println!(
        "measured on core {}, load and backend on core {}; {rounds} rounds, {seconds} s each, {CONNECTIONS_H2} connections of {STREAMS} streams",
        stage.measured_core, stage.loading_core
    );
    let busy = cost::busy(stage.measured_core)?;
    let backend = stage.start_backend()?;
    let part = Part { front: Front::Tls, ..Part::new(backend.address) };
    let log = stage.folder().join("h2load.log");
    let turns = rounds::run("h2", &peers, rounds, |peer| {
        let running = stage.start_peer(peer, &part)?;
        let url = format!("https://{}/small", running.address);
        Window::measure_under(&stage, running, Duration::from_secs(seconds), |time| {
            h2load::saturate(&url, stage.loading_core, time, &log)
        })
    })?;
    backend.server.stop()?;
    println!("\nHTTP/2 over TLS 1.3: GET /small");
    rounds::show(&turns, &peers);
    let wanted = [(Peer::Haproxy, 1.0), (Peer::Envoy, 0.4)];
    let bars: Vec<_> =
        wanted.iter().filter_map(|(peer, at_most)| rounds::bar(&turns, &[*peer], "request", *at_most)).collect();
    for bar in &bars {
        println!("  {bar}");
    }
    let more = json!({ "seconds": seconds, "connections": CONNECTIONS_H2, "streams": STREAMS, "busy_before": busy });
    rounds::close(stage.folder(), "h2", &turns, &bars, more)
}
