//! Finds the route of a request. Compiled once a snapshot; a lookup allocates nothing.
//!
//! Among all routes that take the request the most specific one wins: exact host, then `*.suffix` with the longer suffix
//! first, then any host; within a host the exact path, then the longest prefix by whole segments.

use std::collections::HashMap;

use http1::Method;

use crate::snapshot::Route;

/// What a lookup found.
pub enum Found<'a> {
    Route(&'a Route),
    /// A route takes this host and path, but not with this method. The methods that would do, as `Allow` lists them.
    MethodNotAllowed(String),
    Nothing,
}

/// All routes.
#[derive(Default)]
pub struct RouteTable {
    routes: Vec<Entry>,
    exact_hosts: HashMap<Box<[u8]>, Paths>,
    /// keyed by `.suffix`
    suffixes: HashMap<Box<[u8]>, Paths>,
    any_host: Paths,
}

struct Entry {
    methods: Methods,
    route: Route,
}

/// Paths of one host. Values are indices of routes that differ by method.
#[derive(Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Vec<u32>>,
    /// keyed by the path without `/**`; the root is the empty key
    prefixes: HashMap<Box<[u8]>, Vec<u32>>,
}

/// Methods a route takes; an empty list is all of them.
struct Methods(Vec<Box<[u8]>>);

impl Methods {
    /// A route that takes GET takes HEAD: the answer is the same without its body (RFC 9110 §9.3.2).
    fn take(&self, method: Method, text: &[u8]) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|taken| &**taken == text)
            || (method == Method::Head && self.0.iter().any(|taken| &**taken == b"GET"))
    }
}

/// Longest host a name can have, and so the most that is lowered on the stack.
const HOST_BYTES_MAX: usize = http1::target::HOST_BYTES_MAX;

impl RouteTable {
    /// Adds a route. `path` is `/exact` or `/prefix/**`; `host` is a name, `*.suffix` or nothing. All were checked.
    pub fn insert(&mut self, host: Option<&str>, path: &str, methods: &[String], route: Route) {
        let paths = match host.map(str::to_ascii_lowercase) {
            None => &mut self.any_host,
            Some(host) => match host.strip_prefix('*') {
                Some(suffix) => self.suffixes.entry(suffix.as_bytes().into()).or_default(),
                None => self.exact_hosts.entry(host.as_bytes().into()).or_default(),
            },
        };
        let index = self.routes.len() as u32;
        match path.strip_suffix("/**") {
            Some(prefix) => paths.prefixes.entry(prefix.as_bytes().into()).or_default().push(index),
            None => paths.exact.entry(path.as_bytes().into()).or_default().push(index),
        }
        let methods = Methods(methods.iter().map(|method| method.as_bytes().into()).collect());
        self.routes.push(Entry { methods, route });
    }

    /// Every route, to be edited before the table is shared.
    pub fn routes_mut(&mut self) -> impl Iterator<Item = &mut Route> {
        self.routes.iter_mut().map(|entry| &mut entry.route)
    }

    /// Finds the route for `host` (name or `name:port`, any case), a canonical `path` and a method.
    pub fn find(&self, host: &[u8], path: &[u8], method: Method, method_text: &[u8]) -> Found<'_> {
        let mut lowered = [0u8; HOST_BYTES_MAX];
        let host = host_name(host, &mut lowered);
        let exact = (!self.exact_hosts.is_empty()).then(|| self.exact_hosts.get(host)).flatten();
        let suffixes = host.iter().enumerate().filter(|&(_, &byte)| byte == b'.' && !self.suffixes.is_empty());
        let tables = exact
            .into_iter()
            .chain(suffixes.filter_map(|(dot, _)| self.suffixes.get(&host[dot..])))
            .chain([&self.any_host]);
        let mut refused: Option<&[u32]> = None;
        for paths in tables {
            for candidates in paths.candidates(path) {
                let entries = candidates.iter().map(|&index| &self.routes[index as usize]);
                // A route for this very method is more specific than one for all.
                let mut taking = entries.filter(|entry| entry.methods.take(method, method_text));
                if let Some(first) = taking.next() {
                    let best = match first.methods.0.is_empty() {
                        true => taking.find(|entry| !entry.methods.0.is_empty()).unwrap_or(first),
                        false => first,
                    };
                    return Found::Route(&best.route);
                }
                refused.get_or_insert(candidates);
            }
        }
        match refused {
            Some(candidates) => Found::MethodNotAllowed(self.allow(candidates)),
            None => Found::Nothing,
        }
    }

    fn allow(&self, candidates: &[u32]) -> String {
        let mut methods: Vec<String> = candidates
            .iter()
            .flat_map(|&index| &self.routes[index as usize].methods.0)
            .map(|method| String::from_utf8_lossy(method).into_owned())
            .collect();
        if methods.iter().any(|method| method == "GET") {
            methods.push("HEAD".to_owned());
        }
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }
}

