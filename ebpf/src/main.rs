//! The door in the kernel: the XDP program that turns unwanted packets away before a socket sees them.
//!
//! ```text
//! bypass → source address → lists: manage ─► in
//!                                  ban, deny ─► out (but for what the network itself needs)
//!                                  exempt ─► in
//!          → TCP SYN to a protected port → cells of the source → governor of this CPU ─► in or out
//! ```
//! What a source may is decided by its address alone and first: no tag, option, extension header, fragment or protocol
//! changes it. User space compiles all policy (`abi`); nothing here interprets a rule, allocates, or takes a lock.
//!
//! Each file has one part: [`frame`] finds the headers, [`lists`] asks the table, [`rate`] keeps the cells, [`maps`] are
//! the maps, [`tally`] counts and samples.
#![no_std]
#![no_main]

mod frame;
mod lists;
mod maps;
mod rate;
mod tally;

use abi::Action;
use abi::door::{BAN_SOFT, BanKey, Counter, ban_key4, config, flag};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use frame::{Frame, Network, Upper};
use maps::{BANS, Config};
use tally::Packet;

/// For drivers that hand over a packet in pieces, and all others.
#[xdp(frags)]
pub fn door(context: XdpContext) -> u32 {
    enter::<true>(&context)
}

/// The same for kernels and drivers that refuse the other.
#[xdp]
pub fn door_whole(context: XdpContext) -> u32 {
    enter::<false>(&context)
}

/// Run by the gateway itself, never attached: writes the kernel's jiffies and monotonic nanoseconds into the packet, so
/// that user space can name a moment as this program counts it.
#[xdp]
pub fn clock(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + 16 <= end {
        // SAFETY: 16 bytes from `start` are within the packet.
        unsafe {
            (start as *mut u64).write_unaligned(bpf_jiffies64());
            ((start + 8) as *mut u64).write_unaligned(bpf_ktime_get_ns());
        }
    }
    XDP_PASS
}

#[inline(always)]
fn enter<const FRAGS: bool>(context: &XdpContext) -> u32 {
    let Some(config) = Config::of_door() else { return XDP_PASS };
    if config.word(config::BYPASS) != 0 {
        tally::count(Counter::Bypassed.index(), tally::bytes::<FRAGS>(context));
        return XDP_PASS;
    }
    let packet = Packet::<FRAGS> { context, config };
    let frame = match Frame::read(context) {
        Ok(frame) => frame,
        Err(counter) => return packet.unread(counter),
    };
    match frame.network {
        Network::V4(addr) => judge4(&packet, &frame, addr),
        Network::V6(high, low) => judge6(&packet, &frame, high, low),
    }
}

#[inline(always)]
fn judge4<const FRAGS: bool>(packet: &Packet<'_, FRAGS>, frame: &Frame, addr: u32) -> u32 {
    let addr = lists::drawn4(addr);
    if lists::asks_nobody() {
        return parsed(frame.upper4(packet.context), addr as u64);
    }
    let verdict = lists::verdict4(addr);
    if verdict.action == Action::Manage {
        return packet.listed(verdict.rule);
    }
    let upper = frame.upper4(packet.context);
    let source = [0, 0xffff_0000_0000 | addr as u64];
    let ban = if packet.config.word(config::BANS) == 0 { 0 } else { ban(&ban_key4(addr)) };
    if is_hard(ban) {
        return packet.banned(frame, &upper, source, ban);
    }
    if verdict.denies() {
        return packet.denied(frame, &upper, source, verdict.rule);
    }
    if verdict.shadow != 0 {
        packet.shadowed(frame, &upper, source, verdict.shadow);
    }
    let port = port(packet, &upper);
    if port == NO_PORT {
        return packet.passed(&upper, verdict);
    }
    if ban != 0 {
        return packet.banned(frame, &upper, source, ban);
    }
    if verdict.action == Action::Pass && packet.config.protects(port) {
        let counter = rate::v4(&packet.config, addr);
        if counter != 0 {
            return packet.limited(frame, &upper, source, counter);
        }
    }
    packet.passed(&upper, verdict)
}

#[inline(always)]
fn judge6<const FRAGS: bool>(packet: &Packet<'_, FRAGS>, frame: &Frame, high: u64, low: u64) -> u32 {
    let high = lists::drawn6(high);
    if lists::asks_nobody() {
        return parsed(frame.upper6(packet.context), high);
    }
    let verdict = lists::verdict6(high, low);
    if verdict.action == Action::Manage {
        return packet.listed(verdict.rule);
    }
    let upper = frame.upper6(packet.context);
    let source = [high, low];
    let ban = if packet.config.word(config::BANS) == 0 { 0 } else { ban6(high, low) };
    if is_hard(ban) {
        return packet.banned(frame, &upper, source, ban);
    }
    if verdict.denies() {
        return packet.denied(frame, &upper, source, verdict.rule);
    }
    if verdict.shadow != 0 {
        packet.shadowed(frame, &upper, source, verdict.shadow);
    }
    let port = port(packet, &upper);
    if port == NO_PORT {
        return packet.passed(&upper, verdict);
    }
    if ban != 0 {
        return packet.banned(frame, &upper, source, ban);
    }
    if verdict.action == Action::Pass && packet.config.protects(port) {
        let counter = rate::v6(&packet.config, high);
        if counter != 0 {
            return packet.limited(frame, &upper, source, counter);
        }
    }
    packet.passed(&upper, verdict)
}

/// For the bench: what it costs to know the source and the headers of a packet, and nothing else.
#[inline(always)]
fn parsed(upper: Upper, source: u64) -> u32 {
    if upper.protocol as u64 == source { XDP_DROP } else { XDP_PASS }
}

/// Why and how somebody is banned now; 0: not at all. What has expired is not there; user space sweeps it away.
#[inline(always)]
fn ban(key: &BanKey) -> u64 {
    // SAFETY: user space replaces values whole; the worst a race gives is the ban before or after.
    let Some([until, ban]) = (unsafe { BANS.get(key) }) else { return 0 };
    // SAFETY: a helper without conditions.
    if unsafe { bpf_jiffies64() } < *until { *ban } else { 0 }
}

/// An address may be banned, or its /64.
#[inline(always)]
fn ban6(high: u64, low: u64) -> u64 {
    match ban(&[high, low]) {
        0 => ban(&[high, 0]),
        ban => ban,
    }
}

#[inline(always)]
fn is_hard(ban: u64) -> bool {
    ban != 0 && ban & BAN_SOFT == 0
}

const NO_PORT: u32 = u32::MAX;

/// The destination port of a packet that opens a TCP connection, when somebody wants to know.
#[inline(always)]
fn port<const FRAGS: bool>(packet: &Packet<'_, FRAGS>, upper: &Upper) -> u32 {
    let wanted = packet.config.word(config::FLAGS) & flag::PORTS | packet.config.word(config::BANS);
    if wanted == 0 {
        return NO_PORT;
    }
    match upper.syn(packet.context) {
        Some(port) => port as u32,
        None => NO_PORT,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics: the verifier would refuse the loop.
    loop {}
}

/// The kernel gives some of the helpers to programs under the GPL only; this one may be had under it as well.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
