//! One health check of one endpoint: a connection, TLS where requests go by it, and over that a GET whose status line decides
//! (RFC 9112 §4), or a call of gRPC.
//!
//! Never longer than its time, never more than a bound is read, and whatever the endpoint sends is an outcome and no error.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http1::{Fault, HeadLimits, Scanner, encode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::grpc;
use crate::balance::{Http, Link};
use crate::config::model::HealthCheck;
use crate::config::units::Time;
use crate::config::words::any_status_range;
use crate::limits::{CHECK_ANSWER_BYTES_MAX, CHECK_REST_MS, INTERIM_MAX, RESPONSE_FIELDS_MAX};
use crate::observe::metrics::CheckOutcome;
use crate::proxy::proxy_protocol::said;
use crate::rt::Peer;
use crate::tls::{Checking, NoAgreement};
use crate::worker::is_ours;

/// A check that can be made again and again.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    peer: Peer,
    timeout: Duration,
    /// What a connection begins with: that it serves nobody. `None`: nothing.
    announced: Option<Arc<[u8]>>,
    /// `None`: without TLS.
    tls: Option<Arc<Checking>>,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    /// A connection is all.
    Tcp,
    Http(Asked),
    Grpc(grpc::Asked),
}

#[derive(Debug, Clone)]
struct Asked {
    request: Vec<u8>,
    /// First and last status of what passes.
    expect: Vec<(u16, u16)>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) kind: CheckOutcome,
    /// In words, for logs.
    pub(super) seen: String,
}

impl Outcome {
    pub(super) fn new(kind: CheckOutcome, seen: impl Into<String>) -> Outcome {
        Outcome { kind, seen: seen.into() }
    }
}

impl Probe {
    /// `host`: what an HTTP check says in `Host` unless the check says otherwise. `link`: how the endpoint is spoken to.
    pub(super) fn new(check: &HealthCheck, peer: &Peer, host: &str, link: &Link) -> Probe {
        let peer = match (peer, check.port) {
            (Peer::Tcp(address), Some(port)) => Peer::Tcp(SocketAddr::new(address.ip(), port)),
            (peer, _) => peer.clone(),
        };
        let host = check.host.as_deref().unwrap_or(host);
        let http = |target: &str| {
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            let mut request = Vec::new();
            encode::request_line(&mut request, b"GET", path.as_bytes(), query.map(str::as_bytes));
            encode::field(&mut request, b"host", host.as_bytes());
            encode::field(&mut request, b"user-agent", b"bawab-health-check");
            encode::field(&mut request, b"accept", b"*/*");
            encode::field(&mut request, b"connection", b"close");
            encode::end(&mut request);
            Asked { request, expect: check.expect.iter().filter_map(|text| any_status_range(text)).collect() }
        };
        let (how, spoken) = match &check.http {
            Some(target) => (How::Http(http(target)), Some(Http::One)),
            None if check.grpc => {
                let service = check.grpc_service.as_deref().unwrap_or_default();
                (How::Grpc(grpc::Asked::new(host, service)), Some(Http::Two))
            }
            None => (How::Tcp, None),
        };
        let tls = link.tls.as_ref().map(|service| Arc::new(service.checking(spoken)));
        let announced = link.proxy.map(|version| said::header(version, None, None).into());
        Probe { peer, timeout: check.timeout.into(), announced, tls, how }
    }

