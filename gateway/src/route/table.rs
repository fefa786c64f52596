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

/// The number of a [`Node`]. Never 0, so that none takes no space of its own.
type NodeId = NonZeroU32;

/// Routes of one priority.
#[derive(Default)]
pub(super) struct Table {
    hosts: HashTable<Host>,
    /// with `.suffix` for a name
    suffixes: HashTable<Host>,
    any_host: Option<Paths>,
    /// whole paths of all hosts
    exact: HashTable<Whole>,
    regexes: Vec<Regexes>,
    /// literal segments below all nodes
    edges: HashTable<Edge>,
    /// While the table is built, all nodes by their numbers. Then those behind captures: all others are copied to where
    /// they are reached from.
    nodes: Vec<Node>,
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
    name: Inline<54>,
}

/// What a host has.
struct Paths {
    has_exact: bool,
    /// its place in [`Table::regexes`] and one
    regexes: Option<NonZeroU32>,
    /// With what all patterns by segments begin: `/v1/shelves`.
    begin: Inline<31>,
    /// behind that
    root: Node,
}

/// Regular expressions of one host, all matched in one pass.
struct Regexes {
    set: RegexSet,
    /// of the expression with the same place, in the order of their precedence
    candidates: Vec<Candidate>,
}

/// A whole path of a host.
#[repr(align(64))]
struct Whole {
    /// the number of its root
    host: NodeId,
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
struct Node {
    id: NodeId,
    /// patterns that end here
    end: Leaf,
    /// patterns that take whatever follows
    rest: Leaf,
    has_literals: bool,
    /// behind a capture without a suffix
    capture: Option<NodeId>,
    /// its place in [`Table::suffixed`] and one
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
const _: () = assert!(size_of::<Edge>() == 64 && size_of::<Node>() == 32);
// Two that lie beside each other are fetched together.
const _: () = assert!(size_of::<Host>() == 128 && size_of::<Whole>() == 64);

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
    /// Compiles the matchers at `members`, in any order.
    pub(super) fn build(matchers: &[Matcher], members: &[u32]) -> Table {
        let mut table = Table::default();
        let begins = begins(members.iter().map(|&route| &matchers[route as usize]));
        let mut regexes: Vec<Vec<Candidate>> = Vec::new();
        let mut path = Vec::new();
        for &route in members {
            let matcher = &matchers[route as usize];
            let candidate = Candidate::of(route, matcher);
            for host in &matcher.hosts {
                match &*matcher.path {
                    PathPattern::Regex(_) => {
                        let free = NonZeroU32::MIN.saturating_add(regexes.len() as u32);
                        let at = at(*table.paths_of(host).regexes.get_or_insert(free));
                        regexes.resize_with(regexes.len().max(at + 1), Vec::new);
                        regexes[at].push(candidate);
                    }
                    PathPattern::Segments(pattern) if pattern.whole(&mut path) => {
                        table.add_whole(host, &path, candidate);
                    }
                    PathPattern::Segments(pattern) => {
                        let (begin, behind) = pattern.segments.split_at(begins[host].len());
                        let mut node = table.root_of(host, begin);
                        for segment in behind {
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
        // Names differ, or the numbers do: the order is one.
        let order = |one: &Candidate, other: &Candidate| {
            let [first, second] = [one, other].map(|candidate| &matchers[candidate.route as usize]);
            first.precedence(second).then(one.route.cmp(&other.route))
        };
        regexes.iter_mut().chain(&mut table.shared).for_each(|candidates| candidates.sort_by(order));
        table.regexes = regexes.into_iter().map(|candidates| Regexes::new(matchers, candidates)).collect();
        table.settle();
        table
    }

    /// Brings nodes to where they are reached from, when all routes are in.
    fn settle(&mut self) {
        let Table { hosts, suffixes, any_host, edges, nodes, suffixed, .. } = self;
        let mut kept = Vec::new();
        let mut keep = |child: &mut NodeId| {
            kept.push(*child);
            *child = NodeId::MIN.saturating_add(kept.len() as u32 - 1);
        };
        nodes.iter_mut().filter_map(|node| node.capture.as_mut()).for_each(&mut keep);
        for captures in suffixed {
            captures.sort_by(|(one, _), (other, _)| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
            captures.iter_mut().for_each(|(_, child)| keep(child));
        }
        let node = |id: NodeId| nodes[at(id)];
        edges.iter_mut().for_each(|edge| edge.child = node(edge.child.id));
        let named = hosts.iter_mut().chain(suffixes).map(|host| &mut host.paths);
        named.chain(any_host).for_each(|paths| paths.root = node(paths.root.id));
        *nodes = kept.into_iter().map(node).collect();
    }

    fn paths_of(&mut self, host: &HostPattern) -> &mut Paths {
        let (is_exact, name) = match host {
            HostPattern::Exact(name) => (true, name.as_bytes()),
            HostPattern::Suffix(suffix) => (false, suffix.as_bytes()),
            HostPattern::Any => {
                let Table { any_host, nodes, .. } = self;
                return any_host.get_or_insert_with(|| Paths::new(nodes));
            }
        };
        let Table { hosts, suffixes, text, nodes, .. } = self;
        let hosts = if is_exact { hosts } else { suffixes };
        let is_it = |host: &Host| host.name.is(name, text);
        let host = match hosts.entry(hash(0, name), is_it, |host| hash(0, host.name.of(text))) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                free.insert(Host { paths: Paths::new(nodes), name: Inline::new(name, text) }).into_mut()
            }
        };
        &mut host.paths
    }

    fn add_whole(&mut self, host: &HostPattern, path: &[u8], candidate: Candidate) {
        let paths = self.paths_of(host);
        paths.has_exact = true;
        let host = paths.root.id;
        let Table { exact, text, shared, .. } = self;
        let is_it = |whole: &Whole| whole.host == host && whole.path.is(path, text);
        match exact.entry(hash(host.get(), path), is_it, |whole| hash(whole.host.get(), whole.path.of(text))) {
            Entry::Occupied(mut known) => known.get_mut().leaf.add(candidate, shared),
            Entry::Vacant(free) => {
                free.insert(Whole { host, leaf: Leaf::One(candidate), path: Inline::new(path, text) });
            }
        }
    }

    /// The node behind `begin`, with which all patterns of the host begin.
    fn root_of(&mut self, host: &HostPattern, begin: &[Segment]) -> NodeId {
        let paths = self.paths_of(host);
        let root = paths.root.id;
        if paths.begin.len == 0 && !begin.is_empty() {
            let mut text = Vec::new();
            for segment in begin {
                text.push(b'/');
                text.extend_from_slice(segment.literal().unwrap_or_default());
            }
            let begin = Inline::new(&text, &mut self.text);
            self.paths_of(host).begin = begin;
        }
        root
    }

    fn node(&mut self) -> NodeId {
        Node::new(&mut self.nodes).id
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
                let Table { nodes, suffixed, .. } = self;
                let captures = at(*nodes[at(parent)].suffixed.get_or_insert_with(|| {
                    suffixed.push(Vec::new());
                    NonZeroU32::MIN.saturating_add(suffixed.len() as u32 - 1)
                }));
                if let Some((_, child)) = suffixed[captures].iter().find(|(known, _)| known == suffix) {
                    return *child;
                }
                let child = self.node();
                self.suffixed[captures].push((suffix.clone(), child));
                child
            }
        }
    }

    fn literal(&self, parent: NodeId, segment: &[u8]) -> Option<&Node> {
        let is_it = |edge: &Edge| edge.parent == parent && edge.segment.is(segment, &self.text);
        self.edges.find(hash(parent.get(), segment), is_it).map(|edge| &edge.child)
    }

    fn host<'t>(&self, hosts: &'t HashTable<Host>, name: &[u8]) -> Option<&'t Paths> {
        hosts.find(hash(0, name), |host| host.name.is(name, &self.text)).map(|host| &host.paths)
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
        self.any_host.as_ref().and_then(|paths| search.host(paths))
    }
}

impl Regexes {
    /// `candidates` stand in the order of their precedence.
    fn new(matchers: &[Matcher], candidates: Vec<Candidate>) -> Regexes {
        let texts = candidates.iter().filter_map(|candidate| match &*matchers[candidate.route as usize].path {
            PathPattern::Regex(regex) => Some(whole(&regex.text)),
            PathPattern::Segments(_) => None,
        });
        let set = RegexSetBuilder::new(texts)
            .unicode(false)
            // Each of them fits, so all of them do.
            .size_limit(REGEX_COMPILED_BYTES_MAX * (candidates.len() + 1))
            .build()
            .expect("config::load compiled each of them");
        Regexes { set, candidates }
    }
}

impl Paths {
    fn new(nodes: &mut Vec<Node>) -> Paths {
        let begin = Inline { len: 0, bytes: [0; _] };
        Paths { has_exact: false, regexes: None, begin, root: Node::new(nodes) }
    }
}

impl Node {
    fn new(nodes: &mut Vec<Node>) -> Node {
        let id = NodeId::MIN.saturating_add(nodes.len() as u32);
        let (end, rest) = (Leaf::Empty, Leaf::Empty);
        let node = Node { id, end, rest, has_literals: false, capture: None, suffixed: None };
        nodes.push(node);
        node
    }
}

impl Leaf {
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

/// The place of what is counted from one.
fn at(number: NonZeroU32) -> usize {
    number.get() as usize - 1
}

/// The literals with which all patterns of a host begin, those apart that are whole paths.
fn begins<'m>(matchers: impl Iterator<Item = &'m Matcher>) -> HashMap<&'m HostPattern, &'m [Segment], Hashing> {
    let mut begins: HashMap<&HostPattern, &[Segment], Hashing> = HashMap::default();
    for matcher in matchers {
        let PathPattern::Segments(pattern) = &*matcher.path else { continue };
        if matcher.path.is_exact() {
            continue;
        }
        let literals = pattern.segments.iter().take_while(|segment| segment.literal().is_some()).count();
        let literals = &pattern.segments[..literals];
        for host in &matcher.hosts {
            let begin = begins.entry(host).or_insert(literals);
            let common = begin.iter().zip(literals).take_while(|(one, other)| one == other).count();
            *begin = &begin[..common];
        }
    }
    begins
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
    fn host(&mut self, paths: &Paths) -> Option<u32> {
        let table = self.table;
        let path = self.asked.path;
        if paths.has_exact {
            let host = paths.root.id;
            let is_it = |whole: &Whole| whole.host == host && whole.path.is(path, &table.text);
            if let Some(whole) = table.exact.find(hash(host.get(), path), is_it)
                && let Some(route) = self.leaf(&whole.leaf)
            {
                return Some(route);
            }
        }
        if let Some(regexes) = paths.regexes {
            let regexes = &table.regexes[at(regexes)];
            let matched = regexes.set.matches(path);
            if matched.matched_any()
                && let Some(route) = self.among(matched.iter().map(|at| &regexes.candidates[at]))
            {
                return Some(route);
            }
        }
        let begin = paths.begin.of(&table.text);
        let behind = path.strip_prefix(begin)?;
        // `*` of `OPTIONS *` is no path.
        let is_path = path.first() == Some(&b'/') && (behind.is_empty() || behind[0] == b'/');
        if is_path { self.below(&paths.root, begin.len()) } else { None }
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
                for (suffix, child) in &table.suffixed[at(captures)] {
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
