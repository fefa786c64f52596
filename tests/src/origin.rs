//! Where the gateway connects to: a listening socket of ours. A case either plays the upstream itself
//! ([`Origin::accept`]) or leaves it to threads ([`Origin::serve`]).

use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::message::{Head, Message};
use crate::patience;
use crate::peer::Peer;

pub struct Origin {
    listener: Socket,
    address: String,
}

impl Origin {
    /// On 127.0.0.1, a port of the kernel's choice.
    pub fn tcp() -> Result<Self> {
        let (listener, address) = bound(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(4096)?;
        Ok(Self { listener, address })
    }

    /// On an address that was an origin's before.
    pub fn tcp_at(address: &str) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let listener = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        // Connections of the one before may be in TIME_WAIT.
        listener.set_reuse_address(true)?;
        listener.bind(&address.into())?;
        listener.listen(4096)?;
        Ok(Self { listener, address: address.to_string() })
    }

    /// On a unix socket in `dir`.
    pub fn unix(dir: &Path) -> Result<Self> {
        let path = dir.join("upstream.sock");
        let listener = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        listener.bind(&SockAddr::unix(&path)?)?;
        listener.listen(4096)?;
        Ok(Self { listener, address: format!("unix:{}", path.display()) })
    }

    /// As the configuration writes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn socket(&self) -> &Socket {
        &self.listener
    }

    /// The next connection of the gateway.
    pub fn accept(&self) -> Result<Peer> {
        self.accept_within(patience())?.context("the gateway opened no connection to the upstream")
    }

    /// A connection that is there already.
    pub fn accept_now(&self) -> Result<Option<Peer>> {
        self.accept_within(Duration::ZERO)
    }

    fn accept_within(&self, wait: Duration) -> Result<Option<Peer>> {
        if !readable(&[&self.listener], wait)?[0] {
            return Ok(None);
        }
        let (socket, _) = self.listener.accept().context("accept")?;
        Ok(Some(Peer::new(socket)))
    }

    /// Hands every connection to `handler` in a thread of its own, until the result is dropped. A handler's error ends
    /// its connection and is printed: the case sees what the gateway makes of it.
    pub fn serve(self, handler: impl Fn(&mut Peer) -> Result<()> + Send + Sync + 'static) -> Serving {
        let shared = Arc::new(Shared::default());
        let address = self.address.clone();
        let listener = self.listener.try_clone().expect("a descriptor for the listener");
        let handler = Arc::new(handler);
        let seen = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // Dropping `Serving` shuts the listener down, which ends accept with an error.
            while let Ok((socket, _)) = self.listener.accept() {
                let Ok(handle) = socket.try_clone() else {
                    break;
                };
                let handler = Arc::clone(&handler);
                let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
                    let mut peer = Peer::new(socket);
                    let _ = handler(&mut peer);
                    let _ = peer.socket().shutdown(Shutdown::Both);
                });
                let Ok(thread) = thread else { break };
                seen.connections.lock().unwrap_or_else(PoisonError::into_inner).push((handle, thread));
            }
        });
        Serving { address, listener, shared, thread: Some(thread) }
    }

    /// Serves every request with what `answer` makes of it, on kept-alive connections.
    pub fn answer(self, answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Serving {
        self.serve(move |peer| {
            peer.set_patience(Duration::from_secs(600));
            while let Ok(request) = Message::request(peer) {
                peer.send(answer(&request))?;
            }
            Ok(())
        })
    }
}

/// An origin served by threads. Dropping it ends them and their connections.
pub struct Serving {
    address: String,
    listener: Socket,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<(Socket, JoinHandle<()>)>>,
}

impl Serving {
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for (socket, thread) in connections.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

/// An address where connections are refused: bound, so that nobody else gets it, but not listening.
pub struct Refusing {
    _socket: Socket,
    address: String,
}

impl Refusing {
    pub fn new() -> Result<Self> {
        let (socket, address) = bound(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        Ok(Self { _socket: socket, address })
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

/// An address where connecting takes for ever: its queue of waiting connections is full and nobody accepts.
pub struct Silent {
    _listener: Socket,
    _waiting: Vec<Socket>,
    address: String,
}

impl Silent {
    pub fn new() -> Result<Self> {
        let (listener, address) = bound(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(0)?;
        let mut waiting = Vec::new();
        // The kernel drops every further SYN once the queue is full: a connect that stays in progress shows it.
        for _ in 0..16 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec().nonblocking(), None)?;
            let _ = socket.connect(&listener.local_addr()?);
            let full = !writable(&socket, Duration::from_millis(50))?;
            waiting.push(socket);
            if full {
                return Ok(Self { _listener: listener, _waiting: waiting, address });
            }
        }
        bail!("the queue of a listener does not fill up");
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

fn bound(address: &SockAddr) -> Result<(Socket, String)> {
    let socket = Socket::new(address.domain(), Type::STREAM.cloexec(), None)?;
    socket.bind(address)?;
    let address = socket.local_addr()?.as_socket().context("an IP address")?;
    Ok((socket, address.to_string()))
}

/// Which of `sockets` can be read (or accepted from) now, waiting up to `wait` for the first.
pub fn readable(sockets: &[&Socket], wait: Duration) -> Result<Vec<bool>> {
    let deadline = Instant::now() + wait;
    let mut polled: Vec<_> = sockets.iter().map(|socket| PollFd::new(*socket, PollFlags::IN)).collect();
    poll_until(&mut polled, deadline)?;
    Ok(polled.iter().map(|socket| !socket.revents().is_empty()).collect())
}

fn writable(socket: &Socket, wait: Duration) -> Result<bool> {
    let mut polled = [PollFd::new(socket, PollFlags::OUT)];
    poll_until(&mut polled, Instant::now() + wait)?;
    Ok(!polled[0].revents().is_empty())
}

fn poll_until(polled: &mut [PollFd<'_>], deadline: Instant) -> Result<()> {
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).context("a wait")?;
        match poll(polled, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(drop).context("poll"),
        }
    }
}

/// A plain answer with a length.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// The request's head as text, start line first: what an origin may answer so that the client sees what came.
pub fn echo(head: &Head) -> Vec<u8> {
    let fields = head.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>();
    ok(format!("{}\n{fields}", head.start))
}
