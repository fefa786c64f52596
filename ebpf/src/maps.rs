//! The maps. Their layout is `abi`'s; the loader pins them by these names.

use abi::door::{BANS_MAX, BanKey, BanValue, CELLS_COUNT, COUNTERS_COUNT, EVENTS_BYTES, config, flag};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array as InnerArray, ArrayOfMaps};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};

/// The words of a table are one value, so that one lookup gives all of them. The loader makes this map itself, as large
/// as the lists need; the size here is the largest.
#[btf_map]
pub static LISTS: ArrayOfMaps<InnerArray<[u64; 1 << 24], 1, { BPF_F_MMAPABLE as usize }>, 1> = ArrayOfMaps::new();

/// Preallocated: a ban never waits for memory, and none is dropped for another.
#[map]
pub static BANS: HashMap<BanKey, BanValue> = HashMap::with_max_entries(BANS_MAX, 0);

#[map]
pub static CELLS: Array<[u64; CELLS_COUNT as usize]> = Array::with_max_entries(1, 0);

#[map]
pub static GOVERNOR: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(COUNTERS_COUNT, 0);

#[map]
pub static CONFIG: Array<[u64; config::WORDS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// The configuration as user space has it at this moment. A word is read whole.
#[derive(Clone, Copy)]
pub struct Config {
    words: *const u64,
}

impl Config {
    #[inline(always)]
    pub fn of_door() -> Option<Self> {
        Some(Self { words: CONFIG.get_ptr(0)?.cast() })
    }

    /// `index` is a constant below `config::WORDS`: the verifier refuses anything else.
    #[inline(always)]
    pub fn word(&self, index: usize) -> u64 {
        // SAFETY: within the value, as the verifier proves for every call.
        unsafe { *self.words.add(index) }
    }

    /// Whether SYNs to this port are limited.
    #[inline(always)]
    pub fn protects(&self, port: u32) -> bool {
        let bits = self.word(config::PORTS + (port as usize >> 6 & 0x3ff));
        self.word(config::FLAGS) & flag::PORTS != 0 && bits >> (port & 63) & 1 != 0
    }
}
