//! What a route does besides passing on, as the operator writes it: the tables of the policies in [`crate::filter`].
//! Part of the [`super::model`], and by its rules: every field documents meaning, unit, range and default.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::units::{Size, Time};
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
    #[schemars(with = "words::Regex")]
    pub regex: String,
}

/// A policy that `true` turns on with its defaults, and that a table sets otherwise.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Switch<T> {
    /// `true`: with its defaults. `false`: off.
    Plain(bool),
    Table(T),
}

/// The table a switch stands for.
pub(super) fn switch<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<Option<T>, D::Error> {
    Ok(match Switch::deserialize(from)? {
        Switch::Plain(false) => None,
        Switch::Plain(true) => Some(T::default()),
        Switch::Table(table) => Some(table),
    })
}

/// Answers in the content coding the client would have (RFC 9110 §12.5.3).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compression {
    /// Codings offered; of those the client likes best, the first here. `zstd`, `br` and `gzip` by default.
    #[schemars(length(min = 1))]
    pub algorithms: Vec<Algorithm>,
    /// Media types to compress: `application/json`, `text/*`, `+json` for every type that ends so. `text/event-stream` and gRPC only where they are written out. By default text, JSON, XML, JavaScript and WebAssembly.
    #[schemars(length(min = 1), with = "Vec<words::MediaRange>")]
    pub types: Vec<String>,
    /// Answers of fewer bytes go as they are, as far as their length is known. Default 1KiB, at most 1MiB.
    #[schemars(extend("x-max" = "1MiB"))]
    pub bytes_min: Size,
    /// How much time to spend on it: `fast`, `balanced` (default) or `small`.
    pub level: CompressionLevel,
}

impl Default for Compression {
    fn default() -> Compression {
        let types = ["text/*", "application/json", "application/javascript", "application/xml", "application/wasm"];
        let more = ["application/x-ndjson", "+json", "+xml"];
        Compression {
            algorithms: vec![Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip],
            types: types.iter().chain(&more).map(|&kind| kind.to_owned()).collect(),
            bytes_min: Size::from_kib(1),
            level: CompressionLevel::default(),
        }
    }
}

/// A content coding answers can be sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    Zstd,
    Br,
    Gzip,
}

/// How much time a piece of an answer may take to compress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompressionLevel {
    Fast,
    #[default]
    Balanced,
    Small,
}

/// Fields by which a service tells browsers to be careful.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityHeaders {
    /// `Strict-Transport-Security`, to clients that came by https only. Default `max-age=31536000`; `off` leaves it out.
    #[schemars(with = "words::TransportSecurity")]
    pub strict_transport_security: String,
    /// `X-Content-Type-Options: nosniff`. Default true.
    pub content_type_options: bool,
    /// Who may show a page in a frame, as `X-Frame-Options` and as `frame-ancestors` of the `Content-Security-Policy`: `deny` (default, nobody), `same_origin` (pages of its own origin) or `off` (nothing is said).
    pub frame: Frame,
    /// `Content-Security-Policy`; `frame` adds its part where it has none. Default: what `frame` says alone.
    #[schemars(with = "Option<words::FieldText>")]
    pub content_security_policy: Option<String>,
    /// `Referrer-Policy`. Default `strict-origin-when-cross-origin`; `off` leaves it out.
    #[schemars(with = "words::ReferrerPolicy")]
    pub referrer_policy: String,
    /// `Cross-Origin-Opener-Policy`: `same-origin`, `same-origin-allow-popups`, `noopener-allow-popups` or `unsafe-none`. Default: not sent.
    pub cross_origin_opener_policy: Option<OpenerPolicy>,
    /// `Cross-Origin-Resource-Policy`: `same-origin`, `same-site` or `cross-origin`. Default: not sent.
    pub cross_origin_resource_policy: Option<ResourcePolicy>,
    /// `Permissions-Policy`. Default: not sent.
    #[schemars(with = "Option<words::FieldText>")]
    pub permissions_policy: Option<String>,
    /// Whether what the service says itself is replaced. Default false.
    #[serde(rename = "override")]
    pub overrides: bool,
}

impl Default for SecurityHeaders {
    fn default() -> SecurityHeaders {
        SecurityHeaders {
            strict_transport_security: "max-age=31536000".to_owned(),
            content_type_options: true,
            frame: Frame::default(),
            content_security_policy: None,
            referrer_policy: "strict-origin-when-cross-origin".to_owned(),
            cross_origin_opener_policy: None,
            cross_origin_resource_policy: None,
            permissions_policy: None,
            overrides: false,
        }
    }
}

/// Who may show a page in a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    #[default]
    Deny,
    SameOrigin,
    Off,
}

/// Whether a page shares its window with those that opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OpenerPolicy {
    SameOrigin,
    SameOriginAllowPopups,
    NoopenerAllowPopups,
    UnsafeNone,
}

impl OpenerPolicy {
    pub fn name(self) -> &'static str {
        match self {
            OpenerPolicy::SameOrigin => "same-origin",
            OpenerPolicy::SameOriginAllowPopups => "same-origin-allow-popups",
            OpenerPolicy::NoopenerAllowPopups => "noopener-allow-popups",
            OpenerPolicy::UnsafeNone => "unsafe-none",
        }
    }
}

/// Whose pages may embed an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResourcePolicy {
    SameOrigin,
    SameSite,
    CrossOrigin,
}

impl ResourcePolicy {
    pub fn name(self) -> &'static str {
        match self {
            ResourcePolicy::SameOrigin => "same-origin",
            ResourcePolicy::SameSite => "same-site",
            ResourcePolicy::CrossOrigin => "cross-origin",
        }
    }
}
