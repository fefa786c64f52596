//! Counters of the whole process, a set for each core, added up when somebody asks.
//!
//! A worker writes only its own [`Core`], and only its own part of each [`RouteSeries`] and [`UpstreamSeries`], so counting
//! is a relaxed load and a relaxed store to a cache line that no other core writes: no lock prefix, no shared line. The
//! price is a rule the compiler does not hold: one writer a cell. A second writer loses counts and breaks nothing else.
//!
//! Series are found by name when a snapshot is compiled, never by an exchange, and live on over reloads. Their number is
//! bounded, because names come from configuration, and from discovery: an unbounded label takes the monitoring down.

mod upstream;

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use prometheus_client::registry::Registry;

pub use self::upstream::{CheckOutcome, UpstreamCore, UpstreamHealth, UpstreamSeries};
use super::access_log::{AccessLog, Counts};
use super::doors::Doors;
use super::exposition;
use super::histogram::Histogram;
use super::names::Names;
use super::reloads::Reloads;
use crate::proxy::grpc;
use crate::tls::Tls;

/// Names of routes, and names of upstreams, that are counted apart. At 64 workers a thousand routes are 24 MiB of counters
/// and a scrape of some 40 lines each; what more there is shares [`OTHER`].
pub const SERIES_MAX: usize = 1_000;

/// The label of what is not counted apart.
pub const OTHER: &str = "other";

/// Two cache lines: the prefetcher of common CPUs fetches them in pairs, so half of one would still be shared.
const LINE_BYTES: usize = 128;

/// A count that only grows. One thread writes, any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. One thread writes, any may read.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub const fn new() -> Gauge {
        Gauge(AtomicI64::new(0))
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    #[inline]
    pub fn add(&self, n: i64) {
        self.set(self.get().wrapping_add(n));
    }

    #[inline]
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a field of [`Core`] is reported.
pub(super) enum Reading {
    Counter(fn(&Core) -> &Counter),
    /// A sample a worker, because a sum would hide what matters: that one of them stands still.
    CounterByWorker(fn(&Core) -> &Counter),
    Gauge(fn(&Core) -> &Gauge),
    /// A sample a worker, because a sum would hide what matters: that they differ.
    GaugeByWorker(fn(&Core) -> &Gauge),
    /// The same, kept in microseconds and reported in seconds.
    MicrosecondsByWorker(fn(&Core) -> &Gauge),
}

/// One field of [`Core`] as it is reported. Rows of one family stand together and share the first one's help.
pub(super) struct Row {
    pub(super) family: &'static str,
    pub(super) label: Option<(&'static str, &'static str)>,
    pub(super) help: &'static str,
    pub(super) reading: Reading,
}

/// Declares [`Core`] and how each field is reported, so that none can be counted and never shown.
macro_rules! core {
    ($($field:ident: $kind:ident as $reading:ident = $family:literal $([$label:literal = $value:literal])?, $help:literal;)*) => {
        /// What one worker counts.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Core {
            $(
                #[doc = $help]
                #[doc = concat!("\n\nReported as `", $family, "`.")]
                pub $field: $kind,
            )*
            /// Answers the gateway gave itself, by the position of their code in the list given to [`Metrics::new`].
            pub refusals: Counters,
            /// Its worker has ended: what it counted stays, what it is no longer means anything.
            ended: AtomicBool,
        }

        pub(super) const CORE_ROWS: &[Row] = &[$(Row {
            family: $family,
            label: core!(@label $($label = $value)?),
            help: $help,
            reading: Reading::$reading(|core| &core.$field),
        }),*];
    };
    (@label) => { None };
    (@label $label:literal = $value:literal) => { Some(($label, $value)) };
}

