//! When a request is sent again, and how much an upstream is asked at one time. Part of [`super::Upstream`] and
//! [`super::Route`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::units::{Percentage, Size, Time};
use super::super::words;

/// When a request is sent again. Without it: to another endpoint when a connection is refused, and once more when a kept
/// connection turns out to be closed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// What it is sent again for: `connect` (no connection, or not in time), `reset` (the service hung up before its answer), `timeout` (no answer within `per_try` or `timeout.first_byte`), statuses (`503`, `5xx`, `502-504`), statuses of gRPC (`unavailable`), where a call ends with one before any message. Default `connect`, `reset`, `timeout`, `502`, `503`, `504`.
    #[schemars(with = "Vec<words::RetryOn>", length(min = 1))]
    pub on: Vec<String>,
    /// Attempts in all, the first one included. Default 2. 2 to 10.
    #[schemars(range(min = 2, max = 10))]
    pub attempts_max: u32,
    /// What one attempt may take to the first byte of its answer, its connection included; while the client is still sending, its body is not counted. Default: `timeout.connect` and `timeout.first_byte`.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub per_try: Option<Time>,
    /// Repeated attempts for every hundred requests, over all cores. Default 20%.
    pub budget: Percentage,
    /// Repeated attempts a second that the budget does not count, so that a quiet upstream has some. Default 3. 0 to 10000.
    #[schemars(range(max = 10_000))]
    pub budget_min: u32,
    /// Pause before the first repetition; doubled with each, of which a random half to the whole is waited. Default 25ms, at most 1m; `0s`: none.
    #[schemars(extend("x-max" = "1m"))]
    pub back_off: Time,
    /// The longest pause. A service that asks for a longer one by `Retry-After` is not asked again. Default 250ms, at most 1m.
    #[schemars(extend("x-max" = "1m"))]
    pub back_off_max: Time,
    /// Methods of requests that are sent again once a service may have seen them: `idempotent` (default: GET, HEAD, OPTIONS, TRACE, PUT and DELETE), `safe` (the first four), or a list.
    pub methods: RetryMethods,
    /// Bytes of a request body that are kept to be sent again; a request with a longer one is sent once. Default 64KiB. At most 1MiB.
    #[schemars(extend("x-max" = "1MiB"))]
    pub body_bytes: Size,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            on: ["connect", "reset", "timeout", "502", "503", "504"].map(str::to_owned).to_vec(),
            attempts_max: 2,
            per_try: None,
            budget: Percentage::from_whole(20),
            budget_min: 3,
            back_off: Time::from_millis(25),
            back_off_max: Time::from_millis(250),
            methods: RetryMethods::default(),
            body_bytes: Size::from_kib(64),
        }
    }
}

/// Which methods may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum RetryMethods {
    Group(MethodGroup),
    These(#[schemars(with = "Vec<words::Method>", length(min = 1))] Vec<String>),
}

impl Default for RetryMethods {
    fn default() -> RetryMethods {
        RetryMethods::Group(MethodGroup::Idempotent)
    }
}

/// Methods of a kind (RFC 9110 §9.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum MethodGroup {
    Idempotent,
    Safe,
}

/// How much an upstream is asked at one time, over all cores.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamLimits {
    /// Requests it has at one time, upgraded connections included; one more is refused with 503 `upstream_overloaded`. 1 to 1000000. Default: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_max: Option<u32>,
    /// Requests each of its endpoints has at one time; one more goes to another endpoint, and is refused when there is none. 1 to 1000000. Default: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub endpoint_requests_max: Option<u32>,
}
