//! Tasks of a worker. A panic in one is caught and counted; its connection is lost, nothing else is.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use monoio::net::UnixStream;

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
    static ALWAYS_WRITABLE: OnceCell<&'static UnixStream> = const { OnceCell::new() };
}

/// Tasks of this thread that ended in a panic.
pub fn panics() -> u64 {
    PANICS.get()
}

/// Runs `task` on this worker until it ends. One allocation.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    monoio::spawn(Caught { task });
}

/// Waits at least `time`; late when the worker is busy. For waits that need no precision and are few.
pub async fn sleep(time: Duration) {
    monoio::time::sleep(time).await;
}

/// Lets the other tasks and the ring have a turn, about a microsecond. Waking oneself would put this task first again.
pub async fn yield_now() {
    let socket = ALWAYS_WRITABLE.with(|socket| *socket.get_or_init(always_writable));
    // The answer comes through the ring. Should it be an error, the turn was had all the same.
    let _ = socket.writable(true).await;
}

/// One end of a pair nobody writes to. Both ends live as long as the process, like the worker (its ring does, too).
fn always_writable() -> &'static UnixStream {
    let (end, other) = UnixStream::pair().expect("two descriptors are free: the limit is checked at start");
    std::mem::forget(other);
    Box::leak(Box::new(end))
}

struct Caught<F> {
    task: F,
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
