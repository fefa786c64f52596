//! A filter that asks for every effect there is, run through a real worker over real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::proxy::fields::Fields;
use crate::worker::solo::Solo;

/// What a test filter does on its way in, one behaviour a test.
type Behaviour = dyn Fn(&mut Context<'_>, Step) -> Effect + Send + Sync;

struct Scripted {
    request: Box<Behaviour>,
    response: fn(&mut Context<'_>, &mut ResponseHead),
}

impl Filter for Scripted {
    fn request(&self, context: &mut Context<'_>, step: Step) -> Effect {
        (self.request)(context, step)
    }

    fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        (self.response)(context, head);
    }
}

fn scripted(request: impl Fn(&mut Context<'_>, Step) -> Effect + Send + Sync + 'static) -> Box<dyn Filter> {
    Box::new(Scripted { request: Box::new(request), response: |_, _| {} })
}

/// An origin that answers each request with its own bytes as the body, on one connection after the other.
fn echo_origin() -> std::net::SocketAddr {
    failing_origin(&[])
}

/// An origin that answers the first requests for `/side` with these, where nothing is to hang up, and every other one with its
/// own bytes as the body.
fn failing_origin(failures: &'static [&'static str]) -> std::net::SocketAddr {
    let mut failed = 0;
    origin(move |request| {
        let failure = failures.get(failed).filter(|_| request.starts_with(b"POST /side"))?;
        failed += 1;
        Some(*failure)
    })
}

/// An origin that answers each request with what `failure` says, or its own bytes as the body.
fn origin(failure: impl FnMut(&[u8]) -> Option<&'static str> + Send + 'static) -> std::net::SocketAddr {
    let failure = Arc::new(std::sync::Mutex::new(failure));
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let failure = failure.clone();
            std::thread::spawn(move || {
                let mut socket = socket;
                while let Some(request) = read_message(&mut socket) {
                    let failed = failure.lock().expect("not poisoned")(&request);
                    match failed {
                        Some("") => return,
                        Some(answer) => {
                            socket.write_all(answer.as_bytes()).expect("send");
                            continue;
                        }
                        None => {}
                    }
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.len());
                    let sent = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&request));
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// One message with a length, or none.
fn read_message(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buf = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                return Some(bytes);
            }
        }
        match socket.read(&mut buf) {
            // Probing for io_uring leaves task work behind that interrupts a read with a timeout.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buf[..n]),
        }
    }
}

struct Bench {
    solo: Solo,
}

impl Bench {
    fn new(filters: Vec<(Phase, Box<dyn Filter>)>) -> Bench {
        Bench::over(echo_origin(), "", filters)
    }

    /// `upstream`: keys of the upstream beside its endpoint.
    fn over(origin: std::net::SocketAddr, upstream: &str, filters: Vec<(Phase, Box<dyn Filter>)>) -> Bench {
        let text = format!(
            "listener = [{{ address = \"127.0.0.1:0\" }}]\n\
             upstream.echo.endpoints = [\"{origin}\"]\n\
             {upstream}\n\
             route = [{{ path = \"/**\", upstream = \"echo\", auth = \"none\" }}]\n"
        );
        let config = toml::from_str(&text).expect("a good configuration");
        let edit = |snapshot: &mut crate::snapshot::Snapshot| {
            let links =
                filters.into_iter().map(|(phase, filter)| chain::Link { phase, name: "test", filter }).collect();
            let table = Arc::get_mut(&mut snapshot.routes).expect("not shared yet");
            table.routes_mut().next().expect("one route").chain = Chain::new(links);
        };
        Bench { solo: Solo::start(&config, edit, || {}).expect("start") }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.solo.addresses[0]).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        socket
    }

    /// Status and body of one request on a connection of its own.
    fn ask(&self, request: &str) -> (u16, String) {
        ask_on(&mut self.connect(), request)
    }
}

fn ask_on(socket: &mut TcpStream, request: &str) -> (u16, String) {
    socket.write_all(request.as_bytes()).expect("send");
    let Some(message) = read_message(socket) else { return (0, String::new()) };
    let text = String::from_utf8_lossy(&message).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status, body)
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";

