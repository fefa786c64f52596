//! Field names worth knowing, and one parsed field.
//!
//! Names are recognised once, when a head is parsed; afterwards the gateway compares one byte instead of strings.

use crate::span::Span;

/// Declares [`Known`] with its names and the table that recognises them.
macro_rules! known {
    ($($variant:ident $name:literal,)*) => {
        /// A field name the gateway has a reason to recognise; [`Known::Other`] is any other.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known {
            /// No name of this list; [`Known::name`] is empty.
            Other,
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        /// Names by `Known as usize`.
        const NAMES: &[&str] = &["", $($name,)*];

        impl Known {
            /// Every name but [`Known::Other`].
            pub const ALL: &[Known] = &[$(Known::$variant,)*];
        }

        /// All variants by `Known as usize`.
        const VARIANTS: &[Known] = &[Known::Other, $(Known::$variant,)*];
    };
}

known! {
    Host "host",
    ContentLength "content-length",
    TransferEncoding "transfer-encoding",
    Connection "connection",
    KeepAlive "keep-alive",
    ProxyConnection "proxy-connection",
    ProxyAuthenticate "proxy-authenticate",
    ProxyAuthorization "proxy-authorization",
    ProxyAuthenticationInfo "proxy-authentication-info",
    Te "te",
    Trailer "trailer",
    Upgrade "upgrade",
    Expect "expect",
    Via "via",
    Forwarded "forwarded",
    XForwardedFor "x-forwarded-for",
    XForwardedHost "x-forwarded-host",
    XForwardedProto "x-forwarded-proto",
    XForwardedPort "x-forwarded-port",
    XForwardedPrefix "x-forwarded-prefix",
    XForwardedServer "x-forwarded-server",
    XForwardedClientCert "x-forwarded-client-cert",
    XRealIp "x-real-ip",
    XRequestId "x-request-id",
    XOriginalUrl "x-original-url",
    XRewriteUrl "x-rewrite-url",
    Traceparent "traceparent",
    Tracestate "tracestate",
    Authorization "authorization",
    WwwAuthenticate "www-authenticate",
    Cookie "cookie",
    SetCookie "set-cookie",
    UserAgent "user-agent",
    Referer "referer",
    Origin "origin",
    Accept "accept",
    AcceptEncoding "accept-encoding",
    AcceptLanguage "accept-language",
    ContentType "content-type",
    ContentEncoding "content-encoding",
    ContentRange "content-range",
    CacheControl "cache-control",
    Pragma "pragma",
    Age "age",
    Date "date",
    Expires "expires",
    LastModified "last-modified",
    Etag "etag",
    Vary "vary",
    Warning "warning",
    Server "server",
    Location "location",
    RetryAfter "retry-after",
    MaxForwards "max-forwards",
    Range "range",
    IfMatch "if-match",
    IfNoneMatch "if-none-match",
    IfModifiedSince "if-modified-since",
    IfUnmodifiedSince "if-unmodified-since",
    IfRange "if-range",
    Http2Settings "http2-settings",
    AccessControlRequestMethod "access-control-request-method",
    AccessControlRequestHeaders "access-control-request-headers",
}

impl Known {
    /// What the token `name` is called, in any case. Its length and two bytes choose the one candidate it is compared
    /// with, eight bytes at a time.
    #[inline]
    pub fn of(name: &[u8]) -> Known {
        let [first, .., before_last, _] = name else {
            return if name.eq_ignore_ascii_case(b"te") { Known::Te } else { Known::Other };
        };
        let slot = SLOTS[slot(name.len(), *first, *before_last)] as usize;
        let candidate = NAMES[slot].as_bytes();
        if candidate.len() == name.len() && is_lower_of(candidate, name) { VARIANTS[slot] } else { Known::Other }
    }

    /// The name in lower case; empty for [`Known::Other`].
    #[inline]
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// True for fields that speak of one connection and never travel further (RFC 9110 §7.6.1), among them the
    /// `Proxy-*` fields of RFC 2616 §13.5.1: credentials for this hop are not the upstream's business.
    #[inline]
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::ProxyAuthenticate
                | Known::ProxyAuthorization
                | Known::ProxyAuthenticationInfo
                | Known::Te
                | Known::Trailer
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Http2Settings
        )
    }

    /// True for fields that mean nothing, or harm, after the body: framing, routing, request modifiers, authentication,
    /// content and response control (RFC 9110 §6.5.1), and what gateways write about the hop.
    pub fn is_forbidden_in_trailers(self) -> bool {
        // Written without `_`, so that a new name must be decided on.
        match self {
            Known::Other | Known::Etag | Known::Server | Known::UserAgent | Known::Referer | Known::LastModified => {
                false
            }
            Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::ProxyAuthenticate
            | Known::ProxyAuthorization
            | Known::ProxyAuthenticationInfo
            | Known::Te
            | Known::Trailer
            | Known::Upgrade
            | Known::Expect
            | Known::Via
            | Known::Forwarded
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
            | Known::Authorization
            | Known::WwwAuthenticate
            | Known::Cookie
            | Known::SetCookie
            | Known::Origin
            | Known::Accept
            | Known::AcceptEncoding
            | Known::AcceptLanguage
            | Known::ContentType
            | Known::ContentEncoding
            | Known::ContentRange
            | Known::CacheControl
            | Known::Pragma
            | Known::Age
            | Known::Date
            | Known::Expires
            | Known::Vary
            | Known::Warning
            | Known::Location
            | Known::RetryAfter
            | Known::MaxForwards
            | Known::Range
            | Known::IfMatch
            | Known::IfNoneMatch
            | Known::IfModifiedSince
            | Known::IfUnmodifiedSince
            | Known::IfRange
            | Known::Http2Settings
            | Known::AccessControlRequestMethod
            | Known::AccessControlRequestHeaders => true,
        }
    }
}

