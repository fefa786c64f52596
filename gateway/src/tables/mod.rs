//! Tables: what all workers must agree on. Bounded, sharded or lock-free, never waited on, surviving a reload.

pub mod bans;
pub mod connections;
pub mod health;
pub mod load;
