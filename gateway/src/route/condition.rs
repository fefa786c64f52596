//! Conditions: what a route asks of a request beside its host, path and method (`when` in the file).
//!
//! All of a route's conditions must hold. They see the request only, never what a filter found out about it: who the client
//! is decides what it may do, not which route it gets. A field is compared as one value, its lines joined by `, `
//! (RFC 9110 §5.3); of query parameters and cookies the first one of a name counts. What is not there has no value, and only
//! `present = false` holds for it.

use std::borrow::Cow;
use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use regex::bytes::Regex;

use super::pattern::whole_regex;
use super::{Asked, HostPattern};
use crate::config::model;
use crate::proxy::fields::Fields;

/// Conditions of one route.
#[derive(Debug, Clone, Default)]
pub struct When {
    pub headers: Vec<Named>,
    pub query: Vec<Named>,
    pub cookies: Vec<Named>,
    /// Networks of which one must hold the client; empty: any client.
    pub client: Vec<IpNet>,
    /// How the client speaks: `http` or `https`.
    pub scheme: Option<&'static str>,
    /// Names of which one must be what TLS was begun for; empty: any or none.
    pub sni: Vec<HostPattern>,
    /// Of a million requests that fulfil all others, so many.
    pub share: Option<u32>,
}

/// A condition on something with a name.
#[derive(Debug, Clone)]
pub struct Named {
    /// Field names are in lower case.
    pub name: Box<str>,
    pub test: Test,
}

/// What a value must be. All that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct Test {
    pub absent: bool,
    pub exact: Option<Box<[u8]>>,
    pub prefix: Option<Box<[u8]>>,
    pub suffix: Option<Box<[u8]>>,
    pub contains: Option<Box<[u8]>>,
    pub regex: Option<Regex>,
    /// Bounds of a decimal integer, both inclusive.
    pub range: Option<(i64, i64)>,
}

/// A condition that a request does not fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    Header(Box<str>),
    Query(Box<str>),
    Cookie(Box<str>),
    Client,
    Scheme,
    Sni,
    /// Drawn by lot.
    Share,
}

/// A million: shares are counted in parts of it.
pub const WHOLE: u32 = 1_000_000;

