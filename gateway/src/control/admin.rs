//! The admin listener: `/metrics`, `/livez` and `/readyz` for monitoring and orchestrators, `/config` and `/reload` for
//! operators, on the control thread.
//!
//! It listens on a unix socket or a loopback address, or asks every request for a token. Whoever connects can hold little of
//! the control thread and not for long: few connections, one request each, a short head, ten seconds for all of it.

mod door;
mod listen;
mod upstreams;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Query, Request, State as Shared};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};

pub use self::listen::{Listener, adopt, bind};
pub use self::upstreams::{Drain, Drained};
use super::doors::Handle;
use crate::explain::route::{Question, explain};
use crate::observe::metrics::Metrics;
use crate::observe::reloads::Outcome;
use crate::observe::rfc3339;
use crate::snapshot::Snapshot;
use crate::tables::bans::Bans;

/// After `shutdown`, how long answers in the making may take.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(2);

/// What the admin listener shows and asks for.
#[derive(Clone)]
pub struct State {
    pub metrics: Arc<Metrics>,
    pub ready: Arc<Ready>,
    /// What every request must carry as `Authorization: Bearer`; `None`: nothing. A reload may change it.
    pub token: Arc<Mutex<Option<Token>>>,
    /// What the workers serve by.
    pub snapshot: Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    /// Where the control loop takes what is asked of it.
    pub commands: mpsc::Sender<Command>,
    pub bans: Arc<Bans>,
    pub doors: Handle,
}

impl State {
    /// Since when the lists in effect are: as long as the configuration is.
    fn since(&self) -> Option<std::time::SystemTime> {
        self.metrics.reloads.current().map(|current| current.loaded)
    }

