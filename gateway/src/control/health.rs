//! Who of the endpoints is well: checks made from here, once for the gateway and not by each worker; what workers see of failing
//! requests; and what operators say.
//!
//! What is known lies in each endpoint's [`State`] and lives on over reloads and changes of the list. Here are the rules, the
//! timers, and the one place that says who is usable ([`is_usable`]): whatever changes is published by replacing the endpoints of the
//! one upstream in the snapshot.

mod eject;
mod grpc;
mod probe;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use self::eject::tell_early;
use self::probe::Probe;
use super::admin::{Drain, Drained};
use crate::balance::{Endpoint, Endpoints, Link};
use crate::config::model::{Config, HealthCheck};
use crate::config::units::Time;
use crate::limits::CHECKS_MAX;
use crate::observe::metrics::{CheckOutcome, UpstreamSeries};
use crate::problem::closest;
use crate::rt::deadline::now_us;
use crate::snapshot::{HostPolicy, Snapshot, Upstream};
use crate::tables::health::record::{Change, Check, CheckRules, Standing};
use crate::tables::health::{Notice, State};
use crate::worker::Shared;

/// Checks whose outcome waits for the control loop; further ones wait before they end.
const CHECKED_MAX: usize = 64;

/// Whether an endpoint is to get requests. What becomes of that where too few are is [`Endpoints::compile`]'s to say.
pub(super) fn is_usable(endpoint: &Endpoint) -> bool {
    endpoint.state.standing() == Standing::Usable
}

/// The same endpoints, as they stand now.
pub(super) fn again(endpoints: &Endpoints) -> Arc<Endpoints> {
    Arc::new(endpoints.again(is_usable, now_us() / 1000))
}

/// Upstream and address: what an endpoint is known by.
type Key = (String, String);

/// Looks after all endpoints.
pub(super) struct Care {
    /// How each upstream is checked, by its name.
    checks: BTreeMap<String, HealthCheck>,
    running: HashMap<Key, Running>,
    seats: Arc<Semaphore>,
    tell: mpsc::Sender<Checked>,
    told: mpsc::Receiver<Checked>,
    noticed: mpsc::Receiver<Notice>,
    /// Who is to be let back.
    ejected: Vec<Out>,
    /// Upstreams whose endpoints' failures are counted over a time, by its end.
    windows: BTreeMap<String, eject::Due>,
    /// Failing endpoints that could not be ejected, which is told once.
    kept: HashSet<Key>,
    /// Upstreams with too few usable endpoints.
    at_a_loss: BTreeSet<String>,
    /// Subsets, each with its upstream, of which nobody gets requests.
    missed: BTreeSet<(String, String)>,
    /// What each upstream's gauges have of it.
    counted: BTreeMap<String, (Arc<UpstreamSeries>, Counts)>,
}

type Counts = [i64; Standing::ALL.len()];

/// The checks of one endpoint.
struct Running {
    check: HealthCheck,
    host: String,
    link: Arc<Link>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Out {
    key: Key,
    state: Arc<State>,
    until: Instant,
}

/// An endpoint was checked.
pub(super) struct Checked {
    key: Key,
    state: Arc<State>,
    outcome: probe::Outcome,
    at: Instant,
}

/// What there is to act on.
pub(super) enum Seen {
    Checked(Checked),
    Failing(Notice),
    /// Somebody's time is over, or the one in which failures are counted.
    Over,
}

impl Care {
    /// `noticed`: what workers see.
    pub(super) fn new(noticed: mpsc::Receiver<Notice>) -> Care {
        let (tell, told) = mpsc::channel(CHECKED_MAX);
        Care {
            checks: BTreeMap::new(),
            running: HashMap::new(),
            seats: Arc::new(Semaphore::new(CHECKS_MAX)),
            tell,
            told,
            noticed,
            ejected: Vec::new(),
            windows: BTreeMap::new(),
            kept: HashSet::new(),
            at_a_loss: BTreeSet::new(),
            missed: BTreeSet::new(),
            counted: BTreeMap::new(),
        }
    }

    /// The next thing to act on. May be dropped at any time and loses nothing.
    pub(super) async fn next(&mut self) -> Seen {
        let until = self.ejected.iter().map(|out| out.until).chain(self.windows.values().map(|due| due.at)).min();
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(checked) = self.told.recv() => Seen::Checked(checked),
            Some(notice) = self.noticed.recv() => Seen::Failing(notice),
            () = over => Seen::Over,
        }
    }

