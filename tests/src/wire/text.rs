//! One line's text: escapes, the wildcard, and directives in angle brackets.

use anyhow::{Context, Result, bail, ensure};

/// A piece of a line's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Byte(u8),
    /// `*`: any bytes of one line.
    Any,
    /// `<...>`, its text not yet read.
    Directive(String),
    /// `\` at the end: no CRLF follows.
    NoLineEnd,
}

pub fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.bytes().enumerate();
    while let Some((at, byte)) = rest.next() {
        tokens.push(match byte {
            b'*' => Token::Any,
            b'<' => {
                let mut depth = 1;
                let mut escaped = false;
                let end = rest.by_ref().find(|&(_, byte)| {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'<' => depth += 1,
                        b'>' => depth -= 1,
                        _ => {}
                    }
                    depth == 0
                });
                let (end, _) = end.context("`<` without its `>`; a plain one is written `\\<`")?;
                Token::Directive(text[at + 1..end].to_owned())
            }
            b'\\' => match rest.next() {
                None => Token::NoLineEnd,
                Some((_, b'r')) => Token::Byte(b'\r'),
                Some((_, b'n')) => Token::Byte(b'\n'),
                Some((_, b't')) => Token::Byte(b'\t'),
                Some((_, b'0')) => Token::Byte(0),
                Some((at, b'x')) => {
                    rest.next();
                    rest.next();
                    let digits = text.get(at + 1..at + 3).context("`\\x` wants two hex digits")?;
                    Token::Byte(u8::from_str_radix(digits, 16).with_context(|| format!("`\\x{digits}`"))?)
                }
                Some((_, same @ (b'\\' | b'<' | b'>' | b'*' | b' '))) => Token::Byte(same),
                Some((_, other)) => bail!("`\\{}` is no escape", char::from(other)),
            },
            byte => Token::Byte(byte),
        });
    }
    Ok(tokens)
}

/// Text that stands for exact bytes: escapes and `<repeat n text>`, nothing else.
pub fn bytes(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for token in tokens(text)? {
        match token {
            Token::Byte(byte) => bytes.push(byte),
            Token::Directive(directive) => bytes.extend(repeated(&directive)?),
            Token::Any => {
                bail!("`*` stands for any bytes only in heads the other side sends; a plain one is written `\\*`")
            }
            Token::NoLineEnd => bail!("`\\` before the end of the line"),
        }
    }
    Ok(bytes)
}

/// `repeat n text`
pub fn repeated(directive: &str) -> Result<Vec<u8>> {
    let (count, text) = directive
        .strip_prefix("repeat ")
        .and_then(|rest| rest.split_once(' '))
        .with_context(|| format!("`<{directive}>` does not stand for bytes"))?;
    Ok(bytes(text)?.repeat(count.parse().with_context(|| format!("`{count}` is no count"))?))
}

/// A line of text with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The text between the wildcards: always one more than there are wildcards.
    parts: Vec<String>,
}

impl Pattern {
    pub fn new(tokens: &[Token]) -> Result<Self> {
        let mut parts = vec![String::new()];
        for token in tokens {
            match token {
                Token::Any => parts.push(String::new()),
                Token::Byte(byte) => parts.last_mut().context("never empty")?.push(char::from(*byte)),
                Token::Directive(directive) => {
                    let bytes = repeated(directive)?;
                    parts.last_mut().context("never empty")?.extend(bytes.into_iter().map(char::from));
                }
                Token::NoLineEnd => bail!("a line of a head ends in CRLF"),
            }
        }
        Ok(Self { parts })
    }

    pub fn matches(&self, text: &str) -> bool {
        let (first, others) = (&self.parts[0], &self.parts[1..]);
        let Some(mut rest) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        let Some((last, between)) = others.split_last() else {
            return rest.is_empty();
        };
        for part in between {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }

    /// `name: value` as a name and a pattern for the value.
    pub fn field(tokens: &[Token]) -> Result<(String, Self)> {
        let colon =
            tokens.iter().position(|token| *token == Token::Byte(b':')).context("a field line without a colon")?;
        let name = Self::new(&tokens[..colon])?;
        ensure!(name.parts.len() == 1, "a field name has no wildcard");
        let mut value = &tokens[colon + 1..];
        while let [Token::Byte(b' '), rest @ ..] = value {
            value = rest;
        }
        Ok((name.parts.concat(), Self::new(value)?))
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.parts.join("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[u8]) {
        assert_eq!(bytes(text).unwrap(), expected, "{text}");
    }

    #[test]
    fn escapes_and_repetitions_stand_for_bytes() {
        check("a b", b"a b");
        check(r"\r\n\t\0\xfF\\\<\>\*", b"\r\n\t\0\xff\\<>*");
        check("<repeat 3 ab>c", b"abababc");
        check(r"<repeat 2 \r\n>", b"\r\n\r\n");
        check("<repeat 2 <repeat 2 a>b>", b"aabaab");
    }

    #[test]
    fn mistakes_in_a_script_are_not_taken_for_bytes() {
        for text in [r"\q", "<close", "<close>", "a*b", r"\x4", "<repeat x a>"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_any_text_and_nothing_else_does() {
        let pattern = |text: &str| Pattern::new(&tokens(text).unwrap()).unwrap();
        assert!(pattern("a*c*").matches("abcd"));
        assert!(pattern("*").matches(""));
        assert!(pattern("00-*-*-01").matches("00-a-b-01"));
        assert!(!pattern("a*c").matches("abcd"));
        assert!(!pattern("a").matches("ab"));
        assert!(!pattern("ab*ba").matches("aba"));
        assert!(pattern(r"a\*").matches("a*"));
        assert!(!pattern(r"a\*").matches("ab"));
    }
}
