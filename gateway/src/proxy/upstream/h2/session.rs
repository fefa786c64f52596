//! Connections that carry many requests at one time, a worker's own.
//!
//! A connection is opened by a task of its own, so that whoever asked for it first may leave while others wait. It takes
//! requests as long as there is room for streams, the service has not said that it ends (GOAWAY), and it is not too old; then it
//! ends with its last request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::hash::BuildHasherDefault;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use ::h2::client::{self, Builder, Connection, ResponseFuture, SendRequest};
use ::h2::{Ping, PingPong, SendStream};
use bytes::Bytes;
use http::Request;
use http::uri::Scheme;

use super::Call;
use crate::balance::{Http, Identity, Prehashed};
use crate::limits::{
    HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_LOCAL_RESETS_MAX, HTTP2_PING_MS, HTTP2_PINGS_APART_MS, HTTP2_RESET_MEMORY_MS,
    HTTP2_RESETS_REMEMBERED_MAX, HTTP2_SEND_BUFFER_BYTES, HTTP2_STREAM_WINDOW_BYTES, HTTP2_UPSTREAM_CONNECTIONS_MAX,
    RESPONSE_HEAD_BYTES_MAX,
};
use crate::proxy::upstream::{self, ConnectError, Opened};
use crate::proxy::wire::{Stream, StreamHandle, Wait};
use crate::rt::deadline::{Cause, Guard, now_ms};
use crate::rt::{Either, Notify, select, spawn};
use crate::snapshot::PoolSettings;

/// The connections of one worker, by what must be equal for a request to go by one.
#[derive(Default)]
pub struct Sessions {
    services: RefCell<HashMap<Identity, Rc<Service>, BuildHasherDefault<Prehashed>>>,
}

#[derive(Default)]
struct Service {
    sessions: RefCell<Vec<Rc<Session>>>,
    opening: RefCell<Option<Rc<Opening>>>,
    /// Where that is agreed on, HTTP/1.1 was the last time.
    speaks_one: Cell<bool>,
}

/// A connection that is being opened, and why it was not.
#[derive(Default)]
struct Opening {
    done: Notify,
    failed: RefCell<Option<ConnectError>>,
    opened: Cell<Option<Opened>>,
    /// HTTP/1.1 was agreed on: for the first one who waits.
    own: RefCell<Option<upstream::Connection>>,
}

/// Where a request may go.
pub enum Place {
    /// `opened`: it was, for this one.
    Stream { call: Box<Call>, opened: Option<Opened> },
    /// The service speaks HTTP/1.1.
    Own(upstream::Connection),
    /// So it does, and somebody else has that connection.
    Elsewhere,
}

impl Sessions {
    /// A place for one request, on a connection that is opened if there is no room on those that there are. `guard`: the
    /// exchange's; `wait_ms`: how long a connection may take to open.
    pub async fn call(
        &self,
        identity: &Identity,
        settings: PoolSettings,
        guard: &Guard,
        wait_ms: u64,
    ) -> Result<Place, ConnectError> {
        let service = self.service(identity);
        let mut opened = None;
        loop {
            if let Some(lease) = service.room(settings) {
                return Ok(Place::Stream { call: Box::new(Call::new(lease)), opened });
            }
            let under_way = service.opening.borrow().clone();
            let (opening, is_ours) = match under_way {
                Some(opening) => (opening, false),
                None => (service.open(identity, settings, wait_ms), true),
            };
            guard.arm(wait_ms, Cause::Connect);
            let done = select(opening.done.notified(), guard.over()).await;
            guard.disarm();
            if let Either::Right(cause) = done {
                return Err(ConnectError::Over(cause));
            }
            if let Some(error) = &*opening.failed.borrow() {
                return Err(error.again());
            }
            if let Some(connection) = opening.own.take() {
                return Ok(Place::Own(connection));
            }
            if service.speaks_one.get() {
                return Ok(Place::Elsewhere);
            }
            if is_ours {
                opened = opening.opened.get();
            }
        }
    }

