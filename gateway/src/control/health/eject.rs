//! Who is ejected, and let back: what workers tell of rows of failures, and what was counted over a time.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Care, Key, Out, index_of, shown};
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

impl Care {
    pub(super) fn failing(&mut self, notice: &Notice, shared: &Shared, now: Instant) {
        let snapshot = shared.snapshot.load_full();
        let Notice { upstream, endpoint, cause } = notice;
        // A reload may have come in between.
        let Some(index) = index_of(&snapshot, upstream) else { return };
        let (settings, endpoints) = (&snapshot.upstreams[index], &snapshot.endpoints[index]);
        let Some(eject) = settings.eject else { return };
        let Some(failing) = endpoints.list().iter().find(|candidate| candidate.label == *endpoint) else { return };
        if let Some(time) = self.eject(settings, endpoints, failing, *cause, now) {
            self.publish(upstream, shared);
            let (threshold, cause, time) = (eject.thresholds.of(*cause), cause.name(), shown(time));
            tracing::warn!(upstream, endpoint, cause, threshold, %time, "an endpoint is ejected");
        }
    }

    /// Takes `failing` out. For how long; `None`: it is out already, or there is no room for one more.
    fn eject(
        &mut self,
        settings: &Upstream,
        endpoints: &Endpoints,
        failing: &Arc<Endpoint>,
        cause: Cause,
        now: Instant,
    ) -> Option<Duration> {
        let Eject { times, share_max, .. } = settings.eject?;
        let standings = || {
            let weighed = endpoints.list().iter().filter(|endpoint| endpoint.weight > 0);
            weighed.map(|endpoint| endpoint.state.standing())
        };
        let may = match failing.state.standing() {
            Standing::Usable => may_eject(standings(), share_max),
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
            let mut told = Vec::new();
            for outlier in outliers(&tallies, &rates) {
                let failing = rated[outlier.at];
                if let Some(time) = self.eject(settings, endpoints, failing, outlier.cause, now) {
                    told.push((failing, outlier, time));
                }
            }
            if !told.is_empty() {
                self.publish(&name, shared);
            }
            for (failing, outlier, time) in told {
                tell(&name, failing, &outlier, time);
            }
        }
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
