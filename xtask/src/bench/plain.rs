//! `bench plain`: one GET after another through each peer, in interleaved rounds.
//!
//! In every round each peer is started anew, warmed up, measured for one window and stopped, so that none is measured
//! beside another's timers or after another's heat; the order moves on by one each round. The peer has one core for
//! itself; wrk and the nginx it proxies to share the other.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::peers::{Part, Peer, Routes, Stage};
use super::report::{Bar, Spread, table};
use super::window::{self, Window};
use super::wrk::{self, Ask};
use super::{Options, cost};
use e2e::Peer as Connection;
use e2e::message::Message;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Small,
    OneKib,
    SixtyFourKib,
    OneMib,
    /// As `Small`, and every peer writes an access log.
    Logs,
}

impl Row {
    const ALL: [Self; 5] = [Self::Small, Self::OneKib, Self::SixtyFourKib, Self::OneMib, Self::Logs];

    fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::OneKib => "1k",
            Self::SixtyFourKib => "64k",
            Self::OneMib => "1m",
            Self::Logs => "logs",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Small | Self::Logs => "/small",
            Self::OneKib => "/1k",
            Self::SixtyFourKib => "/64k",
            Self::OneMib => "/1m",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|row| row.name() == name)
            .with_context(|| format!("no row is named `{name}` (there are {known})"))
    }

    /// The floor writes no log: it has nothing to say.
    fn takes(self, peer: Peer) -> bool {
        !(self == Self::Logs && peer == Peer::Floor)
    }
}

/// What one peer did in one round.
struct Turn {
    row: Row,
    round: usize,
    peer: Peer,
    window: Window,
}

impl Turn {
    fn json(&self) -> serde_json::Value {
        let mut text = self.window.json();
        text["row"] = self.row.name().into();
        text["round"] = self.round.into();
        text["peer"] = self.peer.name().into();
        text
    }
}

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 9)?;
    let seconds: u64 = options.number("--seconds", 3)?;
    let peers = options.peers(&Peer::ALL)?;
    let rows: Vec<Row> = match options.text("--rows") {
        Some(names) => names.split(',').map(Row::from_name).collect::<Result<_>>()?,
        None => Row::ALL.to_vec(),
    };
    options.done()?;
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");

    let stage = Stage::set(&peers)?;
    cost::stay_on(stage.loading_core)?;
    println!(
        "measured on core {}, load and backend on core {}; {rounds} rounds, {seconds} s each, {} connections",
        stage.measured_core,
        stage.loading_core,
        wrk::CONNECTIONS
    );
    let busy = cost::busy(stage.measured_core)?;
    let mut turns = Vec::new();
    let mut bars = Vec::new();
    for row in rows {
        let begin = Instant::now();
        let first = turns.len();
        measure(&stage, row, &peers, rounds, Duration::from_secs(seconds), &mut turns)?;
        println!("\n{}: GET {} ({:.0} s)", row.name(), row.path(), begin.elapsed().as_secs_f64());
        let found = show(&turns[first..], row, &peers);
        for bar in &found {
            println!("  {bar}");
        }
        bars.extend(found);
    }
    window::warn_of_strangers(turns.iter().map(|turn| &turn.window));
    let errors: u64 = turns.iter().map(|turn| turn.window.load.errors).sum();
    let file = write(stage.folder(), &turns, &bars, seconds, busy)?;
    println!(
        "\n{} of {} bars met, {errors} errors in all; every window: {}",
        bars.iter().filter(|bar| bar.is_met()).count(),
        bars.len(),
        file.display()
    );
    Ok(errors == 0 && bars.iter().all(Bar::is_met))
}

fn measure(
    stage: &Stage,
    row: Row,
    peers: &[Peer],
    rounds: usize,
    time: Duration,
    turns: &mut Vec<Turn>,
) -> Result<()> {
    let backend = stage.start_backend()?;
    let part = Part {
        backend: backend.address,
        logs: row == Row::Logs,
        answer_bytes: answer_bytes(backend.address, row)?,
        routes: Routes::All,
    };
    for round in 0..rounds {
        let mut order: Vec<Peer> = peers.iter().copied().filter(|peer| row.takes(*peer)).collect();
        let by = round % order.len().max(1);
        order.rotate_left(by);
        for peer in order {
            let running = stage.start_peer(peer, &part)?;
            let url = format!("http://{}{}", running.address, row.path());
            let window = Window::measure(stage, running, &Ask::one(&url), time).context(peer.name())?;
            println!(
                "  {:<6}round {:<3}{:<9}{:>8.1} us/req {:>9.0} req/s  {} errors",
                row.name(),
                round + 1,
                peer.name(),
                window.cost(),
                window.load.per_second,
                window.load.errors
            );
            turns.push(Turn { row, round, peer, window });
        }
    }
    backend.server.stop()?;
    Ok(())
}

