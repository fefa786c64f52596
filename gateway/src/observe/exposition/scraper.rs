//! A scraper for tests: reads the text as strictly as any scraper might.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) kind: String,
    /// By suffix and labels, as [`labels_text`] writes them.
    pub(super) samples: BTreeMap<String, f64>,
}

/// Reads what a scraper reads, and panics at whatever it might not take: a sample outside its family, one given twice,
/// a bad name, a broken escape, buckets that are not cumulative, a missing end.
pub(super) fn parse(text: &str) -> BTreeMap<String, Parsed> {
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    let mut families: BTreeMap<String, Parsed> = BTreeMap::new();
    let mut lines = body.split_terminator('\n').peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("no help: {line}"));
        let (name, help) = help.split_once(' ').expect("a help text");
        assert!(!help.trim().is_empty(), "{name} has no help");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
        let (same, kind) = kind.expect("a type after the help").split_once(' ').unwrap();
        assert_eq!(same, name);
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
        let mut family = Parsed { kind: kind.to_owned(), ..Parsed::default() };
        let mut buckets = Buckets::default();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let rest = line.strip_prefix(name).unwrap_or_else(|| panic!("{line} in {name}"));
            let (suffix, labels, value) = parse_sample(rest);
            let allowed: &[&str] = match kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                _ => &["_bucket", "_sum", "_count"],
            };
            assert!(allowed.contains(&suffix), "{line}");
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let sample = format!("{suffix}{}", labels_text(&labels));
            buckets.check(line, suffix, &labels, value);
            assert!(family.samples.insert(sample, value).is_none(), "twice: {line}");
        }
        assert!(buckets.open.is_none(), "no +Inf bucket at the end of {name}");
        assert!(families.insert(name.to_owned(), family).is_none(), "twice: {name}");
    }
    families
}

/// `_total{route="a"} 1` as suffix, labels, value.
fn parse_sample(text: &str) -> (&str, Vec<(String, String)>, f64) {
    let end = text.find(['{', ' ']).expect("a value");
    let (suffix, mut rest) = text.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (name, after) = rest.split_once("=\"").expect("a label");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{text}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect("a closing quote") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().map(|(_, char)| char) {
                        Some('n') => '\n',
                        Some(char @ ('"' | '\\')) => char,
                        other => panic!("escape {other:?} in {text}"),
                    }),
                    (_, char) => value.push(char),
                }
            };
            labels.push((name.to_owned(), value));
            rest = &after[end + 1..];
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("{text}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("one space before the value");
    (suffix, labels, value.parse().unwrap_or_else(|_| panic!("value in {text}")))
}

pub(super) fn labels_text(labels: &[(&str, &str)]) -> String {
    let mut labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    labels.sort_by_key(|label| !label.starts_with("le="));
    format!("{{{}}}", labels.join(","))
}

/// Bounds rise, counts never fall, and the last of each series is `+Inf` and its count.
#[derive(Default)]
struct Buckets {
    /// Of the series whose buckets are still to come: its labels, its count.
    open: Option<(String, f64)>,
    last: Option<(f64, f64)>,
}

impl Buckets {
    fn check(&mut self, line: &str, suffix: &str, labels: &[(&str, &str)], value: f64) {
        if suffix == "_count" {
            assert!(self.open.is_none(), "no +Inf bucket before {line}");
            (self.open, self.last) = (Some((labels_text(labels), value)), None);
        } else if suffix == "_bucket" {
            let le = labels.iter().find(|(name, _)| *name == "le").expect("le").1;
            let others: Vec<_> = labels.iter().copied().filter(|label| label.0 != "le").collect();
            let (series, count) = self.open.as_ref().expect("a count before the buckets");
            assert_eq!(&labels_text(&others), series);
            let le: f64 = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
            assert!(self.last.is_none_or(|last| le > last.0 && value >= last.1), "{line}");
            self.last = Some((le, value));
            if le.is_infinite() {
                assert_eq!(value, *count, "{line}");
                self.open = None;
            }
        }
    }
}