    /// Whether the service agreed on HTTP/1.1 the last time it was asked.
    pub fn speaks_one(&self, identity: &Identity) -> bool {
        self.services.borrow().get(identity).is_some_and(|service| service.speaks_one.get())
    }

    /// Shares a connection on which HTTP/2 was agreed on. A place on it.
    pub async fn adopt(
        &self,
        identity: &Identity,
        connection: upstream::Connection,
        settings: PoolSettings,
    ) -> Result<Box<Call>, ConnectError> {
        let (session, driver) = Session::over(connection, Guard::new(None), settings).await?;
        let lease = Lease::new(&session);
        let service = self.service(identity);
        service.speaks_one.set(false);
        service.sessions.borrow_mut().push(session);
        spawn(driver.drive());
        Ok(Box::new(Call::new(lease)))
    }

    fn service(&self, identity: &Identity) -> Rc<Service> {
        let mut services = self.services.borrow_mut();
        if let Some(service) = services.get(identity) {
            return service.clone();
        }
        services.entry(identity.clone()).or_default().clone()
    }

    /// Forgets connections that have ended, and services without any.
    pub fn sweep(&self) {
        self.services.borrow_mut().retain(|_, service| {
            let mut sessions = service.sessions.borrow_mut();
            sessions.retain(|session| session.is_open());
            !sessions.is_empty() || service.opening.borrow().is_some()
        });
    }

    /// Ends those to others than `is_wanted` says, each with its last request.
    pub fn keep_to(&self, is_wanted: impl Fn(&Identity) -> bool) {
        let services = self.services.borrow();
        let unwanted = services.iter().filter(|(identity, _)| !is_wanted(identity));
        unwanted.flat_map(|(_, service)| service.sessions.borrow().clone()).for_each(|session| session.end());
    }

    /// Ends all of them, each with its last request.
    pub fn clear(&self) {
        for service in self.services.borrow().values() {
            service.sessions.borrow().iter().for_each(|session| session.end());
        }
    }

    /// Connections on which nothing runs.
    pub fn idle(&self) -> usize {
        let services = self.services.borrow();
        let sessions = |service: &Rc<Service>| {
            service.sessions.borrow().iter().filter(|session| session.is_open() && session.running.get() == 0).count()
        };
        services.values().map(sessions).sum()
    }
}

impl Service {
    /// Room for one more request. Where no other connection may be opened, the least busy one queues it.
    fn room(&self, settings: PoolSettings) -> Option<Lease> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| session.is_open());
        let has_room = |session: &&Rc<Session>| session.running.get() < session.streams_max(settings);
        let picked = sessions.iter().find(has_room).or_else(|| {
            let is_full = sessions.len() >= HTTP2_UPSTREAM_CONNECTIONS_MAX;
            sessions.iter().filter(|_| is_full).min_by_key(|session| session.running.get())
        });
        picked.map(Lease::new)
    }

    /// Opens another connection.
    fn open(self: &Rc<Service>, identity: &Identity, settings: PoolSettings, wait_ms: u64) -> Rc<Opening> {
        let opening = Rc::new(Opening::default());
        *self.opening.borrow_mut() = Some(opening.clone());
        let (service, identity, told) = (self.clone(), identity.clone(), opening.clone());
        spawn(async move {
            let guard = Guard::new(None);
            let opened = match upstream::Connection::open(&identity, false, &guard, wait_ms).await {
                Ok(connection) if connection.http == Http::One => {
                    service.opening.borrow_mut().take();
                    service.speaks_one.set(true);
                    *told.own.borrow_mut() = Some(connection);
                    return told.done.notify();
                }
                Ok(connection) => {
                    service.speaks_one.set(false);
                    told.opened.set(Some(connection.opened));
                    Session::over(connection, guard, settings).await
                }
                Err(error) => Err(error),
            };
            service.opening.borrow_mut().take();
            match opened {
                Ok((session, driver)) => {
                    service.sessions.borrow_mut().push(session);
                    told.done.notify();
                    driver.drive().await;
                }
                Err(error) => {
                    *told.failed.borrow_mut() = Some(error);
                    told.done.notify();
                }
            }
        });
        opening
    }
}

