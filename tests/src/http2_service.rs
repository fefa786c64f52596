//! A service that speaks HTTP/2: by the `h2` crate where what is said counts, frame by frame where its form does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, ensure};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::http2::{ACK, Frame, Frames, kind};
use crate::peer::Peer;

/// A whole request.
pub struct Asked {
    pub head: Request<()>,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// What is answered: the head, the body in pieces, the trailers.
pub struct Reply {
    pub head: Response<()>,
    pub pieces: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    pub fn ok(body: impl Into<Bytes>) -> Reply {
        let body = body.into();
        let pieces = if body.is_empty() { Vec::new() } else { vec![body] };
        Reply { head: Response::new(()), pieces, trailers: None }
    }
}

/// A service in a thread of its own. Dropped, it ends with all its connections.
pub struct Http2Service {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Http2Service {
    /// Answers each request, when it is whole, with what `answer` makes of it.
    pub fn answer(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Result<Http2Service> {
        Http2Service::answer_over(None, answer)
    }

    /// The same over TLS, where it was agreed on HTTP/2.
    pub fn answer_over(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Result<Http2Service> {
        let answer = Arc::new(answer);
        Http2Service::serve_over(tls, h2::server::Builder::new(), move |request, respond| {
            let answer = answer.clone();
            async move {
                let (parts, stream) = request.into_parts();
                let (body, trailers) = whole(stream).await?;
                let asked = Asked { head: Request::from_parts(parts, ()), body, trailers };
                send(respond, answer(&asked)).await
            }
        })
    }

    /// Hands every stream to `handler`, each in a task of its own. A handler's error ends its stream.
    pub fn serve<F>(
        builder: h2::server::Builder,
        handler: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) -> Result<Http2Service>
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        Http2Service::serve_over(None, builder, handler)
    }

    fn serve_over<F>(
        tls: Option<Arc<rustls::ServerConfig>>,
        builder: h2::server::Builder,
        handler: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) -> Result<Http2Service>
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        let handler = Arc::new(handler);
        let thread = std::thread::spawn(move || {
            let accepting = async {
                while let Ok((socket, _)) = listener.accept().await {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    let (handler, builder, tls) = (handler.clone(), builder.clone(), tls.clone());
                    tokio::spawn(async move {
                        let Some(tls) = tls else { return streams(socket, builder, &*handler).await };
                        let socket = tokio_rustls::TlsAcceptor::from(tls).accept(socket).await;
                        let Ok(socket) = socket else { return Ok(()) };
                        match socket.get_ref().1.alpn_protocol() {
                            Some(b"h2") => streams(socket, builder, &*handler).await,
                            _ => Ok(()),
                        }
                    });
                }
            };
            // Dropped with the runtime: every task and its connection.
            runtime.block_on(async {
                tokio::select! { () = accepting => {}, _ = stopped => {} }
            });
        });
        Ok(Http2Service { address, connections, stop: Some(stop), thread: Some(thread) })
    }

    /// As the configuration writes it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Http2Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hands every stream of a connection to `handler`.
async fn streams<F>(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    builder: h2::server::Builder,
    handler: &(impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static),
) -> Result<(), h2::Error>
where
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    let mut connection = builder.handshake::<_, Bytes>(socket).await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        tokio::spawn(handler(request, respond));
    }
    Ok(())
}

/// Reads a message's body to its end.
pub async fn whole(mut stream: RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok((body.into(), stream.trailers().await?))
}

/// Sends a whole answer, as fast as it is taken.
pub async fn send(mut respond: SendResponse<Bytes>, reply: Reply) -> Result<(), h2::Error> {
    let Reply { head, mut pieces, trailers } = reply;
    pieces.retain(|piece| !piece.is_empty());
    let last = pieces.pop();
    let mut stream = respond.send_response(head, last.is_none() && trailers.is_none())?;
    for piece in pieces {
        data(&mut stream, piece, false).await?;
    }
    if let Some(piece) = last {
        data(&mut stream, piece, trailers.is_none()).await?;
    }
    trailers.map_or(Ok(()), |trailers| stream.send_trailers(trailers))
}

/// Sends a piece of a body, as fast as it is taken.
pub async fn data(stream: &mut h2::SendStream<Bytes>, mut rest: Bytes, end: bool) -> Result<(), h2::Error> {
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
        let piece = rest.split_to(room?.min(rest.len()));
        stream.send_data(piece, end && rest.is_empty())?;
    }
    Ok(())
}

impl Frames {
    /// The service's side of a connection of the gateway: takes its preface and settings, and says `settings` (identifier and
    /// value each).
    pub fn accept(mut peer: Peer, settings: &[(u16, u32)]) -> Result<Frames> {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        ensure!(peer.take(PREFACE.len())? == PREFACE, "no preface");
        let mut frames = Frames { peer };
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        frames.send(kind::SETTINGS, 0, 0, &payload)?;
        frames.find(|frame| frame.kind == kind::SETTINGS && frame.flags & ACK == 0)?;
        frames.send(kind::SETTINGS, ACK, 0, b"")?;
        Ok(frames)
    }

    /// The head of the next request.
    pub fn request(&mut self) -> Result<Frame> {
        self.find(|frame| frame.kind == kind::HEADERS)
    }
}
