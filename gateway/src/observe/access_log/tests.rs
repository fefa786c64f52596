use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{FileType, Mode, mknodat};
use rustix::io::ioctl_fionread;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use serde_json::Value;
use tempfile::TempDir;

use super::*;

fn record(path: &str) -> Record<'_> {
    Record {
        time_unix_us: 1_795_424_918_123_456,
        listener: "public",
        client: Ipv4Addr::LOCALHOST.into(),
        request_id: b"",
        trace_id: b"",
        method: b"GET",
        host: b"api.example.com",
        path: path.as_bytes(),
        protocol: "HTTP/1.1",
        status: 200,
        route: "books",
        upstream: "",
        endpoint: "",
        attempts: 0,
        grpc_status: "",
        retried_for: "",
        not_retried: "",
        reused: false,
        ended_by: "",
        refusal: "",
        detail: "",
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 0,
        upstream_us: 0,
        user_agent: b"",
        client_cert_subject: "",
        client_cert_sha256: "",
    }
}

fn write_all(lines: &mut Lines, paths: impl IntoIterator<Item = String>) {
    for path in paths {
        lines.write(&record(&path));
    }
}

/// The `path` of each line of `text`; a line that is no JSON is `None`.
fn paths(text: &str) -> Vec<Option<String>> {
    let path = |line: &str| {
        let json: Value = serde_json::from_str(line).ok()?;
        json["path"].as_str().map(str::to_owned)
    };
    text.lines().map(path).collect()
}

fn whole_paths(text: &str) -> Vec<String> {
    paths(text).into_iter().map(|path| path.expect("a whole line")).collect()
}

/// Waits for what another thread does.
fn until(mut done: impl FnMut() -> bool) {
    let hang = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < hang, "never came true");
        thread::yield_now();
    }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    (folder, path)
}

fn start(path: &Path) -> AccessLog {
    AccessLog::start(&Target::File(path.to_owned())).unwrap()
}

#[test]
fn every_line_of_two_cores_is_written_in_each_ones_order() {
    let (_folder, path) = folder();
    let log = start(&path);
    let write = |core: &'static str| {
        let mut lines = log.lines();
        // Some hundred kilobytes: several buffers.
        thread::spawn(move || write_all(&mut lines, (0..3_000).map(|at| format!("/{core}/{at}"))))
    };
    let cores = [write("one"), write("two")];
    cores.into_iter().for_each(|core| core.join().unwrap());
    log.clone().close();
    let written = whole_paths(&fs::read_to_string(&path).unwrap());
    for core in ["one", "two"] {
        let prefix = format!("/{core}/");
        let of_core: Vec<_> = written.iter().filter_map(|path| path.strip_prefix(&prefix)).collect();
        assert_eq!(of_core, (0..3_000).map(|at| at.to_string()).collect::<Vec<_>>());
    }
    assert_eq!((log.counts().written(), log.lines_dropped()), (6_000, 0));
}

#[test]
fn a_flush_hands_over_what_there_is() {
    let (_folder, path) = folder();
    let log = start(&path);
    let mut lines = log.lines();
    lines.flush();
    lines.write(&record("/one"));
    lines.flush();
    lines.flush();
    until(|| log.counts().written() == 1);
    assert_eq!(whole_paths(&fs::read_to_string(&path).unwrap()), ["/one"]);
}

