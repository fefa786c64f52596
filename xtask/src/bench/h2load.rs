//! The load at a given rate, and that over HTTP/2: runs h2load, reads its summary and what it wrote about each request.
//!
//! At a given rate two things of it are made up for. It measures from when a request was sent, so a stall that holds every connection up
//! shows in one request of each, however many should have been sent meanwhile: those are added, each as late as it would
//! have been (as HdrHistogram corrects). And it gives a connection up that was closed while idle, which a server may do:
//! it is then started again with what is left, and only requests it had sent count as failed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::wrk::{CONNECTIONS, Load};
use crate::process;

/// Between the first requests of two connections, so that not all of them ask at the same moment ever after.
const STAGGER: Duration = Duration::from_millis(3);
/// h2load looks at its rate no more often than this.
const RATE_GRAIN: Duration = Duration::from_millis(10);

/// Connections over HTTP/2, and requests that run on each.
pub(super) const CONNECTIONS_H2: usize = 16;
pub(super) const STREAMS: usize = 32;

/// What is asked for.
pub(super) struct Plan<'a> {
    /// A file with one URI a line, asked in turn.
    pub(super) uris: &'a Path,
    /// Requests per second over all connections.
    pub(super) rate: f64,
    pub(super) time: Duration,
    pub(super) core: usize,
    /// Where h2load may write.
    pub(super) log: &'a Path,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Requests that were sent.
    pub(super) started: u64,
    /// Sent, but not answered with 2xx or 3xx.
    pub(super) failed: u64,
    /// Times h2load ended before its time, because connections were closed while idle.
    pub(super) closed_idle: u64,
    /// Microseconds of each request, and of those a stall kept from being sent; sorted.
    latencies: Vec<u64>,
}

impl Outcome {
    /// The latency that this part (0 to 1) of the requests did not exceed.
    pub(super) fn quantile(&self, part: f64) -> Duration {
        let at = (self.latencies.len() as f64 * part) as usize;
        Duration::from_micros(self.latencies.get(at).or(self.latencies.last()).copied().unwrap_or(0))
    }
}

#[cfg(test)]
impl Outcome {
    /// With one latency.
    pub(super) fn of_one(latency: Duration, failed: u64) -> Self {
        Self { latencies: vec![latency.as_micros() as u64], failed, ..Self::default() }
    }
}

pub(super) fn load(plan: &Plan<'_>) -> Result<Outcome> {
    let begin = Instant::now();
    let interval = Duration::from_secs_f64(CONNECTIONS as f64 / plan.rate);
    // A connection that sends several requests each time it looks is late with the next one only after that.
    let expected = interval.max(RATE_GRAIN);
    let mut outcome = Outcome::default();
    loop {
        let left = plan.time.saturating_sub(begin.elapsed());
        let requests = (plan.rate * left.as_secs_f64()) as u64;
        if requests < CONNECTIONS as u64 {
            break;
        }
        let counts = run(plan, requests)?;
        ensure!(counts.started > 0, "h2load could not send anything");
        outcome.started += counts.started;
        outcome.failed += counts.started.saturating_sub(counts.succeeded);
        outcome.closed_idle += u64::from(counts.started < counts.total);
        let text = fs::read_to_string(plan.log).with_context(|| format!("reading {}", plan.log.display()))?;
        add_latencies(&text, expected, &mut outcome.latencies);
    }
    outcome.latencies.sort_unstable();
    Ok(outcome)
}

/// Requests per second answered over as many connections, each asking again as soon as it was answered.
pub(super) fn capacity(uris: &Path, core: usize, time: Duration) -> Result<f64> {
    let mut command = process::attached("h2load", Some(core));
    command.args(["--h1", "-t1", "-c", &CONNECTIONS.to_string(), "-D", &time.as_secs().max(1).to_string()]);
    let text = process::output(command.arg("-i").arg(uris))?;
    let unexpected = || format!("h2load printed something unexpected:\n{text}");
    let counts = counts(&text).with_context(unexpected)?;
    // The last request of a connection may be cut by the end of the time.
    let cut = counts.started.saturating_sub(counts.succeeded);
    ensure!(cut <= CONNECTIONS as u64, "{cut} of {} requests failed", counts.started);
    rate(&text).with_context(unexpected)
}

/// Asks for one address over HTTP/2 and TLS 1.3, each stream again as soon as it was answered. It may write to `log`.
pub(super) fn saturate(url: &str, core: usize, time: Duration, log: &Path) -> Result<Load> {
    saturate_with(url, &[], core, time, log)
}

/// The same for calls of gRPC, each with the message that is in a file.
pub(super) fn call(url: &str, message: &Path, core: usize, time: Duration, log: &Path) -> Result<Load> {
    let message = message.to_str().context("the target folder's name is not UTF-8")?;
    let words = ["--data", message, "--header", "content-type: application/grpc", "--header", "te: trailers"];
    saturate_with(url, &words, core, time, log)
}

