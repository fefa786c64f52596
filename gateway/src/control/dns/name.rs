//! What is known of one name that is looked up again and again: its last good answer, when it is asked for next, and what a
//! failure means. Pure: the clock and what is drawn by lot are arguments.
//!
//! An answer is gone by for its TTL, within bounds. A failure (no server answers, or one that it cannot) says nothing about the
//! name: the last answer stays, and the name is asked for again soon, then less and less often. That there is no such name, or that it
//! has no record, is an answer as well; but servers say so while they start or are misconfigured, and to believe it would
//! take a service away. So it must be said [`DNS_DENIALS`] times in a row, a least TTL apart, before the addresses go.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::model;
use crate::limits::{DNS_DENIALS, DNS_RETRY_MS, DNS_RETRY_MS_MAX};

/// Where something runs, as DNS says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::control) struct Found {
    /// 0: first. Of SRV records, whose own numbers only say which comes before which.
    pub(in crate::control) priority: u8,
    /// The host an SRV record names, without a final dot.
    pub(in crate::control) target: Option<Arc<str>>,
    pub(in crate::control) address: IpAddr,
    /// `None`: the configuration says it.
    pub(in crate::control) port: Option<u16>,
    /// Beside the others of the same priority.
    pub(in crate::control) weight: u32,
}

impl Found {
    pub(super) fn plain(address: IpAddr) -> Found {
        Found { priority: 0, target: None, address, port: None, weight: 1 }
    }
}

/// What came of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Answer {
        /// Sorted, without repetitions, not empty.
        found: Vec<Found>,
        ttl: Duration,
        /// What could not be found out: instead of it stands what was known before.
        lacks: Option<String>,
    },
    /// There is no such name, or it has no such record.
    Denied {
        why: String,
        ttl: Option<Duration>,
    },
    Failed {
        why: String,
    },
}

/// How long answers are gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    min_ttl: Duration,
    max_ttl: Duration,
    stale_max: Option<Duration>,
}

impl Rules {
    pub(super) fn of(dns: &model::Dns) -> Rules {
        let min_ttl = Duration::from(dns.min_ttl);
        Rules {
            min_ttl,
            max_ttl: Duration::from(dns.max_ttl).max(min_ttl),
            stale_max: dns.stale_max.map(Duration::from),
        }
    }

    fn clamp(&self, ttl: Duration) -> Duration {
        ttl.clamp(self.min_ttl, self.max_ttl)
    }

    /// The pause behind the `nth` failure in a row, 1 on, drawn between its half and the whole.
    fn pause(&self, nth: u32, lot: u32) -> Duration {
        let first = Duration::from_millis(DNS_RETRY_MS).min(self.min_ttl);
        let most = Duration::from_millis(DNS_RETRY_MS_MAX).min(self.max_ttl).max(first);
        let whole = first.saturating_mul(1 << (nth - 1).min(20)).min(most);
        whole / 2 + (whole / 2).mul_f64(share(lot))
    }
}

/// 0 to 1.
fn share(lot: u32) -> f64 {
    f64::from(lot) / f64::from(u32::MAX)
}

/// What became of what is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that anybody must hear of.
    None,
    /// The same as before, after look-ups that failed.
    Again,
    /// It leads elsewhere.
    Elsewhere,
    /// It is failing, for the first time since it did not; the addresses stay.
    Failing,
    /// There was an answer, and now there is nothing, for this reason.
    Gone(String),
}

/// A name.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// The last good answer; empty: there is none.
    found: Arc<[Found]>,
    /// When it was given.
    good_at: Option<Instant>,
    /// Until then it is gone by whatever happens.
    fresh_until: Instant,
    due: Instant,
    /// Of look-ups, as long as none of them brought an answer.
    failures: u32,
    denials: u32,
    /// What is wrong, while something is.
    why: Option<String>,
    /// How often something became known of it.
    version: u64,
}

impl Name {
    /// To be looked up at once.
    pub(super) fn new(now: Instant) -> Name {
        Name {
            found: Arc::new([]),
            good_at: None,
            fresh_until: now,
            due: now,
            failures: 0,
            denials: 0,
            why: None,
            version: 0,
        }
    }

