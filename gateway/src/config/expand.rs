//! `${VAR}` in strings: upper case is the environment, lower case a request variable, `$${` a plain `${`.
//!
//! Runs on parsed strings, so a value can hold quotes, line breaks or TOML and stays the value of its key.

use super::words::Wrong;
use crate::problem::quoted;

/// Looks a variable up.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Bytes of a string after its variables were replaced; nothing in the file is longer.
const EXPANDED_BYTES_MAX: usize = 64 * 1024;

/// The string with its environment variables replaced. `None`: there is nothing to replace.
///
/// In a `template` (a header value) request variables and escapes stay for [`super::template`], and what came from the
/// environment is escaped, so that it cannot bring in a request variable. Elsewhere a request variable is refused.
pub(super) fn expand(text: &str, template: bool, environment: Environment<'_>) -> Result<Option<String>, Wrong> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str(if template { "$${" } else { "${" });
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some((name, after)) = rest[at + 2..].split_once('}') else {
            return Err(wrong("a `${` without its `}`; write `$${` where a plain `${` is meant"));
        };
        match kind(name) {
            Kind::Environment => {
                let value = environment(name).ok_or_else(|| {
                    wrong(format!("the environment has no variable {}; write `$${{` for a plain `${{`", quoted(name)))
                })?;
                out.push_str(&if template { value.replace("${", "$${") } else { value });
            }
            Kind::Request if template => out.push_str(&rest[at..at + 2 + name.len() + 1]),
            Kind::Request => {
                return Err(wrong(
                    "request variables stand in header values only; environment variables are in upper case",
                ));
            }
            Kind::Neither => {
                return Err(wrong(
                    "a variable is `${UPPER_CASE}` for the environment or `${lower_case}` for the request",
                ));
            }
        }
        rest = after;
        if out.len() > EXPANDED_BYTES_MAX {
            return Err(wrong(format!("longer than {EXPANDED_BYTES_MAX} bytes once its variables are replaced")));
        }
    }
    out.push_str(rest);
    // A header value may hold request variables only.
    Ok((out != text).then_some(out))
}

fn wrong(why: impl Into<String>) -> Wrong {
    Wrong { why: why.into(), instead: None }
}

enum Kind {
    Environment,
    Request,
    Neither,
}

fn kind(name: &str) -> Kind {
    // `path.shelf`: what stands behind the dot is a name of somebody else's.
    let (name, part) = name.split_once('.').unwrap_or((name, ""));
    let word = |first: fn(&u8) -> bool| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|byte| first(&byte) || byte == b'_')
            && bytes.all(|byte| first(&byte) || byte.is_ascii_digit() || byte == b'_')
    };
    if word(u8::is_ascii_uppercase) && part.is_empty() {
        Kind::Environment
    } else if word(u8::is_ascii_lowercase) {
        Kind::Request
    } else {
        Kind::Neither
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/srv/x".to_owned()),
            "TRICK" => Some("a\"\n${client_ip}${HOME}".to_owned()),
            _ => None,
        }
    }

    fn check(text: &str, template: bool, expected: Result<Option<&str>, &str>) {
        let got = expand(text, template, &environment);
        match (&got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got.as_deref(), expected, "{text}"),
            (Err(got), Err(expected)) => assert!(got.why.contains(expected), "{text}: {}", got.why),
            _ => panic!("{text}: {got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn upper_case_is_the_environment() {
        check("plain $HOME $", false, Ok(None));
        check("${HOME}/a", false, Ok(Some("/srv/x/a")));
        check("${HOME}${HOME}", false, Ok(Some("/srv/x/srv/x")));
        check("${NOT_THERE}", false, Err("no variable \"NOT_THERE\""));
        check("$${HOME}", false, Ok(Some("${HOME}")));
        check("${HOME", false, Err("without its `}`"));
        check("${Home}", false, Err("UPPER_CASE"));
        check("${}", false, Err("UPPER_CASE"));
        check("${9}", false, Err("UPPER_CASE"));
    }

    #[test]
    fn lower_case_stays_in_header_values_and_is_refused_elsewhere() {
        check("${client_ip}", false, Err("header values only"));
        check("${client_ip} ${HOME}", true, Ok(Some("${client_ip} /srv/x")));
        check("$${HOME}", true, Ok(None));
        check("${client_ip}", true, Ok(None));
    }

    #[test]
    fn what_the_environment_brings_is_text_and_nothing_else() {
        check("${TRICK}", false, Ok(Some("a\"\n${client_ip}${HOME}")));
        check("${TRICK}", true, Ok(Some("a\"\n$${client_ip}$${HOME}")));
    }
}
