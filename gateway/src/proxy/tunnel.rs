//! An upgraded connection: bytes both ways, unread, until either side is done, both are silent for too long, or it is too
//! old.

use std::cell::Cell;
use std::pin::pin;

use super::wire::{Chunk, Halt, Wait, Wire, WireReader, WireWriter};
use crate::rt::deadline::{Cause, Remote, now_ms, now_us};
use crate::rt::{Buf, Either, select};

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub idle_ms: u64,
    pub age_ms: u64,
}

/// Moves bytes until the tunnel is over. `early`: what each side sent behind its head, client first. Returns the bytes
/// that went to the upstream and to the client.
pub async fn run(
    client: (&mut WireReader, &mut WireWriter),
    upstream: &mut Wire,
    early: (Option<Buf>, Option<Buf>),
    limits: Limits,
) -> (u64, u64) {
    let (client_reader, client_writer) = client;
    let (upstream_reader, upstream_writer) = (&mut upstream.reader, &mut upstream.writer);
    let moved = (Cell::new(0), Cell::new(0));
    let life = Life {
        remotes: [client_reader.remote(), upstream_reader.remote()],
        over_ms: now_us() / 1000 + limits.age_ms,
        idle_ms: limits.idle_ms,
    };
    life.renew();
    {
        let mut up = pin!(direction(client_reader, upstream_writer, early.0, &moved.0, &life));
        let mut down = pin!(direction(upstream_reader, client_writer, early.1, &moved.1, &life));
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
    remotes: [Remote; 2],
    over_ms: u64,
    idle_ms: u64,
}

impl Life {
    fn renew(&self) {
        let left = self.over_ms.saturating_sub(now_ms()).min(self.idle_ms);
        self.remotes.iter().for_each(|remote| remote.arm(left, Cause::Tunnel));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The sender has nothing more to say, and the receiver was told.
    InOrder,
    Cut,
}

async fn direction(
    reader: &mut WireReader,
    writer: &mut WireWriter,
    early: Option<Buf>,
    moved: &Cell<u64>,
    life: &Life,
) -> Ended {
    let mut next = early;
    loop {
        if let Some(buf) = next.take() {
            let len = buf.len() as u64;
            let wait = Wait { ms: life.idle_ms, cause: Cause::Tunnel };
            if writer.write(Chunk::Pooled(buf), wait).await.is_err() {
                return Ended::Cut;
            }
            moved.set(moved.get() + len);
            life.renew();
        }
        // Most tunnels are silent most of the time: the wait holds no buffer.
        if reader.readable_armed().await.is_err() {
            return Ended::Cut;
        }
        match reader.read_armed(Buf::take(), usize::MAX).await {
            (Ok(_), buf) => next = Some(buf),
            (Err(Halt::Closed), _) => {
                writer.shutdown().await;
                return Ended::InOrder;
            }
            (Err(_), _) => return Ended::Cut,
        }
    }
}
