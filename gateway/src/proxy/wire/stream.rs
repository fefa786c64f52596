//! A connection as what poll-based libraries (h2) take: `tokio::io::AsyncRead` and `AsyncWrite`, nothing else of tokio.
//!
//! Such a library lends a slice for the length of a call; the ring wants a buffer of its own until the kernel is done. So
//! each direction has one pooled [`Buf`] between the two, and one future that owns its half of the connection. Nothing here
//! wakes its own task: whoever is told to wait has an operation in the ring, and every operation goes through it once,
//! so a task that never lacks work still gives the others their turn.
//!
//! Dropped, a stream closes its connection, and what was under way is lost with it.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Chunk, Halt, Wait, Wire, WireReader, WireWriter};
use crate::rt::deadline::Remote;
use crate::rt::{Buf, Lane};

/// A connection. Each direction may be polled by a task of its own.
///
/// A direction that ended or failed stays so: reading goes on to say that nothing comes, and an error, told as it is
/// once, is told by its kind from then on. A deadline that ended a wait is `TimedOut`; [`Remote::fired`] says for what.
pub struct Stream {
    inward: Inward,
    outward: Outward,
}

impl Stream {
    /// `carry`: what was received already. `wait`: how long the peer may take nothing; past it both directions end, as nothing
    /// can be said to a peer that takes nothing.
    pub fn new(wire: Wire, carry: Option<Buf>, wait: Wait) -> Stream {
        let Wire { reader, writer } = wire;
        let (remote, writer_remote) = (reader.remote(), writer.remote());
        let receive = async move |reader: &mut WireReader, ()| receive(reader, writer_remote).await;
        let send = async move |writer: &mut WireWriter, job| send(writer, job, wait).await;
        let unread = carry.filter(|carry| !carry.is_empty());
        Stream {
            inward: Inward { lane: Lane::new(reader, receive), remote, unread, ended: None },
            outward: Outward { lane: Lane::new(writer, send), unsent: None, ended: None },
        }
    }

    /// The deadline of the reads that follow and of the one that waits. Used while the stream lives.
    pub fn reader_remote(&self) -> Remote {
        self.inward.remote
    }

    /// Bytes are on their way to the peer, or wait to be: how long they may is watched with them.
    pub fn is_writing(&self) -> bool {
        self.outward.lane.is_busy() || self.outward.unsent.is_some()
    }

    /// Takes what comes next and drops it: how many bytes, 0 at the end.
    pub fn poll_skip(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inward.poll_take(cx).map_ok(|received| received.map_or(0, |received| received.len()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inward.poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().outward.poll_gather(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().outward.poll_gather(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().outward.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().outward.poll_shutdown(cx)
    }
}

/// How a direction ended: in order, or by an error of this kind.
type Ended = Result<(), ErrorKind>;

/// What comes from the peer.
struct Inward {
    lane: Lane<(), io::Result<Option<Buf>>>,
    remote: Remote,
    /// Received and not taken yet. Never empty.
    unread: Option<Buf>,
    ended: Option<Ended>,
}

impl Inward {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // No bytes would mean the end, so a caller without room is not made to wait for any.
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let Some(mut buf) = ready!(self.poll_take(cx))? else { return Poll::Ready(Ok(())) };
        let count = buf.len().min(into.remaining());
        into.put_slice(&buf.bytes()[..count]);
        buf.advance(count);
        // A buffer that was emptied goes back now: the next wait may be long.
        self.unread = (!buf.is_empty()).then_some(buf);
        Poll::Ready(Ok(()))
    }

    /// What was received and not taken. `None`: the peer ended its side.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        match self.unread.take() {
            Some(buf) => Poll::Ready(Ok(Some(buf))),
            None => self.poll_receive(cx),
        }
    }

    /// `None`: the peer ended its side.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        if let Some(ended) = self.ended {
            return Poll::Ready(ended.map(|()| None).map_err(io::Error::from));
        }
        if !self.lane.is_busy() {
            self.lane.start(());
        }
        let result = ready!(self.lane.poll(cx));
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.ended = Some(Ok(())),
            Err(error) => self.ended = Some(Err(error.kind())),
        }
        Poll::Ready(result)
    }
}

/// What goes to the peer.
struct Outward {
    lane: Lane<Job, io::Result<()>>,
    /// Accepted and not on its way yet. Neither empty nor full.
    unsent: Option<Buf>,
    ended: Option<Ended>,
}

