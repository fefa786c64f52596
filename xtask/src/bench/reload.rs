//! `bench reload`: 10,000 routes, of which one is changed once a second, beside a load of 40 % of what the peer can do.
//!
//! Each round starts a peer anew and measures two windows, with reloads and without, in an order that changes from round
//! to round; ratios are taken within a round. In the window without them files are written and the change is looked for
//! all the same, so that only the peer's own work makes the difference. A reload counts when an answer shows that it is in
//! effect: a peer that ignores them is not quick.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use e2e::Peer as Connection;
use e2e::message::Message;
use e2e::metrics::Metrics;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::h2load::{self, Outcome, Plan};
use super::peers::{self, Peer, Running, Stage};
use super::report::{Bar, Spread, table};
use super::{Options, cost, wrk};

const ROUTES: usize = 10_000;
/// Routes that are asked for, spread over all of them.
const ASKED: usize = 1_000;
/// Of the requests per second a peer answers when asked as fast as it can.
const LOAD_PART: f64 = 0.4;
const CAPACITY_TIME: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(1);
/// How often the change is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Times it is looked for, each second, where nothing changes.
const LOOKS_WITHOUT: u32 = 10;
/// p99 beside reloads: at most so many times what it is without, or so much more, whichever is more.
const P99_RATIO_MAX: f64 = 1.5;
const P99_MORE_MAX: Duration = Duration::from_millis(2);
/// Milliseconds in which a worker exchanges its snapshot.
const SWAP_MS_MAX: f64 = 1.0;

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 7)?;
    let seconds: u64 = options.number("--seconds", 10)?;
    let peers = options.peers(&[Peer::Gateway, Peer::Nginx, Peer::Traefik])?;
    options.done()?;
    ensure!(rounds > 0 && seconds > 1, "at least one round of two seconds");
    for peer in &peers {
        ensure!(
            matches!(peer, Peer::Gateway | Peer::Nginx | Peer::Traefik),
            "{} has no configuration of 10,000 routes here",
            peer.name()
        );
    }
    ensure!(crate::process::find("h2load").is_some(), "`h2load` is not installed; `cargo xtask setup` says what to do");
    let stage = Stage::set(&peers)?;
    cost::stay_on(stage.loading_core)?;
    println!(
        "{ROUTES} routes, one changed every {EVERY:?}; {} connections at {:.0} % of capacity; {rounds} rounds of twice {seconds} s",
        wrk::CONNECTIONS,
        LOAD_PART * 100.0
    );
    let busy = [cost::busy(stage.measured_core)?, cost::busy(stage.loading_core)?];
    let backend = stage.start_backend()?;
    let mut capacities = Vec::new();
    for &peer in &peers {
        let place = Place::new(&stage, peer, backend.address)?;
        let running = place.start(&stage)?;
        let uris = place.write_uris(&stage)?;
        let measure = |time| h2load::capacity(&uris, stage.loading_core, time).context(peer.name());
        measure(WARM_UP)?;
        let capacity = measure(CAPACITY_TIME)?;
        running.server.stop()?;
        println!("  {:<9}capacity {capacity:.0} req/s", peer.name());
        capacities.push(capacity);
    }
    let mut found = Vec::new();
    for round in 0..rounds {
        let mut order: Vec<(Peer, f64)> = peers.iter().copied().zip(capacities.iter().copied()).collect();
        let turns = round % order.len().max(1);
        order.rotate_left(turns);
        for (peer, capacity) in order {
            let place = Place::new(&stage, peer, backend.address)?;
            let pair = measure(&stage, &place, capacity * LOAD_PART, Duration::from_secs(seconds), round % 2 == 1)?;
            println!("  round {:<3}{:<9}{pair}", round + 1, peer.name());
            found.push((peer, pair));
        }
    }
    backend.server.stop()?;
    let bars = show(&found, &peers);
    for bar in &bars {
        println!("  {bar}");
    }
    let text = json!({
        "bench": "reload", "routes": ROUTES, "seconds": seconds, "busy_before": busy,
        "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
        "rounds": found.iter().map(|(peer, pair)| pair.json(*peer)).collect::<Vec<_>>(),
    });
    fs::write(stage.folder().join("reload.json"), serde_json::to_string_pretty(&text)?)?;
    Ok(bars.iter().all(Bar::is_met))
}

