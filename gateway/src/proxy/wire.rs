//! What bytes travel on, below HTTP/1 and HTTP/2: one owned-buffer interface, a deadline with every wait.
//!
//! A socket, and on top of it TLS where it was spoken (`tls`); nothing above sees which.

mod handle;
mod stream;
mod tls;

use std::rc::Rc;

use bytes::Bytes;

pub use self::handle::StreamHandle;
pub use self::stream::Stream;
use self::tls::Session;
pub use self::tls::{Handshake, NoHandshake};

use crate::limits::LINGER_MS;
use crate::rt::deadline::{Cause, Remote, now_us};
use crate::rt::{Buf, Reader, Socket, Writer};
use crate::tls::{Agreed, NoAgreement, ServerTls, Service};

/// A piece of a body: in a buffer of this core, or shared and sendable (cache, collapsing).
pub enum Chunk {
    Pooled(Buf),
    Shared(Bytes),
}

impl Chunk {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Pooled(buf) => buf.bytes(),
            Chunk::Shared(bytes) => bytes,
        }
    }

    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The piece as something that other cores may hold: a copy unless it is shared already.
    pub fn into_shared(self) -> Bytes {
        match self {
            Chunk::Pooled(buf) => Bytes::copy_from_slice(buf.bytes()),
            Chunk::Shared(bytes) => bytes,
        }
    }
}

/// Why no more bytes move in a direction.
#[derive(Debug)]
pub enum Halt {
    /// The peer ended its side in order.
    Closed,
    /// The connection broke.
    Broken(std::io::Error),
    /// We ended the wait.
    Expired(Cause),
    /// The peer is slower than the least rate.
    Slow,
}

/// How long one wait may last, and what running out of it means.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// milliseconds
    pub ms: u64,
    pub cause: Cause,
}

/// A connection.
pub struct Wire {
    pub reader: WireReader,
    pub writer: WireWriter,
}

/// The receiving half.
pub struct WireReader {
    socket: Reader,
    tls: Option<Rc<Session>>,
}

/// The sending half.
pub struct WireWriter {
    socket: Writer,
    tls: Option<Rc<Session>>,
}

impl Wire {
    pub fn plain(socket: Socket) -> Wire {
        Wire {
            reader: WireReader { socket: socket.reader, tls: None },
            writer: WireWriter { socket: socket.writer, tls: None },
        }
    }

    /// Makes a fresh connection one that speaks TLS, as the server. `received`: what came of that already, not empty. All of it
    /// takes no longer than `wait`.
    pub async fn accept_tls(
        &mut self,
        tls: &ServerTls,
        received: Option<Buf>,
        wait: Wait,
    ) -> Result<Handshake, NoHandshake> {
        self.reader.arm(wait);
        self.writer.socket.watch().arm(wait.ms, wait.cause);
        let done = Session::accept(tls, received, &mut self.reader.socket, &mut self.writer.socket).await;
        self.reader.disarm();
        self.writer.socket.watch().disarm();
        match done {
            Ok((session, handshake)) => {
                let session = Rc::new(session);
                self.reader.tls = Some(session.clone());
                self.writer.tls = Some(session);
                Ok(handshake)
            }
            Err(error) => Err(match self.fired() {
                Some(cause) => NoHandshake::Halted(Halt::Expired(cause)),
                None => error,
            }),
        }
    }

    /// Makes a fresh connection one that speaks TLS, as the client. `http1`: nothing else is offered to be spoken within. All of
    /// it takes no longer than `wait`, which is then in [`Wire::fired`].
    pub async fn connect_tls(&mut self, service: &Service, http1: bool, wait: Wait) -> Result<Agreed, NoAgreement> {
        self.reader.arm(wait);
        self.writer.socket.watch().arm(wait.ms, wait.cause);
        let done = Session::connect(service, http1, &mut self.reader.socket, &mut self.writer.socket).await;
        self.reader.disarm();
        self.writer.socket.watch().disarm();
        let (session, agreed) = done?;
        let session = Rc::new(session);
        self.reader.tls = Some(session.clone());
        self.writer.tls = Some(session);
        Ok(agreed)
    }

    /// Why the connection was ended by a deadline, if it was.
    pub fn fired(&self) -> Option<Cause> {
        self.reader.socket.watch().fired().or(self.writer.socket.watch().fired())
    }

    pub fn fd(&self) -> std::os::fd::RawFd {
        self.reader.fd()
    }

    /// Whether a pooled connection can still be used. A system call.
    pub fn is_quiet(&self) -> bool {
        self.has_no_rest() && self.reader.socket.is_quiet()
    }

    /// Whether nothing lies here that came behind what was read, not even an end. No system call.
    pub fn has_no_rest(&self) -> bool {
        self.reader.tls.as_ref().is_none_or(|tls| tls.is_quiet())
    }

    /// Says that nothing more comes, as far as that can be said at once. Before a connection is closed that ends in order:
    /// what ends without it may have been cut by somebody else (RFC 8446 §6.1).
    pub fn say_end(&self) {
        if let Some(tls) = &self.reader.tls {
            tls.say_end(&self.reader.socket);
        }
    }
}

