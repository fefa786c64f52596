//! The record layer between a socket's halves and what is said over them (RFC 8446 §5), by rustls.
//!
//! Both halves share one [`Session`], since either may have to say something: a request to change keys that is read is
//! answered by a record. The writing half sends and may wait; the reading half never waits for the peer to take anything,
//! and sends only what the kernel takes at once while the writing half is not in the middle of a record. No borrow of the
//! session is held over an await.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead as _, ErrorKind, Write};
use std::sync::Arc;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

use super::Halt;
use crate::rt::{Buf, Reader, Writer};

/// What is asked of the kernel at once: a record of the largest kind and its header, and some more.
const READ_BYTES: usize = 20 * 1024;

/// One TLS connection.
pub(super) struct Session {
    connection: RefCell<ServerConnection>,
    /// Received and not deciphered: what came behind a record that has not been read yet.
    received: RefCell<Option<Buf>>,
    /// Records of which the kernel has taken a part already.
    unsent: RefCell<Option<Buf>>,
    /// The writing half sends; whatever else is to be said goes behind that.
    sending: Cell<bool>,
}

/// A handshake that came about.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// The name the client asked for (RFC 6066 §3), lower case.
    pub server_name: Option<Box<str>>,
    /// TLS 1.3, not 1.2.
    pub is_13: bool,
    /// By a ticket of an earlier one.
    pub resumed: bool,
    /// HTTP/2 was agreed on, not HTTP/1.1.
    pub http2: bool,
}

/// Why there is no handshake.
#[derive(Debug)]
pub enum NoHandshake {
    /// The socket, or a deadline.
    Halted(Halt),
    /// What the client says is no TLS, or none that we speak.
    Tls(rustls::Error),
    /// It begins as a request does.
    Plain,
}

impl From<io::Error> for NoHandshake {
    fn from(error: io::Error) -> NoHandshake {
        NoHandshake::Halted(Halt::Broken(error))
    }
}

impl Session {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Session, NoHandshake> {
        let connection = ServerConnection::new(config).map_err(NoHandshake::Tls)?;
        Ok(Session {
            connection: RefCell::new(connection),
            received: RefCell::default(),
            unsent: RefCell::default(),
            sending: Cell::new(false),
        })
    }

