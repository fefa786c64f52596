//! Benchmarks of the data path. `cargo bench` runs the criterion ones; `cargo xtask bench` runs the gateway beside others.

pub mod core;
pub mod detached;
pub mod exchange;
pub mod routes;
