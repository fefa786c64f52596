//! Reads HTTP/1.1 messages off a [`Peer`], strictly, and shares no code with the gateway.
//! Text is Latin-1: every byte is one `char`, so that nothing is lost and nothing fails to compare.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::peer::{Peer, shown};

/// A start line and its fields, as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

/// A whole message; `trailers` are empty unless it was chunked.
#[derive(Debug, Clone)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Head {
    /// Reads up to the empty line. Every line must end in CRLF.
    pub fn read(peer: &mut Peer) -> Result<Self> {
        let bytes = peer.take_through(b"\r\n\r\n")?;
        let text = latin1(&bytes);
        let mut lines = text[..text.len() - 4].split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields =
            lines.map(field).collect::<Result<_>>().with_context(|| format!("in the head {}", shown(&bytes)))?;
        ensure!(!start.contains(['\r', '\n']), "a bare CR or LF in the start line `{}`", start.escape_debug());
        Ok(Self { start, fields })
    }

    /// The status code of an answer.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All values of that name, in their order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    fn length(&self) -> Result<Option<u64>> {
        match self.all("content-length")[..] {
            [] => Ok(None),
            [length] => Ok(Some(length.parse().with_context(|| format!("Content-Length: {length}"))?)),
            ref many => bail!("{} Content-Length fields", many.len()),
        }
    }

    fn chunked(&self) -> bool {
        self.all("transfer-encoding") == ["chunked"]
    }
}

impl Message {
    /// Reads a request: no length and not chunked means no body.
    pub fn request(peer: &mut Peer) -> Result<Self> {
        let head = Head::read(peer)?;
        Self::body_of(peer, head, false)
    }

    /// Reads the final answer to a `method` request; interim answers before it are dropped.
    pub fn answer(peer: &mut Peer, method: &str) -> Result<Self> {
        loop {
            let head = Head::read(peer)?;
            let status = head.status();
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            if method == "HEAD" || matches!(status, 101 | 204 | 304) {
                return Ok(Self { head, body: Vec::new(), trailers: Vec::new() });
            }
            return Self::body_of(peer, head, true);
        }
    }

    fn body_of(peer: &mut Peer, head: Head, until_close: bool) -> Result<Self> {
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        match (head.chunked(), head.length()?) {
            (true, Some(_)) => bail!("both Content-Length and Transfer-Encoding: {head:?}"),
            (true, None) => {
                while let Some(chunk) = chunk(peer)? {
                    body.extend(chunk);
                }
                trailers = fields(peer)?;
            }
            (false, Some(length)) => body = peer.take(usize::try_from(length)?)?,
            (false, None) if until_close => body = peer.rest()?.0,
            (false, None) => {}
        }
        Ok(Self { head, body, trailers })
    }

    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", shown(&self.body)))
    }

    /// Status and `code` of a refusal, as in `(404, "no_route")`; what is not a refusal of the gateway is an error.
    pub fn refusal(&self) -> Result<(u16, String)> {
        let kind = self.head.field("content-type");
        ensure!(kind == Some("application/problem+json"), "not a refusal: {} {}", self.head.start, shown(&self.body));
        let code = self.json()?.get("code").and_then(Value::as_str).context("a refusal without `code`")?.to_owned();
        Ok((self.head.status(), code))
    }
}

/// The next chunk's data; `None` after the last one, before the trailer fields.
pub fn chunk(peer: &mut Peer) -> Result<Option<Vec<u8>>> {
    let line = peer.take_through(b"\r\n")?;
    // We never write extensions, and the gateway must not pass them on (RFC 9112 §7.1.1).
    let size =
        std::str::from_utf8(&line[..line.len() - 2]).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
    let size = size.with_context(|| format!("not a chunk size: {}", shown(&line)))?;
    if size == 0 {
        return Ok(None);
    }
    let data = peer.take(size)?;
    let end = peer.take(2)?;
    ensure!(end == b"\r\n", "a chunk of {size} bytes is followed by {}", shown(&end));
    Ok(Some(data))
}

/// Field lines up to the empty line.
pub fn fields(peer: &mut Peer) -> Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = peer.take_through(b"\r\n")?;
        if line == b"\r\n" {
            return Ok(fields);
        }
        fields.push(field(&latin1(&line[..line.len() - 2]))?);
    }
}

fn field(line: &str) -> Result<(String, String)> {
    let (name, value) =
        line.split_once(':').with_context(|| format!("a field line without a colon: `{}`", line.escape_debug()))?;
    let token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    ensure!(!name.is_empty() && name.chars().all(token), "not a field name: `{}`", name.escape_debug());
    ensure!(!value.contains(['\r', '\n', '\0']), "CR, LF or NUL in the value of {name}: `{}`", value.escape_debug());
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

/// Every byte one `char`.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}