    pub(super) fn take(&mut self, seen: Seen, shared: &Shared) {
        match seen {
            Seen::Checked(checked) => self.checked(checked, shared),
            Seen::Failing(notice) => self.failing(&notice, shared, Instant::now()),
            Seen::Over => {
                let now = Instant::now();
                self.judge(shared, now);
                self.let_back(shared, now);
            }
        }
    }

    /// Goes on by the rules of `config`, whose `snapshot` is not in use yet. What is known stays, but for what nobody would
    /// find out about any more: checks that are no longer made, ejections where nothing is ejected.
    pub(super) fn adopt(&mut self, config: &Config, snapshot: &mut Snapshot) {
        let checked =
            config.upstream.iter().filter_map(|(name, upstream)| Some((name.clone(), upstream.health.clone()?)));
        self.checks = checked.collect();
        self.kept.clear();
        self.count_anew(snapshot, Instant::now());
        for (upstream, endpoints) in snapshot.upstreams.iter().zip(&mut snapshot.endpoints) {
            for endpoint in endpoints.list() {
                let mut record = endpoint.state.record();
                if !self.checks.contains_key(&upstream.name) {
                    record.forget_checks();
                }
                if upstream.eject.is_none() {
                    record.let_back(Instant::now(), true);
                }
            }
            // Compiled some time ago: somebody may have changed since.
            *endpoints = again(endpoints);
        }
        // Those of a process before this one are among them.
        self.ejected.retain(|out| out.state.record().ejected().is_some());
        let known: HashSet<Key> = self.ejected.iter().map(|out| out.key.clone()).collect();
        for (upstream, endpoints) in snapshot.upstreams.iter().zip(&snapshot.endpoints) {
            for endpoint in endpoints.list() {
                let key = (upstream.name.clone(), endpoint.label.clone());
                if let Some(ejected) = endpoint.state.record().ejected()
                    && !known.contains(&key)
                {
                    self.ejected.push(Out { key, state: endpoint.state.clone(), until: ejected.until });
                }
            }
        }
        self.follow(snapshot);
    }

