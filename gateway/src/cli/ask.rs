//! Asks the admin listener of a running gateway, for commands that are about what runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{EXIT_USAGE, answer, show_problems, usage};
use crate::config::{self, Config};

/// What the admin listener said.
struct Said {
    status: u16,
    body: String,
}

/// How long it may take to answer.
const WAIT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How something is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

/// Asks the admin listener of the configuration in `file` and prints what it says. Ends with 0 if it did what was asked, 1 if
/// it would not, 2 if the question is wrong or nobody answers.
pub(super) fn show(file: &Path, method: Method, target: &str) -> ExitCode {
    let loaded = match config::load_without_files(file) {
        Ok(loaded) => loaded,
        Err(problems) => return show_problems(&problems),
    };
    match ask(&loaded.config, method, target) {
        Ok(said) if said.status == 200 => answer(&said.body),
        Ok(said) => {
            let problem: Option<serde_json::Value> = serde_json::from_str(&said.body).ok();
            let text = |key: &str| problem.as_ref()?.get(key)?.as_str();
            let told = text("detail").or_else(|| text("title")).unwrap_or(&said.body);
            let lines = problem.iter().flat_map(|problem| problem["problems"].as_array()).flatten();
            let lines: String = lines.filter_map(serde_json::Value::as_str).map(|line| format!("\n{line}")).collect();
            usage(&format!("{told}{lines}"));
            if said.status == 400 { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
        Err(why) => usage(&why),
    }
}

/// Pairs as a query holds them (WHATWG URL §5.2).
pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
            out
        })
    };
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    pairs.join("&")
}

/// What the admin listener that `config` speaks of says to `method` and `target`. Otherwise why there is no answer, and what
/// to do.
fn ask(config: &Config, method: Method, target: &str) -> Result<Said, String> {
    let admin = config.admin.as_ref().ok_or("the configuration has no `[admin]`, so nobody can be asked what runs")?;
    let unreachable =
        |error: std::io::Error| format!("nobody answers at {}: {error}; is the gateway running?", admin.address);
    let token = admin.token.as_ref().map(|token| format!("Authorization: Bearer {}\r\n", token.expose()));
    let request = format!(
        "{} {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n{}\r\n",
        method.name(),
        token.unwrap_or_default()
    );
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