    /// As another process knew it, and to be looked up at once.
    pub(super) fn taken_on(found: Vec<Found>, age: Duration, now: Instant) -> Name {
        let good_at = now.checked_sub(age).unwrap_or(now);
        Name { found: found.into(), good_at: Some(good_at), version: 1, ..Name::new(now) }
    }

    pub(super) fn found(&self) -> &Arc<[Found]> {
        &self.found
    }

    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    pub(super) fn good_at(&self) -> Option<Instant> {
        self.good_at
    }

    /// How often something became known of it, whatever it was.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// When it is to be looked up again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// When its answer is too old, unless another one comes.
    pub(super) fn expires(&self, rules: &Rules) -> Option<Instant> {
        let stale_max = rules.stale_max.filter(|_| !self.found.is_empty() && self.why.is_some())?;
        self.fresh_until.checked_add(stale_max)
    }

    /// Goes on by other rules; `at_once`: whoever is asked may say something else.
    pub(super) fn adopt(&mut self, rules: &Rules, now: Instant, at_once: bool) {
        let latest = if at_once { now } else { now + rules.max_ttl };
        self.due = self.due.min(latest);
        self.fresh_until = self.fresh_until.min(now + rules.max_ttl);
    }

    /// Takes in what was said. `lot`: 32 random bits.
    pub(super) fn take(&mut self, said: Said, rules: &Rules, now: Instant, lot: u32) -> Change {
        self.version += 1;
        match said {
            Said::Answer { found, ttl, lacks } => {
                let was_failing = self.failures + self.denials > 0;
                (self.failures, self.denials) = (0, 0);
                let is_new = *self.found != *found;
                self.found = found.into();
                self.good_at = Some(now);
                self.fresh_until = now + rules.clamp(ttl);
                // Names with one TTL would be asked for at one moment. Never sooner: whoever is asked has not forgotten it yet, and
                // would say what we know.
                self.due = self.fresh_until + (rules.clamp(ttl) / 20).mul_f64(share(lot));
                let lacked = self.why.is_some() && !was_failing;
                self.why = lacks;
                match (is_new, was_failing, &self.why) {
                    (true, ..) => Change::Elsewhere,
                    (false, true, None) => Change::Again,
                    (false, _, Some(_)) if !lacked => Change::Failing,
                    _ => Change::None,
                }
            }
            Said::Failed { why } => {
                self.failures = self.failures.saturating_add(1);
                self.due = now + rules.pause(self.failures, lot);
                self.fails(why)
            }
            Said::Denied { why, ttl } => {
                self.failures = 0;
                self.denials = self.denials.saturating_add(1);
                if self.found.is_empty() {
                    // Whoever waits for the name to appear need not wait for the longest TTL.
                    let most = Duration::from_millis(DNS_RETRY_MS_MAX).max(rules.min_ttl);
                    self.due = now + rules.clamp(ttl.unwrap_or(Duration::ZERO)).min(most);
                    return self.fails(why);
                }
                self.due = now + rules.min_ttl;
                if self.denials < DNS_DENIALS {
                    return self.fails(why);
                }
                self.found = Arc::new([]);
                self.why = Some(why.clone());
                Change::Gone(format!("{why}, said {DNS_DENIALS} times in a row"))
            }
        }
    }

    fn fails(&mut self, why: String) -> Change {
        let is_first = self.why.is_none();
        self.why = Some(why);
        if is_first { Change::Failing } else { Change::None }
    }

    /// Lets go of an answer that is too old.
    pub(super) fn expire(&mut self, rules: &Rules, now: Instant) -> Change {
        if self.expires(rules).is_none_or(|at| at > now) {
            return Change::None;
        }
        self.version += 1;
        self.found = Arc::new([]);
        let why = self.why.as_deref().unwrap_or_default();
        Change::Gone(format!("no good answer for longer than `dns.stale_max`, last: {why}"))
    }
}

#[cfg(test)]
mod tests;
