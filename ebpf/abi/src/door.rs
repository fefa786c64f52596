//! The maps of the XDP program besides the lists: their names, keys, values and words, and the arithmetic on them.
//!
//! Everything is made of `u64`, so that neither side needs unsafe code to read what the other wrote.

use core::net::IpAddr;

use crate::hash::{mix, mix2};
use crate::verdict::RULES_MAX;

/// Names of the maps, which are the names of their pins.
pub mod map {
    /// One slot, holding the words of a table ([`crate::table`]).
    pub const LISTS: &str = "LISTS";
    pub const BANS: &str = "BANS";
    pub const CELLS: &str = "CELLS";
    pub const GOVERNOR: &str = "GOVERNOR";
    pub const COUNTERS: &str = "COUNTERS";
    pub const CONFIG: &str = "CONFIG";
    pub const EVENTS: &str = "EVENTS";
    pub const ALL: [&str; 7] = [LISTS, BANS, CELLS, GOVERNOR, COUNTERS, CONFIG, EVENTS];
}

/// Bans at once. A ban beyond is an error to the caller; none is forgotten for another.
pub const BANS_MAX: u32 = 1 << 18;
/// Cells of the SYN limit: 8 MiB. A flood of a million different sources a second adds one SYN a second to each.
pub const CELLS_COUNT: u32 = 1 << 20;
pub const EVENTS_BYTES: u32 = 1 << 20;

/// Words of the configuration, by index.
pub mod config {
    /// [`crate::table::MAGIC`]; written last by who makes the map.
    pub const MAGIC: usize = 0;
    /// Not 0: every packet passes, uncounted but for [`super::Counter::Bypassed`].
    pub const BYPASS: usize = 1;
    /// Flags of [`super::flag`].
    pub const FLAGS: usize = 2;
    /// Not 0: somebody is or was banned. While 0 the bans cost nothing.
    pub const BANS: usize = 3;
    /// An event for each drop whose count by its rule has none of these bits set, a CPU.
    pub const SAMPLE_MASK: usize = 4;
    /// Makes the cells of a source unpredictable.
    pub const SEED: usize = 5;
    /// Timer interrupts a second, for user space.
    pub const HZ: usize = 6;
    /// Pairs of cost and burst ([`super::Limit`]).
    pub const SYN_V4: usize = 8;
    pub const SYN_V6_64: usize = 10;
    pub const SYN_V6_48: usize = 12;
    pub const GOVERNOR: usize = 14;
    /// A bit for each TCP port that the SYN limit is for.
    pub const PORTS: usize = 16;
    pub const WORDS: usize = PORTS + (1 << 16) / 64;
}

/// What the program is told to do beside the lists.
pub mod flag {
    /// Count what would be dropped, and drop nothing at all.
    pub const SHADOW: u64 = 1;
    /// The same for the SYN limits and the governor only.
    pub const SYN_SHADOW: u64 = 2;
    /// Drop what cannot be parsed instead of leaving it to the stack.
    pub const DROP_MALFORMED: u64 = 4;
    /// Some bit of the ports is set.
    pub const PORTS: u64 = 8;
}

/// What is counted besides rules. Each rule counts the packets it decided about, or would have in shadow mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Let in, for whatever reason.
    Passed,
    /// Turned away, for whatever reason.
    Dropped,
    /// Would have been turned away, were it not for a shadow mode.
    Shadowed,
    /// Let in by the bypass word.
    Bypassed,
    /// Turned away by a ban.
    Banned,
    /// From a source that is denied or banned, but the network needs it: neighbour discovery and the like.
    Spared,
    /// SYNs beyond the limit of an IPv4 address, of an IPv6 /64, of an IPv6 /48.
    SynV4,
    SynV6Net64,
    SynV6Net48,
    /// SYNs beyond what a CPU takes from unknown sources.
    Governor,
    /// Not what its own lengths say; let in or not as configured.
    Malformed,
    /// More than two VLAN tags; let in or not as configured.
    Tags,
    /// Neither IPv4 nor IPv6.
    OtherProtocol,
    /// Fragments other than the first: their source is judged, ports they have none.
    Fragment,
    /// The lists could not be read; a bug or a map half made.
    NoTable,
}

impl Counter {
    pub const ALL: [Self; 15] = [
        Self::Passed,
        Self::Dropped,
        Self::Shadowed,
        Self::Bypassed,
        Self::Banned,
        Self::Spared,
        Self::SynV4,
        Self::SynV6Net64,
        Self::SynV6Net48,
        Self::Governor,
        Self::Malformed,
        Self::Tags,
        Self::OtherProtocol,
        Self::Fragment,
        Self::NoTable,
    ];

    /// Its index among the counters, behind the rules.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        RULES_MAX as u32 + self as u32
    }

    /// The word for it in metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Dropped => "dropped",
            Self::Shadowed => "shadowed",
            Self::Bypassed => "bypassed",
            Self::Banned => "banned",
            Self::Spared => "spared",
            Self::SynV4 => "syn_v4",
            Self::SynV6Net64 => "syn_v6_64",
            Self::SynV6Net48 => "syn_v6_48",
            Self::Governor => "governor",
            Self::Malformed => "malformed",
            Self::Tags => "tags",
            Self::OtherProtocol => "other_protocol",
            Self::Fragment => "fragment",
            Self::NoTable => "no_table",
        }
    }
}

