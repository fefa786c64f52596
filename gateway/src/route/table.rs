//! All routes of one priority, compiled for finding: a host is one probe, a whole path one, and each segment of a pattern
//! one. What a lookup costs depends on the path, hardly on the number of routes.
//!
//! Candidates come in the order of precedence: hosts from the exact one to any, within a host the whole path, regular
//! expressions, then the tree of segments, walked so that the more specific branch comes first. Routes of one host and
//! pattern form a leaf; they differ by method and conditions and stand in their order.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};
use http1::Method;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::pattern::{End, PathPattern, Segment, whole};
use super::{Asked, HostPattern, Matcher};
use crate::limits::REGEX_COMPILED_BYTES_MAX;

/// A fixed seed: who asks cannot put anything in, so nobody can fill a bucket.
type Hashing = FixedState;

/// Routes of one priority.
#[derive(Default)]
pub(super) struct Table {
    hosts: HashMap<Box<[u8]>, u32, Hashing>,
    /// keyed by `.suffix`
    suffixes: HashMap<Box<[u8]>, u32, Hashing>,
    any_host: Option<u32>,
    paths: Vec<Paths>,
    /// whole paths of all hosts
    exact: HashTable<Whole>,
    nodes: Vec<Node>,
    /// literal segments below all nodes
    edges: HashTable<Edge>,
    /// bytes of paths and segments
    text: Vec<u8>,
    candidates: Vec<Candidate>,
}

/// What a host has.
#[derive(Default)]
struct Paths {
    has_exact: bool,
    root: Option<u32>,
    regexes: Option<Box<Regexes>>,
}

/// Regular expressions of one host, all matched in one pass.
struct Regexes {
    set: RegexSet,
    /// in the order of their precedence, each with its place in the set
    candidates: Vec<(usize, Candidate)>,
}

struct Whole {
    paths: u32,
    text: Span,
    leaf: Leaf,
}

struct Edge {
    parent: u32,
    text: Span,
    child: u32,
}

/// A place in the tree of segments.
#[derive(Default)]
struct Node {
    has_literals: bool,
    /// by falling length of the suffix
    captures: Vec<(Box<[u8]>, u32)>,
    /// patterns that end here
    end: Leaf,
    /// patterns that take whatever follows
    rest: Leaf,
}

#[derive(Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
}

/// A range of candidates.
#[derive(Clone, Copy, Default)]
struct Leaf {
    first: u32,
    count: u32,
}

/// What must be known to pass a route over, without touching the route.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub route: u32,
    methods: u16,
    /// It takes methods that have no bit.
    others: bool,
    conditional: bool,
}

/// A bit a method.
fn bit(method: Method) -> u16 {
    match method {
        Method::Get => 1,
        Method::Head => 2,
        Method::Post => 4,
        Method::Put => 8,
        Method::Delete => 16,
        Method::Options => 32,
        Method::Patch => 64,
        Method::Trace => 128,
        Method::Connect => 256,
        Method::Other => 0,
    }
}

/// Every method that has a bit.
const ALL: u16 = 0x1ff;

