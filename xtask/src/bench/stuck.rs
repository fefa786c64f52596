//! `bench stuck`: 1,000 clients that stop in the middle of a head, beside clients that do not. The stuck ones have to be
//! let go when the head's deadline is over, and nobody else may notice them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::peers::{Part, Peer, Stage};
use super::report::Spread;
use super::wrk::{self, Ask, Load};
use super::{Options, cost, crowd};

const CROWD: usize = 1_000;
/// The deadline all peers are configured with (`timeouts.head`).
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// What the sweep that enforces it may add.
const GRACE: Duration = Duration::from_secs(2);
/// How much longer p99 may become beside the stuck crowd; below this the machine's own noise decides.
const P99_RATIO_MAX: f64 = 1.5;

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let peers = options.peers(&[Peer::Gateway, Peer::Nginx, Peer::Haproxy])?;
    options.done()?;
    ensure!(!peers.contains(&Peer::Floor), "the floor has no deadlines");
    let stage = Stage::set(&peers)?;
    cost::stay_on(stage.loading_core)?;
    crowd::allow_descriptors(CROWD as u64 + 1000)?;
    println!("{CROWD} clients stop inside a head (deadline {HEAD_DEADLINE:?}) beside {} that work", wrk::CONNECTIONS);
    let mut held = true;
    let mut results = Vec::new();
    for peer in peers {
        let (outcome, result) = measure(&stage, peer)?;
        // Only the gateway is held to anything; the others show what is usual.
        held &= outcome || peer != Peer::Gateway;
        results.push(result);
    }
    std::fs::write(
        stage.folder().join("stuck.json"),
        serde_json::to_string_pretty(&json!({ "bench": "stuck", "peers": results }))?,
    )?;
    Ok(held)
}

fn measure(stage: &Stage, peer: Peer) -> Result<(bool, serde_json::Value)> {
    let backend = stage.start_backend()?;
    let part = Part::new(backend.address);
    let running = stage.start_peer(peer, &part)?;
    let url = format!("http://{}/small", running.address);
    let window = HEAD_DEADLINE + GRACE;
    wrk::load(&Ask::one(&url), stage.loading_core, Duration::from_secs(1))?;
    let alone = wrk::load(&Ask::one(&url), stage.loading_core, window)?;

    let mut crowd = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        let mut stream = crowd::join(running.address, number)?;
        stream.send("GET /small HTTP/1.1\r\nHost: bench\r\nX-Half")?;
        crowd.push(stream);
    }
    let loading_core = stage.loading_core;
    let beside = std::thread::spawn(move || wrk::load(&Ask::one(&url), loading_core, window));
    let ends = crowd::watch(crowd, window + GRACE)?;
    let beside = beside.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))??;
    running.server.stop()?;
    backend.server.stop()?;

    let closed = ends.iter().flatten().count();
    let after = Spread::of(ends.iter().flatten().map(|end| end.after.as_secs_f64()));
    let mut said: BTreeMap<String, usize> = BTreeMap::new();
    for end in ends.iter().flatten() {
        let line = String::from_utf8_lossy(&end.said).lines().next().unwrap_or("(nothing)").to_owned();
        *said.entry(line).or_default() += 1;
    }
    let on_time = closed == CROWD && after.is_some_and(|after| after.max <= (HEAD_DEADLINE + GRACE).as_secs_f64());
    let slower = beside.p99.as_secs_f64() / alone.p99.as_secs_f64();
    let untouched = slower <= P99_RATIO_MAX && beside.errors == 0;
    println!(
        "{}: {closed} of {CROWD} closed after {} s; they were told {said:?}",
        peer.name(),
        after.map_or_else(String::new, |after| after.to_string())
    );
    println!("  without them {}\n  beside them  {}  p99 x {slower:.2}", shown(&alone), shown(&beside));
    if peer == Peer::Gateway {
        println!(
            "  {}  closed on time; {}  nothing else slowed (p99 at most x {P99_RATIO_MAX}, no errors)",
            verdict(on_time),
            verdict(untouched)
        );
    }
    let result = json!({
        "peer": peer.name(), "closed": closed, "seconds": after.context("none was closed").map(Spread::json).ok(),
        "p99_alone_us": alone.p99.as_micros() as u64, "p99_beside_us": beside.p99.as_micros() as u64,
        "per_second_alone": alone.per_second, "per_second_beside": beside.per_second, "errors": beside.errors,
    });
    Ok((on_time && untouched, result))
}

fn shown(load: &Load) -> String {
    format!("{:.0} req/s, p50 {:?}, p99 {:?}, {} errors", load.per_second, load.p50, load.p99, load.errors)
}

fn verdict(held: bool) -> &'static str {
    if held { "met" } else { "missed" }
}
