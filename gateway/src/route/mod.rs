//! Finds the route of a request. Compiled once a snapshot; a lookup allocates nothing, but for hosts with regular expressions.
//!
//! Among all routes that take a request the most specific one wins. In this order (Gateway API, HTTPRoute rules, with what
//! that leaves open decided):
//!
//! 1. the higher `priority`, when somebody wrote one;
//! 2. the exact host, then `*.suffix` with the longer suffix first, then any host;
//! 3. the path, see [`PathPattern::precedence`];
//! 4. a route that names the method before one for all;
//! 5. more conditions: headers, then query, cookies, client, percentage;
//! 6. the name, by the alphabet: a tie, which `check` reports.
//!
//! | module | what it holds |
//! |---|---|
//! | [`action`] | what a route does with a request |
//! | [`pattern`] | what a `path` takes |
//! | [`condition`] | what `when` asks for |
//! | [`table`] | all routes, compiled for finding |
//! | [`overlap`] | routes that tie, and routes that can never match |
//! | [`explain`] | why a request got its route: the same answer, from asking every route by itself |

pub mod action;
pub mod condition;
pub mod explain;
pub mod overlap;
pub mod pattern;
mod table;
#[cfg(test)]
mod tests;

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http1::Method;

use self::condition::{Unmet, When};
use self::pattern::PathPattern;
use self::table::Table;
use crate::config::model;
use crate::filter;
use crate::proxy::fields::Fields;
use crate::proxy::head::RequestHead;
use crate::snapshot::Route;

/// What a lookup found.
pub enum Found<'a> {
    Route(&'a Route),
    /// Routes take this host and path, but not with this method. The methods that would do, as `Allow` lists them.
    MethodNotAllowed(String),
    Nothing,
}

/// What a request says of itself, as far as routes ask.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// `name` or `name:port`, any case
    pub host: &'a [u8],
    /// canonical
    pub path: &'a [u8],
    /// without its `?`
    pub query: Option<&'a [u8]>,
    pub method: Method,
    pub method_text: &'a [u8],
    pub fields: &'a Fields,
    pub came: Came<'a>,
    /// 0 to 999,999, drawn once an exchange: what `percentage` is compared with.
    pub lot: u32,
}

/// How a request came here.
#[derive(Debug, Clone, Copy)]
pub struct Came<'a> {
    pub client: IpAddr,
    /// `http` or `https`
    pub scheme: &'static str,
    /// What TLS was begun for, lower case.
    pub server_name: Option<&'a str>,
}

/// What a route takes.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// Name of the route.
    pub name: Box<str>,
    pub priority: i32,
    /// At least one.
    pub hosts: Vec<HostPattern>,
    pub path: Arc<PathPattern>,
    pub methods: Methods,
    pub when: When,
}

/// What a request's host is compared with. In lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Box<str>),
    /// `.example.com`: one label or more before it.
    Suffix(Box<str>),
    Any,
}

/// Methods a route takes. Without a name it is all of them.
#[derive(Debug, Clone, Default)]
pub struct Methods(Vec<Box<str>>);

/// Why a route does not take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    Host,
    Path,
    Method,
    When(Unmet),
}

/// All routes.
#[derive(Default)]
pub struct RouteTable {
    /// by falling priority
    tables: Vec<Table>,
    /// of the route with the same index
    matchers: Vec<Matcher>,
    routes: Vec<Route>,
    /// Some route asks for a share of the requests.
    draws: bool,
}

impl Methods {
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Methods {
        Methods(names.into_iter().map(Box::from).collect())
    }

    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|name| name.as_bytes())
    }

    /// Whether this very method is taken.
    pub fn take(&self, text: &[u8]) -> bool {
        self.is_all() || self.names().any(|name| name == text)
    }

    /// Whether both take some method.
    pub fn overlap(&self, other: &Methods) -> bool {
        self.is_all() || other.is_all() || self.names().any(|name| other.take(name))
    }

    fn covers(&self, other: &Methods) -> bool {
        self.is_all() || (!other.is_all() && other.names().all(|name| self.take(name)))
    }
}

impl HostPattern {
    /// The hosts of a checked route.
    pub fn of(route: &model::Route) -> Vec<HostPattern> {
        let mut hosts: Vec<HostPattern> = route.host.names().map(HostPattern::named).collect();
        if hosts.is_empty() {
            hosts.push(HostPattern::Any);
        }
        hosts
    }