/// A peer's files and addresses.
struct Place {
    peer: Peer,
    address: SocketAddr,
    /// The gateway's admin listener.
    admin: SocketAddr,
    /// What it is started with.
    file: PathBuf,
    /// What is changed: the same file but for Traefik, which watches the folder of this one.
    changing: PathBuf,
    /// The text of that, up to the generation and behind it.
    text: (String, String),
}

impl Place {
    fn new(stage: &Stage, peer: Peer, backend: SocketAddr) -> Result<Self> {
        let [address, admin] = peers::free_addresses()?;
        let folder = stage.folder().join(format!("reload-{}", peer.name()));
        fs::create_dir_all(&folder)?;
        let words = [
            ("port", address.port().to_string()),
            ("admin", admin.to_string()),
            ("backend", backend.port().to_string()),
            ("folder_watched", folder.display().to_string()),
            ("routes", (0..ROUTES).map(|number| route(peer, number)).collect()),
        ];
        let (name, template) = match peer {
            Peer::Gateway => ("reload-gateway.toml", include_str!("peers/reload-gateway.toml")),
            Peer::Nginx => ("reload-nginx.conf", include_str!("peers/reload-nginx.conf")),
            _ => ("reload-traefik-routes.yaml", include_str!("peers/reload-traefik-routes.yaml")),
        };
        let text = fs::read_to_string(stage.write(name, template, &words)?)?;
        let (before, behind) =
            text.split_once("@generation@").context("the template has a place for the generation")?;
        let text = (before.to_owned(), behind.to_owned());
        let changing = folder.join(name);
        let file = match peer {
            Peer::Traefik => {
                stage.write("reload-traefik.yaml", include_str!("peers/reload-traefik.yaml"), &words[..4])?
            }
            _ => changing.clone(),
        };
        Ok(Self { peer, address, admin, file, changing, text })
    }

    fn start(&self, stage: &Stage) -> Result<Running> {
        fs::rename(self.write(stage, 0)?, &self.changing)?;
        let running = stage.start_configured(self.peer, &self.file, self.address)?;
        // Traefik listens before it has its routes.
        let begin = Instant::now();
        while self.generation().ok() != Some(0) {
            ensure!(begin.elapsed() < Duration::from_secs(60), "{} does not serve its routes", self.peer.name());
            thread::sleep(LOOK);
        }
        Ok(running)
    }

    /// Writes the configuration of a generation where nobody looks for it.
    fn write(&self, stage: &Stage, generation: u64) -> Result<PathBuf> {
        let file = stage.folder().join("reload.next");
        let generation = generation.to_string();
        let mut written = fs::File::create(&file)?;
        for part in [&self.text.0, &generation, &self.text.1] {
            written.write_all(part.as_bytes())?;
        }
        Ok(file)
    }

    /// Puts a generation in place, complete at once as every operator's tool does it, and tells the peer.
    fn reload(&self, stage: &Stage, pid: u32, generation: u64) -> Result<()> {
        fs::rename(self.write(stage, generation)?, &self.changing)?;
        if self.peer == Peer::Traefik {
            return Ok(());
        }
        // All that `nginx -s reload` does to the server; reading 10,000 locations once more to find its process would
        // cost the load's core more than the reload itself.
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id is positive")?;
        kill_process(pid, Signal::HUP).context("SIGHUP")
    }

    /// What the load asks for.
    fn write_uris(&self, stage: &Stage) -> Result<PathBuf> {
        let file = stage.folder().join("reload.uris");
        let uri = |number: usize| format!("http://{}/r/{:04}/x\n", self.address, number * ROUTES / ASKED);
        fs::write(&file, (0..ASKED).map(uri).collect::<String>())?;
        Ok(file)
    }

