use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::control::doors::Doors;
use crate::observe::metrics::RouteSeries;

/// Short enough to wait for, long enough for a request on a busy machine.
const AGE_MAX: Duration = Duration::from_millis(250);

/// What takes longer has hung. Below the age that ends a connection by itself.
const HANG: Duration = Duration::from_secs(8);

/// An admin listener that serves.
struct Server {
    address: String,
    metrics: Arc<Metrics>,
    ready: Arc<Ready>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

/// Doors of no interface.
fn doors() -> Handle {
    Doors::start(&Metrics::new(1, &[]), &Arc::default(), &Arc::default()).expect("a thread").handle()
}

/// What the workers would serve by.
fn served() -> Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync> {
    let text = "listener = [{ address = '127.0.0.1:0' }]\n\
                upstream.shelf.endpoints = ['127.0.0.1:9']\n\
                route = [{ name = 'books', path = '/books/{id}', methods = ['GET'], upstream = 'shelf', auth = 'none' }]";
    let config = toml::from_str(text).expect("a good configuration");
    let snapshot = Arc::new(crate::snapshot::compile(&config, &Arc::default(), &Arc::default(), &Metrics::new(1, &[])));
    Arc::new(move || snapshot.clone())
}

impl Server {
    fn start(listener: Listener, token: Option<&str>) -> Server {
        let metrics = Metrics::new(1, &[]);
        let ready = Arc::new(Ready::default());
        let address = listener.address();
        let token = Arc::new(Mutex::new(token.map(|token| Token::new(token).unwrap())));
        let state = State {
            metrics: Arc::clone(&metrics),
            ready: Arc::clone(&ready),
            token,
            snapshot: served(),
            bans: Arc::default(),
            doors: doors(),
            commands: mpsc::channel(1).0,
        };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { stopped.await.unwrap_or_default() };
        let serving = tokio::spawn(serve_until(listener, state, shutdown, AGE_MAX));
        Server { address, metrics, ready, stop, serving }
    }

