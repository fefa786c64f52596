//! A client that keeps its connection as RFC 9112 §9.3 has it, while the gateway comes and goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::message::Message;
use crate::peer::Peer;

/// A gateway that drains closes a connection that has been silent for a second: it may be closed for a client that has not
/// asked for so long. A test on a slow machine must not take that for a lost request.
pub const QUIET: Duration = Duration::from_millis(900);

/// Asks again and again, on a new connection when the gateway said that the old one closes.
pub struct Kept {
    to: SocketAddr,
    peer: Peer,
    /// When it last asked, or connected: the gateway has waited for it for no longer than since then.
    asked: Instant,
}

impl Kept {
    pub fn connect(to: SocketAddr) -> Result<Self> {
        Ok(Self { to, asked: Instant::now(), peer: Peer::connect(to)? })
    }

    /// Sends a GET and reads its answer. Fails when the connection ends instead, unless it had been silent for [`QUIET`] and
    /// the answer comes on another one.
    pub fn ask(&mut self, request: &str) -> Result<Message> {
        let before = std::mem::replace(&mut self.asked, Instant::now());
        let mut answer = self.ask_here(request);
        if answer.is_err() && before.elapsed() >= QUIET && self.peer.ended().is_some() {
            self.reconnect()?;
            answer = self.ask_here(request).context("on another connection");
        }
        let answer = answer?;
        if answer.head.field("connection") == Some("close") {
            self.reconnect()?;
        }
        Ok(answer)
    }

    /// Leaves the connection for a new one.
    pub fn reconnect(&mut self) -> Result<()> {
        *self = Self::connect(self.to)?;
        Ok(())
    }

    fn ask_here(&mut self, request: &str) -> Result<Message> {
        // Into a connection that has ended it fails or not; reading tells for certain.
        let sent = self.peer.send(request);
        let answer = Message::answer(&mut self.peer, "GET");
        sent.and(answer)
    }
}