core! {
    connections_accepted: Counter as Counter = "bawab_connections_accepted", "Client connections accepted";
    connections_open: Gauge as GaugeByWorker = "bawab_connections_open", "Client connections open";
    connections_refused_total_limit: Counter as Counter = "bawab_connections_refused" ["reason" = "total_limit"], "Client connections closed before anything was asked, because a bound was reached";
    connections_refused_address_limit: Counter as Counter = "bawab_connections_refused" ["reason" = "address_limit"], "Client connections closed at accept because their address has too many";
    connections_refused_fd: Counter as Counter = "bawab_connections_refused" ["reason" = "file_descriptors"], "Client connections closed at accept because the file descriptors ran out";
    connections_refused_list: Counter as Counter = "bawab_connections_refused" ["reason" = "address_list"], "Client connections closed at accept";
    proxy_headers_accepted: Counter as Counter = "bawab_proxy_protocol" ["outcome" = "accepted"], "Client connections by what their PROXY header came to";
    proxy_headers_local: Counter as Counter = "bawab_proxy_protocol" ["outcome" = "local"], "PROXY headers of a hop that speaks for itself";
    proxy_headers_unnamed: Counter as Counter = "bawab_proxy_protocol" ["outcome" = "unnamed"], "PROXY headers without an address";
    proxy_headers_malformed: Counter as Counter = "bawab_proxy_protocol" ["outcome" = "malformed"], "Connections closed because they did not begin with a PROXY header";
    proxy_headers_untrusted: Counter as Counter = "bawab_proxy_protocol" ["outcome" = "untrusted"], "Connections closed because their peer may say nothing about clients";
    handshakes_full: Counter as Counter = "bawab_tls_handshakes" ["outcome" = "full"], "TLS handshakes with clients";
    handshakes_resumed: Counter as Counter = "bawab_tls_handshakes" ["outcome" = "resumed"], "TLS handshakes with clients that had a ticket";
    handshakes_failed: Counter as Counter = "bawab_tls_handshakes" ["outcome" = "failed"], "TLS handshakes that came to nothing";
    handshakes_client_certificate: Counter as Counter = "bawab_tls_handshakes" ["outcome" = "client_certificate"], "TLS handshakes with clients whose certificate is missing, or not one that is let in";
    handshakes_cut: Counter as Counter = "bawab_tls_handshakes" ["outcome" = "cut"], "TLS handshakes ended because too many newer ones were under way";
    http2_connections: Counter as Counter = "bawab_http2_connections", "Client connections that spoke HTTP/2";
    http2_calmed: Counter as Counter = "bawab_http2_calmed", "HTTP/2 connections ended because their frames made work and brought nothing";
    accept_errors: Counter as Counter = "bawab_accept_errors", "Accepts that failed for another reason than a bound of ours";
    requests: Counter as Counter = "bawab_requests", "Request heads read, also those that were refused";
    requests_in_flight: Gauge as Gauge = "bawab_requests_in_flight", "Exchanges running";
    task_panics: Counter as Counter = "bawab_task_panics", "Tasks ended by a panic, each with its connection; always a bug of ours";
    timeouts_head: Counter as Counter = "bawab_client_timeouts" ["wait" = "head"], "Client connections that let a deadline pass";
    timeouts_ping: Counter as Counter = "bawab_client_timeouts" ["wait" = "ping"], "HTTP/2 connections whose client gave no sign of life";
    timeouts_handshake: Counter as Counter = "bawab_client_timeouts" ["wait" = "tls_handshake"], "Client connections that let a deadline pass before TLS was agreed on";
    timeouts_body: Counter as Counter = "bawab_client_timeouts" ["wait" = "body"], "Client connections that sent too little of a body for too long";
    timeouts_keep_alive: Counter as Counter = "bawab_client_timeouts" ["wait" = "keep_alive"], "Client connections closed between two requests";
    timeouts_write: Counter as Counter = "bawab_client_timeouts" ["wait" = "write"], "Client connections that took nothing of an answer for too long";
    slow_clients: Counter as Counter = "bawab_slow_clients", "Client connections closed for sending or reading below the minimum rate";
    upstream_pool_idle: Gauge as Gauge = "bawab_upstream_connections_idle", "Upstream connections kept for reuse";
    buffers_live: Gauge as Gauge = "bawab_buffers_live", "Pooled buffers in use";
    buffers_missed: Counter as Counter = "bawab_buffers_missed", "Buffers allocated because the pool was empty";
    mirrors_sent: Counter as Counter = "bawab_mirrors" ["outcome" = "sent"], "Copies of requests for other upstreams";
    mirrors_failed: Counter as Counter = "bawab_mirrors" ["outcome" = "failed"], "Copies of requests that got no answer, among those sent";
    mirrors_too_long: Counter as Counter = "bawab_mirrors" ["outcome" = "too_long"], "Copies not sent because the body was too long to keep";
    mirrors_too_many: Counter as Counter = "bawab_mirrors" ["outcome" = "too_many"], "Copies not sent because too many were on their way";
    compressions_missed: Counter as Counter = "bawab_compressions_missed", "Answers that went uncompressed because as many as may be were being compressed";
    notices_lost: Counter as Counter = "bawab_upstream_notices_lost", "Times the control side was not told that an endpoint fails, because too much waited";
    desk_full: Counter as Counter = "bawab_desk_jobs_lost" ["reason" = "full"], "Jobs for the control side that got the answer defined for not being done";
    desk_late: Counter as Counter = "bawab_desk_jobs_lost" ["reason" = "late"], "Jobs for the control side that missed their deadline";
    deadline_sweeps: Counter as CounterByWorker = "bawab_worker_deadline_sweeps", "Sweeps over the deadlines; a worker whose count stands still is stuck";
    swap_longest_us: Gauge as MicrosecondsByWorker = "bawab_worker_swap_longest_seconds", "Longest time the worker lately took to change to another configuration";
    turn_longest_us: Gauge as MicrosecondsByWorker = "bawab_worker_turn_longest_seconds", "Longest time the worker lately spent away from its ring";
}

