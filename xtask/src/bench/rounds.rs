//! Peers that take turns: interleaved rounds of windows, the ratios within a round, and the bars they are held against.
//!
//! In every round each peer is started anew, warmed up, measured for one window and stopped, so that none is measured
//! beside another's timers or after another's heat; the order moves on by one each round.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::peers::Peer;
use super::report::{Bar, Spread, table};
use super::window::{self, Window};

/// What one peer did in one round.
pub(super) struct Turn {
    /// What was measured.
    pub(super) row: &'static str,
    pub(super) round: usize,
    pub(super) peer: Peer,
    pub(super) window: Window,
}

impl Turn {
    fn json(&self) -> Value {
        let mut text = self.window.json();
        text["row"] = self.row.into();
        text["round"] = self.round.into();
        text["peer"] = self.peer.name().into();
        text
    }
}

/// Has each peer measured by `measure` in each round, and says how it went meanwhile.
pub(super) fn run(
    row: &'static str,
    peers: &[Peer],
    rounds: usize,
    mut measure: impl FnMut(Peer) -> Result<Window>,
) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    for round in 0..rounds {
        let mut order = peers.to_vec();
        order.rotate_left(round % peers.len().max(1));
        for peer in order {
            turns.push(turn(row, round, peer, &mut measure)?);
        }
    }
    Ok(turns)
}

/// One peer's turn in one round, which is told.
pub(super) fn turn(
    row: &'static str,
    round: usize,
    peer: Peer,
    measure: impl FnOnce(Peer) -> Result<Window>,
) -> Result<Turn> {
    let window = measure(peer).context(peer.name())?;
    println!(
        "  {row:<8}round {:<3}{:<9}{:>8.1} us/req {:>9.0} req/s  {} errors",
        round + 1,
        peer.name(),
        window.cost(),
        window.load.per_second,
        window.load.errors
    );
    Ok(Turn { row, round, peer, window })
}

/// Prints the table of one row's turns, and the gateway's ratio to each peer.
pub(super) fn show(turns: &[Turn], peers: &[Peer]) {
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
}

/// The bar of one row: the gateway's CPU per `unit` over the best of `others`. `None`: there is no round in which all of
/// them ran.
pub(super) fn bar(turns: &[Turn], others: &[Peer], unit: &str, at_most: f64) -> Option<Bar> {
    let names: Vec<&str> = others.iter().map(|peer| peer.name()).collect();
    let claim = format!("{}: CPU per {unit} over {}", turns.first()?.row, names.join(" or "));
    Some(Bar { claim, at_most, found: ratio(turns, others, Window::cost)? })
}

/// Writes everything down in `NAME.json`, `more` beside it, and says how many bars were met. `Ok(true)`: all of them, and
/// without an error.
pub(super) fn close(folder: &Path, name: &str, turns: &[Turn], bars: &[Bar], more: Value) -> Result<bool> {
    window::warn_of_strangers(turns.iter().map(|turn| &turn.window));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut text = more;
    text["bench"] = name.into();
    text["kernel"] = kernel.trim().into();
    text["bars"] = bars.iter().map(Bar::json).collect();
    text["windows"] = turns.iter().map(Turn::json).collect();
    let file = folder.join(format!("{name}.json"));
    fs::write(&file, serde_json::to_string_pretty(&json!(text))?)?;
    let errors: u64 = turns.iter().map(|turn| turn.window.load.errors).sum();
    println!(
        "\n{} of {} bars met, {errors} errors in all; every window: {}",
        bars.iter().filter(|bar| bar.is_met()).count(),
        bars.len(),
        file.display()
    );
    Ok(errors == 0 && bars.iter().all(Bar::is_met))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(round: usize, peer: Peer, process_us: u64) -> Turn {
        Turn { row: "small", round, peer, window: window::tests::window(process_us, 0) }
    }

    fn turns() -> [Turn; 7] {
        [
            turn(0, Peer::Gateway, 90),
            turn(0, Peer::Nginx, 100),
            turn(0, Peer::Haproxy, 200),
            turn(1, Peer::Gateway, 180),
            turn(1, Peer::Nginx, 400),
            turn(1, Peer::Haproxy, 150),
            turn(2, Peer::Gateway, 90),
        ]
    }

    #[test]
    fn ratios_are_taken_within_a_round_over_the_better_peer() {
        let found = ratio(&turns(), &[Peer::Nginx, Peer::Haproxy], Window::cost).unwrap();
        // The third round has no peer to compare with and is left out.
        assert_eq!((found.min, found.max), (0.9, 1.2));
        assert_eq!(ratio(&turns(), &[Peer::Envoy], Window::cost), None);
    }

    #[test]
    fn a_bar_names_its_row_and_peers_and_is_not_there_without_them() {
        let bar = bar(&turns(), &[Peer::Nginx], "handshake", 1.0).unwrap();
        assert_eq!(bar.claim, "small: CPU per handshake over nginx");
        assert_eq!((bar.found.min, bar.found.max), (0.45, 0.9));
        assert!(super::bar(&turns(), &[Peer::Nginx, Peer::Envoy], "handshake", 1.0).is_none());
    }

    #[test]
    fn each_peer_is_first_in_turn() {
        let mut order = Vec::new();
        let peers = [Peer::Gateway, Peer::Nginx];
        run("small", &peers, 2, |peer| {
            order.push(peer);
            Ok(window::tests::window(1, 1))
        })
        .unwrap();
        assert_eq!(order, [Peer::Gateway, Peer::Nginx, Peer::Nginx, Peer::Gateway]);
    }
}
