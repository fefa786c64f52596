//! The one canonical spelling of a path. Router, authorisation, limits, cache, log and upstream all use what comes out
//! of here; none of them looks at the path as it was sent.
//!
//! What is done, following RFC 3986 §6.2.2 where it leaves no doubt:
//! - `%41` becomes `A`: escapes of unreserved characters are decoded, others kept with upper-case digits;
//! - characters a path cannot contain (`"<>[]^{|}` and the backtick) are escaped, so that each has one spelling;
//! - `.` and `..` segments, escaped or not, are removed; above the root they are refused;
//! - `//` is merged, or refused ([`PathPolicy::refuse_double_slash`]).
//!
//! What services read differently is decided by the route ([`Rule`]): `%2F`, `%5C`, and `;` with `%3B`. What nobody
//! sends honestly is always refused: a bare backslash, escaped control characters, overlong UTF-8, `..;`, a dot segment
//! behind an encoded slash that is kept, `..` in a path that also has empty segments (resolving before merging and after
//! give different paths), bytes beyond ASCII. `%25`, `%23` and `%3F` stay as they are: nothing is decoded twice.

use crate::bytes::hex;
use crate::fault::Fault;

/// What to do with text services read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Refuse,
    /// As it stands, with upper-case digits.
    Keep,
    /// `%2F` and `%5C` become `/`, `%3B` becomes `;`.
    Decode,
}

/// What a route accepts in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathPolicy {
    /// `%2F`
    pub encoded_slash: Rule,
    /// `%5C`. A bare backslash is always refused.
    pub backslash: Rule,
    /// `;` and `%3B`
    pub semicolon: Rule,
    /// Refuse `//` instead of merging it.
    pub refuse_double_slash: bool,
}

impl PathPolicy {
    /// Everything ambiguous kept: what the route is found with, before its own policy is known.
    pub const KEEP: PathPolicy = PathPolicy {
        encoded_slash: Rule::Keep,
        backslash: Rule::Keep,
        semicolon: Rule::Keep,
        refuse_double_slash: false,
    };
}

/// The ambiguous text a path had when it came. Nothing set, nothing to apply a route's policy to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathTraits {
    pub encoded_slash: bool,
    pub backslash: bool,
    pub semicolon: bool,
    pub double_slash: bool,
}

impl PathTraits {
    /// True if a policy other than [`PathPolicy::KEEP`] could change or refuse the path.
    #[inline]
    pub fn any(self) -> bool {
        self.encoded_slash || self.backslash || self.semicolon || self.double_slash
    }
}

/// Where the canonical path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canonical {
    /// It is the raw path; `out` holds nothing of use.
    Unchanged(PathTraits),
    /// It is in `out`.
    Rewritten(PathTraits),
}

/// Writes the canonical form of `raw`, a path without query, into `out`, which is cleared first; when `raw` is
/// canonical already, as nearly every path is, it is only looked at once and `out` is not touched. O(bytes), no
/// allocation but the growth of `out` up to three times the length of `raw`.
///
/// The result begins with `/`; an empty `raw` (absolute form without a path) becomes `/`. Applying the function, with
/// the same policy, to its result changes nothing.
pub fn canonical_path(raw: &[u8], policy: &PathPolicy, out: &mut Vec<u8>) -> Result<Canonical, Fault> {
    // No branch depends on a byte: five instructions each.
    let (mut seen, mut pairs, mut previous) = (0, 0, 0);
    for &byte in raw {
        let traits = SCAN[byte as usize];
        seen |= traits;
        pairs |= traits & previous >> AFTER;
        previous = traits;
    }
    let work = WORK | if policy.semicolon == Rule::Refuse { SEMICOLON } else { 0 };
    if seen & work != 0 || pairs != 0 || raw.first() != Some(&b'/') {
        return rewrite(raw, policy, out);
    }
    Ok(Canonical::Unchanged(PathTraits { semicolon: seen & SEMICOLON != 0, ..PathTraits::default() }))
}