/// Bytes of the backend's answer, head and body, on a connection that stays open.
fn answer_bytes(backend: SocketAddr, row: Row) -> Result<usize> {
    let mut connection = Connection::connect(backend)?;
    connection.send(format!("GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", row.path()))?;
    let answer = Message::answer(&mut connection, "GET")?;
    ensure!(answer.head.status() == 200, "the backend answered `{}`", answer.head.start);
    Ok(usize::try_from(connection.received())?)
}

/// Prints a row's table and ratios; returns the bars it is held against.
fn show(turns: &[Turn], row: Row, peers: &[Peer]) -> Vec<Bar> {
    let mut lines = vec![std::iter::once("peer").chain(window::TITLES).map(str::to_owned).collect::<Vec<_>>()];
    for &peer in peers {
        let windows: Vec<&Window> = turns.iter().filter(|turn| turn.peer == peer).map(|turn| &turn.window).collect();
        let figures = window::line(&windows);
        lines.extend(figures.map(|figures| std::iter::once(peer.name().to_owned()).chain(figures).collect()));
    }
    print!("{}", table(&lines));
    for &peer in peers.iter().filter(|peer| **peer != Peer::Gateway) {
        let found = [Window::cost as fn(&Window) -> f64, Window::process_cost].map(|of| ratio(turns, &[peer], of));
        if let [Some(cost), Some(process)] = found {
            println!("  {} / {}: {cost}, by the processes' own accounts {process}", Peer::Gateway.name(), peer.name());
        }
    }
    bars(turns, row)
}

/// The gateway's cost over that of the best of `others`, in each round where all of them ran.
fn ratio(turns: &[Turn], others: &[Peer], of: fn(&Window) -> f64) -> Option<Spread> {
    let cost = |round: usize, peer: Peer| {
        turns.iter().find(|turn| turn.round == round && turn.peer == peer).map(|turn| of(&turn.window))
    };
    let rounds = turns.iter().map(|turn| turn.round).max()? + 1;
    Spread::of((0..rounds).filter_map(|round| {
        let best = others
            .iter()
            .map(|peer| cost(round, *peer))
            .collect::<Option<Vec<f64>>>()?
            .into_iter()
            .fold(f64::INFINITY, f64::min);
        Some(cost(round, Peer::Gateway)? / best)
    }))
}

fn bars(turns: &[Turn], row: Row) -> Vec<Bar> {
    let wanted: &[(&[Peer], f64)] = match row {
        Row::Small => &[(&[Peer::Nginx, Peer::Haproxy], 0.9), (&[Peer::Envoy], 0.3), (&[Peer::Floor], 1.25)],
        Row::Logs => &[(&[Peer::Nginx, Peer::Haproxy], 0.9), (&[Peer::Envoy], 0.3)],
        Row::SixtyFourKib | Row::OneMib => &[(&[Peer::Haproxy], 1.1)],
        Row::OneKib => &[],
    };
    let bar = |(others, at_most): &(&[Peer], f64)| {
        let names: Vec<&str> = others.iter().map(|peer| peer.name()).collect();
        let claim = format!("{}: CPU per request over {}", row.name(), names.join(" or "));
        Some(Bar { claim, at_most: *at_most, found: ratio(turns, others, Window::cost)? })
    };
    wanted.iter().filter_map(bar).collect()
}

fn write(folder: &Path, turns: &[Turn], bars: &[Bar], seconds: u64, busy: f64) -> Result<std::path::PathBuf> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let text = json!({
        "bench": "plain", "kernel": kernel.trim(), "seconds": seconds, "connections": wrk::CONNECTIONS, "busy_before": busy,
        "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
        "windows": turns.iter().map(Turn::json).collect::<Vec<_>>(),
    });
    let file = folder.join("plain.json");
    std::fs::write(&file, serde_json::to_string_pretty(&text)?)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(round: usize, peer: Peer, process_us: u64) -> Turn {
        Turn { row: Row::Small, round, peer, window: window::tests::window(process_us, 0) }
    }

    #[test]
    fn ratios_are_taken_within_a_round_over_the_better_peer() {
        let turns = [
            turn(0, Peer::Gateway, 90),
            turn(0, Peer::Nginx, 100),
            turn(0, Peer::Haproxy, 200),
            turn(1, Peer::Gateway, 180),
            turn(1, Peer::Nginx, 400),
            turn(1, Peer::Haproxy, 150),
            turn(2, Peer::Gateway, 90),
        ];
        let found = ratio(&turns, &[Peer::Nginx, Peer::Haproxy], Window::cost).unwrap();
        // The third round has no peer to compare with and is left out.
        assert_eq!((found.min, found.max), (0.9, 1.2));
        assert_eq!(ratio(&turns, &[Peer::Envoy], Window::cost), None);
    }
}
