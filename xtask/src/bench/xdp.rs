//! `bench xdp`: the XDP program beside the kernel's own maps with the same lists, and beside nftables in a flood. Root only;
//! the figures come from programs of the `benches` package: one runs the shipped object by `BPF_PROG_TEST_RUN`, the others
//! the gateway's release build in a namespace.

mod live;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Options;
use super::report::{Bar, Spread, table};
use crate::{process, workspace};

/// Fewer than seven rounds are no median.
const ROUNDS_MIN: usize = 7;
/// Milliseconds from text to live, and of a swap: bounds of the project.
const LIVE_MILLIS_MAX: f64 = 250.0;
const SWAP_MILLIS_MAX: f64 = 30.0;

/// What is shown, in this order: the figure's name and what it is.
const PACKETS: &[(&str, &str)] = &[
    ("empty", "an empty program"),
    ("empty_random", "and a random number"),
    ("base4", "IPv4: parsed, source drawn, nobody asked"),
    ("no_lists4", "  no lists"),
    ("innocent4_1", "  innocent, 1 entry"),
    ("innocent4_1m", "  innocent, 1 M entries"),
    ("lpm4_any", "    LPM_TRIE"),
    ("hash4_any", "    HASH"),
    ("deny4_hot_1m", "  denied, one source"),
    ("deny4_cold_1m", "  denied, 1 M sources"),
    ("lpm4_hit", "    LPM_TRIE"),
    ("hash4_hit", "    HASH"),
    ("syn4_1m", "  SYN within the limit, 1 M sources"),
    ("syn4_1m_refused", "  SYN beyond it, 1 M sources"),
    ("syn4_any", "  SYN, any source"),
    ("lru4_hit", "    LRU_HASH, 1 M sources"),
    ("lru4_any", "    LRU_HASH, any source"),
    ("base6", "IPv6: parsed, source drawn, nobody asked"),
    ("no_lists6", "  no lists"),
    ("innocent6_1", "  innocent, 1 entry"),
    ("innocent6_1m", "  innocent, 1 M entries"),
    ("lpm6_any", "    LPM_TRIE"),
    ("deny6_cold_1m", "  denied, 1 M sources"),
    ("lpm6_hit", "    LPM_TRIE"),
    ("syn6_1m", "  SYN within the limits, 1 M sources"),
];

/// A bound on one figure as a part of another.
const RATIOS: &[(&str, &str, &str, f64)] = &[
    ("IPv4 parsed / empty program + random", "base4", "empty_random", 1.2),
    ("IPv4 innocent at 1 M / LPM_TRIE", "innocent4_1m", "lpm4_any", 0.1),
    ("IPv4 innocent at 1 M / at 1", "innocent4_1m", "innocent4_1", 2.0),
    ("IPv6 innocent at 1 M / LPM_TRIE", "innocent6_1m", "lpm6_any", 0.2),
    ("IPv6 innocent at 1 M / at 1", "innocent6_1m", "innocent6_1", 2.5),
    ("cold deny at 1 M / HASH", "deny4_cold_1m", "hash4_hit", 0.6),
    ("cold deny at 1 M / LPM_TRIE", "deny4_cold_1m", "lpm4_hit", 0.2),
    ("SYN limit, 1 M sources / LRU_HASH", "syn4_1m", "lru4_hit", 0.35),
];

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds = options.number("--rounds", ROUNDS_MIN)?;
    let live = live::Wanted::read(&mut options)?;
    let parts: Vec<&str> = options.text("--parts").unwrap_or("trial,flood,ban").split(',').collect();
    options.done()?;
    ensure!(rounds >= ROUNDS_MIN, "--rounds: at least {ROUNDS_MIN}");
    for part in &parts {
        ensure!(["trial", "flood", "ban"].contains(part), "--parts: `{part}` is none of trial, flood, ban");
    }
    if !rustix::process::geteuid().is_root() {
        println!("not run: BPF needs root");
        return Ok(true);
    }
    let mut bars = Vec::new();
    if parts.contains(&"trial") {
        bars.append(&mut trial(rounds)?);
    }
    if parts.contains(&"flood") {
        bars.append(&mut live.flood()?);
    }
    if parts.contains(&"ban") {
        bars.push(live.ban()?);
    }
    bars.iter().for_each(|bar| println!("{bar}"));
    Ok(bars.iter().all(Bar::is_met))
}

/// A program of the `benches` package, built.
fn program(name: &str) -> Result<Command> {
    process::run(workspace::cargo()?.args(["build", "--release", "--quiet", "--package", "benches", "--bin", name]))?;
    Ok(Command::new(workspace::target()?.join("release").join(name)))
}

