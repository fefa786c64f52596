//! What keeps requests together: the same bits for the same client, or the same path, on every worker and every host of a fleet.

use std::hash::BuildHasher as _;
use std::net::IpAddr;

use foldhash::fast::FixedState;

use crate::config::model::HashOn;
use crate::proxy::fields::Fields;
use crate::route::condition::{cookie, field};

/// What requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Client,
    Path,
    Header(Box<str>),
    Cookie(Box<str>),
}

/// What a request has that a key may be of.
#[derive(Clone, Copy)]
pub struct Keyed<'a> {
    pub fields: &'a Fields,
    /// `None`: the request is our own.
    pub client: Option<IpAddr>,
    /// in canonical form
    pub path: &'a [u8],
}

impl Key {
    pub fn of(on: &HashOn) -> Key {
        match on {
            HashOn::Client => Key::Client,
            HashOn::Path => Key::Path,
            HashOn::Header(name) => Key::Header(name.to_ascii_lowercase().into()),
            HashOn::Cookie(name) => Key::Cookie(name.as_str().into()),
        }
    }

    /// 64 bits of what the request has. `None`: it has nothing to go by.
    pub fn bits(&self, request: Keyed<'_>) -> Option<u64> {
        let hash = |bytes: &[u8]| FixedState::with_seed(0).hash_one(bytes);
        match self {
            Key::Client => request.client.map(|client| match client.to_canonical() {
                IpAddr::V4(address) => hash(&address.octets()),
                IpAddr::V6(address) => hash(&address.octets()),
            }),
            Key::Path => Some(hash(request.path)),
            Key::Header(name) => field(request.fields, name).map(|value| hash(&value)),
            Key::Cookie(name) => cookie(request.fields, name).map(hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_key_is_what_it_says_and_nothing_else() {
        let mut fields = Fields::new();
        fields.add(b"X-User", b"7");
        fields.add(b"cookie", b"a=b; session=7");
        let request = Keyed { fields: &fields, client: Some([192, 0, 2, 1].into()), path: b"/7" };
        let other = Keyed { fields: &fields, client: Some([192, 0, 2, 2].into()), path: b"/8" };
        let bits = |on: &str, request: Keyed<'_>| Key::of(&on.parse().expect(on)).bits(request);
        for on in ["header:x-user", "cookie:session"] {
            assert!(bits(on, request).is_some() && bits(on, request) == bits(on, other), "{on}");
        }
        for on in ["client", "path"] {
            assert!(bits(on, request).is_some() && bits(on, request) != bits(on, other), "{on}");
        }
        // An IPv4 client is the same one however the socket shows it.
        let mapped = Keyed { client: Some("::ffff:192.0.2.1".parse().expect("an address")), ..request };
        assert_eq!(bits("client", mapped), bits("client", request));
        for on in ["header:x-other", "cookie:Session"] {
            assert_eq!(bits(on, request), None, "{on}");
        }
        let own = Keyed { client: None, ..request };
        assert_eq!(bits("client", own), None);
        let paths = (0..1000).map(|nth| bits("path", Keyed { path: format!("/{nth}").as_bytes(), ..request }));
        assert_eq!(paths.collect::<HashSet<_>>().len(), 1000);
    }
}
