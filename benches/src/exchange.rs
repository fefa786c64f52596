//! Whole exchanges on one thread: client, gateway and service are tasks of one ring, so nothing waits for another thread
//! and callgrind, which runs one thread at a time, can count them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bawab::rt::{self, Buf, Peer, Socket, wake};
use bawab::worker::{Message, bind, solo};

/// What curl sends, about.
const REQUEST: &[u8] =
    b"GET /orders/4711?lang=en HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";

/// What nginx answers, about.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 09:00:00 GMT\r\n\
Content-Type: text/plain\r\nContent-Length: 6\r\nConnection: keep-alive\r\n\r\nhello\n";

/// Streams of an HTTP/2 client that run at one time, as in `cargo xtask bench h2`.
const STREAMS: u64 = 32;

/// The client's preface and its settings, which are what the standard begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Acknowledges the gateway's settings.
const SETTINGS_ACK: &[u8] = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00";

/// The same request in HPACK: `GET`, `http`, and a path that is not remembered.
const METHOD_AND_PATH: &[u8] = b"\x82\x86\x04\x14/orders/4711?lang=en";

/// The other fields of the first request, for the decoder to remember (RFC 7541 §6.2.1), and of all that follow.
const FIELDS_FIRST: &[u8] = b"\x41\x0fapi.example.com\x7a\x0bcurl/7.88.1\x53\x03*/*";
const FIELDS_AGAIN: &[u8] = b"\xc0\xbf\xbe";

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Runs `count` exchanges, one after the other, on one client connection. Returns how long they took, after some that are
/// not counted. `endpoints`: how many the service has; more than one are checked, and ejected when they fail.
pub fn run(count: u64, endpoints: usize) -> Result<Duration> {
    run_with(endpoints, async move |gateway| ask(gateway, count).await)
}

/// Runs about `count` exchanges, as many streams at a time as `cargo xtask bench h2` has, on one client connection over HTTP/2.
pub fn run_http2(count: u64) -> Result<Duration> {
    run_with(1, async move |gateway| ask_http2(gateway, count.div_ceil(STREAMS)).await)
}

fn run_with(endpoints: usize, ask: impl AsyncFnOnce(SocketAddr) -> Result<Duration> + 'static) -> Result<Duration> {
    let mut sockets = Vec::new();
    let mut services = String::new();
    for _ in 0..endpoints {
        let bound = bind("127.0.0.1:0".parse()?, 1, false)?;
        services.push_str(&format!("\"{}\", ", bound[0].local_addr()?));
        sockets.extend(bound);
    }
    let health = if endpoints > 1 { "upstream.o.health.http = \"/healthz\"\nupstream.o.eject = true\n" } else { "" };
    let text = format!(
        "limits.requests_per_connection = 4294967295\n\
         listener = [{{ address = \"127.0.0.1:0\" }}]\n\
         upstream.o.endpoints = [{services}]\n\
         {health}\
         route = [{{ path = \"/**\", upstream = \"o\", auth = \"none\" }}]\n"
    );
    let config = toml::from_str(&text)?;
    let (tell, told) = std::sync::mpsc::channel();
    solo::run_here(&config, move |gateway, mailbox| {
        for socket in sockets {
            let (listener, stop) = rt::Listener::new(socket).expect("the service listens");
            // Dropping it would not stop the accept, and nobody does before the end.
            std::mem::forget(stop);
            rt::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    rt::spawn(serve(socket));
                }
            });
        }
        rt::spawn(async move {
            let took = ask(gateway).await;
            tell.send(took).expect("the caller waits");
            stop_worker(&mailbox);
        });
    })?;
    told.recv()?
}

fn stop_worker(mailbox: &wake::Sender<Message>) {
    assert!(mailbox.send(Message::Stop).is_ok(), "an empty mailbox takes a message");
}

async fn serve(mut socket: Socket) {
    while let (Ok(1..), _) = socket.reader.read(Buf::take()).await {
        let answer = Buf::copy_of(ANSWER).expect("it fits");
        if socket.writer.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn ask(gateway: SocketAddr, count: u64) -> Result<Duration> {
    let mut socket = Socket::connect(&Peer::Tcp(gateway)).await?;
    let warm_up = 50;
    let mut begun = Instant::now();
    for n in 0..warm_up + count {
        if n == warm_up {
            begun = Instant::now();
        }
        socket.writer.write_all(Buf::copy_of(REQUEST).context("it fits")?).await?;
        let (received, buf) = socket.reader.read(Buf::take()).await;
        anyhow::ensure!(received? > 0 && buf.bytes().ends_with(b"hello\n"), "{}", buf.bytes().escape_ascii());
    }
    Ok(begun.elapsed())
}

/// Asks in batches, each when the one before is answered.
async fn ask_http2(gateway: SocketAddr, batches: u64) -> Result<Duration> {
    let mut socket = Socket::connect(&Peer::Tcp(gateway)).await?;
    let (mut received, mut stream, mut begun) = (Frames::default(), 1, Instant::now());
    let warm_up = 4;
    for n in 0..warm_up + batches {
        if n == warm_up {
            begun = Instant::now();
        }
        let mut buf = Buf::take();
        if n == 0 {
            put(&mut buf, &[PREFACE, SETTINGS_ACK]);
        }
        for at in 0..STREAMS {
            let fields = if n + at == 0 { FIELDS_FIRST } else { FIELDS_AGAIN };
            let length = METHOD_AND_PATH.len() + fields.len();
            put(&mut buf, &[&header(length, HEADERS, END_STREAM | END_HEADERS, stream), METHOD_AND_PATH, fields]);
            stream += 2;
        }
        // As much window as a batch of answers takes.
        put(&mut buf, &[&header(4, WINDOW_UPDATE, 0, 0), &(6 * STREAMS as u32).to_be_bytes()]);
        socket.writer.write_all(buf).await?;
        let answered = received.ended + STREAMS;
        while received.ended < answered {
            let (count, buf) = socket.reader.read(Buf::take()).await;
            anyhow::ensure!(count? > 0, "the gateway closed the connection");
            received.see(buf.bytes())?;
        }
    }
    Ok(begun.elapsed())
}

fn put(buf: &mut Buf, pieces: &[&[u8]]) {
    assert!(pieces.iter().all(|piece| buf.append(piece)), "a batch fits into a buffer");
}

/// A frame's header (RFC 9113 §4.1).
fn header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_BYTES] {
    let ([_, a, b, c], [d, e, f, g]) = ((length as u32).to_be_bytes(), stream.to_be_bytes());
    [a, b, c, kind, flags, d, e, f, g]
}

/// Finds the ends of answers.
#[derive(Default)]
struct Frames {
    /// Answers that have ended.
    ended: u64,
    /// Of the frame that goes on with the next bytes.
    rest: Vec<u8>,
}

impl Frames {
    fn see(&mut self, bytes: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(&[a, b, c, kind, flags, ..]) = self.rest.get(at..at + HEADER_BYTES) {
            let end = at + HEADER_BYTES + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            let Some(body) = self.rest.get(at + HEADER_BYTES..end) else { break };
            if kind == DATA && flags & END_STREAM != 0 {
                anyhow::ensure!(body == b"hello\n", "{}", body.escape_ascii());
                self.ended += 1;
            }
            at = end;
        }
        self.rest.drain(..at);
        Ok(())
    }
}
