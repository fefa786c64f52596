//! One generation of address lists, compiled: a flat array of 64-bit words, and the lookup in it.
//!
//! ```text
//! word 0      header: layout, seed, where each region starts
//!    256      classes: the verdicts that occur, packed; a class is a number 1 to 253
//!    512      IPv4: 16 bits for each /12: 0 nothing there, 1..=255 one class for all of it, else chunk number + 256
//!   1536      a bitmap per chunk, one bit for each of its 4096 /24: something is there
//!             a byte per /24 of each chunk: its class, or `PAGE`, or `MIXED`
//!             buckets of eight slots, each for addresses of one class in a /28 (`MIXED`) or for a page (`PAGE`)
//!             pages: 256 class bytes for a /24 of many classes
//!             IPv6: a hashed bitmap of the /32s in which something is
//!             buckets of seven prefixes of length 32 to 64 (near), 0 to 28 (wide), and of three up to 128 (long)
//! ```
//! An IPv4 address costs one to four loads, an innocent one nearly always two. An IPv6 address costs one load when its /32
//! holds nothing, else one or two for each length present. Each bucket is one cache line; a key lies in one of two
//! buckets, and the second is looked at only if the first says that a key of its own had to go there.
//!
//! The lookup never fails and never leaves the array: whatever the words say, [`Words`] answers every index.

use crate::hash::{mix, mix2};
use crate::verdict::Verdict;

/// First word: the letters, and [`crate::LAYOUT`].
pub const MAGIC: u64 = 0x6261_7761_6200_0000 | crate::LAYOUT as u64;

/// Words of the header, by index.
#[cfg_attr(not(feature = "std"), expect(dead_code, reason = "only the compiler writes all of them"))]
pub(crate) mod header {
    pub(crate) const MAGIC: u32 = 0;
    /// Names what was compiled: equal for equal entries, whatever their order.
    pub(crate) const GENERATION: u32 = 1;
    pub(crate) const SEED: u32 = 2;
    /// Words in use, header included.
    pub(crate) const USED: u32 = 3;
    /// Offset of the bitmaps | offset of the class bytes << 32.
    pub(crate) const V4_CHUNKS: u32 = 4;
    /// Offset of the buckets | number of buckets - 1 << 32; so are the others with buckets. 0: no buckets.
    pub(crate) const V4_BUCKETS: u32 = 5;
    /// Offset of the pages.
    pub(crate) const V4_PAGES: u32 = 6;
    /// Lengths that occur, in steps of four: bit 0 is /0, bit 32 is /128.
    pub(crate) const V6_LENGTHS: u32 = 7;
    /// Offset of the bitmap | its bits - 1 << 32.
    pub(crate) const V6_BITMAP: u32 = 8;
    pub(crate) const V6_NEAR: u32 = 9;
    pub(crate) const V6_WIDE: u32 = 10;
    pub(crate) const V6_LONG: u32 = 11;
    /// Entries compiled.
    pub(crate) const ENTRIES: u32 = 12;
}

pub(crate) const CLASSES: u32 = 256;
pub(crate) const V4_TOP: u32 = 512;
/// Where the regions of variable size begin.
#[cfg(feature = "std")]
pub(crate) const REGIONS: u32 = 1536;

/// Classes are 1 to 253.
#[cfg(feature = "std")]
pub(crate) const CLASSES_MAX: u8 = 253;
/// As the byte of a /24: its bucket holds the number of a page.
pub(crate) const PAGE: u8 = 254;
/// As the byte of a /24: the addresses that are listed lie in the buckets of their /28s.
pub(crate) const MIXED: u8 = 255;

/// Words of bitmap and of class bytes in a chunk, of a page, of a bucket.
pub(crate) const CHUNK_BITMAP_WORDS: u32 = 64;
pub(crate) const CHUNK_CLASS_WORDS: u32 = 512;
pub(crate) const PAGE_WORDS: u32 = 32;
pub(crate) const LINE_WORDS: u32 = 8;

/// The lengths of IPv6 prefixes are multiples of this; others are spread over the next longer one.
pub(crate) const V6_STEP: u32 = 4;
/// Lengths of the near table, as numbers of steps: /32 to /64.
pub(crate) const V6_NEAR_STEPS: core::ops::RangeInclusive<u32> = 8..=16;