impl Table {
    /// Compiles the matchers at `members`. They stand in the order in which they would be tried.
    pub(super) fn build(matchers: &[Matcher], members: &[u32]) -> Table {
        let mut table = Table::default();
        // Leaves are ranges, so the routes of one leaf must be known before the first is laid down.
        let mut wholes: Vec<(u32, &Matcher, Vec<Candidate>)> = Vec::new();
        let mut whole_at: HashMap<(u32, String), usize, Hashing> = HashMap::default();
        let mut ends: HashMap<(u32, bool), Vec<Candidate>, Hashing> = HashMap::default();
        let mut regexes: HashMap<u32, Vec<(Box<str>, Candidate)>, Hashing> = HashMap::default();
        for &route in members {
            let matcher = &matchers[route as usize];
            let candidate = Candidate::of(route, matcher);
            for host in &matcher.hosts {
                let paths = table.paths_of(host);
                match &*matcher.path {
                    PathPattern::Regex(regex) => {
                        regexes.entry(paths).or_default().push((regex.text.clone(), candidate));
                    }
                    path if path.is_exact() => {
                        let at = *whole_at.entry((paths, path.to_string())).or_insert_with(|| {
                            wholes.push((paths, matcher, Vec::new()));
                            wholes.len() - 1
                        });
                        wholes[at].2.push(candidate);
                    }
                    PathPattern::Segments(pattern) => {
                        let mut node = table.root_of(paths);
                        for segment in &pattern.segments {
                            node = table.child(node, segment);
                        }
                        ends.entry((node, pattern.end != End::Exact)).or_default().push(candidate);
                    }
                }
            }
        }
        for (paths, matcher, candidates) in wholes {
            table.paths[paths as usize].has_exact = true;
            let leaf = table.leaf(candidates);
            let PathPattern::Segments(pattern) = &*matcher.path else { unreachable!("exact paths are segments") };
            let mut path = Vec::new();
            for segment in &pattern.segments {
                path.push(b'/');
                if let Segment::Literal(literal) = segment {
                    path.extend_from_slice(literal);
                }
            }
            let text = table.store(&path);
            let hash = hash(paths, &path);
            let Table { exact, text: bytes, .. } = &mut table;
            exact.insert_unique(hash, Whole { paths, text, leaf }, |whole| hash_of(whole.paths, whole.text, bytes));
        }
        for ((node, rest), candidates) in ends {
            let leaf = table.leaf(candidates);
            let node = &mut table.nodes[node as usize];
            *if rest { &mut node.rest } else { &mut node.end } = leaf;
        }
        for (paths, members) in regexes {
            let set = RegexSetBuilder::new(members.iter().map(|(text, _)| whole(text)))
                .unicode(false)
                // Each of them fits, so all of them do.
                .size_limit(REGEX_COMPILED_BYTES_MAX * (members.len() + 1))
                .build()
                .expect("config::load compiled each of them");
            let candidates = members.into_iter().map(|(_, candidate)| candidate).enumerate().collect();
            table.paths[paths as usize].regexes = Some(Box::new(Regexes { set, candidates }));
        }
        for node in &mut table.nodes {
            node.captures.sort_by(|(one, _), (other, _)| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        }
        table
    }

    fn paths_of(&mut self, host: &HostPattern) -> u32 {
        let next = self.paths.len() as u32;
        let found = match host {
            HostPattern::Exact(name) => *self.hosts.entry(name.as_bytes().into()).or_insert(next),
            HostPattern::Suffix(suffix) => *self.suffixes.entry(suffix.as_bytes().into()).or_insert(next),
            HostPattern::Any => *self.any_host.get_or_insert(next),
        };
        if found == next {
            self.paths.push(Paths::default());
        }
        found
    }

    fn root_of(&mut self, paths: u32) -> u32 {
        if let Some(root) = self.paths[paths as usize].root {
            return root;
        }
        let root = self.node();
        self.paths[paths as usize].root = Some(root);
        root
    }

    fn node(&mut self) -> u32 {
        self.nodes.push(Node::default());
        self.nodes.len() as u32 - 1
    }

    fn child(&mut self, parent: u32, segment: &Segment) -> u32 {
        match segment {
            Segment::Literal(literal) => {
                if let Some(child) = self.literal(parent, literal) {
                    return child;
                }
                let child = self.node();
                self.nodes[parent as usize].has_literals = true;
                let text = self.store(literal);
                let Table { edges, text: bytes, .. } = self;
                let edge = Edge { parent, text, child };
                edges.insert_unique(hash(parent, literal), edge, |edge| hash_of(edge.parent, edge.text, bytes));
                child
            }
            Segment::Capture { suffix, .. } => {
                let captures = &self.nodes[parent as usize].captures;
                if let Some((_, child)) = captures.iter().find(|(known, _)| known == suffix) {
                    return *child;
                }
                let child = self.node();
                self.nodes[parent as usize].captures.push((suffix.clone(), child));
                child
            }
        }
    }

    fn literal(&self, parent: u32, segment: &[u8]) -> Option<u32> {
        let is_it = |edge: &Edge| edge.parent == parent && *edge.text.of(&self.text) == *segment;
        self.edges.find(hash(parent, segment), is_it).map(|edge| edge.child)
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.text.len() as u32;
        self.text.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    fn leaf(&mut self, candidates: Vec<Candidate>) -> Leaf {
        let first = self.candidates.len() as u32;
        let count = candidates.len() as u32;
        self.candidates.extend(candidates);
        Leaf { first, count }
    }

    /// Finds the first route that takes `asked`. `host` is in lower case. `refused` gets those that would take it with
    /// another method.
    pub(super) fn find(
        &self,
        matchers: &[Matcher],
        host: &[u8],
        asked: &Asked<'_>,
        refused: &mut Vec<u32>,
    ) -> Option<u32> {
        let mut search = Search { table: self, matchers, asked, refused };
        let exact = if self.hosts.is_empty() { None } else { self.hosts.get(host).copied() };
        if let Some(route) = exact.and_then(|paths| search.host(paths)) {
            return Some(route);
        }
        if !self.suffixes.is_empty() {
            let dots = memchr::memchr_iter(b'.', host).filter(|&dot| dot > 0);
            for paths in dots.filter_map(|dot| self.suffixes.get(&host[dot..])) {
                if let Some(route) = search.host(*paths) {
                    return Some(route);
                }
            }
        }
        self.any_host.and_then(|paths| search.host(paths))
    }
}

impl Span {
    fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..][..self.len as usize]
    }
}

