//! The request-target (RFC 9112 §3.2): which of its four forms it has, and for whom the request is.
//!
//! Called once per request, after its head was parsed. What it returns are spans of that head; the path among them goes
//! through [`crate::canonical_path`] before anyone compares it with anything.

use std::net::Ipv6Addr;

use crate::fault::Fault;
use crate::request::{Method, RequestLine};
use crate::span::Span;

/// A host with more bytes is no DNS name (RFC 1035 §2.3.4), and the other kinds are shorter.
pub const HOST_BYTES_MAX: usize = 255;

/// The forms of RFC 9112 §3.2.1 to §3.2.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `host:port`, with CONNECT
    Authority,
    /// `*`, with OPTIONS
    Asterisk,
}

/// A request-target taken apart. Spans are of the head it stood in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub form: Form,
    /// `http` or `https` in any case; absolute form only.
    pub scheme: Option<Span>,
    /// Whom the request is for: the target's own authority in absolute and authority form, else Host. The syntax has
    /// been checked ([`host_parts`] cannot fail on it). `None` only in HTTP/1.0 without Host.
    pub authority: Option<Span>,
    /// As sent. Empty in absolute form without a path (which means `/`, or `*` for OPTIONS) and in authority form; `*`
    /// in asterisk form.
    pub path: Span,
    /// Without its `?`. `Some` of an empty span when the target ends in `?`.
    pub query: Option<Span>,
}

/// Takes apart the target of `line`, parsed from `head` with `host` ([`RequestLine::host`]) as its Host.
///
/// An authority in the target must be the same as Host. RFC 9112 §3.2.2 has a proxy ignore Host then and write a new
/// one. We refuse: no honest client sends two different ones, and everything behind us that kept the other (a log, a
/// cache, a filter on the old Host) would speak of a different request.
pub fn parse_target(head: &[u8], line: &RequestLine, host: Option<Span>) -> Result<Target, Fault> {
    let start = line.target.start as usize;
    let target = line.target.of(head);
    // RFC 9112 §3.2: a fragment is not part of any form. What is behind `#` is read by some and cut off by others.
    let cut = memchr::memchr2(b'?', b'#', target);
    let (path_end, query) = match cut.map(|at| (at, target[at])) {
        None => (target.len(), None),
        Some((at, b'?')) if memchr::memchr(b'#', &target[at + 1..]).is_none() => {
            (at, Some(Span::between(start + at + 1, start + target.len())))
        }
        Some(_) => return Err(Fault::TargetFragment),
    };
    if line.method == Method::Connect {
        return authority_form(head, line.target, query, host);
    }
    match target.first() {
        Some(b'/') => Ok(Target {
            form: Form::Origin,
            scheme: None,
            authority: host,
            path: Span::between(start, start + path_end),
            query,
        }),
        Some(b'*') if target.len() == 1 => match line.method {
            Method::Options => {
                Ok(Target { form: Form::Asterisk, scheme: None, authority: host, path: line.target, query: None })
            }
            _ => Err(Fault::AsteriskNotOptions),
        },
        _ => absolute_form(head, start, &target[..path_end], query, host),
    }
}

/// `target` is what stands before the query.
fn absolute_form(
    head: &[u8],
    start: usize,
    target: &[u8],
    query: Option<Span>,
    host: Option<Span>,
) -> Result<Target, Fault> {
    let Some(colon) = memchr::memchr(b':', target) else {
        return Err(Fault::TargetForm);
    };
    let (scheme, rest) = (&target[..colon], &target[colon + 1..]);
    let Some(rest) = rest.strip_prefix(b"//") else {
        // `example.com:443` is what CONNECT has; anything else with a colon is a uri of another scheme.
        let port = !rest.is_empty() && rest.iter().all(u8::is_ascii_digit);
        return Err(if port { Fault::AuthorityNotConnect } else { Fault::TargetForm });
    };
    let default_port = match scheme {
        _ if scheme.eq_ignore_ascii_case(b"http") => 80,
        _ if scheme.eq_ignore_ascii_case(b"https") => 443,
        _ => return Err(Fault::TargetScheme),
    };
    let authority = &rest[..memchr::memchr(b'/', rest).unwrap_or(rest.len())];
    let (name, port) = target_authority(authority)?;
    check_same(head, host, name, port, default_port)?;
    let authority_start = start + colon + 3;
    let path_start = authority_start + authority.len();
    Ok(Target {
        form: Form::Absolute,
        scheme: Some(Span::between(start, start + colon)),
        authority: Some(Span::between(authority_start, path_start)),
        path: Span::between(path_start, start + target.len()),
        query,
    })
}

