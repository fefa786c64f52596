//! A request of our own over this worker's connections: what a filter asks another service, and a fetch that several
//! exchanges wait for.
//!
//! A [`Shared`] fetch runs detached from the exchange that started it: its starter may leave while others wait. When nobody
//! waits any more it is cancelled.

use std::cell::RefCell;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http1::Method;

use super::body::{Body, Length};
use super::fields::Fields;
use super::head::ResponseHead;
use super::relay::{self, Failure, Sending, Sent};
use super::retry::{Cause, Later, Missed, Tries};
use super::upstream::call::Asked;
use super::upstream::h1::Hop;
use super::upstream::{Aim, Channel, ConnectError, Reaching, enter, pick, reach};
use super::wire::Wait;
use crate::balance::{Destination, Endpoint, Keyed};
use crate::limits::SUBREQUEST_BODY_BYTES_MAX;
use crate::refusal::Refusal;
use crate::rt::deadline::{self, Guard, now_ms, now_us};
use crate::rt::{Either, Notify, select, sleep, spawn};
use crate::snapshot::{Upstream, UpstreamTimeouts};
use crate::tables::health::Outcome;
use crate::worker::{Pinned, Worker, outcome_of_connect, outcome_of_refusal};

/// A request a filter makes.
pub struct Subrequest {
    pub to: Destination,
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
    /// It is not sent again, whatever `retry` of its upstream says.
    pub once: bool,
}

impl Subrequest {
    fn method_text(&self) -> &[u8] {
        self.method_text.as_deref().unwrap_or(self.method.name().as_bytes())
    }
}

/// What came back. The body is complete.
pub struct Fetched {
    pub status: u16,
    pub fields: Fields,
    pub body: Bytes,
}

/// Sends `subrequest` and waits for its whole answer. `pinned`: the snapshot it was made under, which says what its upstream
/// is; the worker may have gone on to another. It is sent again as `retry` of the upstream says.
pub async fn fetch(worker: Rc<Worker>, pinned: Rc<Pinned>, subrequest: Subrequest) -> Result<Fetched, Refusal> {
    let (snapshot, index) = (&pinned.snapshot, subrequest.to.upstream);
    let settings = snapshot.upstreams.get(index).ok_or(Refusal::Internal)?;
    let endpoints = snapshot.endpoints[index].of(subrequest.to.subset);
    let _running = enter(&worker, &pinned, index)?;
    let guard = Guard::new(None);
    guard.arm_total(subrequest.wait_ms);
    let (method, text) = (subrequest.method, subrequest.method_text());
    let table = settings.retry.as_ref().filter(|_| !subrequest.once);
    let mut tries = table.map(|table| Tries::new(table, &snapshot.loads[index], method, text));
    let repeatable = method.is_idempotent() || tries.as_ref().is_some_and(Tries::takes_method);
    let series = settings.series.core(worker.id);
    let fetching =
        Fetching { worker: &worker, pinned: &pinned, subrequest: &subrequest, settings, guard: &guard, repeatable };
    // A kept connection may be closed by its service at this very moment, and not every request may be sent twice.
    let mut fresh = !repeatable;
    let mut stale = false;
    let path = subrequest.target.split('?').next().unwrap_or_default().as_bytes();
    let key = endpoints.key(Keyed { fields: &subrequest.fields, client: None, path });
    let aim = Aim { to: subrequest.to, key, held: None };
    let mut tried = Vec::new();
    let mut attempts = 0;
    loop {
        let (endpoint, attempt) = pick(&worker, &pinned, aim, &mut tried)?;
        let mut came = fetching.attempt(&endpoint, fresh, tries.as_ref()).await;
        drop(attempt);
        if let Came::Stale(failure) = came {
            came = if stale { Came::Failure(failure) } else { Came::Stale(failure) };
        }
        fetching.judge(&endpoint, &came);
        if guard.fired().is_some() {
            return Err(Refusal::UpstreamTotalTimeout);
        }
        if let Came::Stale(_) = came {
            stale = true;
            series.stale_connections.inc();
            series.retries[Cause::Stale.index()].inc();
            fresh = true;
            continue;
        }
        attempts += 1;
        let Some((cause, wait_ms)) = fetching.next(&came, attempts, tried.len(), tries.as_mut()) else {
            series.denied(tries.and_then(|tries| tries.denied));
            return match came {
                Came::Answer(fetched) => Ok(fetched),
                Came::Failure(failure) => Err(failure.refusal),
                Came::NoConnection(error) => Err(error.refusal()),
                Came::Stale(_) => unreachable!("sent again above"),
            };
        };
        tried.push(endpoint);
        if wait_ms > 0
            && let Either::Right(_) = select(sleep(Duration::from_millis(wait_ms)), guard.over()).await
        {
            return Err(Refusal::UpstreamTotalTimeout);
        }
        series.retries[cause.index()].inc();
    }
}