fn subrequest() -> Subrequest {
    Subrequest {
        to: crate::balance::Destination::whole(0),
        method: http1::Method::Post,
        method_text: None,
        host: None,
        keep_body: true,
        once: false,
        target: "/side?x=1".to_owned(),
        fields: Fields::new(),
        body: Bytes::from_static(b"question"),
        wait_ms: 5_000,
    }
}

#[test]
fn next_passes_and_an_answer_ends_the_exchange() {
    let bench = Bench::new(vec![(
        Phase::Inspect,
        scripted(|context, _| {
            if context.request.path() == b"/own" {
                let head = ResponseHead::new(418);
                return Effect::Answer(Answer::Send { head, body: Bytes::from_static(b"short") });
            }
            Effect::Next
        }),
    )]);
    let (status, body) = bench.ask(GET);
    assert_eq!(status, 200);
    assert!(body.starts_with("GET /a HTTP/1.1\r\n"), "{body}");
    assert_eq!(bench.ask("GET /own HTTP/1.1\r\nHost: h\r\n\r\n"), (418, "short".to_owned()));
}

#[test]
fn a_refusal_is_a_problem_and_the_connection_lives_on() {
    let bench = Bench::new(vec![(Phase::Access, scripted(|_, _| Effect::Answer(Answer::Refuse(Refusal::Overloaded))))]);
    let mut socket = bench.connect();
    for _ in 0..2 {
        let (status, body) = ask_on(&mut socket, GET);
        assert_eq!(status, 503);
        assert!(body.contains("\"code\":\"overloaded\""), "{body}");
    }
}

#[test]
fn a_needed_body_is_seen_whole_and_still_sent() {
    let seen: Arc<AtomicU32> = Arc::default();
    let count = seen.clone();
    let bench = Bench::new(vec![(
        Phase::Inspect,
        scripted(move |_, step| match step {
            Step::Body(body) => {
                count.fetch_add(body.len() as u32, Ordering::Relaxed);
                Effect::Next
            }
            _ => Effect::NeedBody(10),
        }),
    )]);
    let chunked = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n";
    let (status, body) = bench.ask(chunked);
    assert_eq!((status, seen.load(Ordering::Relaxed)), (200, 7));
    assert!(body.contains("content-length: 7\r\n") && body.ends_with("abcdefg"), "{body}");
    let (status, body) = bench.ask("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nabcdefghijk");
    assert_eq!(status, 413, "{body}");
}

/// A route's policies from its text.
fn route(text: &str) -> model::Route {
    let route = format!("path = \"/\"\nupstream = \"echo\"\nauth = \"none\"\n{text}");
    toml::from_str(&route).expect("a good route")
}

#[test]
fn an_answer_of_a_filter_is_finished_like_any() {
    let body = Bytes::from("a line of text\n".repeat(20_000));
    let sent = body.clone();
    let finishing = route("compression = true\nsecurity_headers = true");
    let bench = Bench::new(vec![
        (
            Phase::Identify,
            scripted(move |_, _| {
                let mut head = ResponseHead::new(200);
                head.fields.add(b"content-type", b"text/plain");
                Effect::Answer(Answer::Send { head, body: sent.clone() })
            }),
        ),
        (
            Phase::Finish,
            (compression::KIND.compile)(&Making { route: &finishing, gate: &Arc::default() })
                .expect("the route has it"),
        ),
        (
            Phase::Finish,
            (security_headers::KIND.compile)(&Making { route: &finishing, gate: &Arc::default() })
                .expect("the route has it"),
        ),
    ]);
    let ask = |method: &str, fields: &str| {
        let mut socket = bench.connect();
        socket.write_all(format!("{method} / HTTP/1.0\r\nHost: h\r\n{fields}\r\n").as_bytes()).expect("send");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("to its end");
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        (String::from_utf8_lossy(&answer[..end]).into_owned(), answer[end..].to_vec())
    };
    let (head, coded) = ask("GET", "Accept-Encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip\r\n") && head.contains("nosniff\r\n"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut plain).expect("gzip");
    assert!(plain == body);
    let (head, plain) = ask("GET", "");
    assert!(head.contains("content-length: 300000\r\n") && plain == body, "{head}");
    let (head, nothing) = ask("HEAD", "Accept-Encoding: gzip\r\n");
    assert!(head.contains("content-length: 300000\r\n") && nothing.is_empty(), "{head}");
}