impl When {
    /// The conditions of a checked route.
    pub fn of(written: &model::When) -> When {
        let named = |(name, test): (&String, &model::ValueTest), lower: bool| Named {
            name: if lower { name.to_ascii_lowercase().into() } else { name.as_str().into() },
            test: Test::of(test),
        };
        When {
            headers: written.headers.iter().map(|header| named(header, true)).collect(),
            query: written.query.iter().map(|parameter| named(parameter, false)).collect(),
            cookies: written.cookies.iter().map(|cookie| named(cookie, false)).collect(),
            client: written.client.clone(),
            scheme: written.scheme.map(model::Scheme::text),
            sni: written.sni.iter().map(|name| HostPattern::named(name)).collect(),
            share: written.percentage.map(|percentage| percentage.millionths()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rank() == [0; 7]
    }

    /// How specific these conditions are: compared from left to right, more goes first (Gateway API: header conditions before
    /// query conditions; what that does not know follows).
    pub fn rank(&self) -> [usize; 7] {
        [
            self.headers.len(),
            self.query.len(),
            self.cookies.len(),
            usize::from(!self.client.is_empty()),
            usize::from(self.scheme.is_some()),
            usize::from(!self.sni.is_empty()),
            usize::from(self.share.is_some()),
        ]
    }

    /// Whether a request fulfils all of them.
    pub fn hold(&self, asked: &Asked<'_>) -> bool {
        self.first_unmet(asked).is_none()
    }

    /// The first condition that is not fulfilled, cheap ones first.
    pub fn first_unmet(&self, asked: &Asked<'_>) -> Option<Unmet> {
        if !self.client.is_empty()
            && !self.client.iter().any(|network| network.contains(&asked.came.client.to_canonical()))
        {
            return Some(Unmet::Client);
        }
        if self.scheme.is_some_and(|scheme| scheme != asked.came.scheme) {
            return Some(Unmet::Scheme);
        }
        let named = |pattern: &HostPattern| asked.came.server_name.is_some_and(|name| pattern.takes(name.as_bytes()));
        if !self.sni.is_empty() && !self.sni.iter().any(named) {
            return Some(Unmet::Sni);
        }
        if let Some(header) =
            self.headers.iter().find(|header| !header.test.holds(field(asked.fields, &header.name).as_deref()))
        {
            return Some(Unmet::Header(header.name.clone()));
        }
        if let Some(query) =
            self.query.iter().find(|query| !query.test.holds(parameter(asked.query, &query.name).as_deref()))
        {
            return Some(Unmet::Query(query.name.clone()));
        }
        if let Some(cookie) = self.cookies.iter().find(|wanted| !wanted.test.holds(cookie(asked.fields, &wanted.name)))
        {
            return Some(Unmet::Cookie(cookie.name.clone()));
        }
        self.share.filter(|&share| asked.lot >= share).map(|_| Unmet::Share)
    }

    /// Whether no request can fulfil them.
    pub fn is_impossible(&self) -> bool {
        let named = self.headers.iter().chain(&self.query).chain(&self.cookies);
        self.share == Some(0) || named.into_iter().any(|named| named.test.is_impossible())
    }

    /// Whether `other` asks for exactly the same.
    pub fn says_the_same(&self, other: &When) -> bool {
        // What is compared holds compiled expressions, which only their text tells apart.
        format!("{self:?}") == format!("{other:?}")
    }

    /// Whether every request that fulfils `other` fulfils this, because `other` asks for all that this asks for.
    pub fn is_implied_by(&self, other: &When) -> bool {
        let within = |some: &[Named], others: &[Named]| {
            some.iter().all(|one| others.iter().any(|other| format!("{one:?}") == format!("{other:?}")))
        };
        let clients = self.client.is_empty()
            || (!other.client.is_empty()
                && other.client.iter().all(|inner| self.client.iter().any(|outer| outer.contains(inner))));
        let names = self.sni.is_empty() || format!("{:?}", self.sni) == format!("{:?}", other.sni);
        clients
            && names
            && (self.scheme.is_none() || self.scheme == other.scheme)
            && self.share.is_none_or(|share| share >= WHOLE)
            && within(&self.headers, &other.headers)
            && within(&self.query, &other.query)
            && within(&self.cookies, &other.cookies)
    }

    /// Whether no request can fulfil both, as far as simple tests tell.
    pub fn excludes(&self, other: &When) -> bool {
        let apart = |some: &[Named], others: &[Named]| {
            some.iter().any(|one| others.iter().any(|other| one.name == other.name && one.test.excludes(&other.test)))
        };
        let clients = !self.client.is_empty()
            && !other.client.is_empty()
            && !self
                .client
                .iter()
                .any(|one| other.client.iter().any(|other| one.contains(other) || other.contains(one)));
        let schemes = self.scheme.zip(other.scheme).is_some_and(|(one, other)| one != other);
        clients
            || schemes
            || apart(&self.headers, &other.headers)
            || apart(&self.query, &other.query)
            || apart(&self.cookies, &other.cookies)
    }
}

impl Test {
    fn of(written: &model::ValueTest) -> Test {
        let bytes = |text: &Option<String>| text.as_ref().map(|text| text.as_bytes().into());
        let range = match (written.min, written.max) {
            (None, None) => None,
            (min, max) => Some((min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX))),
        };
        Test {
            absent: written.present == Some(false),
            exact: bytes(&written.exact),
            prefix: bytes(&written.prefix),
            suffix: bytes(&written.suffix),
            contains: bytes(&written.contains),
            regex: written.regex.as_ref().map(|text| whole_regex(text).expect("config::load compiled the expression")),
            range,
        }
    }

    /// Whether a value is what is asked for.
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return self.absent };
        !self.absent
            && self.exact.as_ref().is_none_or(|exact| **exact == *value)
            && self.prefix.as_ref().is_none_or(|prefix| value.starts_with(prefix))
            && self.suffix.as_ref().is_none_or(|suffix| value.ends_with(suffix))
            && self.contains.as_ref().is_none_or(|part| memchr::memmem::find(value, part).is_some())
            && self.range.is_none_or(|(min, max)| integer(value).is_some_and(|value| (min..=max).contains(&value)))
            && self.regex.as_ref().is_none_or(|regex| regex.is_match(value))
    }

    /// Whether no value is what this asks for.
    fn is_impossible(&self) -> bool {
        self.range.is_some_and(|(min, max)| min > max)
            || self.exact.as_ref().is_some_and(|exact| !self.holds(Some(exact)))
    }

    /// Whether no value is what both ask for.
    fn excludes(&self, other: &Test) -> bool {
        let one_way = |one: &Test, other: &Test| {
            // Against one exact value everything can be tried.
            one.exact.as_ref().is_some_and(|exact| !other.holds(Some(exact)))
        };
        let ranges = match (self.range, other.range) {
            (Some((min, max)), Some((other_min, other_max))) => max < other_min || other_max < min,
            _ => false,
        };
        let prefixes = match (&self.prefix, &other.prefix) {
            (Some(one), Some(other)) => !one.starts_with(other) && !other.starts_with(one),
            _ => false,
        };
        self.absent != other.absent || ranges || prefixes || one_way(self, other) || one_way(other, self)
    }
}

/// A decimal integer as RFC 9110 and people write it, perhaps with a sign.
fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A draw for `id`, the same each time: 0 to 999,999. Draws of one id with different salts have nothing to do with each other.
pub fn lot(id: &[u8], salt: u64) -> u32 {
    let bits = FixedState::with_seed(salt).hash_one(id);
    // The high half of the product is uniform below the bound (Lemire).
    ((u128::from(bits) * u128::from(WHOLE)) >> 64) as u32
}

