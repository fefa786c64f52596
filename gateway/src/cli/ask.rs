//! Asks the admin listener of a running gateway, for commands that are about what runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::Config;

/// What the admin listener said.
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) body: String,
}

/// How long it may take to answer.
const WAIT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// GET of `target` at the admin listener that `config` speaks of. Otherwise why there is no answer, and what to do.
pub(super) fn get(config: &Config, target: &str) -> Result<Said, String> {
    let admin = config.admin.as_ref().ok_or("the configuration has no `[admin]`, so nobody can be asked what runs")?;
    let unreachable =
        |error: std::io::Error| format!("nobody answers at {}: {error}; is the gateway running?", admin.address);
    let token = admin.token.as_ref().map(|token| format!("Authorization: Bearer {}\r\n", token.expose()));
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{}\r\n", token.unwrap_or_default());
    let answer = match admin.address.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path).map_err(unreachable)?;
            let limit = |stream: &UnixStream| {
                stream.set_read_timeout(Some(WAIT)).and_then(|()| stream.set_write_timeout(Some(WAIT)))
            };
            limit(&stream).and_then(|()| converse(stream, &request))
        }
        None => {
            let address = admin.address.parse().map_err(|_| "the admin address is no address".to_owned())?;
            let stream = TcpStream::connect_timeout(&address, WAIT).map_err(unreachable)?;
            let limit = |stream: &TcpStream| {
                stream.set_read_timeout(Some(WAIT)).and_then(|()| stream.set_write_timeout(Some(WAIT)))
            };
            limit(&stream).and_then(|()| converse(stream, &request))
        }
    };
    read(&answer.map_err(unreachable)?).ok_or_else(|| format!("what answers at {} is no gateway", admin.address))
}

fn converse(mut stream: impl Read + Write, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Status and body of an answer that ends with its connection. The admin listener sends a length, never chunks.
fn read(answer: &[u8]) -> Option<Said> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Said { status, body: String::from_utf8_lossy(&answer[end + 4..]).into_owned() })
}
