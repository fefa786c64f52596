//! A world without sockets: a clock and a lot of its own, endpoints that take as long as they are told.

mod peers;

use std::collections::BinaryHeap;

use super::*;
use crate::config::model;
use crate::rt::Peer;
use crate::tables::health::{Health, InFlight, Outcome, Thresholds};

/// An upstream, as it is written.
fn settings(text: &str) -> Settings {
    let written: model::Upstream = toml::from_str(&format!("endpoints = ['a:1']\n{text}")).expect(text);
    Settings::of(&written)
}

const POLICIES: [&str; 5] = [
    "balance = 'round_robin'",
    "balance = 'least_request'",
    "balance = 'peak_ewma'",
    "balance = { policy = 'maglev', on = 'header:x-user' }",
    "balance = { policy = 'ring_hash', on = 'header:x-user', load_max = 1.25 }",
];

struct World {
    settings: Arc<Settings>,
    list: Vec<Arc<Endpoint>>,
    endpoints: Endpoints,
    cursor: Cell<u32>,
    random: u64,
    now_ms: u64,
}

impl World {
    /// Endpoints as `weight` or `weight/priority`, perhaps with `#tag`s behind, of which a
    /// distance is one.
    fn new(text: &str, endpoints: &str) -> World {
        let health = Health::default();
        let endpoint = |(port, word): (u16, &str)| {
            let mut parts = word.split('#');
            let place = parts.next().unwrap_or_default();
            let (weight, priority) = place.split_once('/').unwrap_or((place, "0"));
            let tags: Vec<String> = parts.map(str::to_owned).collect();
            let distance = Distance::ALL.into_iter().find(|distance| tags.iter().any(|tag| tag == distance.name()));
            let about = About { tags, distance, ..About::default() };
            let peer = Peer::Tcp(([10, 0, 0, 1], port).into());
            let label = peer.to_string();
            Arc::new(Endpoint {
                state: health.of("orders", &label),
                identity: Identity::new(peer, Arc::default()),
                written: label.clone(),
                label,
                weight: weight.parse().expect(word),
                priority: priority.parse().expect(word),
                about: Arc::new(about),
            })
        };
        let list = (1..).zip(endpoints.split_whitespace()).map(endpoint).collect();
        let mut world = World {
            settings: Arc::new(settings(text)),
            list,
            endpoints: Endpoints::default(),
            cursor: Cell::new(0),
            random: 7,
            now_ms: 0,
        };
        world.compile(&[]);
        world
    }

    /// Compiles what is now, without those that are `down`.
    fn compile(&mut self, down: &[usize]) {
        let usable = |endpoint: &Endpoint| !down.iter().any(|&at| std::ptr::eq(&*self.list[at], endpoint));
        self.endpoints = Endpoints::compile(self.list.clone(), &self.settings, usable, self.now_ms);
    }

    fn lot(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        spread(self.random)
    }

    fn pick_again(&mut self, key: Option<u64>, tried: &[Arc<Endpoint>]) -> Option<usize> {
        let lot = self.lot();
        let asking = Asking { cursor: &self.cursor, tried, lot, key, held: None, now_ms: self.now_ms };
        let picked = self.endpoints.pick(&asking)?;
        self.list.iter().position(|endpoint| Arc::ptr_eq(endpoint, picked))
    }

    fn pick(&mut self, key: Option<u64>) -> Option<usize> {
        self.pick_again(key, &[])
    }

    fn begin(&mut self, key: Option<u64>) -> (usize, InFlight) {
        let at = self.pick(key).expect("somebody");
        (at, self.list[at].state.begin())
    }

    /// Which share of `count` requests each gets, in hundredths, when nobody is busy.
    fn shares(&mut self, count: usize) -> Vec<u32> {
        let mut picked = vec![0; self.list.len()];
        for _ in 0..count {
            picked[self.pick(None).expect("somebody")] += 1;
        }
        picked.iter().map(|&picked| (picked as f64 * 100.0 / count as f64).round() as u32).collect()
    }

