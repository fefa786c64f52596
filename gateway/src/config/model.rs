//! The TOML file as typed values: what the operator wrote, with defaults filled in, nothing resolved yet.
//! Read by `config::load`; compiled into a `Snapshot` by `snapshot::compile`. Never seen by the data path.
//!
//! Every field documents meaning, unit, range and default, because `bawab schema` prints these texts.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{Secret, Size, Time};

/// A whole configuration, after `include`d files were merged in.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The process: workers, draining, files to include, whom to trust.
    pub gateway: Gateway,
    /// Where `/metrics`, `/livez` and `/readyz` are served. Without this table nothing is.
    pub admin: Option<Admin>,
    /// Event log and access log.
    pub log: Log,
    /// Bounds that hold for every listener, route and client.
    pub limits: Limits,
    /// Waits that hold for every client connection.
    pub timeouts: Timeouts,
    /// Sockets clients connect to. At least one.
    pub listener: Vec<Listener>,
    /// Services requests are sent to, by name.
    pub upstream: BTreeMap<String, Upstream>,
    /// Which request goes where. At least one.
    pub route: Vec<Route>,
}

/// The process.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Worker threads, each with its own ring and sockets: `"auto"` (default: one per core this process may run on) or 1 to 256.
    pub workers: Workers,
    /// How the process stops.
    pub drain: Drain,
    /// More files to read, relative to this one; `*` and `?` stand for part of a file name. Their tables are merged; a name defined twice is an error.
    pub include: Vec<String>,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` fields are believed, as CIDR. Default: none.
    pub trusted_hops: Vec<ipnet::IpNet>,
    /// The name this gateway gives itself in `Via`. Default `bawab`. A token (RFC 9110 §7.6.3).
    pub via: Option<String>,
}

/// How the process stops on SIGTERM or SIGINT.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Time between "not ready" and closing the listeners, so that load balancers notice. Default 0s, at most 10m.
    pub delay: Time,
    /// Time running exchanges get to finish. Default 30s, at most 1h.
    pub deadline: Time,
}

/// The admin listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `unix:/path/to/socket` or `ip:port`. An address that is not loopback needs `token` or `token_file`.
    pub address: String,
    /// Bearer token every request must carry. Better: `token_file`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// File holding the bearer token; surrounding white space is dropped.
    #[serde(default)]
    pub token_file: Option<String>,
}

/// Event log and access log.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Events on stderr: `error`, `warn`, `info` (default). Finer levels are compiled out of release builds.
    pub level: Level,
    /// Events as `text` (default) or `json`.
    pub format: Format,
    /// One JSON line per exchange: a file's path, `"stdout"`, or `"off"`. Default `"stdout"`. Reopened on SIGUSR1.
    pub access: Option<String>,
}

/// Bounds that hold for every listener, route and client. Each has a counter and a defined answer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections open at one time over all workers; one more is closed at accept. Default: a third of the file descriptor limit, at most 50000. 1 to 1000000.
    pub connections: Option<u32>,
    /// Client connections open at one time from one address (IPv6: one /64); one more is closed at accept. Default 1000. 1 to 1000000.
    pub connections_per_address: u32,
    /// Bytes of a request head, request line included. Default 32KiB. 1KiB to 64KiB. Refused with 431 (414 when the target alone is too long).
    pub head_bytes: Size,
    /// Fields in a request head. Default 100. 1 to 1000. Refused with 431.
    pub fields: u32,
    /// Bytes of a request body, unless a route says otherwise. Default 100MiB. Refused with 413.
    pub body_bytes: Size,
    /// Requests on one client connection; the last one is answered with `Connection: close`. Default 10000. 1 to 4294967295.
    pub requests_per_connection: u32,
    /// Bytes per second below which a client that sends or reads a body is let go, measured after a grace of 5 s. Default 240B; `0B` turns it off.
    pub rate_min: Size,
}

/// Waits that hold for every client connection. All 10ms to 24h.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From accept (or the first byte of a later request) to a complete head. Default 10s. Refused with 408.
    pub head: Time,
    /// Between two pieces of a request body, or of a response the client reads. Default 30s. 408 while nothing was answered yet, else the connection is closed.
    pub body_idle: Time,
    /// Between two requests on one connection. Default 75s. Closed silently.
    pub keep_alive: Time,
    /// Age of a client connection, after which it is closed at the end of its running exchange. Default 1h.
    pub connection_age: Time,
    /// Silence both ways on an upgraded connection (WebSocket). Default 5m.
    pub tunnel_idle: Time,
    /// Age of an upgraded connection. Default 24h.
    pub tunnel_age: Time,
}

/// A socket clients connect to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its name in logs and metrics. Default: its address.
    #[serde(default)]
    pub name: Option<String>,
    /// `ip:port`; port 0 lets the kernel choose (the choice is logged).
    pub address: String,
    /// How a client's address is decided, once and for all uses. `peer` (default): who opened the connection. `forwarded`: `X-Forwarded-For` walked from the right past `gateway.trusted_hops`.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// What to do with request fields that have `_` in their name, which some services cannot tell from `-`: `refuse` (default, 400), `drop` or `keep`.
    #[serde(default)]
    pub underscores: Underscores,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddress {
    #[default]
    Peer,
    Forwarded,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Underscores {
    #[default]
    Refuse,
    Drop,
    Keep,
}

/// A service requests are sent to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it listens: `host:port`, `unix:/path`, or `{ address = "...", weight = 2 }`. At least one. Names are resolved when the gateway starts and every 30 s.
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is picked. Default `round_robin`, by weight.
    #[serde(default)]
    pub balance: Balance,
    /// The `Host` it sees: `keep` (default: the client's), `endpoint` (the endpoint's address), or any other text as it stands.
    #[serde(default)]
    pub host: Option<String>,
    /// Waits, each with its own refusal.
    #[serde(default)]
    pub timeout: UpstreamTimeout,
    /// Connections kept for reuse.
    #[serde(default)]
    pub pool: Pool,
}

/// An endpoint: its address alone, or with a weight.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(with = "EndpointSchema")]
pub struct Endpoint {
    pub address: String,
    pub weight: u32,
}

/// The two ways to write an endpoint, for the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used; deserializing is by hand, to keep the span")]
enum EndpointSchema {
    /// `host:port` or `unix:/path`; weight 1.
    Address(String),
    Weighted {
        /// `host:port` or `unix:/path`.
        address: String,
        /// Its share of the requests beside the other endpoints'. Default 1. 0 to 1000000; 0 sends it nothing.
        #[serde(default)]
        weight: u32,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    #[default]
    RoundRobin,
}

/// Waits on an upstream. All 10ms to 24h.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTimeout {
    /// To open a connection. Default 1s. Refused with 504 `upstream_connect_timeout`.
    pub connect: Time,
    /// From the whole request sent to the first byte of the answer. Default 15s. Refused with 504 `upstream_first_byte_timeout`.
    pub first_byte: Time,
    /// Between two pieces of the answer, and for the service to take a piece of the request. Default 60s. 504, or the connection is cut when the answer had begun.
    pub idle: Time,
    /// The exchange as a whole, bodies included. Default 1h. 504, or cut.
    pub total: Time,
}

/// Connections kept for reuse, per worker and endpoint.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Idle connections kept per worker and endpoint. Default 64. 0 to 10000; 0 opens one per request.
    pub idle_max: u32,
    /// How long one may be idle. Default 30s: below what most services close at.
    pub idle: Time,
    /// How old one may become. Default 1h.
    pub age: Time,
}

/// Which request goes where. The most specific route wins: exact host over `*.suffix` over any, exact path over the longest prefix.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name in logs and metrics. Default: `host` and `path`.
    #[serde(default)]
    pub name: Option<String>,
    /// `api.example.com`, `*.example.com` (one label or more), or nothing for any host. Ports are not compared.
    #[serde(default)]
    pub host: Option<String>,
    /// `/exact`, or `/prefix/**`: the prefix itself and everything below it, by whole segments. Compared with the canonical path.
    pub path: String,
    /// Methods it takes. Default: all. A known path with another method is answered with 405 and `Allow`.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Name of the upstream.
    pub upstream: String,
    /// Who may use it. Must be written: `"none"` lets everybody in.
    pub auth: Auth,
    /// Header edits on the way in and out. `${client_ip}`, `${request_id}`, `${route}`, `${host}`, `${method}`, `${path}`, `${scheme}` are replaced.
    #[serde(default)]
    pub headers: Headers,
    /// Bytes of a request body. Default: `limits.body_bytes`.
    #[serde(default)]
    pub body_bytes: Option<Size>,
    /// What to do with path text that services read differently.
    #[serde(default)]
    pub path_policy: PathPolicy,
    /// Protocols a client may switch to. `["websocket"]`, or nothing (default): `Upgrade` is then not forwarded and the request is answered as plain HTTP.
    #[serde(default)]
    pub upgrade: Vec<Upgrade>,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Everybody.
    None,
}

/// Header edits.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    /// On the request, before it is sent to the upstream.
    pub request: HeaderEdits,
    /// On the answer, before it is sent to the client.
    pub response: HeaderEdits,
}

/// Edits in this order: remove, set, add.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Fields to remove, all of that name.
    pub remove: Vec<String>,
    /// Fields to set: all others of that name go.
    pub set: BTreeMap<String, String>,
    /// Fields to add beside those that are there.
    pub add: BTreeMap<String, String>,
}

/// What to do with path text that services read differently from each other. A path that `decode` turns into one of
/// another route is refused.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PathPolicy {
    /// `%2F`, which some services take for `/`. `refuse` (default, 400), `keep` as it stands, or `decode` to `/`.
    pub encoded_slash: PathRule,
    /// `%5C`, which some services take for `/`. `refuse` (default, 400), `keep` as it stands, or `decode` to `/`. A bare backslash is always refused.
    pub backslash: PathRule,
    /// `;` and `%3B`, which some services cut segments at. `refuse` (default, 400), `keep` as it stands, or `decode` `%3B` to `;`. `..;` and `.;` are always refused.
    pub semicolon: PathRule,
    /// `//`. `merge` into one `/` (default), or `refuse` (400).
    pub double_slash: SlashRule,
}

/// What to do with an ambiguous character.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathRule {
    #[default]
    Refuse,
    Keep,
    Decode,
}

/// What to do with empty segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlashRule {
    #[default]
    Merge,
    Refuse,
}

/// A protocol to switch to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Upgrade {
    Websocket,
}
