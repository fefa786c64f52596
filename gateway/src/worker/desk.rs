//! The desk between workers and the threads that may take long: a bounded queue of jobs, and tickets for their outcome.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::filter::Output;
use crate::limits::OFFLOAD_QUEUE_MAX;
use crate::rt::Notify;

type Work = Box<dyn FnOnce() + Send>;

/// Threads for work of more than a millisecond, below the workers in priority.
#[derive(Clone)]
pub struct OffloadPool {
    queue: SyncSender<Work>,
}

impl OffloadPool {
    /// Starts the threads. They end when the last handle is dropped.
    pub fn start(threads: usize) -> std::io::Result<OffloadPool> {
        let (queue, work) = sync_channel::<Work>(OFFLOAD_QUEUE_MAX);
        let work = Arc::new(Mutex::new(work));
        for n in 0..threads {
            let work = work.clone();
            std::thread::Builder::new().name(format!("offload-{n}")).spawn(move || {
                yield_priority();
                while let Some(job) = next(&work) {
                    // A job's panic is the job's: its ticket runs late, which has an answer.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(OffloadPool { queue })
    }

    /// `false`: the queue is full.
    pub fn submit(&self, job: Work) -> bool {
        self.queue.try_send(job).is_ok()
    }
}

fn next(work: &Mutex<Receiver<Work>>) -> Option<Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Workers come first. Refused: the jobs are only less polite.
fn yield_priority() {
    let _ = rustix::process::nice(10);
}

/// Jobs a worker waits for.
#[derive(Default)]
pub(super) struct Tickets {
    next: Cell<u64>,
    open: Rc<RefCell<HashMap<u64, Rc<Slot>>>>,
}

#[derive(Default)]
struct Slot {
    output: RefCell<Option<Box<dyn Any + Send>>>,
    ready: Notify,
}

/// A job under way. Dropping it forgets the outcome.
pub struct Ticket {
    id: u64,
    slot: Rc<Slot>,
    open: Rc<RefCell<HashMap<u64, Rc<Slot>>>>,
}

impl Tickets {
    pub(super) fn open(&self) -> Ticket {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let slot = Rc::<Slot>::default();
        self.open.borrow_mut().insert(id, slot.clone());
        Ticket { id, slot, open: self.open.clone() }
    }

    /// The outcome of a job. Nobody may wait for it any more.
    pub(super) fn done(&self, ticket: u64, output: Output) {
        if let Some(slot) = self.open.borrow_mut().remove(&ticket) {
            *slot.output.borrow_mut() = Some(output);
            slot.ready.notify();
        }
    }
}

impl Ticket {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the outcome.
    pub async fn done(&self) -> Option<Output> {
        self.slot.ready.notified().await;
        self.slot.output.borrow_mut().take()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.open.borrow_mut().remove(&self.id);
    }
}
