//! Reads the text format of `/metrics` (Prometheus, OpenMetrics).

use std::collections::BTreeMap;

/// One reading of `/metrics`.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
    text: String,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { samples: lines.filter_map(sample).collect(), text: text.to_owned() }
    }

    /// The sum of all samples of `name` whose labels include `labels`; 0 where there is none, as before the first event.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of = |known: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| known.get(*key).is_some_and(|has| has == value))
        };
        self.samples.iter().filter(|(known, with, _)| known == name && of(with)).map(|(.., value)| value).sum()
    }

    /// The largest sample of `name`; `None` where there is none.
    pub fn max(&self, name: &str) -> Option<f64> {
        let values = self.samples.iter().filter(|(known, ..)| known == name).map(|(.., value)| *value);
        values.max_by(f64::total_cmp)
    }

    /// The names of all samples, each once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.samples.iter().map(|(name, ..)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The samples that are not zero, and no buckets: for a person to read.
    pub fn counted(&self) -> String {
        let lines = self
            .text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.ends_with(" 0") && !line.contains("_bucket{"));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// `name{label="value",...} number`
fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series.to_owned(), BTreeMap::new(), value));
    };
    let labels = labels.strip_suffix('}')?.split("\",").filter_map(|label| label.split_once("=\""));
    let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned())).collect();
    Some((name.to_owned(), labels, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_not_asked_for() {
        let metrics = Metrics::parse(
            "# HELP a b\na_total{x=\"1\",y=\"p\"} 2\na_total{x=\"1\",y=\"q\"} 3\na_total{x=\"2\"} 4\nb 1.5\n",
        );
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), 5.0);
        assert_eq!(metrics.sum("a_total", &[]), 9.0);
        assert_eq!(metrics.sum("b", &[]), 1.5);
        assert_eq!(metrics.names(), ["a_total", "b"]);
        assert_eq!((metrics.max("a_total"), metrics.max("c")), (Some(4.0), None));
    }
}
