//! The task that drives one HTTP/2 connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Frames, Meter};
use super::stream::Begun;
use crate::limits::{
    HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_LOCAL_RESETS_MAX, HTTP2_PENDING_RESETS_MAX, HTTP2_PING_MS,
    HTTP2_REQUESTS_PER_TURN, HTTP2_RESET_MEMORY_MS, HTTP2_RESETS_REMEMBERED_MAX, HTTP2_SEND_BUFFER_BYTES,
    HTTP2_STREAM_WINDOW_BYTES, LINGER_BYTES_MAX, LINGER_MS,
};
use crate::proxy::connection::Connection;
use crate::proxy::head::Speaker;
use crate::proxy::wire::{Handshake, Stream, StreamHandle, Wait};
use crate::rt;
use crate::rt::deadline::{Cause, Guard, now_ms};
use crate::snapshot::Settings;
use crate::tables::connections;
use crate::worker::{Open, Worker};

/// What a connection's exchanges share.
pub struct Session {
    open: Open,
    /// index into `Snapshot::listeners`
    pub listener: u32,
    pub speaker: Speaker,
    /// What was agreed on, if TLS is spoken.
    pub tls: Option<Box<Handshake>>,
    pub meter: Meter,
    born_ms: u64,
    /// Exchanges that have not ended.
    running: Cell<u32>,
    /// The connection's task, while it waits.
    waker: RefCell<Option<Waker>>,
    /// Room for one among the open connections; others beside it are counted on it.
    place: connections::Place,
}

impl Session {
    pub fn worker(&self) -> &Rc<Worker> {
        self.open.worker()
    }
}

/// One running exchange, for as long as it lives.
pub struct Running {
    session: Rc<Session>,
    /// It was counted as one more connection, as it may need one to a service of its own. The first one has the connection's
    /// place.
    is_another: bool,
}

impl Running {
    /// `Err`: there are as many as there may be, together with all connections and all those of the client.
    fn enter(session: &Rc<Session>, settings: &Settings) -> Result<Running, connections::Full> {
        let running = session.running.get();
        let is_another = running > 0;
        if is_another {
            session.place.enter_another(settings.connections_max, settings.connections_per_address_max)?;
        }
        session.running.set(running + 1);
        Ok(Running { session: session.clone(), is_another })
    }

    pub fn session(&self) -> &Rc<Session> {
        &self.session
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_another {
            self.session.place.leave_another();
        }
        let left = self.session.running.get() - 1;
        self.session.running.set(left);
        if left == 0
            && let Some(waker) = self.session.waker.take()
        {
            waker.wake();
        }
    }
}

