//! `bench plain`: one GET after another through each peer, in interleaved rounds.
//!
//! The peer has one core for itself; wrk and the nginx it proxies to share the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::peers::{Part, Peer, Stage};
use super::report::Bar;
use super::rounds::{self, Turn};
use super::window::Window;
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
        let found = measure(&stage, row, &peers, rounds, Duration::from_secs(seconds))?;
        println!("\n{}: GET {} ({:.0} s)", row.name(), row.path(), begin.elapsed().as_secs_f64());
        rounds::show(&found, &peers);
        let held = held_against(&found, row);
        for bar in &held {
            println!("  {bar}");
        }
        bars.extend(held);
        turns.extend(found);
    }
    let more = json!({ "seconds": seconds, "connections": wrk::CONNECTIONS, "busy_before": busy });
    rounds::close(stage.folder(), "plain", &turns, &bars, more)
}

fn measure(stage: &Stage, row: Row, peers: &[Peer], rounds: usize, time: Duration) -> Result<Vec<Turn>> {
    let backend = stage.start_backend()?;
    let part = Part {
        logs: row == Row::Logs,
        answer_bytes: answer_bytes(backend.address, row)?,
        ..Part::new(backend.address)
    };
    let taking: Vec<Peer> = peers.iter().copied().filter(|peer| row.takes(*peer)).collect();
    let turns = rounds::run(row.name(), &taking, rounds, |peer| {
        let running = stage.start_peer(peer, &part)?;
        let url = format!("http://{}{}", running.address, row.path());
        Window::measure(stage, running, &Ask::one(&url), time)
    })?;
    backend.server.stop()?;
    Ok(turns)
}

/// Bytes of the backend's answer, head and body, on a connection that stays open.
fn answer_bytes(backend: SocketAddr, row: Row) -> Result<usize> {
    let mut connection = Connection::connect(backend)?;
    connection.send(format!("GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", row.path()))?;
    let answer = Message::answer(&mut connection, "GET")?;
    ensure!(answer.head.status() == 200, "the backend answered `{}`", answer.head.start);
    Ok(usize::try_from(connection.received())?)
}

/// The bars of a row.
fn held_against(turns: &[Turn], row: Row) -> Vec<Bar> {
    let wanted: &[(&[Peer], f64)] = match row {
        Row::Small => &[(&[Peer::Nginx, Peer::Haproxy], 0.9), (&[Peer::Envoy], 0.3), (&[Peer::Floor], 1.25)],
        Row::Logs => &[(&[Peer::Nginx, Peer::Haproxy], 0.9), (&[Peer::Envoy], 0.3)],
        Row::SixtyFourKib | Row::OneMib => &[(&[Peer::Haproxy], 1.1)],
        Row::OneKib => &[],
    };
    wanted.iter().filter_map(|(others, at_most)| rounds::bar(turns, others, "request", *at_most)).collect()
}