    /// Makes the check.
    pub(super) async fn make(&self) -> Outcome {
        match tokio::time::timeout(self.timeout, self.connect()).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::new(CheckOutcome::Timeout, format!("no answer within {}", Time(self.timeout))),
        }
    }

    async fn connect(&self) -> Outcome {
        let opened = match &self.peer {
            Peer::Tcp(address) => match TcpStream::connect(address).await {
                // On one host the kernel may choose the very port nobody listens on, and the socket meets itself.
                Ok(stream) if stream.local_addr().is_ok_and(|own| own == *address) => {
                    io::ErrorKind::ConnectionRefused.into()
                }
                Ok(stream) => return self.secure(stream).await,
                Err(error) => error,
            },
            Peer::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => return self.secure(stream).await,
                Err(error) => error,
            },
        };
        let kind = if is_ours(&opened) { CheckOutcome::NotMade } else { CheckOutcome::Connect };
        Outcome::new(kind, opened.to_string())
    }

    async fn secure(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Outcome {
        if let Some(header) = &self.announced
            && let Err(error) = stream.write_all(header).await
        {
            return Outcome::new(CheckOutcome::Closed, error.to_string());
        }
        let Some(tls) = &self.tls else { return self.ask(stream).await };
        match tls.agree(stream).await {
            Ok(stream) => self.ask(stream).await,
            Err(error) => Outcome::new(CheckOutcome::Tls, error.detail),
        }
    }

    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Outcome {
        let asked = match &self.how {
            How::Tcp => return Outcome::new(CheckOutcome::Passed, "connected"),
            How::Http(asked) => asked,
            How::Grpc(asked) => return asked.ask(stream).await,
        };
        // A service may answer and close before it has read everything.
        let sent = async {
            stream.write_all(&asked.request).await?;
            stream.flush().await
        };
        let sent = sent.await;
        match (status(&mut stream).await, sent) {
            (Ok(status), _) => {
                pass_over(&mut stream).await;
                let passed = asked.expect.iter().any(|(first, last)| (*first..=*last).contains(&status));
                let kind = if passed { CheckOutcome::Passed } else { CheckOutcome::Status };
                Outcome::new(kind, format!("status {status}"))
            }
            (Err(AnswerError::Malformed(fault)), _) => {
                Outcome::new(CheckOutcome::Malformed, format!("its answer is no HTTP: {}", fault.code()))
            }
            (Err(AnswerError::Closed), Err(error)) | (Err(AnswerError::Broken(error)), _) => {
                match NoAgreement::after_handshake(&error) {
                    Some(refused) => Outcome::new(CheckOutcome::Tls, refused.detail),
                    None => Outcome::new(CheckOutcome::Closed, error.to_string()),
                }
            }
            (Err(AnswerError::Closed), Ok(())) => Outcome::new(CheckOutcome::Closed, "closed without an answer"),
        }
    }
}

enum AnswerError {
    Malformed(Fault),
    Closed,
    Broken(io::Error),
}

/// The status of the final answer.
async fn status(stream: &mut (impl AsyncRead + Unpin)) -> Result<u16, AnswerError> {
    const LIMITS: HeadLimits =
        HeadLimits { target_bytes: 0, head_bytes: CHECK_ANSWER_BYTES_MAX, fields: RESPONSE_FIELDS_MAX };
    let mut bytes = Vec::new();
    let (mut begin, mut interim, mut fields) = (0, 0, Vec::new());
    let mut scanner = Scanner::response();
    loop {
        let read = match &bytes[begin..] {
            [] => None,
            rest => http1::read_response(&mut scanner, rest, &LIMITS, &mut fields).map_err(AnswerError::Malformed)?,
        };
        match read {
            Some(line) if line.status >= 200 => return Ok(line.status),
            // Nobody asked for a switch of protocols.
            Some(line) if line.status == 101 || interim == INTERIM_MAX => {
                return Err(AnswerError::Malformed(Fault::StatusOutOfRange));
            }
            Some(line) => {
                interim += 1;
                begin += line.head_bytes;
                (scanner, fields) = (Scanner::response(), Vec::new());
                continue;
            }
            None if bytes.len() >= CHECK_ANSWER_BYTES_MAX => return Err(AnswerError::Malformed(Fault::HeadTooLarge)),
            None => {}
        }
        let room = CHECK_ANSWER_BYTES_MAX - bytes.len();
        match (&mut *stream).take(room as u64).read_buf(&mut bytes).await {
            Ok(0) => return Err(AnswerError::Closed),
            Ok(_) => {}
            Err(error) => return Err(AnswerError::Broken(error)),
        }
    }
}