    fn token(&self) -> Option<Token> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the admin listener asks of the control loop.
#[derive(Debug)]
pub enum Command {
    /// Load the configuration again and tell what became of it.
    Reload(oneshot::Sender<Reloaded>),
    /// The same, and bring what ran before back after this time unless [`Command::Confirm`] comes.
    Apply { confirm: Option<Duration>, reply: oneshot::Sender<Reloaded> },
    /// Keep what was applied. Whether there was something to keep.
    Confirm(oneshot::Sender<bool>),
    /// Take endpoints out or back in. The error says what is not there.
    Drain { asked: Drain, reply: oneshot::Sender<Result<Drained, String>> },
}

/// What became of a reload.
#[derive(Debug, Clone)]
pub struct Reloaded {
    pub outcome: Outcome,
    /// What is wrong, when it failed; a line each.
    pub problems: Vec<String>,
    /// What ran before is back after this time unless somebody confirms.
    pub confirm: Option<Duration>,
}

/// Why the gateway should not be sent traffic. Ready is when there is no reason.
#[derive(Debug, Default)]
pub struct Ready(Mutex<BTreeSet<&'static str>>);

impl Ready {
    /// Not ready, for `reason`.
    pub fn because(reason: &'static str) -> Arc<Ready> {
        let ready = Ready::default();
        ready.block(reason);
        Arc::new(ready)
    }

    /// Not ready from now on, until [`clear`](Ready::clear) is called with the same reason.
    pub fn block(&self, reason: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(reason);
    }

    pub fn clear(&self, reason: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(reason);
    }

    /// Empty: ready.
    pub fn reasons(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// The bearer token. Never printed; never empty, because an empty one would let everybody in who writes `Bearer `.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

impl Token {
    /// `None` when there is nothing in it.
    pub fn new(token: impl AsRef<[u8]>) -> Option<Token> {
        let token = token.as_ref();
        (!token.is_empty()).then(|| Token(token.into()))
    }

    /// Whether `headers` carry it. Takes the same time wherever they differ from it.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return false;
        };
        let Some((scheme, token)) = field.as_bytes().split_at_checked("Bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && token.ct_eq(&self.0).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Answers until `shutdown` is over, then removes the socket file. An error is of the set-up; a connection's own failures
/// end that connection.
pub async fn serve(
    listener: Listener,
    state: State,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_until(listener, state, shutdown, SHUTDOWN_WAIT).await
}

async fn serve_until(
    listener: Listener,
    state: State,
    shutdown: impl Future<Output = ()> + Send + 'static,
    shutdown_wait: Duration,
) -> io::Result<()> {
    if state.token().is_none() && !listener.is_local() {
        // The configuration was checked for this; a mistake there must not show the metrics to the world.
        let text = format!("admin.address: `{}` is not a loopback address and there is no token", listener.address());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let (tell, told) = oneshot::channel::<()>();
    let shutdown = async move {
        shutdown.await;
        drop(tell);
    };
    let overdue = async {
        let _dropped = told.await;
        tokio::time::sleep(shutdown_wait).await;
    };
    let serving = axum::serve(listener, router(state)).with_graceful_shutdown(shutdown);
    tokio::select! {
        served = async { serving.await } => served,
        () = overdue => Ok(()),
    }
}

fn router(state: State) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readiness))
        .route("/config", get(configuration))
        .route("/explain/route", get(explain_route))
        .route("/explain/ip", get(door::explain))
        .route("/xdp", get(door::status))
        .route("/xdp/apply", post(door::apply))
        .route("/xdp/confirm", post(door::confirm))
        .route("/bans", get(door::bans).post(door::ban).delete(door::unban))
        .route("/upstreams", get(upstreams::list))
        .route("/upstreams/drain", post(upstreams::drain))
        .route("/upstreams/undrain", post(upstreams::undrain))
        .route("/reload", post(reload))
        .fallback(async || problem(StatusCode::NOT_FOUND, "not_found", "nothing is served at this path"))
        .method_not_allowed_fallback(async || {
            problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "use GET to ask, POST to change, DELETE to end a ban",
            )
        })
        .layer(from_fn_with_state(state.clone(), authorize))
        .layer(map_response(close))
        .with_state(state)
}

async fn authorize(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    if state.token().is_none() && !is_ours(request.headers()) {
        // A page whose name was made to lead to this machine: its script may read what is answered.
        return problem(
            StatusCode::FORBIDDEN,
            "foreign_host",
            "ask by address or by `localhost`: this is not for web pages",
        );
    }
    match state.token() {
        Some(token) if !token.is_in(request.headers()) => {
            let text = "send the admin token as `Authorization: Bearer`";
            let mut answer = problem(StatusCode::UNAUTHORIZED, "admin_token", text);
            let challenge = HeaderValue::from_static("Bearer realm=\"bawab admin\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            answer
        }
        _ => next.run(request).await,
    }
}

/// Whether the host asked for is none that somebody elsewhere could have named: an address, or a name without dots.
fn is_ours(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(axum::http::header::HOST) else { return true };
    let name = http1::host_parts(host.as_bytes()).map(|(name, _)| name).unwrap_or_default();
    let text = std::str::from_utf8(name).unwrap_or_default();
    let text = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    text.parse::<std::net::IpAddr>().is_ok() || !name.contains(&b'.')
}

/// One request a connection: then a deadline for the connection is one for the request, and none is cut while it waits.
async fn close(mut answer: Response) -> Response {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

async fn metrics(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let openmetrics = headers
        .get_all(ACCEPT)
        .iter()
        .any(|field| memchr::memmem::find(field.as_bytes(), b"application/openmetrics-text").is_some());
    // Prometheus reads the same text either way; only OpenMetrics says that the end must be marked.
    let kind = if openmetrics {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    ([(CONTENT_TYPE, kind)], state.metrics.render()).into_response()
}

async fn readiness(Shared(state): Shared<State>) -> Response {
    let reasons = state.ready.reasons();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    let title = "not ready";
    problem_json(
        StatusCode::SERVICE_UNAVAILABLE,
        json!({ "title": title, "status": 503, "code": "not_ready", "reasons": reasons }),
    )
}

/// What the running routes make of a request: `method`, `url`, `header` (any number), `client`; `format=text` for people.
async fn explain_route(Shared(state): Shared<State>, Query(pairs): Query<Vec<(String, String)>>) -> Response {
    let first = |wanted: &str| door::first(&pairs, wanted);
    let headers: Vec<String> =
        pairs.iter().filter(|(name, _)| name == "header").map(|(_, value)| value.clone()).collect();
    let (Some(method), Some(url)) = (first("method"), first("url")) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "question",
            "say `method` and `url`; `header` and `client` may follow",
        );
    };
    match Question::new(method, url, &headers, first("client")) {
        Ok(question) => {
            let snapshot = (state.snapshot)();
            // It asks every route, of which there may be a hundred thousand.
            let Ok(answer) = tokio::task::spawn_blocking(move || explain(&snapshot, &question)).await else {
                let why = "the explanation failed by a mistake of the gateway's";
                return problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", why);
            };
            match first("format") {
                Some("text") => answer.text(|_| None).into_response(),
                _ => Json(answer).into_response(),
            }
        }
        Err(why) => problem(StatusCode::BAD_REQUEST, "question", &why),
    }
}

/// Which configuration runs, and what became of the last attempt to load another.
async fn configuration(Shared(state): Shared<State>) -> Response {
    let reloads = &state.metrics.reloads;
    let Some(current) = reloads.current() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "the gateway is starting");
    };
    let age = current.loaded.elapsed().unwrap_or_default().as_secs();
    let last = reloads.last().map(|last| {
        let problems: Vec<&str> = last.problems.lines().collect();
        json!({ "time": rfc3339::text(last.at), "outcome": last.outcome.name(), "problems": problems })
    });
    Json(json!({
        "hash": current.hash, "generation": current.generation, "loaded": rfc3339::text(current.loaded),
        "age_seconds": age, "last_reload": last,
    }))
    .into_response()
}

/// Whether a page in some browser of this machine asks, which may send requests to loopback addresses; programs say no origin.
fn from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
}

async fn reload(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    if from_a_page(&headers) {
        return problem(StatusCode::FORBIDDEN, "cross_origin", "this is not for web pages");
    }
    let (reply, replied) = oneshot::channel();
    if state.commands.try_send(Command::Reload(reply)).is_err() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "too much is asked at once; try again");
    }
    match replied.await {
        Ok(outcome) => reloaded(&state, outcome),
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the gateway stops"),
    }
}

/// What became of a reload.
fn reloaded(state: &State, reloaded: Reloaded) -> Response {
    let Reloaded { outcome, problems, confirm } = reloaded;
    if outcome == Outcome::Failed {
        let title = "the configuration is not loaded; the one before goes on";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let body = json!({ "title": title, "status": 422, "code": "config_problems", "problems": problems });
        return problem_json(status, body);
    }
    let current = state.metrics.reloads.current();
    let (hash, generation) = current.map(|current| (current.hash, current.generation)).unwrap_or_default();
    let mut said = json!({ "outcome": outcome.name(), "hash": hash, "generation": generation });
    if let Some(confirm) = confirm {
        said["taken_back_after_seconds"] = confirm.as_secs().into();
    }
    Json(said).into_response()
}

/// RFC 9457.
fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default().to_lowercase();
    problem_json(status, json!({ "title": title, "status": status.as_u16(), "code": code, "detail": detail }))
}

fn problem_json(status: StatusCode, body: serde_json::Value) -> Response {
    let kind = HeaderValue::from_static("application/problem+json");
    let mut answer = (status, Json(body)).into_response();
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests;
