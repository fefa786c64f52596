//! The TOML file as typed values: what the operator wrote, with defaults filled in, nothing resolved yet.
//! Read by `config::load`; compiled into a `Snapshot` by `snapshot::compile`. Never seen by the data path.
//!
//! Every field documents meaning, unit, range and default, because `bawab schema` prints these texts. Beside the texts the
//! schema carries what a machine can check: bounds (`range`, `x-min`, `x-max`) and the grammar of each string ([`words`]).
//! The loader checks a file against exactly this schema, so a new field needs its attributes here and nothing else.

mod balance;
mod dns;
mod endpoint;
mod health;
mod listener;
mod lists;
mod retry;
mod route;
mod sticky;
mod upstream;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policies;
use super::units::{Secret, Size, Time};
use super::words;

pub use self::balance::*;
pub use self::dns::*;
pub use self::endpoint::*;
pub use self::health::*;
pub use self::listener::*;
pub use self::lists::*;
pub use self::retry::*;
pub use self::route::*;
pub use self::sticky::*;
pub use self::upstream::*;

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
    #[schemars(length(min = 1))]
    pub listener: Vec<Listener>,
    /// Services requests are sent to, by name.
    #[schemars(extend("propertyNames" = { "format": "name" }))]
    pub upstream: BTreeMap<String, Upstream>,
    /// How names of upstreams are resolved.
    pub dns: Dns,
    /// Addresses by name: who is turned away, who is not limited, and what listeners and routes name.
    #[schemars(extend("propertyNames" = { "format": "name" }))]
    pub list: BTreeMap<String, List>,
    /// The door in the kernel. Without this table lists are enforced in user space only.
    pub xdp: Option<Xdp>,
    /// Which request goes where. At least one.
    #[schemars(length(min = 1))]
    pub route: Vec<Route>,
    /// What errors look like, on every route and where there is none.
    pub error: Vec<ErrorPage>,
}

