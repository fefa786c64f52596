//! Bawab, an edge API gateway.
pub mod limits;
pub mod rt;
