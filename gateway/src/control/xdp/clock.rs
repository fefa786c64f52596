//! The clock of the program: jiffies, which cost a packet one load. User space has to name moments in them.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long the rate of the clock is looked at when nobody knows it yet.
pub(super) const MEASURED: Duration = Duration::from_millis(100);

/// The rates kernels are built with.
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// Jiffies and monotonic nanoseconds of one moment, as the program wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) jiffies: u64,
    pub(super) nanos: u64,
}

/// Jiffies are counted from the same clock as monotonic time, so one moment says all others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    moment: Moment,
    hz: u32,
}

impl Clock {
    pub(super) fn new(moment: Moment, hz: u32) -> Self {
        Self { moment, hz }
    }

    pub(super) fn hz(&self) -> u32 {
        self.hz
    }

    pub(super) fn now(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        let nanos = (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64);
        let passed = u128::from(nanos.saturating_sub(self.moment.nanos)) * u128::from(self.hz) / 1_000_000_000;
        self.moment.jiffies.saturating_add(passed as u64)
    }

    /// The first jiffy in which something that lasts so long is over for certain: the one that runs now is partly over, and
    /// so was the one that the moment was taken in, so two more than the sum.
    pub(super) fn after(&self, duration: Duration) -> u64 {
        let jiffies = (duration.as_nanos() * u128::from(self.hz)).div_ceil(1_000_000_000);
        self.now().saturating_add(2).saturating_add(u64::try_from(jiffies).unwrap_or(u64::MAX))
    }

    /// How long it is until then; nothing once it is over.
    pub(super) fn until(&self, jiffies: u64) -> Duration {
        let left = u128::from(jiffies.saturating_sub(self.now())) * 1_000_000_000 / u128::from(self.hz);
        Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
    }
}

/// The rate of the clock from two moments at least [`MEASURED`] apart. `None`: they are not.
pub(super) fn rate(first: Moment, second: Moment) -> Option<u32> {
    let nanos = second.nanos.checked_sub(first.nanos).filter(|nanos| u128::from(*nanos) >= MEASURED.as_nanos())?;
    let jiffies = second.jiffies.checked_sub(first.jiffies)?;
    let found = u128::from(jiffies) * 1_000_000_000 / u128::from(nanos);
    RATES.into_iter().min_by_key(|rate| found.abs_diff(u128::from(*rate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_from_a_tenth_of_a_second() {
        for hz in RATES {
            for (start, nanos) in
                [(0, 100_000_000), (3_999_999, 100_000_000), (1, 103_000_000), (2_000_000, 250_000_000)]
            {
                let jiffies = |nanos: u64| 4_294_667_296 + nanos * u64::from(hz) / 1_000_000_000;
                let moment = |nanos| Moment { jiffies: jiffies(nanos), nanos };
                assert_eq!(rate(moment(start), moment(start + nanos)), Some(hz), "{hz} {start} {nanos}");
            }
        }
        let moment = Moment { jiffies: 1, nanos: 1 };
        assert_eq!(rate(moment, moment), None);
    }

    #[test]
    fn what_lasts_for_ever_does_not_wrap() {
        let clock = Clock::new(Moment { jiffies: 5, nanos: 0 }, 250);
        assert_eq!(clock.after(Duration::MAX), u64::MAX);
        assert!(clock.until(u64::MAX) > Duration::from_secs(1 << 32));
        assert_eq!(clock.until(0), Duration::ZERO);
    }
}