/// A fetch that runs.
struct Fetching<'f> {
    worker: &'f Worker,
    pinned: &'f Pinned,
    subrequest: &'f Subrequest,
    settings: &'f Upstream,
    guard: &'f Guard,
    /// It may be sent again where it is not known to have arrived once.
    repeatable: bool,
}

/// What an attempt came to.
enum Came {
    Answer(Fetched),
    Failure(Failure),
    NoConnection(ConnectError),
    /// A kept connection was closed meanwhile, or a stream not taken: it is replaced once.
    Stale(Failure),
}

impl Fetching<'_> {
    async fn attempt(&self, endpoint: &Endpoint, fresh: bool, tries: Option<&Tries<'_>>) -> Came {
        let Fetching { worker, subrequest, settings, guard, .. } = *self;
        let begun_us = now_us();
        let connect_ms = settings.timeouts.connect;
        let connect_ms = tries.map_or(connect_ms, |tries| tries.connect(connect_ms));
        let mut channel = match self.channel(endpoint, fresh, connect_ms).await {
            Ok(channel) => channel,
            Err(error) => return Came::NoConnection(error),
        };
        guard.attach(channel.fd());
        settings.series.core(worker.id).sent(endpoint.about.distance);
        let waits = settings.timeouts;
        let waits = tries.map_or(waits, |tries| tries.waits(waits, (now_us() - begun_us) / 1000));
        let reused = channel.reused();
        let conversation = converse(worker, &mut channel, subrequest, endpoint, waits, settings.timeouts.idle);
        // A connection of its own is shut down when the fetch is over; one that others use is not.
        let result = match select(conversation, guard.over()).await {
            Either::Left(result) => result,
            Either::Right(_) => Err(Failure::over()),
        };
        guard.attach(None);
        match result {
            Ok((fetched, reusable)) => {
                worker.judge(settings, endpoint, Some(Outcome::of_status(fetched.status)));
                if let Channel::H1(connection) = channel
                    && reusable
                {
                    worker.pool.put(connection, settings.pool);
                }
                Came::Answer(fetched)
            }
            Err(failure) if failure.unprocessed || (reused && failure.unanswered && self.repeatable) => {
                Came::Stale(failure)
            }
            Err(failure) => {
                settings.series.core(worker.id).failed(failure.refusal);
                Came::Failure(failure)
            }
        }
    }

    async fn channel(&self, endpoint: &Endpoint, fresh: bool, connect_ms: u64) -> Result<Channel, ConnectError> {
        let Fetching { worker, settings, guard, .. } = *self;
        let to = Reaching {
            worker,
            identity: &endpoint.identity,
            settings: settings.pool,
            fresh,
            http1: false,
            guard,
            wait_ms: connect_ms,
        };
        let reached = reach(&to).await;
        settings.series.core(worker.id).reached(&reached);
        reached.map(|(channel, _)| channel)
    }

    /// Takes in what an attempt says about its endpoint.
    fn judge(&self, endpoint: &Endpoint, came: &Came) {
        let over = self.guard.fired().map(|_| Refusal::UpstreamTotalTimeout);
        let outcome = match came {
            Came::Answer(fetched) => Some(Outcome::of_status(fetched.status)),
            Came::Failure(failure) => outcome_of_refusal(over.unwrap_or(failure.refusal), true),
            Came::NoConnection(error) => outcome_of_connect(error),
            // A kept connection that was closed meanwhile says nothing about those that come.
            Came::Stale(_) => None,
        };
        self.worker.judge(self.settings, endpoint, outcome);
        if matches!(came, Came::Failure(_) | Came::NoConnection(_)) {
            endpoint.state.failed(now_ms());
        }
    }

    /// What it is sent again for, and after how many milliseconds. Its body is here, so there is nothing that could not be
    /// sent again.
    fn next(&self, came: &Came, attempts: u32, tried: usize, tries: Option<&mut Tries<'_>>) -> Option<(Cause, u64)> {
        let Destination { upstream, subset } = self.subrequest.to;
        let endpoints = self.pinned.snapshot.endpoints[upstream].of(subset);
        let (cause, retry_after) = match came {
            Came::Answer(Fetched { status, fields, .. }) => (Cause::Status(*status), Later::of(*status, fields)),
            Came::Failure(failure) => (failure.cause()?, None),
            Came::NoConnection(ConnectError::Over(cause)) if *cause != deadline::Cause::Connect => return None,
            Came::NoConnection(_) => (Cause::Connect, None),
            Came::Stale(_) => return None,
        };
        let lot = self.worker.ids.borrow_mut().next_u64();
        let left_ms = self.guard.left();
        let missed = Missed { cause, retry_after, replayable: true, left_ms, lot, now_us: now_us() };
        let refused = matches!(came, Came::NoConnection(error) if error.is_refused());
        let elsewhere = tried + 1 < endpoints.list().len();
        let refusals_max = if refused { endpoints.tries() } else { 0 };
        let wait_ms = match tries {
            Some(tries) if cause != Cause::Connect => tries.repeat(attempts, &missed),
            Some(tries) if tries.retry().wants(cause) => tries.reconnect(attempts, refusals_max, elsewhere, &missed),
            _ => (attempts < refusals_max).then_some(0),
        };
        wait_ms.map(|wait_ms| (cause, wait_ms))
    }
}

