//! What a route does besides passing on, as the operator writes it: the tables of the policies in [`crate::filter`].
//! Part of the [`super::model`], and by its rules: every field documents meaning, unit, range and default.

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::Time;
use super::words;

/// Cross-origin requests of browsers (the CORS protocol of the Fetch standard).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Who may read answers: `https://app.example.com`, `https://*.example.com` (one label or more), `{ regex = "..." }`, `null`, or `*` alone for everybody. At least one, at most 1000.
    #[schemars(length(min = 1))]
    pub origins: Vec<CorsOrigin>,
    /// Methods a preflight is told of. Default: the one it asks for, as the route takes it. `*` is any.
    #[serde(default)]
    #[schemars(with = "Vec<words::Method>")]
    pub methods: Vec<String>,
    /// Request fields a preflight is told of; `*` is any but `Authorization`. Default: none but those no preflight is made for.
    #[serde(default)]
    #[schemars(with = "Vec<words::Token>")]
    pub headers: Vec<String>,
    /// Response fields scripts may read; `*` is any. Default: none but those they may always read.
    #[serde(default)]
    #[schemars(with = "Vec<words::Token>")]
    pub expose: Vec<String>,
    /// Whether requests may carry cookies and the like. Default false. With it no `*` may be written.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember a preflight. Default 10m, at most 24h; `0s`: not at all.
    #[serde(default = "ten_minutes")]
    #[schemars(extend("x-max" = "24h"))]
    pub max_age: Time,
    /// Whether pages from public addresses may come here when this gateway's address is private. Default false.
    #[serde(default)]
    pub private_network: bool,
}

fn ten_minutes() -> Time {
    Time::from_secs(600)
}

/// Who may read answers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum CorsOrigin {
    /// An origin, `https://*.example.com`, `null` or `*`.
    Plain(#[schemars(with = "words::CorsOrigin")] String),
    Pattern(CorsPattern),
}

/// Origins by a regular expression.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct CorsPattern {
    /// Must match the whole origin. At most 1024 bytes; no backreferences and no looking around, so that it takes linear time.
    #[schemars(with = "words::OriginRegex")]
    pub regex: String,
}
