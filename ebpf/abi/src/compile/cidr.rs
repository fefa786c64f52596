//! Prefixes and their text. Lists of a million lines are read at every reload, so the IPv4 form is read by hand.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A prefix: an address whose host bits are zero, and a length. IPv4-mapped IPv6 prefixes are IPv4 ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    addr: IpAddr,
    length: u8,
}

/// What is wrong with the text of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CidrError {
    Address,
    Length { length_max: u8 },
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("not an IP address, nor one with a prefix length like `192.0.2.0/24`"),
            Self::Length { length_max } => write!(f, "the prefix length is not a number from 0 to {length_max}"),
        }
    }
}

impl std::error::Error for CidrError {}

impl Cidr {
    /// Masks host bits away. `None`: the length is too large for the family.
    pub fn new(addr: IpAddr, length: u8) -> Option<Self> {
        match addr {
            IpAddr::V4(addr) => Self::v4(addr.to_bits(), length),
            IpAddr::V6(addr) => match addr.to_ipv4_mapped() {
                Some(addr) if length >= 96 => Self::v4(addr.to_bits(), length - 96),
                _ => {
                    let hosts = 128_u32.checked_sub(u32::from(length))?;
                    let mask = u128::MAX.checked_shl(hosts).unwrap_or(0);
                    Some(Self { addr: Ipv6Addr::from_bits(addr.to_bits() & mask).into(), length })
                }
            },
        }
    }

    fn v4(addr: u32, length: u8) -> Option<Self> {
        let hosts = 32_u32.checked_sub(u32::from(length))?;
        let mask = u32::MAX.checked_shl(hosts).unwrap_or(0);
        Some(Self { addr: Ipv4Addr::from_bits(addr & mask).into(), length })
    }

    /// The prefix of one address.
    pub fn host(addr: IpAddr) -> Self {
        let length = if addr.is_ipv4() { 32 } else { 128 };
        Self::new(addr, length).expect("the length of the family")
    }

    /// The first address.
    pub fn addr(self) -> IpAddr {
        self.addr
    }

    pub fn length(self) -> u8 {
        self.length
    }

    /// `192.0.2.0/24`, `2001:db8::/32`, or an address alone. Also whether host bits were set, which are masked away: a
    /// mistake more often than not, so worth a warning.
    pub fn parse(text: &str) -> Result<(Self, bool), CidrError> {
        if let Some((addr, used)) = v4(text.as_bytes()) {
            let length = length(&text.as_bytes()[used..], 32)?;
            let cidr = Self::v4(addr, length).ok_or(CidrError::Length { length_max: 32 })?;
            return Ok((cidr, cidr.addr != IpAddr::V4(Ipv4Addr::from_bits(addr))));
        }
        let end = text.find('/').unwrap_or(text.len());
        let addr = text[..end].parse::<Ipv6Addr>().map_err(|_| CidrError::Address)?;
        let length = length(&text.as_bytes()[end..], 128)?;
        let cidr = Self::new(addr.into(), length).ok_or(CidrError::Length { length_max: 128 })?;
        Ok((cidr, cidr.addr != IpAddr::V6(addr) && cidr.addr != addr.to_canonical()))
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        Ok(Self::parse(text)?.0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.length)
    }
}

/// Four decimal numbers without leading zeros (some programs take those as octal), and how long their text is.
fn v4(text: &[u8]) -> Option<(u32, usize)> {
    let (mut addr, mut part, mut digits, mut dots) = (0_u32, 0_u32, 0, 0);
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'0'..=b'9' => {
                if digits > 0 && part == 0 {
                    return None;
                }
                part = part * 10 + u32::from(byte - b'0');
                digits += 1;
                if part > 255 {
                    return None;
                }
            }
            b'.' if digits > 0 && dots < 3 => {
                addr = addr << 8 | part;
                (part, digits, dots) = (0, 0, dots + 1);
            }
            _ => break,
        }
        at += 1;
    }
    (digits > 0 && dots == 3).then_some((addr << 8 | part, at))
}

/// The length of the family where there is no text, else a slash and a number without leading zeros.
fn length(text: &[u8], length_max: u8) -> Result<u8, CidrError> {
    let digits = match text {
        [] => return Ok(length_max),
        [b'/', digits @ ..] => digits,
        _ => return Err(CidrError::Address),
    };
    let number = match digits {
        [b'0'] => 0,
        [b'1'..=b'9', ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            digits.iter().fold(0, |number, byte| number * 10 + u32::from(byte - b'0'))
        }
        _ => return Err(CidrError::Length { length_max }),
    };
    u8::try_from(number).ok().filter(|length| *length <= length_max).ok_or(CidrError::Length { length_max })
}
