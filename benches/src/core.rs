//! Which core something runs on.

use anyhow::Result;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The sender's and the clients'.
pub const LOADING: usize = 0;
/// The gateway's.
pub const SERVING: usize = 1;

/// Keeps a thread, this one if it has no number, on a core; and what it starts from then on.
pub fn stay(thread: Option<Pid>, core: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(core);
    Ok(sched_setaffinity(thread, &cpus)?)
}
