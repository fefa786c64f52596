//! `bench chaos`: requests at a fixed rate beside endpoints that are killed, stopped, slow, silent or wrong, at most a
//! quarter of them at one time. Clients must not notice.
//!
//! Every front gets the same schedule, the same three attempts with the same time each, and the best its configuration has
//! for finding out who is bad (`peers/chaos-*`): each drops endpoints that fail, and those that can also check them. Endpoints answer
//! in one piece of a few bytes: what was cut within an answer no front could mend without holding all of it back.

pub(super) mod endpoint;
mod load;
mod schedule;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::Peer as Connection;
use e2e::message::Message;
use e2e::metrics::Metrics;
use serde_json::{Value, json};

use self::endpoint::Endpoint;
use self::load::Outcome;
use self::schedule::{BAD_MAX, ENDPOINTS, Episode, Turn};
use super::peers::{self, Peer, Running, Stage};
use super::report::{Bar, Spread, table};
use super::{Options, cost};

/// What is shown of the answers that were lost.
const LOST_SHOWN_MAX: usize = 10;
/// Requests that are sent so much too late say nothing about who answers them, and endpoints that get no CPU are bad ones.
const LATE_MAX: Duration = Duration::from_millis(100);
/// Until every front has looked at every endpoint.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let seconds: u64 = options.number("--seconds", 300)?;
    let rate: f64 = options.number("--rate", 1000.0)?;
    let seed: u64 = options.number("--seed", 1)?;
    let peers = options.peers(&[Peer::Gateway, Peer::Nginx, Peer::Envoy])?;
    options.done()?;
    ensure!(seconds >= 10, "at least 10 s: for the first two nothing is bad");
    ensure!((1.0..=10_000.0).contains(&rate), "1 to 10000 requests a second");
    for peer in &peers {
        ensure!(
            matches!(peer, Peer::Gateway | Peer::Nginx | Peer::Envoy),
            "{} has no configuration for bad endpoints here",
            peer.name()
        );
    }
    let stage = Stage::set(&peers)?;
    cost::stay_on(stage.loading_core)?;
    let time = Duration::from_secs(seconds);
    let episodes = schedule::draw(seed, time);
    println!(
        "{rate} requests a second for {seconds} s at {ENDPOINTS} endpoints, at most {BAD_MAX} of them bad at one time; seed {seed}"
    );
    for episode in &episodes {
        println!("  {episode}");
    }
    let busy = [cost::busy(stage.measured_core)?, cost::busy(stage.loading_core)?];
    let mut found = Vec::new();
    for &peer in &peers {
        let outcome = play(&stage, peer, &episodes, rate, time).context(peer.name())?;
        tell(peer, &outcome, &episodes);
        found.push((peer, outcome));
    }
    show(&found);
    let bars = bars(&found);
    for bar in &bars {
        println!("  {bar}");
    }
    let text = json!({
        "bench": "chaos", "seconds": seconds, "rate": rate, "seed": seed, "episodes": episodes.len(), "busy_before": busy,
        "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
        "fronts": found.iter().map(|(peer, outcome)| figures(*peer, outcome)).collect::<Vec<_>>(),
    });
    fs::write(stage.folder().join("chaos.json"), serde_json::to_string_pretty(&text)?)?;
    Ok(bars.iter().all(Bar::is_met))
}

/// One front, from the first request to the last.
fn play(stage: &Stage, peer: Peer, episodes: &[Episode], rate: f64, time: Duration) -> Result<Outcome> {
    let mut endpoints =
        (0..ENDPOINTS).map(|number| Endpoint::start(number, stage.loading_core)).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let front = Front::start(stage, peer, &addresses)?;
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    let outcome = thread::scope(|scope| {
        let load = scope.spawn(|| load::run(front.running.address, rate, (begin, time), &over));
        // Endpoints that are started anew end with the thread that started them, so it is this one.
        let played = schedule::turns(episodes).into_iter().try_for_each(|Turn { at, endpoint, badness, begins }| {
            thread::sleep((begin + at).saturating_duration_since(Instant::now()));
            let endpoint = &mut endpoints[endpoint];
            if begins { endpoint.begin(badness) } else { endpoint.end(badness) }
        });
        over.store(played.is_err(), Ordering::Relaxed);
        let outcome = load.join().map_err(|_| anyhow!("the load panicked"))?;
        played.and(outcome)
    })?;
    front.stop()?;
    Ok(outcome)
}

/// A front before its endpoints.
struct Front {
    running: Running,
    /// Of the gateway.
    admin: SocketAddr,
    log: PathBuf,
    peer: Peer,
}

impl Front {
    fn start(stage: &Stage, peer: Peer, endpoints: &[SocketAddr]) -> Result<Self> {
        let [address, admin] = peers::free_addresses()?;
        let log = stage.folder().join(format!("chaos-{}.access.log", peer.name()));
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let words = [
            ("port", address.port().to_string()),
            ("admin", admin.to_string()),
            ("log", log.display().to_string()),
            ("endpoints", endpoints.iter().map(|endpoint| written(peer, *endpoint)).collect()),
        ];
        let (name, template) = match peer {
            Peer::Gateway => ("chaos-gateway.toml", include_str!("peers/chaos-gateway.toml")),
            Peer::Nginx => ("chaos-nginx.conf", include_str!("peers/chaos-nginx.conf")),
            _ => ("chaos-envoy.yaml", include_str!("peers/chaos-envoy.yaml")),
        };
        let file = stage.write(name, template, &words)?;
        let running = stage.start_configured(peer, &file, address)?;
        // Some listen before they know of an endpoint that is well.
        thread::sleep(SETTLE);
        Ok(Self { running, admin, log, peer })
    }

