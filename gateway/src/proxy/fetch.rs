//! A request of our own over this worker's connections: what a filter asks another service, and a fetch that several
//! exchanges wait for.
//!
//! A [`Shared`] fetch runs detached from the exchange that started it: its starter may leave while others wait. When nobody
//! waits any more it is cancelled.

use std::cell::RefCell;
use std::future::Future;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use http1::{Method, encode};

use super::body::{Body, Length};
use super::fields::Fields;
use super::h1::outgoing::Outgoing;
use super::head::ResponseHead;
use super::relay::{self, Failure, Sending, Sent};
use super::upstream::{Connection, h1};
use super::wire::Wait;
use crate::balance::Asking;
use crate::limits::SUBREQUEST_BODY_BYTES_MAX;
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, Guard};
use crate::rt::{Either, Notify, select, spawn};
use crate::snapshot::UpstreamTimeouts;
use crate::worker::{Pinned, Worker};

/// A request a filter makes.
pub struct Subrequest {
    /// index into `Snapshot::upstreams`
    pub upstream: usize,
    pub method: Method,
    /// The method, where it is none that has a name of its own.
    pub method_text: Option<Box<[u8]>>,
    /// What the service is asked by; `None`: its address.
    pub host: Option<Box<[u8]>>,
    /// path and query, already valid
    pub target: String,
    /// Fields beside Host and what frames the body.
    pub fields: Fields,
    pub body: Bytes,
    /// The longest it may take, milliseconds.
    pub wait_ms: u64,
    /// Whether somebody wants the answer's body. If not it is read, and of any length.
    pub keep_body: bool,
}

/// What came back. The body is complete.
pub struct Fetched {
    pub status: u16,
    pub fields: Fields,
    pub body: Bytes,
}

/// Sends `subrequest` and waits for its whole answer. `pinned`: the snapshot it was made under, which says what its upstream
/// is; the worker may have gone on to another.
pub async fn fetch(worker: Rc<Worker>, pinned: Rc<Pinned>, subrequest: Subrequest) -> Result<Fetched, Refusal> {
    let snapshot = &pinned.snapshot;
    let settings = snapshot.upstreams.get(subrequest.upstream).ok_or(Refusal::Internal)?;
    let series = settings.series.core(worker.id);
    let guard = Guard::new(None);
    guard.arm_total(subrequest.wait_ms);
    // A kept connection may be closed by its service at this very moment, and not every request may be sent twice.
    let mut fresh = !subrequest.method.is_idempotent();
    loop {
        let endpoints = &snapshot.endpoints[subrequest.upstream];
        let asking = Asking { cursor: &pinned.cursors[subrequest.upstream], tried: &[] };
        let endpoint = endpoints.pick(&asking).ok_or(Refusal::NoEndpoint)?;
        let _running = endpoint.state.begin();
        let kept = if fresh { None } else { worker.pool.take(&endpoint.identity) };
        let mut connection = match kept {
            Some(kept) => kept,
            None => Connection::open(&endpoint.identity, &guard, settings.timeouts.connect)
                .await
                .map_err(|error| error.refusal())?,
        };
        guard.attach(Some(connection.wire.fd()));
        series.requests.inc();
        let reused = connection.reused;
        let result = converse(&mut connection, &subrequest, &endpoint.written, settings.timeouts).await;
        guard.attach(None);
        match result {
            Ok((fetched, reusable)) => {
                if reusable {
                    worker.pool.put(connection, settings.pool);
                }
                return Ok(fetched);
            }
            Err(failure)
                if reused && failure.unanswered && guard.fired().is_none() && subrequest.method.is_idempotent() =>
            {
                series.stale_connections.inc();
                fresh = true;
            }
            Err(_) if guard.fired().is_some() => return Err(Refusal::UpstreamTotalTimeout),
            Err(failure) => return Err(failure.refusal),
        }
    }
}

/// One request and its answer on one connection; also whether the connection can be used again.
async fn converse(
    connection: &mut Connection,
    subrequest: &Subrequest,
    host: &str,
    timeouts: UpstreamTimeouts,
) -> Result<(Fetched, bool), Failure> {
    let mut head = Vec::with_capacity(512);
    let (path, query) = match subrequest.target.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (&*subrequest.target, None),
    };
    let method = subrequest.method_text.as_deref().unwrap_or(subrequest.method.name().as_bytes());
    encode::request_line(&mut head, method, path.as_bytes(), query);
    encode::field(&mut head, b"host", subrequest.host.as_deref().unwrap_or(host.as_bytes()));
    subrequest.fields.encode(&mut head, |_| true);
    let length = match subrequest.body.is_empty() {
        true => Length::Absent,
        false => Length::Exact(subrequest.body.len() as u64),
    };
    h1::encode_framing(&mut head, length);
    encode::end(&mut head);
    let mut sending = Sending {
        body: &mut Body::held(Some(subrequest.body.clone())),
        outgoing: Outgoing::new(head, false),
        timeouts,
        mirror: None,
        replay: None,
        settles: false,
    };
    let sent = relay::send_first(&mut sending, &mut connection.wire.writer).await?;
    let reader = &mut connection.wire.reader;
    let mut received = relay::receive_unseen(reader, timeouts).await?;
    let (mut body, _, reusable) = relay::framed(&received, subrequest.method)?;
    if let Some(rest) = h1::take_rest_keeping_fields(&mut received) {
        body.feed(rest);
    }
    let idle = Wait { ms: timeouts.idle, cause: Cause::Idle };
    let whole = match subrequest.keep_body {
        true => relay::collect(&mut body, reader, SUBREQUEST_BODY_BYTES_MAX, idle).await?,
        false => relay::pass_over(&mut body, reader, idle).await.map(|()| Bytes::new())?,
    };
    let ResponseHead { status, fields } = received.head;
    let reusable = reusable && sent == Sent::All && body.take_carry().is_none();
    Ok((Fetched { status, fields, body: whole }, reusable))
}

/// A fetch that several exchanges of one worker may wait for.
pub struct Shared {
    outcome: RefCell<Option<Result<Rc<Fetched>, Refusal>>>,
    done: Notify,
    abandoned: Rc<Notify>,
}

impl Shared {
    /// Starts `subrequest`, detached. It is cancelled when the last handle is dropped before it is done.
    pub fn start(worker: &Rc<Worker>, pinned: &Rc<Pinned>, subrequest: Subrequest) -> Rc<Shared> {
        Shared::run(fetch(worker.clone(), pinned.clone(), subrequest))
    }

    pub(crate) fn run(work: impl Future<Output = Result<Fetched, Refusal>> + 'static) -> Rc<Shared> {
        let shared = Rc::new(Shared { outcome: RefCell::new(None), done: Notify::default(), abandoned: Rc::default() });
        let (weak, abandoned) = (Rc::downgrade(&shared), shared.abandoned.clone());
        spawn(async move {
            let Either::Left(outcome) = select(work, abandoned.notified()).await else { return };
            if let Some(shared) = Weak::upgrade(&weak) {
                *shared.outcome.borrow_mut() = Some(outcome.map(Rc::new));
                shared.done.notify();
            }
        });
        shared
    }

    /// Waits for the outcome, which all who wait share.
    pub async fn wait(&self) -> Result<Rc<Fetched>, Refusal> {
        self.done.notified().await;
        self.outcome.borrow().clone().unwrap_or(Err(Refusal::Internal))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.abandoned.notify();
    }
}
