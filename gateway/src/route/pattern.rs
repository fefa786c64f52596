//! Path patterns: what a route's `path` says, compared with canonical paths by whole segments.
//!
//! | written | takes |
//! |---|---|
//! | `/a/b` | this path and no other |
//! | `/a/{id}` | one segment, not empty, in the place of `{id}` |
//! | `/a/{id}:archive` | the same, if the segment ends in `:archive` (the verbs of `google.api.http`) |
//! | `/a/**`, `/a/{rest=**}` | `/a` itself and everything below it |
//! | a regular expression | a path that matches it from its first to its last byte |
//!
//! A pattern says what it takes apart from how a table finds it: [`PathPattern::takes`] is what `explain` and the tests ask,
//! [`super::table`] compiles all of them into one structure.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

use crate::limits::{PATTERN_NAME_BYTES_MAX, PATTERN_SEGMENTS_MAX, REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX};

/// What a route's path is compared with.
#[derive(Debug, Clone)]
pub enum PathPattern {
    Segments(Segments),
    Regex(PathRegex),
}

/// A pattern by whole segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    pub segments: Vec<Segment>,
    pub end: End,
}

/// What a pattern has between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes. Empty behind a final slash.
    Literal(Box<[u8]>),
    /// Anything but nothing, in front of `suffix`.
    Capture { name: Box<str>, suffix: Box<[u8]> },
}

/// What follows the last segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    Exact,
    /// Nothing, or a slash and whatever: `/**`. With a name: `{name=**}`.
    Rest(Option<Box<str>>),
}

/// A regular expression for a whole path, in a linear engine. Bytes, not characters: paths are ASCII.
#[derive(Debug, Clone)]
pub struct PathRegex {
    pub text: Box<str>,
    pub regex: Regex,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    NoSlash,
    /// A star that stands for nothing here.
    Star,
    /// `**` or `{name=**}` before the last segment.
    RestNotLast,
    /// A brace that opens or closes no capture.
    Brace,
    /// What a capture cannot be called.
    Name(String),
    /// Two captures of one name.
    Twice(String),
    TooManySegments,
    Regex(String),
    /// A regular expression that could never match a path.
    RegexSlash,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::NoSlash => f.write_str("a path begins with `/`"),
            PatternError::Star => f.write_str(
                "`*` stands for nothing but in a final `/**`, which takes everything below; one segment is `{name}`",
            ),
            PatternError::RestNotLast => f.write_str("`**` takes everything below, so nothing can follow it"),
            PatternError::Brace => {
                f.write_str("a capture is a whole segment, `{name}`, perhaps with something behind it, `{name}:verb`")
            }
            PatternError::Name(name) => write!(
                f,
                "`{name}` cannot name a capture: a letter or `_`, then letters, digits and `_`, at most {PATTERN_NAME_BYTES_MAX}"
            ),
            PatternError::Twice(name) => write!(f, "two captures are named `{name}`"),
            PatternError::TooManySegments => write!(f, "more than {PATTERN_SEGMENTS_MAX} segments"),
            PatternError::Regex(why) => f.write_str(why),
            PatternError::RegexSlash => {
                f.write_str("it is compared with the whole path, which begins with `/`: so must the expression")
            }
        }
    }
}

