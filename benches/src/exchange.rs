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

/// Runs `count` exchanges, one after the other, on one client connection. Returns how long they took, after some that are
/// not counted. `endpoints`: how many the service has; more than one are checked, and ejected when they fail.
pub fn run(count: u64, endpoints: usize) -> Result<Duration> {
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
            let took = ask(gateway, count).await;
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
