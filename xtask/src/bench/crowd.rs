//! Thousands of client connections from one process: opened from many loopback addresses, so that a gateway's bound per
//! address is not what is measured, and watched together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::message::Message;
use e2e::{Peer, origin};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Connections from one loopback address: below every gateway's default bound.
const PER_ADDRESS: usize = 500;

/// How often a crowd is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Allows this process, and those it starts, that many descriptors.
pub(super) fn allow_descriptors(wanted: u64) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    ensure!(wanted <= allowed, "{wanted} file descriptors are needed, the hard limit is {allowed}");
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("raising the number of open files")?;
    }
    Ok(())
}

/// The `number`th connection of a crowd.
pub(super) fn join(address: SocketAddr, number: usize) -> Result<Peer> {
    // 127.0.0.1 is left to the load generator.
    let host = u8::try_from(2 + number / PER_ADDRESS).context("too large a crowd")?;
    Peer::connect_from(IpAddr::from(Ipv4Addr::new(127, 0, 0, host)), address)
}

/// One request and its whole small answer.
pub(super) fn exchange(peer: &mut Peer) -> Result<()> {
    peer.send("GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let answer = Message::answer(peer, "GET")?;
    ensure!(answer.head.status() == 200, "answered `{}`", answer.head.start);
    Ok(())
}

/// How a watched connection ended.
pub(super) struct End {
    /// Since the watch began.
    pub(super) after: Duration,
    /// What was sent to it before.
    pub(super) said: Vec<u8>,
}

/// Waits until the other side ended each of these, or `patience` is over. `None`: it is still open.
pub(super) fn watch(mut crowd: Vec<Peer>, patience: Duration) -> Result<Vec<Option<End>>> {
    let begin = Instant::now();
    let mut ends: Vec<Option<End>> = (0..crowd.len()).map(|_| None).collect();
    while let Some(left) = patience.checked_sub(begin.elapsed()) {
        let open: Vec<usize> = (0..crowd.len()).filter(|number| ends[*number].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let sockets: Vec<_> = open.iter().map(|number| crowd[*number].socket()).collect();
        let ready = origin::readable(&sockets, left)?;
        for number in open.iter().zip(ready).filter_map(|(number, ready)| ready.then_some(*number)) {
            let said = crowd[number].pending()?.to_vec();
            if crowd[number].ended().is_some() {
                ends[number] = Some(End { after: begin.elapsed(), said });
            }
        }
        // A thousand ends come one by one, and each look asks for a thousand sockets: without a pause the watch itself
        // would take the core that is measured.
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(ends)
}