/// What the first look at a byte asks of it. The upper half names what may not come after it.
static SCAN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match CLASS[byte] {
            Class::Plain => 0,
            // `//`, `/.` and `/..` have to be looked at closely.
            Class::Slash => SLASH | (SLASH | DOT) << AFTER,
            Class::Dot => DOT,
            Class::Semicolon => SEMICOLON,
            _ => WORK,
        };
        byte += 1;
    }
    table
};
const SLASH: u8 = 1;
const DOT: u8 = 2;
const SEMICOLON: u8 = 4;
/// Cannot stay, or not without a closer look.
const WORK: u8 = 8;
const AFTER: u32 = 4;

/// What a byte of a path needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays as it is.
    Plain,
    Slash,
    Dot,
    Semicolon,
    Percent,
    Backslash,
    /// Not allowed in a path but harmless; is escaped.
    Escape,
    /// Control characters, SP, `?` and `#`.
    Never,
    NotAscii,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Never; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b';' => Class::Semicolon,
            b'%' => Class::Percent,
            b'\\' => Class::Backslash,
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Escape,
            // pchar of RFC 3986 §3.3 but for those above.
            b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => {
                Class::Plain
            }
            alphanumeric if alphanumeric.is_ascii_alphanumeric() => Class::Plain,
            0x80.. => Class::NotAscii,
            _ => Class::Never,
        };
        byte += 1;
    }
    table
};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The path written so far and what must be known about it.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Where the segment being written begins, after its `/`.
    segment: usize,
    traits: PathTraits,
    /// A `..` segment was removed.
    dots: bool,
}

#[cold]
fn rewrite(raw: &[u8], policy: &PathPolicy, out: &mut Vec<u8>) -> Result<Canonical, Fault> {
    out.clear();
    match raw.first() {
        None => {
            out.push(b'/');
            return Ok(Canonical::Rewritten(PathTraits::default()));
        }
        Some(b'/') => {}
        // Say what the byte is, if it could not stand anywhere.
        Some(&byte) => {
            return Err(match CLASS[byte as usize] {
                Class::Never => Fault::PathCharacter,
                Class::NotAscii => Fault::PathNotAscii,
                Class::Backslash => Fault::PathBackslash,
                _ => Fault::PathNotAbsolute,
            });
        }
    }
    out.reserve(raw.len());
    out.push(b'/');
    let mut writer = Writer { out, segment: 1, traits: PathTraits::default(), dots: false };
    let mut rest = &raw[1..];
    loop {
        // Most bytes stay as they are: they are copied together.
        let run = rest.iter().position(|&byte| SCAN[byte as usize] & !DOT != 0).unwrap_or(rest.len());
        let (plain, [byte, tail @ ..]) = rest.split_at(run) else { break };
        writer.out.extend_from_slice(plain);
        rest = tail;
        match CLASS[*byte as usize] {
            // Cannot happen here because the run would have gone on.
            Class::Plain | Class::Dot => writer.out.push(*byte),
            Class::Slash => writer.slash(policy)?,
            Class::Semicolon => {
                writer.semicolon(policy)?;
                writer.out.push(b';');
            }
            Class::Escape => writer.escape(*byte),
            Class::Backslash => return Err(Fault::PathBackslash),
            Class::Never => return Err(Fault::PathCharacter),
            Class::NotAscii => return Err(Fault::PathNotAscii),
            Class::Percent => {
                let Some(byte) = escaped(tail) else {
                    return Err(Fault::PathPercent);
                };
                writer.escaped(byte, &tail[2..], policy)?;
                rest = &tail[2..];
            }
        }
    }
    writer.out.extend_from_slice(rest);
    writer.end_segment(true)?;
    let Writer { out, traits, dots, .. } = writer;
    // RFC 3986 §5.2.4 lets `..` remove an empty segment, a service that merges slashes first has it remove the one before.
    if dots && traits.double_slash {
        return Err(Fault::PathDotsAndEmpty);
    }
    Ok(if out == raw { Canonical::Unchanged(traits) } else { Canonical::Rewritten(traits) })
}