/// The value of a field, its lines joined.
pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<Cow<'a, [u8]>> {
    let mut lines =
        fields.iter().filter(|(line, _, _)| line.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value, _)| value);
    let first = lines.next()?;
    let mut joined = Cow::Borrowed(first);
    for line in lines {
        let joined = joined.to_mut();
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line);
    }
    Some(joined)
}

/// The first value of a query parameter, decoded as forms encode it (WHATWG URL §5.1).
pub fn parameter<'a>(query: Option<&'a [u8]>, name: &str) -> Option<Cow<'a, [u8]>> {
    raw_parameter(query, name).map(decoded)
}

/// The same as it was sent. Names are compared decoded.
pub fn raw_parameter<'a>(query: Option<&'a [u8]>, name: &str) -> Option<&'a [u8]> {
    query?.split(|&byte| byte == b'&').find_map(|pair| {
        let (key, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        (*decoded(key) == *name.as_bytes()).then_some(value)
    })
}

/// `+` is a space, `%XX` a byte; a `%` without its digits stands for itself.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'+', text).is_none() {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| text.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let escaped = (byte == b'%').then(|| digit(at + 1).zip(digit(at + 2))).flatten();
        match (byte, escaped) {
            (_, Some((high, low))) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(out)
}

/// The first cookie of a name (RFC 6265 §4.2.1), without quotes around its value.
pub fn cookie<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    let lines = fields.iter().filter(|(line, _, _)| line.eq_ignore_ascii_case(b"cookie")).map(|(_, value, _)| value);
    lines.flat_map(|line| line.split(|&byte| byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        let value = &pair[at + 1..];
        let plain = value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value);
        (pair[..at] == *name.as_bytes()).then_some(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn holds(test: &str, value: Option<&str>) -> bool {
        let written: model::ValueTest =
            toml::from_str::<std::collections::BTreeMap<String, model::ValueTest>>(&format!("t = {test}"))
                .expect(test)
                .remove("t")
                .expect("there");
        Test::of(&written).holds(value.map(str::as_bytes))
    }

    #[test]
    fn tests_hold_for_what_they_say() {
        for (test, value, expected) in [
            (r#""v2""#, Some("v2"), true),
            (r#""v2""#, Some("V2"), false),
            (r#""v2""#, None, false),
            (r#"{ exact = "" }"#, Some(""), true),
            (r#"{ prefix = "v" }"#, Some("v2"), true),
            (r#"{ prefix = "v", suffix = "3" }"#, Some("v2"), false),
            (r#"{ contains = "b" }"#, Some("abc"), true),
            (r#"{ regex = "v[0-9]+" }"#, Some("v12"), true),
            (r#"{ regex = "v[0-9]+" }"#, Some("xv12"), false),
            (r#"{ present = true }"#, Some(""), true),
            (r#"{ present = true }"#, None, false),
            (r#"{ present = false }"#, None, true),
            (r#"{ present = false }"#, Some(""), false),
            (r#"{ min = 1, max = 10 }"#, Some("10"), true),
            (r#"{ min = 1, max = 10 }"#, Some("11"), false),
            (r#"{ min = -5 }"#, Some("-5"), true),
            (r#"{ max = 5 }"#, Some("five"), false),
            (r#"{ max = 5 }"#, Some("99999999999999999999"), false),
        ] {
            assert_eq!(holds(test, value), expected, "{test} {value:?}");
        }
    }

    #[test]
    fn draws_are_even_and_independent() {
        let mut both = [0; 4];
        for number in 0..4000u32 {
            let id = format!("{number:032x}");
            let low = |salt| usize::from(lot(id.as_bytes(), salt) < WHOLE / 2);
            both[low(1) * 2 + low(2)] += 1;
            assert_eq!(lot(id.as_bytes(), 1), lot(id.as_bytes(), 1));
        }
        // 1,000 each; 150 is five standard deviations.
        assert!(both.iter().all(|count| (850..1150).contains(count)), "{both:?}");
    }

    #[test]
    fn values_are_found_as_clients_send_them() {
        let head = fields(&[("X-A", "1"), ("cookie", "a=1; b=\"two\"; a=3"), ("x-a", "2"), ("Cookie", "c=4;d")]);
        assert_eq!(field(&head, "x-a").as_deref(), Some(&b"1, 2"[..]));
        assert_eq!(field(&head, "x-b"), None);
        assert_eq!(cookie(&head, "a"), Some(&b"1"[..]));
        assert_eq!(cookie(&head, "b"), Some(&b"two"[..]));
        assert_eq!(cookie(&head, "c"), Some(&b"4"[..]));
        assert_eq!(cookie(&head, "d"), None);
        let query = Some(&b"a=1&b%20c=x+y%2B&d&a=2&e=%zz%4"[..]);
        for (name, value) in
            [("a", Some("1")), ("b c", Some("x y+")), ("d", Some("")), ("e", Some("%zz%4")), ("f", None)]
        {
            assert_eq!(parameter(query, name).as_deref(), value.map(str::as_bytes), "{name}");
        }
    }
}
