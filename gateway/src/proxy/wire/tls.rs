//! The record layer between a socket's halves and what is said over them (RFC 8446 §5), by rustls.
//!
//! Both halves share one [`Session`], since either may have to say something: a request to change keys that is read is
//! answered by a record. The writing half sends and may wait; the reading half never waits for the peer to take anything,
//! and sends only what the kernel takes at once while the writing half is not in the middle of a record. No borrow of the
//! session is held over an await.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead as _, ErrorKind, Write};
use std::rc::Rc;

use rustls::server::{AcceptedAlert, Acceptor};
use rustls::{Connection, HandshakeKind, ProtocolVersion, ServerConnection};

use super::Halt;
use crate::rt::{Buf, Reader, Writer};
use crate::tls::{Agreed, ClientCertificate, NoAgreement, Policy, Scope, ServerTls, Service};

/// What is asked of the kernel at once: a record of the largest kind and its header, and some more.
const READ_BYTES: usize = 20 * 1024;

/// One TLS connection, as either side.
pub(super) struct Session {
    connection: RefCell<Connection>,
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
    /// Which clients it stands for.
    pub scope: Scope,
    /// Who the client is, if it showed that.
    pub client: Option<Rc<ClientCertificate>>,
}

/// Why there is no handshake.
#[derive(Debug)]
pub enum NoHandshake {
    /// The socket, or a deadline.
    Halted(Halt),
    /// What the client says is no TLS, or none that we speak.
    Tls(rustls::Error),
    /// The client has no certificate, or none that is let in.
    Certificate(rustls::Error),
    /// It begins as a request does.
    Plain,
}

impl From<rustls::Error> for NoHandshake {
    fn from(error: rustls::Error) -> NoHandshake {
        match error {
            rustls::Error::NoCertificatesPresented
            | rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidCertRevocationList(_) => NoHandshake::Certificate(error),
            error => NoHandshake::Tls(error),
        }
    }
}

impl From<io::Error> for NoHandshake {
    fn from(error: io::Error) -> NoHandshake {
        NoHandshake::Halted(Halt::Broken(error))
    }
}

impl Session {
    fn new(connection: impl std::convert::Into<Connection>, received: Option<Buf>) -> Session {
        Session {
            connection: RefCell::new(connection.into()),
            received: RefCell::new(received),
            unsent: RefCell::default(),
            sending: Cell::new(false),
        }
    }

