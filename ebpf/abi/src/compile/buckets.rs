//! Two-choice buckets (cuckoo hashing), filled at about half: the writing side of [`crate::table::Buckets`].

use super::halves;
use crate::table::{Buckets, LINE_WORDS, Line, choices};

/// How many keys may move for one new key. At half load one or two do.
const MOVES_MAX: usize = 256;

/// Keys are inserted in so many groups: each has a part of the buckets that a cache can hold.
const GROUPS: usize = 256;

/// Where a region's buckets are and how many: a power of two, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) offset: u32,
    pub(super) buckets: u32,
}

impl Region {
    /// Buckets for so many keys, so that about half of the slots are in use at most. None for no keys.
    pub(super) fn buckets_for<F: Buckets>(keys: u64) -> u64 {
        match keys {
            0 => 0,
            keys => (keys * 2).div_ceil(F::KEYS_IN_TWO).next_power_of_two(),
        }
    }

    /// The word of the header. A lookup where there are no buckets reads the line of the header itself, so it must not
    /// happen: the lengths and the class bytes say so.
    pub(super) fn header(self) -> u64 {
        halves(self.offset, self.buckets.saturating_sub(1))
    }

    fn line(self, words: &mut [u64], bucket: u32) -> &mut Line {
        let at = (self.offset + bucket * LINE_WORDS) as usize;
        words[at..].first_chunk_mut().expect("a region holds its buckets")
    }

    /// Puts keys in; one that comes twice has its last value. `false`: there is no place, another seed may have one.
    ///
    /// They are sorted by their places first, roughly: a table is larger than any cache, and a miss for each key would be
    /// most of what compiling costs.
    pub(super) fn insert_all<F: Buckets>(self, words: &mut [u64], seed: u64, pairs: &[(F::Key, u32)]) -> bool {
        let mask = self.buckets.saturating_sub(1);
        let shift = (mask.count_ones()).saturating_sub(GROUPS.ilog2());
        let group = |key: &F::Key| (choices(F::hash(key, seed), mask).0 >> shift) as usize;
        let mut ends = [0_usize; GROUPS];
        pairs.iter().for_each(|(key, _)| ends[group(key)] += 1);
        let mut end = 0;
        for count in &mut ends {
            // For now where the group begins.
            (end, *count) = (end + *count, end);
        }
        let mut sorted = pairs.to_vec();
        for pair in pairs {
            let end = &mut ends[group(&pair.0)];
            sorted[*end] = *pair;
            *end += 1;
        }
        sorted.iter().all(|(key, value)| self.insert::<F>(words, seed, *key, *value))
    }

    fn insert<F: Buckets>(self, words: &mut [u64], seed: u64, mut key: F::Key, mut value: u32) -> bool {
        let mask = self.buckets - 1;
        let (first, second) = choices(F::hash(&key, seed), mask);
        let replaces = |held: Option<(F::Key, u32)>| held.is_some_and(|(held, _)| held == key);
        if !F::UNIQUE
            && (put::<F>(self.line(words, first), replaces, key, value)
                || F::overflows(self.line(words, first)) && put::<F>(self.line(words, second), replaces, key, value))
        {
            return true;
        }
        if put::<F>(self.line(words, first), |held| held.is_none(), key, value) {
            return true;
        }
        if put::<F>(self.line(words, second), |held| held.is_none(), key, value) {
            F::mark_overflow(self.line(words, first));
            return true;
        }
        // Somebody in the first choice has to move to its other one.
        let mut bucket = first;
        for step in 0..MOVES_MAX {
            let slot = step % F::SLOTS;
            let line = self.line(words, bucket);
            let Some((moved, moved_value)) = F::slot(line, slot) else { return false };
            F::put(line, slot, key, value);
            (key, value) = (moved, moved_value);
            let (first, second) = choices(F::hash(&key, seed), mask);
            let other = if bucket == first { second } else { first };
            if other == second {
                F::mark_overflow(self.line(words, first));
            }
            if put::<F>(self.line(words, other), |held| held.is_none(), key, value) {
                return true;
            }
            bucket = other;
        }
        false
    }
}

/// Writes into the first slot whose content is wanted.
fn put<F: Buckets>(line: &mut Line, wanted: impl Fn(Option<(F::Key, u32)>) -> bool, key: F::Key, value: u32) -> bool {
    let Some(slot) = (0..F::SLOTS).find(|slot| wanted(F::slot(line, *slot))) else { return false };
    F::put(line, slot, key, value);
    true
}