    /// Sends a request every `gap_ms` until `until_ms`; each endpoint answers after its `took_ms`. How many each got.
    fn run(&mut self, gap_ms: u64, until_ms: u64, took_ms: &[u64]) -> Vec<u32> {
        let mut counts = vec![0; self.list.len()];
        // By when they end, soonest first.
        let mut running: BinaryHeap<(std::cmp::Reverse<u64>, usize)> = BinaryHeap::new();
        let mut guards: Vec<Vec<InFlight>> = self.list.iter().map(|_| Vec::new()).collect();
        while self.now_ms < until_ms {
            while let Some(&(std::cmp::Reverse(end), at)) = running.peek()
                && end <= self.now_ms
            {
                running.pop();
                guards[at].pop();
                self.list[at].state.answered(200, took_ms[at] * 1000, end);
            }
            let (at, guard) = self.begin(None);
            counts[at] += 1;
            guards[at].push(guard);
            running.push((std::cmp::Reverse(self.now_ms + took_ms[at]), at));
            self.now_ms += gap_ms;
        }
        counts
    }
}

fn close(shares: &[u32], expected: &[u32], within: u32) -> bool {
    shares.len() == expected.len() && shares.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= within)
}

#[test]
fn where_nobody_is_busy_weights_hold_under_every_policy() {
    for policy in POLICIES {
        // Points of a ring fall as they fall.
        let within = if policy.contains("ring") { 8 } else { 2 };
        let shares = World::new(policy, "5 3 2 0").shares(20_000);
        assert!(close(&shares, &[50, 30, 20, 0], within), "{policy}: {shares:?}");
        let shares = World::new(policy, "1 1 1 1").shares(20_000);
        assert!(close(&shares, &[25; 4], within), "{policy}: {shares:?}");
    }
}

#[test]
fn none_and_one_and_only_weights_of_zero() {
    for policy in POLICIES {
        assert_eq!(World::new(policy, "").pick(Some(1)), None, "{policy}");
        assert_eq!(World::new(policy, "0 0").pick(Some(1)), None, "{policy}");
        assert_eq!(World::new(policy, "0 9").shares(10), [0, 100], "{policy}");
        let mut none_usable = World::new(&format!("panic_threshold = '0%'\n{policy}"), "1 1");
        none_usable.compile(&[0, 1]);
        assert_eq!((none_usable.pick(None), none_usable.endpoints.tries()), (None, 0), "{policy}");
    }
    let default = Endpoints::default();
    let asking = Asking { cursor: &Cell::new(u32::MAX), tried: &[], lot: u64::MAX, key: None, held: None, now_ms: 0 };
    assert!(default.pick(&asking).is_none());
}

#[test]
fn the_same_address_twice_counts_twice() {
    for policy in POLICIES {
        let mut world = World::new(policy, "1 1");
        let twin = &world.list[0];
        let twin = Endpoint {
            identity: twin.identity.clone(),
            label: twin.label.clone(),
            written: String::new(),
            state: twin.state.clone(),
            about: twin.about.clone(),
            ..**twin
        };
        world.list.push(Arc::new(twin));
        world.compile(&[]);
        let shares = world.shares(20_000);
        assert!(close(&shares, &[33; 3], 8), "{policy}: {shares:?}");
    }
}

#[test]
fn others_go_before_those_that_were_tried() {
    for policy in POLICIES {
        // The last one has one turn in a thousand, and still it is found.
        for weights in ["1 1 1", "1000 1000 1", "1 1 1000/0"] {
            let mut world = World::new(policy, weights);
            for key in 0..50 {
                let mut tried: Vec<Arc<Endpoint>> = Vec::new();
                for _ in 0..3 {
                    let picked = world.pick_again(Some(key), &tried).expect("one of them");
                    let picked = world.list[picked].clone();
                    let is_new = !tried.iter().any(|tried| Arc::ptr_eq(tried, &picked));
                    assert!(is_new, "{policy}, {weights}: {} after {}", picked.label, tried.len());
                    tried.push(picked);
                    // Another exchange has a turn in between.
                    world.pick(None);
                }
                assert!(world.pick_again(Some(key), &tried).is_some(), "again, when all were tried");
            }
        }
    }
}

