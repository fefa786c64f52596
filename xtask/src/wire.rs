//! HTTP/1.1 as bytes on a socket, for both ends of the demo and the small clients of the benches. It reads what well-meaning
//! programs write, keeps every byte as it came, and is no parser to put before the world: the gateway has its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long either side waits for the other's next byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any head here has.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One end of a connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Bytes that came but were not asked for yet.
    ahead: Vec<u8>,
}

/// The start line and fields of a message, as they came.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) text: String,
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Heads of 1xx answers that came before.
    pub(crate) interim: Vec<Head>,
    pub(crate) head: Head,
    pub(crate) body: Body,
}

#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    /// Pieces it came in, when it was chunked.
    pub(crate) chunks: usize,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Wire {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .with_context(|| format!("connecting to {address}"))?;
        Self::over(stream)
    }

    pub(crate) fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            ahead: Vec::new(),
        })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).context("sending")
    }

    /// The next head, or `None` when the other side left before it began one.
    pub(crate) fn head(&mut self) -> Result<Option<Head>> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(
                self.ahead.len() < HEAD_BYTES_MAX,
                "a head of more than {HEAD_BYTES_MAX} bytes"
            );
            if self.more()? == 0 {
                ensure!(
                    self.ahead.is_empty(),
                    "the connection ended inside a head: `{}`",
                    String::from_utf8_lossy(&self.ahead)
                );
                return Ok(None);
            }
        };
        let text = String::from_utf8_lossy(&self.take(end)?).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(field).collect();
        Ok(Some(Head {
            start,
            fields,
            text,
        }))
    }

    /// The answer to one request; `method` because an answer to HEAD has no body.
    pub(crate) fn answer(&mut self, method: &str) -> Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let head = self
                .head()?
                .context("the connection ended before the answer")?;
            let status = head.status()?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(head);
                continue;
            }
            let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
            let body = if bodiless {
                Body::default()
            } else {
                self.body(&head, true)?
            };
            return Ok(Answer {
                interim,
                head,
                body,
            });
        }
    }

    /// The body that follows `head`. One without length ends with the connection if it is an answer's, and is empty if a request's.
    pub(crate) fn body(&mut self, head: &Head, answer: bool) -> Result<Body> {
        let mut body = Body::default();
        if head.field("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk()? {
                body.bytes.extend(chunk);
                body.chunks += 1;
            }
            body.trailers = self.trailers()?;
        } else if let Some(length) = head.field("content-length") {
            body.bytes = self.take(length.parse().context("Content-Length")?)?;
        } else if answer {
            while self.more()? > 0 {}
            body.bytes = std::mem::take(&mut self.ahead);
        }
        Ok(body)
    }

    /// The next chunk of a chunked body, as soon as it is whole. `None`: the last one; trailers follow.
    pub(crate) fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size =
            usize::from_str_radix(size, 16).with_context(|| format!("a chunk size: `{line}`"))?;
        if size == 0 {
            return Ok(None);
        }
        let chunk = self.take(size)?;
        ensure!(self.line()?.is_empty(), "bytes after a chunk");
        Ok(Some(chunk))
    }

    /// The fields after the last chunk.
    pub(crate) fn trailers(&mut self) -> Result<Vec<(String, String)>> {
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.push(field(&line));
        }
    }

    /// Exactly that many bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.ahead.len() < count {
            if self.more()? == 0 {
                bail!(
                    "the connection ended {} bytes early",
                    count - self.ahead.len()
                );
            }
        }
        let rest = self.ahead.split_off(count);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    /// Whether the other side closes without sending more.
    pub(crate) fn is_closed(&mut self) -> Result<bool> {
        Ok(self.ahead.is_empty() && self.more()? == 0)
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                let line = self.take(at + 2)?;
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.more()? == 0 {
                bail!("the connection ended inside a line");
            }
        }
    }

    fn more(&mut self) -> Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer).context("waiting for bytes")?;
        self.ahead.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Head {
    /// The first field of that name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> Result<u16> {
        let code = self
            .start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        code.with_context(|| format!("no status in `{}`", self.start))
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}
