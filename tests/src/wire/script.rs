//! Reads a script file into cases, and a case into blocks: consecutive lines of one actor in one direction.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::text::{self, Pattern, Token, tokens};
use crate::origin;

pub struct Script {
    /// As messages name it.
    pub name: String,
    pub config: String,
    pub feeds_whole_only: bool,
    pub cases: Vec<Case>,
}

pub struct Case {
    pub name: String,
    pub line: usize,
    /// Laid over the file's configuration; such a case has a gateway of its own.
    pub config: Option<String>,
    pub feeds_whole_only: bool,
    pub blocks: Vec<Block>,
}

pub struct Block {
    pub line: usize,
    pub actor: Actor,
    pub step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    Client(u8),
    Upstream(u8),
    Log,
}

pub enum Step {
    Send(Vec<Sending>),
    Expect(Vec<Expected>),
    /// `name=pattern`, or `!name`: the next line of the access log.
    Log(Vec<(String, Option<Pattern>)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sending {
    /// One write.
    Write(Vec<u8>),
    /// Open the connection and say nothing.
    Connect,
    Fin,
    Close,
    Reset,
}

/// What must come next.
#[derive(Debug)]
pub enum Expected {
    Head(HeadPattern),
    Refusal(RefusalPattern),
    Bytes(Vec<u8>),
    /// Chunks whose data together is `data`; then the last chunk and these trailers, unless it is `open`.
    Chunks {
        data: Vec<u8>,
        open: bool,
        trailers: FieldPatterns,
    },
    /// FIN.
    Eof,
    /// RST.
    Reset,
    /// Either: the connection is over and the message was not complete.
    Cut,
    /// No byte came.
    Nothing,
    /// No chunked request came to its end: what came of one is cut off.
    Incomplete,
    /// On the connection the last request came on.
    SameConnection,
    /// On another.
    NewConnection,
    /// On the case's n-th, by first use.
    Connection(usize),
}

#[derive(Debug)]
pub struct HeadPattern {
    pub start: Pattern,
    pub fields: FieldPatterns,
}

/// A set of fields. Their order does not count, but for those of one name.
#[derive(Debug, Default)]
pub struct FieldPatterns {
    pub present: Vec<(String, Pattern)>,
    /// `!Name`
    pub absent: Vec<String>,
    /// `...`: others may be there.
    pub open: bool,
}

#[derive(Debug)]
pub struct RefusalPattern {
    pub status: u16,
    pub code: Pattern,
    pub ended_by: String,
    /// An answer to HEAD: no body.
    pub head_only: bool,
    /// Fields beside those every refusal has.
    pub fields: FieldPatterns,
}

impl Script {
    pub fn load(path: &Path) -> Result<Self> {
        let name = PathBuf::from(path.file_name().context("a file")?).display().to_string();
        let text = std::fs::read_to_string(path)?;
        Self::parse(&name, &text).with_context(|| name.clone())
    }

    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut script =
            Self { name: name.to_owned(), config: String::new(), feeds_whole_only: false, cases: Vec::new() };
        let mut lines = text.lines().enumerate().peekable();
        // Lines of the block being read: an actor, a direction, and texts.
        let mut open: Option<(usize, Actor, char, Vec<&str>)> = None;
        while let Some((at, line)) = lines.next() {
            let number = at + 1;
            if line.starts_with('#') {
                continue;
            }
            let here = || format!("line {number}: {line}");
            let tag = tag(line);
            if let (Some((actor, direction, text)), Some((_, open_actor, open_direction, texts))) = (&tag, &mut open)
                && (actor, direction) == (open_actor, open_direction)
            {
                texts.push(text);
                continue;
            }
            if let Some(block) = open.take() {
                let case = script.cases.last_mut().context("a step before the first `== case`").with_context(here)?;
                case.blocks.push(read_block(block)?);
            }
            if let Some((actor, direction, text)) = tag {
                open = Some((number, actor, direction, vec![text]));
            } else if let Some(name) = line.strip_prefix("== ") {
                script.cases.push(Case {
                    name: name.to_owned(),
                    line: number,
                    config: None,
                    feeds_whole_only: false,
                    blocks: Vec::new(),
                });
            } else if line == "feed whole" {
                match script.cases.last_mut() {
                    Some(case) => case.feeds_whole_only = true,
                    None => script.feeds_whole_only = true,
                }
            } else if line == "config" {
                let mut config = String::new();
                while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("    ") || line.is_empty()) {
                    config.push_str(line.trim_start());
                    config.push('\n');
                }
                match script.cases.last_mut() {
                    Some(case) => case.config = Some(config),
                    None => script.config = config,
                }
            } else if !line.is_empty() {
                bail!("{}: neither a step, nor `== case`, `config`, `feed whole`, a comment", here());
            }
        }
        if let Some(block) = open {
            script.cases.last_mut().context("a step before the first `== case`")?.blocks.push(read_block(block)?);
        }
        ensure!(!script.cases.is_empty(), "no case");
        ensure!(script.cases.iter().all(|case| !case.blocks.is_empty()), "a case without a step");
        Ok(script)
    }
}

