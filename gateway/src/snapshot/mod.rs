//! The snapshot: what we were told, compiled and immutable. Workers read it once an exchange.
//!
//! A change replaces one part and the small struct around it; the other parts are shared with the snapshot before.

mod compile;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;

pub use self::compile::{compile, connections_default, routes};
use crate::balance::{Destination, Endpoints, Subset};
use crate::config::model::{ClientAddress, ForwardedField, Underscores};
use crate::filter::Chain;
use crate::lists::{Gate, Lists};
use crate::observe::metrics::{RouteSeries, UpstreamSeries};
use crate::proxy::error_page::ErrorPage;
use crate::proxy::head::Protocol;
use crate::proxy::retry::Retry;
use crate::route::RouteTable;
use crate::route::action::Action;
use crate::route::pattern::PathPattern;
use crate::tables::health::Thresholds;
use crate::tables::health::rates::RateRules;
use crate::tables::health::record::EjectionTimes;
use crate::tables::load::Load;
use crate::tls::{ServerTls, Tls};

/// Everything a worker must know to serve.
#[derive(Clone)]
pub struct Snapshot {
    pub settings: Arc<Settings>,
    /// Who is turned away everywhere, and who is not limited.
    pub lists: Arc<Lists>,
    /// What listeners show, in the order of the configuration.
    pub tls: Arc<Tls>,
    /// By a number a listener keeps as long as the process lives: connections know theirs by it.
    pub listeners: Arc<Vec<Arc<Listener>>>,
    pub routes: Arc<RouteTable>,
    /// What does not change when services move. Routes name them by index.
    pub upstreams: Arc<Vec<Upstream>>,
    /// Where the upstream of the same index runs now.
    pub endpoints: Vec<Arc<Endpoints>>,
    /// How much the upstream of the same index is asked, on all cores and under every snapshot.
    pub loads: Vec<Arc<Load>>,
}

/// Bounds and waits of every client connection. Waits are milliseconds.
pub struct Settings {
    pub connections_max: u32,
    pub connections_per_address_max: u32,
    pub head_bytes: usize,
    pub fields: usize,
    pub requests_per_connection: u32,
    pub http2_streams: u32,
    pub rate_min: u64,
    pub head_ms: u64,
    pub tls_handshake_ms: u64,
    pub body_idle_ms: u64,
    pub keep_alive_ms: u64,
    pub connection_age_ms: u64,
    pub tunnel_idle_ms: u64,
    pub tunnel_age_ms: u64,
    pub trusted_hops: Vec<IpNet>,
    pub forwarded: ForwardedField,
    /// Pages for all routes, and where there is none.
    pub errors: Vec<ErrorPage>,
    /// `1.0 name`, `1.1 name` and `2 name`: `Via` says which version was received.
    pub via: [String; 3],
}

impl Settings {
    /// What `Via` says of a message received by `protocol`.
    pub fn via(&self, protocol: Protocol) -> &str {
        &self.via[match protocol {
            Protocol::Http10 => 0,
            Protocol::Http11 => 1,
            Protocol::Http2 => 2,
        }]
    }
}

/// A listener's rules. Its socket is not part of the snapshot.
#[derive(Clone)]
pub struct Listener {
    pub name: String,
    pub client_address: ClientAddress,
    pub underscores: Underscores,
    pub tls: Option<Arc<ServerTls>>,
    /// HTTP/2 is spoken, too.
    pub http2: bool,
    /// Whom it turns away beside those that are turned away everywhere.
    pub gate: Arc<Gate>,
    /// It is configured no more: answers say that their connection closes. The same for all snapshots, so that what runs
    /// under an earlier one hears of it.
    pub closed: Arc<AtomicBool>,
}

impl Listener {
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// A route found.
pub struct Route {
    pub name: String,
    pub pattern: Arc<PathPattern>,
    pub action: Action,
    pub timeouts: RouteTimeouts,
    /// In place of the upstream's.
    pub retry: Option<Retry>,
    pub mirrors: Vec<Mirror>,
    /// Whom it turns away by address.
    pub gate: Arc<Gate>,
    pub errors: Vec<ErrorPage>,
    pub chain: Chain,
    pub body_bytes_max: u64,
    pub path_policy: http1::PathPolicy,
    /// Clients may switch to WebSocket.
    pub websocket: bool,
    pub series: Arc<RouteSeries>,
}

/// Who gets copies of a route's requests.
pub struct Mirror {
    pub to: Destination,
    /// Of a million requests, so many.
    pub share: u32,
    pub body_bytes_max: usize,
}

/// Waits of a route instead of its upstream's, milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteTimeouts {
    pub first_byte: Option<u64>,
    pub idle: Option<u64>,
    pub total: Option<u64>,
}

impl RouteTimeouts {
    /// Those of an upstream, as this route wants them.
    pub fn over(self, upstream: UpstreamTimeouts) -> UpstreamTimeouts {
        UpstreamTimeouts {
            connect: upstream.connect,
            first_byte: self.first_byte.unwrap_or(upstream.first_byte),
            idle: self.idle.unwrap_or(upstream.idle),
            total: self.total.unwrap_or(upstream.total),
        }
    }
}

/// A service.
pub struct Upstream {
    pub name: String,
    pub host: HostPolicy,
    pub timeouts: UpstreamTimeouts,
    pub pool: PoolSettings,
    /// When its endpoints are ejected; `None`: never, and nothing is counted.
    pub eject: Option<Eject>,
    pub retry: Option<Retry>,
    pub limits: UpstreamLimits,
    /// What routes ask for of its endpoints, in the order of their numbers.
    pub subsets: Vec<Subset>,
    pub series: Arc<UpstreamSeries>,
}

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eject {
    pub thresholds: Thresholds,
    /// `None`: how often attempts fail does not matter, and is not counted.
    pub rates: Option<RateRules>,
    pub times: EjectionTimes,
    /// Of a million endpoints, so many at one time.
    pub share_max: u32,
}

/// The `Host` an upstream sees.
pub enum HostPolicy {
    /// The client's.
    Keep,
    /// The endpoint's address as it was written.
    Endpoint,
    Fixed(String),
}

/// Waits on an upstream, milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamTimeouts {
    pub connect: u64,
    pub first_byte: u64,
    pub idle: u64,
    pub total: u64,
}

/// Requests at one time, over all cores. `None`: any number.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamLimits {
    pub requests_max: Option<u32>,
    pub endpoint_requests_max: Option<u32>,
}

/// What a worker keeps per endpoint.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    pub idle_max: usize,
    /// Requests at one time on one connection that can carry several.
    pub streams_max: u32,
    pub idle_ms: u64,
    pub age_ms: u64,
}
