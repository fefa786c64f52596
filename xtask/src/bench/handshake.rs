//! `bench handshake`: what a TLS handshake costs, in full and resumed by a ticket. After each there is one request on the
//! connection, and the client closes it.
//!
//! TLS 1.3 with ECDSA P-256 and X25519, by a client of our own: neither wrk nor h2load resumes. Which kind each handshake
//! was is asked of rustls; a single one of the other kind ends the bench.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::tls::HandshakeKind;
use rustls::client::Resumption;
use serde_json::json;

use super::client::Client;
use super::front::Front;
use super::peers::{Part, Peer, Stage};
use super::report::Bar;
use super::rounds::{self, Turn};
use super::window::Window;
use super::wrk::Load;
use super::{Options, cost, crowd};

/// Clients that shake hands side by side, one connection after another each.
const CLIENTS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Resumed,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Full, Self::Resumed];

    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.with_context(|| format!("no kind is named `{name}` (there are full, resumed)"))
    }

    fn seen(self) -> HandshakeKind {
        match self {
            Self::Full => HandshakeKind::Full,
            Self::Resumed => HandshakeKind::Resumed,
        }
    }

    fn bar(self, turns: &[Turn]) -> Option<Bar> {
        let over = match self {
            Self::Full => Peer::Envoy,
            Self::Resumed => Peer::Nginx,
        };
        rounds::bar(turns, &[over], "handshake", 1.0)
    }
}

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 9)?;
    let seconds: u64 = options.number("--seconds", 3)?;
    let mut peers = options.peers(&Peer::SECURE)?;
    let kinds: Vec<Kind> = match options.text("--kinds") {
        Some(names) => names.split(',').map(Kind::from_name).collect::<Result<_>>()?,
        None => Kind::ALL.to_vec(),
    };
    options.done()?;
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    Peer::ensure_secure(&peers)?;

    let stage = Stage::set_with_present(&mut peers)?;
    cost::stay_on(stage.loading_core)?;
    println!(
        "measured on core {}, load and backend on core {}; {rounds} rounds, {seconds} s each, {CLIENTS} clients",
        stage.measured_core, stage.loading_core
    );
    let busy = cost::busy(stage.measured_core)?;
    let mut turns = Vec::new();
    let mut bars = Vec::new();
    for kind in kinds {
        let backend = stage.start_backend()?;
        let part = Part { front: Front::Tls, ..Part::new(backend.address) };
        let found = rounds::run(kind.name(), &peers, rounds, |peer| {
            let running = stage.start_peer(peer, &part)?;
            let clients = Clients::new(&stage, kind, running.address)?;
            Window::measure_under(&stage, running, Duration::from_secs(seconds), |time| clients.shake(time))
        })?;
        backend.server.stop()?;
        println!("\n{} handshakes, each with a request", kind.name());
        rounds::show(&found, &peers);
        if let Some(bar) = kind.bar(&found) {
            println!("  {bar}");
            bars.push(bar);
        }
        turns.extend(found);
    }
    let more = json!({ "seconds": seconds, "clients": CLIENTS, "busy_before": busy });
    rounds::close(stage.folder(), "handshake", &turns, &bars, more)
}

/// Clients of one peer.
struct Clients {
    kind: Kind,
    address: SocketAddr,
    clients: Vec<Client>,
}

impl Clients {
    /// Those that will resume have a ticket each.
    fn new(stage: &Stage, kind: Kind, address: SocketAddr) -> Result<Self> {
        let resumption = || match kind {
            Kind::Full => Resumption::disabled(),
            Kind::Resumed => Resumption::default(),
        };
        let client = |_| Client::new(&stage.certificate.cert, "http/1.1", resumption());
        let clients = (0..CLIENTS).map(client).collect::<Result<Vec<_>>>()?;
        if kind == Kind::Resumed {
            for client in &clients {
                shake(client, address, Kind::Full).context("the handshake that brings a ticket")?;
            }
        }
        Ok(Self { kind, address, clients })
    }

    /// Has all of them shake hands again and again for `time`.
    fn shake(&self, time: Duration) -> Result<Load> {
        let begin = Instant::now();
        let one = |client: &Client| -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            while begin.elapsed() < time {
                times.push(shake(client, self.address, self.kind)?);
            }
            Ok(times)
        };
        let mut times = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = self.clients.iter().map(|client| scope.spawn(|| one(client))).collect();
            for thread in threads {
                times.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
            }
            Ok(())
        })?;
        Ok(load(times, begin.elapsed()))
    }
}

/// One connection: shakes hands, asks, is answered, closes. Returns how long that took.
fn shake(client: &Client, address: SocketAddr, expected: Kind) -> Result<Duration> {
    let begin = Instant::now();
    let mut peer = client.connect(address)?;
    crowd::exchange(&mut peer)?;
    let kind = peer.tls().and_then(|tls| tls.handshake_kind());
    ensure!(kind == Some(expected.seen()), "a handshake was {kind:?} that should have been {}", expected.name());
    peer.close()?;
    Ok(begin.elapsed())
}

/// What connections that took these `times` were as a load. None of them failed: that ends the bench.
fn load(mut times: Vec<Duration>, over: Duration) -> Load {
    times.sort_unstable();
    let quantile = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Load {
        requests: times.len() as u64,
        per_second: times.len() as f64 / over.as_secs_f64(),
        p50: quantile(50),
        p99: quantile(99),
        errors: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_connections_make_a_load() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let load = load(times, Duration::from_secs(4));
        assert_eq!((load.requests, load.per_second), (200, 50.0));
        assert_eq!((load.p50, load.p99), (Duration::from_millis(101), Duration::from_millis(199)));
        assert_eq!(super::load(Vec::new(), Duration::from_secs(1)).requests, 0);
    }

    #[test]
    fn a_kind_is_known_by_its_name() {
        assert_eq!(Kind::from_name("resumed").unwrap(), Kind::Resumed);
        assert!(Kind::from_name("early").is_err());
    }
}
