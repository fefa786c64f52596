//! `explain route`: which route a request gets, what that route does with it, and which others came close.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use http1::HeadLimits;
use serde::Serialize;

use crate::balance::Destination;
use crate::config::model::Underscores;
use crate::limits::HEAD_BYTES_MAX;
use crate::proxy::head::RequestHead;
use crate::proxy::prepare::read_head;
use crate::refusal::Refusal;
use crate::route::action::Action;
use crate::route::condition::WHOLE;
use crate::route::explain::Outcome;
use crate::route::{Came, Found};
use crate::snapshot::{Route, Snapshot};

/// A request that nobody sent.
pub struct Question {
    text: Vec<u8>,
    client: IpAddr,
    /// Its URL begins with `https`, so TLS was begun for its host.
    is_https: bool,
    server_name: Option<String>,
}

/// What becomes of a request. `outcome` says which of the others are there.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Chosen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refused>,
    /// Routes that came close, the closest first.
    pub others: Vec<Other>,
}

/// The route of a request.
#[derive(Debug, Serialize)]
pub struct Chosen {
    pub name: String,
    /// Its place in the configuration, from 0.
    pub index: usize,
    pub host: String,
    pub path: String,
    pub methods: Vec<String>,
    /// What it does, in words.
    pub action: String,
    /// Policies in the order in which a request meets them.
    pub filters: Vec<Step>,
    /// The canonical path, if it is not what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_path: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Step {
    pub phase: &'static str,
    pub name: &'static str,
}

/// Why there is no route.
#[derive(Debug, Serialize)]
pub struct Refused {
    pub status: u16,
    pub code: &'static str,
    pub detail: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Other {
    pub name: String,
    pub index: usize,
    pub why: String,
}

impl Question {
    /// A request as a person writes it: `url` with or without scheme and host, each of `headers` as `name: value`.
    pub fn new(method: &str, url: &str, headers: &[String], client: Option<&str>) -> Result<Question, String> {
        let plain = |what: &str, text: &str| match text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            true => Ok(()),
            false => Err(format!("{what}: only visible ASCII can be sent; escape the rest as `%XX`")),
        };
        plain("the method", method)?;
        plain("the URL", url)?;
        if method.is_empty() || method.contains([' ', '\t']) || url.contains([' ', '\t']) {
            return Err("a method and a URL hold no space".to_owned());
        }
        let is_https = url.starts_with("https://");
        let after_scheme = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let (authority, target) = match after_scheme {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            None if url.starts_with('/') || url == "*" => (None, url),
            None => return Err("the URL begins with `http://`, `https://` or `/`".to_owned()),
        };
        let root = if target.starts_with('/') || target == "*" { "" } else { "/" };
        let mut text = format!("{method} {root}{target} HTTP/1.1\r\n");
        let mut has_host = false;
        for header in headers {
            plain("a header", header)?;
            let (name, value) = header.split_once(':').ok_or("a header is written `name: value`")?;
            has_host |= name.eq_ignore_ascii_case("host");
            // Writing to memory does not fail.
            let _ = write!(text, "{name}: {}\r\n", value.trim());
        }
        if !has_host {
            let _ = write!(text, "Host: {}\r\n", authority.unwrap_or("localhost"));
        }
        text.push_str("\r\n");
        let client = match client {
            Some(client) => client.parse().map_err(|_| "the client is an IP address".to_owned())?,
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let name = authority.filter(|_| is_https).and_then(|text| http1::host_parts(text.as_bytes()).ok());
        let server_name = name.map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase());
        Ok(Question { text: text.into_bytes(), client, is_https, server_name })
    }
}

/// What becomes of the request under `snapshot`.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Answer {
    let settings = &snapshot.settings;
    let limits = HeadLimits { head_bytes: HEAD_BYTES_MAX, fields: settings.fields, target_bytes: settings.head_bytes };
    // Whether a field name may hold `_` is the listener's business, and nobody said which one.
    match read_head(&question.text, &limits, Underscores::Keep) {
        Ok(head) => {
            let scheme = if question.is_https { "https" } else { "http" };
            let came = Came { client: question.client, scheme, server_name: question.server_name.as_deref() };
            found(snapshot, &head, came)
        }
        Err(refusal) => refused(refusal, None, Vec::new()),
    }
}

