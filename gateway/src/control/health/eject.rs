//! Who is ejected, and let back: what workers tell of rows of failures, and what was counted over a time.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Care, Key, Out, index_of, is_usable, shown};
use crate::balance::{Endpoint, Endpoints};
use crate::snapshot::{Eject, Snapshot, Upstream};
use crate::tables::health::rates::{Outlier, Tally, outliers};
use crate::tables::health::record::{Standing, may_eject};
use crate::tables::health::{Cause, Notice};
use crate::worker::Shared;

/// When what was counted of an upstream's endpoints is looked at.
pub(super) struct Due {
    pub(super) at: Instant,
    interval: Duration,
}

/// An endpoint that was let back before its time, and for how long it was out.
type Early = (String, Duration);

impl Care {
    pub(super) fn failing(&mut self, notice: &Notice, shared: &Shared, now: Instant) {
        let snapshot = shared.snapshot.load_full();
        let Notice { upstream, endpoint, cause } = notice;
        // A reload may have come in between.
        let Some(index) = index_of(&snapshot, upstream) else { return };
        let (settings, endpoints) = (&snapshot.upstreams[index], &snapshot.endpoints[index]);
        let Some(eject) = settings.eject else { return };
        let Some(failing) = endpoints.list().iter().find(|candidate| candidate.label == *endpoint) else { return };
        let mut early = Vec::new();
        let time = self.eject(settings, endpoints, failing, *cause, now, &mut early);
        if time.is_some() || !early.is_empty() {
            self.publish(upstream, shared);
        }
        if let Some(time) = time {
            let (threshold, cause, time) = (eject.thresholds.of(*cause), cause.name(), shown(time));
            tracing::warn!(upstream, endpoint, cause, threshold, %time, "an endpoint is ejected");
        }
        tell_early(upstream, early);
    }

    /// Takes `failing` out. For how long; `None`: it is out already, or there is no room for one more. `early`: gets who was let
    /// back to make room; to be published, too.
    fn eject(
        &mut self,
        settings: &Upstream,
        endpoints: &Endpoints,
        failing: &Arc<Endpoint>,
        cause: Cause,
        now: Instant,
        early: &mut Vec<Early>,
    ) -> Option<Duration> {
        let Eject { times, share_max, .. } = settings.eject?;
        let standings = || {
            let weighed = endpoints.list().iter().filter(|endpoint| endpoint.weight > 0);
            weighed.map(|endpoint| endpoint.state.standing())
        };
        let may = match failing.state.standing() {
            Standing::Usable => {
                let has_room = || {
                    may_eject(standings(), share_max)
                        // Or all would get requests again, among them those that are known to be worse.
                        && !endpoints.would_panic(|other| is_usable(other) && !std::ptr::eq(other, &**failing))
                };
                early.append(&mut self.make_room(&settings.name, endpoints.list(), now, has_room));
                has_room()
            }
            // It gets nothing but what is to stay with it (`sticky`), which is better off elsewhere if there is an elsewhere.
            Standing::Drained if endpoints.sticky().is_some() && failing.state.is_drained_well() => {
                standings().any(|standing| standing == Standing::Usable)
            }
            // It is out already, and these are requests that were running.
            Standing::Drained | Standing::Unhealthy | Standing::Ejected => return None,
        };
        let key: Key = (settings.name.clone(), failing.label.clone());
        if !may {
            settings.series.health.ejections_refused.inc();
            let (upstream, endpoint, cause) = (&key.0, &key.1, cause.name());
            if !self.kept.contains(&key) {
                tracing::warn!(
                    upstream,
                    endpoint,
                    cause,
                    "an endpoint fails and stays: too many are out, or it is the last"
                );
            }
            self.kept.insert(key);
            return None;
        }
        let time = failing.state.record().eject(cause, now, times);
        settings.series.health.ejection(cause).inc();
        self.kept.remove(&key);
        self.ejected.push(Out { key, state: failing.state.clone(), until: now + time });
        Some(time)
    }

    /// Goes on by the times of `snapshot`. What was counted goes on being counted where the time is the same.
    pub(super) fn count_anew(&mut self, snapshot: &Snapshot, now: Instant) {
        let mut before = std::mem::take(&mut self.windows);
        for (upstream, endpoints) in snapshot.upstreams.iter().zip(&snapshot.endpoints) {
            let Some(rates) = upstream.eject.and_then(|eject| eject.rates) else { continue };
            let interval = rates.interval;
            let due = before.remove(&upstream.name).filter(|due| due.interval == interval).unwrap_or_else(|| {
                let _counted_by_other_rules = counted(endpoints);
                Due { at: now + interval, interval }
            });
            self.windows.insert(upstream.name.clone(), due);
        }
    }

