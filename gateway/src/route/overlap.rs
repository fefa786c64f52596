//! What is odd about routes taken together: two that no rule tells apart, and one that never gets a request.
//!
//! Runs when a configuration is loaded, never on the data path. Whether regular expressions meet is decided by walking their
//! automata side by side, within a bound; beyond it nothing is said.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use foldhash::fast::FixedState;
use regex_automata::dfa::Automaton as _;
use regex_automata::dfa::{StartKind, dense};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, util::primitives::StateID};

use super::pattern::{End, PathPattern, Segment, Segments};
use super::{HostPattern, Matcher};
use crate::limits::{REGEX_COMPILED_BYTES_MAX, ROUTE_PAIRS_MAX};

/// Something odd about the route at `route`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It takes the same requests as `other`, which stands before it in the file.
    Same { route: usize, other: usize },
    /// Some requests fit both, and neither is more specific: `first` gets them, by its name.
    Tie { route: usize, first: usize },
    /// `by` goes first and takes everything that it takes.
    Shadowed { route: usize, by: usize },
    /// Its own conditions leave nothing.
    Never { route: usize },
    /// More pairs than [`ROUTE_PAIRS_MAX`]: from this route on they were not compared.
    Unseen { route: usize },
}

/// Everything odd, in the order of the routes.
pub fn report(matchers: &[Matcher]) -> Vec<Finding> {
    let mut report = Report { matchers, findings: Vec::new(), pairs: 0, automata: HashMap::new() };
    report.never();
    report.twins();
    report.shadows();
    let Report { mut findings, .. } = report;
    findings.sort_by_key(|finding| match *finding {
        Finding::Same { route, .. }
        | Finding::Tie { route, .. }
        | Finding::Shadowed { route, .. }
        | Finding::Never { route }
        | Finding::Unseen { route } => route,
    });
    findings
}

struct Report<'a> {
    matchers: &'a [Matcher],
    findings: Vec<Finding>,
    pairs: usize,
    /// by route; `None`: too large
    automata: HashMap<usize, Option<dense::DFA<Vec<u32>>>>,
}

