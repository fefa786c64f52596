//! What the admin listener says and does about endpoints: how each stands and why, and taking one out and back in.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::door::{Pairs, bad, first, wants_text};
use super::{Command, State, from_a_page, problem};
use crate::balance::Endpoint;
use crate::config::model::RecordKind;
use crate::config::units::Time;
use crate::observe::names::{NameShown as LookedUp, SourceShown};
use crate::observe::rfc3339;
use crate::tables::health::record::{Record, Standing};

/// What an operator asks of endpoints.
#[derive(Debug, Clone)]
pub struct Drain {
    pub upstream: String,
    /// An address, or a name and all its addresses, as it was written.
    pub endpoint: String,
    /// Out, or back in.
    pub drained: bool,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Drained {
    pub endpoints: Vec<String>,
    /// What still runs on them.
    pub in_flight: u32,
    /// Usable endpoints the upstream has left.
    pub left: usize,
}

#[derive(Serialize)]
struct UpstreamShown {
    name: String,
    /// Too few endpoints are usable (`panic_threshold`), so that all that are not drained get requests.
    all_used: bool,
    endpoints: Vec<EndpointShown>,
    /// What is looked up for it, and how that stands.
    names: Vec<NameShown>,
}

#[derive(Serialize)]
struct NameShown {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    endpoints: usize,
    /// When the last good answer was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<String>,
    /// What is wrong, while something is: the endpoints are those of the last good answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    age: Option<String>,
}

#[derive(Serialize)]
struct EndpointShown {
    address: String,
    /// `configuration`, or the name and type it was looked up by.
    source: String,
    weight: u32,
    priority: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacenter: Option<String>,
    state: &'static str,
    /// What keeps it from being used.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    in_flight: u32,
    ejections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_check: Option<CheckShown>,
}

#[derive(Serialize)]
struct CheckShown {
    time: String,
    passed: bool,
    seen: String,
    #[serde(skip)]
    age: String,
}

impl EndpointShown {
    fn of(endpoint: &Endpoint, source: Option<&SourceShown>, now: Instant) -> EndpointShown {
        let record = endpoint.state.record().clone();
        let last_check = record.last_check().map(|check| {
            let age = now.saturating_duration_since(check.at);
            let time = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
            CheckShown { time: rfc3339::text(time), passed: check.passed, seen: check.seen.clone(), age: seconds(age) }
        });
        EndpointShown {
            address: endpoint.label.clone(),
            source: match source.and_then(|source| source.question.as_ref()) {
                Some((name, kind)) => format!("dns {} {name}", kind.name()),
                None => "configuration".to_owned(),
            },
            weight: endpoint.weight,
            priority: endpoint.priority,
            tags: endpoint.about.tags.clone(),
            zone: endpoint.about.zone.clone(),
            datacenter: endpoint.about.datacenter.clone(),
            state: record.standing().name(),
            why: why(&record, now),
            in_flight: endpoint.state.in_flight(),
            ejections: record.ejections(),
            last_check,
        }
    }
}

/// To the second, as people say it.
fn seconds(time: std::time::Duration) -> String {
    Time::from_secs(time.as_secs()).to_string()
}

/// What keeps it from being used, in words.
fn why(record: &Record, now: Instant) -> Option<String> {
    match record.standing() {
        Standing::Usable => None,
        Standing::Drained => Some("by hand".to_owned()),
        Standing::Unhealthy => {
            let since = record.unhealthy_since().map(|since| seconds(now.saturating_duration_since(since)));
            let seen = record.last_check().map_or("?", |check| &check.seen);
            Some(format!("for {}, last seen: {seen}", since.unwrap_or_default()))
        }
        Standing::Ejected => record.ejected().map(|ejected| {
            let left = seconds(ejected.until.saturating_duration_since(now) + std::time::Duration::from_millis(999));
            format!("{}, for {left} more", ejected.cause.name())
        }),
    }
}

/// Every upstream and its endpoints.
pub(super) async fn list(Shared(state): Shared<State>, Query(pairs): Pairs) -> Response {
    let (snapshot, now) = ((state.snapshot)(), Instant::now());
    let wanted = first(&pairs, "upstream");
    let known = snapshot.upstreams.iter().zip(&snapshot.endpoints);
    let looked_up = state.metrics.names.all();
    let shown: Vec<UpstreamShown> = known
        .filter(|(upstream, _)| wanted.is_none_or(|wanted| upstream.name == wanted))
        .map(|(upstream, endpoints)| {
            let sources = state.metrics.names.sources(&upstream.name);
            let of = |endpoint: &Endpoint| sources.iter().find(|source| source.endpoints.contains(&endpoint.label));
            UpstreamShown {
                name: upstream.name.clone(),
                all_used: endpoints.panics(),
                endpoints: endpoints.list().iter().map(|one| EndpointShown::of(one, of(one), now)).collect(),
                names: names_of(&sources, &looked_up, now),
            }
        })
        .collect();
    if let (Some(wanted), true) = (wanted, shown.is_empty()) {
        return problem(StatusCode::NOT_FOUND, "no_upstream", &format!("no upstream is named \"{wanted}\""));
    }
    match wants_text(&pairs) {
        true => text_of(&shown).into_response(),
        false => Json(json!({ "upstreams": shown })).into_response(),
    }
}

/// What is looked up for an upstream with these `sources`, each name once.
fn names_of(sources: &[SourceShown], looked_up: &[LookedUp], now: Instant) -> Vec<NameShown> {
    let asked: BTreeSet<&(String, RecordKind)> = sources.iter().filter_map(|source| source.question.as_ref()).collect();
    let shown = |(name, kind): &(String, RecordKind)| {
        let one = looked_up.iter().find(|one| one.name == *name && one.kind == *kind)?;
        let age = one.good_at.map(|at| now.saturating_duration_since(at));
        Some(NameShown {
            name: name.clone(),
            kind: kind.name(),
            endpoints: one.addresses,
            answered: age
                .map(|age| rfc3339::text(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))),
            error: one.why.clone(),
            age: age.map(seconds),
        })
    };
    asked.into_iter().filter_map(shown).collect()
}

