//! Half of a socket, worked by poll methods: given a job, asked for its outcome.
//!
//! An operation borrows its half, so only a future can own both. One does so for the life of the connection and goes
//! round: takes a job from the desk, does it, leaves the outcome there. A future for each operation would need an
//! allocation each, or `unsafe`.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A half and what it is busy with: jobs `J` go in, outcomes `O` come out, one at a time. Dropped, it drops the half.
pub struct Lane<J, O> {
    desk: Rc<Desk<J, O>>,
    going_round: Pin<Box<dyn Future<Output = Infallible>>>,
    busy: bool,
}

struct Desk<J, O> {
    job: Cell<Option<J>>,
    outcome: Cell<Option<O>>,
}

impl<J: 'static, O: 'static> Lane<J, O> {
    pub fn new<H: 'static>(half: H, operate: impl AsyncFn(&mut H, J) -> O + 'static) -> Lane<J, O> {
        let desk = Rc::new(Desk { job: Cell::new(None), outcome: Cell::new(None) });
        let going_round = Box::pin(go_round(half, operate, Rc::clone(&desk)));
        Lane { desk, going_round, busy: false }
    }

    /// Whether a job was started whose outcome nobody has.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Gives the half its next job. It begins when it is polled; the one before is done.
    pub fn start(&mut self, job: J) {
        debug_assert!(!self.busy, "a half does one thing at a time");
        self.desk.job.set(Some(job));
        self.busy = true;
    }

    /// The outcome of the job that was started.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<O> {
        let Poll::Pending = self.going_round.as_mut().poll(cx);
        match self.desk.outcome.take() {
            Some(outcome) => {
                self.busy = false;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

async fn go_round<H, J, O>(mut half: H, operate: impl AsyncFn(&mut H, J) -> O, desk: Rc<Desk<J, O>>) -> Infallible {
    loop {
        // Nobody is woken for a job: who puts it there polls next.
        let job = poll_fn(|_| desk.job.take().map_or(Poll::Pending, Poll::Ready)).await;
        let outcome = operate(&mut half, job).await;
        desk.outcome.set(Some(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn a_half_does_its_jobs_one_after_the_other_and_keeps_what_it_learnt() {
        let cx = &mut Context::from_waker(Waker::noop());
        let ready = Rc::new(Cell::new(false));
        let operate = {
            let ready = Rc::clone(&ready);
            async move |sum: &mut u32, add: u32| {
                poll_fn(|_| if ready.replace(false) { Poll::Ready(()) } else { Poll::Pending }).await;
                *sum += add;
                *sum
            }
        };
        let mut lane = Lane::new(0, operate);
        for (add, sum) in [(1, 1), (2, 3), (3, 6)] {
            assert!(!lane.is_busy());
            lane.start(add);
            assert!(lane.poll(cx).is_pending());
            assert!(lane.is_busy());
            ready.set(true);
            assert_eq!(lane.poll(cx), Poll::Ready(sum));
        }
    }
}