#[test]
fn a_needed_body_is_decoded_first() {
    let route = route("decompress_request = true");
    let bench = Bench::new(vec![
        (
            Phase::Inspect,
            (decompress_request::KIND.compile)(&Making { route: &route, gate: &Arc::default() })
                .expect("the route has it"),
        ),
        (
            Phase::Inspect,
            scripted(move |context, step| match step {
                Step::Body(body) => {
                    context.request.fields.set(b"x-seen", &body);
                    Effect::Next
                }
                _ => Effect::NeedBody(5),
            }),
        ),
    ]);
    let ask = |text: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(text).expect("memory");
        let coded = writer.finish().expect("memory");
        let mut socket = bench.connect();
        let head =
            format!("POST /a HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", coded.len());
        socket.write_all(head.as_bytes()).expect("send");
        socket.write_all(&coded).expect("send");
        ask_on(&mut socket, "")
    };
    let (status, body) = ask(b"hello");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("x-seen: hello\r\n") && body.contains("content-length: 5\r\n"), "{body}");
    assert!(body.ends_with("hello"), "the upstream gets what was seen: {body}");
    // The bound of the filter holds for decoded bytes.
    assert_eq!(ask(b"hello!").0, 413);
}

#[test]
fn a_client_that_waits_for_100_gets_it_from_us_when_a_filter_wants_the_body() {
    let bench = Bench::new(vec![(
        Phase::Inspect,
        scripted(|_, step| match step {
            Step::Start => Effect::NeedBody(10),
            _ => Effect::Next,
        }),
    )]);
    let mut socket = bench.connect();
    let head = "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    socket.write_all(head.as_bytes()).expect("send");
    let mut interim = [0; 25];
    socket.read_exact(&mut interim).expect("interim");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (status, body) = ask_on(&mut socket, "ok");
    assert_eq!(status, 200);
    assert!(!body.to_ascii_lowercase().contains("expect"), "we answered the expectation: {body}");
}

#[test]
fn a_body_is_not_held_before_the_client_is_known() {
    let bench = Bench::new(vec![(Phase::Access, scripted(|_, _| Effect::NeedBody(10)))]);
    assert_eq!(bench.ask(GET).0, 500);
}

#[test]
fn a_call_brings_the_answer_of_another_service() {
    let bench = Bench::new(vec![(
        Phase::Identify,
        scripted(|context, step| match step {
            Step::Reply(Ok(reply)) => {
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                assert!(said.starts_with("POST /side?x=1 HTTP/1.1\r\n") && said.ends_with("question"), "{said}");
                context.request.fields.set(b"x-side", reply.status.to_string().as_bytes());
                Effect::Next
            }
            Step::Reply(Err(refusal)) => Effect::Answer(Answer::Refuse(refusal)),
            _ => Effect::Call(subrequest()),
        }),
    )]);
    let (status, body) = bench.ask(GET);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("x-side: 200\r\n"), "{body}");
}

#[test]
fn a_call_is_sent_again_as_its_upstream_says_and_one_that_is_not_to_be_is_not() {
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let retry = r#"upstream.echo.retry = { on = ["503", "reset"], attempts_max = 3, methods = ["POST"] }"#;
    let calling = |once: bool, failures: &'static [&'static str]| {
        let filter = scripted(move |context, step| match step {
            Step::Reply(Ok(reply)) => {
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                assert!(said.is_empty() || said.ends_with("question"), "{said}");
                context.request.fields.set(b"x-side", reply.status.to_string().as_bytes());
                Effect::Next
            }
            Step::Reply(Err(refusal)) => Effect::Answer(Answer::Refuse(refusal)),
            _ => Effect::Call(Subrequest { once, ..subrequest() }),
        });
        let bench = Bench::over(failing_origin(failures), retry, vec![(Phase::Identify, filter)]);
        let (status, body) = bench.ask(GET);
        let series = bench.solo.shared.metrics.upstream("echo");
        let core = series.core(0);
        let side = body.lines().find_map(|line| line.strip_prefix("x-side: ")).unwrap_or_default().to_owned();
        // One request is the client's own, if it came to that.
        (status, side, core.requests.get() - u64::from(status == 200), core.retries_exhausted.get())
    };
    assert_eq!(calling(false, &["", BUSY]), (200, "200".to_owned(), 3, 0));
    assert_eq!(calling(false, &[BUSY, BUSY, BUSY]), (200, "503".to_owned(), 3, 1));
    assert_eq!(calling(true, &[""]), (502, String::new(), 1, 0));
    assert_eq!(calling(true, &[BUSY]), (200, "503".to_owned(), 1, 0));
}