#[test]
fn a_request_that_has_failed_goes_to_nobody_who_fails() {
    let thresholds = Thresholds { any_5xx: 100, gateway: 100, local: 100 };
    for policy in POLICIES {
        let mut world = World::new(policy, "1 1 1 1 1 1");
        let tried = [world.list[0].clone()];
        for failing in 1..4 {
            world.list[failing].state.ended(Outcome::Local, &thresholds);
        }
        for key in 0..200 {
            let picked = world.pick_again(Some(key), &tried);
            assert!(picked.is_some_and(|picked| picked >= 4), "{policy}: {picked:?}");
        }
        let mut first = [0; 6];
        (0..600).for_each(|key| first[world.pick(Some(spread(key))).expect("somebody")] += 1);
        assert!(first.iter().all(|&count| count > 20), "{policy}: first attempts find out: {first:?}");
        for failing in 4..6 {
            world.list[failing].state.ended(Outcome::Local, &thresholds);
        }
        let picked = world.pick_again(Some(7), &tried);
        assert!(picked.is_some_and(|picked| picked > 0), "{policy}: where all fail, one that was not tried");
        world.list[5].state.ended(Outcome::Well, &thresholds);
        world.list[4].state.ended(Outcome::Well, &thresholds);
        // Taken out while the exchange runs, and counted anew.
        world.list[4].state.usable_ms(false, 0);
        assert_eq!(world.pick_again(Some(7), &tried), Some(5), "{policy}");
    }
}

#[test]
fn least_request_sends_less_to_the_slow() {
    let mut world = World::new("balance = 'least_request'", "1 1 1 1");
    // Two hundred a second each could be served by the fast ones, and fifty by the slow one.
    let counts = world.run(2, 60_000, &[5, 5, 5, 200]);
    assert!(counts[3] * 5 < counts[0], "{counts:?}");
    let mut world = World::new("balance = 'round_robin'", "1 1 1 1");
    let counts = world.run(2, 60_000, &[5, 5, 5, 200]);
    assert_eq!(counts[3], counts[0]);
}

#[test]
fn least_request_leaves_out_who_is_stuck() {
    let mut world = World::new("balance = 'least_request'", "1 1");
    let counts = world.run(10, 10_000, &[5, 1_000_000]);
    assert!(counts[1] <= 1, "{counts:?}");
}

#[test]
fn least_request_is_by_weight() {
    let mut world = World::new("balance = 'least_request'", "9 3 3");
    let running: Vec<_> = (0..1_500).map(|_| world.begin(None).1).collect();
    let busy: Vec<u32> = world.list.iter().map(|endpoint| endpoint.state.in_flight()).collect();
    assert!(close(&busy, &[900, 300, 300], 10), "{busy:?}");
    drop(running);
    assert!(world.list.iter().all(|endpoint| endpoint.state.in_flight() == 0));
}

#[test]
fn peak_ewma_prefers_the_fast_and_forgives() {
    let mut world = World::new("balance = 'peak_ewma'", "1 1 1");
    let counts = world.run(10, 60_000, &[5, 5, 100]);
    assert!(counts[2] * 10 < counts[0] && counts[2] > 1, "{counts:?}");
    // It has become as fast as the others.
    let from = world.now_ms;
    world.run(10, from + 60_000, &[5, 5, 5]);
    let counts = world.run(10, from + 180_000, &[5, 5, 5]);
    assert!(counts[2] * 2 > counts[0], "{counts:?}");
}

#[test]
fn peak_ewma_turns_away_from_who_fails_at_once() {
    let mut world = World::new("balance = 'peak_ewma'", "1 1");
    world.run(10, 1_000, &[5, 5]);
    world.list[0].state.answered(503, 10, world.now_ms);
    let counts = world.run(10, 11_000, &[5, 5]);
    assert!(counts[0] < 10, "{counts:?}");
    let mut world = World::new("balance = 'peak_ewma'", "1 1");
    world.run(10, 1_000, &[5, 5]);
    world.list[0].state.failed(world.now_ms);
    let counts = world.run(10, 11_000, &[5, 5]);
    assert!(counts[0] < 10, "{counts:?}");
    // Who does not go by it knows nothing.
    let world = World::new("", "1");
    world.list[0].state.failed(0);
    assert_eq!(world.list[0].state.cost(0), 0.0);
}