impl PathPattern {
    /// A pattern by segments. Whether its literals are canonical is checked apart (`config::words`).
    pub fn parse(text: &str) -> Result<PathPattern, PatternError> {
        let mut rest = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        let mut segments = Vec::new();
        let mut end = End::Exact;
        loop {
            let (segment, after) = match rest.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (rest, None),
            };
            match rest_name(segment)? {
                Some(_) if after.is_some() => return Err(PatternError::RestNotLast),
                Some(name) => end = End::Rest(name),
                None => segments.push(Segment::parse(segment)?),
            }
            match after {
                Some(after) => rest = after,
                None => break,
            }
        }
        if segments.len() > PATTERN_SEGMENTS_MAX {
            return Err(PatternError::TooManySegments);
        }
        let pattern = PathPattern::Segments(Segments { segments, end });
        let mut names: Vec<&str> = pattern.names().collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(PatternError::Twice(pair[0].to_owned())),
            None => Ok(pattern),
        }
    }

    /// A regular expression for the whole path.
    pub fn regex(text: &str) -> Result<PathPattern, PatternError> {
        if text.starts_with(|first: char| first.is_ascii_alphanumeric() || matches!(first, '_' | '-' | '%')) {
            return Err(PatternError::RegexSlash);
        }
        let regex = whole_regex(text).map_err(PatternError::Regex)?;
        Ok(PathPattern::Regex(PathRegex { text: text.into(), regex }))
    }

    /// Whether this pattern takes a canonical path.
    pub fn takes(&self, path: &[u8]) -> bool {
        match self {
            PathPattern::Segments(segments) => segments.walk(path, |_, _| {}),
            PathPattern::Regex(pattern) => pattern.regex.is_match(path),
        }
    }

    /// What a capture of this pattern holds in a path that it takes. The rest is without its first slash.
    pub fn capture(&self, path: &[u8], wanted: &str) -> Option<Range<usize>> {
        match self {
            PathPattern::Segments(segments) => {
                let mut found = None;
                segments.walk(path, |name, range| {
                    if name == wanted {
                        found = Some(range);
                    }
                });
                found
            }
            PathPattern::Regex(pattern) => {
                pattern.regex.captures(path).and_then(|captures| captures.name(wanted).map(|found| found.range()))
            }
        }
    }

    /// What of a path that it takes lies below the pattern's `/**`, with its first slash; all of it where there is no such part.
    pub fn rest<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        let PathPattern::Segments(pattern) = self else { return path };
        if pattern.end == End::Exact {
            return path;
        }
        let mut slashes = memchr::memchr_iter(b'/', path);
        slashes.nth(pattern.segments.len()).map_or(b"", |at| &path[at..])
    }

    /// The names of all captures.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (segments, regex) = match self {
            PathPattern::Segments(segments) => (Some(segments.names()), None),
            PathPattern::Regex(pattern) => (None, Some(pattern.regex.capture_names().flatten())),
        };
        segments.into_iter().flatten().chain(regex.into_iter().flatten())
    }

    /// One path and no other.
    pub fn is_exact(&self) -> bool {
        matches!(self, PathPattern::Segments(segments) if segments.is_exact())
    }

    /// The order in which patterns that take the same path go: one path, then regular expressions, then segment by segment
    /// from the left: a literal, a capture with the longer suffix, a capture, the end, the rest. Equal: they take the same
    /// paths, or no rule says which goes first.
    pub fn precedence(&self, other: &PathPattern) -> Ordering {
        let class = |pattern: &PathPattern| match pattern {
            PathPattern::Segments(segments) if segments.is_exact() => 0,
            PathPattern::Regex(_) => 1,
            PathPattern::Segments(_) => 2,
        };
        class(self).cmp(&class(other)).then_with(|| match (self, other) {
            (PathPattern::Segments(one), PathPattern::Segments(other)) => one.precedence(other),
            _ => Ordering::Equal,
        })
    }

    /// Whether every path that `other` takes is taken by this one, as far as segments tell.
    pub fn covers(&self, other: &PathPattern) -> bool {
        match (self, other) {
            (PathPattern::Segments(one), PathPattern::Segments(other)) => one.covers(other),
            // `/**` takes everything.
            (PathPattern::Segments(one), PathPattern::Regex(_)) => {
                one.segments.is_empty() && matches!(one.end, End::Rest(_))
            }
            (PathPattern::Regex(one), PathPattern::Regex(other)) => one.text == other.text,
            (PathPattern::Regex(_), PathPattern::Segments(_)) => false,
        }
    }
}

/// A regular expression for a whole value, matched in time linear in its length and within a bound of memory. Bytes, not
/// characters. Why it is none: what to say to who wrote it.
pub fn whole_regex(text: &str) -> Result<Regex, String> {
    if text.len() > REGEX_BYTES_MAX {
        return Err(format!("a regular expression has at most {REGEX_BYTES_MAX} bytes"));
    }
    let build = |text: &str| {
        RegexBuilder::new(text)
            .unicode(false)
            .size_limit(REGEX_COMPILED_BYTES_MAX)
            .dfa_size_limit(REGEX_COMPILED_BYTES_MAX)
            .build()
    };
    // Alone first: `a)|(b` would be whole only inside our own parentheses.
    build(text).and_then(|_| build(&whole(text))).map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => format!("it would take more than {limit} bytes of memory: repeat less"),
        // The last line says what is wrong; those before it draw the expression, with what we put around it.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("not a regular expression: {last}")
        }
    })
}

/// An expression that compiles, for a whole value.
pub(super) fn whole(text: &str) -> String {
    format!("^(?:{text})$")
}

