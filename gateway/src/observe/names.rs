//! Names that are looked up and where endpoints are from, for metrics and for the admin listener. Written by the control loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::config::model::RecordKind;

/// Everything that is looked up.
#[derive(Debug, Default)]
pub struct Names {
    shown: Mutex<Vec<NameShown>>,
    sources: Mutex<BTreeMap<String, Vec<SourceShown>>>,
}

/// A name as it stands.
#[derive(Debug, Clone)]
pub struct NameShown {
    pub name: String,
    pub kind: RecordKind,
    pub addresses: usize,
    /// When the last good answer was given.
    pub good_at: Option<Instant>,
    /// What is wrong, while something is.
    pub why: Option<String>,
    pub tally: Arc<Tally>,
}

/// Where some endpoints of an upstream are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceShown {
    /// What is looked up; `None`: they are written.
    pub question: Option<(String, RecordKind)>,
    /// Addresses, as [`Endpoint::label`](crate::balance::Endpoint::label) has them.
    pub endpoints: Vec<String>,
}

/// How look-ups of one name have ended.
#[derive(Debug, Default)]
pub struct Tally([AtomicU64; Outcome::ALL.len()]);

/// How a look-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// There is no such name, or it has no such record.
    Denied,
    Failed,
}

impl Outcome {
    pub const ALL: [Outcome; 3] = [Outcome::Answered, Outcome::Denied, Outcome::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
        }
    }
}

impl Tally {
    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}

impl Names {
    /// The tally of a name: the one it has, if it is looked up already.
    pub fn tally(&self, name: &str, kind: RecordKind) -> Arc<Tally> {
        let shown = self.lock();
        find(&shown, name, kind).map_or_else(|_| Arc::default(), |at| shown[at].tally.clone())
    }

    /// All of them, in the order of their names and kinds.
    pub fn set(&self, shown: Vec<NameShown>) {
        *self.lock() = shown;
    }

    /// One of them, as it stands now.
    pub fn put(&self, one: NameShown) {
        let mut shown = self.lock();
        if let Ok(at) = find(&shown, &one.name, one.kind) {
            shown[at] = one;
        }
    }

    /// In the order of their names.
    pub fn all(&self) -> Vec<NameShown> {
        self.lock().clone()
    }

    /// Says where the endpoints of upstreams are from.
    pub fn set_sources(&self, sources: BTreeMap<String, Vec<SourceShown>>) {
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    /// Where the endpoints of `upstream` are from, in the order of its configuration.
    pub fn sources(&self, upstream: &str) -> Vec<SourceShown> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(upstream).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<NameShown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(shown: &[NameShown], name: &str, kind: RecordKind) -> Result<usize, usize> {
    shown.binary_search_by(|one| (one.name.as_str(), one.kind).cmp(&(name, kind)))
}
