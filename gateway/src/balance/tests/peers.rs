//! Peers that fail, go and come back, under every policy: what is counted, ejected and let back by a clock of the world's own,
//! through the same functions as the control side's.

use std::time::{Duration, Instant};

use super::*;
use crate::tables::health::rates::{Failures, RateRules, SuccessRate, Tally, outliers};
use crate::tables::health::record::{EjectionTimes, Standing, may_eject};
use crate::tables::health::{Cause, Outcome, Thresholds};

const TIMES: EjectionTimes = EjectionTimes { base: Duration::from_secs(30), max: Duration::from_secs(300) };
const INTERVAL_MS: u64 = 10_000;

/// A world whose peers fail so many of a hundred requests, and are ejected for it.
struct Failing {
    world: World,
    start: Instant,
    fails: Vec<u64>,
    thresholds: Thresholds,
    rates: Option<RateRules>,
    /// of a million
    share_max: u32,
    /// What each got, and what of it failed.
    got: Vec<u32>,
    failed: u32,
    ejections: u32,
}

impl Failing {
    fn new(policy: &str, fails: &[u64]) -> Failing {
        let weights = vec!["1"; fails.len()].join(" ");
        Failing {
            world: World::new(policy, &weights),
            start: Instant::now(),
            fails: fails.to_vec(),
            thresholds: Thresholds { any_5xx: 0, gateway: 0, local: 0 },
            rates: None,
            share_max: 500_000,
            got: vec![0; fails.len()],
            failed: 0,
            ejections: 0,
        }
    }

    fn in_a_row(policy: &str, fails: &[u64], any_5xx: u16) -> Failing {
        Failing { thresholds: Thresholds { any_5xx, gateway: 0, local: 0 }, ..Failing::new(policy, fails) }
    }

    fn by_rate(policy: &str, fails: &[u64]) -> Failing {
        let success_rate = Some(SuccessRate { factor: 1.9, below_min: 0.05, endpoints_min: 6, attempts_min: 100 });
        let interval = Duration::from_millis(INTERVAL_MS);
        let rates = RateRules { interval, failures: Failures::Any5xx, success_rate, failure_percentage: None };
        Failing { rates: Some(rates), ..Failing::new(policy, fails) }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.world.now_ms)
    }

    fn compile(&mut self) {
        let usable = |endpoint: &Endpoint| endpoint.state.standing() == Standing::Usable;
        self.world.endpoints = self.world.endpoints.again(usable, self.world.now_ms);
    }

    fn eject(&mut self, at: usize, cause: Cause) {
        let standings = self.world.list.iter().map(|endpoint| endpoint.state.standing());
        if self.world.list[at].state.standing() == Standing::Usable && may_eject(standings, self.share_max) {
            self.world.list[at].state.record().eject(cause, self.now(), TIMES);
            self.ejections += 1;
            self.compile();
        }
    }

    /// A hundred requests a second, until so many seconds have passed.
    fn run(&mut self, secs: u64) {
        let until = self.world.now_ms + secs * 1000;
        while self.world.now_ms < until {
            let key = self.world.lot();
            let at = self.world.pick(Some(key)).expect("never the last one");
            let fails = self.world.lot() % 100 < self.fails[at];
            self.got[at] += 1;
            self.failed += u32::from(fails);
            let outcome = if fails { Outcome::Failed } else { Outcome::Well };
            let state = self.world.list[at].state.clone();
            state.window.count(Failures::Any5xx.take(outcome));
            if let Some(cause) = state.ended(outcome, &self.thresholds) {
                self.eject(at, cause);
            }
            self.world.now_ms += 10;
            if self.world.now_ms.is_multiple_of(INTERVAL_MS) {
                self.judge();
            }
            self.let_back();
        }
    }

    fn judge(&mut self) {
        let tallies: Vec<Tally> = self.world.list.iter().map(|endpoint| endpoint.state.window.take()).collect();
        let Some(rates) = self.rates else { return };
        for outlier in outliers(&tallies, &rates) {
            self.eject(outlier.at, outlier.cause);
        }
    }

    fn let_back(&mut self) {
        let now = self.now();
        let mut back = false;
        for endpoint in &self.world.list {
            if endpoint.state.record().let_back(now, false).is_some() {
                endpoint.state.begin_anew();
                back = true;
            }
        }
        if back {
            self.compile();
        }
    }

    fn out(&self) -> usize {
        let standings = self.world.list.iter().map(|endpoint| endpoint.state.standing());
        standings.filter(|standing| *standing == Standing::Ejected).count()
    }

    fn forget(&mut self) {
        self.got.fill(0);
        self.failed = 0;
    }
}

