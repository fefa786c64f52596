//! The header we send: who the client of a connection to a service is (`proxy_protocol` of an upstream).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::V2;
use crate::config::model::ProxyVersion;

/// The header of a connection to `to`, opened for `client`; `None`: for ourselves, or to a unix socket. Ports of clients are not
/// kept, since a connection serves several of one client's: 0 is said.
pub fn header(version: ProxyVersion, client: Option<IpAddr>, to: Option<SocketAddr>) -> Vec<u8> {
    let mut header = Vec::with_capacity(64);
    let known = client.zip(to).map(|(client, to)| alike(client.to_canonical(), to.ip().to_canonical(), to.port()));
    match (version, known) {
        (ProxyVersion::V1, None) => header.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        (ProxyVersion::V1, Some((client, to, port))) => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            // Writing to memory does not fail.
            let _ = write!(header, "PROXY {family} {client} {to} 0 {port}\r\n");
        }
        (ProxyVersion::V2, None) => {
            header.extend_from_slice(V2);
            // LOCAL, unspecified, no addresses.
            header.extend_from_slice(&[0x20, 0x00, 0, 0]);
        }
        (ProxyVersion::V2, Some((client, to, port))) => {
            header.extend_from_slice(V2);
            let (family, length) = if client.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
            header.extend_from_slice(&[0x21, family, 0, length]);
            for address in [client, to] {
                match address {
                    IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
                }
            }
            header.extend_from_slice(&[0, 0]);
            header.extend_from_slice(&port.to_be_bytes());
        }
    }
    header
}

/// Two addresses of one family, which the header has room for: an IPv4 address beside an IPv6 one is mapped (RFC 4291 §2.5.5.2).
fn alike(client: IpAddr, to: IpAddr, port: u16) -> (IpAddr, IpAddr, u16) {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    match client.is_ipv4() == to.is_ipv4() {
        true => (client, to, port),
        false => (mapped(client), mapped(to), port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: ProxyVersion, client: &str, to: &str) -> Vec<u8> {
        header(version, client.parse().ok(), to.parse().ok())
    }

    #[test]
    fn the_first_version_is_a_line() {
        for (client, to, expected) in [
            ("192.0.2.1", "10.0.0.1:80", "PROXY TCP4 192.0.2.1 10.0.0.1 0 80\r\n"),
            ("2001:db8::1", "[2001:db8::2]:443", "PROXY TCP6 2001:db8::1 2001:db8::2 0 443\r\n"),
            ("192.0.2.1", "[2001:db8::2]:443", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 0 443\r\n"),
            ("2001:db8::1", "10.0.0.1:80", "PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 0 80\r\n"),
            ("::ffff:192.0.2.1", "10.0.0.1:80", "PROXY TCP4 192.0.2.1 10.0.0.1 0 80\r\n"),
            ("", "10.0.0.1:80", "PROXY UNKNOWN\r\n"),
            ("192.0.2.1", "", "PROXY UNKNOWN\r\n"),
        ] {
            assert_eq!(String::from_utf8(said(ProxyVersion::V1, client, to)).expect("ASCII"), expected);
        }
    }

    #[test]
    fn the_second_version_is_binary() {
        let four = said(ProxyVersion::V2, "192.0.2.1", "10.0.0.1:80");
        assert_eq!(&four[..12], V2);
        assert_eq!(four[12..], [0x21, 0x11, 0, 12, 192, 0, 2, 1, 10, 0, 0, 1, 0, 0, 0, 80]);
        let six = said(ProxyVersion::V2, "2001:db8::1", "[2001:db8::2]:443");
        assert_eq!((six[12..16].to_vec(), six.len()), (vec![0x21, 0x21, 0, 36], 16 + 36));
        assert_eq!(six[48..], [0, 0, 1, 187]);
        assert_eq!(said(ProxyVersion::V2, "", "10.0.0.1:80")[12..], [0x20, 0, 0, 0]);
    }
}