    /// From the first byte until both sides have finished and everything we have to say is sent. `received`: what came already.
    pub(super) async fn shake_hands(
        &self,
        mut received: Option<Buf>,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<Handshake, NoHandshake> {
        let mut is_first = true;
        loop {
            self.flush(writer).await?;
            if !self.connection.borrow().is_handshaking() {
                break;
            }
            let buf = match received.take() {
                Some(buf) => buf,
                None => {
                    // Without a buffer: who begins and says no more holds nothing.
                    reader.readable().await?;
                    let (result, buf) = reader.read_up_to(Buf::take(), READ_BYTES).await;
                    if result? == 0 {
                        return Err(NoHandshake::Halted(Halt::Closed));
                    }
                    buf
                }
            };
            // A record begins with its type, 20 to 24; a method with a letter.
            if std::mem::take(&mut is_first) && buf.bytes().first().is_some_and(u8::is_ascii_uppercase) {
                return Err(NoHandshake::Plain);
            }
            *self.received.borrow_mut() = Some(buf);
            if let Err(error) = self.decipher() {
                self.send_now(reader);
                return Err(NoHandshake::Tls(error));
            }
        }
        let connection = self.connection.borrow();
        Ok(Handshake {
            server_name: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
            is_13: connection.protocol_version() == Some(ProtocolVersion::TLSv1_3),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            http2: connection.alpn_protocol() == Some(b"h2"),
        })
    }

    /// Whether something can be read without the peer sending more. It may turn out to be the end.
    pub(super) fn has_received(&self) -> bool {
        match self.connection.borrow_mut().reader().fill_buf() {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::WouldBlock || self.received.borrow().is_some(),
        }
    }

    /// Reads at most `limit` bytes behind the window of `buf`. `Ok(0)`: the peer said that it ends. A socket that ends without
    /// that is an error: somebody else may have cut it.
    pub(super) async fn read(&self, reader: &mut Reader, mut buf: Buf, limit: usize) -> (io::Result<usize>, Buf) {
        loop {
            match self.take_plain(&mut buf, limit) {
                Ok(Some(count)) => return (Ok(count), buf),
                Ok(None) => {}
                Err(error) => return (Err(error), buf),
            }
            if self.received.borrow().is_none() {
                let (result, received) = reader.read_up_to(Buf::take(), READ_BYTES).await;
                match result {
                    Ok(0) => return (Err(ErrorKind::UnexpectedEof.into()), buf),
                    Ok(_) => *self.received.borrow_mut() = Some(received),
                    Err(error) => return (Err(error), buf),
                }
            }
            let deciphered = self.decipher();
            self.send_now(reader);
            if let Err(error) = deciphered {
                return (Err(io::Error::new(ErrorKind::InvalidData, error)), buf);
            }
        }
    }

    /// Sends all of `plain`.
    pub(super) async fn write(&self, writer: &mut Writer, mut plain: &[u8]) -> io::Result<()> {
        while !plain.is_empty() {
            let taken = self.connection.borrow_mut().writer().write(plain)?;
            plain = &plain[taken..];
            self.flush(writer).await?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub(super) async fn end(&self, writer: &mut Writer) {
        self.connection.borrow_mut().send_close_notify();
        // A peer that is gone already needs no telling.
        let _ = self.flush(writer).await;
    }

    /// Says that nothing more comes, if the kernel takes it at once.
    pub(super) fn say_end(&self, reader: &Reader) {
        self.connection.borrow_mut().send_close_notify();
        self.send_now(reader);
    }

    /// Deciphers what was received until there is something to read or nothing left.
    fn decipher(&self) -> Result<(), rustls::Error> {
        let mut received = self.received.borrow_mut();
        let mut connection = self.connection.borrow_mut();
        while let Some(buf) = &mut *received {
            let mut bytes = buf.bytes();
            match connection.read_tls(&mut bytes) {
                Ok(count) if count > 0 => buf.advance(count),
                // What is to be read is read before more is deciphered, so there is room.
                _ => return Err(rustls::Error::General("a record that fits nowhere".to_owned())),
            }
            if buf.is_empty() {
                *received = None;
            }
            let state = connection.process_new_packets()?;
            if state.peer_has_closed() {
                // What comes behind its end is nothing (RFC 8446 §6.1).
                *received = None;
            }
            if state.plaintext_bytes_to_read() > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Moves what was deciphered. `None`: nothing was; `Some(0)`: the peer has ended.
    fn take_plain(&self, buf: &mut Buf, limit: usize) -> io::Result<Option<usize>> {
        let mut connection = self.connection.borrow_mut();
        let mut reader = connection.reader();
        let plain = match reader.fill_buf() {
            Ok(plain) => plain,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let count = plain.len().min(limit).min(buf.room());
        let fits = buf.append(&plain[..count]);
        debug_assert!(fits, "no more than the room was added");
        reader.consume(count);
        Ok(Some(count))
    }

    /// Sends every record there is.
    async fn flush(&self, writer: &mut Writer) -> io::Result<()> {
        // A send that failed, or that nobody waited for any more, has left half a record behind: nothing may follow it.
        if self.sending.replace(true) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        while let Some(records) = self.records() {
            writer.write_all(records).await?;
        }
        self.sending.set(false);
        Ok(())
    }

    /// Sends what the kernel takes at once, unless that would be in the middle of a record.
    fn send_now(&self, reader: &Reader) {
        if self.sending.get() {
            return;
        }
        while let Some(mut records) = self.records() {
            match reader.send_now(records.bytes()) {
                Ok(count) if count == records.len() => {}
                Ok(count) => {
                    records.advance(count);
                    *self.unsent.borrow_mut() = Some(records);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    *self.unsent.borrow_mut() = Some(records);
                    return;
                }
                // A record is lost; the next read or write says why.
                Err(_) => {
                    self.sending.set(true);
                    return;
                }
            }
        }
    }

    /// The next bytes to send.
    fn records(&self) -> Option<Buf> {
        if let Some(unsent) = self.unsent.borrow_mut().take() {
            return Some(unsent);
        }
        let mut connection = self.connection.borrow_mut();
        if !connection.wants_write() {
            return None;
        }
        let mut into = Into(Buf::take());
        while connection.wants_write() && into.0.room() > 0 {
            // A buffer takes what fits into it.
            if connection.write_tls(&mut into).is_err() {
                break;
            }
        }
        (!into.0.is_empty()).then_some(into.0)
    }
}

/// A buffer as what bytes are written into.
struct Into(Buf);

impl Write for Into {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.0.room());
        let fits = self.0.append(&bytes[..count]);
        debug_assert!(fits, "no more than the room was added");
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
