//! The counters as text for a scraper: adds the cores up and writes them out through `prometheus-client`, which knows the
//! format and its escapes. Runs on the control side; reads every cell once and keeps nothing.

mod dns;
#[cfg(test)]
mod scraper;

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::{BOUNDS_US, BUCKET_COUNT, Histogram, Sum};
use super::metrics::{CLASSES, CORE_ROWS, CheckOutcome, Counter, Metrics, Reading, Row, UpstreamSeries};
use super::reloads::Outcome;
use super::{events, process};
use crate::balance::Distance;
use crate::proxy::{grpc, retry};
use crate::tables::health::Cause;
use crate::tables::health::record::Standing;
use crate::tls::Reason;

/// A registry whose only entry reads `metrics`.
pub(super) fn registry(metrics: Weak<Metrics>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(metrics)));
    registry
}

pub(super) fn render(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("writing to a string does not fail");
    text
}

/// Weak, because the metrics own the registry that owns this.
#[derive(Debug)]
struct Scrape(Weak<Metrics>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(metrics) = self.0.upgrade() else {
            return Ok(());
        };
        let mut families = Families(encoder);
        workers(&mut families, &metrics)?;
        refusals(&mut families, &metrics)?;
        routes(&mut families, &metrics)?;
        upstreams(&mut families, &metrics)?;
        dns::names(&mut families, &metrics)?;
        logs(&mut families, &metrics)?;
        names(&mut families, &metrics)?;
        configuration(&mut families, &metrics)?;
        doors(&mut families, &metrics)?;
        certificates(&mut families, &metrics)?;
        whole_process(&mut families, &metrics)
    }
}

