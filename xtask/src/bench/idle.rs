//! `bench idle`: what a connection costs in memory when its client is silent: the growth of resident memory between 2,000
//! and 8,000 connections. Plain ones and those over TLS made one request each before; those over HTTP/2 only exchanged
//! settings.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::peers::{Part, Peer, Stage};
use super::report::{Bar, Spread, table};
use super::silent::{Protocol, Silent};
use super::{Options, cost, crowd};

const FEW: usize = 2_000;
const MANY: usize = 8_000;
/// Every so many connections one is asked again at the end: idle must not mean forgotten.
const ASK_AGAIN_EVERY: usize = 100;
/// Time for buffers to be given back after the last exchange.
const SETTLE: Duration = Duration::from_secs(2);
/// Seconds a client may take until its first request: longer than opening them all takes, since those over HTTP/2 make none.
const HEAD_WAIT_S: u32 = 300;

/// KiB of resident memory an idle connection of the gateway may cost.
fn kib_max(protocol: Protocol) -> f64 {
    match protocol {
        Protocol::Plain => 1.0,
        Protocol::Tls => 24.0,
        Protocol::H2 => 40.0,
    }
}

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 1)?;
    let mut peers = options.peers(&Peer::SECURE)?;
    let protocols: Vec<Protocol> = match options.text("--protocols") {
        Some(names) => names.split(',').map(Protocol::from_name).collect::<Result<_>>()?,
        None => Protocol::ALL.to_vec(),
    };
    options.done()?;
    ensure!(rounds > 0, "at least one round");
    ensure!(
        !peers.contains(&Peer::Floor),
        "the floor keeps a buffer and an upstream connection per client: it is no measure here"
    );

    let stage = Stage::set_with_present(&mut peers)?;
    cost::stay_on(stage.loading_core)?;
    crowd::allow_descriptors(MANY as u64 + 1000)?;
    let mut bars = Vec::new();
    let mut found = Vec::new();
    for protocol in protocols {
        let mut lines =
            vec![["peer", "KiB per connection", "RSS MiB at 2,000", "at 8,000"].map(str::to_owned).to_vec()];
        for &peer in &peers {
            let mut slopes = Vec::new();
            let mut last = (0, 0);
            for _ in 0..rounds {
                last =
                    measure(&stage, peer, protocol).with_context(|| format!("{} {}", peer.name(), protocol.name()))?;
                slopes.push((last.1 as f64 - last.0 as f64) / (MANY - FEW) as f64);
            }
            let Some(slope) = Spread::of(slopes) else { continue };
            let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
            lines.push(vec![peer.name().to_owned(), slope.to_string(), mib(last.0), mib(last.1)]);
            found.push(json!({ "protocol": protocol.name(), "peer": peer.name(), "kib_per_connection": slope.json() }));
            if peer == Peer::Gateway {
                let claim = format!("idle: KiB of resident memory per {} connection", protocol.name());
                bars.push(Bar { claim, at_most: kib_max(protocol), found: slope });
            }
        }
        println!("idle connections, {}\n{}", protocol.name(), table(&lines));
    }
    for bar in &bars {
        println!("  {bar}");
    }
    let text = json!({
        "bench": "idle", "few": FEW, "many": MANY, "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(), "peers": found,
    });
    std::fs::write(stage.folder().join("idle.json"), serde_json::to_string_pretty(&text)?)?;
    Ok(bars.iter().all(Bar::is_met))
}

/// Resident KiB with few and with many connections.
fn measure(stage: &Stage, peer: Peer, protocol: Protocol) -> Result<(u64, u64)> {
    let backend = stage.start_backend()?;
    let part = Part { front: protocol.front(), head_wait_s: HEAD_WAIT_S, ..Part::new(backend.address) };
    let running = stage.start_peer(peer, &part)?;
    let silent = Silent::new(stage, protocol)?;
    let mut crowd = Vec::with_capacity(MANY);
    let mut resident = [0; 2];
    for (many, resident) in [FEW, MANY].into_iter().zip(&mut resident) {
        while crowd.len() < many {
            crowd.push(silent.join(running.address, crowd.len())?);
        }
        std::thread::sleep(SETTLE);
        *resident = cost::resident_kib(running.server.pid())?;
    }
    for peer in crowd.iter_mut().step_by(ASK_AGAIN_EVERY) {
        silent.ask_again(peer)?;
    }
    running.server.stop()?;
    backend.server.stop()?;
    Ok((resident[0], resident[1]))
}
