//! A GiB through the gateway each way, over TLS towards the client, and what its memory does meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::message::{Head, Message};
use e2e::{Origin, Peer as Connection, origin};
use rustls::client::Resumption;
use serde_json::{Value, json};

use super::client::Client;
use super::front::Front;
use super::peers::{Part, Peer, Running, Stage};
use super::report::{Bar, Spread};
use super::{cost, crowd};

const GIB: u64 = 1 << 30;
/// Written at a time, and after how many bytes the content repeats.
const PIECE_BYTES: usize = 64 * 1024;
/// MiB by which the gateway may grow while it passes a GiB on: its buffers for one exchange, not its content.
const MIB_MAX: f64 = 4.0;
/// How often memory is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
enum Way {
    Down,
    Up,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

/// What became of one GiB.
pub(super) struct Stream {
    way: Way,
    took: Duration,
    /// Resident memory before, and the most of it meanwhile.
    before_kib: u64,
    most_kib: u64,
}

impl Stream {
    fn growth_mib(&self) -> f64 {
        self.most_kib.saturating_sub(self.before_kib) as f64 / 1024.0
    }

    pub(super) fn bar(&self) -> Bar {
        let growth = self.growth_mib();
        Bar {
            claim: format!("a GiB {} through TLS: MiB the gateway grows by", self.way.name()),
            at_most: MIB_MAX,
            found: Spread { median: growth, min: growth, max: growth },
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "way": self.way.name(), "seconds": self.took.as_secs_f64(), "before_kib": self.before_kib, "most_kib": self.most_kib,
        })
    }
}

pub(super) fn measure(stage: &Stage) -> Result<Vec<Stream>> {
    let origin = Origin::tcp()?.serve(serve);
    let part = Part { front: Front::Tls, ..Part::new(origin.address().parse()?) };
    let client = Client::new(&stage.certificate.cert, "http/1.1", Resumption::default())?;
    println!("\na GiB over TLS 1.3, the client and the service on the core of the load");
    let mut streams = Vec::new();
    for way in [Way::Down, Way::Up] {
        let running = stage.start_peer(Peer::Gateway, &part)?;
        let stream = pass(&running, &client, way).with_context(|| format!("a GiB {}", way.name()))?;
        println!(
            "  {:<5} {:.2} s, RSS {:.1} MiB before, {:.1} MiB at most",
            way.name(),
            stream.took.as_secs_f64(),
            stream.before_kib as f64 / 1024.0,
            stream.most_kib as f64 / 1024.0
        );
        streams.push(stream);
        running.server.stop()?;
    }
    Ok(streams)
}

fn pass(running: &Running, client: &Client, way: Way) -> Result<Stream> {
    let pid = running.server.pid();
    let mut connection = client.connect(running.address)?;
    // The first exchange takes the buffers that every connection needs.
    crowd::exchange(&mut connection)?;
    let before_kib = cost::resident_kib(pid)?;
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    let most_kib = std::thread::scope(|scope| {
        let watch = scope.spawn(|| -> Result<u64> {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = cost::resident_kib(pid)?.max(most);
                std::thread::sleep(LOOK_INTERVAL);
            }
            Ok(cost::resident_kib(pid)?.max(most))
        });
        let passed = match way {
            Way::Down => download(&mut connection),
            Way::Up => upload(&mut connection),
        };
        over.store(true, Ordering::Relaxed);
        let most = watch.join().map_err(|_| anyhow!("the watch panicked"))?;
        passed.and(most)
    })?;
    Ok(Stream { way, took: begin.elapsed(), before_kib, most_kib })
}

fn download(connection: &mut Connection) -> Result<()> {
    connection.send("GET /gib HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let head = Head::read(connection)?;
    ensure!(head.status() == 200, "answered `{}`", head.start);
    read_content(connection)
}

fn upload(connection: &mut Connection) -> Result<()> {
    connection.send(format!("PUT /gib HTTP/1.1\r\nHost: bench\r\nContent-Length: {GIB}\r\n\r\n"))?;
    write_content(connection)?;
    let answer = Message::answer(connection, "PUT")?;
    ensure!(answer.head.status() == 200, "answered `{}`", answer.head.start);
    Ok(())
}

/// The service: one GiB to who asks for it, and 200 to who brought it as it should be.
fn serve(peer: &mut Connection) -> Result<()> {
    peer.set_patience(Duration::from_secs(600));
    while let Ok(head) = Head::read(peer) {
        match head.start.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["GET", "/gib"] => {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"))?;
                write_content(peer)?;
            }
            ["PUT", "/gib"] => {
                read_content(peer)?;
                peer.send(origin::ok(""))?;
            }
            _ => peer.send(origin::ok("ok\n"))?,
        }
    }
    Ok(())
}

fn write_content(peer: &mut Connection) -> Result<()> {
    let content = content();
    for _ in 0..GIB / PIECE_BYTES as u64 {
        peer.send(&content)?;
    }
    Ok(())
}

fn read_content(peer: &mut Connection) -> Result<()> {
    let content = content();
    let mut at = 0;
    peer.take_each(GIB, |came| {
        ensure!(is_content(&content, at, came), "what came around byte {at} is not what was sent");
        at += came.len();
        Ok(())
    })
}

/// Bytes of which no part looks like another one nearby, so that a lost or doubled piece is seen.
fn content() -> Vec<u8> {
    (0..PIECE_BYTES / 4).flat_map(|number| (number as u32 + 1).wrapping_mul(0x9e37_79b1).to_be_bytes()).collect()
}

/// Whether these are the bytes from `at` on of `content` again and again.
fn is_content(content: &[u8], at: usize, mut came: &[u8]) -> bool {
    let mut from = at % content.len();
    while !came.is_empty() {
        let count = came.len().min(content.len() - from);
        if came[..count] != content[from..from + count] {
            return false;
        }
        came = &came[count..];
        from = 0;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_known_wherever_it_is_cut_and_a_lost_byte_is_seen() {
        let content = content();
        let twice = [&content[..], &content[..]].concat();
        for (from, to) in [(0, 1), (5, PIECE_BYTES), (PIECE_BYTES - 1, PIECE_BYTES + 7), (3, 2 * PIECE_BYTES)] {
            assert!(is_content(&content, from + 4 * PIECE_BYTES, &twice[from..to]), "{from}..{to}");
            assert!(!is_content(&content, from + 1, &twice[from..to]), "{from}..{to}");
        }
    }

    #[test]
    fn growth_is_never_below_nothing() {
        let stream = |most_kib| Stream { way: Way::Up, took: Duration::ZERO, before_kib: 10_240, most_kib };
        assert!(stream(9_000).bar().is_met() && stream(14_336).bar().is_met());
        assert!(!stream(14_400).bar().is_met());
    }
}