fn text_of(upstreams: &[UpstreamShown]) -> String {
    let mut out = String::new();
    for UpstreamShown { name, all_used, endpoints, names } in upstreams {
        let note = if *all_used { ": too few endpoints are usable, all that are not drained get requests" } else { "" };
        // Writing to memory does not fail.
        let _ = writeln!(out, "{name}{note}");
        for endpoint in endpoints {
            let why = endpoint.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            let (address, state) = (&endpoint.address, endpoint.state);
            let _ = write!(out, "  {address:<24} {state}{why}, weight {}, ", endpoint.weight);
            if endpoint.priority > 0 {
                let _ = write!(out, "priority {}, ", endpoint.priority);
            }
            for (what, place) in [("zone", &endpoint.zone), ("datacenter", &endpoint.datacenter)] {
                if let Some(place) = place {
                    let _ = write!(out, "{what} {place}, ");
                }
            }
            if !endpoint.tags.is_empty() {
                let _ = write!(out, "tagged {}, ", endpoint.tags.join(" "));
            }
            let _ = write!(out, "{} in flight, ejected {} times", endpoint.in_flight, endpoint.ejections);
            if let Some(CheckShown { passed, seen, age, .. }) = &endpoint.last_check {
                let outcome = if *passed { "passed" } else { "failed" };
                let _ = write!(out, ", check {outcome} {age} ago: {seen}");
            }
            if names.len() > 1 || endpoint.source != endpoints[0].source {
                let _ = write!(out, ", from {}", endpoint.source);
            }
            out.push('\n');
        }
        if endpoints.is_empty() {
            out.push_str("  no endpoint: none of its names could be resolved\n");
        }
        for NameShown { name, kind, endpoints, age, error, .. } in names {
            let age = age.as_ref().map_or_else(|| "never answered".to_owned(), |age| format!("answered {age} ago"));
            let error = error.as_ref().map(|error| format!(", failing: {error}")).unwrap_or_default();
            let _ = writeln!(out, "  dns {kind} {name}: {endpoints} endpoints, {age}{error}");
        }
    }
    if upstreams.is_empty() {
        out.push_str("the configuration has no upstream\n");
    }
    out
}

/// Takes an endpoint out: it gets no more requests, and what runs on it is finished.
pub(super) async fn drain(state: Shared<State>, headers: HeaderMap, pairs: Pairs) -> Response {
    change(state, &headers, pairs, true).await
}

/// Takes it back in.
pub(super) async fn undrain(state: Shared<State>, headers: HeaderMap, pairs: Pairs) -> Response {
    change(state, &headers, pairs, false).await
}

async fn change(Shared(state): Shared<State>, headers: &HeaderMap, Query(pairs): Pairs, drained: bool) -> Response {
    if from_a_page(headers) {
        return problem(StatusCode::FORBIDDEN, "cross_origin", "this is not for web pages");
    }
    let (Some(upstream), Some(endpoint)) = (first(&pairs, "upstream"), first(&pairs, "endpoint")) else {
        return bad("say `upstream`, its name, and `endpoint`, an address of it");
    };
    let (reply, replied) = oneshot::channel();
    let asked = Drain { upstream: upstream.to_owned(), endpoint: endpoint.to_owned(), drained };
    if state.commands.try_send(Command::Drain { asked, reply }).is_err() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "too much is asked at once; try again");
    }
    match replied.await {
        Ok(Ok(done)) if wants_text(&pairs) => told(upstream, &done, drained).into_response(),
        Ok(Ok(done)) => Json(json!({ "upstream": upstream, "drained": drained, "endpoints": done.endpoints,
            "in_flight": done.in_flight, "usable": done.left }))
        .into_response(),
        Ok(Err(why)) => problem(StatusCode::NOT_FOUND, "no_endpoint", &why),
        Err(_) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "another process takes over or the gateway stops; try again",
        ),
    }
}

fn told(upstream: &str, Drained { endpoints, in_flight, left }: &Drained, drained: bool) -> String {
    let endpoints = endpoints.join(", ");
    match drained {
        true => format!(
            "{endpoints} of {upstream} is drained: {in_flight} requests still run on it, {left} usable endpoints are left\n"
        ),
        false => format!("{endpoints} of {upstream} is drained no more: {left} usable endpoints\n"),
    }
}