/// The process.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Worker threads, each with its own ring and sockets: `"auto"` (default: one per core this process may run on) or 1 to 256.
    pub workers: Workers,
    /// How the process stops.
    pub drain: Drain,
    /// More files to read, relative to this one; `*` and `?` stand for part of a file name. Their tables are merged; a name defined twice is an error.
    #[schemars(with = "Vec<words::FilePattern>")]
    pub include: Vec<String>,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` fields are believed, as CIDR. Default: none.
    #[schemars(with = "Vec<words::Cidr>")]
    pub trusted_hops: Vec<ipnet::IpNet>,
    /// The name this gateway gives itself in `Via`. Default `bawab`. A token (RFC 9110 §7.6.3).
    #[schemars(with = "Option<words::Token>")]
    pub via: Option<String>,
    /// The zone it runs in: endpoints of the same one go first. Default: none goes before another.
    #[schemars(with = "Option<words::Name>")]
    pub zone: Option<String>,
    /// The datacenter it runs in: where the zone cannot take all requests, endpoints of the same one go before others. Default: none does.
    #[schemars(with = "Option<words::Name>")]
    pub datacenter: Option<String>,
    /// Whether the configuration is loaded again when its files change. Default true; SIGHUP and the admin listener always do it.
    pub watch: bool,
    /// What happens when a worker ends by a mistake of ours: `exit` (default: the others finish what they run, then the process ends with 3, to be started anew) or `respawn` (another one takes its place; what the dead one held is lost until the process ends).
    pub worker_failure: WorkerFailure,
    /// How long a worker may stand still before the process ends with 3: what it has accepted gets no answer. Default 10s, at most 1h; `0s` turns it off.
    #[schemars(extend("x-max" = "1h"))]
    pub worker_stall: Time,
    /// How upstreams are told about the client: `x_forwarded` (default: `X-Forwarded-For`, `-Proto` and `-Host`) or `forwarded` (RFC 7239).
    pub forwarded: ForwardedField,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            workers: Workers::default(),
            drain: Drain::default(),
            include: Vec::new(),
            trusted_hops: Vec::new(),
            via: None,
            zone: None,
            datacenter: None,
            watch: true,
            worker_failure: WorkerFailure::default(),
            worker_stall: Time::from_secs(10),
            forwarded: ForwardedField::default(),
        }
    }
}

/// What happens when a worker ends by a mistake of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerFailure {
    #[default]
    Exit,
    Respawn,
}

/// How upstreams are told about the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedField {
    #[default]
    XForwarded,
    Forwarded,
}

/// How many worker threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "WorkersText", into = "WorkersText")]
#[schemars(with = "WorkersText")]
pub enum Workers {
    /// One per core this process may run on.
    #[default]
    Auto,
    /// 1 to [`WORKERS_MAX`].
    Count(u16),
}

/// More cores than one gateway process was ever seen to use; each worker has its own ring and buffers.
pub const WORKERS_MAX: u16 = 256;

/// The two ways to write the number of workers.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum WorkersText {
    Auto(AutoText),
    Count(#[schemars(range(min = 1, max = WORKERS_MAX))] u16),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum AutoText {
    Auto,
}

impl From<WorkersText> for Workers {
    fn from(text: WorkersText) -> Workers {
        match text {
            WorkersText::Auto(AutoText::Auto) => Workers::Auto,
            WorkersText::Count(count) => Workers::Count(count),
        }
    }
}

impl From<Workers> for WorkersText {
    fn from(workers: Workers) -> WorkersText {
        match workers {
            Workers::Auto => WorkersText::Auto(AutoText::Auto),
            Workers::Count(count) => WorkersText::Count(count),
        }
    }
}

/// How the process stops on SIGTERM or SIGINT.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Time between "not ready" and closing the listeners, so that load balancers notice. Default 0s, at most 10m.
    #[schemars(extend("x-max" = "10m"))]
    pub delay: Time,
    /// Time running exchanges get to finish. Default 30s, at most 1h.
    #[schemars(extend("x-max" = "1h"))]
    pub deadline: Time,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { delay: Time::from_secs(0), deadline: Time::from_secs(30) }
    }
}

/// The admin listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `unix:/path/to/socket` or `ip:port`. An address that is not loopback needs `token` or `token_file`.
    #[schemars(with = "words::AdminAddress")]
    pub address: String,
    /// Bearer token every request must carry. Better: `token_file`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// File holding the bearer token, relative to the file that says so; surrounding white space is dropped.
    #[serde(default)]
    #[schemars(with = "Option<words::SecretFile>")]
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
    #[schemars(with = "Option<words::AccessLog>")]
    pub access: Option<String>,
}

/// The least serious event that is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Bounds that hold for every listener, route and client. Each has a counter and a defined answer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections open at one time over all workers; one more is closed at accept. An HTTP/2 connection counts once for each request that runs on it; one more stream is then refused, to be sent again. Default: a third of the file descriptor limit, at most 50000. 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u32>,
    /// Client connections open at one time from one address (IPv6: one /64), counted alike; one more is closed at accept. Default 1000. 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_per_address: u32,
    /// Bytes of a request head, request line included. Default 32KiB. 1KiB to 64KiB. Refused with 431 (414 when the target alone is too long).
    #[schemars(extend("x-min" = "1KiB", "x-max" = "64KiB"))]
    pub head_bytes: Size,
    /// Fields in a request head. Default 100. 1 to 1000. Refused with 431.
    #[schemars(range(min = 1, max = 1000))]
    pub fields: u32,
    /// Bytes of a request body, unless a route says otherwise. Default 100MiB. Refused with 413.
    #[schemars(extend("x-max" = "1TiB"))]
    pub body_bytes: Size,
    /// Requests on one client connection; the last one is answered with `Connection: close`, or GOAWAY. Default 10000. 1 to 4294967295.
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub requests_per_connection: u32,
    /// Requests a client may have running on one HTTP/2 connection; one more is refused and can be sent again. Default 128. 1 to 10000.
    #[schemars(range(min = 1, max = 10_000))]
    pub http2_streams: u32,
    /// Bytes per second below which a client that sends or reads a body is let go, measured after a grace of 5 s. Default 240B; `0B` turns it off.
    #[schemars(extend("x-max" = "1MiB"))]
    pub rate_min: Size,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: None,
            connections_per_address: 1000,
            head_bytes: Size::from_kib(32),
            fields: 100,
            body_bytes: Size::from_mib(100),
            requests_per_connection: 10_000,
            http2_streams: 128,
            rate_min: Size(240),
        }
    }
}

/// Waits that hold for every client connection. All 10ms to 24h.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From accept, or the end of a TLS handshake, or the first byte of a later request, to a complete head. Default 10s. Refused with 408.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub head: Time,
    /// From accept to the end of a TLS handshake. Default 10s. Closed silently.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub tls_handshake: Time,
    /// Between two pieces of a request body, or of a response the client reads. Default 30s. 408 while nothing was answered yet, else the connection is closed.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub body_idle: Time,
    /// Between two requests on one connection. Default 75s. Closed silently.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub keep_alive: Time,
    /// Age of a client connection, after which it is closed at the end of its running exchange. Default 1h.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub connection_age: Time,
    /// Silence both ways on an upgraded connection (WebSocket). Default 5m.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub tunnel_idle: Time,
    /// Age of an upgraded connection. Default 24h.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub tunnel_age: Time,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            head: Time::from_secs(10),
            tls_handshake: Time::from_secs(10),
            body_idle: Time::from_secs(30),
            keep_alive: Time::from_secs(75),
            connection_age: Time::from_secs(3600),
            tunnel_idle: Time::from_secs(5 * 60),
            tunnel_age: Time::from_secs(24 * 3600),
        }
    }
}

/// A service requests are sent to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it listens: `host:port`, `unix:/path`, or `{ address = "...", weight = 2, priority = 1, tags = ["v2"] }`. At least one, or `dns`. Names are looked up as those of `dns` are, and each of their addresses is an endpoint.
    // Left out of the schema's defaults: an upstream without any must have `dns`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Endpoints by a name of DNS: its addresses, or what its SRV records say. Default: none but those of `endpoints`.
    #[serde(default)]
    pub dns: Option<UpstreamDns>,
    /// What it speaks: `http1`, or `http2`, many requests on one connection. Without TLS that is not asked first (prior knowledge); with `tls` it is what is offered by ALPN, and `auto` offers both. Default: `auto` with `tls`, else `http1`.
    #[serde(default)]
    pub protocol: Option<UpstreamProtocol>,
    /// Connections begin with a PROXY header that names the client, `v1` (text) or `v2` (binary), and serve that client alone. Default: none is sent.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyVersion>,
    /// It speaks TLS, and is verified: `true`, or a table. Default: plain HTTP.
    #[serde(default, deserialize_with = "policies::switch")]
    #[schemars(with = "Option<policies::Switch<UpstreamTls>>")]
    pub tls: Option<UpstreamTls>,
    /// How an endpoint is picked: `round_robin` (default: in turn), `least_request` (of two drawn endpoints the one with fewer requests running), `peak_ewma` (of two the one that is expected to answer sooner), or `{ policy = "maglev", on = "client" }`: by what requests have in common. Always by weight.
    #[serde(default)]
    pub balance: Balance,
    /// Keeps a client with the endpoint that answered it first, by a cookie. Default: `balance` picks for every request.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// The time in which the weight of an endpoint that is new, or usable again, grows from a tenth to the whole. Default 0s: it is whole at once. At most 1h.
    #[serde(default)]
    #[schemars(extend("x-max" = "1h"))]
    pub slow_start: Time,
    /// Whether endpoints of the gateway's own zone and datacenter go first, as far as they can take all requests: `prefer` (default) or `ignore`.
    #[serde(default)]
    pub locality: Locality,
    /// Below this share of usable endpoints, in every priority, all are used: they may be no worse than the few would be with everything. By weight. Default 50%; `0%` turns it off.
    #[serde(default = "half")]
    pub panic_threshold: Percentage,
    /// The `Host` it sees: `keep` (default: the client's), `endpoint` (the endpoint's address), or any other text as it stands.
    #[serde(default)]
    #[schemars(with = "Option<words::UpstreamHost>")]
    pub host: Option<String>,
    /// Waits, each with its own refusal.
    #[serde(default)]
    pub timeout: UpstreamTimeout,
    /// Connections kept for reuse.
    #[serde(default)]
    pub pool: Pool,
    /// Checks of its endpoints; one that fails gets no requests. Default: none.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// Endpoints whose requests fail get none for a time: `true`, or a table. Default: they go on getting them.
    #[serde(default, deserialize_with = "policies::switch")]
    #[schemars(with = "Option<policies::Switch<Eject>>")]
    pub eject: Option<Eject>,
    /// When a request is sent again. Default: after a refused connection, and when a kept connection was closed.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// How much it is asked at one time.
    #[serde(default)]
    pub limits: UpstreamLimits,
}

fn half() -> Percentage {
    Percentage::HALF
}

/// Waits on an upstream. All 10ms to 24h.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTimeout {
    /// To open a connection, TLS included. Default 1s. Refused with 504 `upstream_connect_timeout`.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub connect: Time,
    /// From the whole request sent to the first byte of the answer. Default 15s. Refused with 504 `upstream_first_byte_timeout`.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub first_byte: Time,
    /// Between two pieces of the answer, and for the service to take a piece of the request. Default 60s. 504, or the connection is cut when the answer had begun.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub idle: Time,
    /// The exchange as a whole, bodies included. Default 1h. 504, or cut.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub total: Time,
}

impl Default for UpstreamTimeout {
    fn default() -> UpstreamTimeout {
        UpstreamTimeout {
            connect: Time::from_secs(1),
            first_byte: Time::from_secs(15),
            idle: Time::from_secs(60),
            total: Time::from_secs(3600),
        }
    }
}

/// Connections kept for reuse, per worker and endpoint.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Idle connections kept per worker and endpoint: at least what runs at one time, or some are opened anew. Default 512. 0 to 10000; 0 opens one per request.
    #[schemars(range(max = 10_000))]
    pub idle_max: u32,
    /// Requests at one time on one connection of an upstream that speaks HTTP/2; with more, another one is opened. The service may allow fewer. Default 100. 1 to 10000.
    #[schemars(range(min = 1, max = 10_000))]
    pub streams_max: u32,
    /// How long one may be idle. Default 30s: below what most services close at.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub idle: Time,
    /// How old one may become. Default 1h.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub age: Time,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { idle_max: 512, streams_max: 100, idle: Time::from_secs(30), age: Time::from_secs(3600) }
    }
}

/// Which request goes where. The most specific route wins: exact host over `*.suffix` over any; one path over a regular expression over patterns, compared segment by segment; the route that names the method over one for all; more conditions over fewer. It has one of `upstream`, `split`, `redirect` and `respond`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name in logs and metrics. Default: `host` and `path`.
    #[serde(default)]
    #[schemars(with = "Option<words::Name>")]
    pub name: Option<String>,
    /// `api.example.com`, `*.example.com` (one label or more), a list of such, or nothing for any host. Ports are not compared.
    #[serde(default)]
    pub host: Hosts,
    /// `/exact`, `/prefix/**`, `/a/{name}/b`, `/a/{rest=**}`, or `{ regex = "..." }`. Compared with the canonical path by whole segments: a prefix takes itself and everything below, `{name}` any one segment but an empty one, a regular expression the whole path.
    pub path: PathMatch,
    /// Methods it takes. Default: all. A known path with another method is answered with 405 and `Allow`.
    #[serde(default)]
    #[schemars(with = "Vec<words::Method>")]
    pub methods: Vec<String>,
    /// Conditions on headers, query, cookies and the client.
    #[serde(default)]
    pub when: When,
    /// Goes before how specific routes are: the higher one is tried first. Default 0. -1000 to 1000.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// Name of the upstream that answers.
    #[serde(default)]
    #[schemars(with = "Option<words::Name>")]
    pub upstream: Option<String>,
    /// Which of the upstream's endpoints: those that have all of these tags. Default: all of them.
    #[serde(default)]
    pub subset: Option<Subset>,
    /// Upstreams that share the requests by weight.
    #[serde(default)]
    pub split: Option<Split>,
    /// An answer that sends the client elsewhere.
    #[serde(default)]
    pub redirect: Option<Redirect>,
    /// A fixed answer.
    #[serde(default)]
    pub respond: Option<Respond>,
    /// What the upstream is asked instead: path and host.
    #[serde(default)]
    pub rewrite: Option<Rewrite>,
    /// Waits instead of the upstream's.
    #[serde(default)]
    pub timeout: RouteTimeout,
    /// When a request is sent again, in place of the whole table of the upstream.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// Hold requests until their body is here, of at most so many bytes (413 beyond), before the upstream hears of them. Default: pass it on as it comes. At most 16MiB.
    #[serde(default)]
    #[schemars(extend("x-max" = "16MiB"))]
    pub buffer_request: Option<Size>,
    /// Upstreams that get a copy of requests; what they answer is dropped.
    #[serde(default)]
    pub mirror: Vec<Mirror>,
    /// Answers 503 for everybody but a few.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// Failures on purpose.
    #[serde(default)]
    pub fault: Option<Fault>,
    /// What errors of this route look like. Goes before the pages for all routes.
    #[serde(default)]
    pub error: Vec<ErrorPage>,
    /// Lists whose addresses are refused here with 403, beside those that are denied everywhere.
    #[serde(default)]
    #[schemars(with = "Vec<words::Name>")]
    pub deny: Vec<String>,
    /// Lists of which one must hold the client; others are refused with 403. Default: any client.
    #[serde(default)]
    #[schemars(with = "Vec<words::Name>")]
    pub allow: Vec<String>,
    /// Who may use it. Must be written: `"none"` lets everybody in.
    #[schemars(extend("x-missing" = "write `auth = \"none\"` to let everybody in"))]
    pub auth: Auth,
    /// Header edits on the way in and out. `${client_ip}`, `${request_id}`, `${route}`, `${host}`, `${method}`, `${path}`, `${scheme}`, `${path.name}` (a capture), `${header.name}`, `${query.name}` and `${cookie.name}` are replaced.
    #[serde(default)]
    pub headers: Headers,
    /// Which pages of other origins may use it from a browser. Default: none, and nothing is said about it. Preflights are answered here, before anybody is asked who they are.
    #[serde(default)]
    pub cors: Option<policies::Cors>,
    /// Answers in the content coding the client would have: `true`, or a table. Default: they go as the service sends them. An answer that holds a secret beside text of the client's choice must not be compressed (BREACH).
    #[serde(default, deserialize_with = "policies::switch")]
    #[schemars(with = "Option<policies::Switch<policies::Compression>>")]
    pub compression: Option<policies::Compression>,
    /// Fields by which browsers are told to be careful, on answers that do not have them: `true`, or a table. Default: none are added.
    #[serde(default, deserialize_with = "policies::switch")]
    #[schemars(with = "Option<policies::Switch<policies::SecurityHeaders>>")]
    pub security_headers: Option<policies::SecurityHeaders>,
    /// Request bodies in `gzip`, `br`, `zstd` or `deflate` are decoded before anything looks at them: `true`, or a table. Default: they go as they come.
    #[serde(default, deserialize_with = "policies::switch")]
    #[schemars(with = "Option<policies::Switch<policies::DecompressRequest>>")]
    pub decompress_request: Option<policies::DecompressRequest>,
    /// Bytes of a request body. Default: `limits.body_bytes`.
    #[serde(default)]
    #[schemars(extend("x-max" = "1TiB"))]
    pub body_bytes: Option<Size>,
    /// What to do with path text that services read differently.
    #[serde(default)]
    pub path_policy: PathPolicy,
    /// Protocols a client may switch to. `["websocket"]`, or nothing (default): `Upgrade` is then not forwarded and the request is answered as plain HTTP; the extended CONNECT of HTTP/2 is refused with 501.
    #[serde(default)]
    pub upgrade: Vec<Upgrade>,
}

impl Route {
    /// Its name in logs and metrics.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("{}{}", self.host.names().next().unwrap_or(""), self.path.text()))
    }

    /// What its requests, and copies of them, are sent to: upstreams, and which of their endpoints. With the key that says so.
    pub fn targets(&self) -> impl Iterator<Item = (String, &str, Option<&Subset>)> {
        let own = self.upstream.as_deref().map(|upstream| ("subset".to_owned(), upstream, self.subset.as_ref()));
        let split = self.split.iter().flat_map(|split| split.targets.iter().enumerate()).map(|(at, target)| {
            (format!("split.targets[{at}].subset"), target.upstream.as_str(), target.subset.as_ref())
        });
        let mirrors = self
            .mirror
            .iter()
            .enumerate()
            .map(|(at, mirror)| (format!("mirror[{at}].subset"), mirror.upstream.as_str(), mirror.subset.as_ref()));
        own.into_iter().chain(split).chain(mirrors)
    }

    /// The upstreams it sends requests to.
    pub fn upstreams(&self) -> impl Iterator<Item = &str> {
        let targets = self.split.iter().flat_map(|split| &split.targets).map(|target| target.upstream.as_str());
        self.upstream.as_deref().into_iter().chain(targets)
    }
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
    #[schemars(with = "Vec<words::FieldName>")]
    pub remove: Vec<String>,
    /// Fields to set: all others of that name go.
    #[schemars(with = "BTreeMap<String, words::FieldValue>", extend("propertyNames" = { "format": "field-name" }))]
    pub set: BTreeMap<String, String>,
    /// Fields to add beside those that are there.
    #[schemars(with = "BTreeMap<String, words::FieldValue>", extend("propertyNames" = { "format": "field-name" }))]
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
    /// `//`. `merge` (default) into one `/`, or `refuse` (400).
    pub double_slash: SlashRule,
}

/// What to do with an ambiguous character.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathRule {
    #[default]
    Refuse,
    Keep,
    Decode,
}

/// What to do with empty segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
