//! What a route compares and does, as the operator writes it. Part of [`super::Route`].

use std::collections::BTreeMap;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

pub use super::super::units::Percentage;
use super::super::units::{Size, Time};
use super::super::words;
use super::Subset;

/// The hosts of a route: one name, or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(from = "HostsText")]
#[schemars(with = "HostsText")]
pub struct Hosts(Vec<String>);

/// The two ways to write hosts.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum HostsText {
    One(#[schemars(with = "words::HostPattern")] String),
    Many(#[schemars(with = "Vec<words::HostPattern>", length(min = 1))] Vec<String>),
}

impl From<HostsText> for Hosts {
    fn from(text: HostsText) -> Hosts {
        match text {
            HostsText::One(host) => Hosts(vec![host]),
            HostsText::Many(hosts) => Hosts(hosts),
        }
    }
}

impl Hosts {
    /// Every host; none: any.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// What a path is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PathMatch {
    /// `/exact`, `/prefix/**`, `/a/{name}/b`, `/a/{rest=**}`.
    Pattern(#[schemars(with = "words::PathPattern")] String),
    Regex(PathExpression),
}

/// A regular expression for the whole path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct PathExpression {
    /// Compared with the whole canonical path, in time linear in its length. `(?<name>...)` captures.
    #[schemars(with = "words::PathRegex")]
    pub regex: String,
}

impl PathMatch {
    /// As it is written.
    pub fn text(&self) -> &str {
        match self {
            PathMatch::Pattern(text) => text,
            PathMatch::Regex(expression) => &expression.regex,
        }
    }
}

/// Conditions beside host, path and method. All of them must hold; a request for which one does not goes to the next less specific route.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Header fields by name, in any case. Several lines of one name are compared joined by `, `.
    #[schemars(extend("propertyNames" = { "format": "token" }))]
    pub headers: BTreeMap<String, ValueTest>,
    /// Query parameters by name, decoded. The first of a name counts.
    pub query: BTreeMap<String, ValueTest>,
    /// Cookies by name. The first of a name counts.
    #[schemars(extend("propertyNames" = { "format": "token" }))]
    pub cookies: BTreeMap<String, ValueTest>,
    /// Networks of which one must hold the client's address, as the listener's `client_address` decides it.
    #[schemars(with = "Vec<words::Cidr>")]
    pub client: Vec<ipnet::IpNet>,
    /// `http` or `https`: how the client spoke to this gateway.
    pub scheme: Option<Scheme>,
    /// Names of which one must be what the client asked for when it began TLS (SNI), which need not be the host of the request.
    #[schemars(with = "Vec<words::HostPattern>")]
    pub sni: Vec<String>,
    /// Share of the requests for which all else holds, drawn by lot: `"12.5%"`.
    pub percentage: Option<Percentage>,
}

/// What a value must be: this very text, or all that the table says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(from = "ValueTestText")]
#[schemars(with = "ValueTestText")]
pub struct ValueTest {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    pub suffix: Option<String>,
    pub contains: Option<String>,
    pub regex: Option<String>,
    pub present: Option<bool>,
    pub min: Option<i64>,
    pub max: Option<i64>,
}

/// The two ways to write a test.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum ValueTestText {
    /// This very text.
    Exact(String),
    Table(ValueTestTable),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct ValueTestTable {
    /// This very text.
    #[serde(default)]
    exact: Option<String>,
    /// What it begins with.
    #[serde(default)]
    prefix: Option<String>,
    /// What it ends with.
    #[serde(default)]
    suffix: Option<String>,
    /// What is somewhere in it.
    #[serde(default)]
    contains: Option<String>,
    /// What all of it matches, in time linear in its length.
    #[serde(default)]
    #[schemars(with = "Option<words::Regex>")]
    regex: Option<String>,
    /// `true`: it must be there, whatever it is. `false`: it must not be there.
    #[serde(default)]
    present: Option<bool>,
    /// The smallest it may be, as a whole number.
    #[serde(default)]
    min: Option<i64>,
    /// The largest it may be, as a whole number.
    #[serde(default)]
    max: Option<i64>,
}

