//! A stream of bytes that its library has, and whoever looks after the connection beside it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use crate::rt::deadline::Remote;

/// One of several handles of a [`Stream`].
#[derive(Clone)]
pub struct StreamHandle {
    shared: Rc<Shared>,
}

struct Shared {
    stream: RefCell<Stream>,
    received: Cell<u64>,
}

impl StreamHandle {
    pub fn new(stream: Stream) -> StreamHandle {
        StreamHandle { shared: Rc::new(Shared { stream: RefCell::new(stream), received: Cell::new(0) }) }
    }

    /// Bytes that were received and taken.
    pub fn received(&self) -> u64 {
        self.shared.received.get()
    }

    /// As [`Stream::reader_remote`].
    pub fn reader_remote(&self) -> Remote {
        self.shared.stream.borrow().reader_remote()
    }

    /// As [`Stream::poll_skip`].
    pub fn poll_skip(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.shared.stream.borrow_mut().poll_skip(cx)
    }

    /// As [`Stream::is_writing`].
    pub fn is_writing(&self) -> bool {
        self.shared.stream.borrow().is_writing()
    }
}

impl AsyncRead for StreamHandle {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut *self.shared.stream.borrow_mut()).poll_read(cx, into))?;
        let came = into.filled().len() - before;
        self.shared.received.set(self.shared.received.get() + came as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamHandle {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_shutdown(cx)
    }
}