    /// The generation a new client meets.
    fn generation(&self) -> Result<u64> {
        let mut connection = Connection::connect(self.address)?;
        connection.send("GET /r/generation HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let answer = Message::answer(&mut connection, "GET")?;
        let value = answer.head.field("x-generation").with_context(|| format!("answered `{}`", answer.head.start))?;
        value.parse().with_context(|| format!("`{value}` is no generation"))
    }

    /// A reading of the gateway's metrics.
    fn metrics(&self) -> Result<Metrics> {
        let mut connection = Connection::connect(self.admin)?;
        connection.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let answer = Message::answer(&mut connection, "GET")?;
        ensure!(answer.head.status() == 200, "/metrics answered `{}`", answer.head.start);
        Ok(Metrics::parse(&answer.text()))
    }
}

/// One route, as a peer writes it.
fn route(peer: Peer, number: usize) -> String {
    match peer {
        Peer::Gateway => {
            format!("[[route]]\npath = \"/r/{number:04}/**\"\nupstream = \"service\"\nauth = \"none\"\n\n")
        }
        Peer::Nginx => format!("        location /r/{number:04}/ {{ proxy_pass http://backend; }}\n"),
        _ => format!(
            "    r{number:04}: {{ rule: \"PathPrefix(`/r/{number:04}/`)\", entryPoints: [public], service: service }}\n"
        ),
    }
}

/// What reloads of one window did.
#[derive(Debug, Default)]
struct Reloads {
    made: u64,
    /// Seconds until each of those that came into effect did.
    seconds: Vec<f64>,
    /// Longest turn and longest swap of a worker of the gateway, over one reading a second of a window of their own.
    turn_ms: Option<f64>,
    swap_ms: Option<f64>,
}

/// A round of one peer.
struct Pair {
    without: Outcome,
    with: Outcome,
    reloads: Reloads,
}

fn measure(stage: &Stage, place: &Place, rate: f64, time: Duration, reloads_first: bool) -> Result<Pair> {
    let running = place.start(stage)?;
    let pid = running.server.pid();
    let uris = place.write_uris(stage)?;
    let log = stage.folder().join("reload.h2load.log");
    let plan = |time| Plan { uris: &uris, rate, time, core: stage.loading_core, log: &log };
    h2load::load(&plan(WARM_UP))?;
    let window = |besides: Besides| {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let beside = scope.spawn(|| beside(&over, stage, place, pid, besides));
            let outcome = h2load::load(&plan(time));
            over.store(true, Ordering::Relaxed);
            let reloads = beside.join().map_err(|_| anyhow::anyhow!("the thread of the reloads panicked"))??;
            Ok::<_, anyhow::Error>((outcome?, reloads))
        })
    };
    let (without, with, mut reloads);
    if reloads_first {
        (with, reloads) = window(Besides::Reloads)?;
        (without, _) = window(Besides::Nothing)?;
    } else {
        (without, _) = window(Besides::Nothing)?;
        (with, reloads) = window(Besides::Reloads)?;
    }
    if place.peer == Peer::Gateway {
        let (_, watched) = window(Besides::WatchedReloads)?;
        (reloads.turn_ms, reloads.swap_ms) = (watched.turn_ms, watched.swap_ms);
    }
    running.server.stop()?;
    Ok(Pair { without, with, reloads })
}

/// What a window has beside its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Besides {
    /// All that belongs to reloads, but the reload itself.
    Nothing,
    Reloads,
    /// And a reading of the gateway's metrics after each. Apart, because writing and reading the series of 10,000 routes
    /// takes milliseconds of either core.
    WatchedReloads,
}

/// What goes on beside the load until it is over.
fn beside(over: &AtomicBool, stage: &Stage, place: &Place, pid: u32, besides: Besides) -> Result<Reloads> {
    let mut reloads = Reloads::default();
    let mut generation = place.generation()?;
    // Generations that are not in effect yet, and when the peer was told.
    let mut waiting: Vec<(u64, Instant)> = Vec::new();
    let mut next = Instant::now() + EVERY / 2;
    let mut grace = 0;
    // What was told last gets as long as the others to come into effect.
    while !over.load(Ordering::Relaxed) || (!waiting.is_empty() && Instant::now() < next) {
        thread::sleep(LOOK);
        if Instant::now() >= next && !over.load(Ordering::Relaxed) {
            next += EVERY;
            if besides == Besides::WatchedReloads {
                reloads.read(&place.metrics()?);
            }
            if besides == Besides::Nothing {
                place.write(stage, generation)?;
                grace = LOOKS_WITHOUT;
            } else {
                generation += 1;
                place.reload(stage, pid, generation)?;
                reloads.made += 1;
                waiting.push((generation, Instant::now()));
            }
        }
        if waiting.is_empty() && grace == 0 {
            continue;
        }
        grace = grace.saturating_sub(1);
        // A client that is let down here is one of many; the load counts them.
        let seen = place.generation().unwrap_or(0);
        waiting.retain(|(generation, told)| {
            if *generation <= seen {
                reloads.seconds.push(told.elapsed().as_secs_f64());
            }
            *generation > seen
        });
    }
    if besides == Besides::WatchedReloads {
        reloads.read(&place.metrics()?);
    }
    Ok(reloads)
}