impl WireReader {
    pub fn fd(&self) -> std::os::fd::RawFd {
        self.socket.fd()
    }

    /// Waits for something to read without holding a buffer.
    pub async fn readable(&mut self, wait: Wait) -> Result<(), Halt> {
        self.arm(wait);
        self.readable_armed().await
    }

    /// Waits for something to read without holding a buffer, under the deadline set by `arm`.
    pub async fn readable_armed(&mut self) -> Result<(), Halt> {
        if self.tls.as_ref().is_some_and(|tls| tls.has_received()) {
            return Ok(());
        }
        let result = self.socket.readable().await;
        match self.socket.watch().fired() {
            Some(cause) => Err(Halt::Expired(cause)),
            None => result.map_err(Halt::Broken),
        }
    }

    /// Ends the connection by a reset, so that nobody takes a broken message for a whole one.
    pub fn reset(&self) {
        self.socket.reset();
    }

    /// Sets the deadline of the reads that follow, all of them together.
    pub fn arm(&self, wait: Wait) {
        self.socket.watch().arm(wait.ms, wait.cause);
    }

    /// Sets the deadline of a read that is under way already. Used while the half lives.
    pub fn remote(&self) -> Remote {
        self.socket.watch().remote()
    }

    /// What the deadline that is set stands for from now on.
    pub fn rename(&self, cause: Cause) {
        self.socket.watch().rename(cause);
    }

    pub fn disarm(&self) {
        self.socket.watch().disarm();
    }

    /// Reads at most `limit` bytes behind the window of `buf`, under the deadline set by `arm`. `Ok`: at least one byte.
    pub async fn read_armed(&mut self, buf: Buf, limit: usize) -> (Result<usize, Halt>, Buf) {
        let (result, buf) = match &self.tls {
            None => self.socket.read_up_to(buf, limit).await,
            Some(tls) => tls.read(&mut self.socket, buf, limit).await,
        };
        let result = match result {
            Ok(0) => Err(match self.socket.watch().fired() {
                Some(cause) => Halt::Expired(cause),
                None => Halt::Closed,
            }),
            Ok(n) => Ok(n),
            Err(error) => Err(match self.socket.watch().fired() {
                Some(cause) => Halt::Expired(cause),
                None => Halt::Broken(error),
            }),
        };
        (result, buf)
    }

    /// Reads into a fresh buffer. `Ok`: at least one byte.
    pub async fn read(&mut self, wait: Wait) -> Result<Buf, Halt> {
        self.arm(wait);
        let (result, buf) = self.read_armed(Buf::take(), usize::MAX).await;
        self.disarm();
        result.map(|_| buf)
    }
}

impl WireWriter {
    /// The deadline of a write that is under way. Used while the half lives.
    pub fn remote(&self) -> Remote {
        self.socket.watch().remote()
    }

    /// Sends all of `chunk`.
    pub async fn write(&mut self, chunk: Chunk, wait: Wait) -> Result<(), Halt> {
        self.socket.watch().arm(wait.ms, wait.cause);
        let result = match (&self.tls, chunk) {
            (None, Chunk::Pooled(buf)) => self.socket.write_all(buf).await,
            (None, Chunk::Shared(bytes)) => self.socket.write_all_bytes(bytes).await,
            (Some(tls), chunk) => tls.write(&mut self.socket, chunk.bytes()).await,
        };
        self.socket.watch().disarm();
        result.map_err(|error| match self.socket.watch().fired() {
            Some(cause) => Halt::Expired(cause),
            None => Halt::Broken(error),
        })
    }

    /// Tells the peer that nothing more comes.
    pub async fn shutdown(&mut self) {
        if let Some(tls) = &self.tls {
            // Whoever takes nothing need not hear it.
            self.socket.watch().arm(LINGER_MS, Cause::Write);
            tls.end(&mut self.socket).await;
            self.socket.watch().disarm();
        }
        // A peer that is gone already needs no telling.
        let _ = self.socket.shutdown().await;
    }
}

/// Watches how fast a peer moves a body, counting only the time we waited for it: a slow service is not a slow client.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// bytes per second; 0: any rate will do
    rate_min: u64,
    waited_us: u64,
    bytes: u64,
}

impl Pace {
    pub fn new(rate_min: u64) -> Pace {
        Pace { rate_min, waited_us: 0, bytes: 0 }
    }

    /// The clock before a wait; 0 when nobody asks.
    pub fn start(&self) -> u64 {
        if self.rate_min == 0 { 0 } else { now_us() }
    }

    /// Counts a wait that began at `started` and moved `bytes`. `Err`: slower than the least rate, grace over.
    pub fn moved(&mut self, started: u64, bytes: usize) -> Result<(), Halt> {
        if self.rate_min == 0 {
            return Ok(());
        }
        self.waited_us += now_us() - started;
        self.bytes += bytes as u64;
        let beyond_us = self.waited_us.saturating_sub(crate::limits::RATE_GRACE_MS * 1000);
        let slow = beyond_us > 0 && self.bytes < self.rate_min * self.waited_us / 1_000_000;
        if slow { Err(Halt::Slow) } else { Ok(()) }
    }
}
