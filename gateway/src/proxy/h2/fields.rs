//! Fields as `h2` takes them.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use http1::{Field, Known};

use crate::proxy::fields::Fields;
use crate::proxy::forward;

/// The fields for which `keep` holds. All values lie in one text.
pub fn map(fields: &Fields, keep: impl Fn(Known) -> bool) -> HeaderMap {
    let passed = || fields.iter().filter(|(_, _, known)| keep(*known)).map(|(name, value, _)| (name, value));
    let mut count = 0;
    let mut text = BytesMut::with_capacity(512);
    for (_, value) in passed() {
        text.extend_from_slice(value);
        count += 1;
    }
    let mut text = text.freeze();
    let mut map = HeaderMap::with_capacity(count + 1);
    for (name, value) in passed() {
        let value = HeaderValue::from_maybe_shared(text.split_to(value.len()));
        // Both were checked when they were received or configured.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            map.append(name, value);
        }
    }
    map
}

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