/// `client> text`: who, which way, what.
fn tag(line: &str) -> Option<(Actor, char, &str)> {
    let (tag, text) = line.split_once(' ').unwrap_or((line, ""));
    let direction = tag.chars().last().filter(|direction| matches!(direction, '<' | '>'))?;
    let actor = &tag[..tag.len() - 1];
    let number = |digits: &str| {
        if digits.is_empty() { Some(1) } else { digits.parse().ok() }
    };
    let actor = match (actor.strip_prefix("client"), actor.strip_prefix("upstream")) {
        (Some(digits), _) => Actor::Client(number(digits)?),
        (_, Some(digits)) => Actor::Upstream(number(digits)?),
        _ if actor == "log" && direction == '<' => Actor::Log,
        _ => return None,
    };
    Some((actor, direction, text))
}

fn read_block((line, actor, direction, texts): (usize, Actor, char, Vec<&str>)) -> Result<Block> {
    let step = match (actor, direction) {
        (Actor::Log, _) => log(&texts).map(Step::Log),
        (_, '>') => sending(&texts).map(Step::Send),
        _ => expected(&texts).map(Step::Expect),
    };
    Ok(Block { line, actor, step: step.with_context(|| format!("block at line {line}"))? })
}

fn log(texts: &[&str]) -> Result<Vec<(String, Option<Pattern>)>> {
    let words = texts.iter().flat_map(|text| text.split_ascii_whitespace());
    words
        .map(|word| match (word.strip_prefix('!'), word.split_once('=')) {
            (Some(name), _) => Ok((name.to_owned(), None)),
            (_, Some((name, value))) => Ok((name.to_owned(), Some(Pattern::new(&tokens(value)?)?))),
            _ => bail!("`{word}` is neither `name=value` nor `!name`"),
        })
        .collect()
}

fn sending(texts: &[&str]) -> Result<Vec<Sending>> {
    let mut sendings = Vec::new();
    let mut write = Vec::new();
    for text in texts {
        let mut line_end = true;
        for token in tokens(text)? {
            match token {
                Token::Byte(byte) => write.push(byte),
                // Nothing a script sends is any text: a plain `*` is one.
                Token::Any => write.push(b'*'),
                Token::NoLineEnd => line_end = false,
                Token::Directive(directive) => {
                    let action = match directive.as_str() {
                        "flush" => None,
                        "connect" => Some(Sending::Connect),
                        "fin" => Some(Sending::Fin),
                        "close" => Some(Sending::Close),
                        "reset" => Some(Sending::Reset),
                        other => {
                            write.extend(ok(other)?.map_or_else(|| text::repeated(other), Ok)?);
                            line_end &= !other.starts_with("ok");
                            continue;
                        }
                    };
                    line_end = false;
                    if !write.is_empty() {
                        sendings.push(Sending::Write(std::mem::take(&mut write)));
                    }
                    sendings.extend(action);
                }
            }
        }
        if line_end {
            write.extend(b"\r\n");
        }
    }
    if !write.is_empty() {
        sendings.push(Sending::Write(write));
    }
    Ok(sendings)
}

