//! Who of an upstream's endpoints fails too often over a time, beside the others or by itself. Counting is the workers', and
//! judging the control side's: pure, what was counted in, who stands out comes out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Cause, Outcome};

/// What the time that runs has brought of one endpoint, on all cores together: attempts in the low half, failed ones in the
/// high half, so that one addition counts both. More than 32 bits hold in a time are no times anybody asks for.
#[derive(Debug, Default)]
pub struct Window(AtomicU64);

impl Window {
    /// Counts an attempt that has ended.
    pub fn count(&self, failed: bool) {
        self.0.fetch_add(1 | u64::from(failed) << 32, Ordering::Relaxed);
    }

    /// What was counted since the last time it was asked; counting begins anew.
    pub fn take(&self) -> Tally {
        let packed = self.0.swap(0, Ordering::Relaxed);
        Tally { attempts: packed as u32, failed: (packed >> 32) as u32 }
    }
}

/// What one endpoint was asked in a time, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub attempts: u32,
    pub failed: u32,
}

impl Tally {
    /// Of its attempts, 0 to 1.
    fn success_rate(self) -> f64 {
        1.0 - f64::from(self.failed) / f64::from(self.attempts.max(1))
    }
}

/// When an endpoint stands out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateRules {
    /// Over which time attempts are counted.
    pub interval: Duration,
    /// What counts as failed: this and worse.
    pub failures: Failures,
    pub success_rate: Option<SuccessRate>,
    pub failure_percentage: Option<FailurePercentage>,
}

/// What counts as failed. Each is one of the kind before it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failures {
    Any5xx,
    Gateway,
    Local,
}

impl Failures {
    pub fn take(self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Well => false,
            Outcome::Failed => self == Failures::Any5xx,
            Outcome::Gateway => self != Failures::Local,
            Outcome::Local => true,
        }
    }
}

/// Beside the others: too far below the mean of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// How many standard deviations are too far.
    pub factor: f64,
    /// Nobody is too far who is less than this below the mean, 0 to 1: where all do alike, the deviation is of nothing.
    pub below_min: f64,
    /// Endpoints with enough attempts that there must be to compare.
    pub endpoints_min: usize,
    /// How many attempts are enough.
    pub attempts_min: u32,
}

/// By itself: too many failures of a hundred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailurePercentage {
    /// 0 to 1
    pub threshold: f64,
    pub endpoints_min: usize,
    pub attempts_min: u32,
}

/// An endpoint that stands out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// index into what was counted
    pub at: usize,
    pub cause: Cause,
    pub attempts: u32,
    /// Of its attempts, 0 to 1.
    pub success_rate: f64,
    /// What it would have had to be at least.
    pub least: f64,
}

/// Those of `tallies` that stand out by `rules`, each once, the worst first.
pub fn outliers(tallies: &[Tally], rules: &RateRules) -> Vec<Outlier> {
    let mut found = Vec::new();
    if let Some(rules) = &rules.success_rate {
        let compared = enough(tallies, rules.attempts_min);
        if compared.len() >= rules.endpoints_min.max(1) {
            let least = least(&compared, rules);
            found.extend(below(&compared, least, Cause::SuccessRate));
        }
    }
    if let Some(rules) = &rules.failure_percentage {
        let compared = enough(tallies, rules.attempts_min);
        if compared.len() >= rules.endpoints_min {
            // As many as the threshold says are too many.
            let too_many =
                |tally: &Tally| f64::from(tally.failed) >= rules.threshold * f64::from(tally.attempts.max(1));
            let failing = compared.into_iter().filter(|(at, _)| too_many(&tallies[*at]));
            let failing: Vec<(usize, Tally)> = failing.collect();
            found.extend(failing.into_iter().map(|(at, tally)| Outlier {
                at,
                cause: Cause::FailurePercentage,
                attempts: tally.attempts,
                success_rate: tally.success_rate(),
                least: 1.0 - rules.threshold,
            }));
        }
    }
    found.sort_by(|one, other| one.success_rate.total_cmp(&other.success_rate).then(one.at.cmp(&other.at)));
    found.dedup_by_key(|outlier| outlier.at);
    found
}

fn enough(tallies: &[Tally], attempts_min: u32) -> Vec<(usize, Tally)> {
    let all = tallies.iter().copied().enumerate();
    all.filter(|(_, tally)| tally.attempts > 0 && tally.attempts >= attempts_min).collect()
}

/// The least success rate that is not too far below the mean.
fn least(compared: &[(usize, Tally)], rules: &SuccessRate) -> f64 {
    let count = compared.len() as f64;
    let rates = || compared.iter().map(|(_, tally)| tally.success_rate());
    let mean = rates().sum::<f64>() / count;
    let deviation = (rates().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count).sqrt();
    mean - (rules.factor * deviation).max(rules.below_min)
}

/// What is left of adding up is nobody's fault.
const ROUNDING: f64 = 1e-9;

