//! One end of a connection to the gateway: a client's, or an upstream's after accept. Bytes as they are; no codec.
//!
//! Every read and write has a deadline, [`patience`] unless a case sets another, and every failure
//! says what had come by then.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::patience;
use crate::taken;

/// What a read of a large body asks for: larger ones are no faster on loopback.
const READ_BYTES: usize = 256 * 1024;

/// How the other side ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// FIN: an orderly end.
    Eof,
    /// RST.
    Reset,
    /// FIN without a word, where TLS has one for an orderly end.
    Cut,
}

pub struct Peer {
    socket: Socket,
    tls: Option<Box<Connection>>,
    /// Received, not yet taken by a read.
    buffer: Vec<u8>,
    end: Option<End>,
    patience: Duration,
    received: u64,
}

impl Peer {
    pub fn connect(to: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), None)?;
        socket.connect_timeout(&to.into(), patience()).with_context(|| format!("connect to {to}"))?;
        Ok(Self::new(socket))
    }

    /// Like `connect`, from the address `from`: the whole of 127.0.0.0/8 is ours to pose as many clients.
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), patience()).with_context(|| format!("connect to {to} from {from}"))?;
        Ok(Self::new(socket))
    }

    /// A client that takes at most about `bytes` it has not read: the gateway feels a slow reader sooner.
    pub fn connect_with_receive_buffer(bytes: usize, to: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), None)?;
        socket.set_recv_buffer_size(bytes)?;
        socket.connect_timeout(&to.into(), patience()).with_context(|| format!("connect to {to}"))?;
        Ok(Self::new(socket))
    }

    pub fn connect_unix(path: &Path) -> Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.connect(&SockAddr::unix(path)?).with_context(|| format!("connect to {}", path.display()))?;
        Ok(Self::new(socket))
    }

    pub(crate) fn new(socket: Socket) -> Self {
        // What a case writes in two pieces should leave in two packets. A unix socket has no such option.
        let _ = socket.set_tcp_nodelay(true);
        Self { socket, tls: None, buffer: Vec::new(), end: None, patience: patience(), received: 0 }
    }

    /// Speaks TLS from now on. Returns when both sides have finished the handshake.
    pub fn secure(mut self, client: ClientConnection) -> Result<Self> {
        self.agree(client.into())?;
        Ok(self)
    }

    /// The same as the server. Fails when the other side does not go on.
    pub fn accept_tls(&mut self, server: &Arc<ServerConfig>) -> Result<()> {
        self.agree(ServerConnection::new(server.clone())?.into())
    }

    fn agree(&mut self, mut tls: Connection) -> Result<()> {
        self.socket.set_read_timeout(Some(self.patience))?;
        self.socket.set_write_timeout(Some(self.patience))?;
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut &self.socket).context("TLS handshake")?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Says that nothing more comes, as TLS does (RFC 8446 §6.1).
    pub fn say_end(&mut self) -> Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut &self.socket).context("close_notify")?;
            }
        }
        Ok(())
    }

    /// What was agreed on, if TLS is spoken.
    pub fn tls(&self) -> Option<&Connection> {
        self.tls.as_deref()
    }

    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Bytes received so far, taken or not.
    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Another handle on the same connection, for a thread that writes while this one reads.
    pub fn writer(&self) -> Result<Self> {
        let mut writer = Self::new(self.socket.try_clone()?);
        writer.patience = self.patience;
        Ok(writer)
    }

    /// Writes all of `bytes`. Fails when the other side is gone, or takes nothing for the patience of this peer.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.socket.set_write_timeout(Some(self.patience))?;
        match &mut self.tls {
            None => (&self.socket).write_all(bytes.as_ref()).context("write"),
            Some(tls) => write_tls(tls, &self.socket, bytes.as_ref()).context("write"),
        }
    }

    /// Writes each of `pieces` as a record of its own, all of them at once.
    pub fn send_together(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let tls = self.tls.as_mut().context("TLS is spoken")?;
        for piece in pieces {
            tls.writer().write_all(piece)?;
        }
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        self.send_below(&records)
    }

    /// Writes bytes below TLS, where they need not be records.
    pub fn send_below(&mut self, bytes: &[u8]) -> Result<()> {
        (&self.socket).write_all(bytes).context("write")
    }

    /// Writes `bytes` in pieces of `size`, waiting after each until the other process has read it, so that each
    /// arrives as a read of its own. Where that cannot be seen (a unix socket), or the other side does not want to
    /// read now, the next piece follows at once.
    pub fn send_in_pieces(&mut self, bytes: &[u8], size: usize) -> Result<()> {
        let mut waits = true;
        let mut pieces = bytes.chunks(size.max(1)).peekable();
        while let Some(piece) = pieces.next() {
            self.send(piece)?;
            if waits && pieces.peek().is_some() {
                waits = taken::wait(&self.socket);
            }
        }
        Ok(())
    }

    /// Says: nothing more will come from here (FIN). Reading goes on.
    pub fn fin(&self) -> Result<()> {
        self.socket.shutdown(Shutdown::Write).context("shutdown")
    }

    /// Ends the connection in order: in TLS with its word for it (RFC 8446 §6.1), then by FIN.
    pub fn close(mut self) -> Result<()> {
        self.say_end()
    }

    /// Ends the connection by RST.
    pub fn reset(self) -> Result<()> {
        self.socket.set_linger(Some(Duration::ZERO)).context("SO_LINGER")
    }

    /// Reads at least one more byte into the buffer; `false` at the end of the connection.
    pub fn fill(&mut self) -> Result<bool> {
        self.fill_until(Instant::now() + self.patience)
    }

    fn fill_until(&mut self, deadline: Instant) -> Result<bool> {
        if self.end.is_some() {
            return Ok(false);
        }
        let mut piece = [0; 16 * 1024];
        let count = self.read(&mut piece, deadline)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count > 0)
    }

    /// Reads once into `piece`, around the buffer; 0 at the end of the connection.
    fn read(&mut self, piece: &mut [u8], deadline: Instant) -> Result<usize> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("nothing more came in {:?}; so far: {}", self.patience, shown(&self.buffer));
            }
            self.socket.set_read_timeout(Some(left))?;
            let read = match &mut self.tls {
                None => (&self.socket).read(piece),
                Some(tls) => read_tls(tls, &self.socket, piece),
            };
            match read {
                Ok(0) => self.end = Some(End::Eof),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => self.end = Some(End::Cut),
                Ok(n) => {
                    self.received += n as u64;
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::TimedOut => {
                    continue;
                }
                Err(error) if reset(error.kind()) => self.end = Some(End::Reset),
                Err(error) => return Err(error).context("read"),
            }
            return Ok(0);
        }
    }

    /// What has come and was not taken, without waiting.
    pub fn pending(&mut self) -> Result<&[u8]> {
        self.socket.set_nonblocking(true)?;
        let mut piece = [0; 16 * 1024];
        while self.end.is_none() {
            let read = match &mut self.tls {
                None => (&self.socket).read(&mut piece),
                Some(tls) => read_tls(tls, &self.socket, &mut piece),
            };
            match read {
                Ok(0) => self.end = Some(End::Eof),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => self.end = Some(End::Cut),
                Ok(n) => {
                    self.received += n as u64;
                    self.buffer.extend_from_slice(&piece[..n]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if reset(error.kind()) => self.end = Some(End::Reset),
                Err(error) => return Err(error).context("read"),
            }
        }
        self.socket.set_nonblocking(false)?;
        Ok(&self.buffer)
    }

    /// How the other side ended the connection, if that was seen yet.
    pub fn ended(&self) -> Option<End> {
        self.end
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        let deadline = Instant::now() + self.patience;
        while self.buffer.len() < count {
            if !self.fill_until(deadline)? {
                bail!(
                    "the connection ended ({:?}) after {} of {count} bytes: {}",
                    self.end,
                    self.buffer.len(),
                    shown(&self.buffer)
                );
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads and drops `count` bytes in constant memory. The patience of this peer holds for each read.
    pub fn skip(&mut self, count: u64) -> Result<()> {
        self.take_each(count, |_| Ok(()))
    }

    /// Hands the next `count` bytes to `each` as they come, in constant memory. The patience of this peer holds for each
    /// read.
    pub fn take_each(&mut self, count: u64, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let buffered = usize::try_from(count).unwrap_or(usize::MAX).min(self.buffer.len());
        let mut left = count - buffered as u64;
        each(&self.buffer[..buffered])?;
        self.buffer.drain(..buffered);
        let mut memory = vec![0; READ_BYTES];
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(memory.len());
            let filled = match self.end {
                None => self.read(&mut memory[..room], Instant::now() + self.patience)?,
                Some(_) => 0,
            };
            if filled == 0 {
                bail!("the connection ended ({:?}), {left} of {count} bytes missing", self.end);
            }
            each(&memory[..filled])?;
            left -= filled as u64;
        }
        Ok(())
    }

    /// The bytes up to and with the next `mark`.
    pub fn take_through(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        let deadline = Instant::now() + self.patience;
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].windows(mark.len()).position(|window| window == mark) {
                return Ok(self.buffer.drain(..from + at + mark.len()).collect());
            }
            from = self.buffer.len().saturating_sub(mark.len() - 1);
            if !self.fill_until(deadline)? {
                bail!("the connection ended ({:?}) before {}; so far: {}", self.end, shown(mark), shown(&self.buffer));
            }
        }
    }

    /// Everything until the connection ends, and how it ended.
    pub fn rest(&mut self) -> Result<(Vec<u8>, End)> {
        while self.fill()? {}
        let end = self.end.context("the connection has not ended")?;
        Ok((std::mem::take(&mut self.buffer), end))
    }

    /// Waits for the end of the connection; more bytes before it are an error.
    pub fn finish(&mut self) -> Result<End> {
        let (rest, end) = self.rest()?;
        if !rest.is_empty() {
            bail!("more came before the end ({end:?}): {}", shown(&rest));
        }
        Ok(end)
    }
}

fn read_tls(tls: &mut Connection, mut socket: &Socket, piece: &mut [u8]) -> io::Result<usize> {
    match tls {
        Connection::Client(client) => rustls::Stream::new(client, &mut socket).read(piece),
        Connection::Server(server) => rustls::Stream::new(server, &mut socket).read(piece),
    }
}

fn write_tls(tls: &mut Connection, mut socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    match tls {
        Connection::Client(client) => rustls::Stream::new(client, &mut socket).write_all(bytes),
        Connection::Server(server) => rustls::Stream::new(server, &mut socket).write_all(bytes),
    }
}

fn reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

/// Bytes as text a person can compare: escaped, and cut when long.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 2000;
    if bytes.len() <= SHOWN_MAX {
        return format!("`{}`", bytes.escape_ascii());
    }
    format!("`{}` and {} bytes more", bytes[..SHOWN_MAX].escape_ascii(), bytes.len() - SHOWN_MAX)
}
