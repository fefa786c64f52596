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
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::access_line;
use super::rfc3339::Clock;
use crate::config::model;

/// How an event is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-23T08:28:38.123456Z INFO listening listener=public address=127.0.0.1:8080`
    #[default]
    Text,
    /// `{"time":"2026-11-23T08:28:38.123456Z","level":"INFO","message":"listening","listener":"public",...}`
    Json,
}

/// From now on events of `level` and above go to stderr, written as `format`. Any later call changes both.
pub fn start(level: Level, format: Format) {
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = (level, format);
    // Fails from the second call on, which needs no subscriber: this one asks for both with every event.
    let _ = tracing::subscriber::set_global_default(subscriber(chosen, || Stderr));
}

static CHOSEN: Mutex<(Level, Format)> = Mutex::new((Level::INFO, Format::Text));

/// What is told, and how it is written. Events are few: a lock for each is nothing.
fn chosen() -> (Level, Format) {
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<model::Level> for Level {
    fn from(level: model::Level) -> Level {
        match level {
            model::Level::Error => Level::ERROR,
            model::Level::Warn => Level::WARN,
            model::Level::Info => Level::INFO,
        }
    }
}

impl From<model::Format> for Format {
    fn from(format: model::Format) -> Format {
        match format {
            model::Format::Text => Format::Text,
            model::Format::Json => Format::Json,
        }
    }
}

/// Events lost because stderr took nothing.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// `start` on a writer of one's own.
fn subscriber<C, W>(chosen: C, writer: W) -> impl Subscriber + Send + Sync
where
    C: Fn() -> (Level, Format) + Send + Sync + 'static,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        // `Stderr` fails no write, but what could not be formatted would be reported with `eprintln!`, which panics when
        // stderr is closed.
        .log_internal_errors(false)
        .event_format(Flat(chosen))
        .with_writer(writer)
        .finish()
}

/// One event on one line, its fields beside `time`, `level` and `message`.
struct Flat<C>(C);