/// One connection.
struct Session {
    /// `None`: it takes no more requests.
    requests: RefCell<Option<SendRequest<Bytes>>>,
    running: Cell<u32>,
    served: Cell<bool>,
    /// TLS is spoken below.
    is_secure: bool,
    /// An answer has begun since it was last asked for a sign of life.
    answered: Cell<bool>,
    /// Its task, while that waits.
    waker: RefCell<Option<Waker>>,
}

impl Session {
    async fn over(
        connection: upstream::Connection,
        guard: Guard,
        settings: PoolSettings,
    ) -> Result<(Rc<Session>, Driver), ConnectError> {
        let upstream::Connection { wire, opened, .. } = connection;
        // Whoever takes nothing for as long as an idle connection lives is gone.
        let stream = StreamHandle::new(Stream::new(wire, None, Wait { ms: settings.idle_ms, cause: Cause::Write }));
        let handshake = builder().handshake::<_, Bytes>(stream.clone()).await;
        let (requests, mut connection) =
            handshake.map_err(|error| ConnectError::Failed(std::io::Error::other(error)))?;
        let session = Rc::new(Session {
            requests: RefCell::new(Some(requests)),
            running: Cell::new(0),
            served: Cell::new(false),
            is_secure: opened.resumed.is_some(),
            answered: Cell::new(false),
            waker: RefCell::default(),
        });
        let pings = connection.ping_pong();
        let driver = Driver {
            connection,
            session: session.clone(),
            stream,
            pings,
            guard,
            armed: None,
            settings,
            born_ms: now_ms(),
            heard: 0,
            asked: false,
            manners: Manners::default(),
        };
        Ok((session, driver))
    }

    /// Whether it takes requests. A service that has ended, or has said that it will, is seen here first.
    fn is_open(&self) -> bool {
        let mut requests = self.requests.borrow_mut();
        let failed = match &mut *requests {
            None => return false,
            Some(requests) => {
                let ready = requests.poll_ready(&mut Context::from_waker(Waker::noop()));
                matches!(ready, Poll::Ready(Err(_)))
            }
        };
        if failed {
            *requests = None;
        }
        !failed
    }

    /// How many requests may run on it at one time.
    fn streams_max(&self, settings: PoolSettings) -> u32 {
        let requests = self.requests.borrow();
        let allowed = requests.as_ref().map_or(0, SendRequest::current_max_send_streams);
        settings.streams_max.min(u32::try_from(allowed).unwrap_or(u32::MAX))
    }