/// One request and its answer; also whether the connection can be used again, if it is one's own. `body_idle_ms`: how long a
/// piece of the answer's body may take.
async fn converse(
    worker: &Worker,
    channel: &mut Channel,
    subrequest: &Subrequest,
    endpoint: &Endpoint,
    timeouts: UpstreamTimeouts,
    body_idle_ms: u64,
) -> Result<(Fetched, bool), Failure> {
    let (path, query) = match subrequest.target.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (&*subrequest.target, None),
    };
    let length = match subrequest.body.is_empty() {
        true => Length::Absent,
        false => Length::Exact(subrequest.body.len() as u64),
    };
    let asked = Asked {
        method: subrequest.method_text(),
        path: path.as_bytes(),
        query,
        host: subrequest.host.as_deref().unwrap_or(endpoint.written.as_bytes()),
        fields: &subrequest.fields,
        length,
        hop: Hop::default(),
    };
    let (up, mut down) = channel.begin(&asked, worker);
    let body = &mut Body::held(Some(subrequest.body.clone()));
    let mut sending = Sending { body, up, timeouts, mirror: None, replay: None, settles: false, answered: None };
    let sent = relay::send_first(&mut sending).await?;
    sending.up.into_scratch(worker);
    let sent_us = now_us();
    let mut received = relay::receive_unseen(&mut down, timeouts).await?;
    let now_us = now_us();
    endpoint.state.answered(received.head.status, now_us - sent_us, now_us / 1000);
    let idle = Wait { ms: body_idle_ms, cause: deadline::Cause::Idle };
    let (mut source, _, reusable) = received.source(subrequest.method, idle).map_err(relay::malformed)?;
    source.feed(received.take_rest_keeping_fields());
    let body = source.body(&mut down, idle);
    let whole = match subrequest.keep_body {
        true => relay::collect(body, SUBREQUEST_BODY_BYTES_MAX).await?,
        false => relay::pass_over(body).await.map(|()| Bytes::new())?,
    };
    let ResponseHead { status, fields } = received.head;
    let reusable = reusable && sent == Sent::All && source.is_clean();
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
