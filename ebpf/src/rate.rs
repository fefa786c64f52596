//! The SYN limits: cells of a fixed array, no insertion, no eviction, no lock. A lost race between CPUs admits one more.

use abi::door::{CELL_SHIFT, Counter, Limit, cells_of, config, take};
use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::maps::{CELLS, Config, GOVERNOR};

/// Keeps cells of different widths apart.
const ADDRESS: u64 = 4;
const NET64: u64 = 64;
const NET48: u64 = 48;

/// Which counter refuses the packet; 0: none. So are the others.
#[inline(always)]
pub fn v4(config: &Config, addr: u32) -> u32 {
    let now = now();
    if refuses(config, config::SYN_V4, ADDRESS, addr as u64, now) {
        return Counter::SynV4.index();
    }
    governor(config, now)
}

#[inline(always)]
pub fn v6(config: &Config, high: u64) -> u32 {
    let now = now();
    if refuses(config, config::SYN_V6_64, NET64, high, now) {
        return Counter::SynV6Net64.index();
    }
    if refuses(config, config::SYN_V6_48, NET48, high >> 16, now) {
        return Counter::SynV6Net48.index();
    }
    governor(config, now)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without conditions.
    (unsafe { bpf_jiffies64() }) << CELL_SHIFT
}

#[inline(always)]
fn limit(config: &Config, at: usize) -> Limit {
    Limit { cost: config.word(at), burst: config.word(at + 1) }
}

/// Refused only if both cells of the source refuse: whoever shares one with a flood has the other. Both are charged, so a
/// source alone gets its rate and no more.
#[inline(always)]
fn refuses(config: &Config, at: usize, level: u64, bits: u64, now: u64) -> bool {
    let limit = limit(config, at);
    if limit.cost == 0 {
        return false;
    }
    let Some(cells) = CELLS.get_ptr_mut(0) else { return false };
    let cells: *mut u64 = cells.cast();
    let (first, second) = cells_of(config.word(config::SEED), level, bits);
    // SAFETY: `cells_of` masks both with the number of cells, which the verifier checks. Other CPUs write the same cells:
    // a word is read and written whole.
    unsafe {
        let (first, second) = (cells.add(first as usize), cells.add(second as usize));
        let (one, other) = (take(*first, now, limit), take(*second, now, limit));
        if let Some(one) = one {
            *first = one;
        }
        if let Some(other) = other {
            *second = other;
        }
        one.is_none() && other.is_none()
    }
}

/// What a CPU takes from all unknown sources together.
#[inline(always)]
fn governor(config: &Config, now: u64) -> u32 {
    let limit = limit(config, config::GOVERNOR);
    if limit.cost == 0 {
        return 0;
    }
    let Some(cell) = GOVERNOR.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own cell.
    match take(unsafe { *cell }, now, limit) {
        Some(next) => {
            // SAFETY: as above.
            unsafe { *cell = next };
            0
        }
        None => Counter::Governor.index(),
    }
}
