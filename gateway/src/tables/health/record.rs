//! What is known of one endpoint's health, and how it changes. Pure: what was seen and when go in, what changed comes out.
//!
//! Three things take an endpoint out, each by itself: an operator (`drained`), checks that fail (`unhealthy`), and failing
//! traffic (`ejected`, for a time). Written by the control side alone.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Cause;

/// Whether an endpoint gets requests, or what keeps it from them. What comes first hides what comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Usable,
    /// Too many attempts failed.
    Ejected,
    /// Its checks fail.
    Unhealthy,
    /// An operator has taken it out.
    Drained,
}

impl Standing {
    pub const ALL: [Standing; 4] = [Standing::Usable, Standing::Unhealthy, Standing::Ejected, Standing::Drained];

    pub fn name(self) -> &'static str {
        match self {
            Standing::Usable => "usable",
            Standing::Unhealthy => "unhealthy",
            Standing::Ejected => "ejected",
            Standing::Drained => "drained",
        }
    }
}

/// How many checks in a row decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckRules {
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

/// How long an ejection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionTimes {
    /// Of the first one; of the next ones twice, three times as long.
    pub base: Duration,
    pub max: Duration,
}

/// What a check came to, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub passed: bool,
    /// What was seen, in words.
    pub seen: String,
    pub at: Instant,
}

/// An ejection that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    pub cause: Cause,
    pub since: Instant,
    pub until: Instant,
}

/// What a check has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// So many checks in a row have failed.
    Unhealthy { checks: u32 },
    /// So many have passed, and for so long it was not.
    Healthy { checks: u32, after: Duration },
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub drained: bool,
    unhealthy: Option<Instant>,
    /// The last check, and how many in a row went like it.
    check: Option<Check>,
    in_a_row: u32,
    /// Some check has passed: a single failure no longer decides.
    proven: bool,
    ejected: Option<Ejected>,
    /// By how many times the base the next ejection is longer, as of `returned`.
    level: u32,
    returned: Option<Instant>,
    ejections: u64,
}

impl Record {
    pub fn standing(&self) -> Standing {
        match self {
            Record { drained: true, .. } => Standing::Drained,
            Record { unhealthy: Some(_), .. } => Standing::Unhealthy,
            Record { ejected: Some(_), .. } => Standing::Ejected,
            _ => Standing::Usable,
        }
    }

    pub fn last_check(&self) -> Option<&Check> {
        self.check.as_ref()
    }

    pub fn unhealthy_since(&self) -> Option<Instant> {
        self.unhealthy
    }

    pub fn ejected(&self) -> Option<Ejected> {
        self.ejected
    }

    /// Since when it is ejected, if a check has passed since then: nothing but the time speaks against it any more.
    pub fn passes_since(&self) -> Option<Instant> {
        let Ejected { since, .. } = self.ejected?;
        let check = self.check.as_ref()?;
        (self.standing() == Standing::Ejected && check.passed && check.at > since).then_some(since)
    }

    /// Times it was ejected, as long as it is known.
    pub fn ejections(&self) -> u64 {
        self.ejections
    }

    /// Takes a check in. An endpoint is usable until a check says otherwise; while none has passed, the first failure decides,
    /// for nothing speaks against it.
    pub fn checked(&mut self, check: Check, rules: CheckRules) -> Option<Change> {
        let (passed, at) = (check.passed, check.at);
        let same = self.check.as_ref().is_some_and(|last| last.passed == passed);
        self.in_a_row = if same { self.in_a_row.saturating_add(1) } else { 1 };
        self.check = Some(check);
        let was_proven = self.proven;
        self.proven |= passed;
        match self.unhealthy {
            None if !passed && (self.in_a_row >= rules.unhealthy_after || !was_proven) => {
                self.unhealthy = Some(at);
                Some(Change::Unhealthy { checks: self.in_a_row })
            }
            Some(since) if passed && self.in_a_row >= rules.healthy_after => {
                self.unhealthy = None;
                Some(Change::Healthy { checks: self.in_a_row, after: at.saturating_duration_since(since) })
            }
            _ => None,
        }
    }

