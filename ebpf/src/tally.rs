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

pub struct Packet<'a> {
    pub context: &'a XdpContext,
    pub config: Config,
    /// Of all pieces of the packet together.
    pub bytes: u64,
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

impl<'a> Packet<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext, config: Config, bytes: u64) -> Self {
        Self { context, config, bytes }
    }

    #[inline(always)]
    fn flags(&self) -> u64 {
        self.config.word(config::FLAGS)
    }

    #[inline(always)]
    fn pass(&self) -> u32 {
        count(Counter::Passed.index(), self.bytes);
        XDP_PASS
    }

    /// Let in because a list says so.
    #[inline(always)]
    pub fn listed(&self, rule: u16) -> u32 {
        count(rule as u32, self.bytes);
        self.pass()
    }

    /// Let in because nothing is against it, unless it is no proper packet.
    #[inline(always)]
    pub fn passed(&self, upper: &Upper, verdict: Verdict) -> u32 {
        match upper.state {
            State::Malformed => return self.unread(Counter::Malformed),
            State::Fragment => _ = count(Counter::Fragment.index(), self.bytes),
            State::Whole => {}
        }
        if verdict.rule != 0 {
            count(verdict.rule as u32, self.bytes);
        }
        self.pass()
    }

    /// What no list can speak of: left to the stack, unless it shall be dropped.
    #[inline(always)]
    pub fn unread(&self, counter: Counter) -> u32 {
        count(counter.index(), self.bytes);
        let droppable = matches!(counter, Counter::Malformed | Counter::Tags);
        if droppable && self.flags() & (flag::DROP_MALFORMED | flag::SHADOW) == flag::DROP_MALFORMED {
            count(Counter::Dropped.index(), self.bytes);
            return XDP_DROP;
        }
        self.pass()
    }

    /// A rule in shadow mode matched; what happens to the packet is decided elsewhere.
    #[inline(always)]
    pub fn shadowed(&self, frame: &Frame, upper: &Upper, source: [u64; 2], rule: u16) {
        count(Counter::Shadowed.index(), self.bytes);
        self.count_and_sample(frame, upper, source, rule as u32, true, 0);
    }

    #[inline(always)]
    pub fn denied(&self, frame: &Frame, upper: &Upper, source: [u64; 2], rule: u16) -> u32 {
        self.refuse(frame, upper, source, rule as u32, 0, flag::SHADOW)
    }

    #[inline(always)]
    pub fn banned(&self, frame: &Frame, upper: &Upper, source: [u64; 2], ban: u64) -> u32 {
        self.refuse(frame, upper, source, Counter::Banned.index(), ban as u16, flag::SHADOW)
    }

    #[inline(always)]
    pub fn limited(&self, frame: &Frame, upper: &Upper, source: [u64; 2], counter: u32) -> u32 {
        self.refuse(frame, upper, source, counter, 0, flag::SHADOW | flag::SYN_SHADOW)
    }

    #[inline(always)]
    fn refuse(&self, frame: &Frame, upper: &Upper, source: [u64; 2], counter: u32, ban: u16, shadows: u64) -> u32 {
        if upper.is_needed(self.context, is_v6(frame)) {
            count(Counter::Spared.index(), self.bytes);
            return self.pass();
        }
        let shadow = self.flags() & shadows != 0;
        self.count_and_sample(frame, upper, source, counter, shadow, ban);
        if shadow {
            count(Counter::Shadowed.index(), self.bytes);
            return self.pass();
        }
        count(Counter::Dropped.index(), self.bytes);
        XDP_DROP
    }

    #[inline(always)]
    fn count_and_sample(
        &self,
        frame: &Frame,
        upper: &Upper,
        source: [u64; 2],
        counter: u32,
        shadow: bool,
        ban_reason: u16,
    ) {
        let before = count(counter, self.bytes);
        if before & self.config.word(config::SAMPLE_MASK) != 0 {
            return;
        }
        let event = Event {
            counter,
            shadow,
            v6: is_v6(frame),
            protocol: upper.protocol,
            bytes: self.bytes as u32,
            ban_reason,
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