impl Reloads {
    fn read(&mut self, metrics: &Metrics) {
        let longest = |name: &str, so_far: Option<f64>| {
            let seen = metrics.max(name).map(|seconds| seconds * 1e3);
            seen.into_iter().chain(so_far).max_by(f64::total_cmp)
        };
        self.turn_ms = longest("bawab_worker_turn_longest_seconds", self.turn_ms);
        self.swap_ms = longest("bawab_worker_swap_longest_seconds", self.swap_ms);
    }
}

impl Pair {
    fn p99_ms(outcome: &Outcome) -> f64 {
        outcome.quantile(0.99).as_secs_f64() * 1e3
    }

    fn ratio(&self) -> f64 {
        Self::p99_ms(&self.with) / Self::p99_ms(&self.without)
    }

    /// p99 beside reloads over what is allowed: 1 is the bar.
    fn over_allowed(&self) -> f64 {
        let without = Self::p99_ms(&self.without);
        Self::p99_ms(&self.with) / (without * P99_RATIO_MAX).max(without + P99_MORE_MAX.as_secs_f64() * 1e3)
    }

    /// Failed in either window.
    fn failed(&self) -> u64 {
        self.without.failed + self.with.failed
    }

    fn missing(&self) -> u64 {
        self.reloads.made - self.reloads.seconds.len() as u64
    }

    fn json(&self, peer: Peer) -> Value {
        let window = |outcome: &Outcome| {
            let us = |part| outcome.quantile(part).as_micros() as u64;
            json!({
                "requests": outcome.started, "failed": outcome.failed, "closed_idle": outcome.closed_idle,
                "p50_us": us(0.5), "p99_us": us(0.99), "p999_us": us(0.999), "max_us": us(1.0),
            })
        };
        json!({
            "peer": peer.name(), "without": window(&self.without), "with": window(&self.with), "p99_ratio": self.ratio(),
            "reloads": self.reloads.made, "seconds_to_effect": self.reloads.seconds,
            "turn_ms": self.reloads.turn_ms, "swap_ms": self.reloads.swap_ms,
        })
    }
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p99 {:.2} ms, with reloads {:.2} ms (x {:.2}); {} of {} requests failed; {} of {} reloads in effect",
            Self::p99_ms(&self.without),
            Self::p99_ms(&self.with),
            self.ratio(),
            self.failed(),
            self.without.started + self.with.started,
            self.reloads.seconds.len(),
            self.reloads.made
        )?;
        if let Some(ms) = self.reloads.swap_ms {
            write!(f, "; longest swap {ms:.3} ms")?;
        }
        Ok(())
    }
}

/// Prints all rounds as one table; returns the bars the gateway is held against.
fn show(found: &[(Peer, Pair)], peers: &[Peer]) -> Vec<Bar> {
    let titles = ["peer", "p99 ms", "with reloads", "ratio", "max ms", "failed", "closed idle", "in effect", "after s"];
    let mut lines = vec![titles.map(str::to_owned).to_vec()];
    for &peer in peers {
        let pairs: Vec<&Pair> = found.iter().filter(|(of, _)| *of == peer).map(|(_, pair)| pair).collect();
        let spread = |figure: &dyn Fn(&Pair) -> f64| {
            Spread::of(pairs.iter().map(|pair| figure(pair))).map_or_else(String::new, |spread| spread.to_string())
        };
        let sum = |figure: &dyn Fn(&Pair) -> u64| pairs.iter().map(|pair| figure(pair)).sum::<u64>();
        let after = Spread::of(pairs.iter().flat_map(|pair| pair.reloads.seconds.iter().copied()));
        lines.push(vec![
            peer.name().to_owned(),
            spread(&|pair| Pair::p99_ms(&pair.without)),
            spread(&|pair| Pair::p99_ms(&pair.with)),
            spread(&Pair::ratio),
            spread(&|pair| pair.with.quantile(1.0).as_secs_f64() * 1e3),
            sum(&Pair::failed).to_string(),
            sum(&|pair| pair.with.closed_idle).to_string(),
            format!("{} of {}", sum(&|pair| pair.reloads.seconds.len() as u64), sum(&|pair| pair.reloads.made)),
            after.map_or_else(|| "never".to_owned(), |after| after.to_string()),
        ]);
    }
    println!("\nbeside one reload a second\n{}", table(&lines));
    let pairs: Vec<&Pair> = found.iter().filter(|(of, _)| *of == Peer::Gateway).map(|(_, pair)| pair).collect();
    if pairs.is_empty() {
        return Vec::new();
    }
    if let Some(turn) = Spread::of(pairs.iter().filter_map(|pair| pair.reloads.turn_ms)) {
        println!("  longest turn of a worker while reloading: {turn} ms");
    }
    bars(&pairs)
}