/// Serves one HTTP/2 connection to its end.
pub async fn serve(connection: Connection) {
    let Connection { open, wire, listener, speaker, carry, tls, born_ms, place, .. } = connection;
    let pinned = open.worker().pinned();
    let settings = &pinned.snapshot.settings;
    let session = Rc::new(Session {
        open,
        listener,
        speaker,
        tls,
        meter: Meter::default(),
        born_ms,
        running: Cell::new(0),
        waker: RefCell::default(),
        place,
    });
    let core = session.worker().core();
    let wait = Wait { ms: settings.body_idle_ms, cause: Cause::Write };
    let stream = StreamHandle::new(Stream::new(wire, carry, wait));
    let deadline = stream.reader_remote();
    let metered = Metered { stream: stream.clone(), session: session.clone(), frames: Frames::default() };
    // From accept, as in HTTP/1, whatever was agreed on meanwhile.
    deadline.arm((born_ms + settings.head_ms).saturating_sub(now_ms()).max(1), Cause::Head);
    let handshake = builder(settings).handshake::<_, Bytes>(metered).await;
    deadline.disarm();
    let mut connection = match handshake {
        Ok(connection) => connection,
        Err(error) => {
            if deadline.fired().is_some() {
                core.timeouts_head.inc();
            }
            tracing::debug!(%error, client = %session.speaker.address, "no HTTP/2");
            return linger(&stream).await;
        }
    };
    core.http2_connections.inc();
    let pings = connection.ping_pong();
    drop(pinned);
    let mut driver = Driver {
        connection,
        session: session.clone(),
        stream: stream.clone(),
        pings,
        guard: Guard::new(None),
        armed: None,
        ending: false,
        late: 0,
        calmed: false,
        served: 0,
        heard: 0,
        asked: false,
    };
    driver.drive().await;
    drop(driver);
    linger(&stream).await;
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(settings.http2_streams)
        .max_header_list_size(header_list_bytes(settings))
        .initial_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(HTTP2_SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(HTTP2_RESETS_REMEMBERED_MAX)
        .reset_stream_duration(Duration::from_millis(HTTP2_RESET_MEMORY_MS))
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(Some(HTTP2_LOCAL_RESETS_MAX))
        .enable_connect_protocol();
    builder
}

/// How large a list of fields may be for `h2`, which answers a larger one itself, without a log line: more than what we
/// refuse, so that heads that are too large for us are refused as all others are. Half of it is for those; a field counts as 32
/// bytes more than it has (RFC 9113 §6.5.2). A head is read as soon as it is whole, so few of them take memory at one time.
fn header_list_bytes(settings: &Settings) -> u32 {
    (2 * (settings.head_bytes + 32 * settings.fields)) as u32
}

/// Reads what the client still sends, for a short while: closed at once, what was said last could be lost to a reset.
async fn linger(stream: &StreamHandle) {
    let remote = stream.reader_remote();
    remote.arm(LINGER_MS, Cause::Head);
    poll_fn(|cx| Pin::new(&mut stream.clone()).poll_shutdown(cx)).await.ok();
    let mut dropped = 0;
    while dropped < LINGER_BYTES_MAX {
        match poll_fn(|cx| stream.poll_skip(cx)).await {
            Ok(count) if count > 0 => dropped += count,
            _ => return,
        }
    }
}

struct Driver {
    connection: h2::server::Connection<Metered, Bytes>,
    session: Rc<Session>,
    stream: StreamHandle,
    pings: Option<PingPong>,
    guard: Guard,
    /// What the guard waits for; `None`: nothing yet.
    armed: Option<Waiting>,
    /// The client was told that no more streams are taken.
    ending: bool,
    /// Streams taken all the same.
    late: usize,
    /// The client was told to calm down.
    calmed: bool,
    served: u32,
    /// Bytes that had been received when the peer was last looked after.
    heard: u64,
    /// The peer was asked for a sign of life.
    asked: bool,
}

/// What a connection waits for beside its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The first request.
    First,
    /// Another request.
    Idle,
    /// Exchanges, as long as somebody is there.
    Busy,
    /// The end of the connection; nothing runs.
    Over,
}

enum Event {
    /// As many streams were taken as one turn takes.
    Turn,
    Timer(Cause),
    /// The connection is over.
    Over,
}

impl Driver {
    async fn drive(&mut self) {
        loop {
            match poll_fn(|cx| self.poll_next(cx)).await {
                Event::Turn => rt::yield_now().await,
                Event::Timer(cause) => {
                    if !self.on_timer(cause) {
                        return;
                    }
                }
                Event::Over => return,
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.take(request, respond);
                    if self.served.is_multiple_of(HTTP2_REQUESTS_PER_TURN) {
                        return Poll::Ready(Event::Turn);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, client = %self.session.speaker.address, "an HTTP/2 connection broke");
                    return Poll::Ready(Event::Over);
                }
                Poll::Ready(None) => return Poll::Ready(Event::Over),
                Poll::Pending if self.session.meter.is_spent() && !self.calmed => {
                    self.calmed = true;
                    self.session.worker().core().http2_calmed.inc();
                    self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                Poll::Pending => break,
            }
        }
        let waiting = self.waiting();
        if self.armed != Some(waiting) {
            self.arm(waiting);
        }
        *self.session.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(Event::Timer(ready!(self.guard.poll_over(cx))))
    }

    fn waiting(&self) -> Waiting {
        match self.session.running.get() {
            0 if self.ending => Waiting::Over,
            0 if self.served == 0 => Waiting::First,
            0 => Waiting::Idle,
            _ => Waiting::Busy,
        }
    }