/// `ok text`: a 200 with that body.
fn ok(directive: &str) -> Result<Option<Vec<u8>>> {
    directive.strip_prefix("ok").map(|text| Ok(origin::ok(text::bytes(text.trim_start())?))).transpose()
}

fn expected(texts: &[&str]) -> Result<Vec<Expected>> {
    let mut expected = Vec::new();
    let mut lines = texts.iter();
    while let Some(text) = lines.next() {
        let line = tokens(text)?;
        if let [Token::Directive(directive)] = &line[..]
            && let Some(items) = directed(directive, &mut lines)?
        {
            expected.extend(items);
        } else if starts_head(text) {
            expected.push(Expected::Head(HeadPattern { start: Pattern::new(&line)?, fields: fields(&mut lines)? }));
        } else {
            let (text, end) = text.strip_suffix('\\').map_or((*text, &b"\r\n"[..]), |text| (text, b""));
            let mut bytes = text::bytes(text)?;
            bytes.extend(end);
            match expected.last_mut() {
                Some(Expected::Bytes(before)) => before.extend(bytes),
                _ => expected.push(Expected::Bytes(bytes)),
            }
        }
    }
    let first_only = |item: &Expected| {
        matches!(
            item,
            Expected::SameConnection | Expected::NewConnection | Expected::Connection(_) | Expected::Incomplete
        )
    };
    ensure!(
        !expected.iter().skip(1).any(first_only),
        "what tells the connection begins a block; an empty line ends one"
    );
    Ok(expected)
}

/// A status line, or a request line.
fn starts_head(text: &str) -> bool {
    text.starts_with("HTTP/1.") || text.ends_with(" HTTP/1.1") || text.ends_with(" HTTP/1.0")
}

/// What a line of one directive alone asks for; `None`: it stands for bytes.
fn directed<'a>(directive: &str, lines: &mut impl Iterator<Item = &'a &'a str>) -> Result<Option<Vec<Expected>>> {
    let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
    let item = match word {
        "ok" => return Ok(Some(expected_ok(rest)?)),
        "eof" => Expected::Eof,
        "reset" => Expected::Reset,
        "cut" => Expected::Cut,
        "nothing" => Expected::Nothing,
        "incomplete" => Expected::Incomplete,
        "same" => Expected::SameConnection,
        "new" => Expected::NewConnection,
        "connection" => Expected::Connection(rest.parse().context("`<connection n>`")?),
        "chunks" => Expected::Chunks { data: text::bytes(rest)?, open: false, trailers: fields(lines)? },
        "chunks-open" => Expected::Chunks { data: text::bytes(rest)?, open: true, trailers: FieldPatterns::default() },
        "refusal" => Expected::Refusal(refusal(rest, lines)?),
        _ => return Ok(None),
    };
    Ok(Some(vec![item]))
}

fn expected_ok(text: &str) -> Result<Vec<Expected>> {
    let body = text::bytes(text)?;
    let pattern = |text: &str| Pattern::new(&tokens(text)?);
    let length = ("Content-Length".to_owned(), pattern(&body.len().to_string())?);
    let fields = FieldPatterns { present: vec![length], absent: Vec::new(), open: true };
    Ok(vec![Expected::Head(HeadPattern { start: pattern("HTTP/1.1 200 OK")?, fields }), Expected::Bytes(body)])
}