fn found(snapshot: &Snapshot, head: &RequestHead, came: Came<'_>) -> Answer {
    let routes = &snapshot.routes;
    // Not drawn, whatever the share: the explanation says that there is a lot.
    let (asked, _) = routes.asked(head, came, WHOLE - 1);
    let explanation = routes.explain(&asked);
    let named = |index: usize| routes.iter().nth(index);
    let others = explanation
        .others
        .into_iter()
        .filter_map(|(index, why)| named(index).map(|(_, route)| Other { name: route.name.clone(), index, why }));
    let others = others.collect();
    let index = match explanation.outcome {
        Outcome::Route(index) => index,
        Outcome::MethodNotAllowed(allow) => return refused(Refusal::MethodNotAllowed, Some(allow), others),
        Outcome::Nothing => return refused(Refusal::NoRoute, None, others),
    };
    let Some((matcher, route)) = named(index) else { return refused(Refusal::Internal, None, others) };
    let path = match routes.decide(head, &asked) {
        Ok((Found::Route(_), decoded)) => decoded.unwrap_or_else(|| head.path().to_vec()),
        Ok(_) => return refused(Refusal::Internal, None, others),
        Err(fault) => return refused(Refusal::Malformed(fault), None, others),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let hosts: Vec<String> = matcher.hosts.iter().map(|host| host.to_string()).collect();
    let chosen = Chosen {
        name: route.name.clone(),
        index,
        host: hosts.join(", "),
        path: matcher.path.to_string(),
        methods: matcher.methods.names().map(text).collect(),
        action: action(snapshot, route),
        filters: route.chain.steps().map(|(phase, name)| Step { phase: phase.name(), name }).collect(),
        canonical_path: (path != head.received_path()).then(|| text(&path)),
    };
    Answer { outcome: "route", route: Some(chosen), refusal: None, others }
}

fn refused(refusal: Refusal, allow: Option<String>, others: Vec<Other>) -> Answer {
    let refused = Refused { status: refusal.status(), code: refusal.code(), detail: refusal.detail(), allow };
    Answer { outcome: "refused", route: None, refusal: Some(refused), others }
}

fn action(snapshot: &Snapshot, route: &Route) -> String {
    let name = |to: Destination| {
        let upstream = &snapshot.upstreams[to.upstream];
        match usize::from(to.subset).checked_sub(1).and_then(|at| upstream.subsets.get(at)) {
            Some(subset) => format!("{} ({subset})", upstream.name),
            None => upstream.name.clone(),
        }
    };
    match &route.action {
        Action::Upstream(to) => format!("upstream {}", name(*to)),
        Action::Split(split) => {
            let shares = split.shares().map(|(to, share)| format!("{} {:.1}%", name(to), share * 100.0));
            format!("split: {}", shares.collect::<Vec<_>>().join(", "))
        }
        Action::Redirect(redirect) => format!("redirect with {}", redirect.status()),
        Action::Respond(respond) => format!("fixed answer with {}", respond.status()),
    }
}

impl Answer {
    /// For a person. `place` says where the route of an index is written.
    pub fn text(&self, place: impl Fn(usize) -> Option<String>) -> String {
        let mut out = String::new();
        let mut row = |what: &str, text: &str| {
            let _ = writeln!(out, "{what:<10} {text}");
        };
        let at = |index: usize| place(index).map(|place| format!("  ({place})")).unwrap_or_default();
        if let Some(route) = &self.route {
            row("route", &format!("{}{}", route.name, at(route.index)));
            let methods = if route.methods.is_empty() { "all methods".to_owned() } else { route.methods.join(", ") };
            row("matched", &format!("{}, path {}, {methods}", route.host, route.path));
            if let Some(path) = &route.canonical_path {
                row("path", &format!("{path}, after it was made canonical"));
            }
            for (number, step) in route.filters.iter().enumerate() {
                row(if number == 0 { "filters" } else { "" }, &format!("{:<10} {}", step.phase, step.name));
            }
            row("then", &route.action);
        }
        if let Some(refusal) = &self.refusal {
            row("refused", &format!("{} {}: {}", refusal.status, refusal.code, refusal.detail));
            if let Some(allow) = &refusal.allow {
                row("allow", allow);
            }
        }
        for (number, other) in self.others.iter().enumerate() {
            let what = if number == 0 { "not" } else { "" };
            row(what, &format!("{}: {}{}", other.name, other.why, at(other.index)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_request_as_people_write_it() {
        let text = |method: &str, url: &str, headers: &[&str]| {
            let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
            Question::new(method, url, &headers, None).map(|question| String::from_utf8(question.text).expect("ascii"))
        };
        assert_eq!(
            text("GET", "https://a.example:8443/x?y", &["X-A:  1 "]).as_deref(),
            Ok("GET /x?y HTTP/1.1\r\nX-A: 1\r\nHost: a.example:8443\r\n\r\n")
        );
        assert_eq!(text("GET", "http://a", &[]).as_deref(), Ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(text("GET", "http://a?b", &[]).as_deref(), Ok("GET /?b HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(text("GET", "/x", &["host: b"]).as_deref(), Ok("GET /x HTTP/1.1\r\nhost: b\r\n\r\n"));
        assert_eq!(text("OPTIONS", "*", &[]).as_deref(), Ok("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        for (method, url, header) in [
            ("GET", "a.example/x", "a: b"),
            ("GET", "/x y", "a: b"),
            ("GET X", "/", "a: b"),
            ("", "/", "a: b"),
            ("GET", "/\r\nX: y", "a: b"),
            ("GET", "/", "a: b\r\nc: d"),
            ("GET", "/", "no colon"),
            ("GET", "/é", "a: b"),
        ] {
            assert!(text(method, url, &[header]).is_err(), "{method} {url} {header}");
        }
        assert!(Question::new("GET", "/", &[], Some("nobody")).is_err());
    }
}
