//! Thousands of client connections from one process: opened from many loopback addresses, so that a gateway's bound per
//! address is not what is measured, and watched together.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// Connections from one loopback address: below every gateway's default bound.
const PER_ADDRESS: usize = 500;

/// Allows this process, and those it starts, that many descriptors.
pub(super) fn allow_descriptors(wanted: u64) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        wanted <= allowed,
        "{wanted} file descriptors are needed, the hard limit is {allowed}"
    );
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("raising the number of open files")?;
    }
    Ok(())
}

/// The `number`th connection of a crowd, from a loopback address of its own kind.
pub(super) fn join(address: SocketAddr, number: usize) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // 127.0.0.1 is left to the load generator.
    let host = u8::try_from(2 + number / PER_ADDRESS).context("too large a crowd")?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into())?;
    socket
        .connect(&address.into())
        .with_context(|| format!("connection {number}"))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// One request and its whole small answer.
pub(super) fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    // The backend's small answer is its head and these three bytes.
    while !(answer.ends_with(b"ok\n")) {
        let count = stream.read(&mut buffer)?;
        ensure!(
            count > 0,
            "closed inside an answer: {}",
            String::from_utf8_lossy(&answer)
        );
        answer.extend_from_slice(&buffer[..count]);
    }
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// How a watched connection ended.
pub(super) struct End {
    /// Since the watch began.
    pub(super) after: Duration,
    /// What was sent to it before.
    pub(super) said: Vec<u8>,
}

/// Waits until the other side closed each of these, or `patience` is over. `None`: it is still open.
pub(super) fn watch(mut crowd: Vec<TcpStream>, patience: Duration) -> Result<Vec<Option<End>>> {
    let begin = Instant::now();
    for stream in &crowd {
        stream.set_nonblocking(true)?;
    }
    let mut said = vec![Vec::new(); crowd.len()];
    let mut ends: Vec<Option<End>> = (0..crowd.len()).map(|_| None).collect();
    let mut buffer = [0; 4096];
    while let Some(left) = patience.checked_sub(begin.elapsed()) {
        let open: Vec<usize> = (0..crowd.len())
            .filter(|number| ends[*number].is_none())
            .collect();
        if open.is_empty() {
            break;
        }
        let mut polled: Vec<PollFd<'_>> = open
            .iter()
            .map(|number| PollFd::new(&crowd[*number], PollFlags::IN))
            .collect();
        poll(
            &mut polled,
            Some(&Timespec {
                tv_sec: i64::try_from(left.as_secs())?,
                tv_nsec: left.subsec_nanos().into(),
            }),
        )?;
        let ready: Vec<usize> = polled
            .iter()
            .zip(&open)
            .filter(|(polled, _)| !polled.revents().is_empty())
            .map(|(_, number)| *number)
            .collect();
        drop(polled);
        for number in ready {
            match crowd[number].read(&mut buffer) {
                Ok(count) if count > 0 => said[number].extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // A reset is an end as good as a FIN here.
                Ok(_) | Err(_) => {
                    ends[number] = Some(End {
                        after: begin.elapsed(),
                        said: std::mem::take(&mut said[number]),
                    })
                }
            }
        }
    }
    Ok(ends)
}
