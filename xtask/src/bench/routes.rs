//! `bench routes`: whether the number of routes costs anything: in the table by itself, while it is compiled, in memory,
//! and in CPU per request beside peers that have as many.
//!
//! Requests go to all routes at random, so that no cache holds what the next one needs. Every figure is a median over
//! rounds in which all sizes (and all peers) take turns, and every ratio is taken within a round.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::peers::{Part, Peer, Routes, Stage};
use super::report::{Bar, Spread, table};
use super::window::{self, Window};
use super::wrk::{self, Ask};
use super::{Options, cost};
use crate::{process, workspace};

/// Shapes of routes that the table is measured with (`benches::routes::Mix`).
const MIXES: [&str; 4] = ["exact", "prefix", "template", "hosts"];
/// Sizes of a table; the first is what the others are compared with.
const LOOKUP_COUNTS: [usize; 4] = [10, 1_000, 10_000, 100_000];
/// What a look-up at a size may cost, times that at the first one.
const LOOKUP_RATIOS_MAX: [(usize, f64); 2] = [(10_000, 3.0), (100_000, 5.0)];
const LOOKUP_NS_MAX: f64 = 500.0;
/// Milliseconds in which a table of a size is compiled; and so is its configuration, from text to snapshot.
const COMPILE_MS_MAX: [(usize, f64); 2] = [(10_000, 100.0), (100_000, 1_000.0)];
const MEMORY_COUNTS: [usize; 3] = [10, 10_000, 100_000];
const PROXY_COUNTS: [usize; 3] = [10, 1_000, 10_000];
/// CPU per request with the most routes, times that with the fewest.
const PROXY_RATIO_MAX: f64 = 1.05;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Lookup,
    Compile,
    Memory,
    Proxy,
}

impl Section {
    const ALL: [(&'static str, Self); 4] =
        [("lookup", Self::Lookup), ("compile", Self::Compile), ("memory", Self::Memory), ("proxy", Self::Proxy)];

    fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, section)| section).with_context(|| {
            let known = Self::ALL.map(|(known, _)| known).join(", ");
            format!("no part is named `{name}` (there are {known})")
        })
    }
}

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 7)?;
    let seconds: u64 = options.number("--seconds", 3)?;
    let peers = options.peers(&[Peer::Gateway, Peer::Nginx, Peer::Envoy])?;
    let sections: Vec<Section> = match options.text("--parts") {
        Some(names) => names.split(',').map(Section::from_name).collect::<Result<_>>()?,
        None => Section::ALL.map(|(_, section)| section).to_vec(),
    };
    options.done()?;
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    for peer in &peers {
        ensure!(
            matches!(peer, Peer::Gateway | Peer::Nginx | Peer::Envoy),
            "{} has no configuration of many routes here",
            peer.name()
        );
    }
    let runs = |section| sections.contains(&section);
    let started: &[Peer] = match (runs(Section::Proxy), runs(Section::Memory)) {
        (true, _) => &peers,
        (false, true) => &[Peer::Gateway],
        (false, false) => &[],
    };
    let stage = Stage::set(started)?;
    cost::stay_on(stage.loading_core)?;
    let busy = cost::busy(stage.measured_core)?;
    let (mut bars, mut text) = (Vec::new(), json!({ "bench": "routes", "seconds": seconds, "busy_before": busy }));
    let mut add = |name: &str, (found, rows): (Vec<Bar>, Value)| {
        found.iter().for_each(|bar| println!("  {bar}"));
        bars.extend(found);
        text[name] = rows;
    };
    if runs(Section::Lookup) || runs(Section::Compile) {
        process::run(workspace::cargo()?.args([
            "build",
            "--release",
            "--quiet",
            "--package",
            "benches",
            "--bin",
            "routes",
        ]))?;
    }
    if runs(Section::Lookup) {
        add("lookup", lookup(&stage, rounds)?);
    }
    if runs(Section::Compile) {
        add("compile", compile(&stage, rounds)?);
    }
    if runs(Section::Memory) {
        add("memory", (Vec::new(), memory(&stage)?));
    }
    if runs(Section::Proxy) {
        add("proxy", proxy(&stage, &peers, rounds, Duration::from_secs(seconds))?);
    }
    text["bars"] = bars.iter().map(Bar::json).collect();
    let file = stage.folder().join("routes.json");
    fs::write(&file, serde_json::to_string_pretty(&text)?)?;
    let met = bars.iter().filter(|bar| bar.is_met()).count();
    println!("\n{met} of {} bars met; every figure: {}", bars.len(), file.display());
    Ok(met == bars.len())
}