    /// From the first byte until both sides have finished and everything we have to say is sent. `received`: what came already.
    pub(super) async fn accept(
        tls: &ServerTls,
        received: Option<Buf>,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(Session, Handshake), NoHandshake> {
        let first = first_bytes(received, reader).await?;
        let (session, policy) = match tls.only_policy() {
            Some(policy) => {
                let connection = ServerConnection::new(policy.config.clone())?;
                (Session::new(connection, Some(first)), policy)
            }
            None => Session::by_name(tls, first, reader).await?,
        };
        session.shake_hands(reader, writer).await?;
        let handshake = session.handshake(tls, policy)?;
        Ok((session, handshake))
    }

    /// The same as the client, with a service that must be who it is to be. `http1`: nothing else is offered. What is agreed
    /// on is returned; nothing but that was sent.
    pub(super) async fn connect(
        service: &Service,
        http1: bool,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(Session, Agreed), NoAgreement> {
        let session = Session::new(service.begin(http1)?, None);
        match session.shake_hands(reader, writer).await {
            Ok(()) => {}
            Err(NoHandshake::Halted(Halt::Broken(error))) => return Err(NoAgreement::broken(&error)),
            Err(NoHandshake::Halted(_) | NoHandshake::Plain) => return Err(NoAgreement::closed()),
            Err(NoHandshake::Tls(error) | NoHandshake::Certificate(error)) => return Err(NoAgreement::of(&error)),
        }
        let agreed = service.agreed(&session.connection.borrow());
        match agreed {
            Ok(agreed) => Ok((session, agreed)),
            Err(error) => {
                session.say_end(reader);
                Err(error)
            }
        }
    }

    /// Reads what the client begins with, and goes on under the policy of the name it asks for.
    async fn by_name<'t>(
        tls: &'t ServerTls,
        first: Buf,
        reader: &mut Reader,
    ) -> Result<(Session, &'t Policy), NoHandshake> {
        let mut acceptor = Acceptor::default();
        let mut buf = first;
        let accepted = loop {
            let mut bytes = buf.bytes();
            match acceptor.read_tls(&mut bytes) {
                Ok(count) if count > 0 => buf.advance(count),
                _ => return Err(fits_nowhere().into()),
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => break accepted,
                Ok(None) if buf.is_empty() => buf = some_bytes(reader).await?,
                Ok(None) => {}
                Err((error, alert)) => return Err(refused(error, alert, reader)),
            }
        };
        let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
        let policy = tls.policy(name.as_deref().unwrap_or_default());
        let connection = accepted.into_connection(policy.config.clone());
        let connection = connection.map_err(|(error, alert)| refused(error, alert, reader))?;
        let session = Session::new(connection, (!buf.is_empty()).then_some(buf));
        // What came behind its first message may be in the connection already, and nothing else may come.
        let processed = session.connection.borrow_mut().process_new_packets().map(drop);
        if let Err(error) = processed {
            session.send_now(reader);
            return Err(error.into());
        }
        Ok((session, policy))
    }

    async fn shake_hands(&self, reader: &mut Reader, writer: &mut Writer) -> Result<(), NoHandshake> {
        loop {
            if let Err(error) = self.decipher() {
                self.send_now(reader);
                return Err(error.into());
            }
            self.flush(writer).await?;
            if !self.connection.borrow().is_handshaking() {
                return Ok(());
            }
            *self.received.borrow_mut() = Some(some_bytes(reader).await?);
        }
    }

    /// What came of it.
    fn handshake(&self, tls: &ServerTls, policy: &Policy) -> Result<Handshake, NoHandshake> {
        let connection = self.connection.borrow();
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let server_name = match &*connection {
            Connection::Server(server) => server.server_name().map(str::to_ascii_lowercase),
            Connection::Client(_) => None,
        };
        let by = tls.uri(server_name.as_deref());
        let client = policy.identify(connection.peer_certificates(), resumed, by)?;
        Ok(Handshake {
            server_name: server_name.map(String::into),
            is_13: connection.protocol_version() == Some(ProtocolVersion::TLSv1_3),
            resumed,
            http2: connection.alpn_protocol() == Some(b"h2"),
            scope: policy.scope,
            client,
        })
    }

    /// Whether something can be read without the peer sending more. It may turn out to be the end.
    pub(super) fn has_received(&self) -> bool {
        match self.connection.borrow_mut().reader().fill_buf() {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::WouldBlock || self.received.borrow().is_some(),
        }
    }

    /// Whether nothing is here that was not read, and the peer has not ended: what came is looked at, the socket is not.
    pub(super) fn is_quiet(&self) -> bool {
        if self.decipher().is_err() {
            return false;
        }
        let mut connection = self.connection.borrow_mut();
        // The end is something to read as well.
        matches!(connection.reader().fill_buf(), Err(error) if error.kind() == ErrorKind::WouldBlock)
            && self.received.borrow().is_none()
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
                _ => return Err(fits_nowhere()),
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

/// Tells the client why there is no handshake, before there is a connection.
fn refused(error: rustls::Error, mut alert: AcceptedAlert, reader: &Reader) -> NoHandshake {
    let mut into = Into(Buf::take());
    if alert.write_all(&mut into).is_ok() {
        // An alert that is not heard changes nothing.
        let _ = reader.send_now(into.0.bytes());
    }
    error.into()
}

/// The next bytes of a handshake.
async fn some_bytes(reader: &mut Reader) -> Result<Buf, NoHandshake> {
    // Without a buffer: who begins and says no more holds nothing.
    reader.readable().await?;
    let (result, buf) = reader.read_up_to(Buf::take(), READ_BYTES).await;
    match result? {
        0 => Err(NoHandshake::Halted(Halt::Closed)),
        _ => Ok(buf),
    }
}

/// The first ones, which may have come already.
async fn first_bytes(received: Option<Buf>, reader: &mut Reader) -> Result<Buf, NoHandshake> {
    let buf = match received {
        Some(buf) => buf,
        None => some_bytes(reader).await?,
    };
    // A record begins with its type, 20 to 24; a method with a letter.
    let is_request = buf.bytes().first().is_some_and(u8::is_ascii_uppercase);
    if is_request { Err(NoHandshake::Plain) } else { Ok(buf) }
}

fn fits_nowhere() -> rustls::Error {
    rustls::Error::General("a record that fits nowhere".to_owned())
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