/// A row of counters on cache lines of its own. `counters[i]` panics when `i` is out of range, `get` does not.
#[derive(Debug, Default)]
pub struct Counters {
    lines: Box<[CounterLine]>,
    count: usize,
}

const COUNTERS_PER_LINE: usize = LINE_BYTES / size_of::<Counter>();

#[derive(Debug, Default)]
#[repr(align(128))]
struct CounterLine([Counter; COUNTERS_PER_LINE]);

impl Counters {
    fn new(count: usize) -> Counters {
        let lines = count.div_ceil(COUNTERS_PER_LINE);
        Counters { lines: (0..lines).map(|_| CounterLine::default()).collect(), count }
    }

    #[inline]
    pub fn get(&self, at: usize) -> Option<&Counter> {
        if at >= self.count {
            return None;
        }
        self.lines.get(at / COUNTERS_PER_LINE).map(|line| &line.0[at % COUNTERS_PER_LINE])
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Index<usize> for Counters {
    type Output = Counter;

    fn index(&self, at: usize) -> &Counter {
        self.get(at).expect("a refusal code is one of those the metrics were made with")
    }
}

/// Names of [`RouteCore::by_class`], in its order.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// One worker's part of a route.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteCore {
    /// Exchanges by `status / 100`; 0: the client got no answer.
    pub by_class: [Counter; CLASSES.len()],
    /// Calls of gRPC by their status.
    pub grpc: [Counter; grpc::Status::NAMES.len()],
    /// From the first byte of the head to the last byte of the answer.
    pub duration: Histogram,
    /// Body bytes from the client, without framing.
    pub request_bytes: Counter,
    /// Body bytes to the client, without framing.
    pub response_bytes: Counter,
}

impl RouteCore {
    /// The counter of `status`; what is no status counts as no answer.
    #[inline]
    pub fn class(&self, status: u16) -> &Counter {
        self.by_class.get(usize::from(status / 100)).unwrap_or(&self.by_class[0])
    }
}

/// One part a worker, made when that worker first counts: workers come and go with reloads, and few series are used by
/// all of them.
#[derive(Debug)]
struct Parts<T>(Box<[OnceLock<Box<T>>]>);

impl<T> Parts<T> {
    fn new(workers_max: usize) -> Parts<T> {
        Parts((0..workers_max).map(|_| OnceLock::new()).collect())
    }

