//! Tasks of a worker. A panic in one is caught and counted; its connection is lost, nothing else is.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use monoio::net::UnixStream;

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static ALWAYS_WRITABLE: RefCell<Option<Rc<(UnixStream, OwnedFd)>>> = const { RefCell::new(None) };
}

/// Tasks of this thread that ended in a panic.
pub fn panics() -> u64 {
    PANICS.get()
}

/// Runs `task` on this worker until it ends. One allocation.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    monoio::spawn(Caught { task, _live: Live::new() });
}

/// Waits until every task of this thread has ended, but not for longer than `wait`. Whether they have.
pub(super) async fn all_ended(wait: Duration) -> bool {
    let begin = Instant::now();
    while LIVE.get() > 0 && begin.elapsed() < wait {
        sleep(Duration::from_millis(1)).await;
    }
    // Opened for this thread's ring, which is about to close.
    ALWAYS_WRITABLE.take();
    LIVE.get() == 0
}

/// A task that has not ended.
struct Live;

impl Live {
    fn new() -> Live {
        LIVE.set(LIVE.get() + 1);
        Live
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // A task that is never run to its end may be dropped with its thread's values.
        let _ = LIVE.try_with(|live| live.set(live.get() - 1));
    }
}

/// Waits at least `time`; late when the worker is busy. For waits that need no precision and are few.
pub async fn sleep(time: Duration) {
    monoio::time::sleep(time).await;
}

/// Lets the other tasks and the ring have a turn, about a microsecond. Waking oneself would put this task first again.
pub async fn yield_now() {
    let pair = ALWAYS_WRITABLE.with_borrow_mut(|pair| pair.get_or_insert_with(|| Rc::new(always_writable())).clone());
    // The answer comes through the ring. Should it be an error, the turn was had all the same.
    let _ = pair.0.writable(true).await;
}

/// One end of a pair, for this thread's ring, and the other, which nobody writes to.
fn always_writable() -> (UnixStream, OwnedFd) {
    let (end, other) = StdUnixStream::pair().expect("two descriptors are free: the limit is checked at start");
    (UnixStream::from_std(end).expect("a socket for the ring"), other.into())
}

struct Caught<F> {
    task: F,
    _live: Live,
}

impl<F: Future<Output = ()>> Future for Caught<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `task` is never moved out of `self`; this is the only projection, and `Caught` has no `Drop`.
        let task = unsafe { self.map_unchecked_mut(|caught| &mut caught.task) };
        // A task that panicked is dropped, never polled again: what it left half done is its own connection.
        match catch_unwind(AssertUnwindSafe(|| task.poll(cx))) {
            Ok(poll) => poll,
            Err(_) => {
                PANICS.set(PANICS.get() + 1);
                Poll::Ready(())
            }
        }
    }
}