impl From<ValueTestText> for ValueTest {
    fn from(text: ValueTestText) -> ValueTest {
        match text {
            ValueTestText::Exact(exact) => ValueTest { exact: Some(exact), ..ValueTest::default() },
            ValueTestText::Table(table) => {
                let ValueTestTable { exact, prefix, suffix, contains, regex, present, min, max } = table;
                ValueTest { exact, prefix, suffix, contains, regex, present, min, max }
            }
        }
    }
}

/// Requests divided among upstreams by weight.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Where requests go. At least one with a weight above 0.
    #[schemars(length(min = 1))]
    pub targets: Vec<SplitTarget>,
    /// What keeps a client with one target: `client` (its address), `header:name` or `cookie:name`. Default: nothing, every request is drawn anew. A request without it is drawn.
    #[serde(default)]
    #[schemars(with = "Option<words::SplitBy>")]
    pub by: Option<SplitBy>,
}

/// One of the upstreams of a split.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitTarget {
    /// Name of the upstream.
    #[schemars(with = "words::Name")]
    pub upstream: String,
    /// Its share of the requests beside the other targets'. Default 1. 0 to 1000000; 0 sends it nothing.
    #[serde(default = "super::endpoint::one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
    /// Which of its endpoints: those that have all of these tags. Default: all of them.
    #[serde(default)]
    pub subset: Option<Subset>,
}

/// What keeps a client with one target of a split.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SplitBy {
    Client,
    Header(String),
    Cookie(String),
}

impl FromStr for SplitBy {
    type Err = ();

    fn from_str(text: &str) -> Result<SplitBy, ()> {
        match text.split_once(':') {
            None if text == "client" => Ok(SplitBy::Client),
            Some(("header", name)) if words::is_token(name) => Ok(SplitBy::Header(name.to_owned())),
            Some(("cookie", name)) if words::is_token(name) => Ok(SplitBy::Cookie(name.to_owned())),
            _ => Err(()),
        }
    }
}

impl TryFrom<String> for SplitBy {
    type Error = &'static str;

    fn try_from(text: String) -> Result<SplitBy, &'static str> {
        text.parse().map_err(|()| "not something to split by")
    }
}

/// An answer that sends the client elsewhere. What is not written stays as the client asked for it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// 301, 302, 303, 307 (default) or 308.
    pub status: RedirectStatus,
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// Host, perhaps with a port. With `scheme` alone a port the client gave is left out.
    #[schemars(with = "Option<words::Host>")]
    pub host: Option<String>,
    /// The whole path, with request variables: `"/v2/${path.book}"`.
    #[schemars(with = "Option<words::PathTemplate>")]
    pub path: Option<String>,
    /// What replaces the part of the path before the pattern's `/**`.
    #[schemars(with = "Option<words::PathPrefix>")]
    pub prefix: Option<String>,
    /// Whether the query goes along: `keep` (default) or `drop`.
    pub query: KeepQuery,
}

/// Whether the query of a redirected request goes along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepQuery {
    #[default]
    Keep,
    Drop,
}

/// Scheme of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn text(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Status of a redirect (RFC 9110 §15.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RedirectStatus(#[schemars(range(min = 301, max = 308))] pub u16);

impl Default for RedirectStatus {
    /// Keeps the method, and no browser remembers it for ever.
    fn default() -> RedirectStatus {
        RedirectStatus(307)
    }
}

/// A fixed answer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599. Default 200.
    #[serde(default = "ok")]
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The body as it stands. Default: none.
    #[serde(default)]
    pub body: String,
    /// What the body is. Default `text/plain; charset=utf-8`.
    #[serde(default)]
    #[schemars(with = "Option<words::MediaType>")]
    pub content_type: Option<String>,
}

fn ok() -> u16 {
    200
}

