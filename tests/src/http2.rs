//! HTTP/2 as clients speak it: by the `h2` crate where what is said counts, frame by frame where its form does.

use std::future::Future;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use http::{HeaderMap, Request, Response, StatusCode};

use crate::patience;
use crate::peer::Peer;

/// Frame types (RFC 9113 §6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Error codes (RFC 9113 §7).
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// Runs what is to be done by tasks, for no longer than the patience of a case.
pub fn on<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(patience(), work).await.expect("in time") })
}

/// A connection; what is sent on it goes by tasks of the runtime it was opened in.
#[derive(Clone)]
pub struct Client {
    pub sender: SendRequest<Bytes>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a field, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Reads all of it.
    pub async fn read(answer: Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
        let (parts, mut stream) = answer.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = stream.data().await {
            let piece = piece?;
            stream.flow_control().release_capacity(piece.len())?;
            body.extend_from_slice(&piece);
        }
        let trailers = stream.trailers().await?;
        Ok(Answer { status: parts.status, fields: parts.headers, body, trailers })
    }
}

impl Client {
    pub async fn connect(to: SocketAddr) -> Result<Client> {
        let socket = tokio::net::TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
        let (sender, connection) = handshake(socket).await?;
        tokio::spawn(connection);
        Ok(Client { sender })
    }

    /// Sends a request without a body and reads the answer.
    pub async fn ask(&self, request: Request<()>) -> Result<Answer, h2::Error> {
        let (answer, _) = self.sender.clone().ready().await?.send_request(request, true)?;
        Answer::read(answer.await?).await
    }

    /// GET of `path`.
    pub async fn get(&self, path: &str) -> Result<Answer, h2::Error> {
        self.ask(get(path)).await
    }

    /// GET of every path of `authority`, all of them at once; the answers in the order of the paths.
    pub async fn get_all(&self, authority: &str, paths: &[&str]) -> Result<Vec<Answer>> {
        let asked = paths.iter().map(|path| {
            let (client, uri) = (self.clone(), format!("http://{authority}{path}"));
            tokio::spawn(async move { Ok::<_, anyhow::Error>(client.ask(Request::get(uri).body(())?).await?) })
        });
        let mut answers = Vec::new();
        for answer in asked.collect::<Vec<_>>() {
            answers.push(answer.await??);
        }
        Ok(answers)
    }

    /// Sends a request with `body`, as fast as it is taken, and reads the answer meanwhile.
    pub async fn send(
        &self,
        request: Request<()>,
        body: Bytes,
        trailers: Option<HeaderMap>,
    ) -> Result<Answer, h2::Error> {
        let (answer, mut stream) = self.sender.clone().ready().await?.send_request(request, false)?;
        let upload = async {
            let mut rest = body;
            while !rest.is_empty() {
                stream.reserve_capacity(rest.len());
                let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
                let piece = rest.split_to(room?.min(rest.len()));
                stream.send_data(piece, rest.is_empty() && trailers.is_none())?;
            }
            trailers.map_or(Ok(()), |trailers| stream.send_trailers(trailers))
        };
        let download = async { Answer::read(answer.await?).await };
        let (_, answer) = tokio::join!(upload, download);
        answer
    }
}

/// GET of `path` as the base configuration takes it.
pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://e2e.test{path}")).body(()).expect("a request")
}

/// A connection on which every frame is ours.
pub struct Frames {
    pub peer: Peer,
}

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of an RST_STREAM or a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(u32::MAX, |code| u32::from_be_bytes(code.try_into().expect("four bytes")))
    }
}

impl Frames {
    /// Says the preface with `settings` (identifier and value each), and takes the other side's settings.
    pub fn open(peer: Peer, settings: &[(u16, u32)]) -> Result<Frames> {
        let mut frames = Frames { peer };
        frames.peer.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        frames.send(kind::SETTINGS, 0, 0, &payload)?;
        let first = frames.read()?.context("settings")?;
        ensure!(first.kind == kind::SETTINGS && first.flags & ACK == 0, "the first frame is {}", first.kind);
        frames.send(kind::SETTINGS, ACK, 0, b"")?;
        Ok(frames)
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        self.peer.send(frame(kind, flags, stream, payload))
    }

    /// The next frame; `None`: the connection has ended.
    pub fn read(&mut self) -> Result<Option<Frame>> {
        if self.peer.pending()?.is_empty() && !self.peer.fill()? {
            return Ok(None);
        }
        let head = self.peer.take(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload: self.peer.take(length as usize)? }))
    }

    /// Reads on to the first frame for which `is` holds.
    pub fn find(&mut self, is: impl Fn(&Frame) -> bool) -> Result<Frame> {
        while let Some(frame) = self.read()? {
            if is(&frame) {
                return Ok(frame);
            }
        }
        bail!("the connection ended without such a frame")
    }

    /// Reads on to the answer's head on `stream`: its status, as long as that is one of HPACK's static table.
    pub fn status(&mut self, stream: u32) -> Result<u16> {
        let head = self.find(|frame| frame.kind == kind::HEADERS && frame.stream == stream)?;
        match head.payload.first() {
            Some(&index @ 0x88..=0x8e) => Ok([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)]),
            other => bail!("a head begins with {other:x?}"),
        }
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The fields of a request, none of them compressed.
pub fn block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "e2e.test")];
    pseudo.iter().chain(more).flat_map(|(name, value)| literal(name, value)).collect()
}

/// A field that is not indexed (RFC 7541 §6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        integer(&mut field, text.len());
        field.extend(text.as_bytes());
    }
    field
}

/// A length with a prefix of 7 bits (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}
