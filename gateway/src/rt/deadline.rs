//! Deadlines of a worker: dense tables that one sweep a tick walks, and a cached clock.
//!
//! A timer operation for every read would cost more than parsing the request, and monoio's timers starve behind a busy run
//! queue. So a wait only writes a number into a table. The sweep finds the numbers that lie in the past and ends the wait
//! where it hurts nothing: it shuts the socket down, the pending operation completes, and whoever awaited it asks
//! [`Watch::fired`] why. Nothing is dropped half-way, so no byte is lost and no operation is left behind in the kernel.
//!
//! A deadline is never early and at most a tick late, beside the length of the running turn.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::Shutdown;

use crate::limits::{CUTS_PER_TURN, HANGUP_POLLS_PER_TICK, TICK_MS};

/// Why a wait was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No new request on a kept connection.
    KeepAlive,
    /// It is time to see whether the peer of a busy connection is there.
    Ping,
    /// TLS was not agreed on.
    Handshake,
    /// Not one byte came on a new connection.
    Silence,
    /// The head did not become complete.
    Head,
    /// No piece of the request body came.
    Body,
    /// The client did not take a piece of the answer.
    Write,
    /// The upstream connection did not open.
    Connect,
    /// The answer did not begin.
    FirstByte,
    /// No piece of the answer came, or the upstream did not take a piece of the request.
    Idle,
    /// The exchange took too long as a whole.
    Total,
    /// Nothing moved on an upgraded connection, or it is too old.
    Tunnel,
    /// The client reset its connection or closed both ways.
    ClientGone,
    /// A pause a filter asked for is over, or a job it waits for is late.
    Pause,
    /// The worker is draining and waited long enough.
    Drain,
}

/// What ending a wait does to the socket it waits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// No more bytes come in; an answer can still go out.
    Read,
    /// Nothing moves any more.
    Both,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

const NEVER: u64 = u64::MAX;

/// In a slot that nobody uses.
const NO_FD: RawFd = -1;

/// Microseconds since the process began. Reads the clock: about 25 ns.
pub fn now_us() -> u64 {
    let us = EPOCH.elapsed().as_micros() as u64;
    TABLES.with(|tables| tables.now_ms.set(us / 1000));
    us
}

/// Milliseconds since the process began, as of the last time this worker read its clock: at most a tick ago.
pub fn now_ms() -> u64 {
    TABLES.with(|tables| tables.now_ms.get())
}

/// A duration in whole milliseconds, the unit of all waits here.
pub fn ms(time: Duration) -> u64 {
    time.as_millis().min(u128::from(NEVER / 4)) as u64
}

thread_local! {
    static TABLES: Tables = const { Tables::new() };
}

struct Tables {
    now_ms: Cell<u64>,
    watches: RefCell<Watches>,
    guards: RefCell<Guards>,
}

struct Watches {
    /// When each slot fires; `NEVER` while it is not armed. Apart from the rest: it is all a sweep reads.
    at: Vec<u64>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    cursor: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    /// When it was armed, in milliseconds: the low bits, which is enough to tell how long ago within weeks.
    armed_ms: u32,
    fd: RawFd,
    cut: Cut,
    cause: Cause,
    fired: Option<Cause>,
}

struct Guards {
    rows: Vec<Option<Row>>,
    free: Vec<u32>,
    cursor: usize,
    polled: Vec<(u32, RawFd)>,
}

struct Row {
    total_at: u64,
    wait_at: u64,
    wait_cause: Cause,
    client: Option<RawFd>,
    upstream: Option<RawFd>,
    /// Sweeps this row has seen; its client is checked from the second on, so a fast exchange costs nothing.
    age: u32,
    fired: Option<Cause>,
    waker: Option<Waker>,
}

impl Tables {
    const fn new() -> Tables {
        Tables {
            now_ms: Cell::new(0),
            watches: RefCell::new(Watches { at: Vec::new(), slots: Vec::new(), free: Vec::new(), cursor: 0 }),
            guards: RefCell::new(Guards { rows: Vec::new(), free: Vec::new(), cursor: 0, polled: Vec::new() }),
        }
    }
}

/// One direction of one socket and its deadline. Dropped before the socket is closed.
pub struct Watch {
    slot: u32,
}

impl Watch {
    /// A watch over `fd`, not armed. No allocation once the table has grown to the number of sockets.
    pub fn new(fd: RawFd, cut: Cut) -> Watch {
        TABLES.with(|tables| {
            let mut table = tables.watches.borrow_mut();
            let slot = Slot { armed_ms: 0, fd, cut, cause: Cause::Total, fired: None };
            let index = match table.free.pop() {
                Some(index) => {
                    table.slots[index as usize] = slot;
                    index
                }
                None => {
                    table.slots.push(slot);
                    table.at.push(NEVER);
                    (table.slots.len() - 1) as u32
                }
            };
            Watch { slot: index }
        })
    }

