//! Frames, built by hand.

use std::net::IpAddr;

/// The packet within an IP packet: protocol and bytes.
#[derive(Clone)]
pub(super) struct Upper(pub(super) u8, pub(super) Vec<u8>);

pub(super) fn tcp(from: u16, to: u16, flags: u8) -> Upper {
    let mut bytes = vec![0; 20];
    bytes[..2].copy_from_slice(&from.to_be_bytes());
    bytes[2..4].copy_from_slice(&to.to_be_bytes());
    bytes[12] = 0x50;
    bytes[13] = flags;
    Upper(6, bytes)
}

pub(super) fn udp(from: u16, to: u16) -> Upper {
    let mut bytes = vec![0; 8];
    bytes[..2].copy_from_slice(&from.to_be_bytes());
    bytes[2..4].copy_from_slice(&to.to_be_bytes());
    bytes[5] = 8;
    Upper(17, bytes)
}

pub(super) fn icmp(protocol: u8, kind: u8, code: u8) -> Upper {
    Upper(protocol, vec![kind, code, 0, 0, 0, 0, 0, 0])
}

/// Any protocol without a meaning here.
pub(super) fn other(protocol: u8) -> Upper {
    Upper(protocol, vec![0; 16])
}

/// What differs from a plain packet.
#[derive(Clone, Default)]
pub(super) struct Shape {
    /// VLAN tags by their type, outermost first.
    pub(super) tags: Vec<u16>,
    /// IPv4 options in words, 0 to 10.
    pub(super) options: u8,
    /// IPv6 extension headers by number.
    pub(super) extensions: Vec<u8>,
    /// Offset in units of eight bytes, and whether more follow.
    pub(super) fragment: Option<(u16, bool)>,
    pub(super) hop_limit: Option<u8>,
}

pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// A frame from this source, with proper lengths.
pub(super) fn frame(source: IpAddr, upper: &Upper, shape: &Shape) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    let kinds = shape.tags.iter().copied().chain([if source.is_ipv4() { 0x0800 } else { 0x86dd }]);
    for (nth, kind) in kinds.enumerate() {
        if nth > 0 {
            // The tag's own two bytes come before the next type.
            bytes.extend([0, 7]);
        }
        bytes.extend(kind.to_be_bytes());
    }
    let hop_limit = shape.hop_limit.unwrap_or(64);
    match source {
        IpAddr::V4(source) => {
            let length = 20 + usize::from(shape.options) * 4;
            let total = (length + upper.1.len()) as u16;
            let (offset, more) = shape.fragment.unwrap_or_default();
            let fragment = offset | if more { 0x2000 } else { 0 };
            bytes.extend([0x40 | (length / 4) as u8, 0]);
            bytes.extend(total.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([hop_limit, upper.0, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend([10, 0, 0, 1]);
            bytes.extend(vec![1; usize::from(shape.options) * 4]);
        }
        IpAddr::V6(source) => {
            let mut headers = shape.extensions.clone();
            if shape.fragment.is_some() {
                headers.push(44);
            }
            let numbers = headers.iter().copied().chain([upper.0]).collect::<Vec<_>>();
            let mut chain = Vec::new();
            for (header, next) in headers.iter().zip(&numbers[1..]) {
                chain.extend(match header {
                    44 => {
                        let (offset, more) = shape.fragment.unwrap_or_default();
                        let [high, low] = ((offset << 3) | u16::from(more)).to_be_bytes();
                        vec![*next, 0, high, low, 0, 0, 0, 9]
                    }
                    // An authentication header counts in words less two (RFC 4302 §2.2).
                    51 => [&[*next, 2][..], &[0; 14]].concat(),
                    _ => vec![*next, 0, 1, 4, 0, 0, 0, 0],
                });
            }
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(((chain.len() + upper.1.len()) as u16).to_be_bytes());
            bytes.extend([numbers[0], hop_limit]);
            bytes.extend(source.octets());
            bytes.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
            bytes.extend(chain);
        }
    }
    bytes.extend(&upper.1);
    bytes
}
