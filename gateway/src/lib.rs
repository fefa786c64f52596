//! Bawab, an edge API gateway.
pub mod config;
pub mod control;
pub mod limits;
pub mod observe;
pub mod problem;
pub mod rt;