    /// Ends the wait that begins now after `wait` milliseconds, for `cause`. Replaces an earlier deadline.
    pub fn arm(&self, wait: u64, cause: Cause) {
        TABLES.with(|tables| {
            let mut table = tables.watches.borrow_mut();
            let index = self.slot as usize;
            if table.slots[index].fired.is_none() {
                // The cached clock may be a tick behind; never early beats a tick late.
                table.at[index] = tables.now_ms.get().saturating_add(wait).saturating_add(TICK_MS);
                table.slots[index].cause = cause;
                table.slots[index].armed_ms = tables.now_ms.get() as u32;
            }
        });
    }

    /// What the deadline that is set stands for from now on; when it ends stays.
    pub fn rename(&self, cause: Cause) {
        TABLES.with(|tables| tables.watches.borrow_mut().slots[self.slot as usize].cause = cause);
    }

    /// Takes the deadline back. What has fired stays fired.
    pub fn disarm(&self) {
        TABLES.with(|tables| tables.watches.borrow_mut().at[self.slot as usize] = NEVER);
    }

    /// The deadline of a wait that is under way already. Used while the watch lives.
    pub fn remote(&self) -> Remote {
        Remote { slot: self.slot, not_send: PhantomData }
    }

    /// Why the socket was shut down, if it was.
    pub fn fired(&self) -> Option<Cause> {
        TABLES.with(|tables| tables.watches.borrow().slots[self.slot as usize].fired)
    }

    /// Ends the wait now.
    pub fn cut(&self, cause: Cause) {
        TABLES.with(|tables| tables.watches.borrow_mut().fire(self.slot as usize, cause));
    }
}

/// A watch's deadline while its half is busy waiting, or belongs to a lane.
#[derive(Clone, Copy)]
pub struct Remote {
    slot: u32,
    /// The table is the thread's.
    not_send: PhantomData<*const ()>,
}

impl Remote {
    /// As [`Watch::arm`].
    pub fn arm(self, wait: u64, cause: Cause) {
        self.watch().arm(wait, cause);
    }

    /// As [`Watch::disarm`].
    pub fn disarm(self) {
        self.watch().disarm();
    }

    /// As [`Watch::fired`].
    pub fn fired(self) -> Option<Cause> {
        self.watch().fired()
    }

    /// As [`Watch::cut`].
    pub fn cut(self, cause: Cause) {
        self.watch().cut(cause);
    }

    /// Not dropped: the slot stays its owner's.
    fn watch(self) -> ManuallyDrop<Watch> {
        ManuallyDrop::new(Watch { slot: self.slot })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = TABLES.try_with(|tables| {
            let mut table = tables.watches.borrow_mut();
            table.at[self.slot as usize] = NEVER;
            table.slots[self.slot as usize].fd = NO_FD;
            table.free.push(self.slot);
        });
    }
}

impl Watches {
    fn fire(&mut self, index: usize, cause: Cause) {
        self.at[index] = NEVER;
        let slot = &mut self.slots[index];
        if slot.fired.is_none() {
            slot.fired = Some(cause);
            let how = if slot.cut == Cut::Read { Shutdown::Read } else { Shutdown::Both };
            shut(slot.fd, how);
        }
    }

    /// Whether a client that was waited for has spoken, and its task has not run since: after a turn that took long (the
    /// machine was busy elsewhere) the clock is ahead of what has happened. A system call.
    fn was_answered(&self, index: usize) -> bool {
        let Slot { fd, cause, .. } = self.slots[index];
        if !matches!(cause, Cause::KeepAlive | Cause::Silence) {
            return false;
        }
        // SAFETY: watches are dropped before their sockets are closed, so the descriptor is open and ours.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(fd, &mut [0_u8; 1], flags), Ok((count, _)) if count > 0)
    }

    /// Fires what is due. `true`: the turn's share was used up, more may be due.
    fn sweep(&mut self, now: u64) -> bool {
        let mut cuts = 0;
        while self.cursor < self.at.len() {
            let index = self.cursor;
            self.cursor += 1;
            if self.at[index] <= now {
                match self.was_answered(index) {
                    true => self.at[index] = now + TICK_MS,
                    false => self.fire(index, self.slots[index].cause),
                }
                cuts += 1;
                if cuts == CUTS_PER_TURN {
                    return true;
                }
            }
        }
        self.cursor = 0;
        false
    }
}

/// Ends every connection of this thread, which will not run its tasks any more: they would keep their sockets open, and
/// whoever is at the other end would wait for ever.
pub(super) fn shut_all() {
    // Not during the destruction of the thread's own values, and not from a panic in the table itself.
    let _ = TABLES.try_with(|tables| {
        let Ok(table) = tables.watches.try_borrow() else { return };
        table.slots.iter().filter(|slot| slot.fd != NO_FD).for_each(|slot| shut(slot.fd, Shutdown::Both));
    });
}

