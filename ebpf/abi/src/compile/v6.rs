//! IPv6: each prefix is stored with what all wider ones around it say, so the longest that is found is the answer.

use std::vec::Vec;

use super::buckets::Region;
use super::layers::{Classes, Layer, Layers};
use super::{CompileError, TABLE_WORDS_MAX, halves, lines};
use crate::hash::mix2;
use crate::table::{self, V6_NEAR_STEPS, V6_STEP, header, long, v6};

/// Bits of the bitmap for each /32 with something in it, and the most of all: 2 MiB.
const BITS_PER_NET: u64 = 16;
const BITS_MAX: u64 = 1 << 24;

/// An entry in the order the sweep wants: by start, wider first, lower rules last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    start: u128,
    length: u8,
    rule_inverted: u16,
    layer: u8,
}

impl Key {
    pub(super) fn new(start: u128, length: u8, rule: u16, layer: Layer) -> Self {
        Self { start, length, rule_inverted: !rule, layer: layer as u8 }
    }

    /// Takes this entry into the name of a generation.
    pub(super) fn fold(&self, generation: u64) -> u64 {
        let rest = u64::from(self.length) << 32 | u64::from(self.rule_inverted) << 8 | u64::from(self.layer);
        mix2(mix2(generation, (self.start >> 64) as u64), mix2(self.start as u64, rest))
    }
}

/// What goes where, before the seed is known. A later key equal to an earlier one replaces it.
#[derive(Default)]
pub(super) struct Plan {
    /// The lengths that occur, a bit for each step of four.
    lengths: u64,
    wide: Vec<(v6::Key, u32)>,
    near: Vec<(v6::Key, u32)>,
    long: Vec<(long::Key, u32)>,
    /// The /32s in which something is near or long.
    nets: Vec<u32>,
}

impl Plan {
    pub(super) fn new(keys: &[Key], classes: &mut Classes) -> Result<Self, CompileError> {
        struct Frame {
            /// The last address.
            last: u128,
            length: u8,
            layers: Layers,
            class: u8,
        }
        let mut plan = Self::default();
        let mut stack: Vec<Frame> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            while stack.pop_if(|top| top.last < key.start).is_some() {}
            let layers = stack.last().map_or(Layers::default(), |top| top.layers);
            let layers = layers.with(Layer::from_bits(u64::from(key.layer)), !key.rule_inverted);
            let class = classes.number(layers)?;
            let hosts = u128::MAX.checked_shr(u32::from(key.length)).unwrap_or(0);
            stack.push(Frame { last: key.start | hosts, length: key.length, layers, class });
            // A prefix that several lists have is stored once, by the last of them, which knows of all.
            if keys.get(index + 1).is_some_and(|next| (next.start, next.length) == (key.start, key.length)) {
                continue;
            }
            // What says the same as the prefix around it needs no place.
            let around = stack.iter().rev().find(|frame| frame.length < key.length);
            if around.is_none_or(|frame| frame.class != class) {
                plan.store(key, class)?;
            }
        }
        Ok(plan)
    }

    /// Spreads a prefix over the next length that is looked for, and stores the pieces.
    fn store(&mut self, key: &Key, class: u8) -> Result<(), CompileError> {
        let class = u32::from(class);
        let step = u32::from(key.length).div_ceil(V6_STEP);
        let length = step * V6_STEP;
        self.lengths |= 1 << step;
        for piece in 0..1_u128 << (length - u32::from(key.length)) {
            let bits = key.start | if length == 0 { 0 } else { piece << (128 - length) };
            let (high, low) = ((bits >> 64) as u64, bits as u64);
            if step < *V6_NEAR_STEPS.start() {
                self.wide.push((v6::key(high, length), class));
            } else {
                let net = (high >> 32) as u32;
                if self.nets.last() != Some(&net) {
                    self.nets.push(net);
                }
                if V6_NEAR_STEPS.contains(&step) {
                    self.near.push((v6::key(high, length), class));
                } else {
                    self.long.push((long::key(high, low, length), class));
                }
            }
        }
        let words = self.words();
        if words > u64::from(TABLE_WORDS_MAX) * 2 {
            return Err(CompileError::Size { bytes: words * 8, bytes_max: u64::from(TABLE_WORDS_MAX) * 8 });
        }
        Ok(())
    }

    fn bits(&self) -> u64 {
        match self.nets.len() as u64 {
            0 => 0,
            nets => (nets * BITS_PER_NET).next_power_of_two().clamp(64, BITS_MAX),
        }
    }

    /// Buckets of the near, wide and long tables.
    fn buckets(&self) -> [u64; 3] {
        [
            Region::buckets_for::<v6::Format>(self.near.len() as u64),
            Region::buckets_for::<v6::Format>(self.wide.len() as u64),
            Region::buckets_for::<long::Format>(self.long.len() as u64),
        ]
    }

    pub(super) fn words(&self) -> u64 {
        lines(self.bits() / 64) + self.buckets().iter().sum::<u64>() * u64::from(table::LINE_WORDS)
    }

    /// Fills the regions from `offset`. `false`: the seed is bad.
    pub(super) fn write(&self, words: &mut [u64], offset: u32, seed: u64) -> bool {
        let mut end = offset + lines(self.bits() / 64) as u32;
        let [near, wide, long] = self.buckets().map(|buckets| {
            let region = Region { offset: end, buckets: buckets as u32 };
            end += region.buckets * table::LINE_WORDS;
            region
        });
        let mask = self.bits().saturating_sub(1) as u32;
        words[header::V6_LENGTHS as usize] = self.lengths;
        words[header::V6_BITMAP as usize] = halves(offset, mask);
        words[header::V6_NEAR as usize] = near.header();
        words[header::V6_WIDE as usize] = wide.header();
        words[header::V6_LONG as usize] = long.header();
        for net in &self.nets {
            let bit = v6::bit_of(u64::from(*net) << 32, seed) & mask;
            words[(offset + bit / 64) as usize] |= 1 << (bit % 64);
        }
        near.insert_all::<v6::Format>(words, seed, &self.near)
            && wide.insert_all::<v6::Format>(words, seed, &self.wide)
            && long.insert_all::<long::Format>(words, seed, &self.long)
    }
}
