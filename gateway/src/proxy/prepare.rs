//! A head that was read, made ready for its exchange: the checks of HTTP itself, the canonical path, who the client is. The
//! same for every protocol clients speak.

use std::net::{IpAddr, SocketAddr};

use http1::{Canonical, Fault, HeadLimits, Known, PathPolicy, Scanner};

use super::fields::Fields;
use super::head::{Client, RequestHead, Speaker};
use crate::config::model::{ClientAddress, Underscores};
use crate::refusal::Refusal;
use crate::rt::Buf;

/// A head that HTTP finds nothing wrong with.
pub(super) struct Prepared {
    pub target: http1::Target,
    pub canonical: Option<Vec<u8>>,
    pub traits: http1::PathTraits,
    pub framing: http1::Framing,
    pub options: http1::ConnectionOptions,
}

impl Prepared {
    pub(super) fn of(
        fields: &Fields,
        line: &http1::RequestLine,
        underscores: Underscores,
    ) -> Result<Prepared, Refusal> {
        let (bytes, table) = (fields.arena(), fields.received());
        if underscores == Underscores::Refuse && table.iter().any(|field| field.underscore) {
            return Err(Refusal::FieldNameUnderscore);
        }
        let target = http1::parse_target(bytes, line, line.host).map_err(Refusal::Malformed)?;
        let framing = http1::request_framing(bytes, line.version, table).map_err(Refusal::Malformed)?;
        let options = http1::connection_options(bytes, table);
        let (canonical, traits) = canonical(&target, line.method, bytes)?;
        Ok(Prepared { target, canonical, traits, framing, options })
    }
}

/// The one path of a target taken apart from `head`; `None`: it is written so already.
pub(super) fn canonical(
    target: &http1::Target,
    method: http1::Method,
    head: &[u8],
) -> Result<(Option<Vec<u8>>, http1::PathTraits), Refusal> {
    Ok(match target.form {
        http1::Form::Origin | http1::Form::Absolute if !target.path.is_empty() => {
            let mut path = Vec::new();
            match http1::canonical_path(target.path.of(head), &PathPolicy::KEEP, &mut path) {
                Ok(Canonical::Unchanged(traits)) => (None, traits),
                Ok(Canonical::Rewritten(traits)) => (Some(path), traits),
                Err(fault) => return Err(Refusal::Malformed(fault)),
            }
        }
        // RFC 9112 §3.2.4: an absolute form without a path means the server as a whole for OPTIONS.
        http1::Form::Absolute if method == http1::Method::Options => {
            (Some(b"*".to_vec()), http1::PathTraits::default())
        }
        http1::Form::Absolute => (Some(b"/".to_vec()), http1::PathTraits::default()),
        _ => (None, http1::PathTraits::default()),
    })
}

/// A head that did not come over a connection, read as one that did. `text` is all of it, at most one buffer.
pub fn read_head(text: &[u8], limits: &HeadLimits, underscores: Underscores) -> Result<RequestHead, Refusal> {
    let mut fields = Fields::over(Buf::copy_of(text).ok_or(Refusal::Malformed(Fault::HeadTooLarge))?);
    let (bytes, table) = fields.parse_into();
    let line = http1::read_request(&mut Scanner::default(), bytes, limits, table).map_err(Refusal::Malformed)?;
    let line = line.ok_or(Refusal::Malformed(Fault::HeadIncomplete))?;
    let Prepared { target, canonical, traits, .. } = Prepared::of(&fields, &line, underscores)?;
    Ok(RequestHead::new(&line, line.version.into(), &target, canonical, traits, fields))
}

/// Decides the client's address, once.
pub(super) fn client_of(
    fields: &Fields,
    rule: ClientAddress,
    speaker: Speaker,
    trusted_hops: &[ipnet::IpNet],
) -> Client {
    let is_trusted = |address: IpAddr| trusted_hops.iter().any(|hop| hop.contains(&address));
    let Speaker { address: speaker, is_known } = speaker;
    let trusted = is_known && !trusted_hops.is_empty() && is_trusted(speaker);
    let address = match rule {
        ClientAddress::Forwarded if trusted => walk_forwarded(fields, speaker, is_trusted),
        // By a PROXY header it was decided with the connection.
        _ => speaker,
    };
    Client { address, speaker, trusted }
}

/// Walks `X-Forwarded-For` from the right past trusted hops. What cannot be read ends the walk: nothing left of it is
/// believed.
fn walk_forwarded(fields: &Fields, speaker: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let values: Vec<&[u8]> =
        fields.iter().filter(|&(_, _, known)| known == Known::XForwardedFor).map(|(_, value, _)| value).collect();
    let mut client = speaker;
    for element in values.iter().rev().flat_map(|value| value.rsplit(|&byte| byte == b',')) {
        let Some(address) = std::str::from_utf8(element.trim_ascii()).ok().and_then(parse_forwarded) else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// An address as hops write it: bare, with a port, or IPv6 in brackets.
fn parse_forwarded(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()));
    let address = address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        let hops = ["10.0.0.0/8".parse().expect("net")];
        let check = |peer: &str, values: &[&str], expected: &str| {
            let mut fields = Fields::new();
            values.iter().for_each(|value| fields.add(b"x-forwarded-for", value.as_bytes()));
            let speaker = Speaker { address: peer.parse().expect("address"), is_known: true };
            let client = client_of(&fields, ClientAddress::Forwarded, speaker, &hops);
            assert_eq!(client.address.to_string(), expected, "{peer} {values:?}");
        };
        check("10.1.1.1", &[], "10.1.1.1");
        check("10.1.1.1", &["203.0.113.7"], "203.0.113.7");
        check("10.1.1.1", &["1.2.3.4, 203.0.113.7, 10.2.2.2"], "203.0.113.7");
        check("10.1.1.1", &["1.2.3.4", "203.0.113.7"], "203.0.113.7");
        check("10.1.1.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3");
        check("10.1.1.1", &["203.0.113.7, nonsense"], "10.1.1.1");
        check("10.1.1.1", &["203.0.113.7:1234"], "203.0.113.7");
        check("10.1.1.1", &["[2001:db8::1]:443"], "2001:db8::1");
        check("10.1.1.1", &["::ffff:203.0.113.7"], "203.0.113.7");
        check("192.0.2.1", &["203.0.113.7"], "192.0.2.1");
    }

    #[test]
    fn behind_a_proxy_header_the_speaker_is_the_client_and_trusted_only_for_itself() {
        let hops = ["10.0.0.0/8".parse().expect("net")];
        let mut fields = Fields::new();
        fields.add(b"x-forwarded-for", b"198.51.100.1");
        for (address, is_known, trusted) in
            [("203.0.113.7", true, false), ("10.1.1.1", true, true), ("10.1.1.1", false, false)]
        {
            let address = address.parse().expect("address");
            let client = client_of(&fields, ClientAddress::ProxyProtocol, Speaker { address, is_known }, &hops);
            assert_eq!((client.address, client.speaker, client.trusted), (address, address, trusted), "{is_known}");
        }
    }
}