/// Slots of the table; a power of two.
const SLOTS_COUNT: usize = 256;

/// Where names of this length and with these bytes are looked up. `| 0x20` makes letters lower case; what it does to
/// other bytes only costs a comparison that fails.
const fn slot(len: usize, first: u8, before_last: u8) -> usize {
    let mixed = len.wrapping_mul(MIX[0])
        ^ ((first | 0x20) as usize).wrapping_mul(MIX[1])
        ^ ((before_last | 0x20) as usize).wrapping_mul(MIX[2]);
    mixed % SLOTS_COUNT
}

/// Factors under which no two names of the list share a slot; the build fails when a new name breaks that. Then try
/// other odd numbers below 256.
const MIX: [usize; 3] = [39, 103, 131];

/// `Known as u8` by slot, 0 (`Other`) where no name lives.
static SLOTS: [u8; SLOTS_COUNT] = {
    let mut slots = [0u8; SLOTS_COUNT];
    let mut at = 1;
    while at < NAMES.len() {
        let name = NAMES[at].as_bytes();
        let slot = slot(name.len(), name[0], name[name.len() - 2]);
        assert!(slots[slot] == 0, "two field names share a slot: choose other factors in MIX");
        slots[slot] = at as u8;
        at += 1;
    }
    slots
};

/// Lower-case letters, digits and `-` all have this bit in each byte, so that setting it in a token makes equal what
/// differs in case only. (It also makes `\r` a `-`: no token has one.)
const CASE_BITS: u64 = 0x2020_2020_2020_2020;

/// True if `lower` is the token `name` in lower case. Both have the same length.
#[inline]
fn is_lower_of(lower: &[u8], name: &[u8]) -> bool {
    let word = |lower: &[u8; 8], name: &[u8; 8]| u64::from_le_bytes(*lower) ^ (u64::from_le_bytes(*name) | CASE_BITS);
    let half =
        |lower: &[u8; 4], name: &[u8; 4]| u32::from_le_bytes(*lower) ^ (u32::from_le_bytes(*name) | CASE_BITS as u32);
    // The last word overlaps the one before it when the length is no multiple of eight.
    if let (Some(lower_last), Some(name_last)) = (lower.last_chunk(), name.last_chunk()) {
        let words = lower.as_chunks().0.iter().zip(name.as_chunks().0);
        return words.fold(word(lower_last, name_last), |differing, (lower, name)| differing | word(lower, name)) == 0;
    }
    match (lower.first_chunk(), name.first_chunk(), lower.last_chunk(), name.last_chunk()) {
        (Some(lower_first), Some(name_first), Some(lower_last), Some(name_last)) => {
            half(lower_first, name_first) | half(lower_last, name_last) == 0
        }
        _ => lower.eq_ignore_ascii_case(name),
    }
}

/// True if `name` contains `_`.
#[inline]
pub(crate) fn has_underscore(name: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The zero byte test of "Bit Twiddling Hacks": the high bit of a byte is set if, going up, it is the first to be 0.
    let hit = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word) ^ (ONES * b'_' as u64);
        word.wrapping_sub(ONES) & !word & (ONES << 7)
    };
    match name.last_chunk() {
        Some(last) => name.as_chunks().0.iter().fold(hit(last), |hits, word| hits | hit(word)) != 0,
        None => name.contains(&b'_'),
    }
}

/// One field line: ranges of its name and value, and what the name was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    /// Without the optional white space around it.
    pub value: Span,
    pub known: Known,
    /// The name contains `_`. Such names are aliases of the same name with `-` for upstreams that follow CGI.
    pub underscore: bool,
}

const _: () = assert!(size_of::<Field>() <= 20, "a head of 20 fields stays within seven cache lines");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for &known in Known::ALL {
            let name = known.name();
            assert_eq!(Known::of(name.as_bytes()), known);
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), known);
            let mixed: Vec<u8> =
                name.bytes().enumerate().map(|(at, b)| if at % 2 == 0 { b.to_ascii_uppercase() } else { b }).collect();
            assert_eq!(Known::of(&mixed), known);
        }
    }

    #[test]
    fn near_misses_are_not_recognised() {
        for &known in Known::ALL {
            let name = known.name().as_bytes();
            assert_eq!(Known::of(&name[1..]), Known::Other, "{known:?} without its first byte");
            for at in 0..name.len() {
                let mut other = name.to_vec();
                other[at] = if other[at] == b'-' { b'_' } else { b'~' };
                assert_eq!(Known::of(&other), Known::Other, "{known:?} changed at {at}");
            }
        }
        assert_eq!(Known::of(b""), Known::Other);
        assert_eq!(Known::of(b"x"), Known::Other);
    }

    #[test]
    fn an_underscore_is_found_anywhere_in_a_name_of_any_length() {
        for len in 0..40 {
            let name = vec![b'a'; len];
            assert!(!has_underscore(&name));
            for at in 0..len {
                for other in [b'^', b'`', 0xdf, 0x7f, b'-'] {
                    let mut name = name.clone();
                    name[at] = other;
                    assert!(!has_underscore(&name));
                }
                let mut name = name.clone();
                name[at] = b'_';
                assert!(has_underscore(&name), "{len} {at}");
            }
        }
    }

    #[test]
    fn names_are_lower_case_tokens() {
        for known in Known::ALL {
            assert!(crate::bytes::is_token(known.name().as_bytes()));
            assert_eq!(known.name(), known.name().to_ascii_lowercase());
        }
        assert_eq!(Known::Other.name(), "");
    }
}
