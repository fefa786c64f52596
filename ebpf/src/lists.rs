//! Asks the current generation of the lists, with the lookup of `abi` over the map's words.

use abi::Verdict;
use abi::door::{Counter, bench_source4, bench_source6};
use abi::table::{Line, Words, verdict4 as find4, verdict6 as find6};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;

use crate::maps::LISTS;
use crate::tally;

/// Words of the inner map, less one; a power of two. Set by the loader, and a constant to the verifier.
#[unsafe(no_mangle)]
static TABLE_MASK: u32 = (1 << 24) - 1;

/// For the bench: 0 takes the packet's source, 1 draws any, 2 draws one of a list of `DRAW_MASK + 1`, 3 draws any and asks
/// nobody about it.
#[unsafe(no_mangle)]
static DRAW: u32 = 0;
#[unsafe(no_mangle)]
static DRAW_MASK: u32 = 0;

/// A constant that the loader may have changed.
#[inline(always)]
fn constant(value: &'static u32) -> u32 {
    // SAFETY: a reference; volatile, because the compiler must not know the value.
    unsafe { core::ptr::read_volatile(value) }
}

/// A generation, in one value of a map.
struct Generation {
    words: *const u64,
}

impl Generation {
    /// One slot, read once: all a packet asks is answered by one generation.
    #[inline(always)]
    fn current() -> Option<Self> {
        Some(Self { words: LISTS.get(0)?.get_ptr(0)?.cast() })
    }
}

impl Words for Generation {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        // SAFETY: the mask keeps the index within the value, which the verifier checks.
        unsafe { *self.words.add((index & constant(&TABLE_MASK)) as usize) }
    }

    #[inline(always)]
    fn line(&self, index: u32) -> &Line {
        // SAFETY: the same; eight words from a multiple of eight are within a power of two of them.
        unsafe { &*self.words.add((index & constant(&TABLE_MASK) & !7) as usize).cast() }
    }
}

#[inline(always)]
pub fn verdict4(addr: u32) -> Verdict {
    match Generation::current() {
        Some(words) => find4(&words, addr),
        None => none(),
    }
}

#[inline(always)]
pub fn verdict6(high: u64, low: u64) -> Verdict {
    Verdict::unpack(lists6(high, low))
}

/// A function of its own for the verifier, which looks at it once and not again for each way through its caller. Its
/// name is exported by the build, or it would not be such a function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lists6(high: u64, low: u64) -> u64 {
    match Generation::current() {
        Some(words) => find6(&words, high, low).pack(),
        None => none().pack(),
    }
}

/// Without lists nobody is on one.
#[inline(always)]
fn none() -> Verdict {
    tally::count(Counter::NoTable.index(), 0);
    Verdict::PASS
}

/// The source to judge: the packet's, unless the bench asks for others.
#[inline(always)]
pub fn drawn4(addr: u32) -> u32 {
    match constant(&DRAW) {
        0 => addr,
        1 | 3 => random(),
        _ => bench_source4(random() & constant(&DRAW_MASK)),
    }
}

#[inline(always)]
pub fn drawn6(high: u64) -> u64 {
    match constant(&DRAW) {
        0 => high,
        1 | 3 => bench_source6(random() as u64 | 1 << 40),
        _ => bench_source6((random() & constant(&DRAW_MASK)) as u64),
    }
}

#[inline(always)]
pub fn asks_nobody() -> bool {
    constant(&DRAW) == 3
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: a helper without conditions.
    unsafe { bpf_get_prandom_u32() }
}
