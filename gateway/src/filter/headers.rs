//! `headers`: removes, sets and adds fields on the way in and on the way out, with a few safe variables.
//!
//! Names and values were checked when the configuration was loaded, and variables hold no CR, LF or NUL by construction:
//! what they show went through the head parser or is ours. Names the gateway itself speaks cannot be edited.

use super::{Context, Effect, Filter, Kind, Phase, Step};
use crate::config::model::{self, HeaderEdits};
use crate::proxy::fields::Fields;
use crate::proxy::head::ResponseHead;

pub const KIND: Kind = Kind { name: "headers", phase: Phase::Finish, compile };

struct Headers {
    request: Edits,
    response: Edits,
}

#[derive(Default)]
struct Edits {
    remove: Vec<Box<[u8]>>,
    set: Vec<(Box<[u8]>, Value)>,
    add: Vec<(Box<[u8]>, Value)>,
}

/// A value in parts: text and variables.
struct Value(Vec<Part>);

enum Part {
    Text(Box<[u8]>),
    Variable(Variable),
}

/// What of the exchange may be shown in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    ClientIp,
    RequestId,
    Route,
    Host,
    Method,
    Path,
    Scheme,
}

impl Variable {
    pub const ALL: [(&'static str, Variable); 7] = [
        ("client_ip", Variable::ClientIp),
        ("request_id", Variable::RequestId),
        ("route", Variable::Route),
        ("host", Variable::Host),
        ("method", Variable::Method),
        ("path", Variable::Path),
        ("scheme", Variable::Scheme),
    ];

    fn write(self, context: &Context<'_>, out: &mut Vec<u8>) {
        use std::io::Write;
        let facts = context.facts;
        match self {
            // Writing to memory does not fail.
            Variable::ClientIp => drop(write!(out, "{}", facts.client.address)),
            Variable::RequestId => out.extend_from_slice(facts.request_id),
            Variable::Route => out.extend_from_slice(facts.route.as_bytes()),
            Variable::Host => out.extend_from_slice(context.request.authority()),
            Variable::Method => out.extend_from_slice(context.request.method_text()),
            Variable::Path => out.extend_from_slice(context.request.path()),
            Variable::Scheme => out.extend_from_slice(facts.scheme.as_bytes()),
        }
    }
}

fn compile(route: &model::Route) -> Option<Box<dyn Filter>> {
    let written = &route.headers;
    let edits = |edits: &HeaderEdits| Edits {
        remove: edits.remove.iter().map(|name| name.as_bytes().into()).collect(),
        set: edits.set.iter().map(|(name, value)| (lowered(name), Value::parse(value))).collect(),
        add: edits.add.iter().map(|(name, value)| (lowered(name), Value::parse(value))).collect(),
    };
    let headers = Headers { request: edits(&written.request), response: edits(&written.response) };
    let idle = headers.request.is_empty() && headers.response.is_empty();
    (!idle).then(|| Box::new(headers) as Box<dyn Filter>)
}

fn lowered(name: &str) -> Box<[u8]> {
    name.to_ascii_lowercase().into_bytes().into()
}

impl Value {
    /// Splits `text` at its `${variable}`s. An unknown one is a problem found at load; here it stays text.
    fn parse(text: &str) -> Value {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut plain = String::new();
        while let Some(at) = rest.find("${") {
            plain.push_str(&rest[..at]);
            let inside = &rest[at + 2..];
            let end = inside.find('}');
            let found = end.and_then(|end| Variable::ALL.iter().find(|(name, _)| *name == &inside[..end]));
            match (found, end) {
                (Some((_, variable)), Some(end)) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain).into_bytes().into()));
                    }
                    parts.push(Part::Variable(*variable));
                    rest = &inside[end + 1..];
                }
                _ => {
                    plain.push_str("${");
                    rest = inside;
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into_bytes().into()));
        }
        Value(parts)
    }

    fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        out.clear();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable(variable) => variable.write(context, out),
            }
        }
    }
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Values are made before fields are edited: a variable may show what an edit removes.
    fn values(&self, context: &Context<'_>) -> Vec<Vec<u8>> {
        self.set
            .iter()
            .chain(&self.add)
            .map(|(_, value)| {
                let mut out = Vec::new();
                value.write(context, &mut out);
                out
            })
            .collect()
    }

    fn apply(&self, fields: &mut Fields, values: Vec<Vec<u8>>) {
        self.remove.iter().for_each(|name| fields.remove(name));
        let mut values = values.into_iter();
        for ((name, _), value) in self.set.iter().zip(values.by_ref()) {
            fields.set(name, &value);
        }
        for ((name, _), value) in self.add.iter().zip(values) {
            fields.add(name, &value);
        }
    }
}

impl Filter for Headers {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        if !self.request.is_empty() {
            let values = self.request.values(context);
            self.request.apply(&mut context.request.fields, values);
        }
        Effect::Next
    }

    fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        if !self.response.is_empty() {
            let values = self.response.values(context);
            self.response.apply(&mut head.fields, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<String> {
        Value::parse(text)
            .0
            .iter()
            .map(|part| match part {
                Part::Text(text) => String::from_utf8_lossy(text).into_owned(),
                Part::Variable(variable) => format!("<{variable:?}>"),
            })
            .collect()
    }

    #[test]
    fn values_are_cut_at_their_variables() {
        let check = |text: &str, expected: &[&str]| assert_eq!(parts(text), expected, "{text}");
        check("", &[]);
        check("plain", &["plain"]);
        check("${client_ip}", &["<ClientIp>"]);
        check("a ${method} b${path}", &["a ", "<Method>", " b", "<Path>"]);
        check("${nobody} ${host", &["${nobody} ${host"]);
        check("$${host}", &["$", "<Host>"]);
    }
}