#[test]
fn a_key_stays_with_its_endpoint_and_few_move_when_one_goes() {
    for (policy, moved_max) in [(POLICIES[3], 0.05), (POLICIES[4], 0.0)] {
        let mut world = World::new(policy, "1 1 1 1 1 1 1 1 1 1");
        let before: Vec<_> = (0..10_000).map(|key| world.pick(Some(key))).collect();
        let again: Vec<_> = (0..10_000).map(|key| world.pick(Some(key))).collect();
        assert_eq!(before, again, "{policy}");
        world.compile(&[4]);
        let after: Vec<_> = (0..10_000).map(|key| world.pick(Some(key))).collect();
        let moved = before.iter().zip(&after).filter(|(before, after)| **before != Some(4) && before != after).count();
        assert!(moved as f64 <= 10_000.0 * moved_max, "{policy}: {moved}");
        assert!(!after.contains(&Some(4)), "{policy}");
        world.compile(&[]);
        let back: Vec<_> = (0..10_000).map(|key| world.pick(Some(key))).collect();
        assert_eq!(before, back, "{policy}");
    }
}

#[test]
fn on_a_ring_nobody_elses_keys_move_when_an_endpoint_is_drained() {
    let mut world = World::new(POLICIES[4], "1 2 3 9");
    let before: Vec<_> = (0..10_000).map(|key| world.pick(Some(key))).collect();
    world.list[3].state.record().drained = true;
    world.compile(&[3]);
    for (key, before) in before.iter().enumerate() {
        let after = world.pick(Some(key as u64));
        assert!(after != Some(3) && (*before == Some(3) || *before == after), "{key}: {before:?} became {after:?}");
    }
}

#[test]
fn nobody_is_busier_than_the_bound_however_hot_a_key_is() {
    for table in ["maglev", "ring_hash"] {
        let policy = format!("balance = {{ policy = '{table}', on = 'path', load_max = 1.25 }}");
        for weights in ["1 1 1 1 1 1 1 1", "4 2 2 1 1"] {
            let mut world = World::new(&policy, weights);
            let sum: f64 = world.list.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
            let mut running = Vec::new();
            for nth in 1..=400u32 {
                running.push(world.begin(Some(11)).1);
                for endpoint in &world.list {
                    let due = 1.25 * f64::from(nth) * f64::from(endpoint.weight) / sum;
                    let busy = endpoint.state.in_flight();
                    assert!(f64::from(busy) <= due.ceil(), "{policy} {weights}: {busy} of {nth}, due {due}");
                }
            }
            // While it has room, the key's own endpoint has it.
            drop(running);
            let home = world.pick(Some(11));
            assert!((0..10).all(|_| world.pick(Some(11)) == home));
        }
    }
    let mut unbound = World::new("balance = { policy = 'maglev', on = 'path' }", "1 1 1");
    let home = unbound.pick(Some(11));
    let running: Vec<_> = (0..100).map(|_| unbound.begin(Some(11))).collect();
    assert!(running.iter().all(|(at, _)| Some(*at) == home));
}

#[test]
fn what_runs_when_a_bound_is_introduced_is_not_taken_off() {
    let mut world = World::new("", "1 1");
    let before = world.begin(None);
    world.settings = Arc::new(settings("balance = { policy = 'maglev', on = 'path', load_max = 1.5 }"));
    world.compile(&[]);
    let upstream = |world: &World| world.list[0].state.upstream().in_flight();
    let after = world.begin(Some(1));
    assert_eq!(upstream(&world), 1);
    drop((before, after));
    assert_eq!(upstream(&world), 0);
}

#[test]
fn an_endpoint_that_is_new_or_usable_again_starts_slowly() {
    for policy in &POLICIES[..4] {
        let mut world = World::new(&format!("slow_start = '30s'\n{policy}"), "10 10 10");
        assert!(!world.endpoints.is_ramping(), "{policy}: all have begun at one time");
        assert!(close(&world.shares(10_000), &[33; 3], 2), "{policy}");
        world.now_ms = 100_000;
        world.compile(&[2]);
        assert!(close(&world.shares(10_000), &[50, 50, 0], 2), "{policy}");
        world.now_ms = 200_000;
        // 0.1, 0.55 and 1 of the weight.
        for (after_ms, expected) in [(0, [48, 48, 5]), (15_000, [39, 39, 22]), (30_000, [33, 33, 33])] {
            world.now_ms = 200_000 + after_ms;
            world.compile(&[]);
            let shares = world.shares(10_000);
            assert!(close(&shares, &expected, 2), "{policy} after {after_ms}: {shares:?}");
            assert_eq!(world.endpoints.is_ramping(), after_ms < 30_000, "{policy} after {after_ms}");
        }
    }
}