fn bars(pairs: &[&Pair]) -> Vec<Bar> {
    let one = |figure: f64| Spread { median: figure, min: figure, max: figure };
    let total = |figure: fn(&Pair) -> u64| one(pairs.iter().map(|pair| figure(pair)).sum::<u64>() as f64);
    // Not to be told is not to be quick.
    let swaps = pairs.iter().map(|pair| pair.reloads.swap_ms.unwrap_or(f64::INFINITY));
    let bar = |claim: &str, at_most: f64, found: Spread| Bar { claim: claim.to_owned(), at_most, found };
    let allowed = format!("reload: p99 over what is allowed (x {P99_RATIO_MAX} or {P99_MORE_MAX:?} more)");
    let over = Spread::of(pairs.iter().map(|pair| pair.over_allowed()));
    let mut bars = vec![
        bar("reload: reloads that did not come into effect", 0.0, total(Pair::missing)),
        bar("reload: failed requests", 0.0, total(Pair::failed)),
        bar("reload: connections closed", 0.0, total(|pair| pair.without.closed_idle + pair.with.closed_idle)),
        bar("reload: longest swap of a worker in ms", SWAP_MS_MAX, one(swaps.fold(0.0, f64::max))),
    ];
    bars.extend(over.map(|over| bar(&allowed, 1.0, over)));
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(without_ms: u64, with_ms: u64, failed: u64, swap_ms: Option<f64>) -> Pair {
        let outcome = |ms: u64, failed| Outcome::of_one(Duration::from_millis(ms), failed);
        let reloads = Reloads { made: 2, seconds: vec![0.1, 0.2], turn_ms: swap_ms, swap_ms };
        Pair { without: outcome(without_ms, 0), with: outcome(with_ms, failed), reloads }
    }

    fn verdicts(pairs: &[Pair]) -> Vec<bool> {
        bars(&pairs.iter().collect::<Vec<_>>()).iter().map(Bar::is_met).collect()
    }

    #[test]
    fn what_is_slow_anyway_may_become_half_as_slow_again_and_what_is_quick_2_ms_slower() {
        assert_eq!(pair(10, 15, 0, None).over_allowed(), 1.0);
        assert_eq!(pair(1, 3, 0, None).over_allowed(), 1.0);
        assert!(pair(1, 4, 0, None).over_allowed() > 1.0);
    }

    #[test]
    fn every_bar_can_be_missed() {
        assert_eq!(verdicts(&[pair(1, 2, 0, Some(1.0))]), [true; 5]);
        assert_eq!(verdicts(&[pair(1, 2, 1, Some(1.0))]), [true, false, true, true, true]);
        assert_eq!(verdicts(&[pair(1, 2, 0, Some(1.1))]), [true, true, true, false, true]);
        assert_eq!(verdicts(&[pair(1, 2, 0, None)]), [true, true, true, false, true]);
        assert_eq!(verdicts(&[pair(1, 9, 0, Some(1.0))]), [true, true, true, true, false]);
        let mut ignored = pair(1, 2, 0, Some(1.0));
        ignored.reloads.seconds.clear();
        ignored.with.closed_idle = 1;
        assert_eq!(verdicts(&[ignored]), [false, true, false, true, true]);
    }
}
