//! As much of WebSocket (RFC 6455) as the demo needs: the handshake, and short text frames echoed.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::Peer;
use e2e::message::Head;

/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
/// Longer ones have an extended length, which nobody sends here.
const SHORT_BYTES_MAX: usize = 125;

/// The service: shakes hands, then sends every text back until told to close.
pub(super) fn serve(peer: &mut Peer, head: &Head) -> Result<()> {
    let key = head.field("sec-websocket-key").context("no Sec-WebSocket-Key")?;
    peer.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    ))?;
    loop {
        let (kind, text) = read(peer)?;
        peer.send(frame(kind, &text, None)?)?;
        if kind == CLOSE {
            return Ok(());
        }
    }
}

/// What proves that a service understood the handshake.
pub(super) fn accept(key: &str) -> String {
    STANDARD.encode(sha1_smol::Sha1::from(format!("{key}{GUID}")).digest().bytes())
}

/// A client's text, masked as the standard asks of clients.
pub(super) fn client_text(text: &str) -> Result<Vec<u8>> {
    frame(TEXT, text.as_bytes(), Some([0x37, 0xfa, 0x21, 0x3d]))
}

pub(super) fn client_close() -> Result<Vec<u8>> {
    frame(CLOSE, &[], Some([1, 2, 3, 4]))
}

/// The next frame: its first byte and its payload, unmasked.
pub(super) fn read(peer: &mut Peer) -> Result<(u8, Vec<u8>)> {
    let start = peer.take(2)?;
    let length = usize::from(start[1] & !MASKED);
    ensure!(length <= SHORT_BYTES_MAX, "a long frame");
    let mask = if start[1] & MASKED == 0 { vec![0; 4] } else { peer.take(4)? };
    let payload = peer.take(length)?;
    Ok((start[0], mixed(&payload, &mask)))
}

fn frame(kind: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Result<Vec<u8>> {
    ensure!(payload.len() <= SHORT_BYTES_MAX, "a long frame");
    let length = u8::try_from(payload.len())?;
    let mut frame = vec![kind, length | if mask.is_some() { MASKED } else { 0 }];
    frame.extend(mask.iter().flatten());
    frame.extend(mixed(payload, &mask.unwrap_or_default()));
    Ok(frame)
}

fn mixed(payload: &[u8], mask: &[u8]) -> Vec<u8> {
    payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_examples_come_out() {
        // RFC 6455 §1.3 and §5.7.
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(client_text("Hello").unwrap(), [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(frame(TEXT, b"Hello", None).unwrap(), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    }
}
