//! What of a message is passed on, and what the gateway says about itself. The same for every protocol on either side.
//!
//! Runs once on a request before the filter chain, so that no filter sees a field the client was not entitled to send, and
//! nothing a filter sets can be struck by the client's `Connection`. Runs once on an answer before the chain's way back.

use std::fmt::Write as _;
use std::net::IpAddr;

use http1::{ConnectionOptions, Known};

use super::head::{Client, RequestHead, ResponseHead};
use super::trace::{RequestId, Trace};
use crate::config::model::{ForwardedField, Underscores};
use crate::tls::ClientCertificate;

/// What is said to the upstream about the client and this hop.
pub struct Said<'a> {
    pub client: &'a Client,
    pub scheme: &'static str,
    pub request_id: &'a RequestId,
    pub trace: &'a Trace,
    /// `1.1 name`
    pub via: &'a str,
    pub forwarded: ForwardedField,
    /// Who the client is by its certificate, if the listener wants services to know.
    pub client_certificate: Option<&'a ClientCertificate>,
}

/// Names only the gateway may speak: what it says about the client, the hop and the trace.
pub fn is_gateway_owned(known: Known) -> bool {
    matches!(
        known,
        Known::Forwarded
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedProto
            | Known::XForwardedPort
            | Known::XForwardedPrefix
            | Known::XForwardedServer
            | Known::XForwardedClientCert
            | Known::XRealIp
            | Known::XRequestId
            | Known::XOriginalUrl
            | Known::XRewriteUrl
            | Known::Traceparent
            | Known::Tracestate
    )
}

/// A gateway-owned or hop-by-hop name with `_` for `-`, which services that follow CGI cannot tell from the real one.
pub fn is_alias_of_owned(name: &[u8]) -> bool {
    let mut plain = [0u8; 32];
    let Some(plain) = plain.get_mut(..name.len()) else { return false };
    for (to, &from) in plain.iter_mut().zip(name) {
        *to = if from == b'_' { b'-' } else { from };
    }
    let known = Known::of(plain);
    is_gateway_owned(known) || known.is_hop_by_hop() || matches!(known, Known::Host | Known::ContentLength)
}

/// Strikes what is not passed on and adds what the gateway says. `options` were read from the same head.
pub fn request(head: &mut RequestHead, options: &ConnectionOptions, underscores: Underscores, said: &Said<'_>) {
    let trusted = said.client.trusted;
    let authority_is_forwarded = !head.authority().is_empty();
    // What a trusted hop said is kept; of what it said about the client, ours is the continuation.
    let mut text = String::new();
    let held = trusted.then(|| Held::of(head));
    head.fields.strike_received(|name, field, all| {
        let known = field.known;
        if known == Known::Other {
            return match field.underscore {
                true => underscores == Underscores::Drop || is_alias_of_owned(name),
                false => options.lists_fields && all.lists(name),
            };
        }
        let kept_from_trusted = trusted
            && matches!(
                known,
                Known::XForwardedHost | Known::XForwardedProto | Known::XForwardedPort | Known::XForwardedPrefix
            );
        known.is_hop_by_hop()
            || matches!(known, Known::Host | Known::ContentLength)
            || (is_gateway_owned(known) && !kept_from_trusted)
            || (options.lists_fields && !kept_from_trusted && all.lists(name))
    });
    let fields = &mut head.fields;
    let held = held.unwrap_or_default();
    match said.forwarded {
        ForwardedField::XForwarded => {
            let speaker = AddressText::new(said.client.speaker);
            match held.forwarded_for {
                Some(before) => {
                    let mut list = before;
                    list.extend_from_slice(b", ");
                    list.extend_from_slice(speaker.as_bytes());
                    fields.add(b"x-forwarded-for", &list);
                }
                None => fields.add(b"x-forwarded-for", speaker.as_bytes()),
            }
            if !held.has_proto {
                fields.add(b"x-forwarded-proto", said.scheme.as_bytes());
            }
            if !held.has_host && authority_is_forwarded {
                head.add_authority_field(b"x-forwarded-host");
            }
        }
        ForwardedField::Forwarded => {
            if let Some(before) = held.forwarded {
                text.push_str(&String::from_utf8_lossy(&before));
                text.push_str(", ");
            }
            // RFC 7239 §6: an IPv6 address is written in brackets and so in quotes.
            let _ = match said.client.speaker {
                IpAddr::V4(address) => write!(text, "for={address}"),
                IpAddr::V6(address) => write!(text, "for=\"[{address}]\""),
            };
            let _ = write!(text, ";proto={}", said.scheme);
            if authority_is_forwarded {
                let _ = write!(text, ";host=\"{}\"", String::from_utf8_lossy(head.authority()));
            }
            head.fields.add(b"forwarded", text.as_bytes());
        }
    }
    let fields = &mut head.fields;
    fields.add(b"via", said.via.as_bytes());
    fields.add(b"x-request-id", said.request_id.as_bytes());
    fields.add(b"traceparent", said.trace.parent());
    if let Some(state) = said.trace.state() {
        fields.add(b"tracestate", state);
    }
    // A trusted hop's is not continued: what it says of a certificate nobody here has seen.
    if let Some(certificate) = said.client_certificate {
        fields.add(b"x-forwarded-client-cert", certificate.forwarded.as_bytes());
    }
}

