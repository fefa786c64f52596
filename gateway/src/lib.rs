//! Bawab, an edge API gateway.
