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

use super::Options;
use super::cost::{self, Reading, Spent};
use super::peers::{Part, Peer, Stage};
use super::report::{Bar, Spread, table};
use super::wrk::{self, Load};
use e2e::Peer as Connection;
use e2e::message::Message;

/// A core this much busier than the peer on it also worked for somebody else: kernel work for the peer is less than that.
const STRANGER_RATIO: f64 = 1.25;
const WARM_UP: Duration = Duration::from_secs(1);

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

/// One measured window.
struct Window {
    row: Row,
    round: usize,
    peer: Peer,
    load: Load,
    spent: Spent,
    resident_kib: u64,
    /// Cost of a send and a receive on a socket pair around this window.
    socket_pair: Duration,
}

impl Window {
    /// CPU microseconds per request: the process's own account or its core's, whichever is worse.
    fn cost(&self) -> f64 {
        self.process_cost().max(self.core_cost())
    }

    fn process_cost(&self) -> f64 {
        micros(self.spent.process) / self.load.requests as f64
    }

    fn core_cost(&self) -> f64 {
        micros(self.spent.core) / self.load.requests as f64
    }

    /// The cost in socket-pair operations: steadier than microseconds when the machine's speed moves.
    fn norm(&self) -> f64 {
        self.cost() / micros(self.socket_pair)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "row": self.row.name(), "round": self.round, "peer": self.peer.name(),
            "requests": self.load.requests, "errors": self.load.errors, "requests_per_second": self.load.per_second,
            "p50_us": micros(self.load.p50), "p99_us": micros(self.load.p99),
            "cpu_us_per_request": self.cost(), "process_us_per_request": self.process_cost(), "core_us_per_request": self.core_cost(),
            "norm": self.norm(), "socket_pair_us": micros(self.socket_pair), "stolen_us": micros(self.spent.stolen), "resident_kib": self.resident_kib,
        })
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
    let mut windows = Vec::new();
    let mut bars = Vec::new();
    for row in rows {
        let begin = Instant::now();
        let first = windows.len();
        measure(&stage, row, &peers, rounds, Duration::from_secs(seconds), &mut windows)?;
        println!("\n{}: GET {} ({:.0} s)", row.name(), row.path(), begin.elapsed().as_secs_f64());
        let found = show(&windows[first..], row, &peers);
        for bar in &found {
            println!("  {bar}");
        }
        bars.extend(found);
    }
    let strangers = windows.iter().filter(|window| window.core_cost() > STRANGER_RATIO * window.process_cost()).count();
    if strangers > 0 {
        println!(
            "\nin {strangers} of {} windows the core was busy with more than the peer: measure again on a quiet machine",
            windows.len()
        );
    }
    let errors: u64 = windows.iter().map(|window| window.load.errors).sum();
    let file = write(stage.folder(), &windows, &bars, seconds, busy)?;
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
    windows: &mut Vec<Window>,
) -> Result<()> {
    let backend = stage.start_backend()?;
    let part =
        Part { backend: backend.address, logs: row == Row::Logs, answer_bytes: answer_bytes(backend.address, row)? };
    for round in 0..rounds {
        let mut order: Vec<Peer> = peers.iter().copied().filter(|peer| row.takes(*peer)).collect();
        let turns = round % order.len().max(1);
        order.rotate_left(turns);
        for peer in order {
            let running = stage.start_peer(peer, &part)?;
            let url = format!("http://{}{}", running.address, row.path());
            wrk::load(&url, stage.loading_core, WARM_UP)?;
            let speed_before = cost::socket_pair_cost(stage.measured_core)?;
            let before = Reading::take(running.server.pid(), stage.measured_core)?;
            let load = wrk::load(&url, stage.loading_core, time)?;
            let spent = Reading::take(running.server.pid(), stage.measured_core)?.since(&before);
            let resident_kib = cost::resident_kib(running.server.pid())?;
            let socket_pair = (speed_before + cost::socket_pair_cost(stage.measured_core)?) / 2;
            running.server.stop()?;
            ensure!(load.requests > 0, "{} answered nothing", peer.name());
            let window = Window { row, round, peer, load, spent, resident_kib, socket_pair };
            println!(
                "  {:<6}round {:<3}{:<9}{:>8.1} us/req {:>9.0} req/s  {} errors",
                row.name(),
                round + 1,
                peer.name(),
                window.cost(),
                load.per_second,
                load.errors
            );
            windows.push(window);
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
fn show(windows: &[Window], row: Row, peers: &[Peer]) -> Vec<Bar> {
    let mut lines = vec![
        ["peer", "cpu us/req", "process", "core", "norm", "req/s", "p50 ms", "p99 ms", "RSS MiB", "errors"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for &peer in peers {
        let of = |figure: &dyn Fn(&Window) -> f64| {
            Spread::of(windows.iter().filter(|window| window.peer == peer).map(figure))
        };
        let (Some(cost), Some(process), Some(core), Some(norm)) =
            (of(&Window::cost), of(&Window::process_cost), of(&Window::core_cost), of(&Window::norm))
        else {
            continue;
        };
        let median = |figure: &dyn Fn(&Window) -> f64| of(figure).map_or(0.0, |spread| spread.median);
        let errors: u64 = windows.iter().filter(|window| window.peer == peer).map(|window| window.load.errors).sum();
        lines.push(vec![
            peer.name().to_owned(),
            cost.to_string(),
            format!("{:.1}", process.median),
            format!("{:.1}", core.median),
            norm.to_string(),
            format!("{:.0}", median(&|window| window.load.per_second)),
            format!("{:.2}", median(&|window| micros(window.load.p50) / 1e3)),
            format!("{:.2}", median(&|window| micros(window.load.p99) / 1e3)),
            format!("{:.1}", median(&|window| window.resident_kib as f64 / 1024.0)),
            errors.to_string(),
        ]);
    }
    print!("{}", table(&lines));
    for &peer in peers.iter().filter(|peer| **peer != Peer::Gateway) {
        let found = [Window::cost as fn(&Window) -> f64, Window::process_cost].map(|of| ratio(windows, &[peer], of));
        if let [Some(cost), Some(process)] = found {
            println!("  {} / {}: {cost}, by the processes' own accounts {process}", Peer::Gateway.name(), peer.name());
        }
    }
    bars(windows, row)
}

/// The gateway's cost over that of the best of `others`, in each round where all of them ran.
fn ratio(windows: &[Window], others: &[Peer], of: fn(&Window) -> f64) -> Option<Spread> {
    let cost =
        |round: usize, peer: Peer| windows.iter().find(|window| window.round == round && window.peer == peer).map(of);
    let rounds = windows.iter().map(|window| window.round).max()? + 1;
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

fn bars(windows: &[Window], row: Row) -> Vec<Bar> {
    let wanted: &[(&[Peer], f64)] = match row {
        Row::Small => &[(&[Peer::Nginx, Peer::Haproxy], 0.9), (&[Peer::Envoy], 0.3), (&[Peer::Floor], 1.25)],
        Row::Logs => &[(&[Peer::Nginx, Peer::Haproxy], 0.9), (&[Peer::Envoy], 0.3)],
        Row::SixtyFourKib | Row::OneMib => &[(&[Peer::Haproxy], 1.1)],
        Row::OneKib => &[],
    };
    let bar = |(others, at_most): &(&[Peer], f64)| {
        let names: Vec<&str> = others.iter().map(|peer| peer.name()).collect();
        let claim = format!("{}: CPU per request over {}", row.name(), names.join(" or "));
        Some(Bar { claim, at_most: *at_most, found: ratio(windows, others, Window::cost)? })
    };
    wanted.iter().filter_map(bar).collect()
}

fn write(folder: &Path, windows: &[Window], bars: &[Bar], seconds: u64, busy: f64) -> Result<std::path::PathBuf> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let text = json!({
        "bench": "plain", "kernel": kernel.trim(), "seconds": seconds, "connections": wrk::CONNECTIONS, "busy_before": busy,
        "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
        "windows": windows.iter().map(Window::json).collect::<Vec<_>>(),
    });
    let file = folder.join("plain.json");
    std::fs::write(&file, serde_json::to_string_pretty(&text)?)?;
    Ok(file)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(round: usize, peer: Peer, process_us: u64, core_us: u64) -> Window {
        let load = Load { requests: 10, per_second: 10.0, p50: Duration::ZERO, p99: Duration::ZERO, errors: 0 };
        let spent = Spent {
            process: Duration::from_micros(process_us),
            core: Duration::from_micros(core_us),
            stolen: Duration::ZERO,
        };
        Window { row: Row::Small, round, peer, load, spent, resident_kib: 0, socket_pair: Duration::from_micros(2) }
    }

    #[test]
    fn the_worse_of_the_two_accounts_counts() {
        assert_eq!(window(0, Peer::Nginx, 150, 120).cost(), 15.0);
        assert_eq!(window(0, Peer::Nginx, 100, 120).cost(), 12.0);
        assert_eq!(window(0, Peer::Nginx, 100, 120).norm(), 6.0);
    }

    #[test]
    fn ratios_are_taken_within_a_round_over_the_better_peer() {
        let windows = [
            window(0, Peer::Gateway, 90, 0),
            window(0, Peer::Nginx, 100, 0),
            window(0, Peer::Haproxy, 200, 0),
            window(1, Peer::Gateway, 180, 0),
            window(1, Peer::Nginx, 400, 0),
            window(1, Peer::Haproxy, 150, 0),
            window(2, Peer::Gateway, 90, 0),
        ];
        let found = ratio(&windows, &[Peer::Nginx, Peer::Haproxy], Window::cost).unwrap();
        // The third round has no peer to compare with and is left out.
        assert_eq!((found.min, found.max), (0.9, 1.2));
        assert_eq!(ratio(&windows, &[Peer::Envoy], Window::cost), None);
    }
}
