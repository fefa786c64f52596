//! Where upstreams run: what the configuration says itself, and what it says whom to ask for.
//!
//! An upstream has [`Source`]s, each of which knows some [`Place`]s now; together they are its endpoints. Whoever finds out where
//! something runs is a mechanism of its own beside this ([`dns`](super::dns)): it has an event loop that may be dropped at
//! any time (`next`), takes in what came of it (`take`) and says which of its sources lead elsewhere, goes on over a
//! reload (`known`, `catch_up`) and is asked where a source leads (`found`). Another mechanism is one more of these, one more kind of
//! source, and nothing else. A change replaces the endpoints of the upstreams it is about in the snapshot and nothing else;
//! what is known of an endpoint is kept by upstream and address ([`Health`]), so that who stays is as he was.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::dns::{Dns, Handed, Known, Moved, Question, Seen};
use super::health::{again, is_usable};
use crate::balance::{About, Endpoint, Endpoints, Identity, Link, Settings, Subsets};
use crate::config::model::{self, Config, RecordKind};
use crate::config::words::endpoint_host;
use crate::limits::DNS_FIRST_WAIT_MS;
use crate::observe::names::{Names, SourceShown};
use crate::rt::Peer;
use crate::rt::deadline::now_us;
use crate::snapshot::Snapshot;
use crate::tables::health::{Health, State};
use crate::tls::{ServiceTls, Tls};
use crate::worker::Shared;

/// Addresses that one event tells of.
const TOLD_MAX: usize = 20;

/// Knows where each upstream runs.
pub(super) struct Directory {
    upstreams: Vec<Upstream>,
    pub(super) dns: Dns,
    names: Arc<Names>,
}

struct Upstream {
    name: String,
    balance: Arc<Settings>,
    sources: Vec<Source>,
}

/// What an upstream's endpoints are from.
enum Source {
    /// The configuration.
    Written(Place),
    /// A name of DNS.
    Name {
        question: Question,
        /// Of addresses that come without one.
        port: u16,
        /// What `host = "endpoint"` says where the answer names no host.
        host: String,
        terms: Terms,
    },
}

/// Where something runs, and on which terms.
#[derive(Clone)]
struct Place {
    peer: Peer,
    /// What `host = "endpoint"` says.
    host: String,
    terms: Terms,
}

/// What is said of an endpoint beside where it is.
#[derive(Clone)]
struct Terms {
    weight: u32,
    priority: u8,
    about: Arc<About>,
    link: Arc<Link>,
}

impl Directory {
    /// By `config` and what was read for it, beginning with what is `known` of names.
    pub(super) fn new(config: &Config, tls: &Tls, known: &Known, names: &Arc<Names>) -> Directory {
        let subsets = Subsets::of(config);
        let upstream = |(name, written): (&String, &model::Upstream)| {
            Upstream::of(name, (written, tls.upstreams.get(name)), &config.gateway, &subsets)
        };
        let upstreams: Vec<Upstream> = config.upstream.iter().map(upstream).collect();
        let questions: BTreeSet<Question> =
            upstreams.iter().flat_map(|upstream| &upstream.sources).filter_map(Source::question).cloned().collect();
        Directory { upstreams, dns: Dns::new(&config.dns, questions, known, names), names: names.clone() }
    }

    /// Waits for names of which nothing is known yet, not for long: they are looked up further in any case. Must be awaited within a
    /// `LocalSet`.
    pub(super) async fn wait(&mut self) {
        let enough = tokio::time::sleep(Duration::from_millis(DNS_FIRST_WAIT_MS));
        tokio::pin!(enough);
        while self.dns.has_unasked() {
            let seen = tokio::select! {
                seen = self.dns.next() => seen,
                () = &mut enough => return,
            };
            self.dns.take(seen);
        }
    }

    /// Puts the endpoints of every upstream, and what is known of it, into a snapshot that is not in use yet.
    pub(super) fn fill(&self, snapshot: &mut Snapshot, health: &Health) {
        for (upstream, endpoints) in self.upstreams.iter().zip(&mut snapshot.endpoints) {
            *endpoints = Arc::new(upstream.endpoints(&self.dns, health));
        }
        snapshot.loads = self.upstreams.iter().map(|upstream| health.load(&upstream.name)).collect();
    }

    /// Takes over from `before`, in a snapshot that was filled and is about to be used: what became known meanwhile is in it, too.
    pub(super) fn take_over(&mut self, before: &Directory, snapshot: &mut Snapshot, health: &Health) {
        let changed = self.dns.catch_up(&before.dns);
        for (index, upstream) in self.upstreams.iter().enumerate() {
            if upstream.asks_any(&changed) {
                snapshot.endpoints[index] = Arc::new(upstream.endpoints(&self.dns, health));
            }
        }
        self.begin();
    }