/// What the writing half is told to do.
enum Job {
    Send(Buf),
    Shutdown,
}

impl Outward {
    /// Accepts what fits into one buffer. A full one leaves at once, any other when it is flushed.
    fn poll_gather(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_done(cx))?;
        if self.ended.is_some() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let mut buf = self.unsent.take().unwrap_or_else(Buf::take);
        let before = buf.len();
        for piece in pieces {
            let fits = buf.append(&piece[..piece.len().min(buf.room())]);
            debug_assert!(fits, "no more than the room was added");
        }
        let accepted = buf.len() - before;
        if buf.room() > 0 {
            self.unsent = Some(buf);
        } else {
            self.lane.start(Job::Send(buf));
            // This call has accepted its bytes, so what became of the others is told by the next one.
            let _ = self.poll_done(cx);
        }
        Poll::Ready(Ok(accepted))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_done(cx))?;
        if let Some(buf) = self.unsent.take() {
            self.lane.start(Job::Send(buf));
        }
        self.poll_done(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        if self.ended.is_none() {
            self.ended = Some(Ok(()));
            self.lane.start(Job::Shutdown);
        }
        self.poll_done(cx)
    }

    /// Waits for what is under way, if anything is.
    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(Err(kind)) = self.ended {
            return Poll::Ready(Err(kind.into()));
        }
        if !self.lane.is_busy() {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.lane.poll(cx));
        if let Err(error) = &result {
            self.ended = Some(Err(error.kind()));
        }
        Poll::Ready(result)
    }
}

/// Waits without a buffer, then reads. `None`: the peer ended its side.
async fn receive(reader: &mut WireReader, writer: Remote) -> io::Result<Option<Buf>> {
    // The writer's deadline ends this direction, too. What it ends must not look like an end the peer meant.
    let halt = match reader.readable_armed().await {
        Ok(()) if writer.fired().is_none() => match reader.read_armed(Buf::take(), usize::MAX).await {
            (Ok(_), buf) => return Ok(Some(buf)),
            (Err(halt), _) => halt,
        },
        Ok(()) => Halt::Closed,
        Err(halt) => halt,
    };
    match halt {
        _ if writer.fired().is_some() => Err(ErrorKind::TimedOut.into()),
        Halt::Closed => Ok(None),
        halt => Err(error_of(halt)),
    }
}

async fn send(writer: &mut WireWriter, job: Job, wait: Wait) -> io::Result<()> {
    match job {
        Job::Send(buf) => writer.write(Chunk::Pooled(buf), wait).await.map_err(error_of),
        Job::Shutdown => {
            writer.shutdown().await;
            Ok(())
        }
    }
}

