//! The WebSocket handshake where the two sides do it differently: a client that came by HTTP/2 sends no key (RFC 8441 §5), a
//! service that speaks HTTP/1.1 wants one and answers it (RFC 6455 §4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::head::RequestHead;
use super::trace::Ids;

/// What every server appends to a key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the service must answer; left in the exchange.
pub struct Accept(String);

impl Accept {
    /// Whether a service that said this has understood.
    pub fn is(&self, said: Option<&[u8]>) -> bool {
        said == Some(self.0.as_bytes())
    }

    fn of(key: &[u8]) -> Accept {
        let mut sha1 = sha1_smol::Sha1::new();
        sha1.update(key);
        sha1.update(GUID);
        Accept(STANDARD.encode(sha1.digest().bytes()))
    }
}

/// Asks for WebSocket with a key of our own.
pub fn ask(head: &mut RequestHead, ids: &mut Ids) -> Accept {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&ids.next_u64().to_ne_bytes());
    nonce[8..].copy_from_slice(&ids.next_u64().to_ne_bytes());
    let key = STANDARD.encode(nonce);
    head.fields.set(b"sec-websocket-key", key.as_bytes());
    if head.fields.get(b"sec-websocket-version").is_none() {
        head.fields.add(b"sec-websocket-version", b"13");
    }
    Accept::of(key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_standard_says() {
        let accept = Accept::of(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(accept.is(Some(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!accept.is(Some(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")));
        assert!(!accept.is(None));
    }
}