/// Reads what is left of a short answer: one that is cut looks like a client that hung up.
async fn pass_over(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = stream.take(CHECK_ANSWER_BYTES_MAX as u64);
    let read = async { while let Ok(1..) = rest.read(&mut [0; 4096]).await {} };
    // Whatever becomes of it, the status is known.
    let _ = tokio::time::timeout(Duration::from_millis(CHECK_REST_MS), read).await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    fn on<F: Future>(work: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
    }

    fn check() -> HealthCheck {
        HealthCheck { http: Some("/healthz?full=1".to_owned()), timeout: Time::from_secs(10), ..HealthCheck::default() }
    }

    /// Makes `check` at a service that reads a request and sends `answer` in pieces. The outcome, and what it was asked.
    fn made(check: &HealthCheck, answer: &'static [&'static [u8]]) -> (CheckOutcome, String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = Peer::Tcp(listener.local_addr().expect("its address"));
        let service = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).expect("a request") == 0 {
                    break;
                }
                asked.extend(byte);
            }
            for piece in answer {
                // A check may have seen enough.
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
            String::from_utf8(asked).expect("ASCII")
        });
        let Outcome { kind, seen } = on(Probe::new(check, &peer, "orders.test", &Link::default()).make());
        (kind, seen, service.join().expect("the service"))
    }

    #[test]
    fn a_request_is_whole_and_says_who_asks() {
        let (kind, _, asked) = made(&check(), &[b"HTTP/1.1 204 No Content\r\n\r\n"]);
        assert_eq!(kind, CheckOutcome::Passed);
        assert_eq!(
            asked,
            "GET /healthz?full=1 HTTP/1.1\r\nhost: orders.test\r\nuser-agent: bawab-health-check\r\naccept: */*\r\n\
             connection: close\r\n\r\n"
        );
        let other = HealthCheck { host: Some("other.test".to_owned()), ..check() };
        assert!(made(&other, &[b"HTTP/1.1 200 OK\r\n\r\n"]).2.contains("\r\nhost: other.test\r\n"));
    }

    #[test]
    fn the_status_decides_and_it_is_read_strictly() {
        let long: &'static [u8] = Vec::leak([b"HTTP/1.1 200 OK\r\na: ".to_vec(), vec![b'a'; 20_000]].concat());
        let cases: [(&'static [&'static [u8]], CheckOutcome, &str); 11] = [
            (&[b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], CheckOutcome::Passed, "status 200"),
            (&[b"HTTP/1.", b"0 29", b"9 x\r\n\r", b"\n"], CheckOutcome::Passed, "status 299"),
            (&[b"HTTP/1.1 503 Down\r\n\r\n"], CheckOutcome::Status, "status 503"),
            (&[b"HTTP/1.1 302 Found\r\n\r\n"], CheckOutcome::Status, "status 302"),
            (&[b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"], CheckOutcome::Passed, "status 200"),
            (&[b"HTTP/1.1 101 Switch\r\n\r\n"], CheckOutcome::Malformed, "no HTTP"),
            (&[b"HTTP/2.0 200 OK\r\n\r\n"], CheckOutcome::Malformed, "no HTTP"),
            (&[b"SSH-2.0-OpenSSH_9.9\r\n"], CheckOutcome::Malformed, "no HTTP"),
            (&[b"HTTP/1.1 200 OK\r\na: b"], CheckOutcome::Closed, "closed"),
            (&[], CheckOutcome::Closed, "closed"),
            (Vec::leak(vec![long]), CheckOutcome::Malformed, "no HTTP"),
        ];
        for (answer, kind, seen) in cases {
            let (got, words, _) = made(&check(), answer);
            assert_eq!(got, kind, "{words}");
            assert!(words.contains(seen), "{words}");
        }
        let wide = HealthCheck { expect: vec!["200-399".to_owned(), "503".to_owned()], ..check() };
        let cases: [(&'static [&'static [u8]], CheckOutcome); 3] = [
            (&[b"HTTP/1.1 302 Found\r\n\r\n"], CheckOutcome::Passed),
            (&[b"HTTP/1.1 503 Down\r\n\r\n"], CheckOutcome::Passed),
            (&[b"HTTP/1.1 404 No\r\n\r\n"], CheckOutcome::Status),
        ];
        for (answer, kind) in cases {
            assert_eq!(made(&wide, answer).0, kind);
        }
    }

    #[test]
    fn a_connection_is_enough_for_tcp_and_its_port_may_be_another() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let tcp = HealthCheck { http: None, tcp: true, port: Some(port), ..check() };
        let peer = Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_eq!(on(Probe::new(&tcp, &peer, "", &Link::default()).make()).kind, CheckOutcome::Passed);
        drop(listener);
        assert_eq!(on(Probe::new(&tcp, &peer, "", &Link::default()).make()).kind, CheckOutcome::Connect);
        let nowhere = Peer::Unix("/nonexistent/service.sock".into());
        assert_eq!(on(Probe::new(&tcp, &nowhere, "", &Link::default()).make()).kind, CheckOutcome::Connect);
    }

    #[test]
    fn who_accepts_and_says_nothing_fails_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = Peer::Tcp(listener.local_addr().expect("its address"));
        let quick = HealthCheck { timeout: Time::from_millis(30), ..check() };
        let outcome = on(Probe::new(&quick, &peer, "orders.test", &Link::default()).make());
        assert_eq!((outcome.kind, &*outcome.seen), (CheckOutcome::Timeout, "no answer within 30ms"));
    }
}