/// A bucket's slots and the flag that a key of its own lies in the other bucket.
pub type Line = [u64; 8];

/// An array of words that answers for every index: beyond its end there is nothing, 0.
pub trait Words {
    fn word(&self, index: u32) -> u64;

    /// The eight words from `index`, which is a multiple of eight.
    fn line(&self, index: u32) -> &Line;
}

impl Words for [u64] {
    #[inline]
    fn word(&self, index: u32) -> u64 {
        self.get(index as usize).copied().unwrap_or(0)
    }

    #[inline]
    fn line(&self, index: u32) -> &Line {
        const NOTHING: Line = [0; 8];
        self.get(index as usize..).and_then(|rest| rest.first_chunk()).unwrap_or(&NOTHING)
    }
}

/// The verdict for an IPv4 address, as a number (`192.0.2.1` is 0xc000_0201).
#[inline(always)]
pub fn verdict4<W: Words + ?Sized>(words: &W, addr: u32) -> Verdict {
    match class4(words, addr) {
        0 => Verdict::PASS,
        class => verdict_of(words, class),
    }
}

/// The verdict for an IPv6 address, as the numbers of its two halves. IPv4-mapped addresses mean nothing special here.
#[inline(always)]
pub fn verdict6<W: Words + ?Sized>(words: &W, high: u64, low: u64) -> Verdict {
    match class6(words, high, low) {
        0 => Verdict::PASS,
        class => verdict_of(words, class),
    }
}

#[inline(always)]
fn verdict_of<W: Words + ?Sized>(words: &W, class: u8) -> Verdict {
    Verdict::unpack(words.word(CLASSES + class as u32))
}

/// Two numbers in a word of the header.
#[inline(always)]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[inline(always)]
fn class4<W: Words + ?Sized>(words: &W, addr: u32) -> u8 {
    let top = addr >> 20;
    let chunk = (words.word(V4_TOP + (top >> 2)) >> ((top & 3) * 16)) as u32 & 0xffff;
    if chunk < 256 {
        return chunk as u8;
    }
    let chunk = chunk - 256;
    let (bitmaps, classes) = halves(words.word(header::V4_CHUNKS));
    let net = (addr >> 8) & 0xfff;
    let bitmap = words.word(bitmaps.wrapping_add(chunk * CHUNK_BITMAP_WORDS + (net >> 6)));
    if (bitmap >> (net & 63)) & 1 == 0 {
        return 0;
    }
    let class = words.word(classes.wrapping_add(chunk * CHUNK_CLASS_WORDS + (net >> 3))) >> ((net & 7) * 8);
    match class as u8 {
        MIXED => find::<v4::Format, W>(words, header::V4_BUCKETS, &v4::host(addr)) as u8,
        PAGE => {
            let page = find::<v4::Format, W>(words, header::V4_BUCKETS, &v4::whole(addr));
            let at = (words.word(header::V4_PAGES) as u32).wrapping_add(page.wrapping_sub(1).wrapping_mul(PAGE_WORDS));
            let byte = addr & 0xff;
            (words.word(at.wrapping_add(byte >> 3)) >> ((byte & 7) * 8)) as u8
        }
        class => class,
    }
}

#[inline(always)]
fn class6<W: Words + ?Sized>(words: &W, high: u64, low: u64) -> u8 {
    let lengths = words.word(header::V6_LENGTHS);
    if lengths == 0 {
        return 0;
    }
    // Longest first: each prefix carries what all shorter ones that hold it say as well.
    let (bitmap, mask) = halves(words.word(header::V6_BITMAP));
    let bit = v6::bit_of(high, words.word(header::SEED)) & mask;
    if (words.word(bitmap.wrapping_add(bit >> 6)) >> (bit & 63)) & 1 != 0 {
        let class = long6(words, lengths, high, low);
        if class != 0 {
            return class;
        }
        let mut step = *V6_NEAR_STEPS.end();
        while step >= *V6_NEAR_STEPS.start() {
            if (lengths >> step) & 1 != 0 {
                let class = find::<v6::Format, W>(words, header::V6_NEAR, &v6::key(high, step * V6_STEP)) as u8;
                if class != 0 {
                    return class;
                }
            }
            step -= 1;
        }
    }
    let mut step = *V6_NEAR_STEPS.start();
    while step > 0 && lengths & 0xff != 0 {
        step -= 1;
        if (lengths >> step) & 1 != 0 {
            let class = find::<v6::Format, W>(words, header::V6_WIDE, &v6::key(high, step * V6_STEP)) as u8;
            if class != 0 {
                return class;
            }
        }
    }
    0
}

