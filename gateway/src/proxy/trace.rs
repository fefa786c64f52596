//! Names of one exchange: the request id of problems and logs, and the W3C trace context (level 1) passed upstream.

use http1::Known;

use super::fields::Fields;
use crate::limits::REQUEST_ID_BYTES_MAX;

/// `00-` trace id `-` parent id `-` flags
const TRACEPARENT_BYTES: usize = 55;

/// Bytes of `tracestate` passed on. W3C Trace Context §3.3.1.5 asks for at least 512.
const TRACESTATE_BYTES_MAX: usize = 512;

/// A source of ids for one worker: xoshiro256++, seeded by the kernel. Unique, not secret.
pub struct Ids {
    state: [u64; 4],
}

impl Ids {
    pub fn new() -> Result<Ids, getrandom::Error> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed)?;
        let mut state = [0u64; 4];
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
        // The all-zero state would stay zero.
        state[0] |= 1;
        Ok(Ids { state })
    }

    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

/// 32 hexadecimal digits of our own, or what a trusted hop called the request.
#[derive(Clone)]
pub struct RequestId {
    bytes: [u8; REQUEST_ID_BYTES_MAX],
    len: u8,
}

impl RequestId {
    /// The id of a trusted hop when it is printable and short enough, else a new one.
    pub fn new(fields: &Fields, trusted: bool, ids: &mut Ids) -> RequestId {
        if trusted
            && let Some(given) = fields.first(Known::XRequestId)
            && (1..=REQUEST_ID_BYTES_MAX).contains(&given.len())
            && given.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
        {
            let mut bytes = [0; REQUEST_ID_BYTES_MAX];
            bytes[..given.len()].copy_from_slice(given);
            return RequestId { bytes, len: given.len() as u8 };
        }
        RequestId::made(ids)
    }

    pub fn made(ids: &mut Ids) -> RequestId {
        let mut bytes = [0; REQUEST_ID_BYTES_MAX];
        hex(ids.next_u64(), &mut bytes[..16]);
        hex(ids.next_u64(), &mut bytes[16..32]);
        RequestId { bytes, len: 32 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// The trace this exchange belongs to: the client's, passed on as it came, or a new one.
pub struct Trace {
    parent: [u8; TRACEPARENT_BYTES],
    state: Option<Vec<u8>>,
}

impl Trace {
    pub fn new(fields: &Fields, ids: &mut Ids) -> Trace {
        let mut given = fields.iter().filter(|&(_, _, known)| known == Known::Traceparent).map(|(_, value, _)| value);
        match (given.next(), given.next()) {
            (Some(parent), None) if is_traceparent(parent) => {
                let mut bytes = [0; TRACEPARENT_BYTES];
                bytes.copy_from_slice(&parent[..TRACEPARENT_BYTES]);
                // What a later version holds beyond ours is not passed on, so neither is its number.
                bytes[..2].copy_from_slice(b"00");
                Trace { parent: bytes, state: state(fields) }
            }
            // A state belongs to its parent: without a valid one it is dropped (W3C Trace Context §3.3).
            _ => Trace { parent: made(ids), state: None },
        }
    }

    pub fn parent(&self) -> &[u8] {
        &self.parent
    }

    pub fn state(&self) -> Option<&[u8]> {
        self.state.as_deref()
    }

    /// 32 hexadecimal digits
    pub fn id(&self) -> &[u8] {
        &self.parent[3..35]
    }
}

fn made(ids: &mut Ids) -> [u8; TRACEPARENT_BYTES] {
    let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex(ids.next_u64(), &mut parent[3..19]);
    // Neither id may be all zeros.
    hex(ids.next_u64() | 1, &mut parent[19..35]);
    hex(ids.next_u64() | 1, &mut parent[36..52]);
    parent
}

fn state(fields: &Fields) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    for (_, value, _) in fields.iter().filter(|&(_, _, known)| known == Known::Tracestate) {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(value);
    }
    (1..=TRACESTATE_BYTES_MAX).contains(&list.len()).then_some(list)
}

/// W3C Trace Context §3.2.2. Later versions may be longer; their first four parts are read as ours.
fn is_traceparent(text: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
    let is_zero = |part: &[u8]| part.iter().all(|&byte| byte == b'0');
    let len_is_right = match text.get(..2) {
        Some(b"00") => text.len() == TRACEPARENT_BYTES,
        _ => text.len() == TRACEPARENT_BYTES || text.get(TRACEPARENT_BYTES) == Some(&b'-'),
    };
    text.len() >= TRACEPARENT_BYTES
        && len_is_right
        && [2, 35, 52].iter().all(|&at| text[at] == b'-')
        && is_hex(&text[..2])
        && &text[..2] != b"ff"
        && is_hex(&text[3..35])
        && !is_zero(&text[3..35])
        && is_hex(&text[36..52])
        && !is_zero(&text[36..52])
        && is_hex(&text[53..55])
}

fn hex(value: u64, out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (at, digit) in out.iter_mut().enumerate() {
        *digit = DIGITS[(value >> (60 - 4 * at)) as usize & 15];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents_are_told_apart() {
        let check = |text: &str, expected| assert_eq!(is_traceparent(text.as_bytes()), expected, "{text}");
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
        check("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
        check("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x", false);
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", true);
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more", false);
        check("", false);
    }

    #[test]
    fn made_ones_are_valid_and_differ() {
        let mut ids = Ids { state: [1, 2, 3, 4] };
        let (one, two) = (made(&mut ids), made(&mut ids));
        assert!(is_traceparent(&one) && is_traceparent(&two));
        assert_ne!(one, two);
        assert_ne!(RequestId::made(&mut ids).as_bytes(), RequestId::made(&mut ids).as_bytes());
    }

    #[test]
    fn only_a_trusted_hop_names_the_request() {
        let mut ids = Ids { state: [1, 2, 3, 4] };
        let check = |given: &[u8], trusted, kept, ids: &mut Ids| {
            let mut fields = Fields::new();
            fields.add(b"x-request-id", given);
            assert_eq!(RequestId::new(&fields, trusted, ids).as_bytes() == given, kept, "{}", given.escape_ascii());
        };
        check(b"abc-1", true, true, &mut ids);
        check(b"abc-1", false, false, &mut ids);
        check(b"a b", true, false, &mut ids);
        check(b"", true, false, &mut ids);
        check(&[b'a'; REQUEST_ID_BYTES_MAX], true, true, &mut ids);
        check(&[b'a'; REQUEST_ID_BYTES_MAX + 1], true, false, &mut ids);
    }
}
