//! How a packet ends: counted on this CPU, now and then sampled, let in or not.

use abi::Verdict;
use abi::door::{Counter, Event, config, flag};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Frame, Network, State, Upper};
use crate::maps::{COUNTERS, Config, EVENTS};

/// Do not wake the reader for each event: it looks once in a while.
const NO_WAKEUP: u64 = 1;

/// `FRAGS`: it may have more pieces than the one at hand.
pub struct Packet<'a, const FRAGS: bool> {
    pub context: &'a XdpContext,
    pub config: Config,
}

/// Bytes of the packet; with `FRAGS` it may have more pieces than the one at hand.
#[inline(always)]
pub fn bytes<const FRAGS: bool>(context: &XdpContext) -> u64 {
    if FRAGS {
        // SAFETY: the context of this packet.
        unsafe { bpf_xdp_get_buff_len(context.as_ptr().cast()) }
    } else {
        (context.data_end() - context.data()) as u64
    }
}

/// Counts a packet, and says how many were counted before.
#[inline(always)]
pub fn count(counter: u32, bytes: u64) -> u64 {
    let Some(pair) = COUNTERS.get_ptr_mut(counter) else { return 1 };
    // SAFETY: this CPU's own pair.
    unsafe {
        let before = (*pair)[0];
        (*pair)[0] = before + 1;
        (*pair)[1] += bytes;
        before
    }
}

#[inline(always)]
fn is_v6(frame: &Frame) -> bool {
    matches!(frame.network, Network::V6(..))
}

impl<const FRAGS: bool> Packet<'_, FRAGS> {
    /// Asked for once on each way out: it is a call.
    #[inline(always)]
    fn bytes(&self) -> u64 {
        bytes::<FRAGS>(self.context)
    }

    #[inline(always)]
    fn flags(&self) -> u64 {
        self.config.word(config::FLAGS)
    }

    #[inline(always)]
    fn pass(&self, bytes: u64) -> u32 {
        count(Counter::Passed.index(), bytes);
        XDP_PASS
    }

    /// Let in because a list says so.
    #[inline(always)]
    pub fn listed(&self, rule: u16) -> u32 {
        let bytes = self.bytes();
        count(rule as u32, bytes);
        self.pass(bytes)
    }

    /// Let in because nothing is against it, unless it is no proper packet.
    #[inline(always)]
    pub fn passed(&self, upper: &Upper, verdict: Verdict) -> u32 {
        let bytes = self.bytes();
        match upper.state {
            State::Malformed => return self.unreadable(Counter::Malformed, bytes),
            State::Fragment => _ = count(Counter::Fragment.index(), bytes),
            State::Whole => {}
        }
        if verdict.rule != 0 {
            count(verdict.rule as u32, bytes);
        }
        self.pass(bytes)
    }

    /// What no list can speak of: left to the stack, unless it shall be dropped.
    #[inline(always)]
    pub fn unread(&self, counter: Counter) -> u32 {
        self.unreadable(counter, self.bytes())
    }

    #[inline(always)]
    fn unreadable(&self, counter: Counter, bytes: u64) -> u32 {
        count(counter.index(), bytes);
        let droppable = matches!(counter, Counter::Malformed | Counter::Tags);
        if droppable && self.flags() & (flag::DROP_MALFORMED | flag::SHADOW) == flag::DROP_MALFORMED {
            count(Counter::Dropped.index(), bytes);
            return XDP_DROP;
        }
        self.pass(bytes)
    }

    /// A rule in shadow mode matched; what happens to the packet is decided elsewhere.
    #[inline(always)]
    pub fn shadowed(&self, frame: &Frame, upper: &Upper, source: [u64; 2], rule: u16) {
        let bytes = self.bytes();
        count(Counter::Shadowed.index(), bytes);
        self.count_and_sample(frame, upper, source, Why { counter: rule as u32, shadow: true, ban_reason: 0 }, bytes);
    }

    #[inline(always)]
    pub fn denied(&self, frame: &Frame, upper: &Upper, source: [u64; 2], rule: u16) -> u32 {
        let shadow = self.flags() & flag::SHADOW != 0;
        self.refuse(frame, upper, source, Why { counter: rule as u32, shadow, ban_reason: 0 })
    }

    #[inline(always)]
    pub fn banned(&self, frame: &Frame, upper: &Upper, source: [u64; 2], ban: u64) -> u32 {
        let shadow = self.flags() & flag::SHADOW != 0;
        self.refuse(frame, upper, source, Why { counter: Counter::Banned.index(), shadow, ban_reason: ban as u16 })
    }

    #[inline(always)]
    pub fn limited(&self, frame: &Frame, upper: &Upper, source: [u64; 2], counter: u32) -> u32 {
        let shadow = self.flags() & (flag::SHADOW | flag::SYN_SHADOW) != 0;
        self.refuse(frame, upper, source, Why { counter, shadow, ban_reason: 0 })
    }

    #[inline(always)]
    fn refuse(&self, frame: &Frame, upper: &Upper, source: [u64; 2], why: Why) -> u32 {
        let bytes = self.bytes();
        if upper.is_needed(self.context, is_v6(frame)) {
            count(Counter::Spared.index(), bytes);
            return self.pass(bytes);
        }
        let shadow = why.shadow;
        self.count_and_sample(frame, upper, source, why, bytes);
        if shadow {
            count(Counter::Shadowed.index(), bytes);
            return self.pass(bytes);
        }
        count(Counter::Dropped.index(), bytes);
        XDP_DROP
    }

    #[inline(always)]
    fn count_and_sample(&self, frame: &Frame, upper: &Upper, source: [u64; 2], why: Why, bytes: u64) {
        let before = count(why.counter, bytes);
        if before & self.config.word(config::SAMPLE_MASK) != 0 {
            return;
        }
        let event = Event {
            counter: why.counter,
            shadow: why.shadow,
            v6: is_v6(frame),
            protocol: upper.protocol,
            bytes: bytes as u32,
            ban_reason: why.ban_reason,
            source,
            destination: frame.destination(self.context),
            // SAFETY: a helper without conditions.
            at: unsafe { bpf_jiffies64() },
        };
        // A full ring loses the sample, not the verdict.
        if let Some(mut entry) = EVENTS.reserve(0) {
            entry.write(event.pack());
            entry.submit(NO_WAKEUP);
        }
    }
}

/// Why a packet is turned away, or would be.
struct Why {
    counter: u32,
    shadow: bool,
    ban_reason: u16,
}
