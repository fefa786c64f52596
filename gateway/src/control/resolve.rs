//! Where upstreams run: addresses as they are written, names by the system's resolver, again and again.
//!
//! A name that cannot be resolved keeps the addresses it had. A change replaces the endpoints of one upstream in the
//! snapshot and nothing else.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::health::{again, is_usable};
use crate::balance::{Endpoint, Endpoints, Identity, Link, Settings};
use crate::config::model::Config;
use crate::rt::Peer;
use crate::rt::deadline::now_us;
use crate::snapshot::Snapshot;
use crate::tables::health::{Health, State};
use crate::tls::Tls;
use crate::worker::Shared;

/// How long one name may take. The system's resolver has waits of its own, which are longer.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);

/// Names asked for at one time. Each takes a thread of the runtime while it waits.
const LOOKUPS_MAX: usize = 16;

/// Addresses by name.
pub(super) type Found = HashMap<String, Vec<SocketAddr>>;

/// What the system's resolver said to each name.
pub(super) type Answers = HashMap<String, Result<Vec<SocketAddr>, String>>;

/// Knows where each upstream was written to run and what was last found.
pub(super) struct Resolver {
    upstreams: Vec<Upstream>,
}

struct Upstream {
    name: String,
    balance: Arc<Settings>,
    written: Vec<Written>,
}

/// An endpoint as it was written, and its addresses as last resolved.
struct Written {
    text: String,
    weight: u32,
    priority: u8,
    link: Arc<Link>,
    target: Target,
    /// Problems are told once, not at every look-up.
    failing: bool,
}

enum Target {
    Fixed(Peer),
    Name { found: Vec<SocketAddr> },
}

impl Resolver {
    /// `tls`: what was read for the upstreams of `config`.
    pub(super) fn new(config: &Config, tls: &Tls) -> Resolver {
        let upstreams = config.upstream.iter().map(|(name, upstream)| Upstream {
            name: name.clone(),
            balance: Arc::new(Settings::of(upstream)),
            written: upstream
                .endpoints
                .iter()
                .map(|endpoint| Written {
                    text: endpoint.address.clone(),
                    weight: endpoint.weight,
                    priority: endpoint.priority,
                    link: Arc::new(Link::of(upstream, &endpoint.address, tls.upstreams.get(name))),
                    target: Target::of(&endpoint.address),
                    failing: false,
                })
                .collect(),
        });
        Resolver { upstreams: upstreams.collect() }
    }

    /// Whether anything must be looked up at all.
    pub(super) fn has_names(&self) -> bool {
        let mut written = self.upstreams.iter().flat_map(|upstream| &upstream.written);
        written.any(|written| matches!(written.target, Target::Name { .. }))
    }

    /// Takes over what `before` has found for names that are still there: a reload neither waits for them nor loses them.
    pub(super) fn adopt(&mut self, before: &Found) {
        for written in self.upstreams.iter_mut().flat_map(|upstream| &mut upstream.written) {
            if let Target::Name { found } = &mut written.target
                && let Some(known) = before.get(&written.text)
            {
                found.clone_from(known);
            }
        }
    }

    /// What is known of every name.
    pub(super) fn found(&self) -> Found {
        let written = self.upstreams.iter().flat_map(|upstream| &upstream.written);
        let known = written.filter_map(|written| match &written.target {
            Target::Name { found } if !found.is_empty() => Some((written.text.clone(), found.clone())),
            _ => None,
        });
        known.collect()
    }

    /// Every name, or only those of which no address is known.
    pub(super) fn names(&self, unknown_only: bool) -> BTreeSet<String> {
        let written = self.upstreams.iter().flat_map(|upstream| &upstream.written);
        let names = written.filter_map(|written| match &written.target {
            Target::Name { found } if !unknown_only || found.is_empty() => Some(written.text.clone()),
            _ => None,
        });
        names.collect()
    }

    /// Takes in what was found. Returns the upstreams, by index, that run somewhere else now.
    pub(super) fn take(&mut self, answers: &Answers) -> Vec<usize> {
        let changed = |(index, upstream): (usize, &mut Upstream)| upstream.take(answers).then_some(index);
        self.upstreams.iter_mut().enumerate().filter_map(changed).collect()
    }

