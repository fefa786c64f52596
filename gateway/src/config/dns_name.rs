//! Names and servers of DNS as the configuration writes them. Checked at load, so that what is looked up later can be asked for.

use std::net::{IpAddr, SocketAddr};

use super::words::Wrong;

/// RFC 1035 §2.3.4: 255 bytes on the wire, of which the text lacks the first length and the root.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Port of DNS servers.
const PORT: u16 = 53;

/// Checks a name that is to be looked up; a dot may end it.
pub(super) fn dns_name(text: &str) -> Result<(), Wrong> {
    let wrong = |why: &str| Err(Wrong { why: why.to_owned(), instead: None });
    if text.parse::<IpAddr>().is_ok() {
        return wrong("this is an address, which needs no DNS: write it into `endpoints`, with its port");
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        let why = "a port does not belong to the name: it is `port`".to_owned();
        return Err(Wrong { why, instead: Some(name.to_owned()) });
    }
    if !text.is_ascii() {
        return wrong("names beyond ASCII are looked up in their `xn--` form (RFC 5891): write that");
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(is_name) {
        return wrong(r#"expected a name of DNS, such as "orders.internal" or "_http._tcp.orders.internal""#);
    }
    match malformed(text) {
        Some(why) => wrong(why),
        None => Ok(()),
    }
}

/// What is wrong with a host that is no address and is to be looked up, of which only the characters are known to be right.
pub(super) fn malformed(name: &str) -> Option<&'static str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > NAME_BYTES_MAX {
        return Some("a name of DNS has at most 253 bytes");
    }
    if name.split('.').any(str::is_empty) {
        return Some("something is missing between two dots, or in front of the first");
    }
    if name.split('.').any(|label| label.len() > LABEL_BYTES_MAX) {
        return Some("between two dots of a name of DNS there are at most 63 bytes");
    }
    // RFC 3696 §2. What looks like it is an address with a number too many, or too large.
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|byte| byte.is_ascii_digit()).then_some("neither an address nor a name: no name ends in a number")
}

/// Checks the address of a server.
pub(super) fn dns_server(text: &str) -> Result<(), Wrong> {
    let why = r#"expected an IP address and a port, such as "192.0.2.53:53" or "[2001:db8::53]:53""#.to_owned();
    match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(address), _) if address.port() == 0 => {
            Err(Wrong { why: "a port is a number from 1 to 65535".to_owned(), instead: None })
        }
        (Ok(_), _) => Ok(()),
        (Err(_), Ok(address)) => Err(Wrong { why, instead: Some(SocketAddr::new(address, PORT).to_string()) }),
        (Err(_), Err(_)) => Err(Wrong { why, instead: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_asked_for() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        let good =
            ["orders", "orders.internal.", "_http._tcp.Orders.internal", "xn--nxasmq6b.example", "a.b2", &longest];
        for name in good {
            assert!(dns_name(name).is_ok(), "{name}");
        }
        let long = format!("{longest}a");
        let wide = "a".repeat(64);
        let bad = [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a b",
            "10.0.0.1",
            "::1",
            "10.0.0.256",
            "1",
            "orders:80",
            "http://orders",
            "ordérs",
            &long,
            &wide,
        ];
        for name in bad {
            assert!(dns_name(name).is_err(), "{name}");
        }
        assert_eq!(dns_name("orders:80").unwrap_err().instead.as_deref(), Some("orders"));
    }

    #[test]
    fn a_server_is_an_address() {
        for server in ["192.0.2.53:53", "[2001:db8::53]:5353"] {
            assert!(dns_server(server).is_ok(), "{server}");
        }
        for server in ["", "192.0.2.53", "192.0.2.53:0", "ns.example:53", "[2001:db8::53]"] {
            assert!(dns_server(server).is_err(), "{server}");
        }
        assert_eq!(dns_server("2001:db8::53").unwrap_err().instead.as_deref(), Some("[2001:db8::53]:53"));
    }
}