#[inline(always)]
fn long6<W: Words + ?Sized>(words: &W, lengths: u64, high: u64, low: u64) -> u8 {
    let mut step = 32;
    while step > *V6_NEAR_STEPS.end() && lengths >> (*V6_NEAR_STEPS.end() + 1) != 0 {
        if (lengths >> step) & 1 != 0 {
            let class = find::<long::Format, W>(words, header::V6_LONG, &long::key(high, low, step * V6_STEP)) as u8;
            if class != 0 {
                return class;
            }
        }
        step -= 1;
    }
    0
}

/// Looks a key up in the buckets that `region` of the header names. 0: it is not there.
#[inline(always)]
fn find<F: Buckets, W: Words + ?Sized>(words: &W, region: u32, key: &F::Key) -> u32 {
    let (offset, mask) = halves(words.word(region));
    let hash = F::hash(key, words.word(header::SEED));
    let (first, second) = choices(hash, mask);
    let line = words.line(offset.wrapping_add(first.wrapping_mul(LINE_WORDS)));
    let value = F::find(line, key);
    // Looked at in this order, so that a line that says nothing costs no more.
    if value != 0 || !F::overflows(line) {
        return value;
    }
    F::find(words.line(offset.wrapping_add(second.wrapping_mul(LINE_WORDS))), key)
}

/// The two buckets of a hash. They may be the same.
#[inline(always)]
pub(crate) fn choices(hash: u64, mask: u32) -> (u32, u32) {
    (hash as u32 & mask, (hash >> 32) as u32 & mask)
}

/// How keys lie in the line of a bucket. The reading half serves both sides, the writing half the compiler.
pub(crate) trait Buckets {
    type Key: Copy + PartialEq;
    #[cfg(feature = "std")]
    const SLOTS: usize;
    /// Keys that two buckets hold on average at most, so that both choices are hardly ever full.
    #[cfg(feature = "std")]
    const KEYS_IN_TWO: u64;
    /// No key comes twice.
    #[cfg(feature = "std")]
    const UNIQUE: bool;

    fn hash(key: &Self::Key, seed: u64) -> u64;
    /// The value of a key that lies here, else 0.
    fn find(line: &Line, key: &Self::Key) -> u32;
    /// Whether a key whose first choice this is lies in its second.
    fn overflows(line: &Line) -> bool;

    #[cfg(feature = "std")]
    fn slot(line: &Line, slot: usize) -> Option<(Self::Key, u32)>;
    #[cfg(feature = "std")]
    fn put(line: &mut Line, slot: usize, key: Self::Key, value: u32);
    #[cfg(feature = "std")]
    fn mark_overflow(line: &mut Line);
}

/// Eight slots, each for addresses of one class within a /28: which /28 in bits 36 to 63, a bit for each of its addresses
/// from bit 20, whole << 19, overflow << 18 (of slot 0 only), and the value in 18 bits, 0 for an empty slot.
pub(crate) mod v4 {
    use super::{Line, mix};

    pub(crate) struct Format;