impl Paths {
    /// Routes for `path`, most specific first.
    fn candidates<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a Vec<u32>> {
        let exact = (!self.exact.is_empty()).then(|| self.exact.get(path)).flatten();
        let mut end = (!self.prefixes.is_empty()).then_some(path.len());
        let prefixes = std::iter::from_fn(move || {
            while let Some(len) = end {
                let prefix = &path[..len];
                end = memchr::memrchr(b'/', prefix);
                // `/a/` is not the prefix `/a`, it lies below it; the cut at its last slash finds that.
                if !prefix.ends_with(b"/")
                    && let Some(found) = self.prefixes.get(prefix)
                {
                    return Some(found);
                }
            }
            None
        });
        exact.into_iter().chain(prefixes)
    }
}

/// The host without port and trailing dot, in lower case.
fn host_name<'a>(host: &[u8], lowered: &'a mut [u8; HOST_BYTES_MAX]) -> &'a [u8] {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Chain;
    use crate::observe::metrics::Metrics;

    fn table(routes: &[(&str, Option<&str>, &str, &[&str])]) -> RouteTable {
        let metrics = Metrics::new(1, &[]);
        let mut table = RouteTable::default();
        for (name, host, path, methods) in routes {
            let methods: Vec<String> = methods.iter().map(|method| (*method).to_owned()).collect();
            let route = Route {
                name: (*name).to_owned(),
                upstream: 0,
                chain: Chain::default(),
                body_bytes_max: 0,
                path_policy: http1::PathPolicy::KEEP,
                websocket: false,
                series: metrics.route(name),
            };
            table.insert(*host, path, &methods, route);
        }
        table
    }

    #[track_caller]
    fn check(table: &RouteTable, host: &str, path: &str, method: &str, expected: &str) {
        let found = match table.find(host.as_bytes(), path.as_bytes(), Method::of(method.as_bytes()), method.as_bytes())
        {
            Found::Route(route) => route.name.clone(),
            Found::MethodNotAllowed(allow) => format!("405 {allow}"),
            Found::Nothing => "404".to_owned(),
        };
        assert_eq!(found, expected, "{method} {host}{path}");
    }

    #[test]
    fn the_most_specific_route_wins() {
        let table = table(&[
            ("any", None, "/**", &[]),
            ("a", None, "/a/**", &[]),
            ("ab", None, "/a/b/**", &[]),
            ("exact", None, "/a/b", &[]),
            ("host", Some("api.example.com"), "/**", &[]),
            ("wild", Some("*.example.com"), "/a/b", &[]),
            ("deep", Some("*.eu.example.com"), "/**", &[]),
        ]);
        check(&table, "x", "/", "GET", "any");
        check(&table, "x", "/a", "GET", "a");
        check(&table, "x", "/a/", "GET", "a");
        check(&table, "x", "/ab", "GET", "any");
        check(&table, "x", "/a/b", "GET", "exact");
        check(&table, "x", "/a/b/", "GET", "ab");
        check(&table, "x", "/a/b/c/d", "GET", "ab");
        check(&table, "API.example.com:8080", "/a/b", "GET", "host");
        check(&table, "www.example.com.", "/a/b", "GET", "wild");
        check(&table, "www.example.com", "/a/c", "GET", "a");
        check(&table, "a.eu.example.com", "/a/b", "GET", "deep");
        check(&table, "example.com", "/a/c", "GET", "a");
    }

    #[test]
    fn methods_choose_among_routes_and_head_goes_with_get() {
        let table = table(&[
            ("read", None, "/x", &["GET"]),
            ("write", None, "/x", &["POST", "PUT"]),
            ("rest", None, "/y", &[]),
            ("delete", None, "/y", &["DELETE"]),
            ("below", None, "/z/**", &["PATCH"]),
        ]);
        check(&table, "h", "/x", "GET", "read");
        check(&table, "h", "/x", "HEAD", "read");
        check(&table, "h", "/x", "PUT", "write");
        check(&table, "h", "/x", "DELETE", "405 GET, HEAD, POST, PUT");
        check(&table, "h", "/y", "DELETE", "delete");
        check(&table, "h", "/y", "GET", "rest");
        check(&table, "h", "/z", "GET", "405 PATCH");
        check(&table, "h", "/", "GET", "404");
    }
}
