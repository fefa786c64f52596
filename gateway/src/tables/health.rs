//! What is known of endpoints beyond where they are: how busy they are and how well, on all cores together. Kept by upstream and
//! address, so that neither a reload nor a change of the list makes anybody forget it.

pub mod rates;
pub mod record;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::rates::Window;
use self::record::{Handed, Record, Standing};
use super::load::{Load, Loads};
use crate::balance::Latency;
use crate::limits::ENDPOINT_STATES_SPARE_MAX;

/// The states of all endpoints.
#[derive(Default)]
pub struct Health {
    states: Mutex<States>,
    loads: Loads,
}

#[derive(Default)]
struct States {
    by_endpoint: HashMap<(String, String), Arc<State>>,
    upstreams: HashMap<String, Arc<Upstream>>,
    /// How many there may be before those nobody uses are looked for: asking each time would cost the square.
    sweep_at: usize,
}

impl Health {
    /// The state of an endpoint of `upstream` at `address`; the same for as long as somebody asks for it now and then.
    pub fn of(&self, upstream: &str, address: &str) -> Arc<State> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let States { by_endpoint, upstreams, sweep_at } = &mut *states;
        let key = (upstream.to_owned(), address.to_owned());
        if let Some(state) = by_endpoint.get(&key) {
            return state.clone();
        }
        let whole = upstreams.entry(upstream.to_owned()).or_default().clone();
        let state = Arc::new(State { upstream: whole, ..State::default() });
        by_endpoint.insert(key, state.clone());
        if by_endpoint.len() > (*sweep_at).max(ENDPOINT_STATES_SPARE_MAX) {
            let spare = |state: &Arc<State>| Arc::strong_count(state) == 1;
            if by_endpoint.values().filter(|state| spare(state)).count() > ENDPOINT_STATES_SPARE_MAX {
                // What an operator said is kept for longer than what we saw.
                by_endpoint.retain(|_, state| !spare(state) || state.record().drained);
                upstreams.retain(|_, upstream| Arc::strong_count(upstream) > 1);
            }
            *sweep_at = by_endpoint.len() + ENDPOINT_STATES_SPARE_MAX;
        }
        state
    }

    /// What another process must know, by upstream and address.
    pub fn hand_over(&self, now: Instant) -> Vec<(String, String, Handed)> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let known = states.by_endpoint.iter().filter_map(|((upstream, address), state)| {
            Some((upstream.clone(), address.clone(), state.record().hand_over(now)?))
        });
        known.collect()
    }

    /// Goes on where another process has ended.
    pub fn take_on(&self, handed: Vec<(String, String, Handed)>, now: Instant) {
        for (upstream, address, handed) in handed {
            *self.of(&upstream, &address).record() = Record::take_on(handed, now);
        }
    }

    /// How much `upstream` is asked.
    pub fn load(&self, upstream: &str) -> Arc<Load> {
        self.loads.of(upstream)
    }
}

/// What all cores know of one endpoint. On cache lines of its own: every exchange writes here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct State {
    in_flight: AtomicU32,
    /// Attempts in a row that failed, by kind; see [`Streaks`].
    streaks: AtomicU64,
    /// What the time that runs has brought, where success rates matter.
    pub window: Window,
    /// Whether a policy goes by how soon it answers.
    is_timed: AtomicBool,
    latency: Latency,
    /// Milliseconds of the process, plus 1, at which the control side first found it usable; 0: it is not.
    usable_since: AtomicU64,
    upstream: Arc<Upstream>,
    /// What the control side makes of it; no exchange looks at it.
    record: Mutex<Record>,
}

/// What all cores know of the endpoints of one upstream together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Upstream {
    /// Every attempt writes to it: only for those who want to know.
    is_counted: AtomicBool,
    in_flight: AtomicU32,
}

impl Upstream {
    /// Whether [`Upstream::in_flight`] is to be known. What runs already is not counted afterwards.
    pub fn count(&self, is_counted: bool) {
        self.is_counted.store(is_counted, Ordering::Relaxed);
    }