    /// Puts the endpoints of every upstream, and what is known of it, into a snapshot that is not in use yet.
    pub(super) fn fill(&self, snapshot: &mut Snapshot, health: &Health) {
        for (upstream, endpoints) in self.upstreams.iter().zip(&mut snapshot.endpoints) {
            *endpoints = Arc::new(upstream.endpoints(health));
        }
        snapshot.loads = self.upstreams.iter().map(|upstream| health.load(&upstream.name)).collect();
    }

    /// Publishes where these upstreams run.
    pub(super) fn publish(&self, changed: &[usize], shared: &Shared) {
        for &index in changed {
            let upstream = &self.upstreams[index];
            let endpoints = Arc::new(upstream.endpoints(&shared.health));
            tracing::info!(upstream = upstream.name, endpoints = endpoints.list().len(), "endpoints changed");
            let mut snapshot = Snapshot::clone(&shared.snapshot.load());
            let before = std::mem::replace(&mut snapshot.endpoints[index], endpoints);
            leave(&[before], &snapshot.endpoints);
            shared.snapshot.store(Arc::new(snapshot));
        }
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

/// Asks the system's resolver for each of these, several at a time. Must be awaited within a `LocalSet`.
pub(super) async fn look_up(names: BTreeSet<String>) -> Answers {
    let seats = Arc::new(Semaphore::new(LOOKUPS_MAX));
    let mut asked = JoinSet::new();
    for name in names {
        let seats = seats.clone();
        asked.spawn_local(async move {
            let _seat = seats.acquire_owned().await;
            let looked_up = tokio::time::timeout(LOOKUP_WAIT, tokio::net::lookup_host(name.as_str())).await;
            let looked_up = looked_up.map(|answer| answer.map(Iterator::collect::<Vec<_>>));
            let answer = match looked_up {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the resolver took too long".to_owned()),
            };
            (name, answer)
        });
    }
    asked.join_all().await.into_iter().collect()
}

impl Upstream {
    /// `true`: something is different now.
    fn take(&mut self, answers: &Answers) -> bool {
        let mut changed = false;
        for written in &mut self.written {
            let Target::Name { found } = &mut written.target else { continue };
            match answers.get(&written.text) {
                // It was not asked for.
                None => {}
                Some(Ok(addresses)) if !addresses.is_empty() => {
                    // Resolvers turn the order round with every answer.
                    let mut addresses = addresses.clone();
                    addresses.sort_unstable();
                    addresses.dedup();
                    changed |= *found != addresses;
                    *found = addresses;
                    written.failing = false;
                }
                Some(answer) => {
                    if !written.failing {
                        let error = answer.as_ref().err().map_or("it has no address", String::as_str);
                        let (upstream, name, kept) = (&self.name, &written.text, found.len());
                        tracing::warn!(upstream, name, error, kept, "a name cannot be resolved");
                    }
                    written.failing = true;
                }
            }
        }
        changed
    }

    fn endpoints(&self, health: &Health) -> Endpoints {
        let mut list = Vec::new();
        for written in &self.written {
            let mut add = |peer: Peer| {
                let label = peer.to_string();
                list.push(Arc::new(Endpoint {
                    state: health.of(&self.name, &label),
                    label,
                    written: written.host_text(),
                    weight: written.weight,
                    priority: written.priority,
                    identity: Identity::new(peer, written.link.clone()),
                }));
            };
            match &written.target {
                Target::Fixed(peer) => add(peer.clone()),
                Target::Name { found } => found.iter().for_each(|address| add(Peer::Tcp(*address))),
            }
        }
        Endpoints::compile(list, &self.balance, is_usable, now_us() / 1000)
    }
}

impl Written {
    /// What `host = "endpoint"` says. A Unix socket has no host; RFC 9110 §7.2 has no better name than this.
    fn host_text(&self) -> String {
        match &self.target {
            Target::Fixed(Peer::Unix(_)) => "localhost".to_owned(),
            _ => self.text.clone(),
        }
    }
}

impl Target {
    fn of(text: &str) -> Target {
        if let Some(path) = text.strip_prefix("unix:") {
            return Target::Fixed(Peer::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) => Target::Fixed(Peer::Tcp(address)),
            Err(_) => Target::Name { found: Vec::new() },
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
            [Arc::new(Resolver::new(&config, &Tls::default()).upstreams[0].endpoints(&health))]
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
