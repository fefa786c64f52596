//! A request of our own over this worker's connections: what a filter asks another service, and a fetch that several
//! exchanges wait for.
//!
//! A [`Shared`] fetch runs detached from the exchange that started it: its starter may leave while others wait. When nobody
//! waits any more it is cancelled.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};
use http1::{Framing, Method, PathPolicy, Version};

use super::fields::Fields;
use super::head::ResponseHead;
use super::upstream;
use super::wire::Pace;
use crate::limits::SUBREQUEST_BODY_BYTES_MAX;
use crate::refusal::Refusal;
use crate::rt::{Either, Notify, select, spawn};
use crate::worker::Worker;

/// A request a filter makes.
pub struct Subrequest {
    /// index into `Snapshot::upstreams`
    pub upstream: usize,
    pub method: Method,
    /// path and query, already valid
    pub target: String,
    /// Fields beside Host and what frames the body.
    pub fields: Fields,
    pub body: Bytes,
    /// The longest it may take, milliseconds.
    pub wait_ms: u64,
}

/// What came back. The body is complete.
pub struct Fetched {
    pub status: u16,
    pub fields: Fields,
    pub body: Bytes,
}