fn saturate_with(url: &str, words: &[&str], core: usize, time: Duration, log: &Path) -> Result<Load> {
    if log.exists() {
        fs::remove_file(log)?;
    }
    let mut command = process::attached("h2load", Some(core));
    command.args(["-t1", "-c", &CONNECTIONS_H2.to_string(), "-m", &STREAMS.to_string()]);
    // To every peer the same cipher and group, whatever each would choose.
    command.args(["--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519"]);
    command.args(["-D", &time.as_secs().max(1).to_string()]).arg("--log-file").arg(log).args(words).arg(url);
    let text = process::output(&mut command)?;
    ensure!(is_secure_h2(&text), "h2load did not speak HTTP/2 over TLS 1.3:\n{text}");
    let unexpected = || format!("h2load printed something unexpected:\n{text}");
    let counts = counts(&text).with_context(unexpected)?;
    let per_second = rate(&text).with_context(unexpected)?;
    let log = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let mut outcome = Outcome::default();
    add_latencies(&log, time, &mut outcome.latencies);
    outcome.latencies.sort_unstable();
    Ok(Load {
        requests: counts.succeeded,
        per_second,
        p50: outcome.quantile(0.5),
        p99: outcome.quantile(0.99),
        // Those that the end of the time cut were not done.
        errors: counts.done.saturating_sub(counts.succeeded),
    })
}

/// Of its lines `TLS Protocol: TLSv1.3` and `Application protocol: h2`, one each for all its connections.
fn is_secure_h2(text: &str) -> bool {
    ["TLS Protocol: TLSv1.3", "Application protocol: h2"].iter().all(|wanted| text.lines().any(|line| line == *wanted))
}

/// Of its line `finished in 3.00s, 10.00 req/s, 1.43KB/s`.
fn rate(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("finished in "))?;
    line.split(", ").find_map(|part| part.strip_suffix(" req/s"))?.parse().ok()
}

fn run(plan: &Plan<'_>, requests: u64) -> Result<Counts> {
    // It appends.
    if plan.log.exists() {
        fs::remove_file(plan.log)?;
    }
    let mut command = process::attached("h2load", Some(plan.core));
    command.args(["--h1", "-t1", "-c", &CONNECTIONS.to_string(), "-r1"]);
    command.arg(format!("--rate-period={}ms", STAGGER.as_millis())).args(["-n", &requests.to_string()]);
    command.arg(format!("--rps={:.3}", plan.rate / CONNECTIONS as f64)).arg("--log-file").arg(plan.log);
    command.arg("-i").arg(plan.uris);
    let text = process::output(&mut command)?;
    counts(&text).with_context(|| format!("h2load printed something unexpected:\n{text}"))
}

/// Of its line `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout`.
#[derive(Debug, PartialEq)]
struct Counts {
    total: u64,
    started: u64,
    done: u64,
    succeeded: u64,
}

fn counts(text: &str) -> Option<Counts> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |name: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(name))?;
        part.trim().parse().ok()
    };
    Some(Counts {
        total: count(" total")?,
        started: count(" started")?,
        done: count(" done")?,
        succeeded: count(" succeeded")?,
    })
}

/// Takes the third column, and adds what should have been sent on the same connection while it waited.
fn add_latencies(text: &str, expected: Duration, latencies: &mut Vec<u64>) {
    let expected = expected.as_micros().max(1) as u64;
    for line in text.lines() {
        let mut columns = line.split('\t').skip(1);
        let (status, latency) = (columns.next(), columns.next().and_then(|text| text.parse::<u64>().ok()));
        // -1 is a request that failed; how long that took is no latency.
        let (Some(status), Some(mut latency)) = (status, latency) else { continue };
        if status == "-1" {
            continue;
        }
        latencies.push(latency);
        while latency > expected {
            latency -= expected;
            latencies.push(latency);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_can_have_failed() {
        let text = "\nfinished in 1.37s, 7982.82 req/s, 1.14MB/s\n\
            requests: 60000 total, 10944 started, 10943 done, 10943 succeeded, 49057 failed, 49057 errored, 0 timeout\n";
        assert_eq!(counts(text), Some(Counts { total: 60_000, started: 10_944, done: 10_943, succeeded: 10_943 }));
        assert_eq!(rate(text), Some(7982.82));
        assert_eq!((counts("connect: refused"), rate("connect: refused")), (None, None));
    }

    #[test]
    fn what_h2load_fell_back_to_is_seen() {
        let text = "TLS Protocol: TLSv1.3\nCipher: TLS_AES_128_GCM_SHA256\nApplication protocol: h2\n";
        assert!(is_secure_h2(text));
        assert!(!is_secure_h2(&text.replace(": h2", ": http/1.1")));
        assert!(!is_secure_h2(&text.replace("1.3", "1.2")));
    }

    #[test]
    fn a_stall_counts_for_all_that_was_not_sent_meanwhile() {
        let mut latencies = Vec::new();
        add_latencies("1700000000\t200\t9000\n1\t200\t35000\n2\t-1\t80\n", Duration::from_millis(10), &mut latencies);
        assert_eq!(latencies, [9_000, 35_000, 25_000, 15_000, 5_000]);
    }

    #[test]
    fn a_quantile_is_not_exceeded_by_its_part() {
        let outcome = Outcome { latencies: (1..=100).collect(), ..Outcome::default() };
        assert_eq!(outcome.quantile(0.5), Duration::from_micros(51));
        assert_eq!(outcome.quantile(0.99), Duration::from_micros(100));
        assert_eq!(Outcome::default().quantile(0.99), Duration::ZERO);
    }
}
