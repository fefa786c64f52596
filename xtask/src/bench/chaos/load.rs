//! Requests at a fixed rate, whatever becomes of those before: an open loop. Each has a moment at which it should be sent,
//! and its latency counts from there, so that a front that holds everybody up is seen to.
//!
//! Threads with a kept connection each; whoever is free takes the next request. As long as fewer than all of them wait
//! for answers, none is late.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::traffic::{Client, Kind, Tally};

/// Requests that may wait for their answers at one time without holding others up.
const CLIENTS: u8 = 250;

/// What was asked, and how it went.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// Microseconds of those that were answered; sorted.
    latencies: Vec<u64>,
    /// Microseconds by which each request was sent too late; sorted.
    lateness: Vec<u64>,
    /// When requests were lost, from the beginning.
    pub(super) lost_at: Vec<Duration>,
}

impl Outcome {
    pub(super) fn requests(&self) -> u64 {
        self.lateness.len() as u64
    }

    /// The latency that this part (0 to 1) of the requests did not exceed. One that was lost took longer than any; `None`:
    /// it is such a one.
    pub(super) fn quantile(&self, part: f64) -> Option<Duration> {
        let at = (self.lateness.len() as f64 * part) as usize;
        self.latencies.get(at.min(self.lateness.len().saturating_sub(1))).map(|micros| Duration::from_micros(*micros))
    }

    /// The same of how late requests were sent.
    pub(super) fn late(&self, part: f64) -> Duration {
        let at = (self.lateness.len() as f64 * part) as usize;
        Duration::from_micros(self.lateness.get(at).or(self.lateness.last()).copied().unwrap_or(0))
    }
}

/// Asks `address` at `rate` requests a second from `begin` on for `time`, or until `over`.
pub(super) fn run(
    address: SocketAddr,
    rate: f64,
    (begin, time): (Instant, Duration),
    over: &AtomicBool,
) -> Result<Outcome> {
    let requests = (rate * time.as_secs_f64()) as u64;
    let next = AtomicU64::new(0);
    let ask = |number: u8| {
        let from = IpAddr::from(Ipv4Addr::new(127, 0, 1, 1 + number));
        let mut client = Client::new(Kind::Kept, from, address);
        let mut outcome = Outcome::default();
        while !over.load(Ordering::Relaxed) {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= requests {
                break;
            }
            let due = begin + Duration::from_secs_f64(turn as f64 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            outcome.lateness.push(micros(due));
            if client.turn() {
                outcome.latencies.push(micros(due));
            } else {
                outcome.lost_at.push(due - begin);
            }
        }
        outcome.tally = client.into_tally();
        outcome
    };
    let mut all = Outcome::default();
    thread::scope(|scope| {
        let threads: Vec<ScopedJoinHandle<'_, Outcome>> =
            (0..CLIENTS).map(|number| scope.spawn(move || ask(number))).collect();
        for thread in threads {
            let one = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            all.tally.add(one.tally);
            all.latencies.extend(one.latencies);
            all.lateness.extend(one.lateness);
            all.lost_at.extend(one.lost_at);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    all.latencies.sort_unstable();
    all.lateness.sort_unstable();
    all.lost_at.sort_unstable();
    Ok(all)
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

#[cfg(test)]
mod tests {
    use e2e::Origin;
    use e2e::message::Message;
    use e2e::origin::ok;

    use super::*;

    #[test]
    fn lost_requests_took_longer_than_any() {
        let outcome = Outcome { latencies: vec![10, 20, 30], lateness: vec![0; 4], ..Outcome::default() };
        assert_eq!(outcome.quantile(0.5), Some(Duration::from_micros(30)));
        assert_eq!(outcome.quantile(0.75), None);
        assert_eq!(outcome.quantile(1.0), None);
        assert_eq!(Outcome::default().quantile(0.5), None);
    }

    #[test]
    fn a_stall_is_seen_by_all_who_should_have_been_answered_meanwhile() {
        // Nobody is answered before the hundredth has asked: the others waited for the time that took.
        let asked = std::sync::Arc::new((std::sync::Mutex::new(0), std::sync::Condvar::new()));
        let service = Origin::tcp().unwrap().serve(move |peer| {
            loop {
                Message::request(peer)?;
                let (count, more) = &*asked;
                let mut count = count.lock().unwrap();
                *count += 1;
                more.notify_all();
                drop(more.wait_while(count, |count| *count < 100).unwrap());
                peer.send(ok("ok\n"))?;
            }
        });
        let address = service.address().parse().unwrap();
        let over = AtomicBool::new(false);
        let outcome = run(address, 1000.0, (Instant::now(), Duration::from_millis(200)), &over).unwrap();
        assert_eq!((outcome.requests(), outcome.tally.lost()), (200, 0), "{:?}", outcome.tally);
        // The first one was due 99 ms before the hundredth.
        assert!(outcome.quantile(1.0).unwrap() >= Duration::from_millis(99), "{outcome:?}");
        assert!(outcome.quantile(0.2).unwrap() >= Duration::from_micros(1), "{outcome:?}");
    }
}
