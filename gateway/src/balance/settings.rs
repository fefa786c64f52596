//! How an upstream's requests are divided, as it is written.

use std::sync::Arc;

use crate::config::model::{self, Balance, HashTable, Locality};
use crate::rt::deadline::ms;

use super::key::Key;
use super::sticky::Sticky;
use super::subset::Subset;

/// How endpoints are picked.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Policy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// Of two drawn by weight the one that is less busy for its weight.
    LeastRequest,
    /// Of two drawn by weight the one that is expected to answer sooner.
    PeakEwma,
    /// By what a request has: the same endpoint for the same key.
    Hash(Hashing),
}

/// How keys find their endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Hashing {
    pub table: HashTable,
    pub on: Key,
    /// An endpoint with more than so many times its fair share of what runs is passed over.
    pub load_max: Option<f32>,
}

/// What of an upstream's configuration says who gets its requests.
#[derive(Debug, Clone)]
pub struct Settings {
    pub policy: Policy,
    /// The time over which the weight of an endpoint that has just begun grows; 0: it is whole at once.
    pub slow_start_ms: u64,
    /// Which share of the endpoints must be usable for it to matter who is, 0 to 1.
    pub panic_threshold: f64,
    /// Whether those that are near go first.
    pub prefers_near: bool,
    /// How clients are kept with the endpoint that answered them.
    pub sticky: Option<Arc<Sticky>>,
    /// Of the endpoints, those that some routes ask for.
    pub subsets: Vec<Subset>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: Policy::RoundRobin,
            slow_start_ms: 0,
            panic_threshold: 0.5,
            prefers_near: true,
            sticky: None,
            subsets: Vec::new(),
        }
    }
}

impl Settings {
    /// The same with subsets that routes ask for, in the order of their numbers.
    pub fn with_subsets(self, subsets: &[Subset]) -> Settings {
        Settings { subsets: subsets.to_vec(), ..self }
    }

    pub fn of(upstream: &model::Upstream) -> Settings {
        let policy = match &upstream.balance {
            Balance::RoundRobin => Policy::RoundRobin,
            Balance::LeastRequest => Policy::LeastRequest,
            Balance::PeakEwma => Policy::PeakEwma,
            Balance::Hash(hash) => Policy::Hash(Hashing {
                table: hash.policy,
                on: Key::of(&hash.on),
                load_max: hash.load_max.map(|load_max| load_max as f32),
            }),
        };
        Settings {
            policy,
            slow_start_ms: ms(upstream.slow_start.into()),
            panic_threshold: f64::from(upstream.panic_threshold.millionths()) / 1e6,
            prefers_near: upstream.locality == Locality::Prefer,
            sticky: upstream.sticky.as_ref().map(|sticky| Arc::new(Sticky::of(sticky))),
            subsets: Vec::new(),
        }
    }
}