    /// A checked name: `api.example.com` or `*.example.com`.
    pub fn named(name: &str) -> HostPattern {
        match name.strip_prefix('*') {
            Some(suffix) => HostPattern::Suffix(suffix.to_ascii_lowercase().into()),
            None => HostPattern::Exact(name.to_ascii_lowercase().into()),
        }
    }

    /// `host` is in lower case, without port and final dot.
    pub fn takes(&self, host: &[u8]) -> bool {
        match self {
            HostPattern::Exact(name) => name.as_bytes() == host,
            HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_bytes()),
            HostPattern::Any => true,
        }
    }

    /// The more specific one is less.
    pub fn precedence(&self, other: &HostPattern) -> Ordering {
        let rank = |host: &HostPattern| match host {
            HostPattern::Exact(_) => (0, 0),
            HostPattern::Suffix(suffix) => (1, usize::MAX - suffix.len()),
            HostPattern::Any => (2, 0),
        };
        rank(self).cmp(&rank(other))
    }

    fn covers(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (HostPattern::Any, _) => true,
            (HostPattern::Suffix(suffix), HostPattern::Suffix(longer)) => longer.ends_with(&**suffix),
            (_, HostPattern::Exact(name)) => self.takes(name.as_bytes()),
            _ => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Suffix(suffix) => write!(f, "*{suffix}"),
            HostPattern::Any => f.write_str("any host"),
        }
    }
}

impl Matcher {
    /// What a checked route takes.
    pub fn of(route: &model::Route) -> Matcher {
        let path = match &route.path {
            model::PathMatch::Pattern(text) => PathPattern::parse(text),
            model::PathMatch::Regex(expression) => PathPattern::regex(&expression.regex),
        };
        Matcher {
            name: route.name().into(),
            priority: route.priority,
            hosts: HostPattern::of(route),
            path: Arc::new(path.expect("config::load checked the path")),
            methods: Methods::new(route.methods.iter().map(String::as_str)),
            when: When::of(&route.when),
        }
    }

    /// Every reason why this does not take `asked`; empty: it does.
    pub fn misses(&self, asked: &Asked<'_>) -> Vec<Miss> {
        let mut lowered = [0u8; HOST_BYTES_MAX];
        let host = host_name(asked.host, &mut lowered);
        let mut misses = Vec::new();
        if !self.hosts.iter().any(|pattern| pattern.takes(host)) {
            misses.push(Miss::Host);
        }
        if !self.path.takes(asked.path) {
            misses.push(Miss::Path);
        }
        let by_get = asked.method == Method::Head && self.methods.take(b"GET");
        if !self.methods.take(asked.method_text) && !by_get {
            misses.push(Miss::Method);
        }
        misses.extend(self.when.first_unmet(asked).map(Miss::When));
        misses
    }

    /// How well the method is named: itself, by GET, not at all.
    fn method_rank(&self, asked: &Asked<'_>) -> u8 {
        match (self.methods.is_all(), self.methods.take(asked.method_text)) {
            (true, _) => 2,
            (false, true) => 0,
            (false, false) => 1,
        }
    }

    /// The most specific of its hosts that takes `host`.
    fn best_host(&self, host: &[u8]) -> Option<&HostPattern> {
        self.hosts.iter().filter(|pattern| pattern.takes(host)).min_by(|one, other| one.precedence(other))
    }

    /// The order in which two routes that both could take a request are tried, apart from their hosts; and, at the end,
    /// whatever makes it one order.
    fn precedence(&self, other: &Matcher) -> Ordering {
        let named = |matcher: &Matcher| matcher.methods.is_all();
        self.path
            .precedence(&other.path)
            .then_with(|| named(self).cmp(&named(other)))
            .then_with(|| other.when.rank().cmp(&self.when.rank()))
            .then_with(|| self.name.cmp(&other.name))
    }
}

/// Longest host a name can have, and so the most that is lowered on the stack.
pub const HOST_BYTES_MAX: usize = http1::target::HOST_BYTES_MAX;

impl RouteTable {
    /// Compiles routes, each with what it takes.
    pub fn new(routes: Vec<(Matcher, Route)>) -> RouteTable {
        let (matchers, routes): (Vec<Matcher>, Vec<Route>) = routes.into_iter().unzip();
        let mut order: Vec<u32> = (0..matchers.len() as u32).collect();
        order.sort_by_key(|&route| Reverse(matchers[route as usize].priority));
        let tables = order
            .chunk_by(|&one, &other| matchers[one as usize].priority == matchers[other as usize].priority)
            .map(|members| Table::build(&matchers, members))
            .collect();
        let draws = matchers.iter().any(|matcher| matcher.when.share.is_some());
        RouteTable { tables, matchers, routes, draws }
    }