    fn stop(self) -> Result<()> {
        if self.peer == Peer::Gateway {
            for line in self.seen()? {
                println!("  {line}");
            }
        }
        self.running.server.stop()?;
        Ok(())
    }

    /// What the gateway has seen: its counters of what went wrong, and the requests it could not save.
    fn seen(&self) -> Result<Vec<String>> {
        let mut connection = Connection::connect(self.admin)?;
        connection.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let answer = Message::answer(&mut connection, "GET")?;
        ensure!(answer.head.status() == 200, "/metrics answered `{}`", answer.head.start);
        let metrics = Metrics::parse(&answer.text());
        let sum = |name: &str| metrics.sum(name, &[]);
        let retries = ["stale", "connect", "reset", "timeout", "status"]
            .map(|cause| format!("{cause} {}", metrics.sum("bawab_upstream_retries_total", &[("cause", cause)])));
        let mut lines = vec![format!(
            "repeated for {}; over budget {}, exhausted {}; ejections {}",
            retries.join(", "),
            sum("bawab_upstream_retries_over_budget_total"),
            sum("bawab_upstream_retries_exhausted_total"),
            sum("bawab_upstream_ejections_total"),
        )];
        let log = fs::read_to_string(&self.log)?;
        let is_lost = |line: &&str| {
            serde_json::from_str::<Value>(line).map_or(true, |value| value["status"].as_u64() != Some(200))
        };
        lines.extend(log.lines().filter(is_lost).take(LOST_SHOWN_MAX).map(str::to_owned));
        Ok(lines)
    }
}

/// An endpoint, as a front writes it.
fn written(peer: Peer, endpoint: SocketAddr) -> String {
    match peer {
        Peer::Gateway => format!("\"{endpoint}\", "),
        Peer::Nginx => format!("        server {endpoint} max_fails=1 fail_timeout=10s;\n"),
        _ => format!(
            "              - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}\n",
            endpoint.ip(),
            endpoint.port()
        ),
    }
}

/// What was lost, and beside which bad endpoints.
fn tell(peer: Peer, outcome: &Outcome, episodes: &[Episode]) {
    println!(
        "  {:<9}{} requests, {} lost {:?}",
        peer.name(),
        outcome.requests(),
        outcome.tally.lost(),
        outcome.tally.lost
    );
    for told in &outcome.tally.told {
        println!("    {told}");
    }
    for at in outcome.lost_at.iter().take(LOST_SHOWN_MAX) {
        let bad = episodes.iter().filter(|episode| (episode.begin..=episode.end).contains(at));
        let bad: Vec<String> = bad
            .map(|episode| format!("{} for {:.1} s", episode.badness.name(), (*at - episode.begin).as_secs_f64()))
            .collect();
        println!("    lost at {:.2} s, beside {}", at.as_secs_f64(), bad.join(", "));
    }
}

fn show(found: &[(Peer, Outcome)]) {
    let millis = |time: Option<Duration>| {
        time.map_or_else(|| "lost".to_owned(), |time| format!("{:.2}", time.as_secs_f64() * 1e3))
    };
    let titles = ["front", "requests", "lost", "p50 ms", "p99 ms", "p99.9 ms", "longest", "sent late"];
    let mut lines = vec![titles.map(str::to_owned).to_vec()];
    for (peer, outcome) in found {
        lines.push(vec![
            peer.name().to_owned(),
            outcome.requests().to_string(),
            outcome.tally.lost().to_string(),
            millis(outcome.quantile(0.5)),
            millis(outcome.quantile(0.99)),
            millis(outcome.quantile(0.999)),
            millis(outcome.quantile(1.0)),
            millis(Some(outcome.late(0.999))),
        ]);
    }
    println!(
        "\n{}  (latencies from when a request was due; `sent late`: p99.9 of the load's own delay)",
        table(&lines)
    );
    if found.iter().any(|(_, outcome)| outcome.late(0.999) > LATE_MAX) {
        println!("  the load could not keep its rate: measure again on a quiet machine");
    }
}

fn bars(found: &[(Peer, Outcome)]) -> Vec<Bar> {
    let of_gateway = found.iter().filter(|(peer, _)| *peer == Peer::Gateway);
    of_gateway
        .map(|(_, outcome)| {
            let lost = outcome.tally.lost() as f64;
            Bar {
                claim: "chaos: requests lost".to_owned(),
                at_most: 0.0,
                found: Spread { median: lost, min: lost, max: lost },
            }
        })
        .collect()
}

fn figures(peer: Peer, outcome: &Outcome) -> Value {
    let micros = |part| outcome.quantile(part).map(|time| time.as_micros() as u64);
    json!({
        "front": peer.name(), "requests": outcome.requests(), "lost": outcome.tally.lost(),
        "p50_us": micros(0.5), "p99_us": micros(0.99), "p999_us": micros(0.999), "longest_us": micros(1.0),
        "late_p999_us": outcome.late(0.999).as_micros() as u64,
    })
}