    /// Looks at what was counted in the times that are over, and ejects who stands out.
    pub(super) fn judge(&mut self, shared: &Shared, now: Instant) {
        let due: Vec<String> =
            self.windows.iter().filter(|(_, due)| due.at <= now).map(|(name, _)| name.clone()).collect();
        let snapshot = shared.snapshot.load_full();
        for name in due {
            if let Some(due) = self.windows.get_mut(&name) {
                due.at = now + due.interval;
            }
            // Upstreams are those of the snapshot in use, but for a reload on its way.
            let Some(index) = index_of(&snapshot, &name) else { continue };
            let (settings, endpoints) = (&snapshot.upstreams[index], &snapshot.endpoints[index]);
            let Some(rates) = settings.eject.and_then(|eject| eject.rates) else { continue };
            let (rated, tallies): (Vec<&Arc<Endpoint>>, Vec<Tally>) = counted(endpoints).into_iter().unzip();
            let (mut told, mut early) = (Vec::new(), Vec::new());
            for outlier in outliers(&tallies, &rates) {
                let failing = rated[outlier.at];
                if let Some(time) = self.eject(settings, endpoints, failing, outlier.cause, now, &mut early) {
                    told.push((failing, outlier, time));
                }
            }
            if !told.is_empty() || !early.is_empty() {
                self.publish(&name, shared);
            }
            tell_early(&name, early);
            for (failing, outlier, time) in told {
                tell(&name, failing, &outlier, time);
            }
        }
    }

    /// Ends ejections of endpoints that pass their checks, of those who are out for longest first, until `is_enough`: who fails now
    /// is worse than who has failed. Who they were, and for how long they were out; to be published.
    pub(super) fn make_room(
        &mut self,
        upstream: &str,
        list: &[Arc<Endpoint>],
        now: Instant,
        is_enough: impl Fn() -> bool,
    ) -> Vec<Early> {
        let mut early = Vec::new();
        while !is_enough() {
            let since = |endpoint: &&Arc<Endpoint>| endpoint.state.record().passes_since();
            let passing = list.iter().filter(|endpoint| endpoint.weight > 0 && since(endpoint).is_some());
            let Some(endpoint) = passing.min_by_key(since) else { break };
            let Some(ejected_for) = endpoint.state.record().let_back(now, true) else { break };
            endpoint.state.begin_anew();
            self.ejected.retain(|out| !Arc::ptr_eq(&out.state, &endpoint.state));
            early.push((endpoint.label.clone(), ejected_for));
        }
        if !early.is_empty() {
            self.kept.retain(|(of, _)| of != upstream);
        }
        early
    }

    pub(super) fn let_back(&mut self, shared: &Shared, now: Instant) {
        let (over, still) = std::mem::take(&mut self.ejected).into_iter().partition(|out| out.until <= now);
        self.ejected = still;
        let over: Vec<Out> = over;
        let back: Vec<(Key, Duration)> = over
            .into_iter()
            .filter_map(|Out { key, state, .. }| {
                let ejected_for = state.record().let_back(now, false)?;
                // Whatever ended meanwhile began before.
                state.begin_anew();
                Some((key, ejected_for))
            })
            .collect();
        let upstreams: BTreeSet<&String> = back.iter().map(|((upstream, _), _)| upstream).collect();
        for upstream in upstreams {
            // There is room again: who still fails then is told of once more.
            self.kept.retain(|(of, _)| of != upstream);
            self.publish(upstream, shared);
        }
        for ((upstream, endpoint), ejected_for) in &back {
            let ejected_for = shown(*ejected_for);
            tracing::info!(upstream, endpoint, %ejected_for, "an endpoint's ejection is over");
        }
    }
}

/// What was counted of each endpoint, which begins anew. An address that is there twice has one state, and is asked once. Who is
/// not usable has no part in what is compared: what it did, it did before.
fn counted(endpoints: &Endpoints) -> Vec<(&Arc<Endpoint>, Tally)> {
    let mut seen = HashSet::new();
    let each = endpoints.list().iter().filter(|endpoint| seen.insert(Arc::as_ptr(&endpoint.state)));
    let tallies = each.map(|endpoint| (endpoint, endpoint.state.window.take()));
    let compared = tallies.filter(|(endpoint, _)| {
        endpoint.state.standing() == Standing::Usable
            || (endpoints.sticky().is_some() && endpoint.state.is_drained_well())
    });
    compared.collect()
}

fn tell(upstream: &str, failing: &Endpoint, outlier: &Outlier, time: Duration) {
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let (endpoint, cause, requests, time) = (&failing.label, outlier.cause.name(), outlier.attempts, shown(time));
    let (success_rate, least) = (percent(outlier.success_rate), percent(outlier.least));
    tracing::warn!(upstream, endpoint, cause, success_rate, least, requests, %time, "an endpoint is ejected");
}

pub(super) fn tell_early(upstream: &str, early: Vec<Early>) {
    for (endpoint, ejected_for) in early {
        let ejected_for = shown(ejected_for);
        tracing::info!(upstream, endpoint, %ejected_for, "an endpoint's ejection ends early");
    }
}
