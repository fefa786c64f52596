//! Consistent hashing: which endpoint a key belongs to, so that few keys move when an endpoint comes or goes. Maglev and ring
//! are two ways to fill one table: a key has a place, a place has an endpoint, and behind every place there is a next one.
//!
//! Places depend on addresses and weights alone, so every worker and every host of a fleet finds the same endpoint.

use std::collections::HashMap;

use foldhash::quality::FixedState;

use super::schedule::schedule;

/// Where keys belong: an endpoint for each place.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<u16>,
}

/// An endpoint with a share of the keys.
pub(super) struct Member<'a> {
    pub index: u16,
    pub name: &'a str,
    /// What it weighs now beside the others, 1 or more.
    pub weight: u64,
    /// The same, in units of the mean of all weights that are written: what it is that does not change when others go.
    pub portion: f64,
}

impl Table {
    /// The place of `hash`, which is uniform. The table must not be empty.
    pub(super) fn place(&self, hash: u64) -> usize {
        below(hash, self.slots.len())
    }

    pub(super) fn at(&self, place: usize) -> u16 {
        self.slots[place]
    }

    /// The place behind `place`.
    pub(super) fn next(&self, place: usize) -> usize {
        if place + 1 == self.slots.len() { 0 } else { place + 1 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// 0 to `count` - 1, in proportion to `hash` (Lemire).
pub(super) fn below(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

/// Spreads the bits of a key's hash over all places (the finisher of SplitMix64): keys that differ little lie far apart.
pub(super) fn spread(key: u64) -> u64 {
    let key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}

/// The nth point, or starting place, of an endpoint.
fn point(name: &str, salt: u64) -> u64 {
    use std::hash::BuildHasher as _;
    FixedState::with_seed(0x6261_7761_6221).hash_one((name, salt))
}

/// Salts for members of one name, which are otherwise at the same places: the nth of them gets the nth.
fn salts(members: &[Member<'_>]) -> Vec<u64> {
    let mut seen: HashMap<&str, u64> = HashMap::new();
    let nth = members.iter().map(|member| {
        let count = seen.entry(member.name).or_default();
        *count += 1;
        *count - 1
    });
    nth.map(|nth| nth << 32).collect()
}

/// Slots by the number of endpoints that are written: primes, with at least 16 slots for each endpoint there can be. By what is
/// written and not by who is usable: a table of another size would move every key.
const SLOTS: [(usize, usize); 3] = [(1_024, 65_537), (4_096, 262_147), (usize::MAX, 1_048_583)];

/// A table for some of `written` endpoints after Maglev (Eisenbud and others, NSDI 2016): as even as can be, and a few keys more
/// move than need to.
pub(super) fn maglev(members: &[Member<'_>], written: usize) -> Table {
    if members.is_empty() {
        return Table { slots: Vec::new() };
    }
    let slot_count = SLOTS.iter().find(|(most, _)| written <= *most).map_or(65_537, |(_, slots)| *slots);
    // Each walks the slots in an order of its own and takes the next free one when it is its turn.
    struct Walk {
        at: usize,
        step: usize,
    }
    let walk = |(member, salt): (&Member<'_>, u64)| Walk {
        at: below(point(member.name, salt), slot_count),
        step: 1 + below(point(member.name, salt | 1), slot_count - 1),
    };
    let mut walks: Vec<Walk> = members.iter().zip(salts(members)).map(walk).collect();
    let turns = schedule(&members.iter().map(|member| member.weight).collect::<Vec<_>>());
    let mut taken = vec![false; slot_count];
    let mut slots = vec![0; slot_count];
    for &turn in turns.iter().cycle().take(slot_count) {
        let walk = &mut walks[usize::from(turn)];
        // Ends: the number of slots is prime, so every walk comes by all of them, and one is free.
        while taken[walk.at] {
            walk.at += walk.step;
            if walk.at >= slot_count {
                walk.at -= slot_count;
            }
        }
        taken[walk.at] = true;
        slots[walk.at] = members[usize::from(turn)].index;
    }
    Table { slots }
}

/// Points of an endpoint of average weight.
const POINTS_EACH: usize = 160;

/// Points of a ring; many endpoints have fewer each.
const POINTS_MAX: usize = 1 << 19;

/// Fewest places of a ring, as a power of two: few endpoints lose nothing by where their points are rounded to.
const RING_BITS_MIN: u32 = 16;

/// A table for some of `written` endpoints from a ring: a key belongs to the first point at or behind its place. Only keys of an
/// endpoint that goes move, but shares are some 8 % off. A ring is searched; written out it is one look, and stays a ring.
pub(super) fn ring(members: &[Member<'_>], written: usize) -> Table {
    let each = (POINTS_MAX / written.max(1)).clamp(1, POINTS_EACH);
    let mut points = Vec::new();
    for (member, salt) in members.iter().zip(salts(members)) {
        let count = (each as f64 * member.portion).round().max(1.0) as u64;
        points.extend((0..count).map(|nth| ((point(member.name, salt | nth) >> 32) as u32, member.index)));
    }
    points.sort_unstable();
    let Some(&(_, first)) = points.first() else { return Table { slots: Vec::new() } };
    // At least as many places as there are points: by what is written, so that the same ones are there whoever is usable.
    let bits = (each * written).next_power_of_two().trailing_zeros().max(RING_BITS_MIN);
    let mut slots = Vec::with_capacity(1 << bits);
    for (position, index) in points {
        let place = (position >> (u32::BITS - bits)) as usize;
        // Of points in one place the first has it.
        slots.resize(slots.len().max(place + 1), index);
    }
    // Behind the last point the circle begins again.
    slots.resize(1 << bits, first);
    Table { slots }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 100_000;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|nth| format!("10.0.{}.{}:8000", nth / 256, nth % 256)).collect()
    }

    /// Who of `weights` each key belongs to. Weight 0: not there, though written.
    fn owners(make: fn(&[Member<'_>], usize) -> Table, weights: &[u64]) -> Vec<u16> {
        let names = names(weights.len());
        let mean = weights.iter().sum::<u64>().max(1) as f64 / weights.len() as f64;
        owners_of(make, weights, &names, mean)
    }

    fn owners_of(make: fn(&[Member<'_>], usize) -> Table, weights: &[u64], names: &[String], mean: f64) -> Vec<u16> {
        let members = weights.iter().enumerate().filter(|(_, weight)| **weight > 0).map(|(index, &weight)| Member {
            index: index as u16,
            name: &names[index],
            weight,
            portion: weight as f64 / mean,
        });
        let table = make(&members.collect::<Vec<_>>(), weights.len());
        (0..KEYS).map(|key| table.at(table.place(spread(key)))).collect()
    }

    fn shares(owners: &[u16], count: usize) -> Vec<f64> {
        let mut shares = vec![0.0; count];
        owners.iter().for_each(|&owner| shares[usize::from(owner)] += 1.0 / KEYS as f64);
        shares
    }

    #[test]
    fn keys_are_shared_by_weight() {
        for (make, within) in [(maglev as fn(&[Member<'_>], usize) -> Table, 0.02), (ring, 0.35)] {
            let weights = [1, 2, 3, 4, 0, 10];
            let shares = shares(&owners(make, &weights), weights.len());
            for (share, weight) in shares.iter().zip(weights) {
                let due = weight as f64 / 20.0;
                assert!((share - due).abs() <= due * within, "{shares:?}");
            }
        }
    }

    #[test]
    fn few_keys_move_when_an_endpoint_goes() {
        // Of the 95 % that need not move: none on a ring, and some on a Maglev table.
        for (make, moved_max) in [(maglev as fn(&[Member<'_>], usize) -> Table, 0.05), (ring, 0.0)] {
            let mut weights = [10; 20];
            let before = owners_of(make, &weights, &names(20), 10.0);
            weights[7] = 0;
            let after = owners_of(make, &weights, &names(20), 10.0);
            let stayed = before.iter().zip(&after).filter(|(before, _)| **before != 7);
            let moved = stayed.filter(|(before, after)| before != after).count();
            assert!(moved as f64 <= moved_max * KEYS as f64, "{moved}");
            assert!(after.iter().all(|&owner| owner != 7));
            // A tenth of its weight comes back, and takes no more than about that.
            weights[7] = 1;
            let ramping = owners_of(make, &weights, &names(20), 10.0);
            let share = shares(&ramping, 20)[7];
            assert!((0.001..0.012).contains(&share), "{share}");
            let moved = after.iter().zip(&ramping).filter(|(after, ramping)| after != ramping && **ramping != 7);
            assert!(moved.count() as f64 <= moved_max * KEYS as f64);
        }
    }

    #[test]
    fn one_two_and_the_same_twice() {
        for make in [maglev as fn(&[Member<'_>], usize) -> Table, ring] {
            assert!(make(&[], 0).is_empty());
            assert!(owners(make, &[3]).iter().all(|&owner| owner == 0));
            let twice = ["10.0.0.1:80".to_owned(), "10.0.0.1:80".to_owned()];
            let shares = shares(&owners_of(make, &[1, 1], &twice, 1.0), 2);
            assert!(shares.iter().all(|share| (0.3..0.7).contains(share)), "{shares:?}");
        }
    }

    #[test]
    fn a_place_belongs_to_the_first_point_at_or_behind_it() {
        let names = ["a", "b", "c"];
        let member = |(index, name)| Member { index, name, weight: 1, portion: 0.05 };
        let table = ring(&(0..).zip(names).map(member).collect::<Vec<_>>(), 3);
        assert_eq!(table.slots.len(), 1 << RING_BITS_MIN);
        let mut points: Vec<(usize, u16)> = (0..)
            .zip(names)
            .flat_map(|(index, name)| {
                (0..8).map(move |nth| ((point(name, nth) >> (64 - RING_BITS_MIN)) as usize, index))
            })
            .collect();
        points.sort_unstable();
        for place in 0..table.slots.len() {
            let behind = points.iter().find(|(point, _)| *point >= place).unwrap_or(&points[0]);
            assert_eq!(table.at(place), behind.1, "{place}");
        }
    }

    #[test]
    fn a_ring_has_as_many_places_whoever_is_usable_and_is_bounded() {
        let weights = vec![1; 1_000];
        let some: Vec<u64> = (0..1_000).map(|nth| u64::from(nth % 7 == 0)).collect();
        let size = |weights: &[u64]| {
            let names = names(weights.len());
            let members = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
            let members =
                members.map(|(at, &weight)| Member { index: at as u16, name: &names[at], weight, portion: 1.0 });
            ring(&members.collect::<Vec<_>>(), weights.len()).slots.len()
        };
        assert_eq!((size(&weights), size(&some)), (1 << 18, 1 << 18));
        assert!(size(&vec![1; 65_536]) <= 2 * POINTS_MAX);
    }

    #[test]
    fn slots_are_prime_and_enough() {
        for (_, slots) in SLOTS {
            assert!((2..).take_while(|n| n * n <= slots).all(|n| slots % n != 0), "{slots}");
        }
        let weights = vec![1; 1_000];
        let shares = shares(&owners(maglev, &weights), 1_000);
        assert!(shares.iter().all(|share| *share > 0.0));
    }
}
