//! What is known of endpoints beyond where they are: how busy they are, on all cores together. Kept by upstream and address, so
//! that neither a reload nor a change of the list makes anybody forget it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::balance::Latency;
use crate::limits::ENDPOINT_STATES_SPARE_MAX;

/// The states of all endpoints.
#[derive(Default)]
pub struct Health {
    states: Mutex<HashMap<(String, String), Arc<State>>>,
    /// Locked only by who holds `states`.
    upstreams: Mutex<HashMap<String, Arc<Upstream>>>,
}

impl Health {
    /// The state of an endpoint of `upstream` at `address`; the same for as long as somebody asks for it now and then.
    pub fn of(&self, upstream: &str, address: &str) -> Arc<State> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (upstream.to_owned(), address.to_owned());
        if let Some(state) = states.get(&key) {
            return state.clone();
        }
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = upstreams.entry(upstream.to_owned()).or_default().clone();
        let state = Arc::new(State { upstream: whole, ..State::default() });
        states.insert(key, state.clone());
        let spare = |state: &Arc<State>| Arc::strong_count(state) == 1;
        if states.len() > ENDPOINT_STATES_SPARE_MAX
            && states.values().filter(|state| spare(state)).count() > ENDPOINT_STATES_SPARE_MAX
        {
            states.retain(|_, state| !spare(state));
            upstreams.retain(|_, upstream| Arc::strong_count(upstream) > 1);
        }
        state
    }
}

/// What all cores know of one endpoint. On cache lines of its own: every exchange writes here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct State {
    in_flight: AtomicU32,
    /// Whether a policy goes by how soon it answers.
    is_timed: AtomicBool,
    latency: Latency,
    /// Milliseconds of the process, plus 1, at which the control side first found it usable; 0: it is not.
    usable_since: AtomicU64,
    upstream: Arc<Upstream>,
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
    fn states_nobody_uses_are_bounded() {
        let health = Health::default();
        let kept = health.of("orders", "kept");
        for nth in 0..2 * ENDPOINT_STATES_SPARE_MAX {
            health.of("orders", &nth.to_string());
        }
        let states = health.states.lock().expect("not poisoned");
        assert!(states.len() <= ENDPOINT_STATES_SPARE_MAX + 2, "{}", states.len());
        assert!(Arc::ptr_eq(&states[&("orders".to_owned(), "kept".to_owned())], &kept));
    }
}