#[test]
fn a_peer_that_fails_is_out_for_longer_and_longer_and_back_when_it_is_well() {
    for policy in POLICIES {
        let mut peers = Failing::in_a_row(policy, &[0, 0, 100, 0], 5);
        peers.run(600);
        // Thirty seconds, a minute, and so on: five times in ten minutes, of five failures each.
        assert!((5..=6).contains(&peers.ejections), "{policy}: {}", peers.ejections);
        assert_eq!(peers.failed, 5 * peers.ejections, "{policy}");
        peers.fails[2] = 0;
        peers.run(300);
        assert_eq!(peers.out(), 0, "{policy}");
        peers.forget();
        peers.run(100);
        assert!(peers.got[2] > 1_500 && peers.failed == 0, "{policy}: {:?}", peers.got);
    }
}

#[test]
fn no_more_peers_are_out_than_may_be_and_the_last_one_never() {
    for policy in POLICIES {
        for (share_max, most) in [(1_000_000, 3), (500_000, 2), (250_000, 1), (0, 0)] {
            let mut peers = Failing::in_a_row(policy, &[100; 4], 3);
            peers.share_max = share_max;
            for _ in 0..50 {
                peers.run(1);
                assert!(peers.out() <= most, "{policy} at {share_max}: {}", peers.out());
            }
            assert_eq!(peers.out(), most, "{policy} at {share_max}");
        }
    }
}

#[test]
fn a_peer_that_fails_now_and_then_is_found_by_its_rate_and_not_by_its_rows() {
    for policy in POLICIES {
        let fails = [1, 2, 1, 25, 1, 2, 1, 1];
        let mut rows = Failing::in_a_row(policy, &fails, 20);
        rows.run(120);
        assert_eq!(rows.ejections, 0, "{policy}");
        let mut rates = Failing::by_rate(policy, &fails);
        rates.run(120);
        assert!(rates.ejections > 0 && rates.got[3] * 2 < rows.got[3], "{policy}: {:?}", rates.got);
        let innocent: u32 = rates.got.iter().enumerate().filter(|(at, _)| *at != 3).map(|(_, got)| got).sum();
        assert!(innocent > 10_000, "{policy}: {:?}", rates.got);
        // When all do as badly nobody is worse, but for what is drawn.
        let mut all = Failing::by_rate(policy, &[50; 8]);
        all.run(120);
        assert!(all.ejections <= 4 && all.got.iter().all(|&got| got > 500), "{policy}: {:?}", all.got);
    }
}

#[test]
fn who_comes_back_from_an_ejection_starts_slowly() {
    let mut peers = Failing::in_a_row("slow_start = '60s'", &[0, 100], 5);
    peers.run(1);
    peers.fails[1] = 0;
    assert_eq!(peers.out(), 1);
    while peers.out() > 0 {
        peers.run(1);
    }
    peers.forget();
    peers.run(5);
    assert!(peers.got[1] < 100, "{:?}", peers.got);
    assert!(peers.world.endpoints.is_ramping());
    peers.world.now_ms += 60_000;
    peers.compile();
    peers.forget();
    peers.run(5);
    assert_eq!(peers.got[0], peers.got[1]);
}