fn trial(rounds: usize) -> Result<Vec<Bar>> {
    let text = process::output(program("xdp")?.arg(rounds.to_string()))?;
    let figures = Figures::read(&text)?;

    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    println!(
        "Linux {kernel}, one core, {rounds} rounds of 2^20 packets; nanoseconds a packet, median (smallest-largest)\n"
    );
    let rows: Vec<Vec<String>> = PACKETS
        .iter()
        .filter_map(|(name, what)| Some(vec![(*what).to_owned(), figures.spread(name)?.to_string()]))
        .collect();
    println!("{}", table(&rows));
    println!("milliseconds of 1 M CIDRs, from text");
    let rows: Vec<Vec<String>> = [
        ("parsed", "parsed"),
        ("compiled", "compiled"),
        ("staged", "in the kernel"),
        ("live", "live"),
        ("cpu", "of these on the CPU"),
    ]
    .iter()
    .filter_map(|(name, what)| Some(vec![(*what).to_owned(), figures.spread(name)?.to_string()]))
    .chain([vec!["LPM_TRIE, an insertion each".to_owned(), figures.spread("lpm_load").context("no LPM")?.to_string()]])
    .collect();
    println!("{}", table(&rows));
    for line in &figures.notes {
        println!("{line}");
    }

    let mut bars = Vec::new();
    for (claim, name, of, at_most) in RATIOS {
        let found = figures.ratio(name, of).with_context(|| format!("no figures of {name} and {of}"))?;
        bars.push(Bar { claim: (*claim).to_owned(), at_most: *at_most, found });
    }
    let live = figures.spread("live").context("no load was measured")?;
    bars.push(Bar {
        claim: "milliseconds from text to live, 1 M CIDRs".to_owned(),
        at_most: LIVE_MILLIS_MAX,
        found: live,
    });
    let swap = figures.percentile("swap", 0.99).context("no swap was measured")?;
    let swap = Spread { median: swap, ..figures.spread("swap").context("no swap was measured")? };
    bars.push(Bar { claim: "milliseconds of a swap, p99".to_owned(), at_most: SWAP_MILLIS_MAX, found: swap });
    println!();
    Ok(bars)
}

/// What the program wrote, by name; the packets of a round in its order.
#[derive(Default)]
struct Figures {
    by_name: BTreeMap<String, Vec<f64>>,
    notes: Vec<String>,
}

impl Figures {
    fn read(text: &str) -> Result<Self> {
        let mut figures = Self::default();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).with_context(|| format!("reading `{line}`"))?;
            let number = |key: &str| value[key].as_f64().with_context(|| format!("`{line}` has no {key}"));
            match value["kind"].as_str().unwrap_or_default() {
                "packet" => figures.add(value["name"].as_str().unwrap_or_default(), number("nanos")?),
                "load" => {
                    for key in ["parsed", "compiled", "staged", "live", "cpu"] {
                        figures.add(key, number(key)?);
                    }
                }
                "swap" => figures.add("swap", number("millis")?),
                "flood" => {
                    let guard = value["guard"].as_str().unwrap_or_default();
                    for key in ["calm", "requests", "rate", "busy"] {
                        figures.add(&format!("{guard}_{key}"), number(key)?);
                    }
                    if let Some(nanos) = value["nanos"].as_f64() {
                        figures.add(&format!("{guard}_nanos"), nanos);
                    }
                }
                "ban" => {
                    for key in ["total", "answered", "admin"] {
                        figures.add(key, number(key)?);
                    }
                }
                "lpm_load" => figures.add("lpm_load", number("millis")?),
                "note" => figures.notes.push(value["text"].as_str().unwrap_or_default().to_owned()),
                kind => anyhow::bail!("`{kind}` is no kind of figure"),
            }
        }
        Ok(figures)
    }

    fn add(&mut self, name: &str, figure: f64) {
        self.by_name.entry(name.to_owned()).or_default().push(figure);
    }

    fn spread(&self, name: &str) -> Option<Spread> {
        Spread::of(self.by_name.get(name)?.iter().copied())
    }

    /// Round by round, so that what slowed a round down slowed both.
    fn ratio(&self, name: &str, of: &str) -> Option<Spread> {
        let (figures, others) = (self.by_name.get(name)?, self.by_name.get(of)?);
        Spread::of(figures.iter().zip(others).map(|(figure, other)| figure / other))
    }

    fn percentile(&self, name: &str, part: f64) -> Option<f64> {
        let mut sorted = self.by_name.get(name)?.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"kind":"packet","name":"a","nanos":10}
{"kind":"packet","name":"b","nanos":20}
{"kind":"packet","name":"a","nanos":90}
{"kind":"packet","name":"b","nanos":100}
{"kind":"note","text":"x"}
{"kind":"swap","millis":1.5}"#;

    #[test]
    fn ratios_are_of_the_same_round() {
        let figures = Figures::read(TEXT).unwrap();
        assert_eq!(figures.ratio("a", "b"), Some(Spread { median: 0.7, min: 0.5, max: 0.9 }));
        assert_eq!(figures.ratio("a", "c"), None);
        assert_eq!(figures.notes, ["x"]);
    }

    #[test]
    fn a_percentile_is_a_figure_that_was_found() {
        let mut figures = Figures::default();
        (1..=100).rev().for_each(|figure| figures.add("swap", f64::from(figure)));
        assert_eq!(figures.percentile("swap", 0.99), Some(99.0));
        assert_eq!(figures.percentile("none", 0.99), None);
    }

    #[test]
    fn what_is_no_figure_is_an_error() {
        assert!(Figures::read("{\"kind\":\"packet\",\"name\":\"a\"}").is_err());
        assert!(Figures::read("{\"kind\":\"other\"}").is_err());
        assert!(Figures::read("text").is_err());
    }
}
