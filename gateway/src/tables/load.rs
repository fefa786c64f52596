//! How much upstreams are asked, on all cores together: the requests that run, and what their budgets of repetitions hold. Kept
//! by the upstream's name, so that a reload forgets neither.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{LOADS_SPARE_MAX, RETRIES_SAVED_MAX};

/// The loads of all upstreams.
#[derive(Default)]
pub struct Loads {
    by_upstream: Mutex<HashMap<String, Arc<Load>>>,
}

impl Loads {
    /// That of `upstream`; the same for as long as somebody holds it.
    pub fn of(&self, upstream: &str) -> Arc<Load> {
        let mut loads = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let load = loads.entry(upstream.to_owned()).or_default().clone();
        let spare = |load: &Arc<Load>| Arc::strong_count(load) == 1;
        if loads.values().filter(|load| spare(load)).count() > LOADS_SPARE_MAX {
            loads.retain(|_, load| !spare(load));
        }
        load
    }
}

/// One repetition, in the unit of [`Load::saved`].
const ONE: u64 = 1_000_000;

/// The time in which the repetitions that are free of the budget come, microseconds.
const WINDOW_US: u64 = 1_000_000;

/// One upstream's. On cache lines of its own; written by upstreams with `retry` or `limits` only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    requests: AtomicU32,
    /// Millionths of a repetition that requests have brought and none has taken. At most [`RETRIES_SAVED_MAX`] whole ones.
    saved: AtomicU64,
    /// When all repetitions that were free of the budget would be due, had they come evenly (GCRA).
    due_us: AtomicU64,
}

impl Load {
    /// Counts a request for as long as the result lives. `None`: `max` run already.
    pub fn begin(self: &Arc<Self>, max: u32) -> Option<Running> {
        let place = |running: u32| (running < max).then_some(running + 1);
        let begun = self.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place);
        begun.is_ok().then(|| Running(self.clone()))
    }

    /// A request brings `share` millionths of a repetition.
    pub fn save(&self, share: u32) {
        if share > 0 {
            let add = |saved: u64| Some((saved + u64::from(share)).min(u64::from(RETRIES_SAVED_MAX) * ONE));
            let _always = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    /// Takes one repetition: of those that are free, `free_per_second`, or of what was saved. `false`: there is none. Over any
    /// time there are no more than its seconds and one, times those that are free, and what requests brought.
    pub fn spend(&self, free_per_second: u32, now_us: u64) -> bool {
        let interval = WINDOW_US.checked_div(u64::from(free_per_second));
        let free = interval.is_some_and(|interval| {
            let next = |due: u64| {
                let due = due.max(now_us) + interval;
                (due <= now_us + WINDOW_US).then_some(due)
            };
            self.due_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
        });
        let take = |saved: u64| saved.checked_sub(ONE);
        free || self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A running request.
#[derive(Debug)]
pub struct Running(Arc<Load>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_budget_is_what_requests_bring_and_never_more() {
        let load = Load::default();
        for _ in 0..1000 {
            load.save(200_000);
        }
        let spent = (0..10_000).filter(|_| load.spend(0, 0)).count();
        assert_eq!(spent, RETRIES_SAVED_MAX as usize, "what is saved is bounded");
        for _ in 0..100 {
            load.save(200_000);
        }
        assert_eq!((0..100).filter(|_| load.spend(0, 0)).count(), 20);
        load.save(999_999);
        assert!(!load.spend(0, 0));
        load.save(1);
        assert!(load.spend(0, 0));
    }

    #[test]
    fn some_are_free_every_second() {
        let load = Load::default();
        let at = |now_us: u64| (0..10).filter(|_| load.spend(3, now_us)).count();
        assert_eq!(at(10 * SECOND), 3);
        assert_eq!(at(10 * SECOND + SECOND / 3), 1);
        assert_eq!(at(11 * SECOND), 2);
        assert_eq!(at(100 * SECOND), 3, "a long calm saves no more of them");
        // Against a clock that goes on in small steps: no more than three a second, and three.
        let load = Load::default();
        let spent = (0..10_000).filter(|step| load.spend(3, step * 1000)).count();
        assert!((30..=33).contains(&spent), "{spent}");
    }

    #[test]
    fn a_budget_holds_over_threads() {
        let load = Arc::new(Load::default());
        let spent: usize = std::thread::scope(|scope| {
            let work = || {
                (0..10_000)
                    .filter(|_| {
                        load.save(100_000);
                        load.spend(0, 0)
                    })
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert!(spent <= 4000, "{spent}");
        assert!(spent >= 3900, "{spent}");
    }

    #[test]
    fn places_are_given_up_to_the_bound_and_given_back() {
        let loads = Loads::default();
        let load = loads.of("orders");
        let one = load.begin(2).expect("room");
        let _two = loads.of("orders").begin(2).expect("room");
        assert!(load.begin(2).is_none());
        assert!(loads.of("books").begin(2).is_some());
        drop(one);
        assert!(load.begin(2).is_some());
    }

    #[test]
    fn loads_nobody_uses_are_bounded() {
        let loads = Loads::default();
        let kept = loads.of("kept");
        (0..2 * LOADS_SPARE_MAX).for_each(|nth| drop(loads.of(&nth.to_string())));
        let by_upstream = loads.by_upstream.lock().expect("not poisoned");
        assert!(by_upstream.len() <= LOADS_SPARE_MAX + 2, "{}", by_upstream.len());
        assert!(Arc::ptr_eq(&by_upstream["kept"], &kept));
    }
}