    /// Endpoints have come or gone: starts and stops checks. Those of endpoints that stay go on as they were.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let mut wanted = HashMap::new();
        for (upstream, endpoints) in snapshot.upstreams.iter().zip(&snapshot.endpoints) {
            if let Some(check) = self.checks.get(&upstream.name) {
                for endpoint in endpoints.list() {
                    wanted.insert((upstream.name.clone(), endpoint.label.clone()), (check, upstream, endpoint));
                }
            }
        }
        self.running.retain(|key, running| {
            let same = |(check, upstream, endpoint): &(&HealthCheck, &Upstream, &Arc<Endpoint>)| {
                let is_same_link = running.link == endpoint.identity.link;
                running.check == **check && running.host == host(upstream, endpoint) && is_same_link
            };
            wanted.get(key).is_some_and(same)
        });
        for (key, (check, upstream, endpoint)) in wanted {
            if !self.running.contains_key(&key) {
                let host = host(upstream, endpoint).to_owned();
                let link = endpoint.identity.link.clone();
                let probe = Probe::new(check, &endpoint.identity.peer, &host, &link);
                let rounds = rounds(
                    probe,
                    (check.interval.into(), check.jitter.millionths()),
                    (key.clone(), endpoint.state.clone()),
                    self.seats.clone(),
                    self.tell.clone(),
                );
                let task = tokio::task::spawn_local(rounds).abort_handle();
                self.running.insert(key, Running { check: check.clone(), host, link, task });
            }
        }
        self.count(snapshot);
    }

    /// No more checks are made.
    pub(super) fn stop(&mut self) {
        self.running.clear();
    }

    fn checked(&mut self, checked: Checked, shared: &Shared) {
        let Checked { key, state, outcome: probe::Outcome { kind, seen }, at } = checked;
        // It was on its way when the checks ended.
        let Some(Running { check, .. }) = self.running.get(&key) else { return };
        let rules = CheckRules { unhealthy_after: check.unhealthy_after, healthy_after: check.healthy_after };
        let (upstream, endpoint) = (&key.0, &key.1);
        if let Some(index) = index_of(&shared.snapshot.load(), upstream) {
            shared.snapshot.load().upstreams[index].series.health.check(kind).inc();
        }
        if kind == CheckOutcome::NotMade {
            tracing::warn!(upstream, endpoint, why = seen, "a health check could not be made here");
            return;
        }
        let change = {
            let mut record = state.record();
            let check = Check { passed: kind == CheckOutcome::Passed, seen: seen.clone(), at };
            let change = record.checked(check, rules);
            // It failed as a whole, and is back as a whole: what it was ejected for is over.
            if let Some(Change::Healthy { .. }) = change
                && record.let_back(at, true).is_some()
            {
                state.begin_anew();
                self.ejected.retain(|out| !Arc::ptr_eq(&out.state, &state));
            }
            change
        };
        let mut early = Vec::new();
        if let Some(Change::Unhealthy { .. }) = change {
            let snapshot = shared.snapshot.load_full();
            if let Some(index) = index_of(&snapshot, upstream) {
                let endpoints = &snapshot.endpoints[index];
                early = self.make_room(upstream, endpoints.list(), at, || !endpoints.would_panic(is_usable));
            }
        }
        if change.is_some() {
            self.publish(upstream, shared);
        }
        // Told when it is so: who reads it may rely on it.
        match change {
            Some(Change::Unhealthy { checks }) => {
                tracing::warn!(upstream, endpoint, seen, checks, "an endpoint is unhealthy");
                tell_early(upstream, early);
            }
            Some(Change::Healthy { checks, after }) => {
                let unhealthy_for = shown(after);
                tracing::info!(upstream, endpoint, seen, checks, %unhealthy_for, "an endpoint is healthy again");
            }
            None => {}
        }
    }

    /// Takes endpoints out, or back in, by an operator's word. `Err`: what is not there, and what is.
    pub(super) fn drain(&mut self, asked: &Drain, shared: &Shared) -> Result<Drained, String> {
        let snapshot = shared.snapshot.load_full();
        let Some(index) = index_of(&snapshot, &asked.upstream) else {
            let names = snapshot.upstreams.iter().map(|upstream| &*upstream.name);
            let meant = closest(&asked.upstream, names).map(|name| format!(" (did you mean \"{name}\"?)"));
            return Err(format!("no upstream is named \"{}\"{}", asked.upstream, meant.unwrap_or_default()));
        };
        let list = snapshot.endpoints[index].list();
        let is_meant = |endpoint: &&Arc<Endpoint>| {
            endpoint.label == asked.endpoint || endpoint.written.eq_ignore_ascii_case(&asked.endpoint)
        };
        let meant: Vec<&Arc<Endpoint>> = list.iter().filter(is_meant).collect();
        if meant.is_empty() {
            let some: Vec<&str> = list.iter().take(5).map(|endpoint| &*endpoint.label).collect();
            let (upstream, more) = (&asked.upstream, if list.len() > 5 { ", ..." } else { "" });
            return Err(format!(
                "no endpoint of \"{upstream}\" is at \"{}\"; it has: {}{more}",
                asked.endpoint,
                some.join(", ")
            ));
        }
        let was: Vec<bool> = meant
            .iter()
            .map(|endpoint| std::mem::replace(&mut endpoint.state.record().drained, asked.drained))
            .collect();
        self.publish(&asked.upstream, shared);
        for (endpoint, _) in meant.iter().zip(was).filter(|(_, was)| *was != asked.drained) {
            let (upstream, in_flight) = (&asked.upstream, endpoint.state.in_flight());
            match asked.drained {
                true => tracing::info!(upstream, endpoint = endpoint.label, in_flight, "an endpoint is drained"),
                false => tracing::info!(upstream, endpoint = endpoint.label, "an endpoint is drained no more"),
            }
        }
        Ok(Drained {
            endpoints: meant.iter().map(|endpoint| endpoint.label.clone()).collect(),
            in_flight: meant.iter().map(|endpoint| endpoint.state.in_flight()).sum(),
            left: list.iter().filter(|endpoint| endpoint.state.standing() == Standing::Usable).count(),
        })
    }

    /// Publishes which endpoints of `upstream` are used now.
    fn publish(&mut self, upstream: &str, shared: &Shared) {
        let mut snapshot = Snapshot::clone(&shared.snapshot.load());
        // It may have been removed while something of it was running.
        let Some(index) = index_of(&snapshot, upstream) else { return };
        snapshot.endpoints[index] = again(&snapshot.endpoints[index]);
        let snapshot = Arc::new(snapshot);
        shared.snapshot.store(snapshot.clone());
        self.count(&snapshot);
    }

    /// Tells of subsets whose requests are refused. Where the upstream has nobody at all, that is what is told.
    fn missed(&mut self, upstream: &Upstream, endpoints: &Endpoints, before: &BTreeSet<(String, String)>) {
        for (subset, some) in endpoints.subsets() {
            let key = (upstream.name.clone(), subset.to_string());
            let is_missed = some.is_some_and(|some| some.live().is_empty()) && !endpoints.live().is_empty();
            let (upstream, subset) = (&key.0, &key.1);
            match (before.contains(&key), is_missed) {
                (false, true) => tracing::error!(upstream, subset, "no endpoint of a subset gets requests"),
                (true, false) if !endpoints.live().is_empty() => {
                    tracing::info!(upstream, subset, "a subset has endpoints again");
                }
                _ => {}
            }
            if is_missed {
                self.missed.insert(key);
            }
        }
    }

    /// Brings the gauges up to date, and tells of upstreams that have nobody usable.
    fn count(&mut self, snapshot: &Snapshot) {
        let before = std::mem::take(&mut self.counted);
        let was_at_a_loss = std::mem::take(&mut self.at_a_loss);
        let was_missed = std::mem::take(&mut self.missed);
        for (upstream, endpoints) in snapshot.upstreams.iter().zip(&snapshot.endpoints) {
            let list = endpoints.list();
            let mut counts = Counts::default();
            for endpoint in list {
                let standing = endpoint.state.standing();
                let at = Standing::ALL.iter().position(|known| *known == standing).expect("all are in the list");
                counts[at] += 1;
            }
            add(&upstream.series, counts, 1);
            self.counted.insert(upstream.name.clone(), (upstream.series.clone(), counts));
            self.missed(upstream, endpoints, &was_missed);
            let live = endpoints.live().len();
            if !endpoints.panics() && (live > 0 || list.is_empty()) {
                if was_at_a_loss.contains(&upstream.name) {
                    tracing::info!(upstream = upstream.name, "an upstream has enough usable endpoints again");
                }
                continue;
            }
            if !was_at_a_loss.contains(&upstream.name) {
                let (upstream, usable) = (&upstream.name, counts[0]);
                match live {
                    0 => tracing::error!(upstream, "no endpoint gets requests"),
                    _ => tracing::error!(upstream, usable, used = live, "too few endpoints are usable: all are used"),
                }
            }
            self.at_a_loss.insert(upstream.name.clone());
        }
        // Several upstreams may share one series, so what each has of it is taken back and not overwritten.
        for (series, counts) in before.into_values() {
            add(&series, counts, -1);
        }
    }
}

