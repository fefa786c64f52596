//! HTTP/2 by the h2 crate over [`Stream`], client and server on one ring: large bodies both ways on several streams at once.

use bawab::proxy::wire::{Stream, Wait, Wire};
use bawab::rt::deadline::Cause;
use bawab::rt::{RingFlags, Socket, run, spawn};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{Request, Response};
use tokio::sync::mpsc;

const STREAMS: usize = 8;
const BODY_BYTES: usize = 1024 * 1024;

/// A body in which every piece shows where it belongs and whose it is.
fn body(id: usize) -> Vec<u8> {
    (0..BODY_BYTES as u32 / 4).flat_map(|word| (word ^ ((id as u32) << 24)).to_be_bytes()).collect()
}

/// Sends as much at a time as the peer's windows take.
async fn send(mut stream: SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("capacity");
        let piece = bytes.split_to(granted.min(bytes.len()));
        stream.send_data(piece, bytes.is_empty()).expect("send");
    }
}

async fn receive(mut stream: RecvStream) -> Vec<u8> {
    let mut got = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.expect("data");
        stream.flow_control().release_capacity(piece.len()).expect("it was received");
        got.extend_from_slice(&piece);
    }
    got
}

/// Answers each request with a body of its own while it takes the request's.
async fn serve(stream: Stream) {
    let mut connection = server::handshake(stream).await.expect("handshake");
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.expect("request");
        spawn(async move {
            let id = request.uri().path()[1..].parse().expect("an id");
            let answering = respond.send_response(Response::new(()), false).expect("answer");
            let (got, ()) = tokio::join!(receive(request.into_body()), send(answering, body(id + STREAMS).into()));
            assert!(got == body(id), "the body of request {id} is not what was sent");
        });
    }
}

async fn ask(mut sender: client::SendRequest<Bytes>, id: usize) {
    let request = Request::put(format!("http://h2.test/{id}")).body(()).expect("request");
    let (answer, asking) = sender.send_request(request, false).expect("send");
    let answered = async { receive(answer.await.expect("answer").into_body()).await };
    let (got, ()) = tokio::join!(answered, send(asking, body(id).into()));
    assert!(got == body(id + STREAMS), "the body of answer {id} is not what was sent");
}

/// Whatever connects the two ends: all exchanges pass whole, and the connection ends in order.
fn check(near: impl Into<std::os::fd::OwnedFd>, far: impl Into<std::os::fd::OwnedFd>) {
    let (near, far) = (near.into(), far.into());
    let task = async move {
        let stream = |fd| {
            let wire = Wire::plain(Socket::from_fd(fd).expect("an open socket"));
            Stream::new(wire, None, Wait { ms: 60_000, cause: Cause::Write })
        };
        let (said, mut heard) = mpsc::channel(STREAMS + 1);
        let served = said.clone();
        let far = stream(far);
        spawn(async move {
            serve(far).await;
            served.send("served").await.expect("heard");
        });
        let (sender, connection) = client::handshake(stream(near)).await.expect("handshake");
        spawn(async move { connection.await.expect("an end in order") });
        for id in 0..STREAMS {
            let (sender, said) = (sender.clone().ready().await.expect("ready"), said.clone());
            spawn(async move {
                ask(sender, id).await;
                said.send("asked").await.expect("heard");
            });
        }
        // What is left to speak are the tasks; one that failed is silent.
        drop((sender, said));
        let mut words = Vec::new();
        while let Some(word) = heard.recv().await {
            words.push(word);
        }
        words
    };
    let words = run(RingFlags::probe().expect("io_uring"), 64, task).expect("ring");
    assert_eq!(words.iter().filter(|word| **word == "asked").count(), STREAMS);
    assert_eq!(words.last(), Some(&"served"));
    assert_eq!(bawab::rt::panics(), 0, "no task failed");
    assert_eq!(bawab::rt::buffers_live(), 0, "no buffer is left behind");
}

#[test]
fn concurrent_streams_pass_whole_over_a_socket_pair() {
    let (near, far) = std::os::unix::net::UnixStream::pair().expect("pair");
    check(near, far);
}

#[test]
fn concurrent_streams_pass_whole_over_tcp() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    check(near, listener.accept().expect("accept").0);
}