    #[inline]
    fn of(&self, worker: usize, make: impl FnOnce() -> T) -> &T {
        self.0[worker].get_or_init(|| Box::new(make()))
    }

    /// Those there are, each with its worker.
    fn all(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate().filter_map(|(worker, part)| Some((worker, &**part.get()?)))
    }
}

/// What is counted for a route.
#[derive(Debug)]
pub struct RouteSeries {
    parts: Parts<RouteCore>,
}

impl RouteSeries {
    /// The part that only `worker` writes.
    #[inline]
    pub fn core(&self, worker: usize) -> &RouteCore {
        self.parts.of(worker, RouteCore::default)
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = &RouteCore> {
        self.parts.all().map(|(_, core)| core)
    }
}

/// Series by name.
struct Series<T> {
    by_name: Mutex<BTreeMap<String, Arc<T>>>,
    make: fn(usize) -> T,
    /// How often a name had to share [`OTHER`].
    shared: AtomicU64,
}

impl<T> Series<T> {
    fn new(make: fn(usize) -> T) -> Series<T> {
        Series { by_name: Mutex::default(), make, shared: AtomicU64::new(0) }
    }

    fn find(&self, name: &str, workers_max: usize) -> Arc<T> {
        self.find_all(std::iter::once(name), workers_max).remove(0)
    }

    /// Finds or makes the series of each of `names`. When there is no room, one that nobody holds any more (its route is gone
    /// from every snapshot) makes some; a scraper sees it end, as it does when a process ends. They are looked for once,
    /// whatever the number of names.
    fn find_all<'n>(&self, names: impl Iterator<Item = &'n str> + Clone, workers_max: usize) -> Vec<Arc<T>> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        // Held from here on, so that no new name takes the place of one that goes on.
        let known: Vec<Option<Arc<T>>> = names.clone().map(|name| by_name.get(name).cloned()).collect();
        let mut unheld: Option<Vec<String>> = None;
        let found = names.zip(known).map(|(name, known)| {
            if let Some(series) = known.or_else(|| by_name.get(name).cloned()) {
                return series;
            }
            let mut name = name;
            if by_name.len() >= SERIES_MAX {
                let unheld = unheld.get_or_insert_with(|| {
                    let unheld = by_name.iter().filter(|(_, series)| Arc::strong_count(series) == 1);
                    unheld.map(|(name, _)| name.clone()).collect()
                });
                match unheld.pop() {
                    Some(unheld) => {
                        by_name.remove(&unheld);
                    }
                    None => {
                        self.shared.fetch_add(1, Ordering::Relaxed);
                        name = OTHER;
                    }
                }
            }
            let series = by_name.entry(name.to_owned()).or_insert_with(|| Arc::new((self.make)(workers_max)));
            Arc::clone(series)
        });
        found.collect()
    }

    /// All there are, by name. A copy of the references, so that no lock is held while they are written out.
    fn all(&self) -> Vec<(String, Arc<T>)> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.iter().map(|(name, series)| (name.clone(), Arc::clone(series))).collect()
    }
}

/// Everything that is counted, for as long as the process lives.
pub struct Metrics {
    cores: Parts<Core>,
    refusal_codes: &'static [&'static str],
    routes: Series<RouteSeries>,
    upstreams: Series<UpstreamSeries>,
    access_log: OnceLock<Arc<Counts>>,
    pub reloads: Reloads,
    pub doors: Doors,
    pub names: Arc<Names>,
    /// What clients and services are shown now.
    pub tls: Mutex<Arc<Tls>>,
    started: SystemTime,
    registry: Registry,
}

