//! Clients of three kinds, each in a thread of its own, that notice everything a client can notice: kept connections,
//! new connections, and answers that take seconds.
//!
//! A connection that was closed while idle, before a request was written, is opened again and no failure: that is how
//! HTTP/1.1 ends connections. A close after the request was written is one, whatever the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use e2e::message::{Head, Message, chunk, fields};
use e2e::origin::Serving;
use e2e::{End, Origin, Peer};

const KEPT: u8 = 16;
const NEW: u8 = 4;
const STREAMS: u8 = 4;
/// Between two new connections of one client: each leaves its port unusable for a minute.
const NEW_EVERY: Duration = Duration::from_millis(5);
/// A streamed answer.
const PIECES: usize = 60;
const PIECE: &[u8] = &[b'x'; 1000];
const PIECE_EVERY: Duration = Duration::from_millis(50);
/// Failures told in words; the others are only counted.
const TOLD_MAX: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Kept,
    New,
    Stream,
}

/// What can go wrong for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// No connection was to be had.
    Refused,
    /// Closed by RST, in whatever state.
    Reset,
    /// Closed after the request was written, before an answer began.
    Unanswered,
    /// Closed within an answer, or the answer was not whole.
    Cut,
    /// Answered, but not as the service answers; or nothing came in time.
    Failed,
}

/// What clients met.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests with their whole answer.
    pub(super) answered: BTreeMap<Kind, u64>,
    pub(super) lost: BTreeMap<Loss, u64>,
    /// The first losses, in words.
    pub(super) told: Vec<String>,
    /// Times a kept connection was closed while idle, or by an answer that said so.
    pub(super) reconnects: u64,
    /// The longest time of a request that is answered at once.
    pub(super) longest: Duration,
}

impl Tally {
    pub(super) fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    pub(super) fn add(&mut self, other: Self) {
        for (kind, count) in other.answered {
            *self.answered.entry(kind).or_default() += count;
        }
        for (loss, count) in other.lost {
            *self.lost.entry(loss).or_default() += count;
        }
        self.told.extend(other.told);
        self.told.truncate(TOLD_MAX);
        self.reconnects += other.reconnects;
        self.longest = self.longest.max(other.longest);
    }

    fn lose(&mut self, kind: Kind, loss: Loss, error: &Error) {
        *self.lost.entry(loss).or_default() += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{kind:?}: {loss:?}: {error:#}"));
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |kind| self.answered.get(&kind).copied().unwrap_or(0);
        write!(
            f,
            "{} answered on kept connections ({} reconnects), {} on new ones, {} streams; lost {:?}; the longest took {:?}",
            of(Kind::Kept),
            self.reconnects,
            of(Kind::New),
            of(Kind::Stream),
            self.lost,
            self.longest
        )
    }
}

/// The service: answers at once, but `/stream` piece by piece over some seconds.
pub(super) fn service() -> Result<Serving> {
    Ok(Origin::tcp()?.serve(|peer| {
        peer.set_patience(Duration::from_secs(600));
        loop {
            let request = Message::request(peer)?;
            if !request.head.start.contains(" /stream ") {
                peer.send(e2e::origin::ok("ok\n"))?;
                continue;
            }
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for _ in 0..PIECES {
                thread::sleep(PIECE_EVERY);
                peer.send([format!("{:x}\r\n", PIECE.len()).as_bytes(), PIECE, b"\r\n"].concat())?;
            }
            peer.send("0\r\n\r\n")?;
        }
    }))
}

/// All clients, until `over`; each ends with what it had begun.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    address: SocketAddr,
    over: &'scope AtomicBool,
) -> Vec<ScopedJoinHandle<'scope, Tally>> {
    let kinds = [(Kind::Kept, KEPT), (Kind::New, NEW), (Kind::Stream, STREAMS)];
    let all = kinds.into_iter().flat_map(|(kind, count)| (0..count).map(move |number| (kind, number)));
    all.map(|(kind, number)| {
        scope.spawn(move || {
            // An address for each client of new connections, so that ports do not run out.
            let from = IpAddr::from(Ipv4Addr::new(127, 0, 1 + kind as u8, 1 + number));
            let mut client = Client::new(kind, from, address);
            while !over.load(Ordering::Relaxed) {
                client.turn();
            }
            client.tally
        })
    })
    .collect()
}

/// A client that asks one request after the other.
pub(super) struct Client {
    kind: Kind,
    from: IpAddr,
    address: SocketAddr,
    /// A connection that may take another request.
    peer: Option<Peer>,
    tally: Tally,
}

impl Client {
    pub(super) fn new(kind: Kind, from: IpAddr, address: SocketAddr) -> Self {
        Self { kind, from, address, peer: None, tally: Tally::default() }
    }

    /// What it met.
    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// One request. Whether it was answered.
    pub(super) fn turn(&mut self) -> bool {
        if self.kind == Kind::New {
            thread::sleep(NEW_EVERY);
        }
        let begin = Instant::now();
        let mut peer = match self.connection() {
            Ok(peer) => peer,
            Err(error) => {
                let refused = error.downcast_ref::<io::Error>().map(io::Error::kind);
                let loss = if refused == Some(io::ErrorKind::TimedOut) { Loss::Failed } else { Loss::Refused };
                self.tally.lose(self.kind, loss, &error);
                // Refused clients must not take the core of the process that is to answer them.
                thread::sleep(NEW_EVERY);
                return false;
            }
        };
        let received = peer.received();
        let exchanged = exchange(&mut peer, self.kind);
        let is_answered = exchanged.is_ok();
        match exchanged {
            Ok(keeps) => {
                *self.tally.answered.entry(self.kind).or_default() += 1;
                if self.kind != Kind::Stream {
                    self.tally.longest = self.tally.longest.max(begin.elapsed());
                }
                if keeps {
                    self.peer = Some(peer);
                } else if self.kind == Kind::Kept {
                    self.tally.reconnects += 1;
                }
            }
            Err(error) => {
                let loss = match peer.ended() {
                    Some(End::Reset | End::Cut) => Loss::Reset,
                    Some(End::Eof) if peer.received() == received => Loss::Unanswered,
                    Some(End::Eof) => Loss::Cut,
                    None if error.downcast_ref::<io::Error>().is_some_and(is_reset) => Loss::Reset,
                    None => Loss::Failed,
                };
                self.tally.lose(self.kind, loss, &error);
            }
        }
        is_answered
    }