/// What the program of that name among the benches says, on the core of its own.
fn ask(stage: &Stage, words: &[&str]) -> Result<Value> {
    let mut command = process::attached(workspace::target()?.join("release/routes"), Some(stage.measured_core));
    let text = process::output(command.args(words))?;
    serde_json::from_str(&text).with_context(|| format!("`routes` printed something unexpected:\n{text}"))
}

/// A figure of the table: mix, routes, what it is, and its value in each round.
struct Series {
    mix: &'static str,
    routes: usize,
    name: &'static str,
    rounds: Vec<f64>,
}

/// All figures of one section.
#[derive(Default)]
struct Figures(Vec<Series>);

impl Figures {
    /// Takes in what one round said about a mix: `row` has the routes and each of `names`.
    fn take(&mut self, mix: &'static str, row: &Value, names: &[&'static str]) -> Result<()> {
        let figure = |name: &str| row[name].as_f64().with_context(|| format!("no `{name}` in {row}"));
        let routes = figure("routes")? as usize;
        for &name in names {
            let value = figure(name)?;
            match self.0.iter_mut().find(|series| (series.mix, series.routes, series.name) == (mix, routes, name)) {
                Some(series) => series.rounds.push(value),
                None => self.0.push(Series { mix, routes, name, rounds: vec![value] }),
            }
        }
        Ok(())
    }

    fn of(&self, mix: &str, routes: usize, name: &str) -> &[f64] {
        let found = self.0.iter().find(|series| (series.mix, series.routes, series.name) == (mix, routes, name));
        found.map_or(&[], |series| &series.rounds)
    }

    fn spread(&self, mix: &str, routes: usize, name: &str) -> Option<Spread> {
        Spread::of(self.of(mix, routes, name).iter().copied())
    }

    /// One size over another, round by round.
    fn ratio(&self, mix: &str, routes: usize, base: usize, name: &str) -> Option<Spread> {
        let (one, other) = (self.of(mix, routes, name), self.of(mix, base, name));
        Spread::of(one.iter().zip(other).map(|(one, other)| one / other))
    }

    fn json(&self) -> Value {
        let series = self.0.iter().map(
            |series| json!({ "mix": series.mix, "routes": series.routes, "name": series.name, "rounds": series.rounds }),
        );
        series.collect()
    }

    fn table(&self, counts: &[usize], names: &[&str]) -> String {
        let titles = ["mix", "routes"].into_iter().chain(names.iter().copied()).map(str::to_owned).collect();
        let mut lines: Vec<Vec<String>> = vec![titles];
        for mix in MIXES {
            for &count in counts {
                let figures = names
                    .iter()
                    .map(|name| self.spread(mix, count, name).map_or_else(String::new, |spread| spread.to_string()));
                lines.push([mix.to_owned(), count.to_string()].into_iter().chain(figures).collect());
            }
        }
        table(&lines)
    }
}

/// Which mix is first moves on by one each round.
fn mixes(round: usize) -> [&'static str; 4] {
    let mut order = MIXES;
    order.rotate_left(round % MIXES.len());
    order
}

fn lookup(stage: &Stage, rounds: usize) -> Result<(Vec<Bar>, Value)> {
    let names = ["hit_ns", "miss_ns"];
    let counts = LOOKUP_COUNTS.map(|count| count.to_string()).join(",");
    let mut figures = Figures::default();
    for round in 0..rounds {
        for mix in mixes(round) {
            let rows = ask(stage, &["lookup", mix, &counts])?;
            for row in rows.as_array().context("a list of sizes")? {
                figures.take(mix, row, &names)?;
            }
        }
    }
    println!("\nlooking up a random request among all routes\n{}", figures.table(&LOOKUP_COUNTS, &names));
    Ok((lookup_bars(&figures), figures.json()))
}

fn lookup_bars(figures: &Figures) -> Vec<Bar> {
    let mut bars = Vec::new();
    for mix in MIXES {
        for (routes, at_most) in LOOKUP_RATIOS_MAX {
            let base = LOOKUP_COUNTS[0];
            let claim = format!("lookup: {mix}, {routes} routes over {base}");
            bars.extend(figures.ratio(mix, routes, base, "hit_ns").map(|found| Bar { claim, at_most, found }));
        }
        for name in ["hit", "miss"] {
            let routes = LOOKUP_COUNTS[LOOKUP_COUNTS.len() - 1];
            let claim = format!("lookup: {mix}, ns of a {name} among {routes} routes");
            let found = figures.spread(mix, routes, &format!("{name}_ns"));
            bars.extend(found.map(|found| Bar { claim, at_most: LOOKUP_NS_MAX, found }));
        }
    }
    bars
}