    /// Attempts running now, at all endpoints.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl State {
    /// Attempts running now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts an attempt for as long as the result lives.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.begun()
    }

    /// The same. `None`: `max` run already.
    pub fn begin_within(self: &Arc<Self>, max: u32) -> Option<InFlight> {
        let place = |running: u32| (running < max).then_some(running + 1);
        let begun = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place);
        begun.is_ok().then(|| self.begun())
    }

    fn begun(self: &Arc<Self>) -> InFlight {
        let is_counted = self.upstream.is_counted.load(Ordering::Relaxed);
        if is_counted {
            self.upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        InFlight { state: self.clone(), is_counted }
    }

    /// Whether [`State::cost`] is to be known.
    pub fn time(&self, is_timed: bool) {
        self.is_timed.store(is_timed, Ordering::Relaxed);
    }

    /// What another request would cost, see [`Latency::cost`]. `now_ms`: milliseconds of the process, here and below.
    pub fn cost(&self, now_ms: u64) -> f32 {
        self.latency.cost(self.in_flight(), now_ms)
    }

    /// Takes in that an answer began so long after its request was sent. 502, 503 and 504 are failures: a service that turns
    /// requests away answers sooner than one that works.
    pub fn answered(&self, status: u16, took_us: u64, now_ms: u64) {
        match status {
            502..=504 => self.failed(now_ms),
            _ if self.is_timed.load(Ordering::Relaxed) => self.latency.observe(took_us, now_ms),
            _ => {}
        }
    }

    /// Takes in that an attempt failed by the endpoint's doing.
    pub fn failed(&self, now_ms: u64) {
        if self.is_timed.load(Ordering::Relaxed) {
            self.latency.fail(now_ms);
        }
    }

    /// Takes in that there was no answer for so long, when somebody stopped waiting.
    pub fn awaited(&self, waited_us: u64, now_ms: u64) {
        if self.is_timed.load(Ordering::Relaxed) {
            self.latency.observe_at_least(waited_us, now_ms);
        }
    }

    /// What is known of all endpoints of its upstream together.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Takes in whether it is usable; returns for how long it has been, in milliseconds. For the control side alone.
    pub fn usable_ms(&self, usable: bool, now_ms: u64) -> u64 {
        let since = match self.usable_since.load(Ordering::Relaxed) {
            _ if !usable => 0,
            0 => now_ms + 1,
            since => since,
        };
        self.usable_since.store(since, Ordering::Relaxed);
        if usable { (now_ms + 1).saturating_sub(since) } else { 0 }
    }

    /// Counts how an attempt has ended. `Some`: too many in a row have failed; counting begins anew. One load if this one went
    /// well and so did those before.
    pub fn ended(&self, outcome: Outcome, thresholds: &Thresholds) -> Option<Cause> {
        if outcome == Outcome::Well {
            if self.streaks.load(Ordering::Relaxed) != 0 {
                self.streaks.store(0, Ordering::Relaxed);
            }
            return None;
        }
        let mut crossed = None;
        let counted = |packed| {
            let streaks = Streaks::unpack(packed).after(outcome);
            crossed = streaks.crossed(thresholds);
            Some(if crossed.is_some() { 0 } else { streaks.pack() })
        };
        // It never fails: what is counted is always something.
        let _ = self.streaks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
        crossed
    }

    /// Whether it is usable as of now, whatever an exchange that runs for longer knows of it, and the last attempt that says
    /// something did not fail. The latter is known only where failures are counted, that is where they eject.
    pub fn is_well(&self) -> bool {
        self.usable_since.load(Ordering::Relaxed) != 0 && self.streaks.load(Ordering::Relaxed) == 0
    }

    /// Forgets what was counted: what ends now began before the endpoint was let back.
    pub fn begin_anew(&self) {
        self.streaks.store(0, Ordering::Relaxed);
        self.window.take();
    }

    /// What the control side knows of it. For the control side alone.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn standing(&self) -> Standing {
        self.record().standing()
    }

    /// Taken out by hand, and nothing else speaks against it.
    pub fn is_drained_well(&self) -> bool {
        let record = self.record();
        record.drained && record.unhealthy_since().is_none() && record.ejected().is_none()
    }
}

