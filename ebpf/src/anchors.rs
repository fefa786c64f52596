//! What `cargo xtask bench xdp` holds the door against: an empty program, the same with a random number, and the kernel's
//! own maps asked for the same sources as the door. Never part of the gateway.
#![no_std]
#![no_main]

#[path = "frame.rs"]
#[expect(dead_code, reason = "only what finds a source")]
mod frame;

use abi::door::{bench_source4, bench_source6};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;

/// Sources are drawn from a list of so many, less one, or from anywhere.
#[unsafe(no_mangle)]
static DRAW_MASK: u32 = 0;
#[unsafe(no_mangle)]
static DRAW_ANY: u32 = 0;
/// Nanoseconds from one packet of a flood to the next.
#[unsafe(no_mangle)]
static GAP_NANOS: u32 = 0;

/// The loader says how many entries each has.
#[map]
static LPM4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(1, 1);
#[map]
static LPM6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(1, 1);
#[map]
static HASH4: HashMap<u32, u64> = HashMap::with_max_entries(1, 0);
#[map]
static LRU4: LruHashMap<u32, [u64; 2]> = LruHashMap::with_max_entries(1, 0);
#[map]
static COUNT: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);
/// Of a flood on this CPU: when the next packet is due, and how many there were.
#[map]
static FLOOD: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn constant(value: &'static u32) -> u32 {
    // SAFETY: a reference; volatile, because the loader may have changed it.
    unsafe { core::ptr::read_volatile(value) }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: a helper without conditions.
    unsafe { bpf_get_prandom_u32() }
}

#[inline(always)]
fn source4() -> u32 {
    if constant(&DRAW_ANY) != 0 { random() } else { bench_source4(random() & constant(&DRAW_MASK)) }
}

#[inline(always)]
fn source6() -> [u32; 4] {
    let high = if constant(&DRAW_ANY) != 0 {
        bench_source6(random() as u64 | 1 << 40)
    } else {
        bench_source6((random() & constant(&DRAW_MASK)) as u64)
    };
    [((high >> 32) as u32).to_be(), (high as u32).to_be(), 0, 0]
}

/// Finds source and headers as the door does: whoever asks a map for a source has to know it first.
#[inline(always)]
fn parse(context: &XdpContext) -> bool {
    let Ok(frame) = frame::Frame::read(context) else { return false };
    let upper = match frame.network {
        frame::Network::V4(_) => frame.upper4(context),
        frame::Network::V6(..) => frame.upper6(context),
    };
    upper.state == frame::State::Whole
}

/// As much as the door does for a packet it turns away.
#[inline(always)]
fn drop() -> u32 {
    if let Some(pair) = COUNT.get_ptr_mut(0) {
        // SAFETY: this CPU's own pair.
        unsafe {
            (*pair)[0] += 1;
            (*pair)[1] += 64;
        }
    }
    XDP_DROP
}

#[xdp]
pub fn empty(_: XdpContext) -> u32 {
    XDP_PASS
}

#[xdp]
pub fn empty_random(_: XdpContext) -> u32 {
    if random() == 0xdead_beef { XDP_DROP } else { XDP_PASS }
}

#[xdp]
pub fn lpm4(context: XdpContext) -> u32 {
    if !parse(&context) {
        return XDP_PASS;
    }
    if LPM4.get(Key::new(32, source4().to_be())).is_some() { drop() } else { XDP_PASS }
}

#[xdp]
pub fn lpm6(context: XdpContext) -> u32 {
    if !parse(&context) {
        return XDP_PASS;
    }
    if LPM6.get(Key::new(128, source6())).is_some() { drop() } else { XDP_PASS }
}

#[xdp]
pub fn hash4(context: XdpContext) -> u32 {
    if !parse(&context) {
        return XDP_PASS;
    }
    // SAFETY: nobody removes while the bench runs.
    if unsafe { HASH4.get(&source4()) }.is_some() { drop() } else { XDP_PASS }
}

/// A token bucket for each source in the map that forgets: what most programs limit rates with.
#[xdp]
pub fn lru4(context: XdpContext) -> u32 {
    if !parse(&context) {
        return XDP_PASS;
    }
    const COST: u64 = 20_000_000;
    const FULL: u64 = 200 * COST;
    let source = source4();
    // SAFETY: a helper without conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(bucket) = LRU4.get_ptr_mut(&source) else {
        _ = LRU4.insert(&source, &[FULL - COST, now], 0);
        return XDP_PASS;
    };
    // SAFETY: a lost race between CPUs costs a token.
    unsafe {
        let [tokens, last] = *bucket;
        let tokens = (tokens + (now - last)).min(FULL);
        if tokens < COST {
            *bucket = [tokens, now];
            return drop();
        }
        *bucket = [tokens - COST, now];
    }
    XDP_PASS
}

/// Sends every frame back: with live frames, a generator.
#[xdp]
pub fn reflect(_: XdpContext) -> u32 {
    XDP_TX
}

/// The same at an even rate, and from another source of the list each time, so that who is denied is not one cache line. What
/// is not due yet is taken back, so that the kernel tries it again. The frame has to be IPv4 without options; its checksum is
/// made good.
#[xdp]
pub fn flood(context: XdpContext) -> u32 {
    const HEADER: usize = 14;
    const HALVES: usize = 10;
    /// Packets that may come at once after the CPU was somebody else's.
    const LATE: u64 = 64;
    let Some(pace) = FLOOD.get_ptr_mut(0) else { return XDP_DROP };
    let gap = u64::from(constant(&GAP_NANOS));
    // SAFETY: a helper without conditions, and this CPU's own pair.
    unsafe {
        let now = bpf_ktime_get_ns();
        let due = (*pace)[0];
        if now < due {
            return XDP_DROP;
        }
        let earliest = now - gap * LATE;
        *pace = [gap + if due > earliest { due } else { earliest }, (*pace)[1] + 1];
    }
    let (begin, end) = (context.data(), context.data_end());
    if begin + HEADER + HALVES * 2 > end {
        return XDP_DROP;
    }
    let header = (begin + HEADER) as *mut u16;
    let source = bench_source4(random() & constant(&DRAW_MASK));
    // SAFETY: the header's ten halves lie before the end, as was just compared; two bytes are aligned behind an even start.
    unsafe {
        header.add(5).write(0);
        header.add(6).write(((source >> 16) as u16).to_be());
        header.add(7).write((source as u16).to_be());
        let mut sum = 0_u32;
        for half in 0..HALVES {
            sum += u32::from(header.add(half).read());
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        header.add(5).write(!(sum as u16));
    }
    XDP_TX
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the door's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