impl Metrics {
    /// For workers `0..workers_max`. `refusal_codes` names the counters of [`Core::refusals`], in their order.
    pub fn new(workers_max: usize, refusal_codes: &'static [&'static str]) -> Arc<Metrics> {
        Arc::new_cyclic(|metrics| Metrics {
            cores: Parts::new(workers_max),
            refusal_codes,
            routes: Series::new(|workers_max| RouteSeries { parts: Parts::new(workers_max) }),
            upstreams: Series::new(UpstreamSeries::new),
            access_log: OnceLock::new(),
            reloads: Reloads::default(),
            doors: Doors::default(),
            names: Arc::default(),
            tls: Mutex::default(),
            started: SystemTime::now(),
            registry: exposition::registry(metrics.clone()),
        })
    }

    /// The counters that only `worker` writes.
    #[inline]
    pub fn core(&self, worker: usize) -> &Core {
        self.cores.of(worker, || Core { refusals: Counters::new(self.refusal_codes.len()), ..Core::default() })
    }

    /// `worker` runs: it is shown beside the others.
    pub fn worker_runs(&self, worker: usize) {
        self.core(worker).ended.store(false, Ordering::Relaxed);
    }

    /// `worker` has ended. What it counted stays in the sums.
    pub fn worker_ended(&self, worker: usize) {
        let core = self.core(worker);
        core.ended.store(true, Ordering::Relaxed);
        // Whatever it still held went with it.
        for gauge in [&core.connections_open, &core.requests_in_flight, &core.upstream_pool_idle, &core.buffers_live] {
            gauge.set(0);
        }
    }

    /// The series of the route called `name`, made when there is none. At most [`SERIES_MAX`] have one of their own.
    pub fn route(&self, name: &str) -> Arc<RouteSeries> {
        self.routes.find(name, self.cores.0.len())
    }

    /// [`Metrics::route`] for many names, at a cost that grows with their number alone.
    pub fn routes_of<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Vec<Arc<RouteSeries>> {
        self.routes.find_all(names, self.cores.0.len())
    }

    /// The series of the upstream called `name`, made when there is none. At most [`SERIES_MAX`] have one of their own.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamSeries> {
        self.upstreams.find(name, self.cores.0.len())
    }

    /// From now on reports what `log` wrote and dropped. Only the first call has an effect: there is one access log.
    pub fn watch_access_log(&self, log: &AccessLog) {
        let _already_watching = self.access_log.set(Arc::clone(log.counts()));
    }

    /// Everything in the text format of OpenMetrics 1.0, which Prometheus reads. Costs a read of every cell, and of a few
    /// files of /proc: for the control side only.
    pub fn render(&self) -> String {
        exposition::render(&self.registry)
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = &Core> {
        self.cores.all().map(|(_, core)| core)
    }

    /// The workers that run now.
    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Core)> {
        self.cores.all().filter(|(_, core)| !core.ended.load(Ordering::Relaxed))
    }

    pub(super) fn refusal_codes(&self) -> &'static [&'static str] {
        self.refusal_codes
    }

    pub(super) fn routes(&self) -> Vec<(String, Arc<RouteSeries>)> {
        self.routes.all()
    }

    pub(super) fn upstreams(&self) -> Vec<(String, Arc<UpstreamSeries>)> {
        self.upstreams.all()
    }

    /// How often a route, and how often an upstream, had to share [`OTHER`].
    pub(super) fn names_shared(&self) -> (u64, u64) {
        let read = |shared: &AtomicU64| shared.load(Ordering::Relaxed);
        (read(&self.routes.shared), read(&self.upstreams.shared))
    }

    pub(super) fn access_log(&self) -> Option<&Counts> {
        self.access_log.get().map(Arc::as_ref)
    }

    pub(super) fn started(&self) -> SystemTime {
        self.started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cores_share_a_cache_line() {
        fn check<T>(name: &str) {
            assert_eq!(align_of::<T>(), LINE_BYTES, "{name}");
            assert_eq!(size_of::<T>() % LINE_BYTES, 0, "{name}");
        }
        check::<Core>("Core");
        check::<CounterLine>("CounterLine");
        check::<RouteCore>("RouteCore");
        check::<UpstreamCore>("UpstreamCore");
    }

    #[test]
    fn a_name_keeps_its_series_over_reloads() {
        let metrics = Metrics::new(2, &[]);
        metrics.route("books").core(1).class(200).inc();
        assert_eq!(metrics.route("books").core(1).class(200).get(), 1);
        assert_eq!(metrics.route("films").core(1).class(200).get(), 0);
    }

    #[test]
    fn one_name_too_many_shares_other() {
        let metrics = Metrics::new(1, &[]);
        let held: Vec<_> = (0..SERIES_MAX).map(|at| metrics.route(&format!("route-{at}"))).collect();
        assert_eq!(metrics.names_shared(), (0, 0));
        let beyond = metrics.route("one-more");
        let further = metrics.route("yet-another");
        assert!(Arc::ptr_eq(&beyond, &further));
        assert!(Arc::ptr_eq(&beyond, &metrics.route(OTHER)));
        assert_eq!(metrics.names_shared(), (2, 0));
        assert!(Arc::ptr_eq(&held[7], &metrics.route("route-7")), "a known name is still found");
        assert_eq!(metrics.routes().len(), SERIES_MAX + 1);
    }

    #[test]
    fn a_series_nobody_holds_makes_room() {
        let metrics = Metrics::new(1, &[]);
        let mut held: Vec<_> = (0..SERIES_MAX).map(|at| metrics.upstream(&format!("upstream-{at}"))).collect();
        held.remove(5).core(0).requests.inc();
        let new = metrics.upstream("new");
        new.core(0).requests.inc();
        assert_eq!(metrics.upstream("new").core(0).requests.get(), 1);
        assert_eq!(metrics.names_shared(), (0, 0));
        assert!(metrics.upstreams().iter().all(|(name, _)| name != "upstream-5"));
    }

    #[test]
    fn many_names_at_once_get_what_they_would_one_by_one() {
        let metrics = Metrics::new(1, &[]);
        let names: Vec<String> = (0..SERIES_MAX).map(|at| format!("route-{at}")).collect();
        let before = metrics.routes_of(names.iter().map(String::as_str));
        before.iter().for_each(|series| series.core(0).class(200).inc());
        drop(before);
        // Two of them go, three come: the last of those finds no room.
        let wanted = ["new", "newer", "newest", "newest"].into_iter();
        let after = metrics.routes_of(wanted.chain(names[2..].iter().map(String::as_str)));
        assert_eq!(after[0].core(0).class(200).get(), 0);
        assert!(!Arc::ptr_eq(&after[0], &after[1]));
        assert!(Arc::ptr_eq(&after[2], &metrics.route(OTHER)) && Arc::ptr_eq(&after[2], &after[3]));
        assert!(
            after[4..].iter().all(|series| series.core(0).class(200).get() == 1),
            "a name that stays keeps its counts"
        );
        assert_eq!(metrics.names_shared(), (2, 0));
    }

    #[test]
    fn a_status_counts_in_its_class_and_nonsense_as_no_answer() {
        let route = RouteCore::default();
        for status in [0, 99, 100, 200, 299, 304, 499, 500, 599, 600, u16::MAX] {
            route.class(status).inc();
        }
        assert_eq!(route.by_class.each_ref().map(Counter::get), [4, 1, 2, 1, 1, 2]);
    }

    #[test]
    fn refusals_are_as_many_as_there_are_codes() {
        let codes = 17;
        let counters = Counters::new(codes);
        (0..codes).for_each(|at| counters[at].add(at as u64));
        assert_eq!(counters.get(16).map(Counter::get), Some(16));
        assert!(counters.get(17).is_none());
    }
}
