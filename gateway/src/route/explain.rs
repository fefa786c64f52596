//! Why a request gets the route it gets: every route is asked by itself, and what is left is put in order.
//!
//! The answer does not come from the compiled tables: it is the rules applied one after the other, which is what an operator
//! wants to read, and what the tables are tested against.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::condition::Unmet;
use super::{Asked, HOST_BYTES_MAX, Matcher, Miss, RouteTable, allow, host_name};

/// Other routes told of.
const OTHERS_MAX: usize = 10;

/// What becomes of a request, and what else might have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub outcome: Outcome,
    /// Routes that came close, the closest first, each with the reason why it is not the one. Indices into the table.
    pub others: Vec<(usize, String)>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Index into the table.
    Route(usize),
    /// With the value of `Allow`.
    MethodNotAllowed(String),
    Nothing,
}

impl RouteTable {
    /// Explains what becomes of `asked`. Looks at every route: not for the data path.
    pub fn explain(&self, asked: &Asked<'_>) -> Explanation {
        explain(&self.matchers, asked)
    }
}

pub(super) fn explain(matchers: &[Matcher], asked: &Asked<'_>) -> Explanation {
    let mut lowered = [0u8; HOST_BYTES_MAX];
    let host = host_name(asked.host, &mut lowered);
    let misses: Vec<Vec<Miss>> = matchers.iter().map(|matcher| matcher.misses(asked)).collect();
    let mut taking: Vec<usize> = (0..matchers.len()).filter(|&at| misses[at].is_empty()).collect();
    taking.sort_by(|&one, &other| {
        let steps = steps(&matchers[one], &matchers[other], host, asked);
        steps.into_iter().map(|(order, _)| order).find(|order| order.is_ne()).unwrap_or(one.cmp(&other))
    });
    let outcome = match taking.first() {
        Some(&first) => Outcome::Route(first),
        None => {
            let mut refused = matchers.iter().zip(&misses).filter(|(_, misses)| **misses == [Miss::Method]).peekable();
            match refused.peek() {
                Some(_) => Outcome::MethodNotAllowed(allow(refused.map(|(matcher, _)| &matcher.methods))),
                None => Outcome::Nothing,
            }
        }
    };
    let mut others: Vec<(usize, String)> = Vec::new();
    if let [first, behind @ ..] = &taking[..] {
        for &at in behind.iter().take(OTHERS_MAX) {
            let steps = steps(&matchers[*first], &matchers[at], host, asked);
            let rule =
                steps.iter().find(|(order, _)| order.is_ne()).map_or("comes first in the file", |(_, rule)| rule);
            others.push((at, format!("takes it too, but `{}` {rule}", matchers[*first].name)));
        }
    }
    let mut missing: Vec<usize> = (0..matchers.len()).filter(|&at| !misses[at].is_empty()).collect();
    missing.sort_by_cached_key(|&at| distance(&matchers[at], &misses[at], asked));
    let room = OTHERS_MAX.saturating_sub(others.len());
    let near = missing.into_iter().filter(|&at| is_near(&matchers[at], &misses[at], asked)).take(room);
    others.extend(near.map(|at| (at, reasons(&matchers[at], &misses[at], asked))));
    Explanation { outcome, others }
}

/// Each rule of precedence in its order, with how `one` stands to `other` by it and what to say if it goes first.
fn steps(one: &Matcher, other: &Matcher, host: &[u8], asked: &Asked<'_>) -> [(Ordering, &'static str); 6] {
    let hosts = match (one.best_host(host), other.best_host(host)) {
        (Some(one), Some(other)) => one.precedence(other),
        _ => Ordering::Equal,
    };
    [
        (other.priority.cmp(&one.priority), "has the higher priority"),
        (hosts, "names the host more exactly"),
        (one.path.precedence(&other.path), "has the more specific path"),
        (one.method_rank(asked).cmp(&other.method_rank(asked)), "names the method"),
        (other.when.rank().cmp(&one.when.rank()), "has more conditions"),
        (one.name.cmp(&other.name), "comes first by the alphabet: no rule tells them apart"),
    ]
}

/// How far a route is from taking a request: what kind of miss, then how much of the path agrees.
fn distance(matcher: &Matcher, misses: &[Miss], asked: &Asked<'_>) -> (usize, usize, usize) {
    let weight = |miss: &Miss| match miss {
        Miss::When(_) => 1,
        Miss::Method => 2,
        Miss::Path => 10,
        Miss::Host => 20,
    };
    let agreed = common(&matcher.path.to_string(), asked.path);
    (misses.iter().map(weight).sum(), usize::MAX - agreed, 0)
}

/// Bytes in which a path agrees with a pattern from its beginning.
fn common(pattern: &str, path: &[u8]) -> usize {
    pattern.bytes().zip(path).take_while(|(one, other)| one == *other).count()
}

/// Not every route that has nothing to do with a request is worth a line.
fn is_near(matcher: &Matcher, misses: &[Miss], asked: &Asked<'_>) -> bool {
    !misses.contains(&Miss::Path)
        || (!misses.contains(&Miss::Host) && common(&matcher.path.to_string(), asked.path) > 1)
}

fn reasons(matcher: &Matcher, misses: &[Miss], asked: &Asked<'_>) -> String {
    let mut text = String::new();
    for miss in misses {
        if !text.is_empty() {
            text.push_str("; ");
        }
        // Writing to memory does not fail.
        let _ = match miss {
            Miss::Host => {
                let hosts: Vec<String> = matcher.hosts.iter().map(|host| format!("`{host}`")).collect();
                write!(text, "its host is {}", hosts.join(" or "))
            }
            Miss::Path => write!(text, "its path is `{}`", matcher.path),
            Miss::Method => {
                write!(text, "it takes {} only", allow(std::iter::once(&matcher.methods)))
            }
            Miss::When(Unmet::Header(name)) => write!(text, "its condition on the header `{name}` does not hold"),
            Miss::When(Unmet::Query(name)) => {
                write!(text, "its condition on the query parameter `{name}` does not hold")
            }
            Miss::When(Unmet::Cookie(name)) => write!(text, "its condition on the cookie `{name}` does not hold"),
            Miss::When(Unmet::Client) => write!(text, "the client {} is in none of its networks", asked.came.client),
            Miss::When(Unmet::Scheme) => write!(text, "it is not for `{}`", asked.came.scheme),
            Miss::When(Unmet::Sni) => match asked.came.server_name {
                Some(name) => write!(text, "TLS was begun for `{name}`, which is none of its names"),
                None => write!(text, "it is for clients that begin TLS with one of its names"),
            },
            Miss::When(Unmet::Share) => write!(
                text,
                "it takes {}% of such requests, and this one was not drawn",
                f64::from(matcher.when.share.unwrap_or_default()) / 10_000.0
            ),
        };
    }
    text
}
