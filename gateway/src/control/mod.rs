//! The control side: what may wait, retry and fail, on one thread with a tokio runtime of its own.

pub mod admin;
