//! What user space writes into the maps of the program and reads from them, apart from the lists.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use abi::door::{
    self, BAN_SOFT, BANS_MAX, BanKey, BanValue, COUNTERS_COUNT, Counter, EVENT_WORDS, Event, Limit, config, flag, map,
};
use abi::table::MAGIC;
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, RingBuf};

use super::clock::Clock;
use super::error::DoorError;
use super::sys::Mapping;

/// Every 1,024th.
const SAMPLING: u32 = 10;

/// Who a ban is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Banned {
    /// One address.
    Host(IpAddr),
    /// All of an IPv6 /64: what one client can have. The lower half is ignored.
    Net64(Ipv6Addr),
}

impl Banned {
    /// What a client is banned by: its IPv4 address, or the /64 of its IPv6 address.
    pub fn client(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V6(addr) => Self::Net64(addr),
            addr => Self::Host(addr),
        }
    }

    fn key(self) -> BanKey {
        match self {
            Self::Host(addr) => door::ban_key(addr),
            Self::Net64(addr) => [(addr.to_bits() >> 64) as u64, 0],
        }
    }

    fn from_key([high, low]: BanKey) -> Self {
        if high == 0 && low >> 32 == 0xffff {
            return Self::Host(Ipv4Addr::from_bits(low as u32).into());
        }
        let addr = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        if low == 0 { Self::Net64(addr) } else { Self::Host(addr.into()) }
    }
}

/// A ban as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    pub who: Banned,
    pub left: Duration,
    /// What the caller gave as its reason; it means nothing here.
    pub reason: u16,
    /// Keeps new TCP connections out and leaves the rest alone.
    pub soft: bool,
}

/// Packets and bytes, of all CPUs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// SYN limits, each a rate a second and a burst, for TCP connections to some ports. `None`: no such limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SynLimits {
    pub ports: Vec<u16>,
    pub v4: Option<Rate>,
    pub v6_net64: Option<Rate>,
    pub v6_net48: Option<Rate>,
    /// What each CPU takes from all sources that are on no list.
    pub governor_per_cpu: Option<Rate>,
    /// Count what would be refused, and refuse nothing.
    pub shadow: bool,
}

/// A rate of 0 is taken as 1: nobody can be kept out by a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// The maps of one loaded program. Every write to them goes through here: the bans are mirrored.
pub struct Maps {
    config: Mapping,
    clock: Clock,
    bans: BpfHashMap<MapData, BanKey, BanValue>,
    mirror: HashMap<BanKey, BanValue>,
    /// When which ban ends; an entry whose ban has another end by now is ignored.
    ends: BinaryHeap<Reverse<(u64, BanKey)>>,
    counters: PerCpuArray<MapData, [u64; 2]>,
    events: RingBuf<MapData>,
}

impl Maps {
    /// Takes the maps out of what was loaded, whether they are new or were pinned.
    pub(super) fn take(ebpf: &mut Ebpf, config: Mapping, clock: Clock) -> Result<Self, DoorError> {
        let mut take = |name| ebpf.take_map(name).ok_or_else(|| DoorError::object(format!("it has no map `{name}`")));
        let bans: BpfHashMap<_, BanKey, BanValue> = take(map::BANS)?.try_into().map_err(DoorError::object)?;
        let counters = take(map::COUNTERS)?.try_into().map_err(DoorError::object)?;
        let events = take(map::EVENTS)?.try_into().map_err(DoorError::object)?;
        let mirror: HashMap<BanKey, BanValue> = bans.iter().filter_map(Result::ok).collect();
        let ends = mirror.iter().map(|(key, value)| Reverse((value[0], *key))).collect();
        let mut maps = Self { config, clock, bans, mirror, ends, counters, events };
        if maps.config.load(config::MAGIC) != MAGIC {
            maps.set_sampling(SAMPLING);
        }
        maps.config.store(config::MAGIC, MAGIC);
        maps.config.store(config::HZ, u64::from(clock.hz()));
        maps.set_population();
        Ok(maps)
    }

    /// Lets everything in, whatever the lists, bans and limits say; at once. It stays so until it is taken back, over
    /// restarts too.
    pub fn set_bypass(&mut self, bypass: bool) {
        self.config.store(config::BYPASS, u64::from(bypass));
    }

    pub fn bypass(&self) -> bool {
        self.config.load(config::BYPASS) != 0
    }

    /// Counts and samples all that would be turned away, and turns nothing away.
    pub fn set_shadow(&mut self, shadow: bool) {
        self.set_flag(flag::SHADOW, shadow);
    }

    /// Drops what is no proper IP packet, or has more than two VLAN tags, instead of leaving it to the stack.
    pub fn set_drop_malformed(&mut self, drop: bool) {
        self.set_flag(flag::DROP_MALFORMED, drop);
    }

    /// Samples the first and then every 2^`exponent`th packet that a rule turns away, on each CPU, to [`Maps::event`]. New maps
    /// begin with 10, so that a flood costs nothing for its samples.
    pub fn set_sampling(&mut self, exponent: u32) {
        self.config.store(config::SAMPLE_MASK, 1_u64.checked_shl(exponent).map_or(u64::MAX, |every| every - 1));
    }

    fn set_flag(&self, flag: u64, on: bool) {
        let flags = self.config.load(config::FLAGS);
        self.config.store(config::FLAGS, if on { flags | flag } else { flags & !flag });
    }