    /// Nobody checks it any more: nothing could make it healthy again.
    pub fn forget_checks(&mut self) {
        (self.unhealthy, self.check, self.in_a_row, self.proven) = (None, None, 0, false);
    }

    /// Takes it out for a time, which is returned: the longer, the more often it had to be of late. For each `base` it has
    /// done well since the last one, the time is a `base` shorter.
    pub fn eject(&mut self, cause: Cause, now: Instant, times: EjectionTimes) -> Duration {
        let base = times.base.min(times.max).max(Duration::from_millis(1));
        let well = self.returned.map_or(Duration::ZERO, |returned| now.saturating_duration_since(returned));
        let forgiven = u32::try_from(well.as_millis() / base.as_millis()).unwrap_or(u32::MAX);
        let level_max = u32::try_from(times.max.as_millis().div_ceil(base.as_millis())).unwrap_or(u32::MAX).max(1);
        self.level = self.level.saturating_sub(forgiven).saturating_add(1).min(level_max);
        let time = base.saturating_mul(self.level).min(times.max);
        self.ejected = Some(Ejected { cause, since: now, until: now + time });
        self.ejections += 1;
        time
    }

    /// Lets it back, if its time is over or `early`. For how long it was out.
    pub fn let_back(&mut self, now: Instant, early: bool) -> Option<Duration> {
        let ejected = self.ejected.filter(|ejected| early || ejected.until <= now)?;
        self.ejected = None;
        self.returned = Some(now);
        Some(now.saturating_duration_since(ejected.since))
    }
}

/// What another process must know of an endpoint to go on where this one ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    pub drained: bool,
    pub unhealthy: bool,
    pub proven: bool,
    /// The ejection that lasts and how long, milliseconds.
    pub ejected: Option<(Cause, u64)>,
    pub level: u32,
    pub ejections: u64,
}

impl Record {
    /// `None`: there is nothing that would be missed.
    pub fn hand_over(&self, now: Instant) -> Option<Handed> {
        let left = |ejected: Ejected| ejected.until.saturating_duration_since(now).as_millis() as u64;
        let handed = Handed {
            drained: self.drained,
            unhealthy: self.unhealthy.is_some(),
            proven: self.proven,
            ejected: self.ejected.map(|ejected| (ejected.cause, left(ejected))),
            level: self.level,
            ejections: self.ejections,
        };
        (handed.drained || handed.unhealthy || handed.proven || handed.ejections > 0).then_some(handed)
    }

    pub fn take_on(handed: Handed, now: Instant) -> Record {
        let ejected = handed.ejected.map(|(cause, left_ms)| Ejected {
            cause,
            since: now,
            // It comes from a process of ours, and is no more than a configuration may say.
            until: now + Duration::from_millis(left_ms.min(EJECTION_MS_MAX)),
        });
        Record {
            drained: handed.drained,
            unhealthy: handed.unhealthy.then_some(now),
            proven: handed.proven,
            ejected,
            level: handed.level,
            returned: Some(now),
            ejections: handed.ejections,
            ..Record::default()
        }
    }
}

/// A day, as the configuration has it.
const EJECTION_MS_MAX: u64 = 24 * 3_600_000;