/// Worlds nobody thought of: weights, priorities, distances and who is down are drawn.
#[test]
fn whatever_the_world_who_may_be_tried_is_tried_before_anybody_twice() {
    for policy in POLICIES {
        let mut lots = World::new("", "1");
        for nth in 0..80 {
            let mut draw = |below: u64| lots.lot() % below;
            let count = 1 + draw(7) as usize;
            let words: Vec<String> = (0..count)
                .map(|_| {
                    let distance = ["", "#zone", "#datacenter", "#far"][draw(4) as usize];
                    format!("{}/{}{distance}", [0, 1, 1, 3, 1000][draw(5) as usize], draw(3))
                })
                .collect();
            let down: Vec<usize> = (0..count).filter(|_| draw(3) == 0).collect();
            let drained: Vec<usize> = (0..count).filter(|_| draw(5) == 0).collect();
            let text = words.join(" ");
            let mut world = World::new(&format!("panic_threshold = '{}%'\n{policy}", 50 * draw(2)), &text);
            drained.iter().for_each(|&at| world.list[at].state.record().drained = true);
            world.compile(&[down.clone(), drained.clone()].concat());
            let may: Vec<usize> = (0..count)
                .filter(|&at| world.list[at].weight > 0 && !drained.contains(&at))
                .filter(|&at| world.endpoints.panics() || !down.contains(&at))
                .collect();
            let shown = format!("{policy}, world {nth}: {text}, down {down:?}, drained {drained:?}");
            let (mut tried, mut order) = (Vec::new(), Vec::new());
            for _ in 0..may.len() {
                let at = world.pick_again(Some(nth), &tried).expect("somebody is left");
                order.push(at);
                tried.push(world.list[at].clone());
            }
            let mut all = order.clone();
            all.sort_unstable();
            assert_eq!(all, may, "{shown}: {order:?}");
            let again = world.pick_again(Some(nth), &tried);
            assert_eq!(again.is_some(), !may.is_empty(), "{shown}");
            assert_eq!(world.endpoints.tries() as usize, may.len().min(3), "{shown}");
            // Of the earliest rank that has anybody nobody goes without.
            let shares = world.endpoints.slots.iter().map(|slot| slot.share).collect::<Vec<f32>>();
            let rank = |at: &usize| (world.list[*at].priority, world.list[*at].about.distance);
            let least = may.iter().map(rank).min();
            let mut first = may.iter().filter(|at| Some(rank(at)) == least);
            assert!(first.all(|at| shares[*at] > 0.0), "{shown}: {shares:?}");
        }
    }
}

#[test]
fn who_is_held_goes_where_he_was_as_long_as_that_takes_anybody() {
    let sticky = "sticky = { cookie = 'at' }";
    for policy in POLICIES {
        let mut world = World::new(&format!("{sticky}\n{policy}"), "1 1 0 1/1 1");
        let held = |world: &mut World, at: u16, tried: &[Arc<Endpoint>]| {
            let lot = world.lot();
            let asking =
                Asking { cursor: &world.cursor, tried, lot, key: Some(lot), held: Some(at), now_ms: world.now_ms };
            let picked = world.endpoints.pick(&asking)?;
            world.list.iter().position(|endpoint| Arc::ptr_eq(endpoint, picked))
        };
        // Whoever takes requests, also those of weight 0 and of a later priority.
        for at in 0..5 {
            assert!((0..5).all(|_| held(&mut world, at, &[]) == Some(at.into())), "{policy}: {at}");
        }
        let tried = [world.list[1].clone()];
        assert_ne!(held(&mut world, 1, &tried), Some(1), "{policy}: it was tried");
        assert!(held(&mut world, 9, &[]).is_some(), "{policy}: nobody has that number");
        world.compile(&[1]);
        assert_ne!(held(&mut world, 1, &[]), Some(1), "{policy}: it is down");
        world.list[1].state.record().drained = true;
        world.compile(&[1]);
        assert_eq!(held(&mut world, 1, &[]), Some(1), "{policy}: it is drained");
        world.list[1].state.record().eject(Cause::Consecutive5xx, Instant::now(), TIMES);
        world.compile(&[1]);
        assert_ne!(held(&mut world, 1, &[]), Some(1), "{policy}: it is drained, and fails");
        // Where nobody is kept a number means nothing.
        let mut plain = World::new(policy, "1 0");
        assert_eq!(held(&mut plain, 1, &[]), Some(0), "{policy}");
    }
}
