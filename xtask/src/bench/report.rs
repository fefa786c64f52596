//! Figures from many rounds as one: medians, the spread around them, tables, and the bars they are held against.

use std::fmt;

/// The median of a few figures with the smallest and largest of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` when there are no figures.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max })
    }

    pub(super) fn json(self) -> serde_json::Value {
        serde_json::json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median < 10.0 { 2 } else { 1 };
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max)
    }
}

/// A bound of the project on a ratio: the median must not be above it.
pub(super) struct Bar {
    pub(super) claim: String,
    pub(super) at_most: f64,
    pub(super) found: Spread,
}

impl Bar {
    pub(super) fn is_met(&self) -> bool {
        self.found.median <= self.at_most
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "claim": self.claim, "at_most": self.at_most, "found": self.found.json(), "met": self.is_met() })
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_met() { "met   " } else { "missed" };
        write!(f, "{verdict}  {} at most {}: {}", self.claim, self.at_most, self.found)
    }
}

/// A table for people: columns as wide as their widest cell, the first to the left, the others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if column == 0 {
                text.push_str(&format!("  {cell:<width$}"));
            } else {
                text.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([7.0, 1.0, 3.0]), Some(Spread { median: 3.0, min: 1.0, max: 7.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_bar_is_met_at_its_bound_and_missed_above_it() {
        let bar = |median| Bar { claim: "x".into(), at_most: 0.9, found: Spread { median, min: 0.0, max: 2.0 } };
        assert!(bar(0.9).is_met());
        assert!(!bar(0.901).is_met());
    }
}