impl Report<'_> {
    fn never(&mut self) {
        for (route, matcher) in self.matchers.iter().enumerate() {
            if matcher.when.is_impossible() {
                self.findings.push(Finding::Never { route });
            }
        }
    }

    /// Routes of one host and priority whose paths no rule tells apart.
    fn twins(&mut self) {
        let mut groups: HashMap<(i32, &HostPattern, Class<'_>), Vec<usize>, FixedState> = HashMap::default();
        for (route, matcher) in self.matchers.iter().enumerate() {
            for host in &matcher.hosts {
                groups.entry((matcher.priority, host, Class::of(&matcher.path))).or_default().push(route);
            }
        }
        let mut seen = HashSet::new();
        for members in groups.values() {
            for (at, &other) in members.iter().enumerate() {
                for &route in &members[at + 1..] {
                    // Two routes may share several hosts.
                    if !seen.insert((other, route)) {
                        continue;
                    }
                    if self.exhausted(route) {
                        return;
                    }
                    self.twin(other, route);
                }
            }
        }
    }

    fn twin(&mut self, other: usize, route: usize) {
        let (one, two) = (&self.matchers[other], &self.matchers[route]);
        let told_apart = one.methods.is_all() != two.methods.is_all()
            || !one.methods.overlap(&two.methods)
            || one.when.rank() != two.when.rank()
            || one.when.excludes(&two.when);
        if told_apart {
            return;
        }
        if let (PathPattern::Regex(a), PathPattern::Regex(b)) = (&*one.path, &*two.path)
            && a.text != b.text
        {
            if self.meet(other, route) != Some(true) {
                return;
            }
        } else if one.when.says_the_same(&two.when) {
            self.findings.push(Finding::Same { route, other });
            return;
        }
        let (route, first) = if one.name <= two.name { (route, other) } else { (other, route) };
        self.findings.push(Finding::Tie { route, first });
    }

    /// Routes that never get a request because another one goes first: by its priority, or as a regular expression.
    fn shadows(&mut self) {
        let Some(lowest) = self.matchers.iter().map(|matcher| matcher.priority).min() else { return };
        let goes_first: Vec<usize> = (0..self.matchers.len())
            .filter(|&at| {
                let matcher = &self.matchers[at];
                matcher.priority > lowest || matches!(*matcher.path, PathPattern::Regex(_))
            })
            .collect();
        for route in 0..self.matchers.len() {
            for &by in &goes_first {
                if by == route {
                    continue;
                }
                if self.exhausted(route) {
                    return;
                }
                if self.shadows_one(by, route) {
                    self.findings.push(Finding::Shadowed { route, by });
                    break;
                }
            }
        }
    }

    fn shadows_one(&mut self, by: usize, route: usize) -> bool {
        let (first, second) = (&self.matchers[by], &self.matchers[route]);
        let by_priority = first.priority > second.priority;
        // Among equal priorities a regular expression goes before what is no whole path, on the same host.
        let by_class = first.priority == second.priority
            && !second.path.is_exact()
            && matches!((&*first.path, &*second.path), (PathPattern::Regex(_), PathPattern::Segments(_)))
            && second.hosts.iter().all(|host| first.hosts.contains(host));
        let hosts = second.hosts.iter().all(|host| first.hosts.iter().any(|wide| wide.covers(host)));
        if !(by_priority || by_class) || !hosts || !first.methods.covers(&second.methods) {
            return false;
        }
        if !first.when.is_implied_by(&second.when) {
            return false;
        }
        first.path.covers(&second.path)
            || (matches!(*first.path, PathPattern::Regex(_)) && self.walk(route, by, true) == Some(false))
    }

    fn exhausted(&mut self, route: usize) -> bool {
        self.pairs += 1;
        if self.pairs > ROUTE_PAIRS_MAX {
            self.findings.push(Finding::Unseen { route });
        }
        self.pairs > ROUTE_PAIRS_MAX
    }

    /// Whether some path is taken by both. `None`: too much to find out.
    fn meet(&mut self, one: usize, other: usize) -> Option<bool> {
        self.walk(one, other, false)
    }

    /// Whether some path that `one` takes is taken by `other` (or, if `without`, is not).
    fn walk(&mut self, one: usize, other: usize, without: bool) -> Option<bool> {
        for route in [one, other] {
            let matchers = self.matchers;
            self.automata.entry(route).or_insert_with(|| automaton(&matchers[route].path));
        }
        let first = self.automata.get(&one)?.as_ref()?;
        let second = self.automata.get(&other)?.as_ref()?;
        let start = |dfa: &dense::DFA<Vec<u32>>| {
            let state = dfa.start_state_forward(&Input::new("").anchored(Anchored::Yes)).ok()?;
            // Every path begins with a slash.
            Some(dfa.next_state(state, b'/'))
        };
        let accepts = |dfa: &dense::DFA<Vec<u32>>, state: StateID| dfa.is_match_state(dfa.next_eoi_state(state));
        let mut seen = HashSet::new();
        let mut open = VecDeque::from([(start(first)?, start(second)?)]);
        while let Some((a, b)) = open.pop_front() {
            if accepts(first, a) && accepts(second, b) != without {
                return Some(true);
            }
            // What a canonical path is made of (RFC 3986 §3.3).
            for byte in b'!'..=b'~' {
                let next = (first.next_state(a, byte), second.next_state(b, byte));
                let over = first.is_dead_state(next.0) || (!without && second.is_dead_state(next.1));
                if !over && seen.insert(next) {
                    open.push_back(next);
                }
            }
            if seen.len() > STATES_MAX {
                return None;
            }
        }
        Some(false)
    }
}

/// Pairs of states looked at for one pair of routes.
const STATES_MAX: usize = 20_000;

/// The automaton of what a pattern takes. `None`: it would be too large.
fn automaton(path: &PathPattern) -> Option<dense::DFA<Vec<u32>>> {
    let text = match path {
        PathPattern::Regex(regex) => format!("(?:{})$", regex.text),
        PathPattern::Segments(pattern) => {
            let mut text = String::new();
            for segment in &pattern.segments {
                let (capture, literal) = match segment {
                    Segment::Literal(literal) => ("", literal),
                    Segment::Capture { suffix, .. } => ("[^/]+", suffix),
                };
                text.push('/');
                text.push_str(capture);
                text.push_str(&regex::escape(&String::from_utf8_lossy(literal)));
            }
            if let End::Rest(_) = pattern.end {
                text.push_str(if text.is_empty() { "/.*" } else { "(?:/.*)?" });
            }
            text.push('$');
            text
        }
    };
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .dfa_size_limit(Some(REGEX_COMPILED_BYTES_MAX))
        .determinize_size_limit(Some(REGEX_COMPILED_BYTES_MAX));
    let syntax = syntax::Config::new().unicode(false).utf8(false);
    dense::Builder::new().configure(config).syntax(syntax).build(&text).ok()
}

/// The same for patterns that no rule of precedence tells apart: regular expressions, and segments whatever their captures
/// are called.
struct Class<'a>(Option<&'a Segments>);