fn compile(stage: &Stage, rounds: usize) -> Result<(Vec<Bar>, Value)> {
    let counts = COMPILE_MS_MAX.map(|(count, _)| count);
    let mut figures = Figures::default();
    for round in 0..rounds {
        for mix in mixes(round) {
            for count in counts {
                let mut row = ask(stage, &["compile", mix, &count.to_string()])?;
                let ms = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
                row["text_ms"] = (ms("load_ms") + ms("compile_ms")).into();
                figures.take(mix, &row, &["table_ms", "load_ms", "compile_ms", "text_ms"])?;
            }
        }
    }
    println!(
        "\ncompiling: the table alone; loading a configuration and compiling it; both from text to snapshot\n{}",
        figures.table(&counts, &["table_ms", "load_ms", "compile_ms", "text_ms"])
    );
    Ok((compile_bars(&figures), figures.json()))
}

fn compile_bars(figures: &Figures) -> Vec<Bar> {
    let mut bars = Vec::new();
    for mix in MIXES {
        for (routes, at_most) in COMPILE_MS_MAX {
            for (name, what) in [("table_ms", "the table"), ("text_ms", "text to snapshot")] {
                let claim = format!("compile: {mix}, {what} of {routes} routes in ms");
                bars.extend(figures.spread(mix, routes, name).map(|found| Bar { claim, at_most, found }));
            }
        }
    }
    bars
}

/// Resident memory of the gateway with as many routes, once it serves them.
fn memory(stage: &Stage) -> Result<Value> {
    let backend = stage.start_backend()?;
    let mut lines = vec![["routes", "RSS MiB"].map(str::to_owned).to_vec()];
    let mut rows = Vec::new();
    for count in MEMORY_COUNTS {
        let running = stage.start_peer(Peer::Gateway, &part(backend.address, count))?;
        let resident_kib = cost::resident_kib(running.server.pid())?;
        running.server.stop()?;
        lines.push(vec![count.to_string(), format!("{:.1}", resident_kib as f64 / 1024.0)]);
        rows.push(json!({ "routes": count, "resident_kib": resident_kib }));
    }
    backend.server.stop()?;
    println!("\nmemory of the gateway after its start\n{}", table(&lines));
    Ok(rows.into())
}

fn part(backend: std::net::SocketAddr, routes: usize) -> Part {
    Part { routes: Routes::Prefixes(routes), ..Part::new(backend) }
}

/// What one peer did with one number of routes in one round.
struct Turn {
    peer: Peer,
    routes: usize,
    round: usize,
    window: Window,
}

fn proxy(stage: &Stage, peers: &[Peer], rounds: usize, time: Duration) -> Result<(Vec<Bar>, Value)> {
    println!(
        "\nCPU per request, random requests over all routes, {rounds} rounds of {time:?}, {} connections",
        wrk::CONNECTIONS
    );
    let script = stage.write("routes.lua", include_str!("peers/routes.lua"), &[])?;
    let backend = stage.start_backend()?;
    let all: Vec<(Peer, usize)> = peers.iter().flat_map(|&peer| PROXY_COUNTS.map(|routes| (peer, routes))).collect();
    let mut turns = Vec::new();
    for round in 0..rounds {
        // By a peer and a size at a time, so that each of them begins, ends and follows each other one.
        let mut order = all.clone();
        order.rotate_left(round * (PROXY_COUNTS.len() + 1) % all.len().max(1));
        for (peer, routes) in order {
            let window = measure(stage, peer, part(backend.address, routes), routes, &script, time)?;
            println!(
                "  round {:<3}{:<9}{routes:>7} routes {:>8.1} us/req {:>9.0} req/s  {} errors",
                round + 1,
                peer.name(),
                window.cost(),
                window.load.per_second,
                window.load.errors
            );
            turns.push(Turn { peer, routes, round, window });
        }
    }
    backend.server.stop()?;
    let mut lines = vec![["peer", "routes"].into_iter().chain(window::TITLES).map(str::to_owned).collect::<Vec<_>>()];
    for &(peer, routes) in &all {
        let windows: Vec<&Window> =
            turns.iter().filter(|turn| (turn.peer, turn.routes) == (peer, routes)).map(|turn| &turn.window).collect();
        let figures = window::line(&windows);
        let who = [peer.name().to_owned(), routes.to_string()];
        lines.extend(figures.map(|figures| who.into_iter().chain(figures).collect()));
    }
    print!("\n{}", table(&lines));
    window::warn_of_strangers(turns.iter().map(|turn| &turn.window));
    for &peer in peers {
        for routes in &PROXY_COUNTS[1..] {
            let found = [Window::cost as fn(&Window) -> f64, Window::process_cost];
            if let [Some(cost), Some(process)] = found.map(|of| ratio(&turns, peer, *routes, of)) {
                let (name, fewest) = (peer.name(), PROXY_COUNTS[0]);
                println!("  {name}: {routes} routes over {fewest}: {cost}, by the processes' own accounts {process}");
            }
        }
    }
    let rows = turns.iter().map(|turn| {
        let mut text = turn.window.json();
        text["peer"] = turn.peer.name().into();
        text["routes"] = turn.routes.into();
        text["round"] = turn.round.into();
        text
    });
    Ok((proxy_bars(&turns), rows.collect()))
}