fn workers(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    for rows in CORE_ROWS.chunk_by(|one, next| one.family == next.family) {
        let Row { family, help, reading, .. } = &rows[0];
        let kind = match reading {
            Reading::Counter(_) | Reading::CounterByWorker(_) => MetricType::Counter,
            Reading::Gauge(_) | Reading::GaugeByWorker(_) | Reading::MicrosecondsByWorker(_) => MetricType::Gauge,
        };
        let mut family = families.begin(family, help, kind)?;
        for row in rows {
            match row.reading {
                Reading::Counter(field) => {
                    let total = metrics.cores().fold(0_u64, |total, core| total.wrapping_add(field(core).get()));
                    match row.label {
                        Some(label) => family.counter(&[label], total)?,
                        None => family.total(total)?,
                    }
                }
                Reading::CounterByWorker(field) => {
                    for (worker, core) in metrics.running() {
                        family.counter(&[("worker", worker)], field(core).get())?;
                    }
                }
                Reading::Gauge(field) => {
                    family.value(metrics.cores().map(|core| field(core).get()).sum::<i64>())?;
                }
                Reading::GaugeByWorker(field) => {
                    for (worker, core) in metrics.running() {
                        family.gauge(&[("worker", worker)], field(core).get())?;
                    }
                }
                Reading::MicrosecondsByWorker(field) => {
                    for (worker, core) in metrics.running() {
                        family.gauge(&[("worker", worker)], field(core).get() as f64 / 1e6)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn refusals(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let help = "Answers the gateway gave itself, by the code that is also in the answer and in the access log";
    let mut family = families.begin("bawab_refusals", help, MetricType::Counter)?;
    for (at, code) in metrics.refusal_codes().iter().enumerate() {
        let total = metrics.cores().filter_map(|core| core.refusals.get(at));
        family.counter(&[("code", *code)], sum(total))?;
    }
    Ok(())
}

fn routes(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let routes = metrics.routes();
    let help = "Calls of gRPC by their status: as the service says, or as they are refused with";
    let mut family = families.begin("bawab_route_grpc_calls", help, MetricType::Counter)?;
    for (name, route) in &routes {
        for (at, status) in grpc::Status::NAMES.into_iter().enumerate() {
            let total = sum(route.cores().map(|core| &core.grpc[at]));
            // Most routes have none, and most statuses are seldom seen.
            if total > 0 {
                family.counter(&[("route", name.as_str()), ("grpc_status", status)], total)?;
            }
        }
    }
    let help = "Exchanges of a route by the class of the status the client got; none: it got no answer";
    let mut family = families.begin("bawab_route_requests", help, MetricType::Counter)?;
    for (name, route) in &routes {
        for (at, class) in CLASSES.iter().enumerate() {
            let total = sum(route.cores().map(|core| &core.by_class[at]));
            family.counter(&[("route", name.as_str()), ("class", class)], total)?;
        }
    }
    let help = "From the first byte of a request to the last byte of its answer";
    let mut family = families.begin("bawab_route_duration_seconds", help, MetricType::Histogram)?;
    for (name, route) in &routes {
        family.histogram(&[("route", name)], route.cores().map(|core| &core.duration))?;
    }
    let help = "Body bytes clients sent, without framing";
    let mut family = families.begin("bawab_route_request_bytes", help, MetricType::Counter)?;
    for (name, route) in &routes {
        family.counter(&[("route", name)], sum(route.cores().map(|core| &core.request_bytes)))?;
    }
    let help = "Body bytes clients were sent, without framing";
    let mut family = families.begin("bawab_route_response_bytes", help, MetricType::Counter)?;
    for (name, route) in &routes {
        family.counter(&[("route", name)], sum(route.cores().map(|core| &core.response_bytes)))?;
    }
    Ok(())
}

fn upstreams(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    use super::metrics::UpstreamCore as Core;
    type Count = (&'static str, &'static str, fn(&Core) -> &Counter);
    const COUNTS: [Count; 7] = [
        ("bawab_upstream_requests", "Requests sent, each retry counted again", |core| &core.requests),
        ("bawab_upstream_connects", "Connections opened", |core| &core.connects),
        ("bawab_upstream_connect_failures", "Connections that could not be opened, or not in time", |core| {
            &core.connect_failures
        }),
        ("bawab_upstream_reused", "Requests sent on a connection that had served one before", |core| &core.reused),
        ("bawab_upstream_retries_exhausted", "Requests that failed and had all their attempts", |core| {
            &core.retries_exhausted
        }),
        (
            "bawab_upstream_retries_over_budget",
            "Requests that failed and were not sent again for want of budget",
            |core| &core.retries_over_budget,
        ),
        ("bawab_upstream_stale_connections", "Kept connections found closed when they were used", |core| {
            &core.stale_connections
        }),
    ];
    let upstreams = metrics.upstreams();
    for (family, help, field) in COUNTS {
        let mut family = families.begin(family, help, MetricType::Counter)?;
        for (name, upstream) in &upstreams {
            family.counter(&[("upstream", name)], sum(upstream.cores().map(field)))?;
        }
    }
    handshakes(families, metrics, &upstreams)?;
    let help = "Requests sent again, by what the attempt before came to";
    let mut family = families.begin("bawab_upstream_retries", help, MetricType::Counter)?;
    for (name, upstream) in &upstreams {
        for (at, cause) in retry::Cause::LABELS.into_iter().enumerate() {
            let total = sum(upstream.cores().map(|core| &core.retries[at]));
            family.counter(&[("upstream", name.as_str()), ("cause", cause)], total)?;
        }
    }
    let help = "Requests refused because as many ran as `limits` of the upstream says";
    let mut family = families.begin("bawab_upstream_overloaded", help, MetricType::Counter)?;
    for (name, upstream) in &upstreams {
        let upstream_label = ("upstream", name.as_str());
        let total = sum(upstream.cores().map(|core| &core.overloaded));
        family.counter(&[upstream_label, ("limit", "requests_max")], total)?;
        let total = sum(upstream.cores().map(|core| &core.endpoints_overloaded));
        family.counter(&[upstream_label, ("limit", "endpoint_requests_max")], total)?;
    }
    let help = "Requests sent, by how far away the endpoint is";
    let mut family = families.begin("bawab_upstream_requests_by_distance", help, MetricType::Counter)?;
    for (name, upstream) in &upstreams {
        let of = |distance: Distance| sum(upstream.cores().map(|core| &core.by_distance[distance as usize]));
        let totals = Distance::ALL.map(of);
        // Most gateways do not know where they are.
        for (distance, total) in Distance::ALL.into_iter().zip(totals).filter(|_| totals != [0; 3]) {
            family.counter(&[("upstream", name.as_str()), ("distance", distance.name())], total)?;
        }
    }
    let help = "Answers where clients are kept with their endpoint, by what the request's cookie said";
    let mut family = families.begin("bawab_upstream_sessions", help, MetricType::Counter)?;
    type Session = (&'static str, fn(&Core) -> &Counter);
    const SESSIONS: [Session; 4] = [
        ("none", |core| &core.sessions_none),
        ("unknown", |core| &core.sessions_unknown),
        ("kept", |core| &core.sessions_kept),
        ("moved", |core| &core.sessions_moved),
    ];
    for (name, upstream) in &upstreams {
        for (outcome, field) in SESSIONS {
            let labels = [("upstream", name.as_str()), ("cookie", outcome)];
            family.counter(&labels, sum(upstream.cores().map(field)))?;
        }
    }
    let help = "From a request sent to the first byte of its answer";
    let mut family = families.begin("bawab_upstream_first_byte_seconds", help, MetricType::Histogram)?;
    for (name, upstream) in &upstreams {
        family.histogram(&[("upstream", name)], upstream.cores().map(|core| &core.first_byte))?;
    }
    endpoints(families, &upstreams)
}

fn handshakes(
    families: &mut Families<'_>,
    metrics: &Metrics,
    upstreams: &[(String, Arc<UpstreamSeries>)],
) -> fmt::Result {
    let tls = metrics.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let secured = || upstreams.iter().filter(|(name, _)| tls.upstreams.contains_key(name));
    let help = "TLS handshakes with services";
    let mut family = families.begin("bawab_upstream_tls_handshakes", help, MetricType::Counter)?;
    for (name, upstream) in secured() {
        let upstream_label = ("upstream", name.as_str());
        let total = sum(upstream.cores().map(|core| &core.handshakes_full));
        family.counter(&[upstream_label, ("outcome", "full")], total)?;
        let total = sum(upstream.cores().map(|core| &core.handshakes_resumed));
        family.counter(&[upstream_label, ("outcome", "resumed")], total)?;
    }
    let help = "TLS handshakes with services that came to nothing, by what was wrong";
    let mut family = families.begin("bawab_upstream_tls_failures", help, MetricType::Counter)?;
    for (name, upstream) in secured() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            let total = sum(upstream.cores().map(|core| &core.handshakes_failed[at]));
            family.counter(&[("upstream", name.as_str()), ("reason", reason.name())], total)?;
        }
    }
    let help = "Upstreams of which any certificate is taken (danger_accept_any_certificate)";
    let unverified = tls.upstreams.values().filter(|tls| tls.accepts_any).count();
    families.begin("bawab_upstream_tls_unverified", help, MetricType::Gauge)?.value(unverified as i64)?;
    let help = "When a certificate that services are shown ends, since the Unix epoch";
    let mut family = families.begin("bawab_upstream_tls_certificate_expiry_seconds", help, MetricType::Gauge)?;
    for (name, tls) in &tls.upstreams {
        if let Some(certificate) = &tls.certificate {
            let file = certificate.file.display().to_string();
            family.gauge(&[("upstream", name.as_str()), ("file", file.as_str())], certificate.not_after_s)?;
        }
    }
    Ok(())
}

fn endpoints(families: &mut Families<'_>, upstreams: &[(String, Arc<UpstreamSeries>)]) -> fmt::Result {
    let help = "Endpoints by whether they get requests, or what keeps them from it";
    let mut family = families.begin("bawab_upstream_endpoints", help, MetricType::Gauge)?;
    for (name, upstream) in upstreams {
        for (standing, count) in Standing::ALL.iter().zip(&upstream.health.endpoints) {
            family.gauge(&[("upstream", name.as_str()), ("state", standing.name())], count.get())?;
        }
    }
    let help = "Endpoints taken out for a time because too many attempts in a row failed";
    let mut family = families.begin("bawab_upstream_ejections", help, MetricType::Counter)?;
    for (name, upstream) in upstreams {
        for cause in Cause::ALL {
            let labels = [("upstream", name.as_str()), ("cause", cause.name())];
            family.counter(&labels, upstream.health.ejection(cause).get())?;
        }
    }
    let help = "Endpoints that would have been ejected, were it not too many, or the last usable one";
    let mut family = families.begin("bawab_upstream_ejections_refused", help, MetricType::Counter)?;
    for (name, upstream) in upstreams {
        family.counter(&[("upstream", name)], upstream.health.ejections_refused.get())?;
    }
    let help = "Health checks by what they came to";
    let mut family = families.begin("bawab_upstream_health_checks", help, MetricType::Counter)?;
    for (name, upstream) in upstreams {
        for outcome in CheckOutcome::ALL {
            let labels = [("upstream", name.as_str()), ("outcome", outcome.name())];
            family.counter(&labels, upstream.health.check(outcome).get())?;
        }
    }
    Ok(())
}

fn logs(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let counts = metrics.access_log();
    let (written, queue_full, write_failed) = counts
        .map_or((0, 0, 0), |counts| (counts.written(), counts.dropped_queue_full(), counts.dropped_write_failed()));
    let help = "Lines of the access log written";
    families.begin("bawab_access_log_lines", help, MetricType::Counter)?.total(written)?;
    let help = "Lines of the access log lost, because the writer was behind or because writing failed";
    let mut family = families.begin("bawab_access_log_lines_dropped", help, MetricType::Counter)?;
    family.counter(&[("reason", "queue_full")], queue_full)?;
    family.counter(&[("reason", "write_failed")], write_failed)?;
    let help = "Events lost, because stderr took nothing";
    families.begin("bawab_events_dropped", help, MetricType::Counter)?.total(events::dropped())
}

fn names(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let (routes, upstreams) = metrics.names_shared();
    let help = "Times a name was counted under `other`, there being too many names to count apart";
    let mut family = families.begin("bawab_series_shared", help, MetricType::Counter)?;
    family.counter(&[("label", "route")], routes)?;
    family.counter(&[("label", "upstream")], upstreams)
}

fn configuration(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let reloads = &metrics.reloads;
    let help = "Attempts to load the configuration again";
    let mut family = families.begin("bawab_config_reloads", help, MetricType::Counter)?;
    for outcome in Outcome::ALL {
        family.counter(&[("outcome", outcome.name())], reloads.count(outcome))?;
    }
    let Some(current) = reloads.current() else { return Ok(()) };
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let help = "Always 1; the hash names what the running configuration says, secrets left out";
    families.begin("bawab_config_info", help, MetricType::Gauge)?.gauge(&[("hash", current.hash.as_str())], 1_u64)?;
    let help = "When the running configuration was loaded, since the Unix epoch";
    families.begin("bawab_config_loaded_seconds", help, MetricType::Gauge)?.value(seconds(current.loaded))?;
    let help = "Configurations that have run since the start, this one included";
    families.begin("bawab_config_generation", help, MetricType::Gauge)?.value(current.generation)?;
    let help = "Whether the last attempt to load the configuration went well";
    let is_good = reloads.last().is_none_or(|last| last.outcome != Outcome::Failed);
    families.begin("bawab_config_last_reload_successful", help, MetricType::Gauge)?.value(i64::from(is_good))
}

fn certificates(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let tls = metrics.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let help = "When a certificate of a listener ends, since the Unix epoch";
    let mut family = families.begin("bawab_tls_certificate_expiry_seconds", help, MetricType::Gauge)?;
    for certificate in tls.certificates() {
        let file = certificate.file.display().to_string();
        family.gauge(&[("name", certificate.name()), ("file", file.as_str())], certificate.not_after_s)?;
    }
    Ok(())
}

fn doors(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let missed = metrics.doors.bans_missed.load(std::sync::atomic::Ordering::Relaxed);
    let help = "Bans the kernel was not told of because too many waited; user space enforces them";
    families.begin("bawab_xdp_bans_missed", help, MetricType::Counter)?.total(missed)?;
    let doors = metrics.doors.status();
    let help = "Whether the XDP program is attached to the interface, and how";
    let mut family = families.begin("bawab_xdp_attached", help, MetricType::Gauge)?;
    for door in &doors {
        let labels = [("interface", door.interface.as_str()), ("mode", door.mode.as_deref().unwrap_or(""))];
        family.gauge(&labels, i64::from(door.mode.is_some()))?;
    }
    let help = "Whether every drop on the interface is turned off";
    let mut family = families.begin("bawab_xdp_bypassed", help, MetricType::Gauge)?;
    for door in &doors {
        family.gauge(&[("interface", door.interface.as_str())], i64::from(door.bypass))?;
    }
    let help = "Entries of the lists the kernel has";
    let mut family = families.begin("bawab_xdp_entries", help, MetricType::Gauge)?;
    for door in &doors {
        family.gauge(&[("interface", door.interface.as_str())], door.entries)?;
    }
    let help = "Addresses the kernel turns away for a time";
    let mut family = families.begin("bawab_xdp_bans", help, MetricType::Gauge)?;
    for door in &doors {
        family.gauge(&[("interface", door.interface.as_str())], door.bans as u64)?;
    }
    let help = "Packets by what the XDP program made of them";
    let mut family = families.begin("bawab_xdp_packets", help, MetricType::Counter)?;
    for door in &doors {
        for (outcome, packets) in &door.packets {
            family.counter(&[("interface", door.interface.as_str()), ("outcome", outcome)], *packets)?;
        }
    }
    let help = "Packets a list turned away, or would have in shadow mode, and those that are let in by one";
    let mut family = families.begin("bawab_xdp_list_packets", help, MetricType::Counter)?;
    for door in &doors {
        for list in &door.lists {
            let mode = if list.shadow { "shadow" } else { "enforce" };
            let labels = [("interface", door.interface.as_str()), ("list", list.list.as_str()), ("mode", mode)];
            family.counter(&labels, list.packets)?;
        }
    }
    Ok(())
}

/// The names every Prometheus dashboard for a process knows, and who we are. What cannot be read is left out.
fn whole_process(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let help = "Always 1; the version is in the label";
    let mut family = families.begin("bawab_build_info", help, MetricType::Gauge)?;
    family.gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64)?;
    let help = "Worker threads";
    let mut family = families.begin("bawab_workers", help, MetricType::Gauge)?;
    family.value(metrics.running().count())?;

    let help = "When the process started, since the Unix epoch";
    let started = metrics.started().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut family = families.begin("process_start_time_seconds", help, MetricType::Gauge)?;
    family.value(started.as_secs_f64())?;
    let help = "CPU time of all threads, user and system";
    let mut family = families.begin("process_cpu_seconds", help, MetricType::Counter)?;
    family.total(process::cpu_seconds())?;
    if let Some(bytes) = process::resident_memory_bytes() {
        let help = "Resident memory";
        families.begin("process_resident_memory_bytes", help, MetricType::Gauge)?.value(bytes)?;
    }
    if let Some(open) = process::open_fds() {
        let help = "Open file descriptors";
        families.begin("process_open_fds", help, MetricType::Gauge)?.value(open)?;
    }
    if let Some(max) = process::max_fds() {
        let help = "Most file descriptors the process may have open";
        families.begin("process_max_fds", help, MetricType::Gauge)?.value(max)?;
    }
    Ok(())
}

fn sum<'a>(counters: impl Iterator<Item = &'a Counter>) -> u64 {
    counters.fold(0, |total, counter| total.wrapping_add(counter.get()))
}

/// Families in the order they are begun.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// `name` without the `_total` that the format adds to counters.
    fn begin<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<Family<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind).map(Family)
    }
}