/// Whether a segment is `**` or `{name=**}`, and the name.
fn rest_name(segment: &str) -> Result<Option<Option<Box<str>>>, PatternError> {
    if segment == "**" {
        return Ok(Some(None));
    }
    match segment.strip_prefix('{').and_then(|inner| inner.strip_suffix("=**}")) {
        Some(name) => Ok(Some(Some(capture_name(name)?))),
        None => Ok(None),
    }
}

fn capture_name(name: &str) -> Result<Box<str>, PatternError> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let others = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match first && others && name.len() <= PATTERN_NAME_BYTES_MAX {
        true => Ok(name.into()),
        false => Err(PatternError::Name(name.to_owned())),
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Segment, PatternError> {
        if text.contains('*') {
            return Err(PatternError::Star);
        }
        if !text.contains(['{', '}']) {
            return Ok(Segment::Literal(text.as_bytes().into()));
        }
        let (name, suffix) =
            text.strip_prefix('{').and_then(|inner| inner.split_once('}')).ok_or(PatternError::Brace)?;
        if suffix.contains(['{', '}']) {
            return Err(PatternError::Brace);
        }
        Ok(Segment::Capture { name: capture_name(name)?, suffix: suffix.as_bytes().into() })
    }

    pub(super) fn literal(&self) -> Option<&[u8]> {
        match self {
            Segment::Literal(literal) => Some(literal),
            Segment::Capture { .. } => None,
        }
    }

    /// How many bytes of `segment` belong to the capture, if this takes the segment.
    fn takes(&self, segment: &[u8]) -> Option<usize> {
        match self {
            Segment::Literal(literal) => (**literal == *segment).then_some(0),
            Segment::Capture { suffix, .. } => segment.strip_suffix(&**suffix).map(<[u8]>::len).filter(|&len| len > 0),
        }
    }

    fn precedence(&self, other: &Segment) -> Ordering {
        match (self, other) {
            // Two literals never take the same segment: any order will do, but it must be one.
            (Segment::Literal(one), Segment::Literal(other)) => one.cmp(other),
            (Segment::Literal(_), Segment::Capture { .. }) => Ordering::Less,
            (Segment::Capture { .. }, Segment::Literal(_)) => Ordering::Greater,
            (Segment::Capture { suffix: one, .. }, Segment::Capture { suffix: other, .. }) => {
                other.len().cmp(&one.len()).then_with(|| one.cmp(other))
            }
        }
    }

    fn covers(&self, other: &Segment) -> bool {
        match (self, other) {
            (Segment::Literal(one), Segment::Literal(other)) => one == other,
            (Segment::Literal(_), Segment::Capture { .. }) => false,
            (capture, Segment::Literal(literal)) => capture.takes(literal).is_some(),
            (Segment::Capture { suffix: one, .. }, Segment::Capture { suffix: other, .. }) => other.ends_with(one),
        }
    }
}