/// An address as text, without an allocation. The longest is 39 bytes, or 45 for a mapped one.
struct AddressText {
    bytes: [u8; 45],
    len: usize,
}

impl AddressText {
    fn new(address: IpAddr) -> AddressText {
        use std::io::Write;
        let mut text = AddressText { bytes: [0; 45], len: 0 };
        if let IpAddr::V4(address) = address {
            // The common one, about four times as fast as formatting it.
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    text.push(b'.');
                }
                itoa::Buffer::new().format(octet).bytes().for_each(|digit| text.push(digit));
            }
            return text;
        }
        let mut rest = &mut text.bytes[..];
        // It fits: see above.
        let _ = write!(rest, "{address}");
        text.len = 45 - rest.len();
        text
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What a trusted hop said and we continue.
#[derive(Default)]
struct Held {
    forwarded_for: Option<Vec<u8>>,
    forwarded: Option<Vec<u8>>,
    has_proto: bool,
    has_host: bool,
}

impl Held {
    fn of(head: &RequestHead) -> Held {
        let joined = |wanted: Known| {
            let mut list: Option<Vec<u8>> = None;
            for (_, value, _) in head.fields.iter().filter(|&(_, _, known)| known == wanted) {
                let list = list.get_or_insert_default();
                if !list.is_empty() {
                    list.extend_from_slice(b", ");
                }
                list.extend_from_slice(value);
            }
            list.filter(|list| !list.is_empty())
        };
        Held {
            forwarded_for: joined(Known::XForwardedFor),
            forwarded: joined(Known::Forwarded),
            has_proto: head.fields.first(Known::XForwardedProto).is_some(),
            has_host: head.fields.first(Known::XForwardedHost).is_some(),
        }
    }
}

/// Strikes what an interim answer is not passed on with.
pub fn interim(head: &mut ResponseHead, options: &ConnectionOptions) {
    head.fields.strike_received(|name, field, all| {
        field.known.is_hop_by_hop() || field.known == Known::ContentLength || (options.lists_fields && all.lists(name))
    });
}

/// Strikes what an answer is not passed on with, and adds `Via`.
pub fn response(head: &mut ResponseHead, options: &ConnectionOptions, via: &str) {
    head.fields
        .strike_received(|name, field, all| field.known.is_hop_by_hop() || (options.lists_fields && all.lists(name)));
    head.fields.add(b"via", via.as_bytes());
}

/// Which trailer fields may be passed on: never one that the gateway itself speaks, in any spelling, nor one that frames,
/// routes or authorizes (RFC 9110 §6.5.1).
pub fn is_trailer_allowed(name: &[u8], field: &http1::Field) -> bool {
    let withheld = is_gateway_owned(field.known)
        || field.known.is_forbidden_in_trailers()
        || (field.underscore && is_alias_of_owned(name));
    !withheld
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_rust_writes_them() {
        for text in
            ["0.0.0.0", "127.0.0.1", "255.255.255.255", "::1", "2001:db8::1", "1111:2222:3333:4444:5555:6666:7777:8888"]
        {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(AddressText::new(address).as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn aliases_are_seen_in_every_spelling() {
        for name in [
            "x_forwarded_for",
            "X-Forwarded_Client-Cert",
            "X_Forwarded-For",
            "x-forwarded_proto",
            "transfer_encoding",
            "X_REAL_IP",
        ] {
            assert!(is_alias_of_owned(name.as_bytes()), "{name}");
        }
        for name in ["x_forwarded", "user_name", "a_very_long_field_name_that_is_none_of_ours_at_all"] {
            assert!(!is_alias_of_owned(name.as_bytes()), "{name}");
        }
    }
}
