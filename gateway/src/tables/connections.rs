//! How many client connections are open, in all and from each address.
//!
//! Asked once a connection; for requests that run beside each other on one, the counts it found are counted on. The address
//! table is sharded; a shard is locked for one map operation and never across an await. It is as large as the number of open
//! connections, which is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const SHARDS: usize = 64;

/// The counts of the whole process.
pub struct Connections {
    open: AtomicU32,
    shards: [Mutex<HashMap<IpAddr, Arc<AtomicU32>>>; SHARDS],
}

/// Why a connection is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// The gateway has as many as it may.
    Total,
    /// The address has as many as it may.
    Address,
}

/// An open connection's place. Dropping it makes room.
pub struct Place {
    table: Arc<Connections>,
    /// Whom it is counted for. `None`: nobody yet.
    counted: Option<Counted>,
}

struct Counted {
    address: IpAddr,
    /// How many places that one has. It is in the table as long as there is a connection's place among them.
    count: Arc<AtomicU32>,
}

impl Default for Connections {
    fn default() -> Self {
        Connections { open: AtomicU32::new(0), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Connections {
    /// A place for a connection whose client is not known yet, when there is one in all; see [`Place::count_for`].
    pub fn enter(self: &Arc<Self>, total_max: u32) -> Result<Place, Full> {
        self.count_one(total_max)?;
        Ok(Place { table: self.clone(), counted: None })
    }

    /// A place for a connection from `address`, when there is one under both bounds.
    pub fn enter_from(self: &Arc<Self>, address: IpAddr, total_max: u32, address_max: u32) -> Result<Place, Full> {
        let mut place = self.enter(total_max)?;
        place.count_for(address, address_max)?;
        Ok(place)
    }

    fn count_one(&self, total_max: u32) -> Result<(), Full> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= total_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Total);
        }
        Ok(())
    }

    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    fn shard(&self, address: IpAddr) -> &Mutex<HashMap<IpAddr, Arc<AtomicU32>>> {
        let bits = match address {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        // The high bits of a product spread neighbouring addresses over the shards.
        &self.shards[(bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % SHARDS]
    }
}

impl Place {
    /// Counts it for `address`, when that one has not as many as it may. Once; IPv6 addresses count by /64.
    pub fn count_for(&mut self, address: IpAddr, address_max: u32) -> Result<(), Full> {
        debug_assert!(self.counted.is_none(), "nobody's place before");
        let address = counted_as(address);
        let mut shard = self.table.shard(address).lock().unwrap_or_else(PoisonError::into_inner);
        let count = match shard.get(&address) {
            Some(count) => count.clone(),
            None if address_max == 0 => return Err(Full::Address),
            None => shard.entry(address).or_default().clone(),
        };
        count_one_for(&count, address_max)?;
        drop(shard);
        self.counted = Some(Counted { address, count });
        Ok(())
    }

    /// Counts one more beside it, for the same address and under the same bounds, until [`leave_another`]. No lock, no look-up.
    ///
    /// [`leave_another`]: Self::leave_another
    pub fn enter_another(&self, total_max: u32, address_max: u32) -> Result<(), Full> {
        self.table.count_one(total_max)?;
        let counted = self.counted.as_ref().map_or(Ok(()), |counted| count_one_for(&counted.count, address_max));
        if counted.is_err() {
            self.table.open.fetch_sub(1, Ordering::Relaxed);
        }
        counted
    }

    /// What was counted by [`enter_another`](Self::enter_another) is over.
    pub fn leave_another(&self) {
        if let Some(counted) = &self.counted {
            counted.count.fetch_sub(1, Ordering::Relaxed);
        }
        self.table.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn count_one_for(count: &AtomicU32, address_max: u32) -> Result<(), Full> {
    if count.fetch_add(1, Ordering::Relaxed) >= address_max {
        count.fetch_sub(1, Ordering::Relaxed);
        return Err(Full::Address);
    }
    Ok(())
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(Counted { address, count }) = &self.counted {
            let mut shard = self.table.shard(*address).lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever counts another one has a place of its own, so none comes to an address that has none.
            if count.fetch_sub(1, Ordering::Relaxed) == 1 {
                shard.remove(address);
            }
        }
        self.table.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One customer has a whole IPv6 /64 and may use a new address of it for every connection.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn both_bounds_hold_and_leaving_makes_room() {
        let table = Arc::new(Connections::default());
        let first = table.enter_from(ip("10.0.0.1"), 3, 2).expect("room");
        let _second = table.enter_from(ip("10.0.0.1"), 3, 2).expect("room");
        assert_eq!(table.enter_from(ip("10.0.0.1"), 3, 2).err(), Some(Full::Address));
        let _third = table.enter_from(ip("10.0.0.2"), 3, 2).expect("another address");
        assert_eq!(table.enter_from(ip("10.0.0.3"), 3, 2).err(), Some(Full::Total));
        drop(first);
        assert_eq!(table.open(), 2);
        assert!(table.enter_from(ip("10.0.0.1"), 3, 2).is_ok());
    }

    #[test]
    fn one_ipv6_network_is_one_client_and_mapped_addresses_are_ipv4() {
        let table = Arc::new(Connections::default());
        let _a = table.enter_from(ip("2001:db8::1"), 10, 1).expect("room");
        assert_eq!(table.enter_from(ip("2001:db8::ffff:2"), 10, 1).err(), Some(Full::Address));
        let _b = table.enter_from(ip("2001:db8:0:1::1"), 10, 1).expect("another network");
        let _c = table.enter_from(ip("::ffff:10.0.0.1"), 10, 1).expect("room");
        assert_eq!(table.enter_from(ip("10.0.0.1"), 10, 1).err(), Some(Full::Address));
    }

    #[test]
    fn a_place_is_counted_for_its_client_once_that_one_is_known() {
        let table = Arc::new(Connections::default());
        let mut first = table.enter(2).expect("room");
        let mut second = table.enter(2).expect("room");
        assert_eq!(table.enter(2).err(), Some(Full::Total));
        assert_eq!(first.count_for(ip("10.0.0.1"), 1), Ok(()));
        assert_eq!(second.count_for(ip("10.0.0.1"), 1), Err(Full::Address));
        drop(second);
        assert_eq!(table.open(), 1);
        drop(first);
        assert!(table.enter_from(ip("10.0.0.1"), 1, 1).is_ok());
    }

    #[test]
    fn others_beside_a_connection_count_as_connections() {
        let table = Arc::new(Connections::default());
        let first = table.enter_from(ip("10.0.0.1"), 4, 3).expect("room");
        first.enter_another(4, 3).expect("room");
        first.enter_another(4, 3).expect("room");
        assert_eq!(first.enter_another(4, 3), Err(Full::Address));
        assert_eq!(table.enter_from(ip("10.0.0.1"), 4, 3).err(), Some(Full::Address));
        let second = table.enter_from(ip("10.0.0.2"), 4, 3).expect("another address");
        assert_eq!(second.enter_another(4, 3), Err(Full::Total));
        first.leave_another();
        assert_eq!(second.enter_another(4, 3), Ok(()));
        assert_eq!(table.open(), 4);
        first.leave_another();
        second.leave_another();
        drop((first, second));
        assert_eq!(table.open(), 0);
        assert!(table.shards.iter().all(|shard| shard.lock().expect("lock").is_empty()));
    }

    #[test]
    fn an_empty_table_holds_no_addresses() {
        let table = Arc::new(Connections::default());
        assert!(table.enter_from(ip("10.0.0.1"), 10, 0).is_err());
        drop(table.enter_from(ip("10.0.0.1"), 10, 1));
        assert!(table.shards.iter().all(|shard| shard.lock().expect("lock").is_empty()));
        assert_eq!(table.open(), 0);
    }
}
