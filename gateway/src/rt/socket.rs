//! Connected stream sockets and listeners. Buffers are handed to the kernel and come back with the answer.
//!
//! A [`Socket`] is TCP or Unix: the operations are the same, so one type carries both. Its halves have a deadline each
//! and can be used at the same time; at most one operation a half is under way.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::path::PathBuf;

use bytes::{Buf as _, Bytes};
use monoio::io::{AsyncReadRent, AsyncWriteRent, CancelHandle, Canceller, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::{TcpListener, TcpStream, UnixStream};

use super::Buf;
use super::deadline::{Cut, Watch};

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Peer {
    /// Its IP address, if it has one.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connected stream socket. Closed when dropped.
pub struct Socket {
    pub reader: Reader,
    pub writer: Writer,
}

impl Socket {
    /// Opens a connection. The caller bounds the wait by dropping the future, which cancels the attempt.
    pub async fn connect(peer: &Peer) -> io::Result<Socket> {
        match peer {
            Peer::Tcp(address) => {
                let stream = TcpStream::connect_addr(*address).await?;
                stream.set_nodelay(true)?;
                Ok(Socket::new(stream))
            }
            Peer::Unix(path) => {
                let fd = UnixStream::connect(path).await?.into_raw_fd();
                // SAFETY: the descriptor was just given up by its only owner.
                Ok(Socket::new(unsafe { stream_of(fd) }?))
            }
        }
    }

    /// A socket that another part of the process opened, such as one end of a pair.
    pub fn from_fd(fd: std::os::fd::OwnedFd) -> io::Result<Socket> {
        // SAFETY: `into_raw_fd` gives up the ownership that `stream_of` takes.
        Ok(Socket::new(unsafe { stream_of(fd.into_raw_fd()) }?))
    }

    fn new(stream: TcpStream) -> Socket {
        let fd = stream.as_raw_fd();
        let (read, write) = stream.into_split();
        Socket {
            reader: Reader { watch: Watch::new(fd, Cut::Read), half: read, fd },
            writer: Writer { watch: Watch::new(fd, Cut::Both), half: write },
        }
    }
}

/// A stream around a raw socket of any family: monoio's operations for both are the same.
///
/// # Safety
/// `fd` is an open stream socket that nobody else owns.
unsafe fn stream_of(fd: RawFd) -> io::Result<TcpStream> {
    // SAFETY: the caller hands over an open descriptor.
    TcpStream::from_std(unsafe { std::net::TcpStream::from_raw_fd(fd) })
}

/// The receiving half.
pub struct Reader {
    // Dropped first: a watch must not outlive its descriptor.
    watch: Watch,
    half: OwnedReadHalf<TcpStream>,
    fd: RawFd,
}

impl Reader {
    /// Waits until there is something to read, or the end of it, without holding a buffer.
    pub async fn readable(&mut self) -> io::Result<()> {
        // SAFETY: the cell is shared with the writing half on this thread only, and neither keeps a reference to the
        // stream across an await: an operation holds the descriptor, not the stream.
        let stream = unsafe { &*self.half.0.get() };
        stream.readable(true).await
    }

    /// Reads behind the buffer's window. `Ok(0)`: the peer ended, or the deadline did ([`Watch::fired`] tells), or the
    /// buffer has no room left.
    pub async fn read(&mut self, buf: Buf) -> (io::Result<usize>, Buf) {
        self.half.read(buf).await
    }

    /// As `read`, but at most `limit` bytes.
    pub async fn read_up_to(&mut self, buf: Buf, limit: usize) -> (io::Result<usize>, Buf) {
        let (result, limited) = self.half.read(super::buf::UpTo { buf, limit }).await;
        (result, limited.buf)
    }

    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Ends the connection by a reset (RST) now, where a close would be an end in order (FIN).
    pub fn reset(&self) {
        // SAFETY: the descriptor is open while `self` lives.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.fd) };
        // Linux resets a TCP connection that is connected to nowhere. A Unix socket knows no reset.
        let _ = rustix::net::connect_unspec(fd);
    }

    /// Sends what the kernel takes at once. For the few bytes a reader has to say while the writing half sends nothing. A
    /// system call.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the descriptor is open while `self` lives.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.fd) };
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        Ok(rustix::net::send(fd, bytes, flags)?)
    }

    /// The socket's descriptor. Valid while the half lives.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Whether nothing was received and the peer has not closed: a pooled connection can be used again. A system call.
    pub fn is_quiet(&self) -> bool {
        // SAFETY: the descriptor is open while `self` lives.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.fd) };
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(fd, &mut [0u8; 1], flags), Err(rustix::io::Errno::AGAIN))
    }
}