/// How an attempt has ended, as far as its endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, with something else than a 5xx.
    Well,
    /// Answered with a 5xx of its own.
    Failed,
    /// Answered with 502, 503 or 504: it, or what is behind it, cannot serve.
    Gateway,
    /// No answer that can be used: connecting failed, it hung up, it was too slow, or it does not speak HTTP.
    Local,
}

impl Outcome {
    pub fn of_status(status: u16) -> Outcome {
        match status {
            502..=504 => Outcome::Gateway,
            500.. => Outcome::Failed,
            _ => Outcome::Well,
        }
    }
}

/// How many in a row are too many; 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// 5xx answers and whatever counts below.
    pub any_5xx: u16,
    /// 502, 503 and 504 answers and whatever counts below.
    pub gateway: u16,
    /// No answer that can be used.
    pub local: u16,
}

impl Thresholds {
    pub fn of(&self, cause: Cause) -> u16 {
        match cause {
            Cause::Consecutive5xx => self.any_5xx,
            Cause::ConsecutiveGateway => self.gateway,
            Cause::ConsecutiveLocal => self.local,
            // They are not about a row.
            Cause::SuccessRate | Cause::FailurePercentage => 0,
        }
    }
}

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocal,
    SuccessRate,
    FailurePercentage,
}

impl Cause {
    pub const ALL: [Cause; 5] = [
        Cause::Consecutive5xx,
        Cause::ConsecutiveGateway,
        Cause::ConsecutiveLocal,
        Cause::SuccessRate,
        Cause::FailurePercentage,
    ];

    /// As the configuration calls the threshold.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Consecutive5xx => "consecutive_5xx",
            Cause::ConsecutiveGateway => "consecutive_gateway",
            Cause::ConsecutiveLocal => "consecutive_local",
            Cause::SuccessRate => "success_rate",
            Cause::FailurePercentage => "failure_percentage",
        }
    }
}

/// Lengths of the three streaks, 16 bits each in one word, so that an attempt is counted in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Streaks {
    any_5xx: u16,
    gateway: u16,
    local: u16,
}

impl Streaks {
    fn unpack(packed: u64) -> Streaks {
        Streaks { any_5xx: packed as u16, gateway: (packed >> 16) as u16, local: (packed >> 32) as u16 }
    }

    fn pack(self) -> u64 {
        u64::from(self.any_5xx) | u64::from(self.gateway) << 16 | u64::from(self.local) << 32
    }

    /// Each kind is one of the kind before it as well.
    fn after(self, outcome: Outcome) -> Streaks {
        let next = |streak: u16, is: bool| if is { streak.saturating_add(1) } else { 0 };
        Streaks {
            any_5xx: next(self.any_5xx, outcome != Outcome::Well),
            gateway: next(self.gateway, matches!(outcome, Outcome::Gateway | Outcome::Local)),
            local: next(self.local, outcome == Outcome::Local),
        }
    }

    /// The narrowest threshold that is reached: it says most.
    fn crossed(self, thresholds: &Thresholds) -> Option<Cause> {
        let reached = |streak: u16, threshold: u16| threshold > 0 && streak >= threshold;
        if reached(self.local, thresholds.local) {
            return Some(Cause::ConsecutiveLocal);
        }
        if reached(self.gateway, thresholds.gateway) {
            return Some(Cause::ConsecutiveGateway);
        }
        reached(self.any_5xx, thresholds.any_5xx).then_some(Cause::Consecutive5xx)
    }
}

/// What a worker tells the control side: too many attempts at an endpoint have failed in a row.
#[derive(Debug)]
pub struct Notice {
    pub upstream: String,
    /// Its address, as [`Health::of`] takes it.
    pub endpoint: String,
    pub cause: Cause,
}

