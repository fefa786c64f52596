//! IPv4: overlapping prefixes become ranges that do not, and ranges become chunks, bytes, pages and buckets.

use std::vec::Vec;

use super::buckets::Region;
use super::layers::{Classes, Layer, Layers};
use super::{CompileError, TABLE_WORDS_MAX, halves};
use crate::table::{self, CHUNK_BITMAP_WORDS, CHUNK_CLASS_WORDS, MIXED, PAGE, PAGE_WORDS, V4_TOP, header, v4};

/// A /24 that needs more slots than this gets a page of 256 bytes: slots of half-empty buckets cost 16.
const SLOTS_MAX: usize = 16;
/// As does one with more slots than this in one /28: they all want the same two buckets.
const SLOTS_OF_NET28_MAX: usize = 6;

/// An entry as a number that sorts as the sweep wants it: by start, wider first, lower rules last.
pub(super) fn key(start: u32, length: u8, rule: u16, layer: Layer) -> u64 {
    u64::from(start) << 32 | u64::from(length) << 16 | u64::from(!rule & 0xfff) << 4 | layer as u64
}

/// Consecutive addresses of one class; `end` is beyond the last.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u32,
    end: u64,
    class: u8,
}

/// What goes where, before the seed is known.
pub(super) struct Plan {
    ranges: Vec<Range>,
    /// Numbers of the chunks by /12, `None` where one class or nothing fills it.
    chunk_of: Vec<Option<u16>>,
    chunks: u32,
    /// The pieces of each /24 that is a page.
    pages: Vec<Vec<Range>>,
    /// With their classes.
    slots: Vec<(v4::Key, u32)>,
    buckets: u64,
}

impl Plan {
    pub(super) fn new(keys: &[u64], classes: &mut Classes) -> Result<Self, CompileError> {
        let ranges = ranges(keys, classes)?;
        let mut used = std::vec![false; 1 << 12];
        let mut mixed = Mixed { slots: Vec::with_capacity(ranges.len()), ..Mixed::default() };
        for range in &ranges {
            // Only the chunks at the ends can be shared with other ranges.
            for chunk in [u64::from(range.start) >> 20, (range.end - 1) >> 20] {
                let whole = u64::from(range.start) <= chunk << 20 && range.end >= (chunk + 1) << 20;
                used[chunk as usize] |= !whole;
            }
            let (head, tail) = ends(*range);
            head.into_iter().chain(tail).for_each(|part| mixed.add(part));
        }
        mixed.close();
        let Mixed { slots, pages, .. } = mixed;
        let mut chunks = 0;
        let number = |used: &bool| {
            used.then(|| {
                chunks += 1;
                chunks - 1
            })
        };
        let chunk_of = used.iter().map(number).collect();
        if pages.len() as u64 > v4::VALUE_MAX {
            let bytes = pages.len() as u64 * u64::from(PAGE_WORDS) * 8;
            return Err(CompileError::Size { bytes, bytes_max: u64::from(TABLE_WORDS_MAX) * 8 });
        }
        let buckets = Region::buckets_for::<v4::Format>((slots.len() + pages.len()) as u64);
        Ok(Self { ranges, chunk_of, chunks: u32::from(chunks), pages, slots, buckets })
    }

    pub(super) fn words(&self) -> u64 {
        u64::from(self.chunks * (CHUNK_BITMAP_WORDS + CHUNK_CLASS_WORDS))
            + self.pages.len() as u64 * u64::from(PAGE_WORDS)
            + self.buckets * u64::from(table::LINE_WORDS)
    }

    /// Fills the regions from `offset`. `false`: the seed is bad.
    pub(super) fn write(&self, words: &mut [u64], offset: u32, seed: u64) -> bool {
        let bitmaps = offset;
        let class_bytes = bitmaps + self.chunks * CHUNK_BITMAP_WORDS;
        let pages = class_bytes + self.chunks * CHUNK_CLASS_WORDS;
        let buckets = Region { offset: pages + self.pages.len() as u32 * PAGE_WORDS, buckets: self.buckets as u32 };
        words[header::V4_CHUNKS as usize] = halves(bitmaps, class_bytes);
        words[header::V4_PAGES as usize] = u64::from(pages);
        words[header::V4_BUCKETS as usize] = buckets.header();

        for (chunk, number) in self.chunk_of.iter().enumerate() {
            if let Some(number) = number {
                set_top(words, chunk, number + 256);
            }
        }
        for range in &self.ranges {
            self.write_whole(words, bitmaps, class_bytes, *range);
        }
        let mut of_pages = Vec::with_capacity(self.pages.len());
        for (number, net) in self.pages.iter().enumerate() {
            self.set_net(words, bitmaps, class_bytes, net[0].start >> 8, PAGE);
            for (addr, class) in addresses(net) {
                set_byte(words, pages + number as u32 * PAGE_WORDS, addr & 0xff, class);
            }
            of_pages.push((v4::whole(net[0].start), number as u32 + 1));
        }
        for slots in self.slots.chunk_by(|(one, _), (other, _)| one.net28 >> 4 == other.net28 >> 4) {
            self.set_net(words, bitmaps, class_bytes, slots[0].0.net28 >> 4, MIXED);
        }
        buckets.insert_all::<v4::Format>(words, seed, &of_pages)
            && buckets.insert_all::<v4::Format>(words, seed, &self.slots)
    }

