//! A message on its way out on an HTTP/1 connection: a head that waits to leave together with the first piece of its body,
//! and the framing around every piece. Requests to upstreams and answers to clients alike.

use http1::Field;

use crate::limits::BUFFER_BYTES;
use crate::proxy::forward;
use crate::proxy::wire::{Chunk, Halt, Wait, WireWriter};
use crate::rt::Buf;

const CHUNK_END: &[u8] = b"\r\n";

/// A message being sent.
pub struct Outgoing {
    /// Bytes that leave before the next piece: the head, and chunk lines.
    pending: Vec<u8>,
    chunked: bool,
    /// Bytes of body handed to the connection.
    sent: u64,
    /// Trailer fields that were for the hop before this one.
    hop_trailers: Vec<Box<[u8]>>,
}

impl Outgoing {
    /// A message whose encoded head is `head`.
    pub fn new(head: Vec<u8>, chunked: bool) -> Outgoing {
        Outgoing { pending: head, chunked, sent: 0, hop_trailers: Vec::new() }
    }

    /// Names trailer fields that go no further.
    pub fn withhold_trailers(&mut self, names: Vec<Box<[u8]>>) {
        self.hop_trailers = names;
    }

    /// Bytes of body sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Gives the head's memory back for the next message.
    pub fn into_scratch(self) -> Vec<u8> {
        let mut scratch = self.pending;
        scratch.clear();
        scratch
    }

    /// Sends the head if it has not left yet.
    pub async fn flush(&mut self, writer: &mut WireWriter, wait: Wait) -> Result<(), Halt> {
        while !self.pending.is_empty() {
            let part = self.pending.len().min(BUFFER_BYTES);
            let buf = Buf::copy_of(&self.pending[..part]).expect("a part is no larger than a buffer");
            self.pending.drain(..part);
            writer.write(Chunk::Pooled(buf), wait).await?;
        }
        Ok(())
    }

    /// Sends a piece of the body, with the head in front if that has not left yet.
    pub async fn piece(&mut self, writer: &mut WireWriter, piece: Chunk, wait: Wait) -> Result<(), Halt> {
        self.send(writer, piece, false, wait).await
    }

    /// Sends the last piece, if any, and the body's end: the trailers that may be passed on, where the framing has room for
    /// them.
    pub async fn end(
        &mut self,
        writer: &mut WireWriter,
        piece: Option<Chunk>,
        trailers: Option<(&[u8], &[Field])>,
        wait: Wait,
    ) -> Result<(), Halt> {
        let no_trailers = trailers.is_none_or(|(_, fields)| fields.is_empty());
        match piece {
            Some(piece) if !piece.is_empty() && no_trailers => return self.send(writer, piece, true, wait).await,
            Some(piece) if !piece.is_empty() => self.send(writer, piece, false, wait).await?,
            _ => {}
        }
        if self.chunked {
            let (bytes, fields) = trailers.unwrap_or_default();
            http1::chunked::encode_trailers(&mut self.pending, bytes, fields, |field| {
                let name = field.name.of(bytes);
                forward::is_trailer_allowed(name, field)
                    && !self.hop_trailers.iter().any(|hop| hop.eq_ignore_ascii_case(name))
            });
        }
        self.flush(writer, wait).await
    }

    async fn send(&mut self, writer: &mut WireWriter, piece: Chunk, last: bool, wait: Wait) -> Result<(), Halt> {
        let len = piece.len();
        let mut behind: &[u8] = b"";
        if self.chunked {
            let mut line = [0; 18];
            let n = http1::chunked::encode_chunk_line(len, &mut line);
            self.pending.extend_from_slice(&line[..n]);
            behind = if last { b"\r\n0\r\n\r\n" } else { CHUNK_END };
        }
        self.sent += len as u64;
        let mut buf = match piece {
            Chunk::Pooled(buf) => buf,
            // A small shared piece leaves in one write with what is around it; a large one is not copied.
            Chunk::Shared(bytes) if bytes.len() <= BUFFER_BYTES / 4 => {
                Buf::copy_of(&bytes).expect("it is smaller than a buffer")
            }
            Chunk::Shared(bytes) => {
                self.flush(writer, wait).await?;
                writer.write(Chunk::Shared(bytes), wait).await?;
                self.pending.extend_from_slice(behind);
                return if last { self.flush(writer, wait).await } else { Ok(()) };
            }
        };
        if self.pending.len() <= buf.headroom() {
            let fits = buf.prepend(&self.pending);
            debug_assert!(fits, "headroom was asked for");
            self.pending.clear();
        } else {
            self.flush(writer, wait).await?;
        }
        if buf.append(behind) {
            return writer.write(Chunk::Pooled(buf), wait).await;
        }
        writer.write(Chunk::Pooled(buf), wait).await?;
        self.pending.extend_from_slice(behind);
        if last { self.flush(writer, wait).await } else { Ok(()) }
    }
}