impl<'a> Class<'a> {
    fn of(path: &'a PathPattern) -> Class<'a> {
        match path {
            PathPattern::Segments(pattern) => Class(Some(pattern)),
            PathPattern::Regex(_) => Class(None),
        }
    }

    /// Whether each segment is a capture, with its literal or suffix.
    fn segments(&self) -> impl Iterator<Item = (bool, &[u8])> {
        self.0.iter().flat_map(|pattern| &pattern.segments).map(|segment| match segment {
            Segment::Literal(literal) => (false, &**literal),
            Segment::Capture { suffix, .. } => (true, &**suffix),
        })
    }

    /// Whether the rest is taken. `None`: a regular expression.
    fn takes_rest(&self) -> Option<bool> {
        self.0.map(|pattern| matches!(pattern.end, End::Rest(_)))
    }
}

impl Hash for Class<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.takes_rest().hash(state);
        self.segments().for_each(|segment| segment.hash(state));
    }
}

impl PartialEq for Class<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.takes_rest() == other.takes_rest() && self.segments().eq(other.segments())
    }
}

impl Eq for Class<'_> {}

#[cfg(test)]
mod tests {
    use super::super::tests::matcher;
    use super::*;

    #[track_caller]
    fn check(routes: &[&str], expected: &[Finding]) {
        let matchers: Vec<Matcher> =
            routes.iter().enumerate().map(|(at, text)| matcher(&format!("r{at}"), text)).collect();
        assert_eq!(report(&matchers), expected, "{routes:?}");
    }

    #[test]
    fn routes_that_differ_somewhere_are_fine() {
        check(&["path = '/a'", "path = '/b'", "path = '/a/**'", "path = '/**'"], &[]);
        check(&["path = '/a'", "path = '/a'\nhost = 'x'"], &[]);
        check(&["path = '/a'", "path = '/a'\nmethods = ['GET']"], &[]);
        check(&["path = '/a'\nmethods = ['POST']", "path = '/a'\nmethods = ['GET']"], &[]);
        check(&["path = '/a'", "path = '/a'\nwhen.headers.x = '1'"], &[]);
        check(&["path = '/a'\nwhen.headers.x = '2'", "path = '/a'\nwhen.headers.x = '1'"], &[]);
        check(&["path = '/a'\nwhen.headers.x.present = false", "path = '/a'\nwhen.headers.x = '1'"], &[]);
        check(&["path = '/a'\nwhen.query.x.max = 4", "path = '/a'\nwhen.query.x.min = 5"], &[]);
        check(&["path = '/a'\nwhen.client = ['10.0.0.0/8']", "path = '/a'\nwhen.client = ['11.0.0.0/8']"], &[]);
        check(&["path.regex = '/a/[0-9]+'", "path.regex = '/a/[a-z]+'"], &[]);
        check(&["path.regex = '/a/[0-9]+'", "path = '/a/{x}'"], &[]);
        check(&["path = '/**'\npriority = 1\nwhen.headers.x = '1'", "path = '/a'"], &[]);
    }

    #[test]
    fn twins_are_the_same_or_tie() {
        check(&["path = '/a'", "path = '/a'"], &[Finding::Same { route: 1, other: 0 }]);
        check(&["path = '/{x}'", "path = '/{y}'"], &[Finding::Same { route: 1, other: 0 }]);
        check(&["path = '/x/**'", "path = '/x/{y=**}'"], &[Finding::Same { route: 1, other: 0 }]);
        check(
            &["path = '/a'\nhost = ['x', 'y']", "path = '/a'\nhost = ['y', 'z']"],
            &[Finding::Same { route: 1, other: 0 }],
        );
        check(
            &["path = '/a'\nwhen.headers.x = '1'", "path = '/a'\nwhen.headers.y = '1'"],
            &[Finding::Tie { route: 1, first: 0 }],
        );
        check(&["path.regex = '/a/[0-9]+'", "path.regex = '/a/[0-9a-f]+'"], &[Finding::Tie { route: 1, first: 0 }]);
        check(&["path.regex = '/a'", "path.regex = '/a'"], &[Finding::Same { route: 1, other: 0 }]);
    }

    #[test]
    fn a_route_behind_one_that_takes_everything_is_found() {
        check(&["path = '/a'", "path = '/**'\npriority = 1"], &[Finding::Shadowed { route: 0, by: 1 }]);
        check(&["path = '/a/{x}'", "path.regex = '/.*'"], &[Finding::Shadowed { route: 0, by: 1 }]);
        check(&["path = '/a/{x}'", "path.regex = '/a/[^/]+'"], &[Finding::Shadowed { route: 0, by: 1 }]);
        check(&["path = '/a/{x}'", "path.regex = '/a/[^/x]+'"], &[]);
        check(&["path = '/a'\nwhen.percentage = '0%'"], &[Finding::Never { route: 0 }]);
        check(&["path = '/a'\nwhen.query.x = { min = 5, max = 4 }"], &[Finding::Never { route: 0 }]);
        check(&["path = '/a'\nwhen.query.x = { exact = 'a', prefix = 'b' }"], &[Finding::Never { route: 0 }]);
    }
}