/// The sending half.
pub struct Writer {
    watch: Watch,
    half: OwnedWriteHalf<TcpStream>,
}

impl Writer {
    /// Sends the whole window. The buffer returns to the pool.
    pub async fn write_all(&mut self, mut buf: Buf) -> io::Result<()> {
        while !buf.is_empty() {
            let (result, rest) = self.half.write(buf).await;
            buf = rest;
            match result? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => buf.advance(n),
            }
        }
        Ok(())
    }

    /// Sends all of `bytes`.
    pub async fn write_all_bytes(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while bytes.has_remaining() {
            let (result, rest) = self.half.write(bytes).await;
            bytes = rest;
            match result? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => bytes.advance(n),
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes (FIN). Reading goes on.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }

    pub fn watch(&self) -> &Watch {
        &self.watch
    }
}

/// What a packet has at most, and only one that has not travelled at all.
const HOPS_LEFT_MAX: libc::c_int = 255;

/// A listening socket of one worker.
pub struct Listener {
    inner: TcpListener,
    stop: CancelHandle,
}

/// Stops a listener's accept without losing a connection.
pub struct AcceptStop {
    canceller: Canceller,
}

impl AcceptStop {
    pub fn stop(self) {
        self.canceller.cancel();
    }
}

impl Listener {
    /// Takes over a bound, listening socket.
    pub fn new(socket: std::net::TcpListener) -> io::Result<(Listener, AcceptStop)> {
        let canceller = Canceller::new();
        let listener = Listener { inner: TcpListener::from_std(socket)?, stop: canceller.handle() };
        Ok((listener, AcceptStop { canceller }))
    }

