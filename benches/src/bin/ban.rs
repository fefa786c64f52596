//! How long a ban takes to reach the kernel, for `cargo xtask bench xdp`: a JSON object a line. Root only.
//!
//! The real binary with `[xdp]` on a veth pair. A client sends datagrams without a pause; a `POST /bans` of its address goes
//! to the admin socket, and the kernel's own receive timestamp of the last datagram that came through says when the ban
//! held. Each ban is another address. `BAWAB_BIN` names the binary.
#![expect(clippy::print_stdout, reason = "its answer")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::core;
use benches::detached::Detached;
use e2e::Gateway;
use e2e::message::Message;
use e2e::netns::{Network, ip};
use e2e::peer::Peer;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// One datagram in so much time.
const PAUSE: Duration = Duration::from_micros(20);
/// So many have come before the ban: the way is warm, and the sender at work.
const BEFORE: usize = 50;
/// So many in a row that do not come are a ban that holds: the last one that came was not simply the last one sent.
const MISSING: u64 = 100;
/// Room for all that come between two looks, also when a ban takes long.
const BUFFER_BYTES: usize = 16 << 20;

fn main() -> Result<()> {
    let bans: u32 = std::env::args().nth(1).map_or(Ok(300), |word| word.parse()).context("bans")?;
    ensure!(rustix::process::geteuid().is_root(), "BPF needs root");
    ensure!((1..60_000).contains(&bans), "1 to 60,000 bans");
    ensure!(
        thread::available_parallelism()?.get() > core::SERVING,
        "a sender that never pauses needs a core of its own"
    );
    // Everything that starts from here, but the sender: it is another machine's.
    core::stay(None, core::SERVING)?;
    let network = Network::new()?;
    let _detached = Detached(network.interface.clone());
    run(&network, bans)
}

fn run(network: &Network, bans: u32) -> Result<()> {
    network.at_client(|| ip("route add local 10.79.0.0/16 dev lo"))?;
    let (gateway, socket) = network.at_gateway(|| {
        ip("route add 10.79.0.0/16 via 10.78.0.2")?;
        let config = format!(
            "[[listener]]\nname = \"main\"\naddress = \"10.78.0.1:0\"\n[xdp]\ninterfaces = [\"{}\"]\nrequired = true\n",
            network.interface
        );
        Ok((Gateway::start(&config, "127.0.0.1:9")?, UdpSocket::bind("10.78.0.1:0")?))
    })?;
    ensure!(gateway.admin("/readyz")?.head.status() == 200, "the XDP program is not attached");
    set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
    socket.set_read_timeout(Some(e2e::patience()))?;
    stamp(&socket)?;
    for number in 0..bans {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 79, 1, 0).to_bits() + number);
        let ban = ban(network, &gateway, &socket, address).with_context(|| format!("the ban of {address}"))?;
        println!("{ban}");
    }
    Ok(())
}