/// Whether one more endpoint of an upstream may be ejected. `standings`: those of all its endpoints that have a weight, the
/// one in question among them, still usable; `share_max`: of a million. The last usable one stays, whatever the share.
pub fn may_eject(standings: impl Iterator<Item = Standing>, share_max: u32) -> bool {
    let (mut all, mut usable, mut ejected) = (0_u64, 0_u64, 0_u64);
    for standing in standings {
        all += 1;
        usable += u64::from(standing == Standing::Usable);
        ejected += u64::from(standing == Standing::Ejected);
    }
    usable > 1 && (ejected + 1) * 1_000_000 <= all * u64::from(share_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: CheckRules = CheckRules { unhealthy_after: 3, healthy_after: 2 };
    const TIMES: EjectionTimes = EjectionTimes { base: Duration::from_secs(30), max: Duration::from_secs(300) };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Checks a second apart: `+` passes, `-` fails. What stood after each: `u`sable or un`h`ealthy.
    fn standings(checks: &str) -> String {
        let (start, mut record) = (Instant::now(), Record::default());
        let after = checks.chars().zip(0..).map(|(check, at)| {
            let before = record.standing();
            let check = Check { passed: check == '+', seen: String::new(), at: start + secs(at) };
            let changed = record.checked(check, RULES).is_some();
            assert_eq!(changed, before != record.standing(), "a change is told, and nothing else");
            if record.standing() == Standing::Usable { 'u' } else { 'h' }
        });
        after.collect()
    }

    #[test]
    fn so_many_checks_in_a_row_decide() {
        for (checks, expected) in [
            ("+--+--+", "uuuuuuu"),
            ("+---", "uuuh"),
            ("+---+-+-++", "uuuhhhhhhu"),
            ("+-----++-", "uuuhhhhuu"),
            // Nothing is known of it yet: the first check decides.
            ("-", "h"),
            ("-+", "hh"),
            ("-++--", "hhuuu"),
            ("-++---", "hhuuuh"),
        ] {
            assert_eq!(standings(checks), expected, "{checks}");
        }
    }

    #[test]
    fn it_is_told_for_how_long_an_endpoint_was_unhealthy() {
        let (start, mut record) = (Instant::now(), Record::default());
        let mut checked =
            |passed, at| record.checked(Check { passed, seen: String::new(), at: start + secs(at) }, RULES);
        assert_eq!(checked(false, 0), Some(Change::Unhealthy { checks: 1 }));
        assert_eq!(checked(true, 5), None);
        assert_eq!(checked(true, 12), Some(Change::Healthy { checks: 2, after: secs(12) }));
    }

    #[test]
    fn an_endpoint_nobody_checks_is_as_good_as_new() {
        let mut record = Record::default();
        record.checked(Check { passed: false, seen: String::new(), at: Instant::now() }, RULES);
        record.forget_checks();
        assert_eq!((record.standing(), record.last_check()), (Standing::Usable, None));
    }

    #[test]
    fn an_ejection_lasts_its_time() {
        let (start, mut record) = (Instant::now(), Record::default());
        assert_eq!(record.eject(Cause::Consecutive5xx, start, TIMES), secs(30));
        assert_eq!(record.standing(), Standing::Ejected);
        assert_eq!(record.let_back(start + secs(30) - Duration::from_millis(1), false), None);
        assert_eq!(record.let_back(start + secs(30), false), Some(secs(30)));
        assert_eq!(record.standing(), Standing::Usable);
        assert_eq!(record.let_back(start + secs(31), false), None, "once");
        record.eject(Cause::Consecutive5xx, start + secs(40), TIMES);
        assert_eq!(record.let_back(start + secs(45), true), Some(secs(5)));
        assert_eq!(record.ejections(), 2);
    }

    #[test]
    fn an_ejected_one_that_passes_a_check_is_known() {
        let (start, mut record) = (Instant::now(), Record::default());
        let check = |passed, at| Check { passed, seen: String::new(), at: start + secs(at) };
        record.checked(check(true, 0), RULES);
        assert_eq!(record.passes_since(), None);
        record.eject(Cause::ConsecutiveLocal, start + secs(1), TIMES);
        assert_eq!(record.passes_since(), None, "that was before");
        record.checked(check(false, 2), RULES);
        assert_eq!(record.passes_since(), None);
        record.checked(check(true, 3), RULES);
        assert_eq!(record.passes_since(), Some(start + secs(1)));
        record.drained = true;
        assert_eq!(record.passes_since(), None, "it would get nothing");
    }

    #[test]
    fn who_flaps_is_out_longer_each_time_and_who_does_well_is_forgiven() {
        let (mut now, mut record) = (Instant::now(), Record::default());
        let mut round = |well: Duration| {
            now += well;
            let time = record.eject(Cause::ConsecutiveLocal, now, TIMES);
            now += time;
            record.let_back(now, false).expect("its time is over");
            time.as_secs()
        };
        let flapping: Vec<u64> = (0..12).map(|_| round(secs(1))).collect();
        assert_eq!(flapping, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
        assert_eq!(round(secs(59)), 300, "one base of doing well: one less, and one more");
        assert_eq!(round(secs(90)), 240);
        assert_eq!(round(secs(10 * 30)), 30);
        assert_eq!(round(Duration::MAX / u32::MAX), 30);
    }

    #[test]
    fn a_maximum_below_the_base_is_all_there_is() {
        let (now, mut record) = (Instant::now(), Record::default());
        let times = EjectionTimes { base: secs(30), max: secs(10) };
        assert_eq!(record.eject(Cause::Consecutive5xx, now, times), secs(10));
        record.let_back(now, true);
        assert_eq!(record.eject(Cause::Consecutive5xx, now, times), secs(10));
    }

    #[test]
    fn another_process_goes_on_where_this_one_ends() {
        let (now, mut record) = (Instant::now(), Record::default());
        assert_eq!(record.hand_over(now), None);
        record.checked(Check { passed: false, seen: "refused".to_owned(), at: now }, RULES);
        record.drained = true;
        record.eject(Cause::ConsecutiveGateway, now, TIMES);
        let handed = record.hand_over(now + secs(10)).expect("a lot");
        let later = now + secs(3600);
        let mut other = Record::take_on(handed.clone(), later);
        assert_eq!(other.hand_over(later), Some(handed));
        assert_eq!(other.standing(), Standing::Drained);
        assert_eq!(other.unhealthy_since(), Some(later));
        assert_eq!(other.let_back(later + secs(19), false), None);
        assert_eq!(other.let_back(later + secs(20), false), Some(secs(20)));
        assert_eq!(other.eject(Cause::ConsecutiveGateway, later + secs(21), TIMES), secs(60), "the second one");
    }

    #[test]
    fn an_operators_word_hides_what_checks_say_and_they_hide_ejections() {
        let (now, mut record) = (Instant::now(), Record::default());
        record.eject(Cause::Consecutive5xx, now, TIMES);
        record.checked(Check { passed: false, seen: String::new(), at: now }, RULES);
        assert_eq!(record.standing(), Standing::Unhealthy);
        record.drained = true;
        assert_eq!(record.standing(), Standing::Drained);
        record.drained = false;
        record.forget_checks();
        assert_eq!(record.standing(), Standing::Ejected);
    }

    #[test]
    fn no_more_than_a_share_is_ejected_and_never_the_last_one() {
        use Standing::{Drained, Ejected, Unhealthy, Usable};
        let check = |standings: &[Standing], share_max, expected| {
            assert_eq!(may_eject(standings.iter().copied(), share_max), expected, "{standings:?} {share_max}");
        };
        check(&[Usable], 1_000_000, false);
        check(&[Usable, Usable], 500_000, true);
        check(&[Usable, Usable], 499_999, false);
        check(&[Usable, Ejected], 1_000_000, false);
        check(&[Usable, Usable, Ejected], 500_000, false);
        check(&[Usable, Usable, Usable, Ejected], 500_000, true);
        check(&[Usable, Usable, Ejected, Ejected], 500_000, false);
        check(&[Usable, Usable, Ejected, Ejected], 750_000, true);
        check(&[Usable, Unhealthy, Drained], 1_000_000, false);
        check(&[Usable, Usable, Unhealthy], 340_000, true);
        check(&[Usable; 10], 0, false);
    }
}
