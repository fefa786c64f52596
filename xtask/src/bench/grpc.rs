//! `bench grpc`: calls of gRPC over TLS 1.3 and HTTP/2 towards clients, HTTP/2 towards the service, through each peer, under h2load;
//! and what it costs the gateway that a service speaks HTTP/2 where clients speak HTTP/1.1.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::http2::{self, Client};
use serde_json::json;

use super::front::Front;
use super::h2load::{self, CONNECTIONS_H2, STREAMS};
use super::peers::{Part, Peer, Running, Service, Stage};
use super::report::{Bar, Spread, table};
use super::rounds::{self, Turn};
use super::window::{self, Window};
use super::wrk::{self, Ask};
use super::{Options, cost};

const PARTS: [&str; 2] = ["calls", "h1-h2"];
/// Bytes of a call's message, there and back.
const MESSAGE_BYTES: u32 = 100;
/// Rows of the other part: clients of HTTP/1.1, and a service of either kind.
const ROWS: [(&str, Service); 2] = [("h1-h1", Service::Http1), ("h1-h2", Service::Http2)];

pub(super) fn run(words: &[String]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let rounds: usize = options.number("--rounds", 9)?;
    let seconds: u64 = options.number("--seconds", 3)?;
    let mut peers = options.peers(&Peer::SECURE)?;
    let parts: Vec<&str> = options.text("--parts").map_or_else(|| PARTS.to_vec(), |names| names.split(',').collect());
    options.done()?;
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    Peer::ensure_secure(&peers)?;
    if let Some(part) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("no part is named `{part}` (there are {})", PARTS.join(", "));
    }

    let stage = Stage::set_with_present(&mut peers)?;
    let service = stage.start_grpc_backend()?;
    cost::stay_on(stage.loading_core)?;
    println!(
        "measured on core {}, load and service on core {}; {rounds} rounds, {seconds} s each, {CONNECTIONS_H2} connections of {STREAMS} streams",
        stage.measured_core, stage.loading_core
    );
    let busy = cost::busy(stage.measured_core)?;
    let time = Duration::from_secs(seconds);
    let mut turns = Vec::new();
    let mut bars = Vec::new();
    if parts.contains(&"calls") {
        turns = calls(&stage, &service, &peers, rounds, time)?;
        println!("\ncalls of gRPC over TLS 1.3, {MESSAGE_BYTES} bytes there and back");
        rounds::show(&turns, &peers);
        let wanted = [(Peer::Envoy, 0.5), (Peer::Nginx, 1.0)];
        bars.extend(wanted.iter().filter_map(|(peer, at_most)| rounds::bar(&turns, &[*peer], "call", *at_most)));
    }
    if parts.contains(&"h1-h2") && peers.contains(&Peer::Gateway) {
        let found = services(&stage, service.address, rounds, time)?;
        println!("\nHTTP/1.1: GET /small, from services that speak HTTP/1.1 and HTTP/2");
        bars.extend(show_services(&found));
        turns.extend(found);
    }
    service.server.stop()?;
    for bar in &bars {
        println!("  {bar}");
    }
    let more = json!({ "seconds": seconds, "connections": CONNECTIONS_H2, "streams": STREAMS, "busy_before": busy });
    rounds::close(stage.folder(), "grpc", &turns, &bars, more)
}

fn calls(stage: &Stage, service: &Running, peers: &[Peer], rounds: usize, time: Duration) -> Result<Vec<Turn>> {
    let message = stage.folder().join("message");
    fs::write(&message, framed(MESSAGE_BYTES))?;
    let log = stage.folder().join("h2load.log");
    let part = Part { front: Front::Tls, service: Service::Http2, ..Part::new(service.address) };
    rounds::run("grpc", peers, rounds, |peer| {
        let running = stage.start_peer(peer, &part)?;
        let url = format!("https://{}/bench.Calls/Echo", running.address);
        Window::measure_under(stage, running, time, |time| {
            let before = served(service.address)?;
            let load = h2load::call(&url, &message, stage.loading_core, time, &log)?;
            // A call that failed is HTTP 200, too: what the service has answered is what counts.
            let served = served(service.address)? - before;
            ensure!(served >= load.requests, "{} calls were answered, {served} by the service", load.requests);
            Ok(load)
        })
    })
}

/// A message in its frame: not compressed, its length, itself.
fn framed(bytes: u32) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(bytes.to_be_bytes());
    message.resize(message.len() + bytes as usize, b'm');
    message
}

/// Calls the service has answered so far.
fn served(address: SocketAddr) -> Result<u64> {
    let answer = http2::on(async { Client::connect(address).await?.get_all("bench", &["/calls"]).await })?;
    Ok(answer[0].text().parse()?)
}

/// Both services by turns, behind the gateway.
fn services(stage: &Stage, http2: SocketAddr, rounds: usize, time: Duration) -> Result<Vec<Turn>> {
    let http1 = stage.start_backend()?;
    let mut turns = Vec::new();
    for round in 0..rounds {
        let mut order = ROWS;
        order.rotate_left(round % ROWS.len());
        for (row, service) in order {
            let backend = if service == Service::Http2 { http2 } else { http1.address };
            let part = Part { service, ..Part::new(backend) };
            turns.push(rounds::turn(row, round, Peer::Gateway, |peer| {
                let running = stage.start_peer(peer, &part)?;
                let url = format!("http://{}/small", running.address);
                Window::measure(stage, running, &Ask::one(&url), time)
            })?);
        }
    }
    http1.server.stop()?;
    println!("  {} connections", wrk::CONNECTIONS);
    Ok(turns)
}

/// A table of both, and what the one may cost over the other.
fn show_services(turns: &[Turn]) -> Option<Bar> {
    let of = |row: &str| turns.iter().filter(|turn| turn.row == row).map(|turn| &turn.window).collect::<Vec<&Window>>();
    let mut lines = vec![std::iter::once("row").chain(window::TITLES).map(str::to_owned).collect::<Vec<_>>()];
    for (row, _) in ROWS {
        let figures = window::line(&of(row));
        lines.extend(figures.map(|figures| std::iter::once(row.to_owned()).chain(figures).collect()));
    }
    print!("{}", table(&lines));
    let [h1, h2] = ROWS.map(|(row, _)| of(row));
    let found = Spread::of(h1.iter().zip(&h2).map(|(h1, h2)| h2.cost() / h1.cost()))?;
    Some(Bar { claim: "h1-h2: CPU per request over h1-h1".to_owned(), at_most: 1.3, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::window::tests::window;

    #[test]
    fn a_message_is_framed_as_grpc_frames_it() {
        assert_eq!(framed(3), [0, 0, 0, 0, 3, b'm', b'm', b'm']);
    }

    #[test]
    fn the_ratio_of_services_is_taken_within_a_round() {
        let turn = |row, round, us| Turn { row, round, peer: Peer::Gateway, window: window(us, 0) };
        // The order in a round moves on; rounds do not.
        let turns = [turn("h1-h1", 0, 100), turn("h1-h2", 0, 120), turn("h1-h2", 1, 300), turn("h1-h1", 1, 200)];
        let bar = show_services(&turns).unwrap();
        assert_eq!((bar.found.min, bar.found.max), (1.2, 1.5));
    }
}