/// What the upstream is asked instead of what the client asked for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// The whole path, with request variables: `"/v2/${path.book}"`. What they hold stays within its segment, but for captures. The query stays.
    #[schemars(with = "Option<words::PathTemplate>")]
    pub path: Option<String>,
    /// What replaces the part of the path before the pattern's `/**`.
    #[schemars(with = "Option<words::PathPrefix>")]
    pub prefix: Option<String>,
    /// The `Host` it sees, with request variables: `"${path.tenant}.internal"`. Goes before the upstream's `host`.
    #[schemars(with = "Option<words::HostTemplate>")]
    pub host: Option<String>,
}

/// Waits of one route, instead of its upstream's. All 10ms to 24h.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeout {
    /// From the whole request sent to the first byte of the answer.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub first_byte: Option<Time>,
    /// Between two pieces of the answer, and for the service to take a piece of the request.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub idle: Option<Time>,
    /// The exchange as a whole, bodies included.
    #[schemars(extend("x-min" = "10ms", "x-max" = "24h"))]
    pub total: Option<Time>,
}

/// A service that is down on purpose: 503 for everybody but those who look after it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Maintenance {
    /// When clients may come again, as `Retry-After` says it. Default 5m.
    #[schemars(extend("x-max" = "30d"))]
    pub retry_after: Time,
    /// The body as it stands. Default: problem+json with the code `maintenance`.
    pub body: Option<String>,
    /// What the body is. Default `text/plain; charset=utf-8`.
    #[schemars(with = "Option<words::MediaType>")]
    pub content_type: Option<String>,
    /// Networks whose clients are let through, by the listener's `client_address`. Default: none.
    #[schemars(with = "Vec<words::Cidr>")]
    pub except: Vec<ipnet::IpNet>,
}

impl Default for Maintenance {
    fn default() -> Maintenance {
        Maintenance { retry_after: Time::from_secs(300), body: None, content_type: None, except: Vec::new() }
    }
}

/// Failures on purpose, to see what clients make of them. Drawn from the request's id.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// How long a request waits before it goes on. 1ms to 1m. Default: it does not.
    #[schemars(extend("x-min" = "1ms", "x-max" = "1m"))]
    pub delay: Option<Time>,
    /// Share of the requests that wait. Default 100%.
    pub delay_percentage: Percentage,
    /// Status of the answer that takes the service's place. 400 to 599. Default: none.
    #[schemars(range(min = 400, max = 599))]
    pub abort: Option<u16>,
    /// Share of the requests that get it. Default 100%.
    pub abort_percentage: Percentage,
}

impl Default for Fault {
    fn default() -> Fault {
        Fault { delay: None, delay_percentage: Percentage::WHOLE, abort: None, abort_percentage: Percentage::WHOLE }
    }
}

/// A copy of requests to another upstream, whose answers nobody sees.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Name of the upstream.
    #[schemars(with = "words::Name")]
    pub upstream: String,
    /// Which of its endpoints: those that have all of these tags. Default: all of them.
    #[serde(default)]
    pub subset: Option<Subset>,
    /// Share of the requests that are copied. Default 100%.
    #[serde(default = "whole")]
    pub percentage: Percentage,
    /// Bytes of a request body that are copied; a request with a longer one is not. Default 64KiB. At most 1MiB.
    #[serde(default = "mirror_body_bytes")]
    #[schemars(extend("x-max" = "1MiB"))]
    pub body_bytes: Size,
}

fn whole() -> Percentage {
    Percentage::WHOLE
}

fn mirror_body_bytes() -> Size {
    Size::from_kib(64)
}

/// What errors look like: a body in place of problem+json.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorPage {
    /// Statuses it is for: `"404"`, `"5xx"`, `"400-499"`. At least one.
    #[schemars(with = "Vec<words::Statuses>", length(min = 1))]
    pub status: Vec<String>,
    /// What the body is. A client gets the page whose media type it prefers (RFC 9110 §12.5.1), and problem+json if it prefers that.
    #[schemars(with = "words::MediaType")]
    pub content_type: String,
    /// The body; `${status}`, `${reason}`, `${code}`, `${detail}` and `${request_id}` are replaced, escaped as the media type asks.
    #[schemars(with = "words::ErrorBody")]
    pub body: String,
    /// Whether it also takes the place of the upstream's own answers with such a status. Default false.
    #[serde(default)]
    pub upstream: bool,
}
