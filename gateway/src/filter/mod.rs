//! Filters: what a route does to a request and its answer besides passing them on. One policy, one file.
//!
//! A filter is synchronous and decides with an [`Effect`]; only the [`chain`] waits. Filters run by [`Phase`], in the order
//! of the enum on the way in and reversed on the way out: the order is safety, not taste (a cache before auth is a leak),
//! so an operator orders only within a phase.
//!
//! A new policy is one file here (module doc, settings, `compile`, `impl Filter`, tests, `pub const KIND`) and one line in
//! [`KINDS`].

mod buffer;
pub mod chain;
pub mod coding;
mod compression;
pub mod cors;
mod decompress_request;
mod fault;
mod headers;
mod ip_list;
mod maintenance;
pub mod rewrite;
mod security_headers;
#[cfg(test)]
mod testkit;
mod text;
mod vary;

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::chain::Chain;
use crate::config::model;
use crate::lists::Gate;
use crate::proxy::fetch::{Fetched, Shared, Subrequest};
use crate::proxy::head::{Client, RequestHead, ResponseHead};
use crate::refusal::Refusal;
use crate::snapshot::Route;
use crate::tls::ClientCertificate;

/// When a filter runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connection caps, address lists, anonymous limits, CORS preflight.
    Access,
    /// Who is it.
    Identify,
    /// May they.
    Authorize,
    /// How much: identity limits, quotas, concurrency.
    Limit,
    /// What is asked: parameters, headers, then body.
    Inspect,
    /// Cache lookup; a hit ends here.
    Reuse,
    /// Transcode, rewrite: inside the cache.
    Convert,
    /// Response header edits, CORS headers, compression, also on hits; on the way in, header edits towards the upstream.
    Finish,
}

impl Phase {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Access => "access",
            Phase::Identify => "identify",
            Phase::Authorize => "authorize",
            Phase::Limit => "limit",
            Phase::Inspect => "inspect",
            Phase::Reuse => "reuse",
            Phase::Convert => "convert",
            Phase::Finish => "finish",
        }
    }
}

/// A policy a route can have: its name, when it runs, and how its settings become a filter.
pub struct Kind {
    /// Its TOML table and metric label.
    pub name: &'static str,
    pub phase: Phase,
    /// The filter for a route, or `None` where the route does not use it.
    pub compile: fn(&Making<'_>) -> Option<Box<dyn Filter>>,
}

/// What filters are made from.
pub struct Making<'a> {
    pub route: &'a model::Route,
    /// The route's own lists.
    pub gate: &'a Arc<Gate>,
}

/// Every policy. Filters of one phase run in this order, and in the reverse of it on the way out. What limits or turns away
/// by address stands before cors, which answers preflights: they count, too. Bodies are decoded before they are inspected.
/// Compression comes last, when every field that could forbid it is there, and the route's own edits after the preset they
/// may correct.
pub const KINDS: &[Kind] = &[
    ip_list::KIND,
    cors::KIND,
    maintenance::KIND,
    decompress_request::KIND,
    fault::KIND,
    buffer::KIND,
    rewrite::KIND,
    compression::KIND,
    headers::KIND,
    security_headers::KIND,
];

/// The chain of a route.
pub fn compile(making: &Making<'_>) -> Chain {
    let links = KINDS
        .iter()
        .filter_map(|kind| Some(chain::Link { phase: kind.phase, name: kind.name, filter: (kind.compile)(making)? }));
    Chain::new(links.collect())
}

/// A policy, compiled for one route. Shared by all workers and never changed: what it counts is in the tables.
pub trait Filter: Send + Sync {
    /// Decides about a request. Called with [`Step::Start`] first, and again with the outcome of each effect it asked for,
    /// until it says [`Effect::Next`] or [`Effect::Answer`].
    fn request(&self, context: &mut Context<'_>, step: Step) -> Effect;

    /// Edits the answer's head, and may add a transform of its body. Also called for answers of filters behind this one,
    /// and in [`Phase::Finish`] for those of any filter, whether this one saw the request or not.
    fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        let _ = (context, head);
    }

    /// Whether preflights that ask about its route's requests are its to answer.
    fn answers_preflights(&self) -> bool {
        false
    }

    /// Edits the head of a refusal of ours, whether this filter saw the request or not.
    fn refusal(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        let _ = (context, head);
    }
}

/// What a filter wants.
pub enum Effect {
    /// Go on.
    Next,
    /// The exchange ends here with this answer.
    Answer(Answer),
    /// Hold the whole request body, of at most so many bytes, and call again with it. From [`Phase::Identify`] on.
    NeedBody(usize),
    /// Ask another service over this worker's own connections and call again with what it said.
    Call(Subrequest),
    /// Run this where it may take long and call again with what it made.
    Offload(Job),
    /// Call again after this time.
    Delay(Duration),
    /// Wait for a fetch that others may be waiting for, too, and call again with what it brought.
    Follow(Rc<Shared>),
}

/// Work for the offload pool.
pub type Job = Box<dyn FnOnce() -> Output + Send>;

/// What a job made.
pub type Output = Box<dyn Any + Send>;

/// Why a filter is called.
pub enum Step {
    Start,
    /// The body it needed. Held: the upstream gets it, too.
    Body(Bytes),
    /// What the service said, or why there is no answer.
    Reply(Result<Rc<Fetched>, Refusal>),
    /// What the job made; `None`: the pool was full or late.
    Done(Option<Output>),
    /// The time is over.
    Elapsed,
}

/// An answer made by a filter.
pub enum Answer {
    /// One of the table, as problem+json.
    Refuse(Refusal),
    /// Its own.
    Send { head: ResponseHead, body: Bytes },
}

/// A change of an answer's body, piece by piece. What it makes goes behind `out`.
pub trait Transform {
    /// `piece` is not empty and no longer than a pooled buffer.
    fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>);

    /// The next piece is not here yet: what is held back goes out, so that the client has all that came so far.
    fn flush(&mut self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// What comes after the last piece.
    fn end(&mut self, out: &mut Vec<u8>);
}

/// What a filter sees of the exchange, and may leave in it.
pub struct Context<'a> {
    pub request: &'a mut RequestHead,
    pub facts: Facts<'a>,
    pub kept: &'a mut Kept,
}

/// What is decided about the exchange and does not change.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub client: &'a Client,
    pub request_id: &'a [u8],
    pub route: Option<&'a Route>,
    pub scheme: &'static str,
    /// What the client has shown by TLS, and the listener has verified.
    pub client_certificate: Option<&'a ClientCertificate>,
}

impl<'a> Facts<'a> {
    /// Name of the route; empty before it is found.
    pub fn route_name(&self) -> &'a str {
        self.route.map_or("", |route| &route.name)
    }
}

/// What filters leave in the exchange. Released when it ends, however it does.
#[derive(Default)]
pub struct Kept {
    /// Held until the end: in-flight and concurrency places, and state between request and answer.
    values: Vec<Box<dyn Any>>,
    /// The request's body is to be decoded by this before anybody else sees it.
    pub decoder: Option<Box<coding::decode::Decoder>>,
    /// Applied to the answer's body in this order.
    pub transforms: Vec<Box<dyn Transform>>,
}

impl Kept {
    pub fn put<T: 'static>(&mut self, value: T) {
        self.values.push(Box::new(value));
    }

    pub fn of<T: 'static>(&mut self) -> Option<&mut T> {
        self.values.iter_mut().find_map(|value| value.downcast_mut())
    }
}