/// A running attempt.
#[derive(Debug)]
pub struct InFlight {
    state: Arc<State>,
    is_counted: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.is_counted {
            self.state.upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_outlives_its_endpoint_and_is_anothers_at_another_address() {
        let health = Health::default();
        let running = health.of("orders", "10.0.0.1:80").begin();
        assert_eq!(health.of("orders", "10.0.0.1:80").in_flight(), 1);
        assert_eq!(health.of("orders", "10.0.0.2:80").in_flight(), 0);
        assert_eq!(health.of("books", "10.0.0.1:80").in_flight(), 0);
        drop(running);
        assert_eq!(health.of("orders", "10.0.0.1:80").in_flight(), 0);
    }

    #[test]
    fn attempts_run_up_to_a_bound() {
        let state = Health::default().of("orders", "10.0.0.1:80");
        let one = state.begin_within(1);
        assert!(one.is_some() && state.begin_within(1).is_none() && state.begin_within(2).is_some());
        drop(one);
        assert!(state.begin_within(1).is_some());
    }

    #[test]
    fn states_nobody_uses_are_bounded_but_for_those_an_operator_has_drained() {
        let health = Health::default();
        let kept = health.of("orders", "kept");
        health.of("orders", "drained").record().drained = true;
        for nth in 0..10 * ENDPOINT_STATES_SPARE_MAX {
            health.of("orders", &nth.to_string());
        }
        let states = health.states.lock().expect("not poisoned");
        assert!(states.by_endpoint.len() <= 2 * ENDPOINT_STATES_SPARE_MAX + 3, "{}", states.by_endpoint.len());
        assert!(Arc::ptr_eq(&states.by_endpoint[&("orders".to_owned(), "kept".to_owned())], &kept));
        assert!(states.by_endpoint[&("orders".to_owned(), "drained".to_owned())].record().drained);
    }

    /// `.` went well, `5` is a 500, `g` a 503, `l` got no answer. The first cause, and after how many.
    fn first(outcomes: &str, (any_5xx, gateway, local): (u16, u16, u16)) -> Option<(usize, &'static str)> {
        let state = State::default();
        outcomes.chars().zip(1..).find_map(|(outcome, nth)| {
            let outcome = match outcome {
                '5' => Outcome::of_status(500),
                'g' => Outcome::of_status(503),
                'l' => Outcome::Local,
                _ => Outcome::of_status(404),
            };
            let cause = state.ended(outcome, &Thresholds { any_5xx, gateway, local })?;
            assert_eq!(state.streaks.load(Ordering::Relaxed), 0, "counting begins anew");
            Some((nth, cause.name()))
        })
    }

    #[test]
    fn so_many_failures_in_a_row_are_too_many() {
        for (outcomes, thresholds, expected) in [
            ("555", (3, 0, 0), Some((3, "consecutive_5xx"))),
            ("55.55.55", (3, 0, 0), None),
            ("55.555", (3, 0, 0), Some((6, "consecutive_5xx"))),
            // Each kind is one of the wider kind as well, and the narrowest says most.
            ("5gl", (3, 3, 3), Some((3, "consecutive_5xx"))),
            ("5glg", (9, 3, 9), Some((4, "consecutive_gateway"))),
            ("5g5g5", (9, 2, 2), None),
            ("glgl", (9, 9, 2), None),
            ("gll", (9, 9, 2), Some((3, "consecutive_local"))),
            ("lll", (3, 3, 3), Some((3, "consecutive_local"))),
            ("ggg", (3, 3, 3), Some((3, "consecutive_gateway"))),
            ("5555gggglllll", (0, 0, 0), None),
        ] {
            assert_eq!(first(outcomes, thresholds), expected, "{outcomes}");
        }
    }

    #[test]
    fn a_streak_without_a_threshold_does_not_run_over() {
        let (state, never) = (State::default(), Thresholds { any_5xx: 0, gateway: 0, local: 0 });
        for _ in 0..70_000 {
            assert_eq!(state.ended(Outcome::Local, &never), None);
        }
        let streaks = Streaks::unpack(state.streaks.load(Ordering::Relaxed));
        assert_eq!(streaks, Streaks { any_5xx: u16::MAX, gateway: u16::MAX, local: u16::MAX });
        state.ended(Outcome::Well, &never);
        assert_eq!(state.streaks.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_cores_that_fail_at_once_lose_no_count() {
        let state = State::default();
        let thresholds = Thresholds { any_5xx: 10, gateway: 0, local: 0 };
        let crossed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter_map(|_| state.ended(Outcome::Failed, &thresholds)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(crossed, 4 * 1000 / 10);
    }
}
