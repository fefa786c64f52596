//! `bench endpoints`: what it costs the gateway to have ten endpoints that are checked, and ejected when they fail, beside one
//! of which nothing is known. All are well, and all are one process at several addresses, so that only the gateway's own work
//! makes the difference.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::peers::{self, Peer, Stage};
use super::report::{Bar, Spread, table};
use super::window::{self, Window};
use super::wrk::{self, Ask};
use super::{Options, cost};

const ENDPOINTS: u8 = 10;
/// CPU per request with all of them over that with one.
const RATIO_MAX: f64 = 1.03;

/// What stands behind the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    One,
    Many,
}

impl Behind {
    fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Many => "many",
        }
    }
}

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 9)?;
    let seconds: u64 = options.number("--seconds", 3)?;
    options.done()?;
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    let stage = Stage::set(&[Peer::Gateway])?;
    cost::stay_on(stage.loading_core)?;
    println!(
        "one endpoint, and {ENDPOINTS} with health and eject; {rounds} rounds, {seconds} s each, {} connections",
        wrk::CONNECTIONS
    );
    let busy = cost::busy(stage.measured_core)?;
    let [address] = peers::free_addresses()?;
    let at = |number: u8| SocketAddr::from((IpAddr::from(Ipv4Addr::new(127, 0, 0, number)), address.port()));
    let addresses: Vec<SocketAddr> = (1..=ENDPOINTS).map(at).collect();
    let backend = stage.start_backend_at(&addresses)?;
    let mut found = Vec::new();
    for round in 0..rounds {
        let order = if round % 2 == 0 { [Behind::One, Behind::Many] } else { [Behind::Many, Behind::One] };
        for behind in order {
            let window = measure(&stage, behind, &addresses, Duration::from_secs(seconds))
                .with_context(|| format!("with {} behind it", behind.name()))?;
            println!(
                "  round {:<3}{:<6}{:>8.1} us/req, {:.1} by the process's own account, {} errors",
                round + 1,
                behind.name(),
                window.cost(),
                window.process_cost(),
                window.load.errors
            );
            found.push((round, behind, window));
        }
    }
    backend.server.stop()?;
    show(&found);
    let claim = format!("endpoints: CPU per request with {ENDPOINTS} that are checked over one that is not");
    let bar = Bar { claim, at_most: RATIO_MAX, found: ratio(&found, Window::cost).context("every round has both")? };
    if let Some(process) = ratio(&found, Window::process_cost) {
        println!("  many / one by the process's own account: {process}");
    }
    println!("  {bar}");
    window::warn_of_strangers(found.iter().map(|(_, _, window)| window));
    let errors: u64 = found.iter().map(|(_, _, window)| window.load.errors).sum();
    let turn = |(round, behind, window): &(usize, Behind, Window)| -> Value {
        let mut text = window.json();
        text["round"] = (*round).into();
        text["behind"] = behind.name().into();
        text
    };
    let text = json!({
        "bench": "endpoints", "seconds": seconds, "connections": wrk::CONNECTIONS, "busy_before": busy,
        "bars": [bar.json()], "windows": found.iter().map(turn).collect::<Vec<_>>(),
    });
    fs::write(stage.folder().join("endpoints.json"), serde_json::to_string_pretty(&text)?)?;
    Ok(bar.is_met() && errors == 0)
}

fn measure(stage: &Stage, behind: Behind, addresses: &[SocketAddr], time: Duration) -> Result<Window> {
    let [address] = peers::free_addresses()?;
    let (count, health) = match behind {
        Behind::One => (1, ""),
        Behind::Many => (addresses.len(), "health = { http = \"/small\" }\neject = true"),
    };
    let words = [
        ("port", address.port().to_string()),
        ("endpoints", addresses[..count].iter().map(|endpoint| format!("\"{endpoint}\", ")).collect()),
        ("health", health.to_owned()),
    ];
    let file = stage.write("endpoints-gateway.toml", include_str!("peers/endpoints-gateway.toml"), &words)?;
    let running = stage.start_configured(Peer::Gateway, &file, address)?;
    let url = format!("http://{address}/small");
    Window::measure(stage, running, &Ask::one(&url), time)
}

fn show(found: &[(usize, Behind, Window)]) {
    let mut lines = vec![std::iter::once("behind").chain(window::TITLES).map(str::to_owned).collect::<Vec<_>>()];
    for behind in [Behind::One, Behind::Many] {
        let windows: Vec<&Window> = found.iter().filter(|turn| turn.1 == behind).map(|turn| &turn.2).collect();
        let figures = window::line(&windows);
        lines.extend(figures.map(|figures| std::iter::once(behind.name().to_owned()).chain(figures).collect()));
    }
    print!("\n{}", table(&lines));
}

/// Many over one, within each round.
fn ratio(found: &[(usize, Behind, Window)], of: fn(&Window) -> f64) -> Option<Spread> {
    let cost = |round: usize, behind: Behind| {
        found.iter().find(|turn| turn.0 == round && turn.1 == behind).map(|turn| of(&turn.2))
    };
    let rounds = found.iter().map(|turn| turn.0).max()? + 1;
    Spread::of((0..rounds).filter_map(|round| Some(cost(round, Behind::Many)? / cost(round, Behind::One)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let turn = |round, behind, process_us| (round, behind, window::tests::window(process_us, 0));
        let found = [
            turn(0, Behind::One, 100),
            turn(0, Behind::Many, 110),
            turn(1, Behind::Many, 180),
            turn(1, Behind::One, 200),
            turn(2, Behind::One, 1),
        ];
        let found = ratio(&found, Window::cost).unwrap();
        assert_eq!((found.min, found.max), (0.9, 1.1));
    }
}
