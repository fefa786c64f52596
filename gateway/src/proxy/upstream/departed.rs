//! Kept connections to endpoints that are there no more are closed: nobody will use them, and their service may be waiting for
//! that to stop.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Weak};

use super::Pool;
use super::h2::Sessions;
use crate::balance::{Identity, Prehashed};
use crate::snapshot::Snapshot;

/// Whom a worker's kept connections may be to.
#[derive(Default)]
pub(super) struct Present {
    /// The snapshot this is of; never upgraded, so it keeps none from being dropped.
    of: Weak<Snapshot>,
    identities: HashSet<Identity, BuildHasherDefault<Prehashed>>,
    /// A connection was kept since to somebody else: its exchange had begun before.
    has_others: bool,
}

impl Present {
    /// Takes in that a connection is kept.
    pub(super) fn see(&mut self, identity: &Identity) {
        self.has_others |= !self.identities.contains(&*identity.endpoint());
    }
}

impl Pool {
    /// Closes connections to endpoints that are in no upstream of `snapshot`; those of `sessions` end with what runs on them. Called by the worker's sweep; looks at its endpoints only
    /// when it is another snapshot than the last one.
    pub fn keep_to(&self, snapshot: &Arc<Snapshot>, sessions: &Sessions) {
        let mut present = self.present.borrow_mut();
        if !std::ptr::eq(present.of.as_ptr(), Arc::as_ptr(snapshot)) {
            present.of = Arc::downgrade(snapshot);
            present.identities.clear();
            let all = snapshot.endpoints.iter().flat_map(|endpoints| endpoints.list());
            present.identities.extend(all.map(|endpoint| endpoint.identity.clone()));
            present.has_others = true;
            sessions.keep_to(|identity| present.identities.contains(&*identity.endpoint()));
        }
        if std::mem::take(&mut present.has_others) {
            let mut idle = self.idle.borrow_mut();
            idle.retain(|identity, _| present.identities.contains(&*identity.endpoint()));
            self.count.set(idle.values().map(Vec::len).sum());
        }
    }
}
