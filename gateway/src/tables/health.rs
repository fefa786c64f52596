//! What is known of endpoints beyond where they are: how busy they are, on all cores together. Kept by upstream and address, so
//! that neither a reload nor a change of the list makes anybody forget it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::load::{Load, Loads};
use crate::limits::ENDPOINT_STATES_SPARE_MAX;

/// The states of all endpoints.
#[derive(Default)]
pub struct Health {
    states: Mutex<HashMap<(String, String), Arc<State>>>,
    loads: Loads,
}

impl Health {
    /// The state of an endpoint of `upstream` at `address`; the same for as long as somebody asks for it now and then.
    pub fn of(&self, upstream: &str, address: &str) -> Arc<State> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.entry((upstream.to_owned(), address.to_owned())).or_default().clone();
        let spare = |state: &Arc<State>| Arc::strong_count(state) == 1;
        if states.values().filter(|state| spare(state)).count() > ENDPOINT_STATES_SPARE_MAX {
            states.retain(|_, state| !spare(state));
        }
        state
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
}

impl State {
    /// Attempts running now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts an attempt for as long as the result lives.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// The same. `None`: `max` run already.
    pub fn begin_within(self: &Arc<Self>, max: u32) -> Option<InFlight> {
        let place = |running: u32| (running < max).then_some(running + 1);
        let begun = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place);
        begun.is_ok().then(|| InFlight(self.clone()))
    }
}

/// A running attempt.
#[derive(Debug)]
pub struct InFlight(Arc<State>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
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
