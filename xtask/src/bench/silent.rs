//! Clients of `bench idle` that say as little as they may: over plain TCP, TLS and HTTP/2.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use e2e::Peer;
use rustls::client::Resumption;

use super::client::Client;
use super::crowd;
use super::front::Front;
use super::peers::Stage;

/// What silent clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1 after one request.
    Plain,
    /// The same over TLS 1.3.
    Tls,
    /// HTTP/2 over TLS 1.3 after both sides' settings, without a request.
    H2,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::H2];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::H2 => "h2",
        }
    }

    pub(super) fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.name() == name);
        found.with_context(|| format!("no protocol is named `{name}` (there are plain, tls, h2)"))
    }

    pub(super) fn front(self) -> Front {
        match self {
            Self::Plain => Front::Plain,
            Self::Tls | Self::H2 => Front::Tls,
        }
    }
}

/// Opens connections to one peer.
pub(super) struct Silent {
    protocol: Protocol,
    client: Client,
}

impl Silent {
    pub(super) fn new(stage: &Stage, protocol: Protocol) -> Result<Self> {
        let alpn = if protocol == Protocol::H2 { "h2" } else { "http/1.1" };
        Ok(Self { protocol, client: Client::new(&stage.certificate.cert, alpn, Resumption::disabled())? })
    }

    /// The `number`th connection, which is silent from now on.
    pub(super) fn join(&self, address: SocketAddr, number: usize) -> Result<Peer> {
        let mut peer = crowd::join(address, number)?;
        if self.protocol.front() == Front::Tls {
            peer = self.client.secure(peer)?;
        }
        match self.protocol {
            Protocol::Plain | Protocol::Tls => crowd::exchange(&mut peer)?,
            Protocol::H2 => {
                let agreed = peer.tls().and_then(|tls| tls.alpn_protocol());
                ensure!(agreed == Some(b"h2"), "HTTP/2 was not agreed on");
                settle(&mut peer)?;
            }
        }
        Ok(peer)
    }

    /// Sees that it was not forgotten.
    pub(super) fn ask_again(&self, peer: &mut Peer) -> Result<()> {
        match self.protocol {
            Protocol::Plain | Protocol::Tls => crowd::exchange(peer),
            Protocol::H2 => ping(peer),
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS without a setting, and the word that the other side's were taken (RFC 9113 §6.5).
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS_TAKEN: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
const PING: [u8; 17] = *b"\x00\x00\x08\x06\x00\x00\x00\x00\x00stillup?";
/// Frames beyond which the other side is not going to say what is waited for.
const FRAMES_MAX: usize = 20;

/// What a frame is to a client that never asked for anything.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Settings,
    SettingsTaken,
    Ping,
    Pong,
    WindowUpdate,
    /// By its type.
    Other(u8),
}

impl Frame {
    /// Of its first nine bytes (RFC 9113 §4.1), and how many more it has.
    fn read(head: [u8; 9]) -> (Self, usize) {
        let [a, b, c, kind, flags, ..] = head;
        let taken = flags & 1 == 1;
        let frame = match (kind, taken) {
            (4, false) => Self::Settings,
            (4, true) => Self::SettingsTaken,
            (6, false) => Self::Ping,
            (6, true) => Self::Pong,
            (8, _) => Self::WindowUpdate,
            _ => Self::Other(kind),
        };
        (frame, u32::from_be_bytes([0, a, b, c]) as usize)
    }
}

/// The next frame, after giving it the answer it wants.
fn take(peer: &mut Peer) -> Result<(Frame, Vec<u8>)> {
    let head = peer.take(9)?;
    let (frame, length) = Frame::read(head.try_into().map_err(|_| anyhow::anyhow!("nine bytes were asked for"))?);
    let payload = peer.take(length)?;
    match frame {
        Frame::Settings => peer.send(SETTINGS_TAKEN)?,
        Frame::Ping => {
            let mut pong = PING;
            pong[4] = 1;
            let place = pong.get_mut(9..).filter(|place| place.len() == payload.len()).context("a ping has 8 bytes")?;
            place.copy_from_slice(&payload);
            peer.send(pong)?;
        }
        Frame::Other(kind) => bail!("a frame of type {kind} came on an idle connection"),
        Frame::SettingsTaken | Frame::Pong | Frame::WindowUpdate => {}
    }
    Ok((frame, payload))
}

/// Exchanges settings.
fn settle(peer: &mut Peer) -> Result<()> {
    peer.send([PREFACE, SETTINGS].concat())?;
    let (mut theirs, mut ours) = (false, false);
    for _ in 0..FRAMES_MAX {
        match take(peer)?.0 {
            Frame::Settings => theirs = true,
            Frame::SettingsTaken => ours = true,
            _ => {}
        }
        if theirs && ours {
            return Ok(());
        }
    }
    bail!("no settings among {FRAMES_MAX} frames")
}

fn ping(peer: &mut Peer) -> Result<()> {
    peer.send(PING)?;
    for _ in 0..FRAMES_MAX {
        let (frame, payload) = take(peer)?;
        if frame == Frame::Pong {
            ensure!(payload == PING[9..], "a ping came back with other bytes");
            return Ok(());
        }
    }
    bail!("no answer to a ping among {FRAMES_MAX} frames")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_by_type_and_flag() {
        let read = |bytes: &[u8]| Frame::read(bytes[..9].try_into().unwrap());
        assert_eq!(read(SETTINGS), (Frame::Settings, 0));
        assert_eq!(read(SETTINGS_TAKEN), (Frame::SettingsTaken, 0));
        assert_eq!(read(&PING), (Frame::Ping, 8));
        assert_eq!(read(&[1, 2, 3, 6, 1, 0, 0, 0, 0]), (Frame::Pong, 0x01_02_03));
        assert_eq!(read(&[0, 0, 4, 8, 0, 0, 0, 0, 0]), (Frame::WindowUpdate, 4));
        assert_eq!(read(&[0, 0, 8, 7, 0, 0, 0, 0, 0]), (Frame::Other(7), 8));
    }
}
