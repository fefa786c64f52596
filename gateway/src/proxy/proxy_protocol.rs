//! What a load balancer says about the client before the client's first byte: a PROXY header, version 1 or 2.
//!
//! After HAProxy's "The PROXY protocol, Versions 1 & 2". Pure: bytes in, addresses or a fault out; whom to believe is for the
//! caller to know (`connection`). Stricter than the text asks for wherever two readers could read differently: one form for
//! each address and port, no byte that nobody accounts for.

pub mod said;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc};

use crate::limits::PROXY_PAYLOAD_BYTES_MAX;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub source: Source,
    /// Bytes it took; what follows is the client's.
    pub consumed: usize,
}

/// Who speaks behind a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Whoever opened the connection, for itself (LOCAL): to see whether somebody is here.
    Hop,
    /// Somebody behind it without an IP address, or with one it does not know (UNKNOWN, UNSPEC, a Unix socket).
    Unnamed,
    /// Somebody behind it.
    Client {
        client: SocketAddr,
        /// Where the client connected to.
        destination: SocketAddr,
    },
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes begin neither version.
    Signature,
    /// A line of version 1 does not end where it must.
    LineTooLong,
    /// CR and LF stand anywhere but at the end of the line, together.
    LineEnd,
    /// Not TCP4, TCP6 or UNKNOWN; or a family and protocol that are none.
    Family,
    /// Addresses and ports that are not four words of one form.
    Addresses,
    /// A version that is not 2 behind the signature.
    Version,
    /// Neither LOCAL nor PROXY.
    Command,
    /// Datagrams, which cannot have become this connection.
    Datagram,
    /// More than [`PROXY_PAYLOAD_BYTES_MAX`].
    PayloadTooLong,
    /// The payload ends within the addresses.
    PayloadTooShort,
    /// The payload ends within a TLV, or one has not the length of its type.
    Tlv,
    /// CRC32C twice.
    ChecksumRepeated,
    /// CRC32C is another one.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Signature => "it begins neither with `PROXY ` nor with the signature of version 2",
            Malformed::LineTooLong => "the line is longer than 107 bytes",
            Malformed::LineEnd => "the line does not end with CR LF, or holds one of them before",
            Malformed::Family => "an unknown family or protocol",
            Malformed::Addresses => "the addresses and ports cannot be read",
            Malformed::Version => "a version other than 2",
            Malformed::Command => "a command other than LOCAL and PROXY",
            Malformed::Datagram => "it speaks of datagrams",
            Malformed::PayloadTooLong => "it is longer than 4096 bytes",
            Malformed::PayloadTooShort => "it ends within its addresses",
            Malformed::Tlv => "a TLV does not fit",
            Malformed::ChecksumRepeated => "two checksums",
            Malformed::Checksum => "the checksum is wrong",
        })
    }
}

/// How a header of version 1 begins.
const V1: &[u8] = b"PROXY ";

/// A line of version 1 with its end (§2.1): two IPv6 addresses as long as they get, ports, UNKNOWN.
const V1_BYTES_MAX: usize = 107;

/// How a header of version 2 begins (§2.2).
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length.
const V2_FIXED_BYTES: usize = 16;

/// The TLV with a CRC32C of the whole header (§2.2.3).
const TLV_CRC32C: u8 = 0x03;

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Reads the header `bytes` begin with. `None`: they are the beginning of one. Linear in the bytes of the header, no allocation.
///
/// Says the same of every beginning of the same bytes, but that it may know of a fault later: so it can be asked again whenever
/// more has come.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    match bytes.first() {
        None => Ok(None),
        Some(b'P') if begins(V1) => parse_line(bytes),
        Some(b'\r') if begins(V2) => parse_binary(bytes),
        Some(_) => Err(Malformed::Signature),
    }
}

/// Whether `bytes` begin as a header does. For a clear word to whoever sends one where none is expected; nothing is believed
/// by it.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(V2)
        || [&b"PROXY TCP4 "[..], b"PROXY TCP6 ", b"PROXY UNKNOWN"].iter().any(|v1| bytes.starts_with(v1))
}

/// Version 1 (§2.1): a line of text.
fn parse_line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let end = bytes.iter().take(V1_BYTES_MAX - 1).position(|byte| matches!(byte, b'\r' | b'\n'));
    let line = match end.map(|end| (&bytes[..end], &bytes[end..])) {
        Some((line, [b'\r', b'\n', ..])) => line,
        Some((_, [b'\r'])) => return Ok(None),
        Some(_) => return Err(Malformed::LineEnd),
        None if bytes.len() >= V1_BYTES_MAX - 1 => return Err(Malformed::LineTooLong),
        None => return Ok(None),
    };
    let consumed = line.len() + 2;
    let words = line.get(V1.len()..).ok_or(Malformed::Family)?;
    let (family, rest) = match words.iter().position(|&byte| byte == b' ') {
        Some(space) => (&words[..space], Some(&words[space + 1..])),
        None => (words, None),
    };
    let text = || std::str::from_utf8(rest.unwrap_or_default()).map_err(|_| Malformed::Addresses);
    let source = match family {
        b"TCP4" => read_addresses::<Ipv4Addr>(text()?)?,
        b"TCP6" => read_addresses::<Ipv6Addr>(text()?)?,
        // Whatever else the line says is to be passed over.
        b"UNKNOWN" => Source::Unnamed,
        _ => return Err(Malformed::Family),
    };
    Ok(Some(Header { source, consumed }))
}