    /// The /24s and /12s that lie whole in a range.
    fn write_whole(&self, words: &mut [u64], bitmaps: u32, class_bytes: u32, range: Range) {
        let first = u64::from(range.start).div_ceil(256) as u32;
        let end = (range.end >> 8) as u32;
        let mut net = first;
        while net < end {
            match self.chunk_of[(net >> 12) as usize] {
                Some(_) => {
                    self.set_net(words, bitmaps, class_bytes, net, range.class);
                    net += 1;
                }
                None => {
                    set_top(words, (net >> 12) as usize, u16::from(range.class));
                    net += 1 << 12;
                }
            }
        }
    }

    fn set_net(&self, words: &mut [u64], bitmaps: u32, class_bytes: u32, net: u32, class: u8) {
        let chunk = u32::from(self.chunk_of[(net >> 12) as usize].expect("a chunk that is not of one class"));
        let net = net & 0xfff;
        words[(bitmaps + chunk * CHUNK_BITMAP_WORDS + (net >> 6)) as usize] |= 1 << (net & 63);
        set_byte(words, class_bytes + chunk * CHUNK_CLASS_WORDS, net, class);
    }
}

/// Sweeps over the address space with the stack of prefixes that hold the current address.
fn ranges(keys: &[u64], classes: &mut Classes) -> Result<Vec<Range>, CompileError> {
    struct Frame {
        end: u64,
        layers: Layers,
        class: u8,
    }
    let mut ranges: Vec<Range> = Vec::with_capacity(keys.len());
    let mut stack: Vec<Frame> = Vec::new();
    let mut done = 0_u64;
    let mut until = |done: &mut u64, end: u64, class: u8| {
        if *done < end {
            match ranges.last_mut() {
                Some(last) if last.end == *done && last.class == class => last.end = end,
                _ => ranges.push(Range { start: *done as u32, end, class }),
            }
            *done = end;
        }
    };
    for key in keys {
        let start = key >> 32;
        let length = (key >> 16) as u32 & 0xff;
        let rule = !(key >> 4) as u16 & 0xfff;
        while let Some(top) = stack.pop_if(|top| top.end <= start) {
            until(&mut done, top.end, top.class);
        }
        let mut layers = Layers::default();
        if let Some(top) = stack.last() {
            until(&mut done, start, top.class);
            layers = top.layers;
        }
        done = start;
        let layers = layers.with(Layer::from_bits(*key), rule);
        stack.push(Frame { end: start + (1 << (32 - length)), layers, class: classes.number(layers)? });
    }
    while let Some(top) = stack.pop() {
        until(&mut done, top.end, top.class);
    }
    Ok(ranges)
}

/// The pieces of a range before its first whole /24 and after its last.
fn ends(range: Range) -> (Option<Range>, Option<Range>) {
    let start = u64::from(range.start);
    let (whole_start, whole_end) = (start.next_multiple_of(256), range.end & !0xff);
    let piece = |start: u64, end: u64| (start < end).then_some(Range { start: start as u32, end, class: range.class });
    if whole_start > whole_end {
        // Within one /24.
        return (piece(start, range.end), None);
    }
    (piece(start, whole_start), piece(whole_end, range.end))
}

/// The /24s that are not of one class, as they come: the slots of each, or its parts as a page.
#[derive(Default)]
struct Mixed {
    slots: Vec<(v4::Key, u32)>,
    pages: Vec<Vec<Range>>,
    /// The parts of the /24 that is being read, and where its slots begin.
    parts: Vec<Range>,
    begin: usize,
}

impl Mixed {
    /// Cuts a part at the borders of /28s, and joins what is of one class there.
    fn add(&mut self, part: Range) {
        if self.parts.last().is_some_and(|last| last.start >> 8 != part.start >> 8) {
            self.close();
        }
        self.parts.push(part);
        let (mut start, end) = (u64::from(part.start), part.end);
        let class = u32::from(part.class);
        while start < end {
            let stop = end.min((start | 15) + 1);
            let addresses = (((1_u32 << (stop - start)) - 1) << (start & 15)) as u16;
            let net28 = (start >> 4) as u32;
            // Addresses come in order, so that the slots of this /28 are the last ones.
            let mut of_net28 = self.slots[self.begin..].iter_mut().rev().take_while(|(key, _)| key.net28 == net28);
            match of_net28.find(|(_, held)| *held == class) {
                Some((key, _)) => key.addresses |= addresses,
                None => self.slots.push((v4::Key { net28, addresses, whole: false }, class)),
            }
            start = stop;
        }
    }

    /// The /24 is read: its slots are kept, or it is a page instead.
    fn close(&mut self) {
        let slots = &self.slots[self.begin..];
        let of_net28 = slots.chunk_by(|(one, _), (other, _)| one.net28 == other.net28).map(<[_]>::len).max();
        if slots.len() > SLOTS_MAX || of_net28.is_some_and(|count| count > SLOTS_OF_NET28_MAX) {
            self.slots.truncate(self.begin);
            self.pages.push(std::mem::take(&mut self.parts));
        }
        self.parts.clear();
        self.begin = self.slots.len();
    }
}

fn addresses(net: &[Range]) -> impl Iterator<Item = (u32, u8)> {
    net.iter().flat_map(|part| (u64::from(part.start)..part.end).map(|addr| (addr as u32, part.class)))
}

fn set_top(words: &mut [u64], chunk: usize, value: u16) {
    words[V4_TOP as usize + chunk / 4] |= u64::from(value) << (chunk % 4 * 16);
}

fn set_byte(words: &mut [u64], offset: u32, index: u32, class: u8) {
    words[(offset + index / 8) as usize] |= u64::from(class) << (index % 8 * 8);
}
