//! Some of an upstream's endpoints: those that a route's tags are for. Found when something changes and never by a request.

use std::collections::BTreeMap;
use std::fmt;

use super::Endpoint;
use crate::config::model::{self, Config, Fallback};
use crate::limits::SUBSETS_PER_UPSTREAM_MAX;

/// Whom a route sends requests to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// index into `Snapshot::upstreams`
    pub upstream: usize,
    /// Which of its endpoints, [`super::Endpoints::of`]; 0: all of them.
    pub subset: u16,
}

impl Destination {
    /// All endpoints of an upstream.
    pub fn whole(upstream: usize) -> Destination {
        Destination { upstream, subset: 0 }
    }
}

/// What a route asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subset {
    /// In order, each once.
    tags: Vec<String>,
    fallback: Fallback,
}

impl Subset {
    pub fn of(written: &model::Subset) -> Subset {
        let mut tags = written.tags.clone();
        tags.sort_unstable();
        tags.dedup();
        Subset { tags, fallback: written.fallback }
    }

    /// Whether `endpoint` is in it.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        self.tags.iter().all(|tag| endpoint.about.tags.contains(tag))
    }

    /// Whether all endpoints take its place where none of its own is usable.
    pub fn falls_back(&self) -> bool {
        self.fallback == Fallback::Any
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tags.join(" and "))?;
        if self.falls_back() { f.write_str(", else any") } else { Ok(()) }
    }
}

/// The subsets that routes ask for, by the name of their upstream; the first one of each is number 1.
#[derive(Debug, Default)]
pub struct Subsets(BTreeMap<String, Vec<Subset>>);

impl Subsets {
    /// Those of a whole configuration. Their numbers depend on it alone.
    pub fn of(config: &Config) -> Subsets {
        let mut subsets = BTreeMap::<String, Vec<Subset>>::new();
        for (_, upstream, subset) in config.route.iter().flat_map(model::Route::targets) {
            if let Some(subset) = subset {
                subsets.entry(upstream.to_owned()).or_default().push(Subset::of(subset));
            }
        }
        for of_upstream in subsets.values_mut() {
            of_upstream.sort_unstable();
            of_upstream.dedup();
        }
        Subsets(subsets)
    }

    /// Upstreams of which more are asked for than there may be.
    pub fn too_many(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, subsets)| subsets.len() > SUBSETS_PER_UPSTREAM_MAX).map(|(name, _)| name.as_str())
    }

    /// Those of one upstream, in the order of their numbers.
    pub fn of_upstream(&self, name: &str) -> &[Subset] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The number of one of them.
    pub fn number(&self, upstream: &str, written: Option<&model::Subset>) -> u16 {
        let Some(subset) = written.map(Subset::of) else { return 0 };
        self.of_upstream(upstream).binary_search(&subset).map_or(0, |at| at as u16 + 1)
    }
}