    fn arm(&mut self, waiting: Waiting) {
        let pinned = self.session.worker().pinned();
        let settings = &pinned.snapshot.settings;
        let age_left = (self.session.born_ms + settings.connection_age_ms).saturating_sub(now_ms());
        let (ms, cause) = match waiting {
            Waiting::First => (settings.head_ms, Cause::Silence),
            Waiting::Idle => (settings.keep_alive_ms.min(age_left), Cause::KeepAlive),
            // A drain has been heard already.
            Waiting::Busy if self.ending => (HTTP2_PING_MS, Cause::Idle),
            Waiting::Busy => (HTTP2_PING_MS.min(age_left), Cause::Ping),
            Waiting::Over => (LINGER_MS, Cause::Idle),
        };
        self.guard = Guard::new(None);
        self.guard.arm(ms, cause);
        self.armed = Some(waiting);
    }

    /// `false`: nobody is there any more.
    fn on_timer(&mut self, cause: Cause) -> bool {
        let waiting = self.armed.take();
        let core = self.session.worker().core();
        match (cause, waiting) {
            (Cause::Drain, _) => self.end(),
            (_, Some(Waiting::First)) => {
                core.timeouts_head.inc();
                self.end();
            }
            (_, Some(Waiting::Idle)) => {
                core.timeouts_keep_alive.inc();
                self.end();
            }
            // Answers that are whole for their exchanges may be half-way to a client that takes them slowly.
            (_, Some(Waiting::Over)) => return self.stream.is_writing(),
            _ => {
                let pinned = self.session.worker().pinned();
                if self.ending || now_ms() < self.session.born_ms + pinned.snapshot.settings.connection_age_ms {
                    return self.look_after();
                }
                // Not the time for a look at the peer, which may have been asked a moment ago.
                self.end();
            }
        }
        true
    }

    /// Asks a peer that was silent for a sign of life; one that did not give it is gone.
    fn look_after(&mut self) -> bool {
        let received = self.stream.received();
        // Neither a ping nor its answer overtakes what a slow client has not taken yet.
        if std::mem::replace(&mut self.heard, received) != received || self.stream.is_writing() {
            self.asked = false;
            return true;
        }
        if std::mem::replace(&mut self.asked, true) {
            self.session.worker().core().timeouts_ping.inc();
            return false;
        }
        if let Some(pings) = &mut self.pings {
            // An answer that came is taken, or no other ping could be sent.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            // A connection that is closing takes none.
            let _ = pings.send_ping(Ping::opaque());
        }
        true
    }

    /// Tells the client that no more streams are taken: in two steps, so that none that is on its way is lost (RFC 9113 §6.8).
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ending, true) {
            self.connection.graceful_shutdown();
        }
    }

    /// Begins the exchange of a stream.
    fn take(&mut self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.served = self.served.saturating_add(1);
        let worker = self.session.worker();
        let pinned = worker.pinned();
        let settings = &pinned.snapshot.settings;
        let listener = &pinned.snapshot.listeners[self.session.listener as usize];
        if self.ending {
            self.late += 1;
            // As many may have been on their way, and as many more in place of those that were answered meanwhile. Whoever
            // begins others does not want to hear it; they can be sent again elsewhere (RFC 9113 §8.7).
            if self.late > 2 * settings.http2_streams as usize {
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
        }
        if self.served >= settings.requests_per_connection || worker.draining() || listener.is_closed() {
            self.end();
        }
        let running = match Running::enter(&self.session, settings) {
            Ok(running) => running,
            Err(full) => {
                self.session.worker().count_full(full);
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
        };
        self.session.worker().streams.give(Begun::new(running, pinned, request, respond));
    }
}

/// A stream of bytes on its way to `h2`.
struct Metered {
    stream: StreamHandle,
    session: Rc<Session>,
    frames: Frames,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Nothing more is read from a client that is told to calm down; who polls sees it next.
        if self.session.meter.is_spent() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let came = &into.filled()[before..];
        let this = &mut *self;
        this.frames.see(came, &this.session.meter);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