#[test]
fn the_next_priority_takes_over_by_the_share_that_is_lost() {
    for policy in POLICIES {
        let within = if policy.contains("ring") { 8 } else { 2 };
        let mut world = World::new(policy, "1 1 1/1 1/1");
        assert!(close(&world.shares(10_000), &[50, 50, 0, 0], within), "{policy}");
        world.compile(&[0]);
        let shares = world.shares(10_000);
        assert!(close(&shares, &[0, 70, 15, 15], within), "{policy}: {shares:?}");
        world.compile(&[0, 1]);
        let shares = world.shares(10_000);
        assert!(close(&shares, &[0, 0, 50, 50], within), "{policy}: {shares:?}");
    }
}

#[test]
fn with_too_few_usable_all_are_used() {
    for policy in POLICIES {
        let within = if policy.contains("ring") { 8 } else { 2 };
        let mut world = World::new(policy, "1 1 1 1");
        world.compile(&[0, 1]);
        assert!(close(&world.shares(10_000), &[0, 0, 50, 50], within), "{policy}");
        world.compile(&[0, 1, 2]);
        assert!(close(&world.shares(10_000), &[25; 4], within), "{policy}");
        world.settings = Arc::new(settings(&format!("panic_threshold = '0%'\n{policy}")));
        world.compile(&[0, 1, 2]);
        assert_eq!(world.shares(100), [0, 0, 0, 100], "{policy}");
    }
}

/// Subsets as routes ask for them, by number.
fn with_subsets(policy: &str, subsets: &[&str], endpoints: &str) -> World {
    let subsets: Vec<Subset> =
        subsets.iter().map(|text| Subset::of(&toml::from_str::<Asked>(text).expect(text).subset)).collect();
    let mut world = World::new(policy, endpoints);
    world.settings = Arc::new(settings(policy).with_subsets(&subsets));
    world.compile(&[]);
    world
}

#[derive(serde::Deserialize)]
struct Asked {
    subset: model::Subset,
}

impl World {
    /// Which share of `count` requests for a subset each gets, in hundredths.
    fn shares_of(&mut self, subset: u16, count: usize) -> Vec<u32> {
        let mut picked = vec![0; self.list.len()];
        let cursor = Cell::new(0);
        for _ in 0..count {
            let asking =
                Asking { cursor: &cursor, tried: &[], lot: self.lot(), key: None, held: None, now_ms: self.now_ms };
            if let Some(endpoint) = self.endpoints.of(subset).pick(&asking) {
                let at = self.list.iter().position(|known| Arc::ptr_eq(known, endpoint));
                picked[at.expect("one of them")] += 1;
            }
        }
        picked.iter().map(|&picked| (picked as f64 * 100.0 / count as f64).round() as u32).collect()
    }
}

#[test]
fn a_subset_is_those_with_all_of_its_tags_and_shares_by_weight() {
    let subsets =
        ["subset = ['v2']", "subset = ['eu', 'v2']", "subset = ['v3']", "subset = { tags = ['v3'], fallback = 'any' }"];
    for policy in POLICIES {
        let within = if policy.contains("ring") { 9 } else { 2 };
        let mut world = with_subsets(policy, &subsets, "3#v2#eu 1#v2 1#v1#eu 0#v2#eu");
        let shares = world.shares_of(1, 10_000);
        assert!(close(&shares, &[75, 25, 0, 0], within), "{policy}: {shares:?}");
        assert_eq!(world.shares_of(2, 100), [100, 0, 0, 0], "{policy}");
        assert_eq!(world.shares_of(3, 100), [0; 4], "{policy}: nobody has it");
        for all in [0, 4] {
            let shares = world.shares_of(all, 10_000);
            assert!(close(&shares, &[60, 20, 20, 0], within), "{policy}: {shares:?}");
        }
        // A number nobody has given, as after a reload that took it away.
        assert!(std::ptr::eq(world.endpoints.of(5), &world.endpoints));
    }
}