fn add(series: &UpstreamSeries, counts: Counts, sign: i64) {
    series.health.endpoints.iter().zip(counts).for_each(|(gauge, count)| gauge.add(sign * count));
}

/// What an endpoint is asked by when the check does not say: as the upstream's requests do, if that is the same for all.
fn host<'a>(upstream: &'a Upstream, endpoint: &'a Endpoint) -> &'a str {
    match &upstream.host {
        HostPolicy::Fixed(host) => host,
        _ => &endpoint.written,
    }
}

/// Upstreams are compiled in the order of their names.
fn index_of(snapshot: &Snapshot, upstream: &str) -> Option<usize> {
    snapshot.upstreams.binary_search_by(|known| (*known.name).cmp(upstream)).ok()
}

/// To the millisecond, and above ten seconds to the second.
fn shown(time: Duration) -> Time {
    match time.as_secs() {
        0..10 => Time::from_millis(time.as_millis() as u64),
        secs => Time::from_secs(secs),
    }
}

/// Checks one endpoint for ever: at once, then after each interval.
async fn rounds(
    probe: Probe,
    (interval, jitter): (Duration, u32),
    (key, state): (Key, Arc<State>),
    seats: Arc<Semaphore>,
    tell: mpsc::Sender<Checked>,
) {
    loop {
        let begun = Instant::now();
        let outcome = {
            let _seat = seats.acquire().await;
            probe.make().await
        };
        let checked = Checked { key: key.clone(), state: state.clone(), outcome, at: Instant::now() };
        if tell.send(checked).await.is_err() {
            return;
        }
        // Without random bytes checks go in step, which is no reason to make none.
        let lot = getrandom::u32().unwrap_or(u32::MAX / 2);
        tokio::time::sleep_until((begun + jittered(interval, jitter, lot)).into()).await;
    }
}

/// `interval`, longer or shorter by a share of it of at most `jitter` millionths, drawn by `lot`.
fn jittered(interval: Duration, jitter: u32, lot: u32) -> Duration {
    let most = interval.as_micros() as u64 * u64::from(jitter) / 1_000_000;
    let drawn = (u128::from(most) * 2 * u128::from(lot) / u128::from(u32::MAX)) as u64;
    interval.saturating_sub(Duration::from_micros(most)) + Duration::from_micros(drawn)
}

#[cfg(test)]
mod tests;
