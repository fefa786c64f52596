//! How names of upstreams are resolved, and upstreams that run where a name of DNS says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::units::Time;
use super::super::words;

/// How names of upstreams are resolved (RFC 1035, RFC 2782). For all upstreams together: a name is asked for once, whoever uses it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Servers, `ip:port`, asked in this order; the next one when one fails. Names are then taken as they are written. Default: those of `/etc/resolv.conf`, with its `search` and `ndots`, read again when it changes. At most 8.
    #[schemars(with = "Vec<words::DnsServer>", length(max = 8))]
    pub resolvers: Vec<String>,
    /// What one server may take for one answer, the way over TCP for one that was too long included. Default 2s. 10ms to 1m.
    #[schemars(extend("x-min" = "10ms", "x-max" = "1m"))]
    pub timeout: Time,
    /// How often all servers are asked before a look-up has failed. Default 2. 1 to 10.
    #[schemars(range(min = 1, max = 10))]
    pub tries: u32,
    /// The least time between two look-ups of a name, whatever its TTL says. Default 5s. 10ms to 1h.
    #[schemars(extend("x-min" = "10ms", "x-max" = "1h"))]
    pub min_ttl: Time,
    /// The longest time an answer is gone by before the name is looked up again. Default 5m. 10ms to 24h.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub max_ttl: Time,
    /// How long the last answer is gone by beyond its time while look-ups fail. Default: for as long as they do. 10ms to 365d.
    #[schemars(extend("x-min" = "10ms", "x-max" = "365d"))]
    pub stale_max: Option<Time>,
}

impl Default for Dns {
    fn default() -> Dns {
        Dns {
            resolvers: Vec::new(),
            timeout: Time::from_secs(2),
            tries: 2,
            min_ttl: Time::from_secs(5),
            max_ttl: Time::from_secs(300),
            stale_max: None,
        }
    }
}

/// Endpoints by a name of DNS, beside those that are written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamDns {
    /// The name that is looked up: `orders.internal`, or for SRV `_http._tcp.orders.internal`. A dot at its end keeps `search` of `/etc/resolv.conf` away from it.
    #[schemars(with = "words::DnsName")]
    pub name: String,
    /// What is asked for: `any` (default: IPv4 and IPv6 addresses), `a`, `aaaa`, or `srv`.
    #[serde(default, rename = "type")]
    pub kind: RecordKind,
    /// Port of every address. Must be written, but for `srv`, whose records say it. 1 to 65535.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A and AAAA.
    #[default]
    Any,
    A,
    Aaaa,
    Srv,
}

impl RecordKind {
    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Any => "any",
            RecordKind::A => "a",
            RecordKind::Aaaa => "aaaa",
            RecordKind::Srv => "srv",
        }
    }
}
