//! What an answer depends on besides its URI, told to caches (RFC 9110 §12.5.5).

use http1::Known;

use crate::proxy::fields::Fields;

/// Adds the field `name`, in lower case, to what `Vary` lists, unless it or `*` is there.
pub(super) fn vary(fields: &mut Fields, name: &[u8]) {
    let lists = |value: &[u8]| {
        let mut members = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        members.any(|member| member == b"*" || member.eq_ignore_ascii_case(name))
    };
    if !fields.iter().any(|(_, value, known)| known == Known::Vary && lists(value)) {
        fields.add(b"vary", name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_listed_once_and_star_lists_all() {
        let check = |before: &[&str], after: &[&str]| {
            let mut fields = Fields::new();
            before.iter().for_each(|value| fields.add(b"vary", value.as_bytes()));
            vary(&mut fields, b"origin");
            let values: Vec<_> = fields.iter().map(|(_, value, _)| String::from_utf8_lossy(value)).collect();
            assert_eq!(values, after);
        };
        check(&[], &["origin"]);
        check(&["Accept"], &["Accept", "origin"]);
        check(&["Accept, Origin"], &["Accept, Origin"]);
        check(&["accept", "ORIGIN"], &["accept", "ORIGIN"]);
        check(&["*"], &["*"]);
        check(&["x-origin"], &["x-origin", "origin"]);
    }
}
