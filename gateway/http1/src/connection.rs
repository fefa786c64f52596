//! What the Connection field says about this hop (RFC 9110 §7.6.1), and whether the connection outlives the exchange
//! (RFC 9112 §9.3).

use crate::bytes::{is_token, trim};
use crate::field::{Field, Known};
use crate::request::Version;

/// Options found in the Connection fields of one head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    /// `upgrade` is listed and an Upgrade field is there to be agreed to.
    pub upgrade: bool,
    /// TE says `trailers`, and `te` is listed: the sender will read trailer fields.
    pub te_trailers: bool,
    /// Names fields beyond those every hop removes anyway ([`Known::is_hop_by_hop`]): ask [`is_connection_listed`]
    /// before passing one on. False for nearly every message, which then costs no comparison.
    pub lists_fields: bool,
}

impl ConnectionOptions {
    /// True if the connection can carry another message afterwards, as far as this side's head says (RFC 9112 §9.3).
    #[inline]
    pub fn persists(&self, version: Version) -> bool {
        match version {
            _ if self.close => false,
            Version::Http11 => true,
            Version::Http10 => self.keep_alive,
        }
    }
}

/// Reads the Connection fields, and TE and Upgrade where they say so. Elements that are no tokens mean nothing and are
/// passed over; their number is bounded when the head is parsed.
pub fn connection_options(head: &[u8], fields: &[Field]) -> ConnectionOptions {
    let mut options = ConnectionOptions::default();
    let (mut upgrade_field, mut te_listed, mut te_trailers) = (false, false, false);
    for field in fields {
        match field.known {
            Known::Connection => {
                for option in elements(field.value.of(head)) {
                    match option.len() {
                        5 if option.eq_ignore_ascii_case(b"close") => options.close = true,
                        10 if option.eq_ignore_ascii_case(b"keep-alive") => options.keep_alive = true,
                        7 if option.eq_ignore_ascii_case(b"upgrade") => options.upgrade = true,
                        2 if option.eq_ignore_ascii_case(b"te") => te_listed = true,
                        _ => options.lists_fields |= is_token(option) && !Known::of(option).is_hop_by_hop(),
                    }
                }
            }
            Known::Upgrade => upgrade_field = true,
            Known::Te => {
                te_trailers |= elements(field.value.of(head)).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            _ => {}
        }
    }
    options.upgrade &= upgrade_field;
    options.te_trailers = te_listed && te_trailers;
    options
}

/// True if a Connection field names `name`, which makes it a field of this hop. Compares with at most 32 elements: more
/// are refused when the head is parsed.
pub fn is_connection_listed(head: &[u8], fields: &[Field], name: &[u8]) -> bool {
    fields
        .iter()
        .filter(|field| field.known == Known::Connection)
        .any(|field| elements(field.value.of(head)).any(|option| option.eq_ignore_ascii_case(name)))
}

fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(trim)
}