    async fn start_tcp(token: Option<&str>) -> Server {
        Server::start(bind("127.0.0.1:0").await.unwrap(), token)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    async fn ask(&self, request: &str) -> Answer {
        ask(self.connect().await, request).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n")).await
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(HANG, self.serving).await.expect("stops").unwrap().unwrap();
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn problem(&self) -> Value {
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        problem
    }
}

/// Sends `request` and reads until the server closes, which it does after one answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(HANG, stream.read_to_string(&mut text)).await.expect("an answer").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    (folder, path)
}

async fn bind_path(path: &Path) -> io::Result<Listener> {
    bind(&format!("unix:{}", path.display())).await
}

async fn refused(path: &Path) -> io::Error {
    bind_path(path).await.err().expect("not bound")
}

#[tokio::test]
async fn metrics_are_shown_as_the_scraper_asks() {
    let server = Server::start_tcp(None).await;
    server.metrics.core(0).requests.add(7);
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.body.contains("\nbawab_requests_total 7\n"));
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
    let request = format!("GET /metrics HTTP/1.1\r\nhost: admin\r\naccept: {accept}\r\n\r\n");
    let answer = server.ask(&request).await;
    assert_eq!(answer.field("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.body.ends_with("# EOF\n"));
    server.stop().await;
}

#[tokio::test]
async fn ready_is_when_there_is_no_reason_against_it() {
    let server = Server::start_tcp(None).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    server.ready.block("draining");
    server.ready.block("starting");
    let answer = server.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.problem()["reasons"], serde_json::json!(["draining", "starting"]));
    assert_eq!(server.get("/livez").await.status, 200, "alive and not ready are two things");
    server.ready.clear("draining");
    assert_eq!(server.get("/readyz").await.problem()["reasons"], serde_json::json!(["starting"]));
    server.ready.clear("starting");
    assert_eq!(server.get("/readyz").await.body, "ok\n");
    server.stop().await;
}

#[tokio::test]
async fn other_paths_and_methods_are_problems() {
    let server = Server::start_tcp(None).await;
    let answer = server.get("/").await;
    assert_eq!((answer.status, &answer.problem()["code"]), (404, &"not_found".into()));
    for path in ["/metrics", "/livez", "/readyz"] {
        let answer = server.ask(&format!("POST {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!((answer.status, &answer.problem()["code"]), (405, &"method_not_allowed".into()));
        assert_eq!(answer.field("allow"), Some("GET,HEAD"));
    }
    let answer = server.ask("HEAD /livez HTTP/1.1\r\nhost: admin\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    server.stop().await;
}

#[tokio::test]
async fn with_a_token_nothing_is_shown_without_it() {
    let server = Server::start_tcp(Some("s3cret")).await;
    let with = async |path: &str, fields: &str| {
        server.ask(&format!("GET {path} HTTP/1.1\r\nhost: admin\r\n{fields}\r\n")).await
    };
    for path in ["/metrics", "/livez", "/readyz", "/nowhere"] {
        let answer = with(path, "").await;
        assert_eq!((answer.status, &answer.problem()["code"]), (401, &"admin_token".into()), "{path}");
        assert_eq!(answer.field("www-authenticate"), Some("Bearer realm=\"bawab admin\""));
    }
    for fields in ["authorization: Bearer s3cret\r\n", "Authorization: bearer s3cret\r\n"] {
        assert_eq!(with("/livez", fields).await.status, 200, "{fields}");
    }
    for fields in [
        "authorization: Bearer s3cre\r\n",
        "authorization: Bearer s3crets\r\n",
        "authorization: Bearer S3CRET\r\n",
        "authorization: Bearer \r\n",
        "authorization: Bearer\r\n",
        "authorization: Basic s3cret\r\n",
        "authorization: s3cret\r\n",
        "authorization: Bearer s3cret\r\nauthorization: Bearer s3cret\r\n",
    ] {
        assert_eq!(with("/livez", fields).await.status, 401, "{fields}");
    }
    server.stop().await;
}

#[test]
fn a_token_is_not_empty_and_not_printed() {
    assert!(Token::new("").is_none());
    assert_eq!(format!("{:?}", Token::new("s3cret").unwrap()), "Token");
}

#[tokio::test]
async fn an_address_others_can_reach_needs_a_token() {
    let listener = bind("0.0.0.0:0").await.unwrap();
    let state = State {
        metrics: Metrics::new(1, &[]),
        ready: Arc::default(),
        token: Arc::default(),
        snapshot: served(),
        bans: Arc::default(),
        doors: doors(),
        commands: mpsc::channel(1).0,
    };
    let error = serve(listener, state, std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().starts_with("admin.address: `0.0.0.0:"), "{error}");
}

#[tokio::test]
async fn an_address_others_can_reach_is_served_with_a_token() {
    let server = Server::start(bind("0.0.0.0:0").await.unwrap(), Some("s3cret"));
    assert_eq!(server.get("/livez").await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    for address in ["localhost:9180", "9180", "", "127.0.0.1"] {
        let error = bind(address).await.err().expect(address);
        assert_eq!(error.to_string(), "neither `unix:/path` nor `ip:port`", "{address}");
    }
    for address in ["unix:", "unix:admin.sock"] {
        let error = bind(address).await.err().expect(address);
        assert_eq!(error.to_string(), "the path must be absolute", "{address}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused() {
    let first = bind("127.0.0.1:0").await.unwrap();
    let error = bind(&first.address()).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_unix_socket_is_for_owner_and_group_and_goes_with_the_server() {
    let (_folder, path) = folder();
    let server = Server::start(bind_path(&path).await.unwrap(), None);
    assert_eq!(server.address, format!("unix:{}", path.display()));
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let stream = UnixStream::connect(&path).await.unwrap();
    let answer = ask(stream, "GET /livez HTTP/1.1\r\nhost: admin\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    server.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_of_a_dead_process_is_replaced() {
    let (_folder, path) = folder();
    // Closed without being removed, as a kill leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::start(bind_path(&path).await.unwrap(), None);
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(stream, "GET /livez HTTP/1.1\r\nhost: admin\r\n\r\n").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_socket_of_a_living_process_is_left_alone() {
    let (_folder, path) = folder();
    let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = refused(&path).await;
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("another process serves this socket"), "{error}");
    drop(std::os::unix::net::UnixStream::connect(&path).unwrap());
    drop(living);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let (folder, path) = folder();
    fs::write(&path, "precious").unwrap();
    let link = folder.path().join("link.sock");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link, &folder.path().to_owned()] {
        let error = refused(path).await;
        assert!(error.to_string().contains("exists and is not a socket"), "{error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn the_socket_of_a_successor_is_not_removed() {
    let (folder, path) = folder();
    let listener = bind_path(&path).await.unwrap();
    fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    let successor = bind_path(&path).await.unwrap();
    drop(listener);
    assert!(path.exists());
    drop(successor);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_client_that_says_nothing_gives_its_seat_away_in_time() {
    let listener = bind("127.0.0.1:0").await.unwrap().with_bounds(1, AGE_MAX);
    let server = Server::start(listener, None);
    let mut slow = server.connect().await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost:").await.unwrap();
    // Served only when the seat of the other is free again.
    assert_eq!(server.get("/livez").await.status, 200);
    let mut answer = Vec::new();
    let end = slow.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{end:?}: {}", String::from_utf8_lossy(&answer));
    server.stop().await;
}

/// Makes `/metrics` some megabytes long.
fn more_than_sockets_hold(metrics: &Metrics) -> Vec<Arc<RouteSeries>> {
    (0..1_000).map(|at| metrics.route(&format!("{at:0100}"))).collect()
}

#[tokio::test]
async fn a_client_that_does_not_read_gives_its_seat_away_in_time() {
    let listener = bind("127.0.0.1:0").await.unwrap().with_bounds(1, AGE_MAX);
    let server = Server::start(listener, None);
    let held = more_than_sockets_hold(&server.metrics);
    let mut slow = server.connect().await;
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n").await.unwrap();
    assert_eq!(server.get("/livez").await.status, 200);
    let mut answer = Vec::new();
    let cut = slow.read_to_end(&mut answer).await;
    assert!(!answer.ends_with(b"# EOF\n"), "{cut:?}, {} bytes, {} routes", answer.len(), held.len());
    server.stop().await;
}

#[tokio::test]
async fn a_request_too_long_is_not_answered() {
    let server = Server::start_tcp(None).await;
    let request = |bytes: usize| {
        let (start, end) = ("GET /livez HTTP/1.1\r\nhost: admin\r\nx: ", "\r\n\r\n");
        format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len()))
    };
    assert_eq!(server.ask(&request(listen::REQUEST_BYTES_MAX)).await.status, 200);
    let mut stream = server.connect().await;
    // Either end may see the reset first.
    let _cut = stream.write_all(request(listen::REQUEST_BYTES_MAX + 1).as_bytes()).await;
    let mut answer = Vec::new();
    let _reset = timeout(HANG, stream.read_to_end(&mut answer)).await.expect("an end");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    server.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_client_that_says_nothing() {
    let (_folder, path) = folder();
    let server = Server::start(bind_path(&path).await.unwrap(), None);
    let mut idle = UnixStream::connect(&path).await.unwrap();
    idle.write_all(b"GET /livez").await.unwrap();
    server.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_client_that_does_not_read() {
    let (_folder, path) = folder();
    let server = Server::start(bind_path(&path).await.unwrap(), None);
    let held = more_than_sockets_hold(&server.metrics);
    let mut slow = UnixStream::connect(&path).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n").await.unwrap();
    // The answer has begun: it is no idle connection that is closed at once.
    slow.read_exact(&mut [0; 12]).await.unwrap();
    server.stop().await;
    assert!(!path.exists(), "{} routes", held.len());
}

#[tokio::test]
async fn what_becomes_of_a_request_is_explained() {
    let server = Server::start_tcp(None).await;
    for (query, status, pointer, expected) in [
        ("method=GET&url=http%3A%2F%2Fh%2Fbooks%2F7", 200, "/route/name", "books"),
        ("method=GET&url=/books/7&header=x-a:1&client=10.0.0.1", 200, "/route/action", "upstream shelf"),
        ("method=PUT&url=/books/7", 200, "/refusal/allow", "GET, HEAD"),
        ("method=GET&url=/books/../../x", 200, "/refusal/code", "path_above_root"),
        ("method=GET&url=/shelves", 200, "/refusal/code", "no_route"),
        ("method=GET", 400, "/code", "question"),
        ("method=GET&url=books", 400, "/code", "question"),
        ("method=GET&url=/&client=me", 400, "/code", "question"),
    ] {
        let answer = server.get(&format!("/explain/route?{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.body);
        let said: Value = serde_json::from_str(&answer.body).expect("json");
        assert_eq!(said.pointer(pointer).and_then(Value::as_str), Some(expected), "{query}: {said}");
    }
    let text = server.get("/explain/route?method=GET&url=/books/7&format=text").await;
    assert!(text.body.starts_with("route      books\n"), "{}", text.body);
}
