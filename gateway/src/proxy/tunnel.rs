//! An upgraded connection: bytes both ways, unread, until either side is done, both are silent for too long, or it is too
//! old.

use std::cell::Cell;
use std::pin::pin;

use super::h1::body::BodyError;
use super::h2::answer::H2Answer;
use super::h2::body::H2Body;
use super::wire::{Chunk, Halt, Wait, Wire, WireReader, WireWriter};
use crate::rt::deadline::{Cause, Guard, Remote, now_ms, now_us};
use crate::rt::{Buf, Either, select};

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub idle_ms: u64,
    pub age_ms: u64,
}

/// Where a client's bytes come from.
pub enum Ear<'a> {
    Wire(&'a mut WireReader),
    Stream(&'a mut H2Body),
}

/// Where a client's bytes go.
pub enum Mouth<'a> {
    Wire(&'a mut WireWriter),
    Stream(&'a mut H2Answer),
}

impl Ear<'_> {
    /// The deadline of its reads, where it has one of its own.
    fn remote(&self) -> Option<Remote> {
        match self {
            Ear::Wire(reader) => Some(reader.remote()),
            Ear::Stream(_) => None,
        }
    }

    async fn next(&mut self, life: &Life) -> Result<Chunk, Halt> {
        match self {
            // Most tunnels are silent most of the time: the wait holds no buffer.
            Ear::Wire(reader) => {
                reader.readable_armed().await?;
                let (result, buf) = reader.read_armed(Buf::take(), usize::MAX).await;
                result.map(|_| Chunk::Pooled(buf))
            }
            Ear::Stream(body) => match select(body.next_unhurried(), life.streams.over()).await {
                Either::Left(Ok(Some(bytes))) => Ok(Chunk::Shared(bytes)),
                Either::Left(Ok(None)) => Err(Halt::Closed),
                Either::Left(Err(BodyError::Halted(halt))) => Err(halt),
                Either::Left(Err(_)) => Err(Halt::Slow),
                Either::Right(cause) => Err(Halt::Expired(cause)),
            },
        }
    }
}

impl Mouth<'_> {
    async fn say(&mut self, chunk: Chunk, wait: Wait) -> Result<(), Halt> {
        match self {
            Mouth::Wire(writer) => writer.write(chunk, wait).await,
            Mouth::Stream(answer) => answer.piece(chunk).await,
        }
    }

    async fn end(&mut self) {
        match self {
            Mouth::Wire(writer) => writer.shutdown().await,
            // Whoever is gone needs no telling.
            Mouth::Stream(answer) => answer.end(None, None).await.unwrap_or_default(),
        }
    }
}

/// Moves bytes until the tunnel is over. `early`: what each side sent behind its head, client first. Returns the bytes
/// that went to the upstream and to the client.
pub async fn run(
    client: (Ear<'_>, Mouth<'_>),
    upstream: &mut Wire,
    early: (Option<Buf>, Option<Buf>),
    limits: Limits,
) -> (u64, u64) {
    let (mut client_reader, mut client_writer) = client;
    let mut upstream_reader = Ear::Wire(&mut upstream.reader);
    let mut upstream_writer = Mouth::Wire(&mut upstream.writer);
    let moved = (Cell::new(0), Cell::new(0));
    let life = Life {
        remotes: [client_reader.remote(), upstream_reader.remote()],
        streams: Guard::new(None),
        over_ms: now_us() / 1000 + limits.age_ms,
        idle_ms: limits.idle_ms,
    };
    life.renew();
    {
        let mut up = pin!(direction(&mut client_reader, &mut upstream_writer, early.0, &moved.0, &life));
        let mut down = pin!(direction(&mut upstream_reader, &mut client_writer, early.1, &moved.1, &life));
        // A side that ended in order has said all it will; the other may still have something to say. Anything else
        // ends both.
        match select(up.as_mut(), down.as_mut()).await {
            Either::Left(Ended::InOrder) => {
                down.await;
            }
            Either::Right(Ended::InOrder) => {
                up.await;
            }
            Either::Left(Ended::Cut) | Either::Right(Ended::Cut) => {}
        }
    }
    (moved.0.get(), moved.1.get())
}

/// The deadline of a tunnel. Silence is both directions', so each movement renews the wait of both.
struct Life {
    remotes: [Option<Remote>; 2],
    /// The same for a client that has no socket of its own.
    streams: Guard,
    over_ms: u64,
    idle_ms: u64,
}

impl Life {
    fn renew(&self) {
        let left = self.over_ms.saturating_sub(now_ms()).min(self.idle_ms);
        self.remotes.iter().flatten().for_each(|remote| remote.arm(left, Cause::Tunnel));
        self.streams.arm(left, Cause::Tunnel);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The sender has nothing more to say, and the receiver was told.
    InOrder,
    Cut,
}

async fn direction(
    ear: &mut Ear<'_>,
    mouth: &mut Mouth<'_>,
    early: Option<Buf>,
    moved: &Cell<u64>,
    life: &Life,
) -> Ended {
    let mut next = early.map(Chunk::Pooled);
    loop {
        if let Some(chunk) = next.take() {
            let len = chunk.len() as u64;
            let wait = Wait { ms: life.idle_ms, cause: Cause::Tunnel };
            if mouth.say(chunk, wait).await.is_err() {
                return Ended::Cut;
            }
            moved.set(moved.get() + len);
            life.renew();
        }
        match ear.next(life).await {
            Ok(chunk) => next = Some(chunk),
            Err(Halt::Closed) => {
                mouth.end().await;
                return Ended::InOrder;
            }
            Err(_) => return Ended::Cut,
        }
    }
}