#[test]
fn a_subset_none_of_whom_is_usable_falls_back_if_it_may_and_panics_if_not() {
    let subsets = ["subset = ['v2']", "subset = { tags = ['v2'], fallback = 'any' }"];
    for policy in POLICIES {
        let within = if policy.contains("ring") { 9 } else { 2 };
        let mut world = with_subsets(policy, &subsets, "1#v2 1#v2 1 1");
        world.compile(&[0]);
        for subset in [1, 2] {
            let shares = world.shares_of(subset, 100);
            assert!(close(&shares, &[0, 100, 0, 0], 0), "{policy}: {shares:?}");
        }
        world.compile(&[0, 1]);
        let shares = world.shares_of(1, 10_000);
        assert!(close(&shares, &[50, 50, 0, 0], within), "{policy}: {shares:?}");
        let shares = world.shares_of(2, 10_000);
        assert!(close(&shares, &[0, 0, 50, 50], within), "{policy}: {shares:?}");
        world.list[0].state.record().drained = true;
        world.list[1].state.record().drained = true;
        world.compile(&[0, 1]);
        assert_eq!(world.shares_of(1, 100), [0; 4], "{policy}: nobody who was taken out by hand");
        // They come back into it.
        world.list[1].state.record().drained = false;
        world.compile(&[0]);
        assert_eq!(world.shares_of(2, 100), [0, 100, 0, 0], "{policy}");
    }
}

#[test]
fn who_is_near_goes_first_as_far_as_it_can() {
    for policy in POLICIES {
        // Points of a ring fall as they fall, and here two hold the whole of it.
        let within = if policy.contains("ring") { 12 } else { 2 };
        let check = |world: &mut World, down: &[usize], expected: &[u32]| {
            world.compile(down);
            let shares = world.shares(10_000);
            assert!(close(&shares, expected, within), "{policy} without {down:?}: {shares:?}");
        };
        let mut world = World::new(policy, "1#zone 1#zone 1#datacenter 1#datacenter 2#far");
        check(&mut world, &[], &[50, 50, 0, 0, 0]);
        // Half of them take 1.4 times as much: the next ones have what is left over.
        check(&mut world, &[0], &[0, 70, 15, 15, 0]);
        check(&mut world, &[0, 2], &[0, 70, 0, 30, 0]);
        check(&mut world, &[0, 1], &[0, 0, 50, 50, 0]);
        check(&mut world, &[0, 1, 3], &[0, 0, 70, 0, 30]);
        check(&mut world, &[0, 1, 2, 3], &[0, 0, 0, 0, 100]);
        check(&mut world, &[0, 1, 2, 3, 4], &[17, 17, 17, 17, 33]);
        // Priorities go before distance.
        let mut world = World::new(policy, "1/1#zone 1/0#far 1/1#far 1/0#datacenter");
        check(&mut world, &[], &[0, 0, 0, 100]);
        check(&mut world, &[3], &[0, 100, 0, 0]);
        check(&mut world, &[1, 3], &[100, 0, 0, 0]);
        // Nobody near: nobody is preferred.
        check(&mut World::new(policy, "1#far 3#far"), &[], &[25, 75]);
        let ignored = format!("locality = 'ignore'\n{policy}");
        check(&mut World::new(&ignored, "1#zone 3#far"), &[], &[25, 75]);
    }
}

#[test]
fn where_the_near_and_the_first_were_tried_others_come_in() {
    for policy in POLICIES {
        let mut world = World::new(policy, "1#zone 1#far 1/1#zone 1#datacenter 0#zone 1#far");
        world.compile(&[5]);
        assert_eq!(world.shares(100), [100, 0, 0, 0, 0, 0], "{policy}");
        assert_eq!(world.endpoints.tries(), 3, "{policy}");
        for key in 0..20 {
            let mut tried = Vec::new();
            let mut order = Vec::new();
            for _ in 0..4 {
                let at = world.pick_again(Some(key), &tried).expect("somebody");
                order.push(at);
                tried.push(world.list[at].clone());
            }
            assert_eq!(order, [0, 3, 1, 2], "{policy}: the nearest of the first priority first");
            assert!(matches!(world.pick_again(Some(key), &tried), Some(0)), "{policy}: again when all were tried");
        }
    }
}

#[test]
fn spares_of_one_rank_share_what_comes_to_them() {
    let mut world = World::new("", "1#zone 1#far 1#far 1#far 1#far");
    let tried = [world.list[0].clone()];
    let mut counts = [0; 5];
    for _ in 0..4_000 {
        counts[world.pick_again(None, &tried).expect("somebody")] += 1;
    }
    assert!(counts[0] == 0 && counts[1..].iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
}