/// Ends every running exchange and every connection of this thread, whose tasks still run.
pub(super) fn end_all() {
    let mut wakers = Vec::new();
    TABLES.with(|tables| {
        let mut table = tables.guards.borrow_mut();
        let running = table.rows.iter_mut().flatten().filter(|row| row.fired.is_none());
        wakers.extend(running.filter_map(|row| row.fire(Cause::Drain)));
    });
    wakers.into_iter().for_each(Waker::wake);
    shut_all();
}

/// One running exchange: its deadline as a whole, a pause inside it, and whether its client is still there.
pub struct Guard {
    row: u32,
}

impl Guard {
    /// An exchange that began now, for the client on `client` if there is one.
    pub fn new(client: Option<RawFd>) -> Guard {
        TABLES.with(|tables| {
            let mut table = tables.guards.borrow_mut();
            let row = Row {
                total_at: NEVER,
                wait_at: NEVER,
                wait_cause: Cause::Pause,
                client,
                upstream: None,
                age: 0,
                fired: None,
                waker: None,
            };
            let index = match table.free.pop() {
                Some(index) => {
                    table.rows[index as usize] = Some(row);
                    index
                }
                None => {
                    table.rows.push(Some(row));
                    (table.rows.len() - 1) as u32
                }
            };
            Guard { row: index }
        })
    }

    fn with<R>(&self, f: impl FnOnce(&mut Row, u64) -> R) -> R {
        TABLES.with(|tables| {
            let mut table = tables.guards.borrow_mut();
            let row = table.rows[self.row as usize].as_mut().expect("a guard's row lives as long as the guard");
            f(row, tables.now_ms.get())
        })
    }

    /// The exchange as a whole ends at most `wait` milliseconds from now.
    pub fn arm_total(&self, wait: u64) {
        self.with(|row, now| row.total_at = now.saturating_add(wait).saturating_add(TICK_MS));
    }

    /// Milliseconds until the exchange as a whole ends.
    pub fn left(&self) -> u64 {
        self.with(|row, now| row.total_at.saturating_sub(now))
    }

    /// The next [`Guard::over`] ends after `wait` milliseconds for `cause`.
    pub fn arm(&self, wait: u64, cause: Cause) {
        self.with(|row, now| {
            row.wait_at = now.saturating_add(wait).saturating_add(TICK_MS);
            row.wait_cause = cause;
        });
    }

    /// Takes back what `arm` set. A pause that ran out meanwhile is forgotten: it was the caller's own.
    pub fn disarm(&self) {
        self.with(|row, _| {
            row.wait_at = NEVER;
            if row.fired == Some(row.wait_cause) && row.wait_cause != Cause::Total {
                row.fired = None;
            }
        });
    }

    /// The upstream connection to cut when the exchange is over. `None` before it goes back to the pool or is closed.
    pub fn attach(&self, upstream: Option<RawFd>) {
        self.with(|row, _| row.upstream = upstream);
    }

    /// Why the exchange is over, if it is.
    pub fn fired(&self) -> Option<Cause> {
        self.with(|row, now| {
            if row.fired.is_none() && row.total_at <= now {
                row.fired = Some(Cause::Total);
            }
            row.fired
        })
    }

    /// Waits until the exchange is over or what `arm` set has passed.
    pub async fn over(&self) -> Cause {
        poll_fn(|cx| self.poll_over(cx)).await
    }

    /// The same, for who polls.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.with(|row, _| match row.fired {
            Some(cause) => Poll::Ready(cause),
            None => {
                row.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    }

    /// Ends the exchange from outside. Used while the guard lives.
    pub fn ender(&self) -> Ender {
        Ender { row: self.row, not_send: PhantomData }
    }
}

/// A guard as whoever learns that its exchange is over has it.
#[derive(Clone, Copy)]
pub struct Ender {
    row: u32,
    /// The table is the thread's.
    not_send: PhantomData<*const ()>,
}

impl Ender {
    /// As [`Guard::arm`].
    pub fn arm(self, wait: u64, cause: Cause) {
        self.guard().arm(wait, cause);
    }

    /// As [`Guard::poll_over`].
    pub fn poll_over(self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.guard().poll_over(cx)
    }

    /// Not dropped: the row stays its owner's.
    fn guard(self) -> ManuallyDrop<Guard> {
        ManuallyDrop::new(Guard { row: self.row })
    }