/// Two addresses, two ports, one space between each.
fn read_addresses<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Result<Source, Malformed> {
    let read = || {
        let mut words = text.split(' ');
        // The library's readers take no leading zeros, no spaces and no zone.
        let mut address = || Some(words.next()?.parse::<A>().ok()?.into());
        let (client, destination): (IpAddr, IpAddr) = (address()?, address()?);
        let mut port = || {
            let word = words.next()?;
            let port: u16 = word.parse().ok()?;
            (itoa::Buffer::new().format(port) == word).then_some(port)
        };
        let (client, destination) = (SocketAddr::new(client, port()?), SocketAddr::new(destination, port()?));
        words.next().is_none().then_some(Source::Client { client, destination })
    };
    read().ok_or(Malformed::Addresses)
}

/// Version 2 (§2.2): 16 bytes, then as many as they say.
fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    // Each byte is judged as soon as it is there: nobody waits for the rest of what is wrong already.
    let Some(&version) = bytes.get(V2.len()) else { return Ok(None) };
    let local = match (version >> 4, version & 0xf) {
        (2, 0) => true,
        (2, 1) => false,
        (2, _) => return Err(Malformed::Command),
        _ => return Err(Malformed::Version),
    };
    let Some(&family) = bytes.get(V2.len() + 1) else { return Ok(None) };
    let addresses = match family {
        // Of a connection nobody is behind, the family is nobody's business.
        _ if local => None,
        0x00 => None,
        0x11 => Some(12),
        0x21 => Some(36),
        0x31 => Some(216),
        0x12 | 0x22 | 0x32 => return Err(Malformed::Datagram),
        _ => return Err(Malformed::Family),
    };
    let Some(&[high, low]) = bytes.get(V2.len() + 2..V2_FIXED_BYTES) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > PROXY_PAYLOAD_BYTES_MAX {
        return Err(Malformed::PayloadTooLong);
    }
    if addresses.is_some_and(|addresses| addresses > length) {
        return Err(Malformed::PayloadTooShort);
    }
    let consumed = V2_FIXED_BYTES + length;
    let Some(header) = bytes.get(..consumed) else { return Ok(None) };
    let source = match addresses {
        _ if local => Source::Hop,
        // What stands here has no form that could be known, and nothing of it is used.
        None => Source::Unnamed,
        Some(addresses) => {
            check_tlvs(header, V2_FIXED_BYTES + addresses)?;
            source(family, &header[V2_FIXED_BYTES..V2_FIXED_BYTES + addresses])
        }
    };
    Ok(Some(Header { source, consumed }))
}

/// The addresses of a family; as many bytes as it has.
fn source(family: u8, bytes: &[u8]) -> Source {
    let mut rest = bytes;
    match family {
        0x11 => {
            let mut address = || take(&mut rest).map(Ipv4Addr::from);
            let (client, destination) = (address(), address());
            between(client, destination, rest)
        }
        0x21 => {
            let mut address = || take(&mut rest).map(Ipv6Addr::from);
            let (client, destination) = (address(), address());
            between(client, destination, rest)
        }
        _ => Source::Unnamed,
    }
}

fn between<A: Into<IpAddr>>(client: Option<A>, destination: Option<A>, mut ports: &[u8]) -> Source {
    let mut port = || take(&mut ports).map(u16::from_be_bytes);
    match (client, destination, port(), port()) {
        (Some(client), Some(destination), Some(from), Some(to)) => Source::Client {
            client: SocketAddr::new(client.into(), from),
            destination: SocketAddr::new(destination.into(), to),
        },
        // Cannot happen: the caller has counted. Nobody is named by half an address.
        _ => Source::Unnamed,
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Walks the TLVs from `at` to the end of `header` (§2.2.1): each must fit, and the checksum must be right if there is one.
/// What the others say (a name, TLS between the client and the hop) is not asked for.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    let mut checksum = None;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else { return Err(Malformed::Tlv) };
        let value_at = at + 3;
        at = value_at + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(value_at..at).ok_or(Malformed::Tlv)?;
        if kind == TLV_CRC32C {
            let value: [u8; 4] = value.try_into().map_err(|_| Malformed::Tlv)?;
            if checksum.replace((value_at, u32::from_be_bytes(value))).is_some() {
                return Err(Malformed::ChecksumRepeated);
            }
        }
    }
    match checksum {
        Some((at, said)) if checksum_of(header, at) != said => Err(Malformed::Checksum),
        _ => Ok(()),
    }
}

/// Of all of `header`, zeros for the checksum itself at `at` (§2.2.3).
fn checksum_of(header: &[u8], at: usize) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&header[..at]);
    digest.update(&[0; 4]);
    digest.update(&header[at + 4..]);
    digest.finalize()
}

#[cfg(test)]
mod tests;