fn hash(owner: u32, bytes: &[u8]) -> u64 {
    let mut hasher = Hashing::with_seed(0).build_hasher();
    owner.hash(&mut hasher);
    hasher.write(bytes);
    hasher.finish()
}

fn hash_of(owner: u32, span: Span, text: &[u8]) -> u64 {
    hash(owner, span.of(text))
}

impl Candidate {
    fn of(route: u32, matcher: &Matcher) -> Candidate {
        let methods = &matcher.methods;
        Candidate {
            route,
            methods: methods
                .names()
                .fold(if methods.is_all() { ALL } else { 0 }, |bits, name| bits | bit(Method::of(name))),
            others: methods.is_all() || methods.names().any(|name| Method::of(name) == Method::Other),
            conditional: !matcher.when.is_empty(),
        }
    }
}

/// One walk over candidates.
struct Search<'a> {
    table: &'a Table,
    matchers: &'a [Matcher],
    asked: &'a Asked<'a>,
    refused: &'a mut Vec<u32>,
}

impl Search<'_> {
    fn host(&mut self, paths: u32) -> Option<u32> {
        let table = self.table;
        let path = self.asked.path;
        let of_host = &table.paths[paths as usize];
        if of_host.has_exact {
            let is_it = |whole: &Whole| whole.paths == paths && *whole.text.of(&table.text) == *path;
            if let Some(whole) = table.exact.find(hash(paths, path), is_it)
                && let Some(route) = self.leaf(whole.leaf)
            {
                return Some(route);
            }
        }
        if let Some(regexes) = &of_host.regexes {
            let matched = regexes.set.matches(path);
            if matched.matched_any() {
                let candidates = regexes.candidates.iter().filter(|(at, _)| matched.matched(*at));
                if let Some(route) = self.among(candidates.map(|(_, candidate)| candidate)) {
                    return Some(route);
                }
            }
        }
        // `*` of `OPTIONS *` is no path.
        of_host.root.filter(|_| path.first() == Some(&b'/')).and_then(|root| self.below(root, 0))
    }

    /// Walks the tree from `node`, where the path is read up to `at`: at its end, or before a slash. At most as deep as the
    /// longest pattern, and over no more nodes than patterns have segments.
    fn below(&mut self, index: u32, at: usize) -> Option<u32> {
        let node = &self.table.nodes[index as usize];
        let path = self.asked.path;
        if at == path.len() {
            return self.leaf(node.end).or_else(|| self.leaf(node.rest));
        }
        if node.has_literals || !node.captures.is_empty() {
            let start = at + 1;
            let end = memchr::memchr(b'/', &path[start..]).map_or(path.len(), |slash| start + slash);
            let segment = &path[start..end];
            if node.has_literals
                && let Some(child) = self.table.literal(index, segment)
                && let Some(route) = self.below(child, end)
            {
                return Some(route);
            }
            for (suffix, child) in &node.captures {
                if segment.len() > suffix.len()
                    && segment.ends_with(suffix)
                    && let Some(route) = self.below(*child, end)
                {
                    return Some(route);
                }
            }
        }
        self.leaf(node.rest)
    }

    fn leaf(&mut self, leaf: Leaf) -> Option<u32> {
        if leaf.count == 0 {
            return None;
        }
        let table = self.table;
        self.among(table.candidates[leaf.first as usize..][..leaf.count as usize].iter())
    }

    /// The first of routes that take the same paths. Those that name the method stand before those for all.
    fn among<'c>(&mut self, candidates: impl Iterator<Item = &'c Candidate>) -> Option<u32> {
        let method = self.asked.method;
        let wanted = bit(method);
        let mut implied: Option<u32> = None;
        for candidate in candidates {
            let matcher = &self.matchers[candidate.route as usize];
            let is_all = candidate.methods == ALL && candidate.others;
            if is_all && implied.is_some() {
                break;
            }
            let named = match wanted {
                0 => candidate.others && matcher.methods.take(self.asked.method_text),
                wanted => candidate.methods & wanted != 0,
            };
            // A route that takes GET takes HEAD: the answer is the same without its body (RFC 9110 §9.3.2).
            let by_get = method == Method::Head && candidate.methods & bit(Method::Get) != 0;
            if by_get && !named && implied.is_some() {
                continue;
            }
            if candidate.conditional && !matcher.when.hold(self.asked) {
                continue;
            }
            match (named, by_get) {
                (true, _) => return Some(candidate.route),
                (false, true) => implied = Some(candidate.route),
                (false, false) => self.refused.push(candidate.route),
            }
        }
        implied
    }
}
