//! Events: what happens to the process, on stderr, through `tracing`. Never a line per request; that is the access log.
//!
//! A worker may report an event (a panic it caught), so telling one must not block it: an event that stderr would not take
//! at once is dropped and counted, and a stderr that is closed is no reason to panic.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::rfc3339::Clock;

/// How an event is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-23T08:28:38.123456Z INFO listening listener=public address=127.0.0.1:8080`
    #[default]
    Text,
    /// `{"time":"2026-11-23T08:28:38.123456Z","level":"INFO","message":"listening","listener":"public",...}`
    Json,
}

/// From now on events of `level` and above go to stderr. Only the first call in a process has an effect; `false`: this was
/// not the first.
pub fn start(level: Level, format: Format) -> bool {
    tracing::subscriber::set_global_default(subscriber(level, format, || Stderr)).is_ok()
}

/// Events lost because stderr took nothing.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// `start` on a writer of one's own.
fn subscriber<W>(level: Level, format: Format, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(level))
        // It would report a failed write with `eprintln!`, which panics when stderr is closed.
        .log_internal_errors(false)
        .event_format(Flat(format))
        .with_writer(writer)
        .finish()
}

/// One event on one line, its fields beside `time`, `level` and `message`.
struct Flat(Format);

impl<S, N> FormatEvent<S, N> for Flat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut clock = Clock::new();
        let time = clock.text(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        let time = std::str::from_utf8(time).map_err(|_| fmt::Error)?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level();
        match self.0 {
            Format::Text => fields.text(&mut writer, time, level),
            Format::Json => fields.json(&mut writer, time, level),
        }
    }
}

/// What an event carries, in its order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn text(&self, writer: &mut Writer<'_>, time: &str, level: &Level) -> fmt::Result {
        write!(writer, "{time} {level:>5} ")?;
        plain(writer, &self.message)?;
        for (name, value) in &self.others {
            write!(writer, " {name}=")?;
            match value {
                Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => write!(writer, "{text:?}")?,
                Value::String(text) => plain(writer, text)?,
                other => write!(writer, "{other}")?,
            }
        }
        writer.write_char('\n')
    }

    fn json(self, writer: &mut Writer<'_>, time: &str, level: &Level) -> fmt::Result {
        write!(writer, r#"{{"time":"{time}","level":"{level}","message":{}"#, Value::String(self.message))?;
        for (name, value) in self.others {
            // Quoted by Debug: names of fields are identifiers with dots.
            write!(writer, ",{name:?}:{value}")?;
        }
        writer.write_str("}\n")
    }

    fn push(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.push((field.name(), value.into()));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.push(field, text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.push(field, value),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value);
    }
}

/// Text that stays on its line: a value may have come from a peer or a file, and must not write lines, or obey-me codes for
/// a terminal, of its own.
fn plain(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    for char in text.chars() {
        if char.is_control() {
            write!(writer, "{}", char.escape_default())?;
        } else {
            writer.write_char(char)?;
        }
    }
    Ok(())
}

/// The standard error, as far as it takes something at once.
struct Stderr;

/// A pipe that polls writable takes this much without blocking (POSIX `PIPE_BUF`). Longer events are cut.
const EVENT_BYTES_MAX: usize = 4_096;

impl Write for Stderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // Between the poll and the write nobody else of this process may use up what there was room for.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if !tell(&io::stderr(), event) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `event` when that takes no waiting. `false`: it was lost, or a part of it.
fn tell(stderr: &impl AsFd, event: &[u8]) -> bool {
    let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(stderr, PollFlags::OUT)];
    if !matches!(poll(&mut fds, Some(&no_wait)), Ok(1)) {
        return false;
    }
    let event = if event.len() <= EVENT_BYTES_MAX { event } else { &event[..EVENT_BYTES_MAX] };
    rustix::io::write(stderr, event).is_ok_and(|written| written == event.len())
}
