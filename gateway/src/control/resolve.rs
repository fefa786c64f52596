//! Where upstreams run: addresses as they are written, names by the system's resolver, again and again.
//!
//! A name that cannot be resolved keeps the addresses it had. A change replaces the endpoints of one upstream in the
//! snapshot and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Endpoint, Endpoints, Identity};
use crate::config::model::Config;
use crate::rt::Peer;
use crate::snapshot::Snapshot;
use crate::worker::Shared;

/// How long one name may take. The system's resolver has waits of its own, which are longer.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);

/// Knows where each upstream was written to run and what was last found.
pub(super) struct Resolver {
    upstreams: Vec<Upstream>,
}

struct Upstream {
    name: String,
    written: Vec<Written>,
}

/// An endpoint as it was written, and its addresses as last resolved.
struct Written {
    text: String,
    weight: u32,
    target: Target,
    /// Problems are told once, not at every look-up.
    failing: bool,
}

enum Target {
    Fixed(Peer),
    Name { found: Vec<SocketAddr> },
}

impl Resolver {
    pub(super) fn new(config: &Config) -> Resolver {
        let upstreams = config.upstream.iter().map(|(name, upstream)| Upstream {
            name: name.clone(),
            written: upstream
                .endpoints
                .iter()
                .map(|endpoint| Written {
                    text: endpoint.address.clone(),
                    weight: endpoint.weight,
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

    /// The endpoints of every upstream, looking up each name once. For the first snapshot.
    pub(super) async fn first(&mut self, snapshot: &mut Snapshot) {
        for (upstream, endpoints) in self.upstreams.iter_mut().zip(&mut snapshot.endpoints) {
            upstream.look_up().await;
            *endpoints = Arc::new(upstream.endpoints());
        }
    }

    /// Looks all names up again and publishes what has changed.
    pub(super) async fn resolve(&mut self, shared: &Shared) {
        for (index, upstream) in self.upstreams.iter_mut().enumerate() {
            if upstream.look_up().await {
                let endpoints = Arc::new(upstream.endpoints());
                tracing::info!(upstream = upstream.name, endpoints = endpoints.list().len(), "endpoints changed");
                let mut snapshot = Snapshot::clone(&shared.snapshot.load());
                snapshot.endpoints[index] = endpoints;
                shared.snapshot.store(Arc::new(snapshot));
            }
        }
    }
}

impl Upstream {
    /// `true`: something is different now.
    async fn look_up(&mut self) -> bool {
        let mut changed = false;
        for written in &mut self.written {
            let Target::Name { found } = &mut written.target else { continue };
            let looked_up = tokio::time::timeout(LOOKUP_WAIT, tokio::net::lookup_host(&written.text)).await;
            let answer = match looked_up {
                Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<_>>()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the resolver took too long".to_owned()),
            };
            match answer {
                Ok(mut addresses) if !addresses.is_empty() => {
                    // Resolvers turn the order round with every answer.
                    addresses.sort_unstable();
                    addresses.dedup();
                    changed |= *found != addresses;
                    *found = addresses;
                    written.failing = false;
                }
                answer => {
                    if !written.failing {
                        let error = answer.err().unwrap_or_else(|| "it has no address".to_owned());
                        let (upstream, name, kept) = (&self.name, &written.text, found.len());
                        tracing::warn!(upstream, name, error, kept, "a name cannot be resolved");
                    }
                    written.failing = true;
                }
            }
        }
        changed
    }

    fn endpoints(&self) -> Endpoints {
        let mut list = Vec::new();
        for written in &self.written {
            let mut add = |peer: Peer| {
                list.push(Arc::new(Endpoint {
                    label: peer.to_string(),
                    written: written.host_text(),
                    weight: written.weight,
                    identity: Identity::new(peer),
                }));
            };
            match &written.target {
                Target::Fixed(peer) => add(peer.clone()),
                Target::Name { found } => found.iter().for_each(|address| add(Peer::Tcp(*address))),
            }
        }
        Endpoints::new(list)
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