#[test]
fn a_log_that_is_off_does_nothing() {
    let log = AccessLog::start(&Target::Off).unwrap();
    let mut lines = log.lines();
    assert!(!lines.enabled());
    lines.write(&record("/"));
    lines.flush();
    log.reopen();
    assert_eq!((log.counts().written(), log.lines_dropped(), lines.bytes.capacity()), (0, 0, 0));
    log.close();
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let (folder, _) = folder();
    let path = folder.path().join("no/such/folder.log");
    let error = AccessLog::start(&Target::File(path.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn others_may_not_read_the_file() {
    let (_folder, path) = folder();
    start(&path).close();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
}

#[test]
fn lines_after_a_reopen_are_in_the_new_file() {
    let (folder, path) = folder();
    let old = folder.path().join("access.log.1");
    let log = start(&path);
    let mut lines = log.lines();
    lines.write(&record("/old"));
    lines.flush();
    until(|| log.counts().written() == 1);
    fs::rename(&path, &old).unwrap();
    // Without a line to write: a rotation waits for the old file to be let go.
    log.reopen();
    until(|| path.exists());
    lines.write(&record("/new"));
    drop(lines);
    log.close();
    assert_eq!(whole_paths(&fs::read_to_string(&old).unwrap()), ["/old"]);
    assert_eq!(whole_paths(&fs::read_to_string(&path).unwrap()), ["/new"]);
}

#[test]
fn a_reopen_that_fails_keeps_the_old_file() {
    let (folder, path) = folder();
    let old = folder.path().join("access.log.1");
    let log = start(&path);
    fs::rename(&path, &old).unwrap();
    fs::create_dir(&path).unwrap();
    log.reopen();
    let mut lines = log.lines();
    lines.write(&record("/kept"));
    drop(lines);
    log.clone().close();
    assert_eq!(whole_paths(&fs::read_to_string(&old).unwrap()), ["/kept"]);
    assert_eq!(log.lines_dropped(), 0);
}

#[test]
fn a_full_disk_drops_lines_and_counts_them() {
    let log = start(Path::new("/dev/full"));
    let mut lines = log.lines();
    write_all(&mut lines, (0..1_000).map(|at| format!("/{at}")));
    drop(lines);
    log.clone().close();
    let counts = log.counts();
    assert_eq!((counts.written(), counts.dropped_write_failed()), (0, 1_000));
}

#[test]
fn a_line_cut_short_in_an_earlier_life_costs_no_further_line() {
    let (_folder, path) = folder();
    fs::write(&path, "{\"path\":\"/whole\"}\n{\"path\":\"/ha").unwrap();
    let log = start(&path);
    log.lines().write(&record("/next"));
    log.close();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(paths(&text), [Some("/whole".to_owned()), None, Some("/next".to_owned())]);
}

/// A pipe of the smallest size.
fn pipe(flags: PipeFlags) -> (File, File) {
    let (reader, writer) = pipe_with(flags).unwrap();
    fcntl_setpipe_size(&writer, 4_096).unwrap();
    (File::from(reader), File::from(writer))
}

#[test]
fn a_reader_that_stands_still_costs_lines_and_never_a_wait() {
    let (mut reader, writer) = pipe(PipeFlags::CLOEXEC);
    let log = AccessLog::start_on(writer, None, Arc::default()).unwrap();
    let mut lines = log.lines();
    let mut count = 0;
    // Ends only if writing does not wait for the reader.
    while log.counts().dropped_queue_full() == 0 {
        lines.write(&record(&format!("/{count}")));
        count += 1;
    }
    lines.flush();
    let read = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    until(|| log.counts().written() + log.lines_dropped() == count);
    drop(lines);
    log.clone().close();
    let counts = Arc::clone(log.counts());
    drop(log);
    let written = whole_paths(&read.join().unwrap());
    assert_eq!(counts.written(), written.len() as u64);
    assert_eq!(counts.written() + counts.dropped_queue_full(), count);
}

#[test]
fn a_non_blocking_stdout_loses_nothing() {
    let (mut reader, writer) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
    rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::empty()).unwrap();
    let log = AccessLog::start_on(writer, None, Arc::default()).unwrap();
    let mut lines = log.lines();
    write_all(&mut lines, (0..300).map(|at| format!("/{at}")));
    lines.flush();
    // The writer is in the middle of a buffer, and must wait.
    until(|| ioctl_fionread(&reader).unwrap() == 4_096);
    let read = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    drop(lines);
    log.close();
    let expected: Vec<_> = (0..300).map(|at| format!("/{at}")).collect();
    assert_eq!(whole_paths(&read.join().unwrap()), expected);
}

#[test]
fn a_reader_that_went_away_and_came_back_finds_whole_lines() {
    let (_folder, path) = folder();
    mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let open_reader = || {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        File::from(rustix::fs::open(&path, flags, Mode::empty()).unwrap())
    };
    let first = open_reader();
    fcntl_setpipe_size(&first, 4_096).unwrap();
    let log = start(&path);
    let mut lines = log.lines();
    write_all(&mut lines, (0..100).map(|at| format!("/first/{at}")));
    lines.flush();
    until(|| ioctl_fionread(&first).unwrap() == 4_096);
    drop(first);
    until(|| log.lines_dropped() > 0);

    let mut second = open_reader();
    lines.write(&record("/second"));
    let mut text = String::new();
    let mut read = |text: &mut String| match second.read_to_string(text) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("{error}"),
    };
    // What the pipe still held from before, to make room.
    read(&mut text);
    drop(lines);
    log.clone().close();
    read(&mut text);
    let paths = paths(&text);
    assert_eq!(paths.iter().filter(|path| path.is_none()).count(), 1, "one line is cut: {text}");
    assert_eq!(paths.last(), Some(&Some("/second".to_owned())));
    let whole = paths.iter().flatten().count() as u64;
    assert_eq!((log.counts().written(), log.lines_dropped()), (whole, 101 - whole));
}

#[test]
fn a_fifo_nobody_reads_is_an_error_and_no_hang() {
    let (_folder, path) = folder();
    mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(AccessLog::start(&Target::File(path)).is_err());
}

#[test]
fn closing_does_not_wait_for_ever() {
    let (reader, writer) = pipe(PipeFlags::CLOEXEC);
    let log = AccessLog::start_on(writer, None, Arc::default()).unwrap();
    let mut lines = log.lines();
    write_all(&mut lines, (0..300).map(|at| format!("/{at}")));
    lines.flush();
    until(|| ioctl_fionread(&reader).unwrap() == 4_096);
    log.clone().close_within(Duration::from_millis(1));
    assert_eq!(log.counts().written(), 0);
}

#[test]
fn lines_after_the_close_are_counted_as_dropped() {
    let (_folder, path) = folder();
    let log = start(&path);
    let mut lines = log.lines();
    lines.write(&record("/late"));
    log.clone().close();
    lines.flush();
    assert_eq!(log.lines_dropped(), 1);
    log.close();
}

#[test]
fn a_core_gets_its_buffer_back() {
    let (_folder, path) = folder();
    let log = start(&path);
    let mut lines = log.lines();
    lines.write(&record("/one"));
    let buffer = lines.bytes.as_ptr();
    lines.flush();
    assert_eq!(lines.bytes.capacity(), 0);
    until(|| match lines.spare.try_recv() {
        Ok(spare) => {
            lines.give_back.try_send(spare).unwrap();
            true
        }
        Err(_) => false,
    });
    lines.write(&record("/two"));
    assert_eq!(lines.bytes.as_ptr(), buffer);
}

#[test]
fn a_failure_is_told_once_a_minute_with_all_that_was_lost() {
    let (_reader, file) = pipe(PipeFlags::CLOEXEC);
    let (_queue, messages) = mpsc::sync_channel(1);
    let mut writer = Writer {
        file,
        path: None,
        mid_line: false,
        messages,
        asks: Arc::default(),
        counts: Arc::default(),
        told: None,
        lost_untold: 0,
    };
    let error = io::Error::from(ErrorKind::StorageFull);
    let start = Instant::now();
    let untold = |writer: &mut Writer, after: Duration| {
        writer.tell(&error, 10, start + after);
        writer.lost_untold
    };
    assert_eq!(untold(&mut writer, Duration::ZERO), 0, "the first is told at once");
    assert_eq!(untold(&mut writer, Duration::from_secs(1)), 10);
    assert_eq!(untold(&mut writer, EVENT_INTERVAL - Duration::from_nanos(1)), 20);
    assert_eq!(untold(&mut writer, EVENT_INTERVAL), 0);
}