    /// It is what runs from now on.
    pub(super) fn begin(&mut self) {
        self.dns.show_all();
        self.show();
        for upstream in &self.upstreams {
            if upstream.sources.iter().all(|source| source.places(&self.dns).is_empty()) {
                tracing::error!(upstream = upstream.name, "an upstream has no endpoint: nothing is known of its names");
            }
        }
    }

    /// Acts on what was seen, and publishes where upstreams run if that has changed. Whether it has.
    pub(super) fn take(&mut self, seen: Seen, shared: &Shared) -> bool {
        let moved = self.dns.take(seen);
        if moved.is_empty() {
            return false;
        }
        let why: BTreeMap<&Question, &str> = moved.iter().map(|moved| (&moved.question, &*moved.why)).collect();
        let mut snapshot = Snapshot::clone(&shared.snapshot.load());
        let mut before = Vec::new();
        let mut events = Vec::new();
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let because = upstream
                .sources
                .iter()
                .filter_map(Source::question)
                .find_map(|question| Some((question, *why.get(question)?)));
            let Some((question, why)) = because else { continue };
            let endpoints = Arc::new(upstream.endpoints(&self.dns, &shared.health));
            let old = std::mem::replace(&mut snapshot.endpoints[index], endpoints.clone());
            events.push((upstream, question, why, old.clone(), endpoints));
            before.push(old);
        }
        leave(&before, &snapshot.endpoints);
        shared.snapshot.store(Arc::new(snapshot));
        self.show();
        // Told when it is so: who reads it may rely on it.
        for (upstream, question, why, old, new) in events {
            let (added, removed) = (beyond(&new, &old), beyond(&old, &new));
            let (upstream, name, kind, endpoints) =
                (&upstream.name, &question.name, question.kind.name(), new.list().len());
            match endpoints {
                0 => tracing::error!(upstream, name, kind, added, removed, endpoints, why, "endpoints changed"),
                _ => tracing::info!(upstream, name, kind, added, removed, endpoints, why, "endpoints changed"),
            }
        }
        for Moved { question, why, .. } in moved.iter().filter(|moved| moved.is_gone) {
            tracing::error!(name = question.name, kind = question.kind.name(), why, "a name leads nowhere any more");
        }
        true
    }

    /// What is known of names, for a configuration that is about to take the place of this one.
    pub(super) fn known(&self) -> Known {
        self.dns.known()
    }

    /// The same, for another process.
    pub(super) fn hand_over(&self, now: std::time::Instant) -> Vec<Handed> {
        self.dns.hand_over(now)
    }

    /// Lets the admin listener see where endpoints are from.
    fn show(&self) {
        let sources = |upstream: &Upstream| {
            let mut written = SourceShown { question: None, endpoints: Vec::new() };
            let mut asked = Vec::new();
            for source in &upstream.sources {
                let labels = source.places(&self.dns).into_iter().map(|place| place.peer.to_string());
                match source.question() {
                    None => written.endpoints.extend(labels),
                    Some(Question { name, kind }) => {
                        asked.push(SourceShown { question: Some((name.clone(), *kind)), endpoints: labels.collect() });
                    }
                }
            }
            let written = (!written.endpoints.is_empty()).then_some(written);
            (upstream.name.clone(), written.into_iter().chain(asked).collect())
        };
        self.names.set_sources(self.upstreams.iter().map(sources).collect());
    }
}

