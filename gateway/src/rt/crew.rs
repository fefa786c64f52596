//! Tasks that wait for the next job when they have done one.
//!
//! A future of several kilobytes that is made for every job is built on the stack, moved to the heap, and freed, and the next
//! one lies in other memory. A task of a crew is made once: what moves is the job, which is small, and it is worked on in the
//! memory that was used last.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::spawn;

/// What a task of a crew does.
pub trait Job: 'static {
    fn run(self) -> impl Future<Output = ()>;
}

/// The tasks of one worker for jobs `J`: as many as there were jobs at one time, of which so many are kept when they have
/// nothing to do. Dropped, it lets its tasks go when they have done what they are at.
pub struct Crew<J> {
    room: Rc<Room<J>>,
}

/// Where those without a job wait.
struct Room<J> {
    /// The one that worked last at the end.
    waiting: RefCell<Vec<Rc<Desk<J>>>>,
    /// The fewest that waited since the last look.
    spare: Cell<usize>,
    /// As many may wait; none once the crew is gone.
    waiting_max: Cell<usize>,
}

/// What one task and whoever gives it a job share.
struct Desk<J> {
    job: Cell<Option<J>>,
    waker: RefCell<Option<Waker>>,
    dismissed: Cell<bool>,
}

impl<J: Job> Crew<J> {
    pub fn new(waiting_max: usize) -> Crew<J> {
        let room = Room { waiting: RefCell::default(), spare: Cell::new(0), waiting_max: Cell::new(waiting_max) };
        Crew { room: Rc::new(room) }
    }

    /// Has `job` done, beginning with the next turn. No allocation while a task waits. A panic of the job ends its task.
    pub fn give(&self, job: J) {
        let waiting = {
            let mut waiting = self.room.waiting.borrow_mut();
            let desk = waiting.pop();
            self.room.spare.set(self.room.spare.get().min(waiting.len()));
            desk
        };
        match waiting {
            Some(desk) => {
                desk.job.set(Some(job));
                desk.wake();
            }
            None => {
                let desk =
                    Rc::new(Desk { job: Cell::new(Some(job)), waker: RefCell::default(), dismissed: Cell::new(false) });
                // On the heap first: a task is moved a few times before it begins.
                spawn(Box::pin(go_round(desk, self.room.clone())));
            }
        }
    }

    /// Lets tasks go that were not needed since the last call.
    pub fn dismiss_spare(&self) {
        let (spare, left) = {
            let mut waiting = self.room.waiting.borrow_mut();
            let count = self.room.spare.get().min(waiting.len());
            // Those that waited longest lie in front.
            let spare: Vec<_> = waiting.drain(..count).collect();
            (spare, waiting.len())
        };
        self.room.spare.set(left);
        spare.iter().for_each(|desk| desk.dismiss());
    }
}

impl<J> Crew<J> {
    /// Lets all tasks go, those that work when they have done so.
    pub fn dismiss(&self) {
        self.room.waiting_max.set(0);
        self.room.waiting.take().iter().for_each(|desk| desk.dismiss());
    }
}

impl<J> Drop for Crew<J> {
    fn drop(&mut self) {
        self.dismiss();
    }
}

impl<J> Desk<J> {
    fn dismiss(&self) {
        self.dismissed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The next job. `None`: there is none any more.
    async fn next(&self) -> Option<J> {
        poll_fn(|cx| {
            if let Some(job) = self.job.take() {
                return Poll::Ready(Some(job));
            }
            if self.dismissed.get() {
                return Poll::Ready(None);
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

async fn go_round<J: Job>(desk: Rc<Desk<J>>, room: Rc<Room<J>>) {
    while let Some(job) = desk.next().await {
        job.run().await;
        let mut waiting = room.waiting.borrow_mut();
        if waiting.len() >= room.waiting_max.get() {
            return;
        }
        waiting.push(desk.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{RingFlags, run, yield_now};

    /// Counts itself while it waits to be let on.
    struct Step {
        running: Rc<Cell<u32>>,
        done: Rc<Cell<u32>>,
        go: Rc<super::super::Notify>,
        panics: bool,
    }

    impl Job for Step {
        async fn run(self) {
            self.running.set(self.running.get() + 1);
            assert!(!self.panics, "as it was told to");
            self.go.notified().await;
            self.running.set(self.running.get() - 1);
            self.done.set(self.done.get() + 1);
        }
    }

    /// Lets every task have its turn.
    async fn turns() {
        for _ in 0..4 {
            yield_now().await;
        }
    }

    #[test]
    fn jobs_run_beside_each_other_and_tasks_are_used_again() {
        let task = async {
            let crew = Crew::new(2);
            let (running, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let give = |count: u32, panics| {
                let go = Rc::new(super::super::Notify::default());
                for _ in 0..count {
                    crew.give(Step { running: running.clone(), done: done.clone(), go: go.clone(), panics });
                }
                go
            };
            let waiting = || crew.room.waiting.borrow().len();
            for round in 1..=3 {
                let go = give(3, false);
                turns().await;
                assert_eq!((running.get(), waiting()), (3, 0));
                go.notify();
                turns().await;
                assert_eq!((running.get(), done.get(), waiting()), (0, 3 * round, 2), "no more wait than may");
            }
            // Of two that waited, one was needed since the last look.
            crew.dismiss_spare();
            assert_eq!(waiting(), 2, "both had been taken");
            give(1, false).notify();
            turns().await;
            crew.dismiss_spare();
            turns().await;
            assert_eq!(waiting(), 1);
            let before = super::super::panics();
            give(1, true);
            turns().await;
            assert_eq!((super::super::panics(), waiting()), (before + 1, 0), "what panicked is not used again");
            give(1, false).notify();
            let last = give(1, false);
            turns().await;
            assert_eq!(waiting(), 1);
            drop(crew);
            last.notify();
            turns().await;
            assert_eq!(done.get(), 12, "what ran was finished");
        };
        // It waits for all tasks to end: those that waited were let go, and so was that which worked.
        run(RingFlags::probe().expect("io_uring"), 64, task).expect("ring");
    }
}
