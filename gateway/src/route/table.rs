//! All routes of one priority, compiled for finding: a host is one probe, a whole path one, and each segment of a pattern
//! one. What a lookup costs depends on the path, hardly on the number of routes.
//!
//! With many routes what is read is in no cache, so each step is made of as few cache lines as it can be: what a probe
//! compares with lies in its bucket, and a single route without conditions, the common case, lies where it is named.
//!
//! Candidates come in the order of precedence: hosts from the exact one to any, within a host the whole path, regular
//! expressions, then the tree of segments, walked so that the more specific branch comes first. Routes of one host and
//! pattern form a leaf; they differ by method and conditions and stand in their order.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::num::NonZeroU32;

use foldhash::fast::FixedState;
use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};
use http1::Method;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::pattern::{End, PathPattern, Segment, whole};
use super::{Asked, HostPattern, Matcher};
use crate::limits::REGEX_COMPILED_BYTES_MAX;

/// A fixed seed: who asks cannot put anything in, so nobody can fill a bucket.
type Hashing = FixedState;

/// The number of a [`Node`], its place in [`Table::nodes`] and one. Never 0, so that none takes no space of its own.
type NodeId = NonZeroU32;

/// Routes of one priority.
#[derive(Default)]
pub(super) struct Table {
    hosts: HashTable<Host>,
    /// with `.suffix` for a name
    suffixes: HashTable<Host>,
    any_host: Option<Paths>,
    /// hosts so far
    hosts_count: u32,
    /// whole paths of all hosts
    exact: HashTable<Whole>,
    regexes: Vec<Regexes>,
    nodes: Vec<Node>,
    /// literal segments below all nodes
    edges: HashTable<Edge>,
    /// captures with a suffix below nodes that have some, by falling length of the suffix
    suffixed: Vec<Vec<(Box<[u8]>, NodeId)>>,
    /// routes that share a place
    shared: Vec<Vec<Candidate>>,
    /// texts too long for their bucket
    text: Vec<u8>,
}

/// A host that routes name.
#[repr(align(64))]
struct Host {
    paths: Paths,
    name: Inline<43>,
}

/// What a host has.
#[derive(Clone, Copy)]
struct Paths {
    /// by which its whole paths are found
    host: u32,
    has_exact: bool,
    root: Option<NodeId>,
    /// index into [`Table::regexes`]
    regexes: Option<u32>,
}

/// Regular expressions of one host, all matched in one pass.
struct Regexes {
    set: RegexSet,
    /// in the order of their precedence, each with its place in the set
    candidates: Vec<(usize, Candidate)>,
}

/// A whole path of a host.
#[repr(align(64))]
struct Whole {
    host: u32,
    leaf: Leaf,
    path: Inline<51>,
}

/// A literal segment, with the node behind it.
#[repr(align(64))]
struct Edge {
    child: Node,
    parent: NodeId,
    segment: Inline<27>,
}

/// A place in the tree of segments.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Node {
    id: NodeId,
    /// patterns that end here
    end: Leaf,
    /// patterns that take whatever follows
    rest: Leaf,
    has_literals: bool,
    /// behind a capture without a suffix
    capture: Option<NodeId>,
    /// index into [`Table::suffixed`]
    suffixed: Option<NonZeroU32>,
}

/// The routes of one place.
#[derive(Clone, Copy, Default)]
enum Leaf {
    #[default]
    Empty,
    One(Candidate),
    /// Index into [`Table::shared`].
    Shared(u32),
}

// A cache line, or half of one.
const _: () = assert!(size_of::<Host>() == 64 && size_of::<Whole>() == 64);
const _: () = assert!(size_of::<Edge>() == 64 && size_of::<Node>() == 32);

/// A text of at most `N` bytes; or where it is among longer ones.
#[derive(Clone, Copy)]
struct Inline<const N: usize> {
    /// `LONG`: the first eight bytes are start and length in [`Table::text`].
    len: u8,
    bytes: [u8; N],
}