    /// Some addresses of a /28. `whole`: the page of a /24, by its first /28.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Key {
        pub(crate) net28: u32,
        pub(crate) addresses: u16,
        pub(crate) whole: bool,
    }

    const WHOLE_BIT: u64 = 1 << 19;
    const OVERFLOW_BIT: u64 = 1 << 18;
    pub(crate) const VALUE_MAX: u64 = OVERFLOW_BIT - 1;

    #[inline(always)]
    pub(crate) fn host(addr: u32) -> Key {
        Key { net28: addr >> 4, addresses: 1 << (addr & 15), whole: false }
    }

    #[inline(always)]
    pub(crate) fn whole(addr: u32) -> Key {
        Key { net28: (addr >> 8) << 4, addresses: u16::MAX, whole: true }
    }

    impl super::Buckets for Format {
        type Key = Key;
        #[cfg(feature = "std")]
        const SLOTS: usize = 8;
        #[cfg(feature = "std")]
        const KEYS_IN_TWO: u64 = 13;
        #[cfg(feature = "std")]
        const UNIQUE: bool = true;

        #[inline(always)]
        fn hash(key: &Key, seed: u64) -> u64 {
            mix((key.net28 as u64 | (key.whole as u64) << 32) ^ seed)
        }

        #[inline(always)]
        fn find(line: &Line, key: &Key) -> u32 {
            let net = (key.net28 as u64) << 36 | if key.whole { WHOLE_BIT } else { 0 };
            let addresses = (key.addresses as u64) << 20;
            let mut slot = 0;
            while slot < 8 {
                let word = line[slot];
                // One comparison for which /28 and of which kind, one for the address.
                if (word ^ net) & (0xfff_ffff << 36 | WHOLE_BIT) == 0 && word & addresses != 0 {
                    return (word & VALUE_MAX) as u32;
                }
                slot += 1;
            }
            0
        }

        #[inline(always)]
        fn overflows(line: &Line) -> bool {
            line[0] & OVERFLOW_BIT != 0
        }

        #[cfg(feature = "std")]
        fn slot(line: &Line, slot: usize) -> Option<(Key, u32)> {
            let word = line[slot];
            let key = Key { net28: (word >> 36) as u32, addresses: (word >> 20) as u16, whole: word & WHOLE_BIT != 0 };
            (word & VALUE_MAX != 0).then_some((key, (word & VALUE_MAX) as u32))
        }

        #[cfg(feature = "std")]
        fn put(line: &mut Line, slot: usize, key: Key, value: u32) {
            let whole = if key.whole { WHOLE_BIT } else { 0 };
            line[slot] = (line[slot] & OVERFLOW_BIT)
                | u64::from(key.net28) << 36
                | u64::from(key.addresses) << 20
                | whole
                | (u64::from(value) & VALUE_MAX);
        }

        #[cfg(feature = "std")]
        fn mark_overflow(line: &mut Line) {
            line[0] |= OVERFLOW_BIT;
        }
    }
}

/// Word 0: a class byte for each of seven slots, then seven bits `exact` and the overflow bit. Words 1 to 7: the keys.
pub(crate) mod v6 {
    use super::{Line, mix};

    pub(crate) struct Format;

    /// The first 64 bits of a prefix, and whether all of them count. Else the lowest bit set marks the length.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    pub(crate) struct Key {
        pub(crate) bits: u64,
        pub(crate) exact: bool,
    }

    const OVERFLOW_BIT: u64 = 1 << 63;

    /// The key of the prefix of `length` (0 to 64) that `high` lies in.
    #[inline(always)]
    pub(crate) fn key(high: u64, length: u32) -> Key {
        if length >= 64 {
            return Key { bits: high, exact: true };
        }
        let marker = (1 << 63) >> length;
        Key { bits: (high & !(marker | (marker - 1))) | marker, exact: false }
    }

    /// Which bit of the bitmap stands for the /32 that `high` lies in, before the mask.
    #[inline(always)]
    pub(crate) fn bit_of(high: u64, seed: u64) -> u32 {
        (mix((high >> 32) ^ seed) >> 8) as u32
    }

    impl super::Buckets for Format {
        type Key = Key;
        #[cfg(feature = "std")]
        const SLOTS: usize = 7;
        #[cfg(feature = "std")]
        const KEYS_IN_TWO: u64 = 8;
        #[cfg(feature = "std")]
        const UNIQUE: bool = false;

        #[inline(always)]
        fn hash(key: &Key, seed: u64) -> u64 {
            mix(key.bits ^ seed)
        }

        #[inline(always)]
        fn find(line: &Line, key: &Key) -> u32 {
            let mut slot = 0;
            while slot < 7 {
                let exact = (line[0] >> (56 + slot)) & 1 != 0;
                let class = (line[0] >> (slot * 8)) as u32 & 0xff;
                if line[slot + 1] == key.bits && exact == key.exact && class != 0 {
                    return class;
                }
                slot += 1;
            }
            0
        }

        #[inline(always)]
        fn overflows(line: &Line) -> bool {
            line[0] & OVERFLOW_BIT != 0
        }

        #[cfg(feature = "std")]
        fn slot(line: &Line, slot: usize) -> Option<(Key, u32)> {
            let class = (line[0] >> (slot * 8)) as u32 & 0xff;
            let key = Key { bits: line[slot + 1], exact: (line[0] >> (56 + slot)) & 1 != 0 };
            (class != 0).then_some((key, class))
        }

        #[cfg(feature = "std")]
        fn put(line: &mut Line, slot: usize, key: Key, value: u32) {
            line[0] &= !((0xff << (slot * 8)) | (1 << (56 + slot)));
            line[0] |= (u64::from(value & 0xff) << (slot * 8)) | (u64::from(key.exact) << (56 + slot));
            line[slot + 1] = key.bits;
        }

        #[cfg(feature = "std")]
        fn mark_overflow(line: &mut Line) {
            line[0] |= OVERFLOW_BIT;
        }
    }
}