/// Pairs of packets and bytes: rules first, then [`Counter::ALL`].
pub const COUNTERS_COUNT: u32 = RULES_MAX as u32 + 32;

/// Who is banned: an IPv4 address as IPv4-mapped, an IPv6 address, or an IPv6 /64 with the lower half 0.
pub type BanKey = [u64; 2];

/// The key of an IPv4 address.
#[inline(always)]
pub const fn ban_key4(addr: u32) -> BanKey {
    [0, 0xffff_0000_0000 | addr as u64]
}

/// The key of one address.
pub const fn ban_key(addr: IpAddr) -> BanKey {
    match addr.to_canonical() {
        IpAddr::V4(addr) => ban_key4(addr.to_bits()),
        IpAddr::V6(addr) => [(addr.to_bits() >> 64) as u64, addr.to_bits() as u64],
    }
}

/// A ban: until when (jiffies, exclusive), and [`pack_ban`] of why and how.
pub type BanValue = [u64; 2];

/// Whether the ban only keeps new connections out (TCP SYNs of any port) and leaves open ones alone.
pub const BAN_SOFT: u64 = 1 << 16;
/// Set in every ban, so that 0 is none.
const BAN_IS: u64 = 1 << 17;

#[inline(always)]
pub const fn pack_ban(reason: u16, soft: bool) -> u64 {
    BAN_IS | reason as u64 | if soft { BAN_SOFT } else { 0 }
}

/// Cells count time in jiffies with this many binary places, so that a limit of a million a second is exact.
pub const CELL_SHIFT: u32 = 20;

/// A limit as the cells need it: `cost` of one packet and how far ahead of time a cell may be (`burst`), both in jiffies
/// with [`CELL_SHIFT`] places. No limit: cost 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    pub cost: u64,
    pub burst: u64,
}

impl Limit {
    pub const NONE: Self = Self { cost: 0, burst: 0 };

    /// So many packets a second, `burst` of them at once (at least those that fall into one jiffy, so that the coarse
    /// clock refuses nobody). `None`: a rate of 0 would let nobody in.
    pub fn new(per_second: u32, burst: u32, hz: u32) -> Option<Self> {
        let cost = ((hz as u64) << CELL_SHIFT).checked_div(per_second as u64)?.max(1);
        let in_a_jiffy = per_second.div_ceil(hz.max(1)).saturating_add(1);
        let burst = if burst > in_a_jiffy { burst } else { in_a_jiffy };
        Some(Self { cost, burst: cost.saturating_mul(burst as u64) })
    }
}

/// What a cell becomes by one packet (GCRA: the cell is the theoretical arrival time). `None`: too early, refuse it.
#[inline(always)]
pub const fn take(cell: u64, now: u64, limit: Limit) -> Option<u64> {
    let from = if cell > now { cell } else { now };
    let next = from + limit.cost;
    if from - now > limit.burst {
        // No packet leaves a cell that far ahead: the limit was another, or it is damage. It would refuse for years.
        return Some(now + limit.cost);
    }
    if next - now > limit.burst { None } else { Some(next) }
}

/// The two cells of a source. `level` keeps the cells of an address, of its /64 and of its /48 apart.
#[inline(always)]
pub const fn cells_of(seed: u64, level: u64, bits: u64) -> (u32, u32) {
    let hash = mix2(seed ^ level, bits);
    (hash as u32 & (CELLS_COUNT - 1), (hash >> 32) as u32 & (CELLS_COUNT - 1))
}

/// Draws the `number`th source of the bench's list: the program and the bench make the same ones.
#[inline(always)]
pub const fn bench_source4(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1)
}

/// The same for the first half of an IPv6 address, within 2000::/3.
#[inline(always)]
pub const fn bench_source6(number: u64) -> u64 {
    0x2000_0000_0000_0000 | (mix(number) >> 3)
}

/// What a sample says about a packet: eight words in the ring.
pub const EVENT_WORDS: usize = 8;
pub type EventWords = [u64; EVENT_WORDS];

/// A sampled drop, or what would have been one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Index of the counter that counted it: a rule, or [`Counter::index`].
    pub counter: u32,
    /// Not dropped because of a shadow mode.
    pub shadow: bool,
    pub v6: bool,
    /// The IP protocol, 0 where it was not looked at.
    pub protocol: u8,
    /// Bytes of the frame.
    pub bytes: u32,
    /// The reason of the ban, if it was one.
    pub ban_reason: u16,
    pub source: [u64; 2],
    pub destination: [u64; 2],
    /// Jiffies.
    pub at: u64,
}

impl Event {
    #[inline(always)]
    pub const fn pack(&self) -> EventWords {
        [
            self.counter as u64 | (self.shadow as u64) << 32 | (self.v6 as u64) << 33 | (self.protocol as u64) << 40,
            self.bytes as u64 | (self.ban_reason as u64) << 32,
            self.source[0],
            self.source[1],
            self.destination[0],
            self.destination[1],
            self.at,
            0,
        ]
    }

    pub const fn unpack(words: &EventWords) -> Self {
        Self {
            counter: words[0] as u32,
            shadow: words[0] >> 32 & 1 != 0,
            v6: words[0] >> 33 & 1 != 0,
            protocol: (words[0] >> 40) as u8,
            bytes: words[1] as u32,
            ban_reason: (words[1] >> 32) as u16,
            source: [words[2], words[3]],
            destination: [words[4], words[5]],
            at: words[6],
        }
    }
}