fn below(compared: &[(usize, Tally)], least: f64, cause: Cause) -> impl Iterator<Item = Outlier> {
    let rated = compared.iter().map(move |&(at, tally)| Outlier {
        at,
        cause,
        attempts: tally.attempts,
        success_rate: tally.success_rate(),
        least,
    });
    rated.filter(move |outlier| outlier.success_rate < least - ROUNDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: SuccessRate = SuccessRate { factor: 1.9, below_min: 0.05, endpoints_min: 6, attempts_min: 100 };
    const PERCENTAGE: FailurePercentage = FailurePercentage { threshold: 0.85, endpoints_min: 1, attempts_min: 50 };

    fn rules(success_rate: Option<SuccessRate>, failure_percentage: Option<FailurePercentage>) -> RateRules {
        let interval = Duration::from_secs(10);
        RateRules { interval, failures: Failures::Any5xx, success_rate, failure_percentage }
    }

    /// Endpoints as `failed/attempts`; a bare number: failed of a hundred.
    fn tallies(text: &str) -> Vec<Tally> {
        let one = |word: &str| {
            let (failed, attempts) = word.split_once('/').unwrap_or((word, "100"));
            Tally { attempts: attempts.parse().expect(word), failed: failed.parse().expect(word) }
        };
        text.split_whitespace().map(one).collect()
    }

    fn check(rules: &RateRules, text: &str, expected: &[usize]) {
        let found: Vec<usize> = outliers(&tallies(text), rules).iter().map(|outlier| outlier.at).collect();
        assert_eq!(found, expected, "{text} by {rules:?}");
    }

    #[test]
    fn who_is_far_below_the_mean_stands_out() {
        let by_rate = rules(Some(RATE), None);
        check(&by_rate, "0 0 0 0 0 30", &[5]);
        check(&by_rate, "0 0 0 80 0 0 0 0 0 30", &[3]);
        check(&by_rate, "0 90 0 0 0 0 0 0 0 0 0 60", &[1]);
        // All of them do badly: nobody is worse than the others.
        check(&by_rate, "50 50 50 50 50 50", &[]);
        check(&by_rate, "100 100 100 100 100 100", &[]);
        check(&by_rate, "30 35 40 30 35 38", &[]);
        // Two of six are no exception.
        check(&by_rate, "0 0 0 0 60 60", &[]);
        // One failure of a hundred is far from the others by deviations, and near by any other measure.
        check(&by_rate, "0 0 0 0 0 1", &[]);
        check(&by_rate, "0 0 0 0 0 6", &[]);
        check(&by_rate, "0 0 0 0 0 7", &[5]);
        check(&rules(Some(SuccessRate { below_min: 0.0, ..RATE }), None), "0 0 0 0 0 1", &[5]);
        // A sum of thirds is not quite what it should be.
        let thirds = "1/3 1/3 1/3 1/3 1/3 1/3 1/3";
        check(&rules(Some(SuccessRate { below_min: 0.0, attempts_min: 1, ..RATE }), None), thirds, &[]);
    }

    #[test]
    fn too_few_endpoints_or_attempts_say_nothing() {
        let by_rate = rules(Some(RATE), None);
        check(&by_rate, "", &[]);
        check(&by_rate, "0 0 0 0 30", &[]);
        check(&by_rate, "0 0 0 0 0 99/99", &[]);
        check(&by_rate, "0 0 0 0 0 30/100 99/99", &[5]);
        check(&by_rate, "0 0 0 0 0/99 30", &[]);
        let all = rules(Some(SuccessRate { endpoints_min: 0, attempts_min: 0, ..RATE }), None);
        check(&all, "0/0 0/0", &[]);
        check(&all, "100/100", &[]);
    }

    #[test]
    fn who_fails_too_often_stands_out_by_himself() {
        let by_percentage = rules(None, Some(PERCENTAGE));
        check(&by_percentage, "84 85 100 0", &[2, 1]);
        check(&by_percentage, "49/49 50/50", &[1]);
        check(&by_percentage, "100", &[0]);
        check(&by_percentage, "0/0", &[]);
        check(&rules(None, Some(FailurePercentage { endpoints_min: 3, ..PERCENTAGE })), "100 0", &[]);
        check(&rules(None, Some(FailurePercentage { threshold: 1.0, ..PERCENTAGE })), "99 100", &[1]);
        let nothing = rules(None, None);
        check(&nothing, "100 100", &[]);
    }

    #[test]
    fn who_stands_out_twice_is_told_of_once() {
        let both = rules(Some(RATE), Some(PERCENTAGE));
        let found = outliers(&tallies("0 0 0 0 0 0 90"), &both);
        assert_eq!((found.len(), found[0].at, found[0].cause), (1, 6, Cause::SuccessRate));
        assert!((found[0].success_rate - 0.1).abs() < 1e-9 && found[0].least > 0.2 && found[0].attempts == 100);
        check(&both, "0 0 0 0 0 0 90 100 60/60", &[7, 8, 6]);
    }

    #[test]
    fn a_window_counts_what_ends_in_it_on_all_cores() {
        let window = Window::default();
        std::thread::scope(|scope| {
            for core in 0..4 {
                let window = &window;
                scope.spawn(move || (0..1000).for_each(|nth| window.count(nth % 4 == core)));
            }
        });
        assert_eq!(window.take(), Tally { attempts: 4000, failed: 1000 });
        assert_eq!(window.take(), Tally::default());
    }

    #[test]
    fn what_counts_as_failed_is_that_and_worse() {
        for (failures, expected) in [
            (Failures::Any5xx, [false, true, true, true]),
            (Failures::Gateway, [false, false, true, true]),
            (Failures::Local, [false, false, false, true]),
        ] {
            let outcomes = [Outcome::Well, Outcome::Failed, Outcome::Gateway, Outcome::Local];
            assert_eq!(outcomes.map(|outcome| failures.take(outcome)), expected, "{failures:?}");
        }
    }
}