    /// It takes no more requests, and is over with the last one that runs.
    fn end(&self) {
        self.requests.borrow_mut().take();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Room for one request.
pub struct Lease {
    session: Rc<Session>,
    reused: bool,
}

impl Lease {
    fn new(session: &Rc<Session>) -> Lease {
        session.running.set(session.running.get() + 1);
        Lease { session: session.clone(), reused: session.served.replace(true) }
    }

    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// What requests on it say they are asked by (RFC 9110 §4.2).
    pub fn scheme(&self) -> Scheme {
        if self.session.is_secure { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// The answer has begun.
    pub fn answered(&self) {
        self.session.answered.set(true);
    }

    /// Sends the head of the request. `last`: nothing follows it.
    pub fn send(&self, request: Request<()>, last: bool) -> Result<(ResponseFuture, SendStream<Bytes>), ::h2::Error> {
        let requests = self.session.requests.borrow().clone();
        match requests {
            // A clone: it remembers a stream that waits to be opened, and the next request need not wait for that.
            Some(mut requests) => requests.send_request(request, last),
            None => Err(::h2::Reason::REFUSED_STREAM.into()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.session.running.get() - 1;
        self.session.running.set(left);
        if left == 0
            && let Some(waker) = self.session.waker.take()
        {
            waker.wake();
        }
    }
}

fn builder() -> Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .max_header_list_size(RESPONSE_HEAD_BYTES_MAX as u32)
        .initial_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(HTTP2_SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(HTTP2_RESETS_REMEMBERED_MAX)
        .reset_stream_duration(Duration::from_millis(HTTP2_RESET_MEMORY_MS))
        .max_local_error_reset_streams(Some(HTTP2_LOCAL_RESETS_MAX));
    builder
}

/// The task that moves a connection's frames.
struct Driver {
    connection: Connection<StreamHandle, Bytes>,
    session: Rc<Session>,
    stream: StreamHandle,
    pings: Option<PingPong>,
    guard: Guard,
    /// What the guard waits for; `None`: nothing yet.
    armed: Option<Waiting>,
    settings: PoolSettings,
    born_ms: u64,
    /// Bytes that had been received when the service was last looked after.
    heard: u64,
    /// It was asked for a sign of life.
    asked: bool,
    manners: Manners,
}

/// How often a service is asked for a sign of life while it has nothing to say.
#[derive(Default)]
struct Manners {
    /// When it was, last.
    asked_ms: Option<u64>,
}

impl Manners {
    /// Whether it may be asked now, which is then taken for done. `answered`: an answer of its has begun since.
    fn ask(&mut self, now_ms: u64, answered: bool) -> bool {
        let early = self.asked_ms.is_some_and(|asked_ms| now_ms < asked_ms + HTTP2_PINGS_APART_MS);
        if early && !answered {
            return false;
        }
        self.asked_ms = Some(now_ms);
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Another request.
    Idle,
    /// Answers, as long as somebody is there.
    Busy,
}

impl Driver {
    async fn drive(mut self) {
        loop {
            match poll_fn(|cx| self.poll_next(cx)).await {
                Some(Cause::Drain) | None => break,
                Some(_) if !self.on_timer() => break,
                Some(_) => {}
            }
        }
        self.session.end();
    }

    /// `None`: the connection is over.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Cause>> {
        if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "an HTTP/2 connection to a service broke");
            }
            return Poll::Ready(None);
        }
        let waiting = if self.session.running.get() == 0 { Waiting::Idle } else { Waiting::Busy };
        if self.armed != Some(waiting) {
            let age_left = (self.born_ms + self.settings.age_ms).saturating_sub(now_ms());
            let wait_ms = match waiting {
                Waiting::Idle => self.settings.idle_ms.min(age_left),
                Waiting::Busy => HTTP2_PING_MS,
            };
            self.guard.disarm();
            self.guard.arm(wait_ms, Cause::Idle);
            self.armed = Some(waiting);
        }
        *self.session.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(Some(ready!(self.guard.poll_over(cx))))
    }

    /// `false`: nobody is there any more.
    fn on_timer(&mut self) -> bool {
        self.guard.disarm();
        if self.armed.take() == Some(Waiting::Idle) || now_ms() >= self.born_ms + self.settings.age_ms {
            self.session.end();
        }
        if self.session.running.get() == 0 {
            return true;
        }
        let received = self.stream.received();
        // Neither a ping nor its answer overtakes what a slow service has not taken yet.
        if std::mem::replace(&mut self.heard, received) != received || self.stream.is_writing() {
            self.asked = false;
            return true;
        }
        if self.asked {
            return false;
        }
        self.asked = self.manners.ask(now_ms(), self.session.answered.replace(false));
        if !self.asked {
            return true;
        }
        if let Some(pings) = &mut self.pings {
            // An answer that came is taken, or no other ping could be sent.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            // A connection that is closing takes none.
            let _ = pings.send_ping(Ping::opaque());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_service_is_asked_every_five_minutes_and_one_that_answers_whenever_it_falls_silent() {
        let mut manners = Manners::default();
        for (now_ms, answered, expected) in [
            (40_000, false, true),
            (80_000, false, false),
            (40_000 + HTTP2_PINGS_APART_MS - 1, false, false),
            (40_000 + HTTP2_PINGS_APART_MS, false, true),
            (400_000, false, false),
            (420_000, true, true),
            (440_000, false, false),
        ] {
            assert_eq!(manners.ask(now_ms, answered), expected, "{now_ms}");
        }
    }
}
