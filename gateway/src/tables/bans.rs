//! Addresses that are banned for a time, in user space: asked at accept and once an exchange, written by the control side and
//! by filters.
//!
//! While nobody is banned a question is one load. A ban is of an IPv4 address or an IPv6 /64, which is what one client can
//! have. The table is bounded; a ban beyond is refused, and none is forgotten for another. What is in the kernel is a copy,
//! for listeners whose clients come by their own addresses (`control::doors`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::limits::BANS_MAX;

const SHARDS: usize = 64;

/// Every ban.
pub struct Bans {
    /// How many there are, or were until the next sweep.
    count: AtomicUsize,
    shards: [Mutex<HashMap<IpAddr, Ban>>; SHARDS],
}

/// Why and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Unix time in milliseconds.
    pub until_ms: u64,
    /// What whoever banned it said.
    pub reason: Box<str>,
}

/// There is no room for another ban.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Default for Bans {
    fn default() -> Bans {
        Bans { count: AtomicUsize::new(0), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Bans {
    /// Bans a client until a moment, or moves the end of a ban it has.
    pub fn ban(&self, client: IpAddr, ban: Ban) -> Result<(), Full> {
        let key = key(client);
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shard.get_mut(&key) {
            *known = ban;
            return Ok(());
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= BANS_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Full);
        }
        shard.insert(key, ban);
        Ok(())
    }

    /// Takes on the bans of another process. How many there was no room for.
    pub fn take_on(&self, bans: Vec<(IpAddr, Ban)>) -> usize {
        bans.into_iter().filter(|(client, ban)| self.ban(*client, ban.clone()).is_err()).count()
    }

    /// Ends a ban. Whether there was one.
    pub fn unban(&self, client: IpAddr) -> bool {
        let key = key(client);
        let found = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner).remove(&key).is_some();
        if found {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    /// The ban of a client at `now_ms` (Unix time).
    pub fn find(&self, client: IpAddr, now_ms: u64) -> Option<Ban> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let key = key(client);
        let shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(&key).filter(|ban| ban.until_ms > now_ms).cloned()
    }

    /// How many there are, those that ended since the last sweep among them.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether anybody may be banned: what makes the clock worth asking.
    pub fn any(&self) -> bool {
        self.count() != 0
    }

    /// Forgets bans that are over. How many.
    pub fn sweep(&self, now_ms: u64) -> usize {
        if !self.any() {
            return 0;
        }
        let mut gone = 0;
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, ban| {
                let stays = ban.until_ms > now_ms;
                gone += usize::from(!stays);
                stays
            });
        }
        self.count.fetch_sub(gone, Ordering::Relaxed);
        gone
    }

    /// Every ban that is not over, the next to end first.
    pub fn list(&self, now_ms: u64) -> Vec<(IpAddr, Ban)> {
        let mut list: Vec<(IpAddr, Ban)> = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            list.extend(shard.iter().filter(|(_, ban)| ban.until_ms > now_ms).map(|(key, ban)| (*key, ban.clone())));
        }
        list.sort_by_key(|(client, ban)| (ban.until_ms, *client));
        list
    }

    fn shard(&self, key: IpAddr) -> &Mutex<HashMap<IpAddr, Ban>> {
        let low = match key {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        // The low bits of neighbours differ; the high ones of the product mix all of them in.
        &self.shards[(low.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize]
    }
}

/// Now, as bans count time: their ends are told to people and to other processes.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What a client is banned by: its IPv4 address, or the /64 of its IPv6 address.
pub fn key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(until_ms: u64) -> Ban {
        Ban { until_ms, reason: "test".into() }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_ban_holds_until_its_end() {
        let bans = Bans::default();
        assert_eq!(bans.find(address("192.0.2.1"), 0), None);
        bans.ban(address("192.0.2.1"), until(1000)).expect("room");
        bans.ban(address("2001:db8::1"), until(2000)).expect("room");
        assert!(bans.find(address("::ffff:192.0.2.1"), 999).is_some());
        assert_eq!(bans.find(address("192.0.2.1"), 1000), None);
        assert_eq!(bans.find(address("192.0.2.2"), 0), None);
        assert!(bans.find(address("2001:db8::ffff"), 0).is_some());
        assert_eq!(bans.find(address("2001:db8:0:1::1"), 0), None);
        assert_eq!(bans.list(0).len(), 2);
        assert_eq!(bans.sweep(1500), 1);
        assert!(bans.any());
        assert!(bans.unban(address("2001:db8::7")) && !bans.unban(address("2001:db8::7")));
        assert!(!bans.any());
    }

    #[test]
    fn the_last_place_is_given_and_no_more() {
        let bans = Bans::default();
        let nth = |number: usize| IpAddr::V4(std::net::Ipv4Addr::from_bits(number as u32));
        for number in 0..BANS_MAX {
            bans.ban(nth(number), until(1)).expect("room");
        }
        assert_eq!(bans.ban(nth(BANS_MAX), until(1)), Err(Full));
        // A longer one of somebody who is banned needs no room.
        bans.ban(nth(7), until(9)).expect("it is there");
        assert_eq!(bans.sweep(5), BANS_MAX - 1);
        bans.ban(nth(BANS_MAX), until(9)).expect("room");
    }
}
