//! Durations counted into fixed buckets of whole microseconds, by one core, without a lock or a division.
//! Written by the worker that owns it; read by the scrape on the control thread, which adds the cores up.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets in microseconds, inclusive as Prometheus' `le` is; what is longer than the last falls into
/// `+Inf`. 1, 1.5, 2.5, 5, 7.5 a decade: the round figures people set as goals, and a quantile read off them is wrong by
/// at most half of the distance to the next. Below 50 µs loopback noise is larger than what we would tell apart;
/// beyond a minute an exchange is a stream, and its duration says nothing about speed.
pub const BOUNDS_US: [u64; 30] = [
    50, 75, // ms:
    100, 150, 250, 500, 750, 1_000, 1_500, 2_500, 5_000, 7_500, 10_000, 15_000, 25_000, 50_000, 75_000, 100_000,
    150_000, 250_000, 500_000, 750_000, // s:
    1_000_000, 1_500_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000, 30_000_000, 60_000_000,
];

/// One more than there are bounds: the last one counts what is longer than all of them.
pub const BUCKET_COUNT: usize = BOUNDS_US.len() + 1;

/// Values from here on need no telling apart: all bounds lie below.
const VALUE_US_MAX: u64 = (1 << 26) - 1;
const _: () = assert!(BOUNDS_US[BOUNDS_US.len() - 1] <= VALUE_US_MAX);

/// Cells of the look-up table: eight to an octave, from 2^3 up to 2^26.
const CELL_COUNT: usize = cell(VALUE_US_MAX) + 1;

/// For each cell the number of bounds that are not above its first value.
const FIRST_BUCKET: [u8; CELL_COUNT] = first_buckets();

/// A duration histogram. One thread writes it, any may read it.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKET_COUNT],
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKET_COUNT], sum_us: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration. O(1): a leading-zero count, one look-up, one comparison, two relaxed stores.
    /// Only the core that owns the histogram may call this; a second writer would lose counts.
    #[inline]
    pub fn observe_us(&self, us: u64) {
        add(&self.buckets[bucket(us)], 1);
        add(&self.sum_us, us);
    }
}

/// Several histograms added up: what one scrape reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Not cumulative; the last one is `+Inf`.
    pub buckets: [u64; BUCKET_COUNT],
    pub sum_us: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Sum { buckets: [0; BUCKET_COUNT], sum_us: 0 }
    }
}

impl Sum {
    /// Adds what `histogram` has counted so far. The buckets are read one after the other while its core goes on
    /// counting, so the sum may be an exchange ahead of them or behind; the count never disagrees with the buckets, being
    /// made of them.
    pub fn add(&mut self, histogram: &Histogram) {
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total = total.wrapping_add(bucket.load(Ordering::Relaxed));
        }
        self.sum_us = self.sum_us.wrapping_add(histogram.sum_us.load(Ordering::Relaxed));
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |count, bucket| count.wrapping_add(*bucket))
    }
}

/// The bucket `us` belongs to: the number of bounds below it.
fn bucket(us: u64) -> usize {
    // A bound is inclusive, and all are whole: "bounds below `us`" is "bounds up to `us - 1`".
    let below = us.saturating_sub(1).min(VALUE_US_MAX);
    let first = FIRST_BUCKET[cell(below)] as usize;
    // A cell holds at most one bound beyond its first value (asserted below), so one comparison settles it.
    first + usize::from(BOUNDS_US.get(first).is_some_and(|bound| *bound <= below))
}

/// The eighth of an octave that `value` lies in. Values below 8 share the cell of 8: no bound is there.
const fn cell(value: u64) -> usize {
    let value = if value < 8 { 8 } else { value };
    let octave = 63 - value.leading_zeros() as usize;
    (octave - 3) * 8 + ((value >> (octave - 3)) & 7) as usize
}

const fn first_buckets() -> [u8; CELL_COUNT] {
    assert!(BOUNDS_US[0] >= 16);
    let mut table = [0; CELL_COUNT];
    let mut at = 0;
    while at < CELL_COUNT {
        let octave = at / 8 + 3;
        let width = 1 << (octave - 3);
        let start = (8 + (at % 8) as u64) * width;
        let mut count = 0;
        let mut inside = 0;
        let mut bound = 0;
        while bound < BOUNDS_US.len() {
            if BOUNDS_US[bound] <= start {
                count += 1;
            } else if BOUNDS_US[bound] < start + width {
                inside += 1;
            }
            bound += 1;
        }
        assert!(inside <= 1, "two bounds in one cell: the one comparison of `bucket` cannot tell them apart");
        table[at] = count;
        at += 1;
    }
    table
}

/// A relaxed load and a relaxed store: no lock prefix, because nobody else writes.
#[inline]
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table replaces.
    fn bucket_by_search(us: u64) -> usize {
        BOUNDS_US.iter().take_while(|bound| **bound < us).count()
    }

    #[test]
    fn every_bound_belongs_to_its_own_bucket_and_one_more_to_the_next() {
        for (at, bound) in BOUNDS_US.iter().enumerate() {
            assert_eq!(bucket(*bound), at, "{bound}");
            assert_eq!(bucket(bound + 1), at + 1, "{bound} + 1");
            assert_eq!(bucket(bound - 1), bucket_by_search(bound - 1), "{bound} - 1");
        }
    }

    #[test]
    fn the_table_agrees_with_a_search() {
        for us in 0..200_000 {
            assert_eq!(bucket(us), bucket_by_search(us), "{us}");
        }
        for shift in 0..64 {
            for near in [-1_i64, 0, 1] {
                let us = (1_u64 << shift).wrapping_add_signed(near);
                assert_eq!(bucket(us), bucket_by_search(us), "{us}");
            }
        }
        assert_eq!(bucket(u64::MAX), BOUNDS_US.len());
    }

    #[test]
    fn a_sum_adds_the_cores_up() {
        let (one, two) = (Histogram::default(), Histogram::default());
        one.observe_us(50);
        one.observe_us(60_000_001);
        two.observe_us(50);
        let mut sum = Sum::default();
        sum.add(&one);
        sum.add(&two);
        assert_eq!(sum.buckets[0], 2);
        assert_eq!(sum.buckets[BUCKET_COUNT - 1], 1);
        assert_eq!(sum.count(), 3);
        assert_eq!(sum.sum_us, 60_000_101);
    }
}