    /// The exchange is over now. Nobody is woken: who calls this polls the exchange next.
    pub fn end(self, cause: Cause) {
        self.guard().with(|row, _| {
            if row.fired.is_none() {
                row.fire(cause);
            }
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = TABLES.try_with(|tables| {
            let mut table = tables.guards.borrow_mut();
            table.rows[self.row as usize] = None;
            table.free.push(self.row);
        });
    }
}

impl Row {
    fn fire(&mut self, cause: Cause) -> Option<Waker> {
        self.fired = Some(cause);
        self.wait_at = NEVER;
        if matches!(cause, Cause::Total | Cause::ClientGone | Cause::Drain) {
            self.total_at = NEVER;
            if let Some(upstream) = self.upstream {
                shut(upstream, Shutdown::Both);
            }
            // An answer may still go out unless the client is gone; nothing more is read from it.
            if let Some(client) = self.client {
                shut(client, Shutdown::Read);
            }
        }
        self.waker.take()
    }
}

impl Guards {
    fn sweep(&mut self, now: u64, wakers: &mut Vec<Waker>) {
        for row in self.rows.iter_mut().flatten() {
            row.age = row.age.saturating_add(1);
            if row.fired.is_some() {
                continue;
            }
            if row.total_at <= now {
                wakers.extend(row.fire(Cause::Total));
            } else if row.wait_at <= now {
                let cause = row.wait_cause;
                wakers.extend(row.fire(cause));
            }
        }
        self.sweep_hangups(wakers);
    }

    /// Asks the kernel once for a batch of waiting clients which of them are gone. A half-closed one is not.
    fn sweep_hangups(&mut self, wakers: &mut Vec<Waker>) {
        self.polled.clear();
        let rows = self.rows.len();
        for step in 0..rows {
            let index = (self.cursor + step) % rows;
            if let Some(row) = &self.rows[index]
                && row.age >= 2
                && row.fired.is_none()
                && let Some(client) = row.client
            {
                self.polled.push((index as u32, client));
                if self.polled.len() == HANGUP_POLLS_PER_TICK {
                    self.cursor = index + 1;
                    break;
                }
            }
        }
        if self.polled.is_empty() {
            return;
        }
        let mut fds: Vec<PollFd<'_>> = self
            .polled
            .iter()
            .map(|&(_, fd)| {
                // SAFETY: a guard is dropped before its client's socket is closed, so the descriptor is open here, and
                // the borrow ends with this function.
                PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd) }, PollFlags::empty())
            })
            .collect();
        if rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() {
            for (&(index, _), fd) in self.polled.iter().zip(&fds) {
                if fd.revents().intersects(PollFlags::ERR | PollFlags::HUP)
                    && let Some(row) = &mut self.rows[index as usize]
                {
                    wakers.extend(row.fire(Cause::ClientGone));
                }
            }
        }
    }
}

fn shut(fd: RawFd, how: Shutdown) {
    // SAFETY: watches and guards are dropped before their sockets are closed, so the descriptor is open and ours.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // A socket that is no longer connected has nothing to cut, and its operation has an error already.
    let _ = rustix::net::shutdown(fd, how);
}

/// Walks the tables once; `cut` ends every running exchange and every wait for a new request (drain is over).
/// Called by the worker's sweep task alone.
pub async fn sweep() {
    now_us();
    let mut wakers = Vec::new();
    TABLES.with(|tables| tables.guards.borrow_mut().sweep(tables.now_ms.get(), &mut wakers));
    for waker in wakers {
        waker.wake();
    }
    while TABLES.with(|tables| tables.watches.borrow_mut().sweep(tables.now_ms.get())) {
        super::yield_now().await;
    }
}

/// Ends every wait for a request that has lasted `quiet_ms` or longer. The connections close; running exchanges are not
/// touched, nor is a client that asked a moment ago: it may be asking again right now, and would get no answer.
pub fn cut_waiting(quiet_ms: u64) {
    TABLES.with(|tables| {
        let mut table = tables.watches.borrow_mut();
        let now = tables.now_ms.get() as u32;
        for index in 0..table.at.len() {
            let Slot { cause, armed_ms, .. } = table.slots[index];
            let waits = table.at[index] != NEVER && matches!(cause, Cause::KeepAlive | Cause::Silence);
            if waits && u64::from(now.wrapping_sub(armed_ms)) >= quiet_ms && !table.was_answered(index) {
                table.fire(index, cause);
            }
        }
    });
}

/// Tells connections that live through many exchanges that their worker drains: they have a way to say so.
pub fn tell_drain() {
    let mut wakers = Vec::new();
    TABLES.with(|tables| {
        let mut table = tables.guards.borrow_mut();
        let connections = table.rows.iter_mut().flatten().filter(|row| {
            row.wait_at != NEVER && matches!(row.wait_cause, Cause::KeepAlive | Cause::Silence | Cause::Ping)
        });
        wakers.extend(connections.filter_map(|row| row.fire(Cause::Drain)));
    });
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests;