    /// Every route, to be edited before the table is shared.
    pub fn routes_mut(&mut self) -> impl Iterator<Item = &mut Route> {
        self.routes.iter_mut()
    }

    /// Every route with what it takes.
    pub fn iter(&self) -> impl Iterator<Item = (&Matcher, &Route)> {
        self.matchers.iter().zip(&self.routes)
    }

    /// Whether a lookup looks at [`Asked::lot`].
    pub fn draws(&self) -> bool {
        self.draws
    }

    /// What a request head asks of the routes, and whether it is a preflight (Fetch §3.3.2) that its route answers: such a one
    /// is for the route of the request it asks about. `lot`: see [`Asked::lot`].
    pub fn asked<'h>(&self, head: &'h RequestHead, came: Came<'h>, lot: u32) -> (Asked<'h>, bool) {
        let asked = Asked { lot, ..head.asked(came) };
        if asked.method == Method::Options
            && let Some(text) = filter::cors::asked_method(head)
        {
            let about = Asked { method: Method::of(text), method_text: text, ..asked };
            if let Found::Route(route) = self.find(&about)
                && route.chain.answers_preflights()
            {
                return (about, true);
            }
        }
        (asked, false)
    }

    /// Finds the route of a request head, and the path as that route's policy reads it (`None`: it stays). A fault: the
    /// policy refuses the path.
    ///
    /// The route is found by the path with everything ambiguous kept. What its policy makes of the path must lead back to
    /// it, or a decoded slash would pass one route's rules and reach what another one guards.
    pub fn decide(&self, head: &RequestHead, asked: &Asked<'_>) -> Result<(Found<'_>, Option<Vec<u8>>), http1::Fault> {
        let found = self.find(asked);
        let Found::Route(route) = found else { return Ok((found, None)) };
        if !head.path_traits().any() {
            return Ok((found, None));
        }
        let mut decoded = Vec::new();
        match http1::canonical_path(head.received_path(), &route.path_policy, &mut decoded)? {
            http1::Canonical::Rewritten(_) if decoded != head.path() => {}
            _ => return Ok((found, None)),
        }
        match self.find(&Asked { path: &decoded, ..*asked }) {
            Found::Route(same) if std::ptr::eq(same, route) => Ok((found, Some(decoded))),
            _ => Err(http1::Fault::PathEncodedSlash),
        }
    }

    /// Finds the route of a request.
    pub fn find(&self, asked: &Asked<'_>) -> Found<'_> {
        match self.index(asked) {
            Ok(route) => Found::Route(&self.routes[route as usize]),
            Err(refused) if refused.is_empty() => Found::Nothing,
            Err(refused) => {
                Found::MethodNotAllowed(allow(refused.iter().map(|&route| &self.matchers[route as usize].methods)))
            }
        }
    }

    /// Finds the index of the route; or else those that would take the request with another method.
    fn index(&self, asked: &Asked<'_>) -> Result<u32, Vec<u32>> {
        let mut lowered = [0u8; HOST_BYTES_MAX];
        let host = host_name(asked.host, &mut lowered);
        let mut refused = Vec::new();
        let found = self.tables.iter().find_map(|table| table.find(&self.matchers, host, asked, &mut refused));
        found.ok_or(refused)
    }
}

/// The value of `Allow` for routes of which none takes the method.
fn allow<'a>(methods: impl Iterator<Item = &'a Methods>) -> String {
    let mut names: Vec<&[u8]> = methods.flat_map(Methods::names).collect();
    if names.contains(&&b"GET"[..]) {
        names.push(b"HEAD");
    }
    names.sort_unstable();
    names.dedup();
    let names: Vec<String> = names.into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.join(", ")
}

/// The host without port and trailing dot, in lower case.
pub fn host_name<'a>(host: &[u8], lowered: &'a mut [u8; HOST_BYTES_MAX]) -> &'a [u8] {
    let name = http1::host_parts(host).map_or(&b""[..], |(name, _)| name);
    let name = name.strip_suffix(b".").unwrap_or(name);
    match lowered.get_mut(..name.len()) {
        Some(space) => {
            space.copy_from_slice(name);
            space.make_ascii_lowercase();
            space
        }
        None => b"",
    }
}
