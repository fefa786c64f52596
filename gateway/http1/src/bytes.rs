//! Byte classes shared by the parsers (RFC 9110 §5.6.2, RFC 3986 §2).

/// `tchar`: what a token, and so a method or a field name, is made of.
pub(crate) const TOKEN: [bool; 256] = class(b"!#$%&'*+-.^_`|~", true);

const fn class(more: &[u8], alphanumeric: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = alphanumeric && (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < more.len() {
        table[more[at] as usize] = true;
        at += 1;
    }
    table
}

#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// One or more `tchar`.
#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// `bytes` without the optional white space (SP and HTAB, RFC 9110 §5.6.3) around it.
#[inline]
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The value of one hexadecimal digit.
#[inline]
pub(crate) fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_bytes_of_rfc_9110() {
        let allowed: Vec<u8> = (0..=255).filter(|&byte| is_token_byte(byte)).collect();
        let mut expected: Vec<u8> = (b'0'..=b'9').chain(b'A'..=b'Z').chain(b'a'..=b'z').collect();
        expected.extend_from_slice(b"!#$%&'*+-.^_`|~");
        expected.sort_unstable();
        assert_eq!(allowed, expected);
        assert!(!is_token(b""));
    }

    #[test]
    fn only_spaces_and_tabs_are_trimmed() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
        assert_eq!(trim(b"\x0ba"), b"\x0ba");
    }

    #[test]
    fn hex_digits_come_in_both_cases() {
        assert_eq!(
            (hex(b'0'), hex(b'9'), hex(b'a'), hex(b'F'), hex(b'g')),
            (Some(0), Some(9), Some(10), Some(15), None)
        );
    }
}
