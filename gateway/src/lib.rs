//! Bawab, an edge API gateway.
pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod filter;
pub mod limits;
pub mod observe;
pub mod problem;
pub mod proxy;
pub mod refusal;
pub mod route;
pub mod rt;
pub mod snapshot;
pub mod tables;
pub mod worker;