/// `status code [by who] [head]`, and fields up to an empty line or the end of the block.
fn refusal<'a>(rest: &str, lines: &mut impl Iterator<Item = &'a &'a str>) -> Result<RefusalPattern> {
    let mut words = rest.split(' ');
    let status: u16 = words.next().and_then(|status| status.parse().ok()).context("`<refusal status code>`")?;
    let code = Pattern::new(&tokens(words.next().context("`<refusal status code>`")?)?)?;
    let (mut ended_by, mut head_only, mut with) = ("client".to_owned(), false, false);
    let mut named = false;
    while let Some(word) = words.next() {
        match word {
            "by" => {
                ended_by = words.next().context("`by` whom?")?.to_owned();
                named = true;
            }
            "head" => head_only = true,
            "with" => with = true,
            other => bail!("`{other}` in <refusal {rest}>"),
        }
    }
    ensure!(named || status < 500, "who ended it? `<refusal {rest} by upstream>` or `by gateway`");
    let fields = if with { fields(lines)? } else { FieldPatterns::default() };
    Ok(RefusalPattern { status, code, ended_by, head_only, fields })
}

/// Field lines up to an empty line.
fn fields<'a>(lines: &mut impl Iterator<Item = &'a &'a str>) -> Result<FieldPatterns> {
    let mut fields = FieldPatterns::default();
    let mut gateway = false;
    loop {
        match *lines.next().context("a head or trailers without the empty line at their end")? {
            "" => break,
            "..." => fields.open = true,
            "<gateway>" => gateway = true,
            text => match text.strip_prefix('!') {
                Some(name) => fields.absent.push(name.to_owned()),
                None => fields.present.push(Pattern::field(&tokens(text)?)?),
            },
        }
    }
    for (name, value) in GATEWAY_FIELDS.iter().filter(|_| gateway) {
        // A field the script writes out, or says must not be there, is the script's to tell.
        let told = |known: &String| known.eq_ignore_ascii_case(name);
        if !fields.present.iter().any(|(known, _)| told(known)) && !fields.absent.iter().any(told) {
            fields.present.push(((*name).to_owned(), Pattern::new(&tokens(value)?)?));
        }
    }
    Ok(fields)
}

/// What `<gateway>` stands for: fields every upstream receives from the gateway.
const GATEWAY_FIELDS: &[(&str, &str)] = &[
    ("Via", "1.1 bawab"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "*"),
    ("X-Request-Id", "*"),
    ("Traceparent", "00-*-*-*"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_into_cases_and_blocks() {
        let text = "# claim\nconfig\n    [limits]\n    fields = 3\n\n== one\nclient> GET / HTTP/1.1\nclient>\n\nclient> a\\\nupstream< GET / HTTP/1.1\nupstream< ...\nupstream<\nclient< <eof>\n\n== two\nfeed whole\nclient2> <reset>\nlog< status=200 !code\n";
        let script = Script::parse("x.txt", text).unwrap();
        assert_eq!(script.config, "[limits]\nfields = 3\n\n");
        assert_eq!(script.cases.len(), 2);
        let [first, second, head, eof] = &script.cases[0].blocks[..] else { panic!("four blocks") };
        let Step::Send(sent) = &first.step else { panic!("sends") };
        assert_eq!(sent[..], [Sending::Write(b"GET / HTTP/1.1\r\n\r\n".to_vec())]);
        let Step::Send(sent) = &second.step else { panic!("sends") };
        assert_eq!(sent[..], [Sending::Write(b"a".to_vec())]);
        assert!(
            matches!(&head.step, Step::Expect(items) if matches!(&items[..], [Expected::Head(head)] if head.fields.open))
        );
        assert!(matches!(&eof.step, Step::Expect(items) if matches!(items[..], [Expected::Eof])));
        assert!(script.cases[1].feeds_whole_only);
        assert_eq!(script.cases[1].blocks[0].actor, Actor::Client(2));
        assert_eq!(script.cases[1].blocks[1].actor, Actor::Log);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line) in [
            ("== a\nclient> x\nclint> y\n", "line 3"),
            ("== a\nclient> <bogus>\n", "line 2"),
            ("== a\nclient< HTTP/1.1 200 OK\n", "line 2"),
            ("client> x\n\n== a\n", "line 2"),
        ] {
            let error = format!("{:#}", Script::parse("x.txt", text).err().unwrap());
            assert!(error.contains(line), "{error}");
        }
    }
}