const LONG: u8 = u8::MAX;

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
        let mut table = Table { suffixed: vec![Vec::new()], ..Table::default() };
        let mut regexes: HashMap<u32, Vec<(Box<str>, Candidate)>, Hashing> = HashMap::default();
        let mut path = Vec::new();
        for &route in members {
            let matcher = &matchers[route as usize];
            let candidate = Candidate::of(route, matcher);
            for host in &matcher.hosts {
                match &*matcher.path {
                    PathPattern::Regex(regex) => {
                        let at = *table.paths_of(host).regexes.get_or_insert(regexes.len() as u32);
                        regexes.entry(at).or_default().push((regex.text.clone(), candidate));
                    }
                    PathPattern::Segments(pattern) if pattern.whole(&mut path) => {
                        table.add_whole(host, &path, candidate);
                    }
                    PathPattern::Segments(pattern) => {
                        let mut node = table.root_of(host);
                        for segment in &pattern.segments {
                            node = table.child(node, segment);
                        }
                        let Table { nodes, shared, .. } = &mut table;
                        let node = &mut nodes[at(node)];
                        let leaf = if pattern.end == End::Exact { &mut node.end } else { &mut node.rest };
                        leaf.add(candidate, shared);
                    }
                }
            }
        }
        let mut regexes: Vec<_> = regexes.into_iter().collect();
        regexes.sort_unstable_by_key(|(at, _)| *at);
        table.regexes = regexes.into_iter().map(|(_, members)| Regexes::new(members)).collect();
        for captures in &mut table.suffixed {
            captures.sort_by(|(one, _), (other, _)| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        }
        for edge in table.edges.iter_mut() {
            edge.child = table.nodes[at(edge.child.id)];
        }
        table
    }

    fn paths_of(&mut self, host: &HostPattern) -> &mut Paths {
        let next = Paths { host: self.hosts_count, has_exact: false, root: None, regexes: None };
        let (hosts, name) = match host {
            HostPattern::Exact(name) => (&mut self.hosts, name.as_bytes()),
            HostPattern::Suffix(suffix) => (&mut self.suffixes, suffix.as_bytes()),
            HostPattern::Any => {
                self.hosts_count += u32::from(self.any_host.is_none());
                return self.any_host.get_or_insert(next);
            }
        };
        let text = &self.text;
        let hash = hash(0, name);
        let is_it = |host: &Host| host.name.is(name, text);
        let host = match hosts.entry(hash, is_it, |host| self::hash(0, host.name.of(text))) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                self.hosts_count += 1;
                free.insert(Host { paths: next, name: Inline::new(name, &mut self.text) }).into_mut()
            }
        };
        &mut host.paths
    }

    fn add_whole(&mut self, host: &HostPattern, path: &[u8], candidate: Candidate) {
        let paths = self.paths_of(host);
        paths.has_exact = true;
        let host = paths.host;
        let Table { exact, text, shared, .. } = self;
        let hash = hash(host, path);
        match exact.find_mut(hash, |whole| whole.host == host && whole.path.is(path, text)) {
            Some(whole) => whole.leaf.add(candidate, shared),
            None => {
                let whole = Whole { host, leaf: Leaf::One(candidate), path: Inline::new(path, text) };
                exact.insert_unique(hash, whole, |whole| self::hash(whole.host, whole.path.of(text)));
            }
        }
    }

    fn root_of(&mut self, host: &HostPattern) -> NodeId {
        if let Some(root) = self.paths_of(host).root {
            return root;
        }
        let root = self.node();
        self.paths_of(host).root = Some(root);
        root
    }

    fn node(&mut self) -> NodeId {
        let id = NodeId::MIN.saturating_add(self.nodes.len() as u32);
        let (end, rest) = (Leaf::Empty, Leaf::Empty);
        self.nodes.push(Node { id, end, rest, has_literals: false, capture: None, suffixed: None });
        id
    }

    fn child(&mut self, parent: NodeId, segment: &Segment) -> NodeId {
        match segment {
            Segment::Literal(literal) => {
                if let Some(child) = self.literal(parent, literal) {
                    return child.id;
                }
                let child = self.node();
                self.nodes[at(parent)].has_literals = true;
                let Table { edges, text, nodes, .. } = self;
                // What is behind it is known when all routes are in: until then its number is what counts.
                let edge = Edge { child: nodes[at(child)], parent, segment: Inline::new(literal, text) };
                edges.insert_unique(hash(parent.get(), literal), edge, |edge| {
                    hash(edge.parent.get(), edge.segment.of(text))
                });
                child
            }
            Segment::Capture { suffix, .. } if suffix.is_empty() => {
                if let Some(child) = self.nodes[at(parent)].capture {
                    return child;
                }
                let child = self.node();
                self.nodes[at(parent)].capture = Some(child);
                child
            }
            Segment::Capture { suffix, .. } => {
                let captures = match self.nodes[at(parent)].suffixed {
                    Some(captures) => captures,
                    None => {
                        let next = NonZeroU32::new(self.suffixed.len() as u32).expect("the first one is nobody's");
                        self.suffixed.push(Vec::new());
                        self.nodes[at(parent)].suffixed = Some(next);
                        next
                    }
                };
                let known = self.suffixed[captures.get() as usize].iter().find(|(known, _)| known == suffix);
                if let Some((_, child)) = known {
                    return *child;
                }
                let child = self.node();
                self.suffixed[captures.get() as usize].push((suffix.clone(), child));
                child
            }
        }
    }

    fn literal(&self, parent: NodeId, segment: &[u8]) -> Option<&Node> {
        let is_it = |edge: &Edge| edge.parent == parent && edge.segment.is(segment, &self.text);
        self.edges.find(hash(parent.get(), segment), is_it).map(|edge| &edge.child)
    }

    fn host(&self, hosts: &HashTable<Host>, name: &[u8]) -> Option<Paths> {
        hosts.find(hash(0, name), |host| host.name.is(name, &self.text)).map(|host| host.paths)
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
        let exact = if self.hosts.is_empty() { None } else { self.host(&self.hosts, host) };
        if let Some(route) = exact.and_then(|paths| search.host(paths)) {
            return Some(route);
        }
        if !self.suffixes.is_empty() {
            let dots = memchr::memchr_iter(b'.', host).filter(|&dot| dot > 0);
            for paths in dots.filter_map(|dot| self.host(&self.suffixes, &host[dot..])) {
                if let Some(route) = search.host(paths) {
                    return Some(route);
                }
            }
        }
        self.any_host.and_then(|paths| search.host(paths))
    }
}