/// The addresses in `these` and not in `those`, as text.
fn beyond(these: &Endpoints, those: &Endpoints) -> String {
    let known: HashSet<&str> = those.list().iter().map(|endpoint| &*endpoint.label).collect();
    let mut beyond = these.list().iter().map(|endpoint| &*endpoint.label).filter(|label| !known.contains(label));
    let told: Vec<&str> = beyond.by_ref().take(TOLD_MAX).collect();
    match beyond.count() {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

/// Tells the states of endpoints that are there no more: if they come back they have just begun.
pub(super) fn leave(before: &[Arc<Endpoints>], after: &[Arc<Endpoints>]) {
    let states = |endpoints: &Arc<Endpoints>| endpoints.list().iter().map(|one| Arc::as_ptr(&one.state)).collect();
    let there: HashSet<*const State> = after.iter().flat_map::<Vec<_>, _>(states).collect();
    for endpoint in before.iter().flat_map(|endpoints| endpoints.list()) {
        if !there.contains(&Arc::as_ptr(&endpoint.state)) {
            endpoint.state.usable_ms(false, 0);
        }
    }
}

/// Compiles and publishes anew what changes with time alone: the shares of endpoints in their slow start.
pub(super) fn ramp(shared: &Shared) {
    let snapshot = shared.snapshot.load();
    if !snapshot.endpoints.iter().any(|endpoints| endpoints.is_ramping()) {
        return;
    }
    let mut snapshot = Snapshot::clone(&snapshot);
    for endpoints in snapshot.endpoints.iter_mut().filter(|endpoints| endpoints.is_ramping()) {
        *endpoints = again(endpoints);
    }
    shared.snapshot.store(Arc::new(snapshot));
}

impl Upstream {
    fn of(
        name: &str,
        (written, tls): (&model::Upstream, Option<&Arc<ServiceTls>>),
        gateway: &model::Gateway,
        subsets: &Subsets,
    ) -> Upstream {
        let link = |host: Option<&str>| Arc::new(Link::of(written, host, tls));
        let source = |endpoint: &model::Endpoint| {
            let (weight, priority) = (endpoint.weight, endpoint.priority);
            let terms = Terms {
                weight,
                priority,
                about: About::of(gateway, endpoint),
                link: link(endpoint_host(&endpoint.address)),
            };
            Source::of(&endpoint.address, terms)
        };
        let mut sources: Vec<Source> = written.endpoints.iter().map(source).collect();
        if let Some(dns) = &written.dns {
            let question = Question { name: dns.name.to_ascii_lowercase(), kind: dns.kind };
            let port = dns.port.unwrap_or_default();
            let host = format!("{}:{port}", dns.name.trim_end_matches('.'));
            // Whom an SRV record names is not asked about: whoever can forge it could choose the name, too (RFC 6125 §1.8).
            let link = link(Some(&dns.name));
            let terms = Terms { weight: 1, priority: 0, about: Arc::default(), link };
            sources.push(Source::Name { question, port, host, terms });
        }
        let balance = Arc::new(Settings::of(written).with_subsets(subsets.of_upstream(name)));
        Upstream { name: name.to_owned(), balance, sources }
    }

    fn asks_any(&self, questions: &BTreeSet<Question>) -> bool {
        self.sources.iter().filter_map(Source::question).any(|question| questions.contains(question))
    }

    fn endpoints(&self, dns: &Dns, health: &Health) -> Endpoints {
        let mut seen = HashSet::new();
        let mut list = Vec::new();
        for Place { peer, host, terms } in self.sources.iter().flat_map(|source| source.places(dns)) {
            let label = peer.to_string();
            // Two names may lead to one place, which is one endpoint: as the first one says.
            if seen.insert(label.clone()) {
                let state = health.of(&self.name, &label);
                list.push(Arc::new(Endpoint {
                    state,
                    label,
                    written: host,
                    weight: terms.weight,
                    priority: terms.priority,
                    about: terms.about,
                    identity: Identity::new(peer, terms.link),
                }));
            }
        }
        Endpoints::compile(list, &self.balance, is_usable, now_us() / 1000)
    }
}

impl Source {
    /// What is written as the address of an endpoint.
    fn of(text: &str, terms: Terms) -> Source {
        if let Some(path) = text.strip_prefix("unix:") {
            // A Unix socket has no host; RFC 9110 §7.2 has no better name than this.
            return Source::Written(Place { peer: Peer::Unix(path.into()), host: "localhost".to_owned(), terms });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Source::Written(Place { peer: Peer::Tcp(address), host: text.to_owned(), terms });
        }
        let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
        Source::Name {
            question: Question { name: name.to_ascii_lowercase(), kind: RecordKind::Any },
            port: port.parse().unwrap_or_default(),
            host: text.to_owned(),
            terms,
        }
    }

    fn question(&self) -> Option<&Question> {
        match self {
            Source::Written(_) => None,
            Source::Name { question, .. } => Some(question),
        }
    }

    /// Where it leads now.
    fn places(&self, dns: &Dns) -> Vec<Place> {
        match self {
            Source::Written(place) => vec![place.clone()],
            Source::Name { question, port, host, terms } => {
                let place = |found: &super::dns::Found| {
                    let port = found.port.unwrap_or(*port);
                    Place {
                        peer: Peer::Tcp(SocketAddr::new(found.address, port)),
                        host: found.target.as_ref().map_or_else(|| host.clone(), |target| format!("{target}:{port}")),
                        terms: Terms {
                            weight: found.weight.saturating_mul(terms.weight),
                            priority: found.priority.saturating_add(terms.priority),
                            ..terms.clone()
                        },
                    }
                };
                dns.found(question).iter().map(place).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_left_begins_anew_and_one_that_stayed_does_not() {
        let health = Health::default();
        let endpoints = |addresses: &[&str]| {
            let text = format!(
                "[[listener]]\naddress = '127.0.0.1:80'\n[upstream.orders]\nslow_start = '30s'\nendpoints = {addresses:?}\n"
            );
            let config: Config = toml::from_str(&text).expect("a configuration");
            let directory = Directory::new(&config, &Tls::default(), &Known::default(), &Arc::default());
            [Arc::new(directory.upstreams[0].endpoints(&directory.dns, &health))]
        };
        let (stays, goes) = ("10.0.0.1:80", "10.0.0.2:80");
        let before = endpoints(&[stays, goes]);
        let after = endpoints(&[stays]);
        leave(&before, &after);
        let later = now_us() / 1000 + 60_000;
        assert!(health.of("orders", stays).usable_ms(true, later) >= 60_000);
        assert_eq!(health.of("orders", goes).usable_ms(true, later), 0);
    }
}