fn measure(stage: &Stage, peer: Peer, part: Part, routes: usize, script: &Path, time: Duration) -> Result<Window> {
    let running = stage.start_peer(peer, &part)?;
    let url = format!("http://{}", running.address);
    let ask = Ask { url: &url, script: Some((script, vec![routes.to_string()])), openssl: None };
    Window::measure(stage, running, &ask, time).with_context(|| format!("{} with {routes} routes", peer.name()))
}

/// What a request costs a peer with so many routes, over what it costs it with the fewest, in each round.
fn ratio(turns: &[Turn], peer: Peer, routes: usize, of: fn(&Window) -> f64) -> Option<Spread> {
    let cost = |round: usize, routes: usize| {
        turns
            .iter()
            .find(|turn| (turn.round, turn.peer, turn.routes) == (round, peer, routes))
            .map(|turn| of(&turn.window))
    };
    let rounds = turns.iter().map(|turn| turn.round).max()? + 1;
    Spread::of((0..rounds).filter_map(|round| Some(cost(round, routes)? / cost(round, PROXY_COUNTS[0])?)))
}

fn proxy_bars(turns: &[Turn]) -> Vec<Bar> {
    let most = PROXY_COUNTS[PROXY_COUNTS.len() - 1];
    let errors = turns.iter().map(|turn| turn.window.load.errors).sum::<u64>() as f64;
    let mut bars = vec![Bar {
        claim: "proxy: errors".to_owned(),
        at_most: 0.0,
        found: Spread { median: errors, min: errors, max: errors },
    }];
    let claim = format!("proxy: CPU per request, {most} routes over {}", PROXY_COUNTS[0]);
    bars.extend(ratio(turns, Peer::Gateway, most, Window::cost).map(|found| Bar {
        claim,
        at_most: PROXY_RATIO_MAX,
        found,
    }));
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rows: &[(usize, f64)]) -> Figures {
        let mut figures = Figures::default();
        for mix in MIXES {
            for &(routes, value) in rows {
                let row =
                    json!({ "routes": routes, "hit_ns": value, "miss_ns": value, "table_ms": value, "text_ms": value });
                figures.take(mix, &row, &["hit_ns", "miss_ns", "table_ms", "text_ms"]).unwrap();
            }
        }
        figures
    }

    fn verdicts(bars: &[Bar]) -> Vec<bool> {
        bars.iter().map(Bar::is_met).collect()
    }

    #[test]
    fn every_bar_of_a_lookup_can_be_missed() {
        let of = |ten, many, most| verdicts(&lookup_bars(&figures(&[(10, ten), (10_000, many), (100_000, most)]))[..4]);
        assert_eq!(of(100.0, 300.0, 500.0), [true, true, true, true]);
        assert_eq!(of(100.0, 301.0, 500.0), [false, true, true, true]);
        assert_eq!(of(90.0, 100.0, 460.0), [true, false, true, true]);
        assert_eq!(of(200.0, 300.0, 501.0), [true, true, false, false]);
    }

    #[test]
    fn every_bar_of_compiling_can_be_missed() {
        let of = |many, most| verdicts(&compile_bars(&figures(&[(10_000, many), (100_000, most)]))[..4]);
        assert_eq!(of(100.0, 1_000.0), [true; 4]);
        assert_eq!(of(101.0, 1_001.0), [false; 4]);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let figures = figures(&[(10, 1.0), (10_000, 4.0), (10, 10.0), (10_000, 20.0), (10, 100.0), (10_000, 300.0)]);
        let found = figures.ratio("exact", 10_000, 10, "hit_ns").unwrap();
        assert_eq!((found.min, found.median, found.max), (2.0, 3.0, 4.0));
        let turn =
            |round, routes, us| Turn { peer: Peer::Gateway, routes, round, window: window::tests::window(us, 0) };
        let turns = [turn(0, 10, 100), turn(0, 10_000, 110), turn(1, 10, 1_000), turn(1, 10_000, 1_000)];
        let found = ratio(&turns, Peer::Gateway, 10_000, Window::cost).unwrap();
        assert_eq!((found.min, found.max), (1.0, 1.1));
        assert_eq!(verdicts(&proxy_bars(&turns)), [true, true]);
        assert_eq!(verdicts(&proxy_bars(&turns[..2])), [true, false]);
    }
}