#[test]
fn a_job_is_done_elsewhere_and_a_panicking_one_is_late_not_fatal() {
    let bench = Bench::new(vec![(
        Phase::Inspect,
        scripted(|context, step| match step {
            Step::Done(Some(output)) => {
                let thread = output.downcast::<String>().expect("what the job made");
                context.request.fields.set(b"x-thread", thread.as_bytes());
                Effect::Next
            }
            Step::Done(None) => Effect::Answer(Answer::Refuse(Refusal::Overloaded)),
            _ if context.request.path() == b"/bomb" => Effect::Offload(Box::new(|| panic!("a job of a test"))),
            _ => Effect::Offload(Box::new(|| Box::new(std::thread::current().name().unwrap_or_default().to_owned()))),
        }),
    )]);
    let (status, body) = bench.ask(GET);
    assert_eq!(status, 200);
    assert!(body.contains("x-thread: offload-0\r\n"), "{body}");
    assert_eq!(bench.ask("GET /bomb HTTP/1.1\r\nHost: h\r\n\r\n").0, 503);
    assert_eq!(bench.ask(GET).0, 200, "the pool's thread lives on");
}

#[test]
fn a_delay_passes_before_the_filter_is_asked_again() {
    let bench = Bench::new(vec![(
        Phase::Limit,
        scripted(|context, step| {
            match step {
                Step::Start => {
                    context.kept.put(std::time::Instant::now());
                    return Effect::Delay(Duration::from_millis(30));
                }
                Step::Elapsed => {
                    let waited = context.kept.of::<std::time::Instant>().expect("kept since the start").elapsed();
                    assert!(waited >= Duration::from_millis(30), "{waited:?}");
                }
                _ => unreachable!("asked for nothing else"),
            }
            Effect::Next
        }),
    )]);
    assert_eq!(bench.ask(GET).0, 200);
}

#[test]
fn followers_share_one_fetch() {
    thread_local! {
        static FETCH: std::cell::RefCell<std::rc::Weak<Shared>> = std::cell::RefCell::default();
    }
    let started: Arc<AtomicU32> = Arc::default();
    let count = started.clone();
    let bench = Bench::new(vec![(
        Phase::Reuse,
        scripted(move |_, step| match step {
            Step::Reply(Ok(reply)) => {
                let head = ResponseHead::new(203);
                Effect::Answer(Answer::Send { head, body: reply.body.clone() })
            }
            Step::Reply(Err(refusal)) => Effect::Answer(Answer::Refuse(refusal)),
            _ => FETCH.with_borrow_mut(|fetch| {
                let shared = fetch.upgrade().unwrap_or_else(|| {
                    count.fetch_add(1, Ordering::Relaxed);
                    // The fetch takes long enough for the others to find it: it waits for a pause of its own first.
                    Shared::run(async {
                        crate::rt::sleep(Duration::from_millis(100)).await;
                        Ok(Fetched { status: 200, fields: Fields::new(), body: Bytes::from_static(b"shared") })
                    })
                });
                *fetch = Rc::downgrade(&shared);
                Effect::Follow(shared)
            }),
        }),
    )]);
    let mut sockets: Vec<TcpStream> = (0..5).map(|_| bench.connect()).collect();
    for socket in &mut sockets {
        socket.write_all(GET.as_bytes()).expect("send");
    }
    for socket in &mut sockets {
        assert_eq!(ask_on(socket, ""), (203, "shared".to_owned()));
    }
    assert_eq!(started.load(Ordering::Relaxed), 1);
}