    /// The kept connection when it is open still, else a new one.
    fn connection(&mut self) -> Result<Peer> {
        if let Some(mut peer) = self.peer.take() {
            let is_silent = peer.pending()?.is_empty();
            // Bytes nobody asked for are left for the exchange to stumble over.
            if peer.ended().is_none() || !is_silent {
                return Ok(peer);
            }
            self.tally.reconnects += 1;
        }
        Peer::connect_from(self.from, self.address)
    }
}

/// One request and its whole answer. Whether the connection may take another.
fn exchange(peer: &mut Peer, kind: Kind) -> Result<bool> {
    let (path, connection) = match kind {
        Kind::Kept => ("/kept", "keep-alive"),
        Kind::New => ("/new", "close"),
        Kind::Stream => ("/stream", "keep-alive"),
    };
    peer.send(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: {connection}\r\n\r\n"))?;
    let keeps = |head: &Head| !head.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
    if kind != Kind::Stream {
        let answer = Message::answer(peer, "GET")?;
        anyhow::ensure!(answer.head.status() == 200, "answered `{}`: {}", answer.head.start, answer.text());
        return Ok(keeps(&answer.head));
    }
    // Piece by piece: the whole takes longer than the patience for one read may be.
    let head = Head::read(peer)?;
    anyhow::ensure!(head.status() == 200, "answered `{}`", head.start);
    let mut bytes = 0;
    while let Some(piece) = chunk(peer)? {
        bytes += piece.len();
    }
    fields(peer)?;
    anyhow::ensure!(bytes == PIECES * PIECE.len(), "{bytes} of {} bytes came", PIECES * PIECE.len());
    Ok(keeps(&head))
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use e2e::origin::{Refusing, ok};

    use super::*;

    fn client(kind: Kind, address: &str) -> Client {
        Client::new(kind, IpAddr::from(Ipv4Addr::LOCALHOST), address.parse().unwrap())
    }

    /// One request to a service that does this with its connection.
    fn check(kind: Kind, handler: fn(&mut Peer) -> Result<()>, lost: Option<Loss>) {
        let service = Origin::tcp().unwrap().serve(handler);
        let mut client = client(kind, service.address());
        client.turn();
        assert_eq!(client.tally.lost.keys().copied().next(), lost, "{:?}", client.tally);
        assert_eq!(client.tally.answered.values().sum::<u64>(), u64::from(lost.is_none()), "{:?}", client.tally);
    }

    #[test]
    fn every_loss_is_told_from_the_others() {
        let read = |peer: &mut Peer| Head::read(peer).map(drop);
        check(Kind::Kept, |peer| Message::request(peer).and_then(|_| peer.send(ok("ok\n"))), None);
        check(Kind::New, read, Some(Loss::Unanswered));
        check(
            Kind::Kept,
            |peer| {
                Head::read(peer)?;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            },
            Some(Loss::Cut),
        );
        check(
            Kind::Stream,
            |peer| {
                Head::read(peer)?;
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            },
            Some(Loss::Cut),
        );
        check(
            Kind::New,
            |peer| {
                Head::read(peer)?;
                peer.send("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            },
            Some(Loss::Failed),
        );
        let nobody = Refusing::new().unwrap();
        let mut client = client(Kind::New, nobody.address());
        client.turn();
        assert_eq!(client.tally.lost, BTreeMap::from([(Loss::Refused, 1)]));
    }

    #[test]
    fn a_reset_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = client(Kind::Kept, &listener.local_addr().unwrap().to_string());
        thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                // Closing with unread bytes is a reset (RFC 2525 §2.17).
                while stream.peek(&mut [0]).unwrap() == 0 {}
            });
            client.turn();
        });
        assert_eq!(client.tally.lost, BTreeMap::from([(Loss::Reset, 1)]), "{:?}", client.tally);
    }

    #[test]
    fn a_connection_closed_while_idle_is_opened_again() {
        let service = Origin::tcp().unwrap().serve(|peer| {
            Message::request(peer)?;
            peer.send(ok("ok\n"))
        });
        let mut client = client(Kind::Kept, service.address());
        client.turn();
        // Until the end has arrived; before that the next request would be lost, as with any server that closes so.
        let mut peer = client.peer.take().unwrap();
        assert!(!peer.fill().unwrap());
        client.peer = Some(peer);
        client.turn();
        assert_eq!((client.tally.lost(), client.tally.reconnects), (0, 1), "{:?}", client.tally);
        assert_eq!(client.tally.answered, BTreeMap::from([(Kind::Kept, 2)]));
    }

    #[test]
    fn a_stream_that_is_whole_is_no_loss() {
        let service = service().unwrap();
        let mut client = client(Kind::Stream, service.address());
        client.turn();
        assert_eq!((client.tally.lost(), client.tally.answered.len()), (0, 1), "{:?}", client.tally);
    }
}
