//! The load generator: runs wrk, reads what it printed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// Keep-alive connections wrk holds, in one thread.
pub(super) const CONNECTIONS: usize = 64;

/// What one run of wrk saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Complete answers, errors among them.
    pub(super) requests: u64,
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    /// Answers other than 2xx and 3xx, and connections that failed to open, read, write or answer in time.
    pub(super) errors: u64,
}

/// What wrk asks for.
pub(super) struct Ask<'a> {
    pub(super) url: &'a str,
    /// A Lua script that chooses the paths, and its arguments.
    pub(super) script: Option<(&'a Path, Vec<String>)>,
    /// A configuration of OpenSSL, for https.
    pub(super) openssl: Option<&'a Path>,
}

impl<'a> Ask<'a> {
    /// One address, again and again.
    pub(super) fn one(url: &'a str) -> Self {
        Self { url, script: None, openssl: None }
    }
}

/// Loads a server from `core` for `time`.
pub(super) fn load(ask: &Ask<'_>, core: usize, time: Duration) -> Result<Load> {
    let mut command = process::attached("wrk", Some(core));
    command.args(["-t1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{}s", time.as_secs().max(1)), "--latency"]);
    if let Some((script, _)) = &ask.script {
        command.arg("-s").arg(script);
    }
    if let Some(openssl) = ask.openssl {
        command.env("OPENSSL_CONF", openssl);
    }
    command.arg(ask.url);
    if let Some((_, words)) = &ask.script {
        command.arg("--").args(words);
    }
    let text = process::output(&mut command)?;
    read(&text).with_context(|| format!("wrk printed something unexpected:\n{text}"))
}

fn read(text: &str) -> Option<Load> {
    let mut load = Load { requests: 0, per_second: 0.0, p50: Duration::ZERO, p99: Duration::ZERO, errors: 0 };
    let mut seen = 0;
    for line in text.lines().map(str::trim) {
        if let Some(value) = line.strip_prefix("50% ") {
            load.p50 = duration(value.trim())?;
            seen += 1;
        } else if let Some(value) = line.strip_prefix("99% ") {
            load.p99 = duration(value.trim())?;
            seen += 1;
        } else if let Some((count, _)) = line.split_once(" requests in ") {
            load.requests = count.parse().ok()?;
            seen += 1;
        } else if let Some(value) = line.strip_prefix("Requests/sec:") {
            load.per_second = value.trim().parse().ok()?;
            seen += 1;
        } else if let Some(value) = line.strip_prefix("Non-2xx or 3xx responses:") {
            load.errors += value.trim().parse::<u64>().ok()?;
        } else if let Some(counts) = line.strip_prefix("Socket errors:") {
            for count in counts.split(',') {
                load.errors += count.split_whitespace().last()?.parse::<u64>().ok()?;
            }
        }
    }
    (seen == 4).then_some(load)
}

/// `1.95ms`, `950.00us`, `1.02s`.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let value: f64 = text[..unit].parse().ok()?;
    let seconds = match &text[unit..] {
        "us" => value / 1e6,
        "ms" => value / 1e3,
        "s" => value,
        "m" => value * 60.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: &str = "Running 2s test @ http://127.0.0.1:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.30ms  366.15us   9.85ms   90.30%
    Req/Sec    49.61k     3.20k   54.40k    75.00%
  Latency Distribution
     50%    1.25ms
     75%    1.40ms
     90%    1.60ms
     99%    2.60ms
  98749 requests in 2.00s, 14.22MB read
Requests/sec:  49356.78
Transfer/sec:      7.11MB
";

    #[test]
    fn a_quiet_run_is_read() {
        let load = read(QUIET).unwrap();
        assert_eq!(load.requests, 98_749);
        assert_eq!((load.p50, load.p99), (Duration::from_micros(1250), Duration::from_micros(2600)));
        assert_eq!(load.errors, 0);
    }

    #[test]
    fn every_kind_of_error_counts() {
        let text = QUIET.replace(
            "Requests/sec:",
            "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 50\nRequests/sec:",
        );
        assert_eq!(read(&text).unwrap().errors, 60);
    }

    #[test]
    fn a_run_without_figures_is_not_taken_for_one() {
        assert_eq!(read("unable to connect to 127.0.0.1:1 Connection refused"), None);
    }
}