#[test]
fn a_fetch_nobody_follows_any_more_is_cancelled() {
    use crate::rt::{RingFlags, run, sleep};
    struct Tell(Rc<std::cell::Cell<bool>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let flags = RingFlags::probe().expect("io_uring");
    let cancelled = run(flags, 256, async {
        let dropped = Rc::new(std::cell::Cell::new(false));
        let tell = Tell(dropped.clone());
        let shared = Shared::run(async move {
            let _tell = tell;
            std::future::pending().await
        });
        sleep(Duration::from_millis(1)).await;
        assert!(!dropped.get(), "somebody may still follow");
        drop(shared);
        sleep(Duration::from_millis(1)).await;
        dropped.get()
    });
    assert!(cancelled.expect("ring"));
}

#[test]
fn a_filter_that_never_decides_is_refused() {
    let bench = Bench::new(vec![(Phase::Inspect, scripted(|_, _| Effect::Delay(Duration::ZERO)))]);
    assert_eq!(bench.ask(GET).0, 500);
}

#[test]
fn a_panicking_filter_costs_one_connection() {
    let bench = Bench::new(vec![(
        Phase::Inspect,
        scripted(|context, _| {
            assert!(context.request.path() != b"/bomb", "a panic of a test");
            Effect::Next
        }),
    )]);
    let mut neighbour = bench.connect();
    assert_eq!(ask_on(&mut neighbour, GET).0, 200);
    assert_eq!(bench.ask("GET /bomb HTTP/1.1\r\nHost: h\r\n\r\n").0, 0, "closed without an answer");
    assert_eq!(ask_on(&mut neighbour, GET).0, 200);
    assert_eq!(bench.ask(GET).0, 200);
}

#[test]
fn the_way_back_is_reversed_and_a_transform_sees_every_byte() {
    struct Upper;
    impl Transform for Upper {
        fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) {
            out.extend(piece.to_ascii_uppercase());
        }
        fn end(&mut self, out: &mut Vec<u8>) {
            out.extend_from_slice(b"(end)");
        }
    }
    fn stamp(head: &mut ResponseHead, name: &[u8]) {
        let mut list = head.fields.get(b"x-order").map(<[u8]>::to_vec).unwrap_or_default();
        list.extend_from_slice(name);
        head.fields.set(b"x-order", &list);
    }
    let filter = |response| Box::new(Scripted { request: Box::new(|_, _| Effect::Next), response }) as Box<dyn Filter>;
    let bench = Bench::new(vec![
        (Phase::Finish, filter(|_, head| stamp(head, b"finish "))),
        (Phase::Access, filter(|_, head| stamp(head, b"access "))),
        (
            Phase::Convert,
            filter(|context, head| {
                stamp(head, b"convert ");
                context.kept.transforms.push(Box::new(Upper));
            }),
        ),
    ]);
    let mut socket = bench.connect();
    socket.write_all(b"GET /lower HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("send");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("to its end");
    assert!(
        text.contains("x-order: finish convert access \r\n") || text.contains("x-order: finish convert access\r\n"),
        "{text}"
    );
    assert!(text.contains("transfer-encoding: chunked\r\n") && !text.contains("content-length"), "{text}");
    assert!(text.contains("GET /LOWER HTTP/1.1") && text.contains("(end)"), "{text}");
}

#[test]
fn what_a_filter_keeps_is_released_when_the_exchange_ends() {
    struct Held(Arc<AtomicU32>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let held: Arc<AtomicU32> = Arc::default();
    let count = held.clone();
    let bench = Bench::new(vec![(
        Phase::Limit,
        scripted(move |context, _| {
            count.fetch_add(1, Ordering::Relaxed);
            context.kept.put(Held(count.clone()));
            Effect::Next
        }),
    )]);
    let mut socket = bench.connect();
    assert_eq!(ask_on(&mut socket, GET).0, 200);
    // The next answer comes after the exchange before it was released.
    assert_eq!(ask_on(&mut socket, GET).0, 200);
    assert!(held.load(Ordering::Relaxed) <= 1);
}