impl Regexes {
    /// In the order of their precedence.
    fn new(members: Vec<(Box<str>, Candidate)>) -> Regexes {
        let set = RegexSetBuilder::new(members.iter().map(|(text, _)| whole(text)))
            .unicode(false)
            // Each of them fits, so all of them do.
            .size_limit(REGEX_COMPILED_BYTES_MAX * (members.len() + 1))
            .build()
            .expect("config::load compiled each of them");
        Regexes { set, candidates: members.into_iter().map(|(_, candidate)| candidate).enumerate().collect() }
    }
}

impl Leaf {
    /// Candidates are added in their order.
    fn add(&mut self, candidate: Candidate, shared: &mut Vec<Vec<Candidate>>) {
        match *self {
            Leaf::Empty => *self = Leaf::One(candidate),
            Leaf::One(first) => {
                *self = Leaf::Shared(shared.len() as u32);
                shared.push(vec![first, candidate]);
            }
            Leaf::Shared(at) => shared[at as usize].push(candidate),
        }
    }
}

impl<const N: usize> Inline<N> {
    fn new(value: &[u8], text: &mut Vec<u8>) -> Self {
        let mut bytes = [0; N];
        if let Some(space) = bytes.get_mut(..value.len()) {
            space.copy_from_slice(value);
            return Inline { len: value.len() as u8, bytes };
        }
        bytes[..4].copy_from_slice(&(text.len() as u32).to_ne_bytes());
        bytes[4..8].copy_from_slice(&(value.len() as u32).to_ne_bytes());
        text.extend_from_slice(value);
        Inline { len: LONG, bytes }
    }

