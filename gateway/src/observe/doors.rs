//! How the doors in the kernel stand, for metrics and for the admin listener. Written by the thread that has them, once a second.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// All doors of the process.
#[derive(Debug, Default)]
pub struct Doors {
    status: Mutex<Vec<DoorStatus>>,
    /// Bans that the kernel was not told of, because too much waited.
    pub bans_missed: AtomicU64,
}

impl Doors {
    /// As they stood a second ago at most.
    pub fn status(&self) -> Vec<DoorStatus> {
        self.lock().clone()
    }

    pub fn set(&self, status: Vec<DoorStatus>) {
        *self.lock() = status;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<DoorStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One door as it stands.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DoorStatus {
    pub interface: String,
    /// How packets reach it; absent: it is not attached.
    pub mode: Option<String>,
    /// Why it is not attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub bypass: bool,
    /// Name of the lists it has, 16 hexadecimal digits.
    pub generation: String,
    pub entries: u64,
    pub bans: usize,
    /// Packets by what became of them.
    pub packets: Vec<(&'static str, u64)>,
    /// What each list turned away, or would have.
    pub lists: Vec<ListStatus>,
    /// Sources of sampled drops, the most frequent first.
    pub sources: Vec<(String, u64)>,
}

/// What a list did in the kernel.
#[derive(Debug, Clone, Serialize)]
pub struct ListStatus {
    pub list: String,
    pub shadow: bool,
    pub packets: u64,
    pub bytes: u64,
    /// Different sources among the sampled packets.
    pub sources: usize,
}
