//! Waiting for the first of two things on one worker, and telling a task of the same worker that something happened.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};

/// Which of two futures was ready first.
pub enum Either<A, B> {
    Left(A),
    Right(B),
}

/// Waits for the first of two futures; the left one when both are ready. The other is dropped, unless the caller passed
/// `Pin<&mut _>` and goes on with it.
pub async fn select<A: Future, B: Future>(left: A, right: B) -> Either<A::Output, B::Output> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|cx| {
        if let Poll::Ready(output) = left.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(output));
        }
        right.as_mut().poll(cx).map(Either::Right)
    })
    .await
}

/// An event of one worker that happens once and stays happened. Any number of tasks may wait for it.
#[derive(Default)]
pub struct Notify {
    happened: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Notify {
    pub fn notify(&self) {
        self.happened.set(true);
        // Taken out first: a woken task may come back to this very event.
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }

    pub async fn notified(&self) {
        poll_fn(|cx| {
            if self.happened.get() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
