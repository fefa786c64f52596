//! A service of gRPC as small as can be, for `cargo xtask bench grpc`: it stands behind every peer, so it has to be quick and need
//! not be clever.
//!
//! One core, HTTP/2 without TLS. A POST is a call: its message comes back, and behind it `grpc-status: 0`. `GET /calls` says how
//! many there were, and any other GET gets three bytes with the fields that servers send. `grpc LISTEN`

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};

/// Streams of one connection: some peers have few connections.
const STREAMS_MAX: u32 = 1000;
const WINDOW_BYTES: u32 = 1024 * 1024;
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen] = words.as_slice() else {
        eprintln!("usage: grpc LISTEN");
        return ExitCode::from(2);
    };
    let Ok(listen) = listen.parse() else {
        eprintln!("grpc: an address, please");
        return ExitCode::from(2);
    };
    match serve(listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("grpc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(listen: SocketAddr) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let calls = Rc::new(Cell::new(0));
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            // An error is a connection that ended; the load generator counts those it did not end itself.
            tokio::task::spawn_local(connection(socket, calls.clone()));
        }
    })
}

async fn connection(socket: TcpStream, calls: Rc<Cell<u64>>) -> Result<(), h2::Error> {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(STREAMS_MAX);
    builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let mut connection = builder.handshake(socket).await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        match request.method() == Method::POST {
            true => drop(tokio::task::spawn_local(call(request, respond, calls.clone()))),
            false => plain(&request, respond, calls.get())?,
        }
    }
    Ok(())
}

/// Answers a call with its own message.
async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    calls: Rc<Cell<u64>>,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    let mut message = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if message.len() + piece.len() > MESSAGE_BYTES_MAX {
            respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Ok(());
        }
        message.extend_from_slice(&piece);
    }
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(message.freeze(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    calls.set(calls.get() + 1);
    Ok(())
}

fn plain(request: &Request<RecvStream>, mut respond: SendResponse<Bytes>, calls: u64) -> Result<(), h2::Error> {
    thread_local! {
        // As a server has it, but for the time.
        static FIELDS: RefCell<HeaderMap> = RefCell::new(HeaderMap::from_iter([
            (http::header::SERVER, HeaderValue::from_static("bench/1.0")),
            (http::header::DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT")),
            (http::header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        ]));
    }
    let body = match request.uri().path() {
        "/calls" => Bytes::from(calls.to_string()),
        _ => Bytes::from_static(b"ok\n"),
    };
    let mut head = Response::new(());
    *head.headers_mut() = FIELDS.with_borrow(HeaderMap::clone);
    head.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    respond.send_response(head, false)?.send_data(body, true)
}
