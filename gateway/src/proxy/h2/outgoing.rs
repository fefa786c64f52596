//! The body of a message on its way out on a stream, as much at a time as windows and our memory take. Requests to services
//! and answers to clients alike. No borrow of the stream is held over an await.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::SendStream;

use crate::proxy::wire::{Halt, Pace, Wait};
use crate::rt::deadline::Guard;
use crate::rt::{Either, select};

/// Sends all of `bytes`. `guard`: for the wait for room, each at most `wait`, if it is to be ended from elsewhere; `moved`: told how
/// many bytes left each time.
pub async fn data(
    stream: &RefCell<Option<SendStream<Bytes>>>,
    mut bytes: Bytes,
    last: bool,
    guard: Option<&Guard>,
    wait: Wait,
    pace: &mut Pace,
    mut moved: impl FnMut(usize),
) -> Result<(), Halt> {
    loop {
        let room = match bytes.len() {
            0 => 0,
            wanted => room(stream, wanted, guard, wait, pace).await?,
        };
        let now = bytes.split_to(room.min(bytes.len()));
        let is_last = bytes.is_empty();
        moved(now.len());
        on_stream(stream, |stream| stream.send_data(now, last && is_last))?;
        if is_last {
            return Ok(());
        }
    }
}

/// Waits until at least one of `wanted` bytes may be sent.
async fn room(
    stream: &RefCell<Option<SendStream<Bytes>>>,
    wanted: usize,
    guard: Option<&Guard>,
    wait: Wait,
    pace: &mut Pace,
) -> Result<usize, Halt> {
    let room = on_stream(stream, |stream| {
        stream.reserve_capacity(wanted);
        Ok(stream.capacity())
    })?;
    if room > 0 {
        return Ok(room);
    }
    let own;
    let guard = match guard {
        Some(guard) => guard,
        None => {
            own = Guard::new(None);
            &own
        }
    };
    guard.arm(wait.ms, wait.cause);
    let started = pace.start();
    let waiting = poll_fn(|cx| match &mut *stream.borrow_mut() {
        Some(stream) => stream.poll_capacity(cx),
        None => Poll::Ready(None),
    });
    let came = select(waiting, guard.over()).await;
    guard.disarm();
    match came {
        Either::Left(Some(Ok(room))) if room > 0 => {
            pace.moved(started, room.min(wanted))?;
            Ok(room)
        }
        Either::Left(Some(Err(error))) => Err(broken(error)),
        Either::Left(_) => Err(Halt::Closed),
        Either::Right(cause) => Err(Halt::Expired(cause)),
    }
}

pub fn on_stream<T>(
    stream: &RefCell<Option<SendStream<Bytes>>>,
    f: impl FnOnce(&mut SendStream<Bytes>) -> Result<T, h2::Error>,
) -> Result<T, Halt> {
    match &mut *stream.borrow_mut() {
        Some(stream) => f(stream).map_err(broken),
        None => Err(Halt::Closed),
    }
}

pub fn broken(error: h2::Error) -> Halt {
    Halt::Broken(std::io::Error::other(error))
}
