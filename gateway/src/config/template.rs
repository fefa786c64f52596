//! Header values with request variables: `"${client_ip}"`. Checked at load; compiled by whoever sends them.
//!
//! A value is text with `${name}` or `${what.name}` in it, see [`Variable`]; `$${` stands for a plain `${`. Variables in
//! upper case are of the environment and were replaced before this module sees the text.

use super::words::Wrong;
use crate::problem::closest;

/// What a request is asked for. None of them can carry a line break: all were checked when the request was read.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// `${path.name}`: what the route's path captured.
    Capture(Box<str>),
    /// `${header.name}`: a field of the request, its lines joined by `, `.
    Header(Box<str>),
    /// `${query.name}`: the first parameter of that name, as it was sent: still encoded.
    Query(Box<str>),
    /// `${cookie.name}`: the first cookie of that name.
    Cookie(Box<str>),
}

/// Every variable without a part of its own, and its name in the file.
pub const VARIABLES: [(&str, Variable); 7] = [
    ("client_ip", Variable::ClientIp),
    ("request_id", Variable::RequestId),
    ("route", Variable::Route),
    ("host", Variable::Host),
    ("method", Variable::Method),
    ("path", Variable::Path),
    ("scheme", Variable::Scheme),
];

/// Variables with a part: `${path.name}`.
type Made = fn(Box<str>) -> Variable;
const PARTS: [(&str, Made); 4] = [
    ("path", Variable::Capture),
    ("header", Variable::Header),
    ("query", Variable::Query),
    ("cookie", Variable::Cookie),
];

impl Variable {
    /// The variable of that name.
    fn named(name: &str) -> Option<Variable> {
        if let Some((what, part)) = name.split_once('.') {
            let (_, make) = PARTS.iter().find(|(known, _)| *known == what)?;
            let fits =
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte));
            return fits.then(|| make(part.into()));
        }
        VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, variable)| variable.clone())
    }
}

/// A piece of a text with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<V = Variable> {
    Text(String),
    Variable(V),
}

/// A text with request variables, taken apart. No two texts follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    pub pieces: Vec<Piece>,
}

impl<V> Piece<V> {
    /// Its text, if it is no variable.
    pub fn text(&self) -> Option<&str> {
        match self {
            Piece::Text(text) => Some(text),
            Piece::Variable(_) => None,
        }
    }
}

impl Template {
    /// Whether it says the same for every request.
    pub fn is_plain(&self) -> bool {
        self.pieces.iter().all(|piece| piece.text().is_some())
    }

    /// The captures it shows.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(Variable::Capture(name)) => Some(&**name),
            _ => None,
        })
    }

    /// Values must be what RFC 9110 §5.5 lets a field carry, without the obsolete bytes beyond ASCII.
    pub fn parse(text: &str) -> Result<Template, Wrong> {
        field_value(text)?;
        Ok(Template { pieces: pieces(text, Variable::named, unknown)? })
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

/// What an error page shows of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Status,
    Reason,
    Code,
    Detail,
    RequestId,
}

/// Every variable of an error page.
const SHOWN: [(&str, Shown); 5] = [
    ("status", Shown::Status),
    ("reason", Shown::Reason),
    ("code", Shown::Code),
    ("detail", Shown::Detail),
    ("request_id", Shown::RequestId),
];

/// The body of an error page, taken apart. Nothing a client chose is in it but a request id, which is escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub pieces: Vec<Piece<Shown>>,
}

impl Page {
    pub fn parse(text: &str) -> Result<Page, Wrong> {
        let named = |name: &str| SHOWN.iter().find(|(known, _)| *known == name).map(|(_, shown)| *shown);
        let unknown = |name: &str| among(name, &SHOWN.map(|(name, _)| name), "an error page shows");
        Ok(Page { pieces: pieces(text, named, unknown)? })
    }
}

/// Takes a text apart. `named` finds a variable, `unknown` says what to write instead.
fn pieces<V>(
    text: &str,
    named: impl Fn(&str) -> Option<V>,
    unknown: impl Fn(&str) -> Wrong,
) -> Result<Vec<Piece<V>>, Wrong> {
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
        let Some(variable) = named(name) else {
            return Err(unknown(name));
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Variable(variable));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

fn unknown(name: &str) -> Wrong {
    let names = VARIABLES.iter().map(|(name, _)| *name);
    let names: Vec<&str> = names.chain(["path.name", "header.name", "query.name", "cookie.name"]).collect();
    among(name, &names, "request variables are")
}

/// What to write instead of a name that is not one of `names`.
fn among(name: &str, names: &[&str], which: &str) -> Wrong {
    match closest(name, names.iter().copied()) {
        Some(known) => {
            Wrong { why: "no request variable has this name".to_owned(), instead: Some(format!("${{{known}}}")) }
        }
        None => Wrong { why: format!("{which} {}", names.join(", ")), instead: None },
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