/// Word 0: a class byte for each of three slots, three bits `exact` from bit 56, the overflow bit. From word 1: the keys.
pub(crate) mod long {
    use super::{Line, mix2};

    pub(crate) struct Format;

    /// A prefix longer than 64 bits; `exact` when it is an address, else the lowest bit set marks the length.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    pub(crate) struct Key {
        pub(crate) high: u64,
        pub(crate) low: u64,
        pub(crate) exact: bool,
    }

    const OVERFLOW_BIT: u64 = 1 << 63;

    /// The key of the prefix of `length` (65 to 128) that the address lies in.
    #[inline(always)]
    pub(crate) fn key(high: u64, low: u64, length: u32) -> Key {
        let super::v6::Key { bits, exact } = super::v6::key(low, length - 64);
        Key { high, low: bits, exact }
    }

    impl super::Buckets for Format {
        type Key = Key;
        #[cfg(feature = "std")]
        const SLOTS: usize = 3;
        #[cfg(feature = "std")]
        const KEYS_IN_TWO: u64 = 3;
        #[cfg(feature = "std")]
        const UNIQUE: bool = false;

        #[inline(always)]
        fn hash(key: &Key, seed: u64) -> u64 {
            mix2(key.high ^ seed, key.low)
        }

        #[inline(always)]
        fn find(line: &Line, key: &Key) -> u32 {
            let mut slot = 0;
            while slot < 3 {
                let exact = (line[0] >> (56 + slot)) & 1 != 0;
                let class = (line[0] >> (slot * 8)) as u32 & 0xff;
                if line[slot * 2 + 1] == key.high && line[slot * 2 + 2] == key.low && exact == key.exact && class != 0 {
                    return class;
                }
                slot += 1;
            }
            0
        }

        #[inline(always)]
        fn overflows(line: &Line) -> bool {
            line[0] & OVERFLOW_BIT != 0
        }

        #[cfg(feature = "std")]
        fn slot(line: &Line, slot: usize) -> Option<(Key, u32)> {
            let class = (line[0] >> (slot * 8)) as u32 & 0xff;
            let exact = (line[0] >> (56 + slot)) & 1 != 0;
            let key = Key { high: line[slot * 2 + 1], low: line[slot * 2 + 2], exact };
            (class != 0).then_some((key, class))
        }

        #[cfg(feature = "std")]
        fn put(line: &mut Line, slot: usize, key: Key, value: u32) {
            line[0] &= !((0xff << (slot * 8)) | (1 << (56 + slot)));
            line[0] |= (u64::from(value & 0xff) << (slot * 8)) | (u64::from(key.exact) << (56 + slot));
            line[slot * 2 + 1] = key.high;
            line[slot * 2 + 2] = key.low;
        }

        #[cfg(feature = "std")]
        fn mark_overflow(line: &mut Line) {
            line[0] |= OVERFLOW_BIT;
        }
    }
}