    /// Replaces all SYN limits. Cells keep what they hold: who was over a limit is over the new one only if it says so.
    pub fn set_syn_limits(&mut self, limits: &SynLimits) {
        let mut ports = [0; (1 << 16) / 64];
        for port in &limits.ports {
            ports[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        for (index, bits) in ports.iter().enumerate() {
            self.config.store(config::PORTS + index, *bits);
        }
        for (at, rate) in [
            (config::SYN_V4, limits.v4),
            (config::SYN_V6_64, limits.v6_net64),
            (config::SYN_V6_48, limits.v6_net48),
            (config::GOVERNOR, limits.governor_per_cpu),
        ] {
            let limit = rate.and_then(|rate| Limit::new(rate.per_second.max(1), rate.burst, self.clock.hz()));
            let limit = limit.unwrap_or(Limit::NONE);
            // The burst first: a cost beside a burst of 0 would refuse everybody.
            self.config.store(at + 1, limit.burst);
            self.config.store(at, limit.cost);
        }
        self.set_flag(flag::SYN_SHADOW, limits.shadow);
        self.set_flag(flag::PORTS, !limits.ports.is_empty());
    }

    /// Turns somebody away until `left` is over, from the next packet on; every port of the interface, and not those that
    /// a list manages. A ban of the same one is replaced. `reason` comes back in [`Maps::bans`] and in events.
    pub fn ban(&mut self, who: Banned, left: Duration, reason: u16, soft: bool) -> Result<(), DoorError> {
        let key = who.key();
        let value = [self.clock.after(left), door::pack_ban(reason, soft)];
        if self.mirror.len() >= BANS_MAX as usize && !self.mirror.contains_key(&key) {
            self.sweep();
        }
        self.bans.insert(key, value, 0).map_err(|error| match error {
            MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                DoorError::BansFull { bans_max: BANS_MAX }
            }
            error => DoorError::object(error),
        })?;
        self.mirror.insert(key, value);
        self.ends.push(Reverse((value[0], key)));
        if self.ends.len() > self.mirror.len() * 2 + 64 {
            self.ends = self.mirror.iter().map(|(key, value)| Reverse((value[0], *key))).collect();
        }
        self.set_population();
        Ok(())
    }

    /// Lets somebody in again. Whether there was a ban.
    pub fn unban(&mut self, who: Banned) -> Result<bool, DoorError> {
        let key = who.key();
        let Some([until, _]) = self.mirror.get(&key).copied() else { return Ok(false) };
        self.remove(&key)?;
        self.set_population();
        Ok(until > self.clock.now())
    }

    /// The bans that are in force, in no order.
    pub fn bans(&self) -> impl Iterator<Item = Ban> {
        let now = self.clock.now();
        self.mirror.iter().filter(move |(_, [until, _])| *until > now).map(|(key, [until, why])| Ban {
            who: Banned::from_key(*key),
            left: self.clock.until(*until),
            reason: *why as u16,
            soft: why & BAN_SOFT != 0,
        })
    }

    /// Frees what has expired; the program ignores it already. Once a second is enough. How many it were.
    pub fn sweep(&mut self) -> usize {
        let now = self.clock.now();
        let mut freed = 0;
        while let Some(Reverse((until, key))) = self.ends.peek().copied().filter(|Reverse((until, _))| *until <= now) {
            self.ends.pop();
            if self.mirror.get(&key).is_some_and(|value| value[0] == until) && self.remove(&key).is_ok() {
                freed += 1;
            }
        }
        self.set_population();
        freed
    }

    fn remove(&mut self, key: &BanKey) -> Result<(), DoorError> {
        match self.bans.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(DoorError::object(error)),
        }
        self.mirror.remove(key);
        Ok(())
    }

    /// While nobody is banned, no packet pays for looking.
    fn set_population(&mut self) {
        self.config.store(config::BANS, self.mirror.len() as u64);
    }

    /// Since the maps were made, so over restarts too.
    pub fn count(&self, counter: Counter) -> Result<Count, DoorError> {
        self.count_at(counter.index())
    }

    /// What a rule decided about, or would have in shadow mode. The numbers belong to the id: see [`Maps::reset_rule`].
    pub fn rule_count(&self, rule: u16) -> Result<Count, DoorError> {
        self.count_at(u32::from(rule))
    }

    /// Begins at 0 again, for a rule id that means another list from now on.
    pub fn reset_rule(&mut self, rule: u16) -> Result<(), DoorError> {
        let mut values = self.counters.get(&u32::from(rule), 0).map_err(DoorError::object)?;
        let zeros = vec![[0; 2]; values.iter().count()];
        values = zeros.try_into().map_err(DoorError::object)?;
        self.counters.set(u32::from(rule), values, 0).map_err(DoorError::object)
    }

    fn count_at(&self, index: u32) -> Result<Count, DoorError> {
        if index >= COUNTERS_COUNT {
            return Ok(Count::default());
        }
        let values = self.counters.get(&index, 0).map_err(DoorError::object)?;
        Ok(values.iter().fold(Count::default(), |sum, [packets, bytes]| Count {
            packets: sum.packets + packets,
            bytes: sum.bytes + bytes,
        }))
    }

    /// Takes the next sample out of the ring. `None`: there is none now. Ask once in a while: nobody is woken for them.
    pub fn event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        let mut words = [0; EVENT_WORDS];
        for (word, bytes) in words.iter_mut().zip(item.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Some(Event::unpack(&words))
    }
}

/// Maps the configuration of a loaded program.
pub(super) fn configuration(ebpf: &Ebpf) -> Result<Mapping, DoorError> {
    let Some(Map::Array(data)) = ebpf.map(map::CONFIG) else {
        return Err(DoorError::object(format!("it has no map `{}`", map::CONFIG)));
    };
    Mapping::new(data.fd().as_fd(), config::WORDS).map_err(DoorError::kernel("mapping the configuration"))
}
