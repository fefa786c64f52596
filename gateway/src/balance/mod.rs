//! Which endpoint of an upstream gets a request. The choice is the worker's own; the endpoints are the snapshot's.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use crate::limits::CONNECT_ATTEMPTS_MAX;
use crate::rt::Peer;
use crate::tables::health::State;

/// Entries of the schedule: weights beyond this precision are rounded.
const SCHEDULE_MAX: u64 = 4096;

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Whom a connection is to: what must be equal for a kept one to be used again.
#[derive(Debug, Clone)]
pub struct Identity {
    pub peer: Peer,
    /// Of everything else here, so that a pool need not hash it again.
    hash: u64,
}

impl Identity {
    pub fn new(peer: Peer) -> Identity {
        Identity { hash: HASHER.hash_one(&peer), peer }
    }
}

/// A hasher for keys that carry their hash.
#[derive(Debug, Default, Clone, Copy)]
pub struct Prehashed(u64);

impl std::hash::Hasher for Prehashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("an identity writes its hash and nothing else")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        self.hash == other.hash && self.peer == other.peer
    }
}

impl Eq for Identity {}

impl std::hash::Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    pub identity: Identity,
    /// The address as text, for logs.
    pub label: String,
    /// The address as it was written, for `host = "endpoint"`.
    pub written: String,
    pub weight: u32,
    /// What all cores know of it.
    pub state: Arc<State>,
}

/// What a pick goes by.
pub struct Asking<'a> {
    /// Whose turn it is, for this worker.
    pub cursor: &'a Cell<u32>,
    /// Endpoints this exchange has tried: others go first.
    pub tried: &'a [Arc<Endpoint>],
}

/// The endpoints of an upstream and the order in which they take turns.
#[derive(Debug, Default)]
pub struct Endpoints {
    list: Vec<Arc<Endpoint>>,
    /// Indices into `list`, each as often as its weight says, spread as evenly as can be.
    schedule: Vec<u16>,
}

impl Endpoints {
    /// The IP addresses they are at.
    pub fn addresses(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.list.iter().filter_map(|endpoint| endpoint.identity.peer.ip())
    }

    /// At most 65,536 endpoints; more are left out.
    pub fn new(mut list: Vec<Arc<Endpoint>>) -> Endpoints {
        list.truncate(usize::from(u16::MAX) + 1);
        let schedule = schedule(&list.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>());
        Endpoints { list, schedule }
    }

    pub fn list(&self) -> &[Arc<Endpoint>] {
        &self.list
    }

    /// How many endpoints are worth a try before a request is given up.
    pub fn tries(&self) -> u32 {
        (self.list.len() as u32).min(CONNECT_ATTEMPTS_MAX)
    }

    /// An endpoint for one attempt: of those that were not tried yet, if there is one among the next few. O(1). `None`: there is
    /// none with a weight.
    pub fn pick(&self, asking: &Asking<'_>) -> Option<&Arc<Endpoint>> {
        let tried = |endpoint: &Arc<Endpoint>| asking.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
        let mut picked = self.next(asking.cursor)?;
        for _ in 0..asking.tried.len() {
            if !tried(picked) {
                break;
            }
            picked = self.next(asking.cursor)?;
        }
        Some(picked)
    }

    /// The next endpoint in turn.
    fn next(&self, cursor: &Cell<u32>) -> Option<&Arc<Endpoint>> {
        let turn = cursor.get();
        cursor.set(turn.wrapping_add(1));
        let at = turn as usize % self.schedule.len().max(1);
        self.schedule.get(at).map(|&index| &self.list[usize::from(index)])
    }
}

/// Smooth weighted round robin, written out: every endpoint gains its weight a turn, the richest one is picked and pays
/// the sum. Equal weights give one turn each.
fn schedule(weights: &[u32]) -> Vec<u16> {
    let divisor = weights.iter().fold(0u64, |divisor, &weight| gcd(divisor, u64::from(weight)));
    if divisor == 0 {
        return Vec::new();
    }
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight) / divisor).sum();
    let live = weights.iter().filter(|&&weight| weight > 0).count() as u64;
    let shares: Vec<i64> = weights
        .iter()
        .map(|&weight| {
            let share = u64::from(weight) / divisor;
            match weight {
                0 => 0,
                _ if sum <= SCHEDULE_MAX.max(live) => share as i64,
                // No endpoint with a weight is rounded down to nothing.
                _ => (u128::from(share) * u128::from(SCHEDULE_MAX) / u128::from(sum)).max(1) as i64,
            }
        })
        .collect();
    let turns: i64 = shares.iter().sum();
    if live as i64 == turns {
        // All the same: the order they were written in.
        return (0..weights.len()).filter(|&index| shares[index] > 0).map(|index| index as u16).collect();
    }
    let mut credit = vec![0i64; shares.len()];
    (0..turns)
        .map(|_| {
            credit.iter_mut().zip(&shares).for_each(|(credit, share)| *credit += share);
            let best = (0..credit.len()).rev().max_by_key(|&index| credit[index]).expect("turns > 0");
            credit[best] -= turns;
            best as u16
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_exactly_and_spread() {
        let check = |weights: &[u32], expected: &[u16]| assert_eq!(schedule(weights), expected, "{weights:?}");
        check(&[], &[]);
        check(&[0, 0], &[]);
        check(&[1, 1, 1], &[0, 1, 2]);
        check(&[7, 7], &[0, 1]);
        check(&[1, 0, 1], &[0, 2]);
        check(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
        check(&[2, 4], &[1, 0, 1]);
    }

    #[test]
    fn a_tiny_share_beside_a_huge_one_is_not_lost() {
        let turns = schedule(&[1_000_000, 1]);
        assert!(turns.len() as u64 <= SCHEDULE_MAX + 1);
        assert_eq!(turns.iter().filter(|&&index| index == 1).count(), 1);
    }

    #[test]
    fn no_endpoint_no_pick() {
        let asking = Asking { cursor: &Cell::new(u32::MAX), tried: &[] };
        assert!(Endpoints::default().pick(&asking).is_none());
    }

    #[test]
    fn others_go_before_those_that_were_tried() {
        let endpoint = |port: u16| {
            let peer = Peer::Tcp(([127, 0, 0, 1], port).into());
            let (label, written, state) = (peer.to_string(), String::new(), Arc::default());
            Arc::new(Endpoint { identity: Identity::new(peer), label, written, weight: 1, state })
        };
        let endpoints = Endpoints::new((1..=3).map(endpoint).collect());
        let cursor = Cell::new(0);
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        for _ in 0..3 {
            let picked = endpoints.pick(&Asking { cursor: &cursor, tried: &tried }).expect("one of them");
            assert!(!tried.iter().any(|tried| Arc::ptr_eq(tried, picked)), "{}", picked.label);
            tried.push(picked.clone());
            // Another exchange has a turn in between.
            endpoints.pick(&Asking { cursor: &cursor, tried: &[] }).expect("one of them");
        }
        assert!(endpoints.pick(&Asking { cursor: &cursor, tried: &tried }).is_some(), "again, when all were tried");
    }
}
