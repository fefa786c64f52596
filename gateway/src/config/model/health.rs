//! Who of an upstream's endpoints is well: checks of our own, and what requests show.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::policies;
use super::super::units::{Percentage, Time};
use super::super::words;

/// Checks of every endpoint, made by the gateway as a whole and not by each worker. One of `http`, `grpc` and `tcp`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Path, perhaps with a query, that is asked for by GET over HTTP/1.1, within TLS where the upstream has `tls`.
    #[schemars(with = "Option<words::RequestTarget>")]
    pub http: Option<String>,
    /// Only open a connection, TLS included. Default false.
    pub tcp: bool,
    /// Call `grpc.health.v1.Health/Check` over HTTP/2, which must answer SERVING. Default false.
    pub grpc: bool,
    /// The service that a check by `grpc` asks about. Default: the server as a whole.
    #[schemars(with = "Option<words::GrpcService>")]
    pub grpc_service: Option<String>,
    /// The `Host` of a check by `http`, or `:authority` by `grpc`. Default: the upstream's `host` if that is a host, else the endpoint's address.
    #[schemars(with = "Option<words::Host>")]
    pub host: Option<String>,
    /// Statuses that pass a check by `http`: `"200"`, `"2xx"`, `"200-399"`. Default `["2xx"]`.
    #[schemars(with = "Vec<words::ExpectedStatuses>", length(min = 1))]
    pub expect: Vec<String>,
    /// Port that is checked. Default: the endpoint's. 1 to 65535.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Between the beginnings of two checks of one endpoint. Default 5s. 100ms to 1h.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h"))]
    pub interval: Time,
    /// By how much of the interval each wait is longer or shorter, drawn anew, so that checks do not come in step. Default 10%.
    pub jitter: Percentage,
    /// What a check as a whole may take. Default 1s. 10ms to 1m.
    #[schemars(extend("x-min" = "10ms", "x-max" = "1m"))]
    pub timeout: Time,
    /// Checks in a row that must fail before an endpoint gets no more requests; while none has passed, the first one decides. Default 3. 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: u32,
    /// Checks in a row that must pass before it gets requests again. Default 2. 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> HealthCheck {
        HealthCheck {
            http: None,
            tcp: false,
            grpc: false,
            grpc_service: None,
            host: None,
            expect: vec!["2xx".to_owned()],
            port: None,
            interval: Time::from_secs(5),
            jitter: Percentage::of_whole(10),
            timeout: Time::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

/// When an endpoint gets no requests for a time because too many failed. Attempts are counted over all workers.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eject {
    /// Attempts in a row that end in a 5xx, or in no answer that can be used. Default 5. 0 to 10000; 0: these are not counted.
    #[schemars(range(max = 10_000))]
    pub consecutive_5xx: u16,
    /// Attempts in a row that end in 502, 503 or 504, or in no answer that can be used. Default 5. 0 to 10000; 0: these are not counted.
    #[schemars(range(max = 10_000))]
    pub consecutive_gateway: u16,
    /// Attempts in a row without an answer that can be used: no connection, hung up, too slow, or no HTTP. Default 5. 0 to 10000; 0: these are not counted.
    #[schemars(range(max = 10_000))]
    pub consecutive_local: u16,
    /// Endpoints whose success rate is far below the mean of all: `true`, or a table. Default: nobody is compared.
    #[serde(deserialize_with = "policies::switch")]
    #[schemars(with = "Option<policies::Switch<EjectSuccessRate>>")]
    pub success_rate: Option<EjectSuccessRate>,
    /// Endpoints that fail too often, whatever the others do: `true`, or a table. Default: nobody is measured.
    #[serde(deserialize_with = "policies::switch")]
    #[schemars(with = "Option<policies::Switch<EjectFailurePercentage>>")]
    pub failure_percentage: Option<EjectFailurePercentage>,
    /// What counts as failed for these two: `5xx` (default) and no answer that can be used, `gateway` (502, 503, 504) and no such answer, or `local`, no such answer alone.
    pub failures: EjectFailures,
    /// Over which time attempts are counted for these two. Default 10s. 100ms to 1h.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h"))]
    pub interval: Time,
    /// For how long, the first time; of late ejected twice, twice as long, and so on. Default 30s. 100ms to 24h.
    #[schemars(extend("x-min" = "100ms", "x-max" = "24h"))]
    pub base: Time,
    /// For how long at most. 100ms to 24h. Default: 5m, or `base` if that is longer.
    #[schemars(extend("x-min" = "100ms", "x-max" = "24h"))]
    pub max: Option<Time>,
    /// Share of the upstream's endpoints that may be ejected at one time; the last usable one never is. Default 50%.
    pub share_max: Percentage,
}

impl Default for Eject {
    fn default() -> Eject {
        Eject {
            consecutive_5xx: 5,
            consecutive_gateway: 5,
            consecutive_local: 5,
            success_rate: None,
            failure_percentage: None,
            failures: EjectFailures::default(),
            interval: Time::from_secs(10),
            base: Time::from_secs(30),
            max: None,
            share_max: Percentage::of_whole(50),
        }
    }
}

/// What counts as a failed attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EjectFailures {
    #[default]
    #[serde(rename = "5xx")]
    Any5xx,
    Gateway,
    Local,
}

/// When an endpoint is too far below the mean of all.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectSuccessRate {
    /// How many standard deviations are too far. Default 1.9. 0.1 to 10.
    #[schemars(range(min = 0.1, max = 10.0))]
    pub factor: f64,
    /// Nobody is ejected who is less than so many points below the mean: of endpoints that all do well one always does worst. Default 5%.
    pub below_min: Percentage,
    /// Endpoints that must have had enough requests to be compared. Default 6: of five none can be 1.9 deviations away from the mean. 2 to 10000.
    #[schemars(range(min = 2, max = 10_000))]
    pub endpoints_min: u16,
    /// Requests in an `interval` that are enough. Default 100. 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_min: u32,
}

impl Default for EjectSuccessRate {
    fn default() -> EjectSuccessRate {
        EjectSuccessRate { factor: 1.9, below_min: Percentage::of_whole(5), endpoints_min: 6, requests_min: 100 }
    }
}

/// When an endpoint fails too often.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectFailurePercentage {
    /// Share of its attempts that must have failed. Default 85%.
    pub threshold: Percentage,
    /// Endpoints that must have had enough requests for one to be ejected. Default 1. 1 to 10000.
    #[schemars(range(min = 1, max = 10_000))]
    pub endpoints_min: u16,
    /// Requests in an `interval` that are enough. Default 50. 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_min: u32,
}

impl Default for EjectFailurePercentage {
    fn default() -> EjectFailurePercentage {
        EjectFailurePercentage { threshold: Percentage::of_whole(85), endpoints_min: 1, requests_min: 50 }
    }
}
