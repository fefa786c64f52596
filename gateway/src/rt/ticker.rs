//! A worker's pulse: a timer of the kernel, read through the ring. Exact to microseconds, so that how late it is seen tells
//! how long the turn before was; and, other than the runtime's timers, not starved by a busy run queue.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_gettime,
    timerfd_settime,
};

use super::Socket;

/// Ticks at a fixed interval.
pub struct Ticker {
    timer: OwnedFd,
    /// The same timer, to be waited for. The operations of a socket's half that only wait fit any descriptor.
    wait: Socket,
    interval: Duration,
}

impl Ticker {
    pub fn new(interval: Duration) -> io::Result<Ticker> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let every = Timespec { tv_sec: interval.as_secs() as i64, tv_nsec: i64::from(interval.subsec_nanos()) };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
        let wait = Socket::from_fd(timer.try_clone()?)?;
        Ok(Ticker { timer, wait, interval })
    }

    /// Waits for the next tick. How late it is seen: by the rest of the turn that was running, or by whole ticks when the
    /// worker stood still for longer.
    pub async fn tick(&mut self) -> io::Result<Duration> {
        loop {
            self.wait.reader.readable().await?;
            let mut ticks = [0; 8];
            match rustix::io::read(self.timer.as_fd(), &mut ticks) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let next = timerfd_gettime(&self.timer)?.it_value;
            let until_next = Duration::new(next.tv_sec as u64, next.tv_nsec as u32);
            let missed = u32::try_from(u64::from_ne_bytes(ticks).saturating_sub(1)).unwrap_or(u32::MAX);
            return Ok(self.interval.saturating_sub(until_next) + self.interval.saturating_mul(missed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{RingFlags, run};

    #[test]
    fn a_turn_that_takes_long_is_seen_in_how_late_the_tick_is() {
        let flags = RingFlags::probe().expect("io_uring");
        let late = run(flags, 64, async {
            let mut ticker = Ticker::new(Duration::from_millis(20)).expect("a timer");
            ticker.tick().await.expect("a tick");
            // A turn of 50 ms: the worker stands still over two ticks.
            std::thread::sleep(Duration::from_millis(50));
            ticker.tick().await.expect("a tick")
        });
        assert!(late.expect("ring") >= Duration::from_millis(25), "two ticks passed before anybody looked");
    }
}
