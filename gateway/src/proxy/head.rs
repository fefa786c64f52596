//! Heads as the exchange sees them, whichever protocol they came by.

use std::net::IpAddr;

use http1::{Form, Method, PathTraits, Span};

use super::fields::Fields;
use crate::route::{Asked, Came};

/// What a message came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// As logs write it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }
}

impl From<http1::Version> for Protocol {
    fn from(version: http1::Version) -> Protocol {
        match version {
            http1::Version::Http10 => Protocol::Http10,
            http1::Version::Http11 => Protocol::Http11,
        }
    }
}

/// A request head. The target's parts are ranges of the arena, except for a path that had to be rewritten.
pub struct RequestHead {
    pub method: Method,
    method_text: Span,
    pub protocol: Protocol,
    pub form: Form,
    authority: Option<Span>,
    path: Path,
    query: Option<Span>,
    received_path: Span,
    traits: PathTraits,
    sent: Option<Box<Sent>>,
    pub fields: Fields,
}

/// What the upstream is asked for, where that is not what the client asked for.
#[derive(Default)]
struct Sent {
    path: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

/// The canonical path: the received one when that was canonical already.
enum Path {
    Received(Span),
    Rewritten(Vec<u8>),
}

impl RequestHead {
    /// A head from a parsed request line and target. `canonical` replaces the received path; `None`: it was canonical.
    pub fn new(
        line: &http1::RequestLine,
        protocol: Protocol,
        target: &http1::Target,
        canonical: Option<Vec<u8>>,
        traits: PathTraits,
        fields: Fields,
    ) -> RequestHead {
        RequestHead {
            method: line.method,
            method_text: line.method_span,
            protocol,
            form: target.form,
            authority: target.authority,
            path: canonical.map_or(Path::Received(target.path), Path::Rewritten),
            query: target.query,
            received_path: target.path,
            traits,
            sent: None,
            fields,
        }
    }

    /// The method as it was sent; methods are case-sensitive (RFC 9110 §9.1).
    pub fn method_text(&self) -> &[u8] {
        self.method_text.of(self.fields.arena())
    }

    /// `host` or `host:port` of the target or the Host field; empty for HTTP/1.0 without one.
    pub fn authority(&self) -> &[u8] {
        self.authority.map_or(&[], |authority| authority.of(self.fields.arena()))
    }

    /// Adds a field that holds the authority.
    pub fn add_authority_field(&mut self, name: &[u8]) {
        if let Some(authority) = self.authority {
            self.fields.add_received(name, authority);
        }
    }

    /// The one canonical path (`*` for `OPTIONS *`). Router, limits, cache, log and upstream see this and nothing else.
    pub fn path(&self) -> &[u8] {
        match &self.path {
            Path::Received(span) => span.of(self.fields.arena()),
            Path::Rewritten(path) => path,
        }
    }

    /// The path as it was sent, for a route's own policy.
    pub fn received_path(&self) -> &[u8] {
        self.received_path.of(self.fields.arena())
    }

    /// What the received path holds that services read differently.
    pub fn path_traits(&self) -> PathTraits {
        self.traits
    }

    /// Replaces the path by what a route's policy decoded it to. The caller has checked that the route stays the same.
    pub fn set_path(&mut self, path: Vec<u8>) {
        self.path = Path::Rewritten(path);
    }

    /// What routes ask of this head. The lot is 0.
    pub fn asked<'h>(&'h self, came: Came<'h>) -> Asked<'h> {
        Asked {
            host: self.authority(),
            path: self.path(),
            query: self.query(),
            method: self.method,
            method_text: self.method_text(),
            fields: &self.fields,
            came,
            lot: 0,
        }
    }

    /// The upstream is asked for this path, which the caller vouches is canonical.
    pub fn send_path(&mut self, path: Vec<u8>) {
        self.sent.get_or_insert_default().path = Some(path);
    }

    /// The upstream is asked by this host, which the caller vouches is one.
    pub fn send_host(&mut self, host: Vec<u8>) {
        self.sent.get_or_insert_default().host = Some(host);
    }

    /// The path the upstream is asked for.
    pub fn sent_path(&self) -> &[u8] {
        self.sent.as_ref().and_then(|sent| sent.path.as_deref()).unwrap_or_else(|| self.path())
    }

    /// The host the upstream is asked by, if it is not decided by the upstream itself.
    pub fn sent_host(&self) -> Option<&[u8]> {
        self.sent.as_ref()?.host.as_deref()
    }

    /// The query without its `?`; `None` when the target had no `?`.
    pub fn query(&self) -> Option<&[u8]> {
        self.query.map(|query| query.of(self.fields.arena()))
    }
}

/// A response head.
pub struct ResponseHead {
    /// 100 to 599
    pub status: u16,
    pub fields: Fields,
}

impl ResponseHead {
    /// An answer of our own, without fields.
    pub fn new(status: u16) -> ResponseHead {
        ResponseHead { status, fields: Fields::new() }
    }
}

/// Who sent a request and how, decided once an exchange and used everywhere alike.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// The client's address by the listener's `client_address` rule.
    pub address: IpAddr,
    /// Who speaks HTTP to us, see [`Speaker`].
    pub speaker: IpAddr,
    /// What the speaker says about others is believed: it is one of `gateway.trusted_hops`.
    pub trusted: bool,
}

/// Who speaks HTTP over a connection, decided before its first request: who opened it, or who is said to be behind that one by
/// its PROXY header. A balancer that says so does not look into what it passes on, so what the fields say is the client's word
/// and not the balancer's.
#[derive(Debug, Clone, Copy)]
pub struct Speaker {
    pub address: IpAddr,
    /// `false`: somebody behind this address, who knows.
    pub is_known: bool,
}
