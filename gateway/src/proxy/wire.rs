//! What bytes travel on, below HTTP/1 and HTTP/2: one owned-buffer interface, a deadline with every wait.
//!
//! Plain sockets today. TLS is another variant of the two halves; nothing above looks inside.

use bytes::Bytes;

use crate::rt::deadline::{Cause, Remote, now_us};
use crate::rt::{Buf, Reader, Socket, Writer};

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
pub enum WireReader {
    Plain(Reader),
}

/// The sending half.
pub enum WireWriter {
    Plain(Writer),
}

impl Wire {
    pub fn plain(socket: Socket) -> Wire {
        Wire { reader: WireReader::Plain(socket.reader), writer: WireWriter::Plain(socket.writer) }
    }

    pub fn fd(&self) -> std::os::fd::RawFd {
        self.reader.fd()
    }

    /// Whether a pooled connection can still be used. A system call.
    pub fn is_quiet(&self) -> bool {
        let WireReader::Plain(reader) = &self.reader;
        reader.is_quiet()
    }
}

impl WireReader {
    pub fn fd(&self) -> std::os::fd::RawFd {
        let WireReader::Plain(reader) = self;
        reader.fd()
    }

    /// Waits for something to read without holding a buffer.
    pub async fn readable(&mut self, wait: Wait) -> Result<(), Halt> {
        self.arm(wait);
        self.readable_armed().await
    }

    /// Waits for something to read without holding a buffer, under the deadline set by `arm`.
    pub async fn readable_armed(&mut self) -> Result<(), Halt> {
        let WireReader::Plain(reader) = self;
        let result = reader.readable().await;
        match reader.watch().fired() {
            Some(cause) => Err(Halt::Expired(cause)),
            None => result.map_err(Halt::Broken),
        }
    }

    /// Ends the connection by a reset, so that nobody takes a broken message for a whole one.
    pub fn reset(&self) {
        let WireReader::Plain(reader) = self;
        reader.reset();
    }

    /// Sets the deadline of the reads that follow, all of them together.
    pub fn arm(&self, wait: Wait) {
        let WireReader::Plain(reader) = self;
        reader.watch().arm(wait.ms, wait.cause);
    }

    /// Sets the deadline of a read that is under way already. Used while the half lives.
    pub fn remote(&self) -> Remote {
        let WireReader::Plain(reader) = self;
        reader.watch().remote()
    }

    /// What the deadline that is set stands for from now on.
    pub fn rename(&self, cause: Cause) {
        let WireReader::Plain(reader) = self;
        reader.watch().rename(cause);
    }

    pub fn disarm(&self) {
        let WireReader::Plain(reader) = self;
        reader.watch().disarm();
    }

    /// Reads at most `limit` bytes behind the window of `buf`, under the deadline set by `arm`. `Ok`: at least one byte.
    pub async fn read_armed(&mut self, buf: Buf, limit: usize) -> (Result<usize, Halt>, Buf) {
        let WireReader::Plain(reader) = self;
        let (result, buf) = reader.read_up_to(buf, limit).await;
        let result = match result {
            Ok(0) => Err(match reader.watch().fired() {
                Some(cause) => Halt::Expired(cause),
                None => Halt::Closed,
            }),
            Ok(n) => Ok(n),
            Err(error) => Err(match reader.watch().fired() {
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
    /// Sends all of `chunk`.
    pub async fn write(&mut self, chunk: Chunk, wait: Wait) -> Result<(), Halt> {
        let WireWriter::Plain(writer) = self;
        writer.watch().arm(wait.ms, wait.cause);
        let result = match chunk {
            Chunk::Pooled(buf) => writer.write_all(buf).await,
            Chunk::Shared(bytes) => writer.write_all_bytes(bytes).await,
        };
        writer.watch().disarm();
        result.map_err(|error| match writer.watch().fired() {
            Some(cause) => Halt::Expired(cause),
            None => Halt::Broken(error),
        })
    }

    /// Tells the peer that nothing more comes.
    pub async fn shutdown(&mut self) {
        let WireWriter::Plain(writer) = self;
        // A peer that is gone already needs no telling.
        let _ = writer.shutdown().await;
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
