//! How long an endpoint takes to answer, as a moving average that believes bad news at once and good news slowly: a slower
//! answer than expected is what is expected from then on, a faster one counts by the time since the last. What is expected of
//! an endpoint nobody asks falls, so that one that was slow is tried again (Finagle's "peak EWMA").

use std::sync::atomic::{AtomicU64, Ordering};

/// The time in which what is known loses two thirds of its weight.
const TAU_MS: f32 = 10_000.0;

/// What a failure counts as at least, however soon it came, and what is expected of an endpoint that was asked and has never
/// answered.
const FAILED_US: f32 = 1_000_000.0;

/// What repeated failures count as at most: an endpoint is tried again after some two minutes in the worst case.
const FAILED_US_MAX: f32 = 60_000_000.0;

/// Milliseconds of a tick as a power of two: 32 bits of them are two years.
const TICK_SHIFT: u32 = 4;

/// What is known, shared by all cores: microseconds as `f32` in the low half, the tick of the last observation in the high
/// half. All zero: nothing is known.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

impl Latency {
    /// Takes in that an answer took so long. Times are milliseconds of the process.
    pub fn observe(&self, took_us: u64, now_ms: u64) {
        let took = took_us.max(1) as f32;
        self.update(now_ms, |known| match known {
            Some((expected, kept)) if took < expected => expected + took * (1.0 - kept),
            _ => took,
        });
    }

    /// Takes in that an answer would have taken longer than this.
    pub fn observe_at_least(&self, waited_us: u64, now_ms: u64) {
        let packed = self.0.load(Ordering::Relaxed);
        if unpack(packed, tick(now_ms)).is_none_or(|(expected, _)| expected < waited_us as f32) {
            self.observe(waited_us, now_ms);
        }
    }

    /// Takes in that an attempt failed: it counts as slow, and as twice as slow as what was expected.
    pub fn fail(&self, now_ms: u64) {
        self.update(now_ms, |known| match known {
            Some((expected, _)) => (2.0 * expected).clamp(FAILED_US, FAILED_US_MAX),
            None => FAILED_US,
        });
    }

    /// What another request beside `in_flight` others would cost: microseconds times requests.
    pub fn cost(&self, in_flight: u32, now_ms: u64) -> f32 {
        match unpack(self.0.load(Ordering::Relaxed), tick(now_ms)) {
            Some((expected, _)) => expected * (in_flight as f32 + 1.0),
            // Nothing is known: one request finds out.
            None => FAILED_US * in_flight as f32,
        }
    }

    fn update(&self, now_ms: u64, new: impl Fn(Option<(f32, f32)>) -> f32) {
        let now = tick(now_ms);
        let updated = |packed| Some(pack(new(unpack(packed, now)), now));
        // Always `Ok`: the closure has an answer to everything.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, updated);
    }
}

fn tick(now_ms: u64) -> u32 {
    (now_ms >> TICK_SHIFT) as u32
}

fn pack(us: f32, tick: u32) -> u64 {
    u64::from(tick) << 32 | u64::from(us.to_bits())
}

/// What is expected at `now` and how much of it is kept beside a new observation, 0 to 1.
fn unpack(packed: u64, now: u32) -> Option<(f32, f32)> {
    let us = f32::from_bits(packed as u32);
    if us == 0.0 {
        return None;
    }
    // Another core's clock may be a little ahead: no time has passed.
    let ticks = (now.wrapping_sub((packed >> 32) as u32) as i32).max(0);
    let kept =
        if ticks == 0 { 1.0 } else { (-((u64::from(ticks.unsigned_abs()) << TICK_SHIFT) as f32) / TAU_MS).exp() };
    Some((us * kept, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_news_is_believed_at_once_and_good_news_slowly() {
        let latency = Latency::default();
        let expected = |now_ms| latency.cost(0, now_ms) as u32;
        latency.observe(1_000, 1_600);
        assert_eq!(expected(1_600), 1_000);
        latency.observe_at_least(900, 1_600);
        assert_eq!(expected(1_600), 1_000);
        latency.observe_at_least(50_000, 1_600);
        assert_eq!(expected(1_600), 50_000);
        latency.observe(1_000, 1_600);
        assert_eq!(expected(1_600), 50_000, "no time has passed");
        latency.observe(1_000, 11_600);
        // After tau 36.8 % of the old and 63.2 % of the new.
        assert!((19_000..19_050).contains(&expected(11_600)), "{}", expected(11_600));
        latency.observe(1_000, 61_600);
        assert!((1_000..1_150).contains(&expected(61_600)), "{}", expected(61_600));
    }

    #[test]
    fn who_is_not_asked_is_forgiven_with_time() {
        let latency = Latency::default();
        latency.observe(1_000_000, 0);
        assert_eq!(latency.cost(0, 0) as u32, 1_000_000);
        assert_eq!(latency.cost(1, 0) as u32, 2_000_000);
        assert!((367_000..369_000).contains(&(latency.cost(0, 10_000) as u32)));
        assert!(latency.cost(0, 100_000) < 50.0);
        assert_eq!(latency.cost(0, 10_000_000), 0.0);
        // A clock that is behind changes nothing.
        latency.observe(7_000, 20_000);
        assert_eq!(latency.cost(0, 10_000), latency.cost(0, 20_000));
    }

    #[test]
    fn a_failure_is_slow_however_soon_it_came() {
        let latency = Latency::default();
        latency.observe(100, 0);
        latency.fail(0);
        assert_eq!(latency.cost(0, 0), FAILED_US);
        latency.fail(0);
        assert_eq!(latency.cost(0, 0), 2.0 * FAILED_US);
        (0..10).for_each(|_| latency.fail(0));
        assert_eq!(latency.cost(0, 0), FAILED_US_MAX);
        let unknown = Latency::default();
        assert_eq!((unknown.cost(0, 0), unknown.cost(2, 0)), (0.0, 2.0 * FAILED_US));
        unknown.fail(0);
        assert_eq!(unknown.cost(0, 0), FAILED_US);
    }
}