/// The samples of one family.
struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    /// The one sample of a counter without labels.
    fn total(&mut self, total: impl EncodeCounterValue) -> fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, f64>(&total, None)
    }

    /// The one sample of a gauge without labels.
    fn value(&mut self, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_gauge(&value)
    }

    fn counter(&mut self, labels: &impl EncodeLabelSet, value: impl EncodeCounterValue) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, labels: &impl EncodeLabelSet, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn histogram<'h>(
        &mut self,
        labels: &impl EncodeLabelSet,
        cores: impl Iterator<Item = &'h Histogram>,
    ) -> fmt::Result {
        let mut sum = Sum::default();
        cores.for_each(|histogram| sum.add(histogram));
        let mut buckets = [(f64::INFINITY, 0); BUCKET_COUNT];
        for (at, (bound, count)) in buckets.iter_mut().enumerate() {
            *bound = BOUNDS_US.get(at).map_or(f64::INFINITY, |us| *us as f64 / 1e6);
            *count = sum.buckets[at];
        }
        let seconds = sum.sum_us as f64 / 1e6;
        self.0.encode_family(labels)?.encode_histogram::<NoLabelSet>(seconds, sum.count(), &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::{NameShown, Outcome};
    use crate::config::model::RecordKind;
    use proptest::prelude::*;

    use super::scraper::{labels_text, parse};
    use super::*;
    use crate::observe::doors::{DoorStatus, ListStatus};
    use crate::observe::metrics::SERIES_MAX;

    const CODES: &[&str] = &["head_timeout", "no_route"];

    /// Two workers that have seen a little of everything.
    fn counted() -> Arc<Metrics> {
        let metrics = Metrics::new(2, CODES);
        for (worker, times) in [(0, 3), (1, 4)] {
            let core = metrics.core(worker);
            core.connections_accepted.add(times);
            core.connections_open.inc();
            core.connections_refused_fd.inc();
            core.turn_longest_us.set(1_500 * times as i64);
            core.refusals[1].add(times);
            let route = metrics.route("books");
            let route = route.core(worker);
            route.class(200).inc();
            route.class(503).inc();
            route.duration.observe_us(50);
            route.duration.observe_us(70_000_000);
            route.request_bytes.add(10);
            route.response_bytes.add(1_000);
            let upstream = metrics.upstream("shelf");
            let upstream = upstream.core(worker);
            upstream.requests.inc();
            upstream.sent(Some(Distance::Zone));
            upstream.sessions_kept.inc();
            upstream.first_byte.observe_us(1_000);
        }
        let health = metrics.upstream("shelf");
        health.health.endpoints[0].set(2);
        health.health.endpoints[2].set(1);
        health.health.ejection(Cause::ConsecutiveLocal).inc();
        health.health.check(CheckOutcome::Passed).add(5);
        health.health.check(CheckOutcome::NotMade).inc();
        let tally = metrics.names.tally("shelf.internal", RecordKind::Srv);
        tally.count(Outcome::Answered);
        tally.count(Outcome::Failed);
        let (name, kind) = ("shelf.internal".to_owned(), RecordKind::Srv);
        metrics.names.set(vec![NameShown { name, kind, addresses: 2, good_at: None, why: None, tally }]);
        metrics.doors.set(vec![DoorStatus {
            interface: "eth0".to_owned(),
            mode: Some("native".to_owned()),
            entries: 7,
            bans: 1,
            packets: vec![("passed", 100), ("dropped", 3)],
            lists: vec![ListStatus { list: "drop".to_owned(), shadow: false, packets: 3, bytes: 180, sources: 1 }],
            ..DoorStatus::default()
        }]);
        let loaded = UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        metrics.reloads.started("0123456789abcdef", loaded);
        metrics.reloads.applied("fedcba9876543210", loaded);
        metrics.reloads.failed("a problem", loaded);
        metrics
    }

    #[test]
    fn everything_counted_is_reported() {
        // Figures of this very process differ from run to run.
        let is_ours = |line: &&str| line.starts_with('#') || !line.starts_with("process_");
        let text = counted().render();
        insta::assert_snapshot!(text.lines().filter(is_ours).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn the_text_is_strictly_well_formed() {
        let families = parse(&counted().render());
        assert_eq!(families["bawab_connections_accepted"].samples["_total{}"], 7.0);
        assert_eq!(families["bawab_connections_open"].samples["{worker=\"1\"}"], 1.0);
        assert_eq!(families["bawab_worker_turn_longest_seconds"].samples["{worker=\"1\"}"], 0.006);
        assert_eq!(families["bawab_refusals"].samples["_total{code=\"no_route\"}"], 7.0);
        let durations = &families["bawab_route_duration_seconds"].samples;
        assert_eq!(durations["_count{route=\"books\"}"], 4.0);
        assert_eq!(durations["_sum{route=\"books\"}"], 140.0001);
        assert_eq!(durations["_bucket{le=\"0.00005\",route=\"books\"}"], 2.0);
        assert_eq!(durations["_bucket{le=\"60.0\",route=\"books\"}"], 2.0);
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds"] {
            assert!(families[name].samples["{}"] > 0.0, "{name}");
        }
    }

    #[test]
    fn a_gateway_without_routes_is_well_formed() {
        let families = parse(&Metrics::new(1, &[]).render());
        assert!(families["bawab_route_requests"].samples.is_empty());
    }

    #[test]
    fn names_beyond_the_limit_are_counted_and_share_a_label() {
        let metrics = Metrics::new(1, &[]);
        let held: Vec<_> = (0..=SERIES_MAX).map(|at| metrics.route(&at.to_string())).collect();
        held[SERIES_MAX].core(0).class(200).inc();
        let families = parse(&metrics.render());
        assert_eq!(families["bawab_series_shared"].samples["_total{label=\"route\"}"], 1.0);
        let other = "_total{route=\"other\",class=\"2xx\"}";
        assert_eq!(families["bawab_route_requests"].samples[other], 1.0);
    }

    /// The page of the documentation and the text name the same metrics.
    #[test]
    fn every_metric_is_on_the_page_and_no_other() {
        let page = include_str!("../../../docs/observability.md");
        let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
        let on_page = |name: &str| page.split(|char| !is_name(char)).any(|word| word == name);
        let families = parse(&counted().render());
        let mut names = Vec::new();
        for (name, family) in &families {
            let suffix = if family.kind == "counter" { "_total" } else { "" };
            names.push(format!("{name}{suffix}"));
        }
        let missing: Vec<_> = names.iter().filter(|name| !on_page(name)).collect();
        assert!(missing.is_empty(), "not on the page: {missing:?}");
        let named = page
            .split(|char| !is_name(char))
            .filter(|word| word.starts_with("bawab_") || word.starts_with("process_") && word.len() > 8);
        for word in named {
            assert!(names.iter().any(|name| name == word), "not a metric: {word}");
        }
    }

    proptest! {
        #[test]
        fn a_label_holds_any_name(name in "(?s).{0,40}") {
            let metrics = Metrics::new(1, &[]);
            metrics.route(&name).core(0).class(200).inc();
            let families = parse(&metrics.render());
            let labels = [("route", name.as_str()), ("class", "2xx")];
            let sample = format!("_total{}", labels_text(&labels));
            prop_assert_eq!(families["bawab_route_requests"].samples.get(&sample), Some(&1.0));
        }
    }
}
