//! What the gateway tells its operator: counters, the access log, and events.
//!
//! The data path writes to memory that only its own core writes: [`metrics`] are relaxed stores, [`access_log`] fills a
//! buffer and hands it to one writer thread. Both are read elsewhere, and neither can make a worker wait.
//! [`events`] are for what happens to the process, never for a single request.

mod access_line;
pub mod access_log;
pub mod doors;
pub mod events;
mod exposition;
pub mod histogram;
pub mod metrics;
pub mod names;
mod process;
pub mod reloads;
pub(crate) mod rfc3339;