impl<S, N, C> FormatEvent<S, N> for Flat<C>
where
    C: Fn() -> (Level, Format),
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (least, format) = (self.0)();
        if *event.metadata().level() > least {
            // Nothing is written of an event that cannot be formatted.
            return Err(fmt::Error);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut clock = Clock::new();
        let time = clock.text(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        let time = std::str::from_utf8(time).map_err(|_| fmt::Error)?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level();
        match format {
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

    fn json(&self, writer: &mut Writer<'_>, time: &str, level: &Level) -> fmt::Result {
        write!(writer, r#"{{"time":"{time}","level":"{level}","message":{}"#, quoted(&self.message))?;
        for (name, value) in &self.others {
            match value {
                Value::String(text) => write!(writer, ",{}:{}", quoted(name), quoted(text))?,
                other => write!(writer, ",{}:{other}", quoted(name))?,
            }
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

/// A JSON string, by the access log's rules: nothing in it is for a terminal to obey, and it has an end.
fn quoted(text: &str) -> String {
    let mut quoted = b"\"".to_vec();
    access_line::escape(&mut quoted, text.as_bytes(), VALUE_BYTES_MAX);
    quoted.push(b'"');
    String::from_utf8(quoted).expect("text stays text when it is escaped")
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

/// Bytes of one value in a JSON event, after escaping: two long ones still make a whole event.
const VALUE_BYTES_MAX: usize = 1_536;

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
    let mut cut = [b'\n'; EVENT_BYTES_MAX];
    let event = if event.len() <= EVENT_BYTES_MAX {
        event
    } else {
        cut[..EVENT_BYTES_MAX - 1].copy_from_slice(&event[..EVENT_BYTES_MAX - 1]);
        &cut
    };
    rustix::io::write(stderr, event).is_ok_and(|written| written == event.len())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use tracing::{error, info, warn};

    use super::*;

    /// What was written, an entry a write.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<String>>>);

    impl Write for Memory {
        fn write(&mut self, event: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(String::from_utf8(event.to_vec()).unwrap());
            Ok(event.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines `tell` leaves, without their times.
    fn lines_of(level: Level, format: Format, tell: impl FnOnce()) -> Vec<String> {
        let memory = Memory::default();
        let writer = memory.clone();
        tracing::subscriber::with_default(subscriber(move || (level, format), move || writer.clone()), tell);
        let lines = memory.0.lock().unwrap();
        lines.iter().map(|line| without_time(line)).collect()
    }

    fn without_time(line: &str) -> String {
        let time = Clock::new().text(0).len();
        let (start, rest) = line.split_at(line.find("20").expect("a time in this century"));
        assert_eq!(&rest[10..11], "T", "{line}");
        assert_eq!(&rest[time - 1..time], "Z", "{line}");
        format!("{start}TIME{}", &rest[time..])
    }

    fn tell_some() {
        info!(listener = "public", address = %"127.0.0.1:8080", "listening");
        warn!(error = %io::Error::other("no space left"), lines_lost = 7_u64, "access log could not be written");
        error!(worker = 1, fatal = false, ratio = 0.5, "a task panicked");
        info!("nothing but a message");
    }

    #[test]
    fn json_events_are_flat() {
        let lines = lines_of(Level::INFO, Format::Json, tell_some).concat();
        insta::assert_snapshot!(lines, @r#"
        {"time":"TIME","level":"INFO","message":"listening","listener":"public","address":"127.0.0.1:8080"}
        {"time":"TIME","level":"WARN","message":"access log could not be written","error":"no space left","lines_lost":7}
        {"time":"TIME","level":"ERROR","message":"a task panicked","worker":1,"fatal":false,"ratio":0.5}
        {"time":"TIME","level":"INFO","message":"nothing but a message"}
        "#);
    }

    #[test]
    fn text_events_are_read_at_a_glance() {
        let lines = lines_of(Level::INFO, Format::Text, tell_some).concat();
        insta::assert_snapshot!(lines, @r#"
        TIME  INFO listening listener=public address=127.0.0.1:8080
        TIME  WARN access log could not be written error="no space left" lines_lost=7
        TIME ERROR a task panicked worker=1 fatal=false ratio=0.5
        TIME  INFO nothing but a message
        "#);
    }

    #[test]
    fn an_event_is_one_write() {
        assert_eq!(lines_of(Level::INFO, Format::Json, tell_some).len(), 4);
    }

    #[test]
    fn events_below_the_level_are_not_told() {
        assert_eq!(lines_of(Level::WARN, Format::Text, tell_some).len(), 2);
        assert_eq!(lines_of(Level::ERROR, Format::Text, tell_some).len(), 1);
    }

    proptest! {
        #[test]
        fn no_value_writes_a_line_of_its_own(value: String) {
            for format in [Format::Text, Format::Json] {
                let lines = lines_of(Level::INFO, format, || info!(value, "about {value}"));
                let line = lines[0].strip_suffix('\n').unwrap();
                prop_assert!(!line.contains(char::is_control), "{:?}", line);
                if format == Format::Json {
                    let json: Value = serde_json::from_str(&line.replace("\"TIME\"", "\"\"")).unwrap();
                    prop_assert_eq!(&json["value"], value.as_str());
                    let message = format!("about {value}");
                    prop_assert_eq!(&json["message"], message.as_str());
                }
            }
        }
    }

    #[test]
    fn a_closed_stderr_is_survived() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        assert!(!tell(&writer, b"event\n"));
    }

    #[test]
    fn a_stderr_nobody_reads_is_not_waited_for() {
        // Non-blocking only to fill it; `tell` must not depend on that.
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut events = 0;
        while tell(&writer, &[b'e'; EVENT_BYTES_MAX]) {
            events += 1;
        }
        assert!(events > 0);
        rustix::io::read(&reader, &mut [0; EVENT_BYTES_MAX]).unwrap();
        assert!(tell(&writer, &[b'e'; EVENT_BYTES_MAX]), "there is room again");
    }

    #[test]
    fn an_event_too_long_for_a_pipe_is_cut_and_ends_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stderr");
        let file = File::create(&path).unwrap();
        assert!(tell(&file, &[b'e'; EVENT_BYTES_MAX + 1]));
        let written = std::fs::read(&path).unwrap();
        assert_eq!((written.len(), written.last()), (EVENT_BYTES_MAX, Some(&b'\n')));
    }
}