fn error_of(halt: Halt) -> io::Error {
    match halt {
        Halt::Broken(error) => error,
        Halt::Expired(_) => ErrorKind::TimedOut.into(),
        Halt::Closed | Halt::Slow => ErrorKind::ConnectionAborted.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::limits::BUFFER_BYTES;
    use crate::rt::deadline::{self, Cause};
    use crate::rt::{RingFlags, Socket, buffers_live, run, spawn, yield_now};

    /// More than the kernel queues on a socket pair.
    const MUCH: usize = 4 * 1024 * 1024;

    fn on_ring<F: Future>(task: F) -> F::Output {
        run(RingFlags::probe().expect("io_uring"), 64, task).expect("ring")
    }

    fn stream(fd: impl Into<std::os::fd::OwnedFd>) -> Stream {
        patient(fd, 60_000)
    }

    /// A stream whose peer may take nothing for so long.
    fn patient(fd: impl Into<std::os::fd::OwnedFd>, ms: u64) -> Stream {
        let wire = Wire::plain(Socket::from_fd(fd.into()).expect("an open socket"));
        Stream::new(wire, None, Wait { ms, cause: Cause::Write })
    }

    /// A stream, and the other end as a blocking socket for another thread. Its waits end the test, not the day.
    fn with_peer() -> (UnixStream, UnixStream) {
        let (end, peer) = UnixStream::pair().expect("pair");
        peer.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        peer.set_write_timeout(Some(Duration::from_secs(20))).expect("timeout");
        (end, peer)
    }

    fn tcp_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (listener.accept().expect("accept").0, peer)
    }

    /// Bytes in which every piece shows where it belongs.
    fn body(bytes: usize) -> Vec<u8> {
        (0..bytes.div_ceil(4) as u32)
            .flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes())
            .take(bytes)
            .collect()
    }

    /// Sweeps as a worker does until `fired`, which a deadline within reach makes true.
    async fn sweep_until(fired: impl Fn() -> bool) {
        while !fired() {
            deadline::sweep().await;
            yield_now().await;
        }
    }

    /// A waker that counts.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        on_ring(async {
            let (near, far) = UnixStream::pair().expect("pair");
            let (mut near, mut far) = (stream(near), stream(far));
            for bytes in [1, 2, 1023, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES, 1_000_003] {
                let sent = body(bytes);
                let mut back = vec![0; bytes];
                let (mut reading, mut writing) = tokio::io::split(&mut near);
                let echo = async {
                    let mut got = vec![0; bytes];
                    far.read_exact(&mut got).await.expect("read");
                    far.write_all(&got).await.expect("write");
                    far.flush().await.expect("flush");
                };
                let write = async {
                    writing.write_all(&sent).await.expect("write");
                    writing.flush().await.expect("flush");
                };
                let (_, _, read) = tokio::join!(echo, write, reading.read_exact(&mut back));
                read.expect("read");
                assert!(back == sent, "{bytes} bytes came back changed");
            }
            assert_eq!(buffers_live(), 0, "nothing is held between messages");
        });
    }

    #[test]
    fn a_write_takes_no_more_than_a_buffer() {
        on_ring(async {
            let (near, _far) = UnixStream::pair().expect("pair");
            let mut near = stream(near);
            let bytes = body(2 * BUFFER_BYTES);
            assert_eq!(near.write(&bytes[..BUFFER_BYTES - 1]).await.expect("write"), BUFFER_BYTES - 1);
            assert_eq!(near.write(&bytes).await.expect("write"), 1);
            assert_eq!(near.write(&bytes).await.expect("write"), BUFFER_BYTES);
            assert_eq!(near.write(&[]).await.expect("write"), 0);
        });
    }

    #[test]
    fn pieces_are_gathered_up_to_the_room() {
        let (near, mut far) = with_peer();
        let bytes = body(BUFFER_BYTES);
        let written = on_ring({
            let bytes = bytes.clone();
            async move {
                let mut near = stream(near);
                assert!(near.is_write_vectored());
                let pieces = [&bytes[..3], &[], &bytes[3..100], &bytes[100..], b"too much"].map(IoSlice::new);
                let written = near.write_vectored(&pieces).await.expect("write");
                near.flush().await.expect("flush");
                written
            }
        });
        assert_eq!(written, BUFFER_BYTES);
        let mut got = vec![0; BUFFER_BYTES];
        far.read_exact(&mut got).expect("read");
        assert!(got == bytes);
    }

    #[test]
    fn what_a_read_has_no_room_for_waits_for_the_next() {
        on_ring(async {
            let (near, mut far) = UnixStream::pair().expect("pair");
            let mut near = stream(near);
            far.write_all(b"0123456789").expect("write");
            let mut got = [0; 4];
            for expected in [&b"0123"[..], b"4567", b"89"] {
                let count = near.read(&mut got).await.expect("read");
                assert_eq!(&got[..count], expected);
            }
            assert_eq!(near.read(&mut []).await.expect("no room is no wait"), 0);
            assert_eq!(buffers_live(), 0);
        });
    }

    #[test]
    fn a_full_buffer_leaves_at_once() {
        let (near, far) = with_peer();
        far.set_nonblocking(true).expect("nonblocking");
        on_ring(async {
            let mut near = stream(near);
            near.write_all(&body(BUFFER_BYTES)).await.expect("write");
            yield_now().await;
            assert!((&far).read(&mut [0; 8]).expect("it was sent") > 0);
        });
    }

    #[test]
    fn bytes_leave_when_they_are_flushed() {
        let (near, far) = with_peer();
        far.set_nonblocking(true).expect("nonblocking");
        on_ring(async {
            let mut near = stream(near);
            near.write_all(b"head").await.expect("write");
            yield_now().await;
            assert_eq!((&far).read(&mut [0; 8]).expect_err("nothing").kind(), ErrorKind::WouldBlock);
            near.write_all(b"body").await.expect("write");
            near.flush().await.expect("flush");
            let mut got = [0; 16];
            assert_eq!((&far).read(&mut got).expect("one write"), 8);
            assert_eq!(&got[..8], b"headbody");
        });
    }

    #[test]
    fn an_end_stays_an_end() {
        on_ring(async {
            let (near, mut far) = UnixStream::pair().expect("pair");
            let mut near = stream(near);
            far.write_all(b"last").expect("write");
            drop(far);
            let mut got = Vec::new();
            assert_eq!(near.read_to_end(&mut got).await.expect("read"), 4);
            assert_eq!(got, b"last");
            // The socket is not asked again.
            let again =
                Pin::new(&mut near).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut [0]));
            assert!(matches!(again, Poll::Ready(Ok(()))));
        });
    }

    #[test]
    fn shutdown_sends_what_was_written_and_leaves_reading() {
        let (near, mut far) = with_peer();
        let peer = std::thread::spawn(move || {
            let mut got = Vec::new();
            far.read_to_end(&mut got).expect("an end in order");
            far.write_all(&got).expect("write");
        });
        on_ring(async {
            let mut near = stream(near);
            near.write_all(b"all").await.expect("write");
            near.shutdown().await.expect("shutdown");
            near.shutdown().await.expect("a second one changes nothing");
            assert_eq!(near.write(b"more").await.expect_err("closed").kind(), ErrorKind::BrokenPipe);
            let mut got = Vec::new();
            near.read_to_end(&mut got).await.expect("read");
            assert_eq!(got, b"all");
        });
        peer.join().expect("peer");
    }

    #[test]
    fn a_reset_is_told_both_ways_and_stays() {
        on_ring(async {
            let (near, far) = tcp_pair();
            let mut near = stream(near);
            socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).expect("linger");
            drop(far);
            let error = near.read(&mut [0; 8]).await.expect_err("reset");
            assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
            assert_eq!(near.read(&mut [0; 8]).await.expect_err("still").kind(), ErrorKind::ConnectionReset);
            near.write_all(b"accepted, not sent").await.expect("write");
            assert_eq!(near.flush().await.expect_err("gone").kind(), ErrorKind::BrokenPipe);
            assert_eq!(near.write(b"x").await.expect_err("still").kind(), ErrorKind::BrokenPipe);
            assert_eq!(near.shutdown().await.expect_err("still").kind(), ErrorKind::BrokenPipe);
            assert_eq!(buffers_live(), 0);
        });
    }

    #[test]
    fn a_failed_write_of_a_full_buffer_is_told_by_the_next_call() {
        on_ring(async {
            let (near, far) = UnixStream::pair().expect("pair");
            let mut near = stream(near);
            drop(far);
            assert_eq!(near.write(&body(BUFFER_BYTES)).await.expect("accepted"), BUFFER_BYTES);
            let error = near.write(b"x").await.expect_err("nobody is there");
            assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
        });
    }

    #[test]
    fn a_read_that_waits_too_long_is_timed_out() {
        let (near, mut far) = with_peer();
        on_ring(async {
            let mut near = stream(near);
            let remote = near.reader_remote();
            remote.arm(1, Cause::Idle);
            let mut got = [0; 8];
            let (read, ()) = tokio::join!(near.read(&mut got), sweep_until(|| remote.fired().is_some()));
            assert_eq!(read.expect_err("expired").kind(), ErrorKind::TimedOut);
            assert_eq!(remote.fired(), Some(Cause::Idle));
            assert_eq!(near.read(&mut got).await.expect_err("still").kind(), ErrorKind::TimedOut);
            near.write_all(b"bye").await.expect("an answer can still go out");
            near.shutdown().await.expect("shutdown");
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).expect("read");
        assert_eq!(got, b"bye");
    }

    #[test]
    fn a_write_that_waits_too_long_ends_both_directions() {
        on_ring(async {
            let (near, _far) = UnixStream::pair().expect("pair");
            let mut near = patient(near, 1);
            let reader_remote = near.reader_remote();
            let (mut reading, mut writing) = tokio::io::split(&mut near);
            let (bytes, mut got, over) = (body(MUCH), [0; 8], std::cell::Cell::new(false));
            let write = async {
                let written = writing.write_all(&bytes).await;
                over.set(true);
                written
            };
            let (read, write, ()) = tokio::join!(reading.read(&mut got), write, sweep_until(|| over.get()));
            assert_eq!(read.expect_err("not an end of the peer's").kind(), ErrorKind::TimedOut);
            assert_eq!(write.expect_err("expired").kind(), ErrorKind::TimedOut);
            assert_eq!(reader_remote.fired(), None);
        });
    }

    #[test]
    fn a_deadline_taken_back_ends_nothing() {
        on_ring(async {
            let (near, far) = UnixStream::pair().expect("pair");
            let mut near = stream(near);
            let (_other, watched) = UnixStream::pair().expect("pair");
            let later = stream(watched);
            near.reader_remote().arm(1, Cause::Idle);
            later.reader_remote().arm(1, Cause::Idle);
            near.reader_remote().disarm();
            sweep_until(|| later.reader_remote().fired().is_some()).await;
            drop(far);
            assert_eq!(near.read(&mut [0; 8]).await.expect("the peer's end"), 0);
        });
    }

    /// The peer writes everything before it reads anything, so our read has to move while our write cannot.
    #[test]
    fn reading_goes_on_while_a_write_waits() {
        let (near, mut far) = with_peer();
        let peer = std::thread::spawn(move || {
            far.write_all(&body(MUCH)).expect("write");
            let mut got = vec![0; MUCH];
            far.read_exact(&mut got).expect("read");
            got
        });
        on_ring(async {
            let mut near = stream(near);
            let (mut reading, mut writing) = tokio::io::split(&mut near);
            let (sent, mut got) = (body(MUCH), vec![0; MUCH]);
            let write = async {
                writing.write_all(&sent).await?;
                writing.flush().await
            };
            let (write, read) = tokio::join!(write, reading.read_exact(&mut got));
            write.expect("write");
            read.expect("read");
            assert!(got == sent);
        });
        assert!(peer.join().expect("peer") == body(MUCH));
    }

    #[test]
    fn a_waiting_read_holds_no_buffer_and_wakes_nobody() {
        on_ring(async {
            let (near, mut far) = UnixStream::pair().expect("pair");
            let mut near = stream(near);
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(Arc::clone(&wakes));
            let mut cx = Context::from_waker(&waker);
            let mut memory = [0; 8];
            for _ in 0..5 {
                assert!(Pin::new(&mut near).poll_read(&mut cx, &mut ReadBuf::new(&mut memory)).is_pending());
                yield_now().await;
            }
            assert_eq!(buffers_live(), 0);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
            far.write_all(b"now").expect("write");
            assert_eq!(near.read(&mut memory).await.expect("read"), 3);
        });
    }

    #[test]
    fn dropped_while_it_waits_a_stream_closes_its_connection() {
        let (near, mut far) = with_peer();
        let (over, told) = UnixStream::pair().expect("pair");
        let peer = std::thread::spawn(move || {
            let mut got = Vec::new();
            far.read_to_end(&mut got).expect("an end");
            drop(told);
            got
        });
        on_ring(async move {
            let mut near = stream(near);
            let bytes = body(MUCH);
            let mut cx = Context::from_waker(Waker::noop());
            let mut memory = [0; 8];
            assert!(Pin::new(&mut near).poll_read(&mut cx, &mut ReadBuf::new(&mut memory)).is_pending());
            assert!(Pin::new(&mut near).poll_write(&mut cx, &bytes).is_ready());
            assert!(Pin::new(&mut near).poll_write(&mut cx, &bytes).is_pending());
            drop(near);
            // The ring has to turn for the kernel to let go of the socket.
            assert_eq!(stream(over).read(&mut memory).await.expect("the peer saw the end"), 0);
            assert_eq!(buffers_live(), 0);
        });
        let got = peer.join().expect("peer");
        assert!(got == body(MUCH)[..got.len()], "what arrived is the beginning of what was written");
    }

    #[test]
    fn a_task_that_always_has_work_leaves_others_their_turn() {
        on_ring(async {
            let (near, far) = UnixStream::pair().expect("pair");
            let (mut near, mut far) = (stream(near), stream(far));
            spawn(async move {
                let piece = body(BUFFER_BYTES);
                while near.write_all(&piece).await.is_ok() {}
            });
            spawn(async move { while far.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {} });
            let (other, mut end) = UnixStream::pair().expect("pair");
            let mut other = stream(other);
            for turn in 0..100u8 {
                end.write_all(&[turn]).expect("write");
                assert_eq!(other.read_u8().await.expect("read"), turn);
            }
        });
    }
}