    fn of<'t>(&'t self, text: &'t [u8]) -> &'t [u8] {
        if self.len != LONG {
            return &self.bytes[..usize::from(self.len)];
        }
        let number = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|byte| self.bytes[at + byte]);
            u32::from_ne_bytes([a, b, c, d]) as usize
        };
        &text[number(0)..][..number(4)]
    }

    fn is(&self, value: &[u8], text: &[u8]) -> bool {
        self.of(text) == value
    }
}

/// Where a node is in [`Table::nodes`].
fn at(node: NodeId) -> usize {
    node.get() as usize - 1
}

fn hash(owner: u32, bytes: &[u8]) -> u64 {
    let mut hasher = Hashing::with_seed(0).build_hasher();
    owner.hash(&mut hasher);
    hasher.write(bytes);
    hasher.finish()
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
    fn host(&mut self, paths: Paths) -> Option<u32> {
        let table = self.table;
        let path = self.asked.path;
        if paths.has_exact {
            let is_it = |whole: &Whole| whole.host == paths.host && whole.path.is(path, &table.text);
            if let Some(whole) = table.exact.find(hash(paths.host, path), is_it)
                && let Some(route) = self.leaf(&whole.leaf)
            {
                return Some(route);
            }
        }
        if let Some(at) = paths.regexes {
            let regexes = &table.regexes[at as usize];
            let matched = regexes.set.matches(path);
            if matched.matched_any() {
                let candidates = regexes.candidates.iter().filter(|(at, _)| matched.matched(*at));
                if let Some(route) = self.among(candidates.map(|(_, candidate)| candidate)) {
                    return Some(route);
                }
            }
        }
        // `*` of `OPTIONS *` is no path.
        paths.root.filter(|_| path.first() == Some(&b'/')).and_then(|root| self.below(&table.nodes[at(root)], 0))
    }

    /// Walks the tree from `node`, where the path is read up to `read`: at its end, or before a slash. At most as deep as the
    /// longest pattern, and over no more nodes than patterns have segments.
    fn below(&mut self, node: &Node, read: usize) -> Option<u32> {
        let table = self.table;
        let path = self.asked.path;
        if read == path.len() {
            return self.leaf(&node.end).or_else(|| self.leaf(&node.rest));
        }
        if node.has_literals || node.capture.is_some() || node.suffixed.is_some() {
            let start = read + 1;
            let end = memchr::memchr(b'/', &path[start..]).map_or(path.len(), |slash| start + slash);
            let segment = &path[start..end];
            if node.has_literals
                && let Some(child) = table.literal(node.id, segment)
                && let Some(route) = self.below(child, end)
            {
                return Some(route);
            }
            if let Some(captures) = node.suffixed {
                for (suffix, child) in &table.suffixed[captures.get() as usize] {
                    if segment.len() > suffix.len()
                        && segment.ends_with(suffix)
                        && let Some(route) = self.below(&table.nodes[at(*child)], end)
                    {
                        return Some(route);
                    }
                }
            }
            if let Some(child) = node.capture
                && !segment.is_empty()
                && let Some(route) = self.below(&table.nodes[at(child)], end)
            {
                return Some(route);
            }
        }
        self.leaf(&node.rest)
    }

    fn leaf(&mut self, leaf: &Leaf) -> Option<u32> {
        match leaf {
            Leaf::Empty => None,
            Leaf::One(candidate) => self.among(std::iter::once(candidate)),
            Leaf::Shared(at) => {
                let table = self.table;
                self.among(table.shared[*at as usize].iter())
            }
        }
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
