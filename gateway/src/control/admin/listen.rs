//! The socket of the admin listener, and what a connection to it may use up.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Connections served at one time; more wait in the kernel's queue. A scraper or two, the orchestrator's probes, a person.
const CONNECTIONS_MAX: usize = 32;

/// From accept to the last byte of the answer.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(10);

/// Bytes a connection may send: a head and no body to speak of.
pub(super) const REQUEST_BYTES_MAX: usize = 32 * 1024;

/// The owner and the group: whoever may read the metrics is put into the gateway's group.
const SOCKET_MODE: u32 = 0o660;

/// How long to wait after an accept that failed, which it does when file descriptors run out: it would fail again at once.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// A bound admin listener.
pub struct Listener {
    socket: Bound,
    /// Notified: nothing is accepted any more.
    gate: Arc<Notify>,
    seats: Arc<Semaphore>,
    connection_age_max: Duration,
}

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Binds `unix:/path` or `ip:port`. The error says what is in the way; the caller, which knows the address, says at which.
/// Must be called within the runtime that will serve it.
pub async fn bind(address: &str) -> io::Result<Listener> {
    let socket = match address.strip_prefix("unix:") {
        Some(path) => bind_unix(Path::new(path))?,
        None => {
            let what = "neither `unix:/path` nor `ip:port`";
            let address: SocketAddr = address.parse().map_err(|_| io::Error::new(ErrorKind::InvalidInput, what))?;
            Bound::Tcp(TcpListener::bind(address).await?)
        }
    };
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(Listener { socket, gate: Arc::default(), seats, connection_age_max: CONNECTION_AGE_MAX })
}

/// Goes on with a socket that listens at `address` already. Must be called within the runtime that will serve it.
pub fn adopt(address: &str, socket: OwnedFd) -> io::Result<Listener> {
    let socket = match address.strip_prefix("unix:") {
        Some(path) => {
            let listener = unix::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            Bound::Unix(UnixListener::from_std(listener)?, SocketFile::new(Path::new(path))?)
        }
        None => {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            Bound::Tcp(TcpListener::from_std(listener)?)
        }
    };
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(Listener { socket, gate: Arc::default(), seats, connection_age_max: CONNECTION_AGE_MAX })
}

fn bind_unix(path: &Path) -> io::Result<Bound> {
    if !path.is_absolute() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path must be absolute"));
    }
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux makes the file with the mode of the socket, less the umask: it is never open to others, not even between the
    // two calls. The second puts back what the umask took.
    fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(Bound::Unix(UnixListener::from_std(unix::UnixListener::from(socket))?, file))
}

/// Removes a socket that nobody listens on any more: a process that was killed leaves it. Anything else at `path` is an
/// error, because it belongs to somebody.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener that is alive and does not accept would make us wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(io::Error::new(ErrorKind::AddrInUse, "another process serves this socket")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another process serves this socket"))
        }
        Err(error) => Err(error),
    }
}

/// A socket file of ours, removed when this is dropped; unless another process has put its own in its place.
struct SocketFile {
    path: PathBuf,
    /// Somebody else goes on with the socket.
    keep: Arc<AtomicBool>,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), keep: Arc::default(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode);
        if !self.keep.load(Ordering::Relaxed) && fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _gone_already = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Where it listens, with the port the kernel chose.
    pub fn address(&self) -> String {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().map_or_else(|error| error.to_string(), |at| at.to_string()),
            Bound::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// Another handle on the socket, for whoever goes on with it.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Bound::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Bound::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Setting it keeps a socket's file in its place when the listener ends.
    pub fn keep_file(&self) -> Arc<AtomicBool> {
        match &self.socket {
            Bound::Tcp(_) => Arc::default(),
            Bound::Unix(_, file) => file.keep.clone(),
        }
    }

    /// Notifying it ends the accepting; what was accepted is served still.
    pub fn gate(&self) -> Arc<Notify> {
        self.gate.clone()
    }

    /// Only processes of this machine can connect.
    pub(super) fn is_local(&self) -> bool {
        match &self.socket {
            // To canonical: `::ffff:127.0.0.1` is a loopback address as well.
            Bound::Tcp(listener) => listener.local_addr().is_ok_and(|at| at.ip().to_canonical().is_loopback()),
            Bound::Unix(..) => true,
        }
    }

    /// Bounds that a test need not wait long for.
    #[cfg(test)]
    pub(super) fn with_bounds(self, connections_max: usize, connection_age_max: Duration) -> Listener {
        Listener { seats: Arc::new(Semaphore::new(connections_max)), connection_age_max, ..self }
    }

    async fn accept_stream(&self) -> io::Result<Stream> {
        match &self.socket {
            Bound::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Bound::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        // First the seat and then the connection: one that cannot be served yet is better off in the kernel's queue.
        let seat = Arc::clone(&self.seats).acquire_owned().await.expect("the semaphore is never closed");
        let stream = loop {
            let accepted = tokio::select! {
                accepted = self.accept_stream() => accepted,
                () = self.gate.notified() => std::future::pending().await,
            };
            match accepted {
                Ok(stream) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "admin listener could not accept");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        };
        let deadline = Box::pin(sleep_until(Instant::now() + self.connection_age_max));
        (Connection { stream, deadline, bytes_left: REQUEST_BYTES_MAX, _seat: seat }, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's connection, which fails when its time is over or it has sent too much.
pub struct Connection {
    stream: Stream,
    deadline: Pin<Box<Sleep>>,
    bytes_left: usize,
    _seat: OwnedSemaphorePermit,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_deadline(context)?;
        let before = into.filled().len();
        ready!(match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, into),
        })?;
        let read = into.filled().len() - before;
        match self.bytes_left.checked_sub(read) {
            Some(left) => {
                self.bytes_left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, "the request is too long"))),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_deadline(context)?;
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, from),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, from),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
