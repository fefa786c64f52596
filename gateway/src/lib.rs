//! Bawab, an edge API gateway.
pub mod control;
pub mod limits;
pub mod observe;
pub mod rt;