/// The byte whose two digits `tail` begins with.
fn escaped(tail: &[u8]) -> Option<u8> {
    match tail {
        [high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

impl Writer<'_> {
    /// Writes `byte` as `%` and two upper-case digits.
    fn escape(&mut self, byte: u8) {
        self.out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }

    /// Writes what was sent as an escape of `byte`; `tail` follows it.
    fn escaped(&mut self, byte: u8, tail: &[u8], policy: &PathPolicy) -> Result<(), Fault> {
        match byte {
            0..=0x1f | 0x7f => return Err(Fault::PathEncodedControl),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => self.out.push(byte),
            b'/' => {
                self.traits.encoded_slash = true;
                self.separator(byte, policy.encoded_slash, Fault::PathEncodedSlash, policy)?;
            }
            b'\\' => {
                self.traits.backslash = true;
                self.separator(byte, policy.backslash, Fault::PathEncodedBackslash, policy)?;
            }
            b';' => {
                self.semicolon(policy)?;
                match policy.semicolon {
                    Rule::Decode => self.out.push(b';'),
                    Rule::Keep | Rule::Refuse => self.escape(byte),
                }
            }
            // The shortest form of these begins with another byte (RFC 3629 §3): `%C0%AF` is `/` to a careless decoder.
            0xc0 | 0xc1 | 0xe0 | 0xf0 if is_overlong(byte, tail) => {
                return Err(Fault::PathOverlong);
            }
            _ => self.escape(byte),
        }
        Ok(())
    }

    /// `%2F` or `%5C`.
    fn separator(&mut self, byte: u8, rule: Rule, fault: Fault, policy: &PathPolicy) -> Result<(), Fault> {
        match rule {
            Rule::Refuse => Err(fault),
            Rule::Decode => self.slash(policy),
            Rule::Keep => {
                self.escape(byte);
                Ok(())
            }
        }
    }

    fn semicolon(&mut self, policy: &PathPolicy) -> Result<(), Fault> {
        self.traits.semicolon = true;
        if matches!(&self.out[self.segment..], b"." | b"..") {
            return Err(Fault::PathDotParameter);
        }
        if policy.semicolon == Rule::Refuse { Err(Fault::PathSemicolon) } else { Ok(()) }
    }

    /// A `/`, written or decoded.
    fn slash(&mut self, policy: &PathPolicy) -> Result<(), Fault> {
        if self.out.len() == self.segment {
            self.traits.double_slash = true;
            return if policy.refuse_double_slash { Err(Fault::PathDoubleSlash) } else { Ok(()) };
        }
        self.end_segment(false)
    }

    /// Ends the segment being written: at a `/`, which is written, or at the end of the path.
    fn end_segment(&mut self, at_end: bool) -> Result<(), Fault> {
        match &self.out[self.segment..] {
            b"." => self.out.truncate(self.segment),
            b".." => {
                self.dots = true;
                if self.segment == 1 {
                    return Err(Fault::PathAboveRoot);
                }
                self.out.truncate(self.segment - 1);
                self.segment = 1 + memchr::memrchr(b'/', self.out).unwrap_or(0);
                self.out.truncate(self.segment);
            }
            segment => {
                if (self.traits.encoded_slash || self.traits.backslash) && hides_dots(segment) {
                    return Err(Fault::PathHiddenDots);
                }
                if !at_end {
                    self.out.push(b'/');
                    self.segment = self.out.len();
                }
            }
        }
        Ok(())
    }
}

/// True if a part of `segment` between kept encoded slashes or backslashes is a dot segment to whoever decodes them,
/// with or without a parameter.
fn hides_dots(segment: &[u8]) -> bool {
    let mut part = 0;
    let mut separators = false;
    let mut at = 0;
    let is_dots = |part: &[u8]| {
        let name = part.split(|&byte| byte == b';').next().unwrap_or_default();
        let name = name.windows(3).position(|three| three == b"%3B").map_or(name, |semicolon| &name[..semicolon]);
        matches!(name, b"." | b"..")
    };
    while let Some(percent) = memchr::memchr(b'%', &segment[at..]) {
        at += percent;
        if matches!(&segment[at + 1..at + 3], b"2F" | b"5C") {
            if is_dots(&segment[part..at]) {
                return true;
            }
            separators = true;
            part = at + 3;
        }
        at += 3;
    }
    separators && is_dots(&segment[part..])
}

/// True if `first`, followed by the escape at the front of `tail`, begins a longer form than needed.
fn is_overlong(first: u8, tail: &[u8]) -> bool {
    let next = match tail {
        [b'%', digits @ ..] => escaped(digits),
        _ => None,
    };
    matches!((first, next), (0xc0 | 0xc1, Some(0x80..=0xbf)) | (0xe0, Some(0x80..=0x9f)) | (0xf0, Some(0x80..=0x8f)))
}
