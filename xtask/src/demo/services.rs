//! The services behind the gateway of the demo: threads with sockets, four that answer, one address nobody listens on, and a
//! server of DNS.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::dns::{Kind, Say};
use e2e::message::{Head, chunk, fields};
use e2e::origin::{Refusing, Serving};
use e2e::{Dns, Http2Service, Origin, Peer};

use super::{grpc, websocket};

/// How long a connection of the gateway may stay silent: as long as the demo stays up, within reason.
const SILENCE: Duration = Duration::from_secs(24 * 3600);
/// How long a download waits for the word to go on, which only the demo itself gives.
const DOWNLOAD_PAUSE: Duration = Duration::from_secs(2);

/// What `conf/demo.toml` looks up, and the host it leads to.
const NAME: &str = "_http._tcp.moving.example";
const HOST: &str = "host.example";

pub(super) struct Services {
    dns: Dns,
    dns_address: String,
    books: [Serving; 2],
    media: Serving,
    gone: Refusing,
    /// The one that speaks gRPC, and its address.
    greeter: (Http2Service, String),
    /// Sizes of the upload's pieces, each at the moment the service has it.
    pub(super) arrived: Receiver<usize>,
    /// Lets a download send its second half.
    pub(super) go_on: Sender<()>,
}

/// What the media service shares with the demo.
struct Cues {
    arrived: Sender<usize>,
    go_on: Mutex<Receiver<()>>,
}

impl Services {
    pub(super) fn start() -> Result<Self> {
        let (arrived, arrivals) = channel();
        let (go_on, cue) = channel();
        let cues = Arc::new(Cues { arrived, go_on: Mutex::new(cue) });
        let start_books =
            |name: &'static str| -> Result<Serving> { Ok(Origin::tcp()?.serve(move |peer| books(peer, name))) };
        let greeter = grpc::greeter()?;
        let greeter_address = greeter.address();
        let dns = Dns::start()?;
        dns.says(HOST, Kind::A, Say::addresses(60, &["127.0.0.1"]));
        let services = Self {
            dns_address: dns.address(),
            dns,
            books: [start_books("books-a")?, start_books("books-b")?],
            media: Origin::tcp()?.serve(move |peer| media(peer, &cues)),
            gone: Refusing::new()?,
            greeter: (greeter, greeter_address),
            arrived: arrivals,
            go_on,
        };
        services.runs_at(0);
        Ok(services)
    }

    /// From now on DNS says that what moves is where this one of the books is.
    pub(super) fn runs_at(&self, nth: usize) {
        let port = self.address(nth).rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
        self.dns.says(NAME, Kind::Srv, Say::services(1, &[(10, 1, port, HOST)]));
    }

    /// From now on DNS fails.
    pub(super) fn fails(&self) {
        self.dns.says(NAME, Kind::Srv, Say::SERVFAIL);
    }

    /// Where one of the two books is.
    pub(super) fn address(&self, nth: usize) -> &str {
        self.books[nth].address()
    }

    /// The variables `conf/demo.toml` asks for.
    pub(super) fn addresses(&self) -> [(&'static str, &str); 6] {
        [
            ("DEMO_DNS", &self.dns_address),
            ("DEMO_BOOKS_A", self.books[0].address()),
            ("DEMO_BOOKS_B", self.books[1].address()),
            ("DEMO_MEDIA", self.media.address()),
            ("DEMO_GONE", self.gone.address()),
            ("DEMO_GREETER", &self.greeter.1),
        ]
    }
}

/// Tells who answers and what came, as it came.
fn books(peer: &mut Peer, name: &str) -> Result<()> {
    peer.set_patience(SILENCE);
    loop {
        let head = Head::read(peer)?;
        let body = told(name, &head);
        let length = body.len();
        let body = if head.start.starts_with("HEAD ") { "" } else { &body };
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nX-Powered-By: threads\r\nX-Service: {name}\r\n\r\n{body}"
        ))?;
    }
}

fn media(peer: &mut Peer, cues: &Cues) -> Result<()> {
    peer.set_patience(SILENCE);
    loop {
        let head = Head::read(peer)?;
        match head.start.split(' ').nth(1).unwrap_or_default() {
            "/live" => return websocket::serve(peer, &head),
            // Waits for the gateway to give up, and never answers.
            "/slow" => return peer.finish().map(drop),
            "/media/upload" | "/media/upload/packed" => upload(peer, &head, cues)?,
            "/media/download" => download(peer, cues)?,
            "/media/hints" => peer.send(
                "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n\
                 HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npage\n",
            )?,
            _ => {
                let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                peer.take(length)?;
                let body = told("media", &head);
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))?;
            }
        }
    }
}

fn told(name: &str, head: &Head) -> String {
    let fields: String = head.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    format!("{name} received:\n{}\n{fields}", head.start)
}

/// Takes a body piece by piece and says what it was.
fn upload(peer: &mut Peer, head: &Head, cues: &Cues) -> Result<()> {
    let (mut bytes, mut checksum) = (0, "none".to_owned());
    if let Some(length) = head.field("content-length") {
        bytes = peer.take(length.parse()?)?.len();
    } else {
        ensure!(head.field("transfer-encoding") == Some("chunked"), "an upload without a body");
        while let Some(piece) = chunk(peer)? {
            bytes += piece.len();
            // With `--stay` nobody listens.
            let _ = cues.arrived.send(piece.len());
        }
        let trailers = fields(peer)?;
        if let Some((_, value)) = trailers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-checksum")) {
            checksum.clone_from(value);
        }
    }
    let body = format!("{bytes} bytes, X-Checksum trailer: {checksum}\n");
    peer.send(format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// Sends half of a body, and the rest with a trailer when told so.
fn download(peer: &mut Peer, cues: &Cues) -> Result<()> {
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Lines\r\n\r\nc\r\nfirst half, \r\n")?;
    // Without the word (with `--stay` nobody gives it) it goes on by itself.
    let _ = cues.go_on.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(DOWNLOAD_PAUSE);
    peer.send("c\r\nsecond half\n\r\n0\r\nX-Lines: 1\r\n\r\n")
}
