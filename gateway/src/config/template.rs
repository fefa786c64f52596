//! Header values with request variables: `"${client_ip}"`. Checked at load; compiled by whoever sends them.
//!
//! A value is text with `${name}` in it, where `name` is one of [`Variable`]; `$${` stands for a plain `${`. Variables in
//! upper case are of the environment and were replaced before this module sees the text.

use super::words::Wrong;
use crate::problem::closest;

/// What a request is asked for. None of them can carry a line break: all were checked when the request was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// The client's address as the listener decided it.
    ClientIp,
    /// The id this exchange has in every log.
    RequestId,
    /// Name of the route.
    Route,
    /// The host asked for, without its port.
    Host,
    Method,
    /// The canonical path.
    Path,
    /// `http` or `https`, as the client spoke to us.
    Scheme,
}

/// Every variable and its name in the file.
pub const VARIABLES: [(&str, Variable); 7] = [
    ("client_ip", Variable::ClientIp),
    ("request_id", Variable::RequestId),
    ("route", Variable::Route),
    ("host", Variable::Host),
    ("method", Variable::Method),
    ("path", Variable::Path),
    ("scheme", Variable::Scheme),
];

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Visible ASCII, spaces and tabs.
    Text(String),
    Variable(Variable),
}

/// A header value, taken apart. No two texts follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    pub pieces: Vec<Piece>,
}

impl Template {
    /// Values must be what RFC 9110 §5.5 lets a field carry, without the obsolete bytes beyond ASCII.
    pub fn parse(text: &str) -> Result<Template, Wrong> {
        field_value(text)?;
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if let Some(before) = rest[..at].strip_suffix('$') {
                plain.push_str(before);
                plain.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            plain.push_str(&rest[..at]);
            let name_on = &rest[at + 2..];
            let Some((name, after)) = name_on.split_once('}') else {
                let why = "a `${` without its `}`; write `$${` where a plain `${` is meant";
                return Err(Wrong { why: why.to_owned(), instead: None });
            };
            let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
                return Err(unknown(name));
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Variable(*variable));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template { pieces })
    }
}

/// Checks what no field could carry, variables or not.
pub(super) fn field_value(text: &str) -> Result<(), Wrong> {
    let why = match text {
        _ if text.bytes().any(|byte| !matches!(byte, b'\t' | b' '..=b'~')) => {
            "a field's value is visible ASCII, spaces and tabs (RFC 9110 §5.5)"
        }
        _ if text.trim_ascii() != text => "space around a field's value is not part of it (RFC 9110 §5.5)",
        _ => return Ok(()),
    };
    Err(Wrong { why: why.to_owned(), instead: None })
}

fn unknown(name: &str) -> Wrong {
    let names = VARIABLES.map(|(name, _)| name);
    match closest(name, names) {
        Some(known) => {
            Wrong { why: "no request variable has this name".to_owned(), instead: Some(format!("${{{known}}}")) }
        }
        None => Wrong { why: format!("request variables are {}", names.join(", ")), instead: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[Piece]) {
        assert_eq!(Template::parse(text).unwrap().pieces, expected, "{text}");
    }

    fn plain(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    #[test]
    fn a_value_is_text_and_variables() {
        check("", &[]);
        check("on", &[plain("on")]);
        check("${client_ip}", &[Piece::Variable(Variable::ClientIp)]);
        check(
            "a ${host}${path} b",
            &[plain("a "), Piece::Variable(Variable::Host), Piece::Variable(Variable::Path), plain(" b")],
        );
        check("5$, $5, $", &[plain("5$, $5, $")]);
        check("$${path}", &[plain("${path}")]);
        check("$$${path}", &[plain("$${path}")]);
        check("$${${path}", &[plain("${"), Piece::Variable(Variable::Path)]);
    }

    #[test]
    fn what_no_field_can_carry_is_refused() {
        for text in ["a\r\nb: c", "a\nb", "\0", " a", "a\t", "é", "\u{7f}"] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
        for text in ["${", "${host", "${}", "${HOST", "a ${ host }"] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Template::parse("${clientip}").unwrap_err().instead.as_deref(), Some("${client_ip}"));
        assert_eq!(Template::parse("${nothing_like_it}").unwrap_err().instead, None);
    }
}