    /// The next connection. Never dropped while it waits: a connection accepted by the kernel meanwhile would be lost
    /// and its descriptor leaked. [`AcceptStop`] ends it instead; the error is then `Interrupted`.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self.inner.cancelable_accept(self.stop.clone()).await {
            Ok((stream, address)) => {
                // monoio accepts without SOCK_CLOEXEC; a child process must not inherit clients.
                let fd = stream.as_raw_fd();
                // SAFETY: the descriptor is open while `stream` lives.
                let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
                rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
                stream.set_nodelay(true)?;
                Ok((Socket::new(stream), address))
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Err(io::ErrorKind::Interrupted.into()),
            Err(error) => Err(error),
        }
    }

    /// Lets nobody begin a connection, so that the kernel's queue can be emptied and the socket closed: closing resets what
    /// is queued. Who began before may finish; whoever knocks now hears nothing, asks again after a second, and is refused
    /// then. For a socket that nobody else goes on with; the accept was stopped before.
    pub fn shut_door(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open while `self` lives.
        let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.inner.as_raw_fd()) };
        rustix::io::ioctl_fionbio(listener, true)?;
        self.door(self.inner.as_raw_fd(), HOPS_LEFT_MAX)
    }

    /// Has the kernel drop packets to a socket that have fewer hops left.
    fn door(&self, fd: RawFd, hops_left_min: libc::c_int) -> io::Result<()> {
        // Packets for a listening socket that have travelled at all are dropped (RFC 5082's check: 255 is what a packet
        // starts with at most, 64 what nearly all start with). Those of a handshake under way are looked up elsewhere. A
        // socket filter would say it more plainly, but the kernel refuses one now and then to who has no CAP_BPF.
        let (level, option) = match self.inner.local_addr()? {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
        };
        // SAFETY: both callers have the descriptor open, and the option's value is an int of the length given.
        let result = unsafe {
            libc::setsockopt(
                fd,
                level,
                option,
                (&raw const hops_left_min).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The next connection the kernel has queued, without waiting, once the door is shut. `None`: the queue is empty.
    pub fn accept_queued(&self) -> io::Result<Option<(Socket, SocketAddr)>> {
        // SAFETY: the descriptor is open while `self` lives.
        let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.inner.as_raw_fd()) };
        match rustix::net::acceptfrom_with(listener, rustix::net::SocketFlags::CLOEXEC) {
            Ok((fd, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                let peer = peer.ok_or_else(|| io::Error::other("a client without an address"))?;
                let stream = std::net::TcpStream::from(fd);
                stream.set_nodelay(true)?;
                // Who finished shaking hands behind the shut door has it from the listener, and would not be heard.
                self.door(stream.as_raw_fd(), 0)?;
                Ok(Some((Socket::from_fd(stream.into())?, peer)))
            }
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{RingFlags, run};
    use std::io::{ErrorKind, Write as _};
    use std::time::Duration;

    #[test]
    fn behind_a_shut_door_who_is_queued_is_served_and_nobody_else_comes() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listening = std::net::TcpListener::bind(any).expect("bind");
            let address = listening.local_addr().expect("address");
            let queued = std::net::TcpStream::connect(address).expect("the kernel queues it");
            let flags = RingFlags::probe().expect("io_uring");
            let taken = run(flags, 16, async move {
                let (listener, _stop) = Listener::new(listening).expect("a listener");
                listener.shut_door().expect("an option");
                let late = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
                assert_eq!(late.expect_err("nobody answers").kind(), ErrorKind::TimedOut);
                let (_socket, peer) = listener.accept_queued().expect("no error").expect("the one that is queued");
                assert!(listener.accept_queued().expect("no error").is_none());
                peer
            });
            assert_eq!(taken.expect("ring"), queued.local_addr().expect("address"));
        }
    }

    #[test]
    fn who_finishes_shaking_hands_behind_a_shut_door_is_heard() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listening = std::net::TcpListener::bind(any).expect("bind");
            let address = listening.local_addr().expect("address");
            // The kernel goes on waiting for the client's part until the client says something.
            let seconds: libc::c_int = 30;
            // SAFETY: the descriptor is open, and the option's value is an int of the length given.
            let set = unsafe {
                let value = (&raw const seconds).cast();
                let bytes = size_of::<libc::c_int>() as libc::socklen_t;
                libc::setsockopt(listening.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, bytes)
            };
            assert_eq!(set, 0);
            let mut client = std::net::TcpStream::connect(address).expect("the kernel answers");
            let heard = run(RingFlags::probe().expect("io_uring"), 16, async move {
                let (listener, _stop) = Listener::new(listening).expect("a listener");
                listener.shut_door().expect("an option");
                assert!(listener.accept_queued().expect("no error").is_none(), "nobody is through yet");
                client.write_all(b"a").expect("write");
                let (mut socket, _) = listener.accept_queued().expect("no error").expect("it is through");
                client.write_all(b"b").expect("write");
                let mut buf = Buf::take();
                // However often the first bytes had to be sent again.
                while buf.len() < 2 {
                    let late = crate::rt::sleep(Duration::from_secs(20));
                    let crate::rt::Either::Left((result, filled)) =
                        crate::rt::select(socket.reader.read(buf), late).await
                    else {
                        panic!("not heard");
                    };
                    assert!(result.expect("read") > 0);
                    buf = filled;
                }
                buf.bytes().to_vec()
            });
            assert_eq!(heard.expect("ring"), b"ab");
        }
    }
}