fn authority_form(head: &[u8], span: Span, query: Option<Span>, host: Option<Span>) -> Result<Target, Fault> {
    let target = span.of(head);
    if query.is_some() || memchr::memchr(b'/', target).is_some() {
        return Err(Fault::AuthorityNotConnect);
    }
    // RFC 9110 §9.3.6: the port is not optional.
    let (name, Some(port)) = target_authority(target)? else { return Err(Fault::AuthorityNotConnect) };
    check_same(head, host, name, Some(port), port)?;
    let path = Span::between(span.end(), span.end());
    Ok(Target { form: Form::Authority, scheme: None, authority: Some(span), path, query: None })
}

/// `host` must be the same name and port.
fn check_same(head: &[u8], host: Option<Span>, name: &[u8], port: Option<u16>, default: u16) -> Result<(), Fault> {
    let Some(host) = host else { return Ok(()) };
    let (host_name, host_port) = host_parts(host.of(head))?;
    let same_port = port.unwrap_or(default) == host_port.unwrap_or(default);
    if name.eq_ignore_ascii_case(host_name) && same_port { Ok(()) } else { Err(Fault::TargetHostMismatch) }
}

/// [`host_parts`] with the name the fault has in a request-target.
fn target_authority(authority: &[u8]) -> Result<(&[u8], Option<u16>), Fault> {
    host_parts(authority).map_err(|fault| if fault == Fault::HostUserinfo { Fault::TargetUserinfo } else { fault })
}

/// Splits `host`, the value of Host or an authority, into its name (an IPv6 address keeps its brackets) and port.
///
/// The name is not changed: it may have upper-case letters and a final dot. Of what RFC 3986 §3.2.2 calls a reg-name we
/// take letters, digits, `-`, `.` and `_`: percent-encoding and sub-delimiters occur in no DNS name, and are decoded
/// by some and not by others. IPv6 zones and IPvFuture are refused: they mean nothing to the other side.
#[inline]
pub fn host_parts(host: &[u8]) -> Result<(&[u8], Option<u16>), Fault> {
    match host {
        [] => Err(Fault::HostEmpty),
        [b'[', ..] => bracketed(host),
        _ => {
            let mut end = 0;
            // Labels are not empty, but for the root's after a final dot: no dot follows a dot or begins the name.
            let mut previous = DOT;
            let mut both = 0;
            for &byte in host {
                let class = NAME[byte as usize];
                if class == 0 {
                    break;
                }
                both |= class & previous;
                previous = class;
                end += 1;
            }
            let (name, rest) = host.split_at(end);
            let port = match rest {
                [] => None,
                [b':', digits @ ..] => Some(port(host, digits)?),
                _ => return Err(not_a_name(host)),
            };
            match name.len() {
                0 => Err(Fault::HostEmpty),
                _ if both & DOT != 0 => Err(Fault::HostMalformed),
                HOST_BYTES_TOO_MANY.. => Err(Fault::HostMalformed),
                _ => Ok((name, port)),
            }
        }
    }
}

const HOST_BYTES_TOO_MANY: usize = HOST_BYTES_MAX + 1;

/// Bytes of a name, see [`host_parts`]: 0 for others.
static NAME: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'.' => DOT,
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') => 1,
            _ => 0,
        };
        byte += 1;
    }
    table
};

const DOT: u8 = 2;