fn ban(network: &Network, gateway: &Gateway, socket: &UdpSocket, address: Ipv4Addr) -> Result<serde_json::Value> {
    let (to, stop, sent) = (socket.local_addr()?, AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sender = scope.spawn(|| network.at_client(|| send(address, to, &stop, &sent)));
        let banned = (|| {
            let mut arrived = Arrived::default();
            while arrived.count < BEFORE {
                arrived.add(receive(socket, 0)?.context("no datagram comes")?, address)?;
            }
            let mut admin = Peer::connect_unix(&gateway.dir().join("admin.sock"))?;
            let post = format!(
                "POST /bans?address={address}&for=1h&reason=bench HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n"
            );
            let begin = now();
            admin.send(post)?;
            let answer = Message::answer(&mut admin, "POST")?;
            let answered = now();
            ensure!(answer.head.status() == 200, "{}: {}", answer.head.start, answer.text());
            let end = Instant::now() + e2e::patience();
            loop {
                // Counted first: what was sent until here has come by the time the socket is empty, if it comes.
                let sent = sent.load(Ordering::Relaxed);
                while let Some(datagram) = receive(socket, libc::MSG_DONTWAIT)? {
                    arrived.add(datagram, address)?;
                }
                if sent >= arrived.next + MISSING {
                    break;
                }
                ensure!(Instant::now() < end, "the ban never holds");
                thread::sleep(PAUSE);
            }
            Ok((begin, answered, arrived))
        })();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (begin, answered, mut arrived): (Duration, Duration, Arrived) = banned?;
        while let Some(datagram) = receive(socket, libc::MSG_DONTWAIT)? {
            arrived.add(datagram, address)?;
        }
        // Nothing before was lost on the way.
        ensure!(arrived.count as u64 == arrived.next, "{} datagrams of {} came", arrived.count, arrived.next);
        let micros = |from: Duration| (arrived.last.as_secs_f64() - from.as_secs_f64()) * 1e6;
        Ok(json!({ "kind": "ban", "total": micros(begin).max(0.0), "answered": micros(answered).max(0.0),
            "admin": (answered - begin).as_secs_f64() * 1e6 }))
    })
}

/// Datagrams that came through.
#[derive(Default)]
struct Arrived {
    count: usize,
    /// One more than the largest number of them.
    next: u64,
    last: Duration,
}

impl Arrived {
    fn add(&mut self, (number, from, at): (u64, IpAddr, Duration), address: Ipv4Addr) -> Result<()> {
        ensure!(from == IpAddr::V4(address), "{from}, which is banned, came through after {address} began");
        self.count += 1;
        self.next = self.next.max(number + 1);
        self.last = self.last.max(at);
        Ok(())
    }
}

/// Numbered datagrams from an address until told to stop, counted.
fn send(from: Ipv4Addr, to: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    core::stay(None, core::LOADING)?;
    let socket = UdpSocket::bind((from, 0))?;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        socket.send_to(&sent.load(Ordering::Relaxed).to_ne_bytes(), to)?;
        sent.fetch_add(1, Ordering::Relaxed);
        // What was missed while others had the core is not sent after it in a burst.
        due = (due + PAUSE).max(Instant::now());
        while Instant::now() < due {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

/// The clock of receive timestamps.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Has the kernel say when it received a datagram.
fn stamp(socket: &UdpSocket) -> Result<()> {
    let on: libc::c_int = 1;
    #[expect(unsafe_code, reason = "rustix has no such option")]
    // SAFETY: the option is an int, read during the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    ensure!(done == 0, "asking for timestamps: {}", io::Error::last_os_error());
    Ok(())
}

/// The number of a datagram, who sent it and when the kernel had it. `None`: there is none, for as long as the socket waits.
fn receive(socket: &UdpSocket, flags: libc::c_int) -> Result<Option<(u64, IpAddr, Duration)>> {
    let mut number = [0_u8; 8];
    let mut control = [0_u64; 16];
    #[expect(unsafe_code, reason = "rustix does not take this control message")]
    // SAFETY: the message's pointers are to locals that live until the end, with their sizes; its control messages are
    // walked by the macros made for that, and the one read is a timespec by its type.
    unsafe {
        let mut from: libc::sockaddr_in = std::mem::zeroed();
        let mut part = libc::iovec { iov_base: number.as_mut_ptr().cast(), iov_len: number.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of_val(&from) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        if libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error.into()) };
        }
        let mut at = libc::CMSG_FIRSTHDR(&raw const message);
        while !at.is_null() {
            if ((*at).cmsg_level, (*at).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
                let time: libc::timespec = libc::CMSG_DATA(at).cast::<libc::timespec>().read_unaligned();
                let from = IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(from.sin_addr.s_addr)));
                let time = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32);
                return Ok(Some((u64::from_ne_bytes(number), from, time)));
            }
            at = libc::CMSG_NXTHDR(&raw const message, at);
        }
    }
    bail!("a datagram without a timestamp")
}
