//! `bench idle`: what a connection costs in memory when its client is silent: the growth of resident memory between 2,000
//! and 8,000 keep-alive connections, each after one request.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::peers::{Part, Peer, Stage};
use super::report::{Bar, Spread, table};
use super::{Options, cost, crowd};

const FEW: usize = 2_000;
const MANY: usize = 8_000;
/// KiB of resident memory an idle connection of the gateway may cost.
const KIB_MAX: f64 = 1.0;
/// Every so many connections one is asked again at the end: idle must not mean forgotten.
const ASK_AGAIN_EVERY: usize = 100;
/// Time for buffers to be given back after the last exchange.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 1)?;
    let peers = options.peers(&[Peer::Gateway, Peer::Nginx, Peer::Haproxy, Peer::Envoy, Peer::Traefik])?;
    options.done()?;
    ensure!(rounds > 0, "at least one round");
    ensure!(
        !peers.contains(&Peer::Floor),
        "the floor keeps a buffer and an upstream connection per client: it is no measure here"
    );

    let stage = Stage::set(&peers)?;
    cost::stay_on(stage.loading_core)?;
    crowd::allow_descriptors(MANY as u64 + 1000)?;
    let mut lines = vec![["peer", "KiB per connection", "RSS MiB at 2,000", "at 8,000"].map(str::to_owned).to_vec()];
    let mut found = Vec::new();
    for peer in peers {
        let mut slopes = Vec::new();
        let mut last = (0, 0);
        for _ in 0..rounds {
            last = measure(&stage, peer)?;
            slopes.push((last.1 as f64 - last.0 as f64) / (MANY - FEW) as f64);
        }
        if let Some(slope) = Spread::of(slopes) {
            let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
            lines.push(vec![peer.name().to_owned(), slope.to_string(), mib(last.0), mib(last.1)]);
            found.push((peer, slope));
        }
    }
    println!("idle keep-alive connections, one request each before\n{}", table(&lines));
    let slope = found.iter().find(|(peer, _)| *peer == Peer::Gateway).map(|(_, slope)| *slope);
    let bar = slope.map(|found| Bar {
        claim: "idle: KiB of resident memory per connection".to_owned(),
        at_most: KIB_MAX,
        found,
    });
    if let Some(bar) = &bar {
        println!("  {bar}");
    }
    let text = json!({
        "bench": "idle", "few": FEW, "many": MANY, "bars": bar.iter().map(Bar::json).collect::<Vec<_>>(),
        "peers": found.iter().map(|(peer, slope)| json!({ "peer": peer.name(), "kib_per_connection": slope.json() })).collect::<Vec<_>>(),
    });
    std::fs::write(stage.folder().join("idle.json"), serde_json::to_string_pretty(&text)?)?;
    Ok(bar.is_none_or(|bar| bar.is_met()))
}

/// Resident KiB with few and with many connections.
fn measure(stage: &Stage, peer: Peer) -> Result<(u64, u64)> {
    let backend = stage.start_backend()?;
    let part = Part::new(backend.address);
    let running = stage.start_peer(peer, &part)?;
    let mut crowd = Vec::with_capacity(MANY);
    let mut resident = [0; 2];
    for (many, resident) in [FEW, MANY].into_iter().zip(&mut resident) {
        while crowd.len() < many {
            let mut stream = crowd::join(running.address, crowd.len())?;
            crowd::exchange(&mut stream)?;
            crowd.push(stream);
        }
        std::thread::sleep(SETTLE);
        *resident = cost::resident_kib(running.server.pid())?;
    }
    for stream in crowd.iter_mut().step_by(ASK_AGAIN_EVERY) {
        crowd::exchange(stream)?;
    }
    running.server.stop()?;
    backend.server.stop()?;
    Ok((resident[0], resident[1]))
}
