//! Messages from any thread to one worker, bounded, woken through its ring.
//!
//! A queue behind a short lock and one end of a socket pair: the sender writes a byte when the worker may be asleep, the
//! worker's receive on the other end completes like any other. Nothing depends on the runtime's own cross-thread waker.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Buf, Socket};

struct Queue<T> {
    messages: Mutex<VecDeque<T>>,
    /// A byte is on its way: the worker will look at the queue after everything pushed before this was read as `true`.
    woken: AtomicBool,
    end: UnixStream,
    max: usize,
}

/// Sends to one worker. Cheap to clone.
pub struct Sender<T> {
    queue: Arc<Queue<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { queue: self.queue.clone() }
    }
}

/// The worker's end before its ring exists: it can be moved to the worker's thread.
pub struct Unopened<T> {
    queue: Arc<Queue<T>>,
    end: OwnedFd,
}

/// The worker's end.
pub struct Receiver<T> {
    queue: Arc<Queue<T>>,
    socket: Socket,
}

/// A mailbox of at most `max` messages.
pub fn mailbox<T>(max: usize) -> io::Result<(Sender<T>, Unopened<T>)> {
    let (end, worker) = UnixStream::pair()?;
    end.set_nonblocking(true)?;
    let queue = Arc::new(Queue { messages: Mutex::new(VecDeque::new()), woken: AtomicBool::new(false), end, max });
    Ok((Sender { queue: queue.clone() }, Unopened { queue, end: worker.into() }))
}

impl<T> Sender<T> {
    /// Hands `message` over. `Err`: the mailbox is full, the message comes back.
    pub fn send(&self, message: T) -> Result<(), T> {
        {
            let mut messages = self.queue.messages.lock().unwrap_or_else(PoisonError::into_inner);
            if messages.len() >= self.queue.max {
                return Err(message);
            }
            messages.push_back(message);
        }
        if !self.queue.woken.swap(true, Ordering::SeqCst) {
            // A full socket has bytes the worker will read; a closed one means that the process is ending.
            let _ = (&self.queue.end).write(&[1]);
        }
        Ok(())
    }
}

impl<T> Unopened<T> {
    /// Opens the mailbox on the thread whose ring will receive.
    pub fn open(self) -> io::Result<Receiver<T>> {
        Ok(Receiver { queue: self.queue, socket: Socket::from_fd(self.end)? })
    }
}

impl<T> Receiver<T> {
    /// The messages that came since the last call, oldest first; waits for one. `None`: the mailbox broke, which only the end of the process does.
    pub async fn receive(&mut self) -> Option<VecDeque<T>> {
        loop {
            // The flag is cleared before the queue is looked at, so a message pushed after the look writes a byte.
            self.queue.woken.store(false, Ordering::SeqCst);
            let messages = {
                let mut messages = self.queue.messages.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *messages)
            };
            if !messages.is_empty() {
                return Some(messages);
            }
            match self.socket.reader.read(Buf::take()).await.0 {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{RingFlags, run};

    #[test]
    fn every_message_of_every_thread_arrives_in_its_order() {
        const EACH: u32 = 5_000;
        let (sender, unopened) = mailbox::<(u8, u32)>(16).expect("pair");
        let threads: Vec<_> = (0..3u8)
            .map(|id| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for n in 0..EACH {
                        let mut message = (id, n);
                        while let Err(back) = sender.send(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let flags = RingFlags::probe().expect("io_uring");
        let got = run(flags, 256, async move {
            let mut mailbox = unopened.open().expect("open");
            let mut next = [0u32; 3];
            while next.iter().sum::<u32>() < 3 * EACH {
                for (id, n) in mailbox.receive().await.expect("senders live") {
                    assert_eq!(n, next[id as usize]);
                    next[id as usize] += 1;
                }
            }
            next
        })
        .expect("ring");
        assert_eq!(got, [EACH; 3]);
        threads.into_iter().for_each(|thread| thread.join().expect("sender"));
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (sender, _unopened) = mailbox::<u8>(2).expect("pair");
        assert_eq!(sender.send(1), Ok(()));
        assert_eq!(sender.send(2), Ok(()));
        assert_eq!(sender.send(3), Err(3));
    }
}