fn bracketed(host: &[u8]) -> Result<(&[u8], Option<u16>), Fault> {
    let Some(close) = memchr::memchr(b']', host) else {
        return Err(not_a_name(host));
    };
    let address = std::str::from_utf8(&host[1..close]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
    if address.is_none() {
        return Err(not_a_name(host));
    }
    let port = match &host[close + 1..] {
        [] => None,
        [b':', digits @ ..] => Some(port(host, digits)?),
        _ => return Err(not_a_name(host)),
    };
    Ok((&host[..=close], port))
}

/// 1 to 65535, digits only. `host:` without digits is valid by RFC 3986 and means the default port; we refuse it, as
/// it is written by no client and compares unequal to the same host without its colon.
fn port(host: &[u8], digits: &[u8]) -> Result<u16, Fault> {
    let mut port = 0u32;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            // `user:secret@host` gets here too.
            return Err(if host.contains(&b'@') { Fault::HostUserinfo } else { Fault::HostPort });
        }
        port = (port * 10 + u32::from(digit - b'0')).min(65_536);
    }
    u16::try_from(port).ok().filter(|&port| port > 0).ok_or(Fault::HostPort)
}

fn not_a_name(host: &[u8]) -> Fault {
    if host.contains(&b'@') { Fault::HostUserinfo } else { Fault::HostMalformed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        for (host, name, port) in [
            ("a", "a", None),
            ("api.example.com", "api.example.com", None),
            ("API.Example.com.", "API.Example.com.", None),
            ("my_service:8080", "my_service", Some(8080)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("a:65535", "a", Some(65535)),
            ("a:0080", "a", Some(80)),
            ("[::1]", "[::1]", None),
            ("[2001:DB8::1]:443", "[2001:DB8::1]", Some(443)),
            ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]", None),
        ] {
            assert_eq!(host_parts(host.as_bytes()), Ok((name.as_bytes(), port)), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "a".repeat(63), "a".repeat(63), "a".repeat(63));
        assert_eq!(longest.len(), HOST_BYTES_MAX);
        assert_eq!(host_parts(longest.as_bytes()), Ok((longest.as_bytes(), None)));
        let too_long = format!("{longest}a");
        for (host, fault) in [
            ("", Fault::HostEmpty),
            (":80", Fault::HostEmpty),
            ("user@a", Fault::HostUserinfo),
            ("user:secret@a", Fault::HostUserinfo),
            ("user:80@a", Fault::HostUserinfo),
            ("[::1]@a", Fault::HostUserinfo),
            ("@", Fault::HostUserinfo),
            ("a b", Fault::HostMalformed),
            ("a,b", Fault::HostMalformed),
            ("a/b", Fault::HostMalformed),
            ("a\\b", Fault::HostMalformed),
            ("a%2eb", Fault::HostMalformed),
            ("a?b", Fault::HostMalformed),
            ("a#b", Fault::HostMalformed),
            ("a\tb", Fault::HostMalformed),
            ("b\u{fc}cher", Fault::HostMalformed),
            ("http://a", Fault::HostPort),
            (".", Fault::HostMalformed),
            (".a", Fault::HostMalformed),
            ("a..b", Fault::HostMalformed),
            ("a..", Fault::HostMalformed),
            (&too_long, Fault::HostMalformed),
            ("::1", Fault::HostPort),
            ("2001:db8::1", Fault::HostPort),
            ("[::1", Fault::HostMalformed),
            ("[::1]a", Fault::HostMalformed),
            ("[::1%25eth0]", Fault::HostMalformed),
            ("[fe80::1%eth0]", Fault::HostMalformed),
            ("[v1.a]", Fault::HostMalformed),
            ("[127.0.0.1]", Fault::HostMalformed),
            ("[]", Fault::HostMalformed),
            ("a:", Fault::HostPort),
            ("a:0", Fault::HostPort),
            ("a:65536", Fault::HostPort),
            ("a:99999999999999999999", Fault::HostPort),
            ("a:+80", Fault::HostPort),
            ("a:80:80", Fault::HostPort),
            ("a:http", Fault::HostPort),
        ] {
            assert_eq!(host_parts(host.as_bytes()), Err(fault), "{host}");
        }
    }
}