impl Segments {
    fn is_exact(&self) -> bool {
        self.end == End::Exact && self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// Writes the one path that is taken into `path`; `false`: there are others.
    pub(super) fn whole(&self, path: &mut Vec<u8>) -> bool {
        path.clear();
        for segment in &self.segments {
            let Segment::Literal(literal) = segment else { return false };
            path.push(b'/');
            path.extend_from_slice(literal);
        }
        self.end == End::Exact
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let segments = self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture { name, .. } => Some(&**name),
            Segment::Literal(_) => None,
        });
        segments.chain(match &self.end {
            End::Rest(Some(name)) => Some(&**name),
            _ => None,
        })
    }

    /// Whether the path is taken; every capture is told on the way.
    fn walk<'s>(&'s self, path: &[u8], mut captured: impl FnMut(&'s str, Range<usize>)) -> bool {
        let mut at = 0;
        for segment in &self.segments {
            if path.get(at) != Some(&b'/') {
                return false;
            }
            let start = at + 1;
            let end = memchr::memchr(b'/', &path[start..]).map_or(path.len(), |slash| start + slash);
            let Some(len) = segment.takes(&path[start..end]) else { return false };
            if let Segment::Capture { name, .. } = segment {
                captured(name, start..start + len);
            }
            at = end;
        }
        match &self.end {
            End::Exact => at == path.len(),
            End::Rest(name) => {
                // `*` of `OPTIONS *` is no path.
                let taken = at > 0 && at == path.len() || path.get(at) == Some(&b'/');
                if let Some(name) = name
                    && taken
                {
                    captured(name, (at + 1).min(path.len())..path.len());
                }
                taken
            }
        }
    }

    fn precedence(&self, other: &Segments) -> Ordering {
        for (one, other) in self.segments.iter().zip(&other.segments) {
            let order = one.precedence(other);
            if order != Ordering::Equal {
                return order;
            }
        }
        // A longer one begins where the other has its end or its rest.
        other.segments.len().cmp(&self.segments.len()).then_with(|| match (&self.end, &other.end) {
            (End::Exact, End::Rest(_)) => Ordering::Less,
            (End::Rest(_), End::Exact) => Ordering::Greater,
            _ => Ordering::Equal,
        })
    }

    fn covers(&self, other: &Segments) -> bool {
        let pairs = self.segments.iter().zip(&other.segments).all(|(one, other)| one.covers(other));
        pairs
            && match (&self.end, &other.end) {
                (End::Exact, End::Exact) => self.segments.len() == other.segments.len(),
                (End::Exact, End::Rest(_)) => false,
                (End::Rest(_), _) => self.segments.len() <= other.segments.len(),
            }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Regex(pattern) => write!(f, "regex {}", pattern.text),
            PathPattern::Segments(segments) => {
                for segment in &segments.segments {
                    match segment {
                        Segment::Literal(literal) => write!(f, "/{}", literal.escape_ascii())?,
                        Segment::Capture { name, suffix } => write!(f, "/{{{name}}}{}", suffix.escape_ascii())?,
                    }
                }
                match &segments.end {
                    End::Exact => Ok(()),
                    End::Rest(None) => f.write_str("/**"),
                    End::Rest(Some(name)) => write!(f, "/{{{name}=**}}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        match text.strip_prefix('~') {
            Some(regex) => PathPattern::regex(regex),
            None => PathPattern::parse(text),
        }
        .expect(text)
    }

    #[track_caller]
    fn check(text: &str, path: &str, expected: Option<&[(&str, &str)]>) {
        let pattern = pattern(text);
        assert_eq!(pattern.takes(path.as_bytes()), expected.is_some(), "{text} {path}");
        for (name, value) in expected.unwrap_or_default() {
            let range = pattern.capture(path.as_bytes(), name).unwrap_or_else(|| panic!("{text} {path}: no {name}"));
            assert_eq!(&path[range], *value, "{text} {path} {name}");
        }
    }

    /// The path rows follow the facts of `google.api.http` (`*` is written `{name}`, a verb is a suffix) and of Gateway
    /// API's `PathPrefix`, which goes by whole segments.
    #[test]
    fn patterns_take_whole_segments() {
        check("/", "/", Some(&[]));
        check("/", "/a", None);
        check("/a", "/a", Some(&[]));
        check("/a", "/a/", None);
        check("/a/", "/a", None);
        check("/a/", "/a/", Some(&[]));
        check("/**", "/", Some(&[]));
        check("/**", "/a/b", Some(&[]));
        check("/**", "*", None);
        check("/a/**", "/a", Some(&[]));
        check("/a/**", "/a/", Some(&[]));
        check("/a/**", "/ab", None);
        check("/a/**", "/b", None);
        check("/v1/shelves/{shelf}", "/v1/shelves/1", Some(&[("shelf", "1")]));
        check("/v1/shelves/{shelf}", "/v1/shelves/", None);
        check("/v1/shelves/{shelf}", "/v1/shelves/1/books", None);
        check("/v1/{a}/x/{b}", "/v1/1/x/2", Some(&[("a", "1"), ("b", "2")]));
        check("/v1/{a}/x/{b}", "/v1/1/y/2", None);
        check("/v1/{a}:archive", "/v1/12:archive", Some(&[("a", "12")]));
        check("/v1/{a}:archive", "/v1/:archive", None);
        check("/v1/{a}:archive", "/v1/12", None);
        check("/f/{rest=**}", "/f", Some(&[("rest", "")]));
        check("/f/{rest=**}", "/f/", Some(&[("rest", "")]));
        check("/f/{rest=**}", "/f/a/b", Some(&[("rest", "a/b")]));
        check("/{name=**}", "/a", Some(&[("name", "a")]));
        check("~/u/[0-9]+", "/u/12", Some(&[]));
        check("~/u/[0-9]+", "/u/12/x", None);
        check("~/u/(?<id>\\d+)/x|/y", "/u/7/x", Some(&[("id", "7")]));
        check("~/u/(?<id>\\d+)/x|/y", "/y", Some(&[]));
    }

    #[test]
    fn the_rest_is_what_lies_below() {
        for (text, path, rest) in [
            ("/**", "/", "/"),
            ("/**", "/a/b", "/a/b"),
            ("/a/**", "/a", ""),
            ("/a/**", "/a/", "/"),
            ("/a/{x}/**", "/a/1/b/c", "/b/c"),
            ("/a/{x=**}", "/a/b/c", "/b/c"),
            ("/a/b", "/a/b", "/a/b"),
        ] {
            assert_eq!(pattern(text).rest(path.as_bytes()), rest.as_bytes(), "{text} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, error) in [
            ("a", PatternError::NoSlash),
            ("/a/*", PatternError::Star),
            ("/a*", PatternError::Star),
            ("/**/a", PatternError::RestNotLast),
            ("/{a=**}/b", PatternError::RestNotLast),
            ("/x{a}", PatternError::Brace),
            ("/{a", PatternError::Brace),
            ("/a}", PatternError::Brace),
            ("/{a}{b}", PatternError::Brace),
            ("/{}", PatternError::Name(String::new())),
            ("/{1}", PatternError::Name("1".to_owned())),
            ("/{a-b}", PatternError::Name("a-b".to_owned())),
            ("/{a}/{a}", PatternError::Twice("a".to_owned())),
        ] {
            assert_eq!(PathPattern::parse(text).expect_err(text), error, "{text}");
        }
        assert!(PathPattern::parse(&"/a".repeat(PATTERN_SEGMENTS_MAX)).is_ok());
        assert!(PathPattern::parse(&"/a".repeat(PATTERN_SEGMENTS_MAX + 1)).is_err());
        for bomb in ["/(a{1000}){1000}", "/(((((a{100}){100}){100}){100}){100})"] {
            let PatternError::Regex(why) = PathPattern::regex(bomb).expect_err(bomb) else { panic!("{bomb}") };
            assert!(why.contains("bytes of memory"), "{why}");
        }
        assert_eq!(PathPattern::regex("a").expect_err("no slash"), PatternError::RegexSlash);
        for text in ["/(", "/a)|(/b", "/\\p{Greek}", "/(?=a)"] {
            assert!(matches!(PathPattern::regex(text), Err(PatternError::Regex(_))), "{text}");
        }
    }

    #[test]
    fn an_expression_is_for_the_whole_value() {
        let one = whole_regex(r"https://(a|b)\.example|http://c").expect("good");
        assert!(one.is_match(b"https://a.example") && one.is_match(b"http://c"));
        assert!(
            !one.is_match(b"https://a.example.evil") && !one.is_match(b"xhttp://c") && !one.is_match(b"http://c\n")
        );
        let long = "a".repeat(REGEX_BYTES_MAX);
        assert!(whole_regex(&long).is_ok());
        for bad in ["(", "a)|(b", r"(a)\1", "(?=a)", "((a{1000}){1000}){1000}", &format!("{long}a")] {
            assert!(whole_regex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_more_specific_pattern_goes_first() {
        let order = [
            "/a/b/c",
            "~/a/.*",
            "/a/b/{x}",
            "/a/b/**",
            "/a/{x}:go/c",
            "/a/{x}/c",
            "/a/{x}:go",
            "/a/{x}",
            "/a/{x}/**",
            "/a/**",
            "/{x}",
            "/{x}/**",
            "/**",
        ];
        for (at, one) in order.iter().enumerate() {
            for (other_at, other) in order.iter().enumerate() {
                let both = |path: &str| pattern(one).takes(path.as_bytes()) && pattern(other).takes(path.as_bytes());
                let share =
                    ["/a/b/c", "/a/b/c/d", "/a/b:go/c", "/a/b:go", "/a/b", "/a", "/x", "/"].iter().any(|p| both(p));
                if share {
                    assert_eq!(pattern(one).precedence(&pattern(other)), at.cmp(&other_at), "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn a_pattern_covers_what_lies_within_it() {
        for (one, other, expected) in [
            ("/**", "/a/{x}", true),
            ("/**", "~/a", true),
            ("/a/**", "/a", true),
            ("/a/**", "/a/{x}/**", true),
            ("/a/{x}", "/a/b", true),
            ("/a/{x}", "/a/{y}:go", true),
            ("/a/{x}:go", "/a/{y}", false),
            ("/a/{x}", "/a/", false),
            ("/a/b", "/a/{x}", false),
            ("/a/{x}", "/a/{y}/**", false),
            ("/a/b/**", "/a/**", false),
        ] {
            assert_eq!(pattern(one).covers(&pattern(other)), expected, "{one} {other}");
        }
    }
}
