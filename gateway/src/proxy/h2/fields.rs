//! Fields as `h2` takes them.

use std::sync::LazyLock;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use http1::{Field, Known};

use crate::proxy::fields::Fields;
use crate::proxy::forward;

/// The fields for which `keep` holds, and a length, if one is to be told. All values lie in one text.
pub fn map(fields: &Fields, length: Option<u64>, keep: impl Fn(Known) -> bool) -> HeaderMap {
    let mut digits = itoa::Buffer::new();
    let length = length.map(|length| digits.format(length).as_bytes());
    let passed = || {
        // Of fields that do not exist in HTTP/2 the other side would make a malformed message (RFC 9113 §8.2.2).
        let fields = fields.iter().filter(|(_, _, known)| keep(*known) && !known.is_hop_by_hop());
        fields.chain(length.map(|length| (&b"content-length"[..], length, Known::ContentLength)))
    };
    let (mut count, mut bytes) = (0, 0);
    for (_, value, _) in passed() {
        count += 1;
        bytes += value.len();
    }
    let mut text = BytesMut::with_capacity(bytes);
    passed().for_each(|(_, value, _)| text.extend_from_slice(value));
    let mut text = text.freeze();
    let mut map = HeaderMap::with_capacity(count);
    for (name, value, known) in passed() {
        let value = HeaderValue::from_maybe_shared(text.split_to(value.len()));
        let name = match known {
            Known::Other => HeaderName::from_bytes(name),
            known => Ok(KNOWN_NAMES[known as usize].clone()),
        };
        // Both were checked when they were received or configured.
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

/// Names by `Known as usize`, so that none of them is parsed for an answer.
static KNOWN_NAMES: LazyLock<Box<[HeaderName]>> = LazyLock::new(|| {
    let known = Known::ALL.iter().map(|known| HeaderName::from_static(known.name()));
    // Of what is not known the name is told; this one stands in its place.
    std::iter::once(http::header::HOST).chain(known).collect()
});

/// The trailers that may be passed on, but for those in `hop`, which were for the hop before.
pub fn trailers(bytes: &[u8], fields: &[Field], hop: &[Box<[u8]>]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields {
        let name = field.name.of(bytes);
        let passed = forward::is_trailer_allowed(name, field) && !hop.iter().any(|hop| hop.eq_ignore_ascii_case(name));
        if passed
            && let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(field.value.of(bytes)))
        {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_their_own() {
        for known in Known::ALL {
            assert_eq!(KNOWN_NAMES[*known as usize].as_str(), known.name());
        }
    }
}
