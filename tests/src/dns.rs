//! A DNS server of ours: what it says to each question is the case's to decide, and what it was asked is seen. It speaks UDP and TCP on
//! one port (RFC 1035 §4) and encodes its messages itself: two encoders that share a mistake would agree.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::patience;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    A = 1,
    Cname = 5,
    Aaaa = 28,
    Srv = 33,
}

/// What a record holds.
#[derive(Debug, Clone)]
pub enum Data {
    Address(IpAddr),
    /// Another name for it.
    Alias(String),
    Service {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
}

/// What is said to a question.
#[derive(Debug, Clone)]
pub enum Say {
    /// Records with this TTL. The name of each, where it is not the one asked for.
    Records(u32, Vec<(Option<String>, Data)>),
    /// NXDOMAIN: no such name.
    NoName,
    /// NOERROR with nothing in it: no such record.
    NoRecord,
    /// SERVFAIL, and the like: the code.
    Code(u8),
    /// Nothing.
    Silence,
    /// By UDP that it does not fit, by TCP all of it.
    TooLong(Box<Say>),
}

impl Say {
    pub const SERVFAIL: Say = Say::Code(2);

    pub fn addresses(ttl: u32, addresses: &[&str]) -> Say {
        let data = addresses.iter().map(|text| (None, Data::Address(text.parse().expect("an address"))));
        Say::Records(ttl, data.collect())
    }

    /// Records as `priority weight port target`.
    pub fn services(ttl: u32, services: &[(u16, u16, u16, &str)]) -> Say {
        let data = services.iter().map(|&(priority, weight, port, target)| {
            (None, Data::Service { priority, weight, port, target: target.to_owned() })
        });
        Say::Records(ttl, data.collect())
    }
}

/// A question, in lower case and without a final dot.
type Question = (String, Kind);

#[derive(Default)]
struct State {
    says: HashMap<Question, Say>,
    udp: BTreeMap<Question, usize>,
    tcp: BTreeMap<Question, usize>,
    is_over: bool,
    /// It is older than EDNS (RFC 6891), and says FORMERR to questions with something behind them.
    is_old: bool,
    connections: Vec<(TcpStream, JoinHandle<()>)>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    asked: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Names it was told nothing of are not there; those it was told something of have no other records.
pub struct Dns {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Dns {
    /// On 127.0.0.1, a port of the kernel's choice.
    pub fn start() -> Result<Dns> {
        let (udp, tcp) = (0..50).find_map(|_| both()).context("no port is free for both UDP and TCP")?;
        let address = udp.local_addr()?;
        let shared = Arc::new(Shared::default());
        let by_udp = shared.clone();
        let udp = std::thread::spawn(move || serve_udp(&udp, &by_udp));
        let by_tcp = shared.clone();
        let tcp = std::thread::spawn(move || serve_tcp(&tcp, &by_tcp));
        Ok(Dns { address, shared, threads: vec![udp, tcp] })
    }

    /// As the configuration writes it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on.
    pub fn says(&self, name: &str, kind: Kind, say: Say) {
        self.shared.lock().says.insert((name.to_owned(), kind), say);
    }

    /// It answers only questions without EDNS (RFC 6891).
    pub fn forgets_edns(&self) {
        self.shared.lock().is_old = true;
    }

    /// How often it was asked, by UDP and by TCP. A question that was sent again counts again.
    pub fn asked(&self, name: &str, kind: Kind) -> (usize, usize) {
        let (state, question) = (self.shared.lock(), (name.to_owned(), kind));
        let count = |asked: &BTreeMap<Question, usize>| asked.get(&question).copied().unwrap_or_default();
        (count(&state.udp), count(&state.tcp))
    }

    /// Waits until it is asked so often more, by UDP.
    pub fn asked_again(&self, name: &str, kind: Kind, times: usize) -> Result<()> {
        let question = (name.to_owned(), kind);
        let deadline = Instant::now() + patience();
        let mut state = self.shared.lock();
        let count = |state: &State| state.udp.get(&question).copied().unwrap_or_default();
        let wanted = count(&state) + times;
        while count(&state) < wanted {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("{name} was asked for {} times and not {wanted}", count(&state));
            };
            state = self.shared.asked.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        // Each waits for something to come.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            let _ = socket.send_to(&[], self.address);
        }
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let connections = std::mem::take(&mut self.shared.lock().connections);
        for (socket, thread) in connections {
            let _ = socket.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

/// Sockets of one port.
fn both() -> Option<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let udp = UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
    Some((udp, tcp))
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut packet = [0; 4096];
    loop {
        let received = socket.recv_from(&mut packet);
        if shared.lock().is_over {
            return;
        }
        // An answer that met a closed port comes back as an error of the next call.
        let Ok((length, from)) = received else { continue };
        if let Some(answer) = answer(&packet[..length], shared, false) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept() {
        if shared.lock().is_over {
            return;
        }
        let Ok(handle) = socket.try_clone() else { return };
        let here = shared.clone();
        let thread = std::thread::spawn(move || drop(converse(socket, &here)));
        shared.lock().connections.push((handle, thread));
    }
}

/// Answers what comes on one connection, each message behind its length.
fn converse(mut socket: TcpStream, shared: &Shared) -> std::io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(600)))?;
    loop {
        let mut length = [0; 2];
        socket.read_exact(&mut length)?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        socket.read_exact(&mut packet)?;
        if let Some(answer) = answer(&packet, shared, true) {
            let length = u16::try_from(answer.len()).expect("an answer of a case is short");
            socket.write_all(&[&length.to_be_bytes(), &answer[..]].concat())?;
        }
    }
}

/// The answer to a message. `None`: there is none.
fn answer(packet: &[u8], shared: &Shared, by_tcp: bool) -> Option<Vec<u8>> {
    let (name, end) = name_at(packet, 12)?;
    let code = u16::from_be_bytes([*packet.get(end)?, *packet.get(end + 1)?]);
    let kind = [Kind::A, Kind::Cname, Kind::Aaaa, Kind::Srv].into_iter().find(|kind| *kind as u16 == code)?;
    let question = (name, kind);
    let say = {
        let mut state = shared.lock();
        let asked = if by_tcp { &mut state.tcp } else { &mut state.udp };
        *asked.entry(question.clone()).or_default() += 1;
        let has_edns = packet[10..12] != [0, 0];
        let is_known = state.says.keys().any(|(name, _)| *name == question.0);
        let say = state.says.get(&question).cloned();
        match state.is_old && has_edns {
            true => Say::Code(1),
            false => say.unwrap_or(if is_known { Say::NoRecord } else { Say::NoName }),
        }
    };
    shared.asked.notify_all();
    let (say, is_cut) = match say {
        Say::TooLong(whole) if by_tcp => (*whole, false),
        Say::TooLong(_) => (Say::NoRecord, true),
        say => (say, false),
    };
    let (code, ttl, records) = match say {
        Say::Records(ttl, records) => (0, ttl, records),
        Say::NoName => (3, 0, Vec::new()),
        Say::NoRecord => (0, 0, Vec::new()),
        Say::Code(code) => (code, 0, Vec::new()),
        Say::Silence | Say::TooLong(_) => return None,
    };
    // An answer (QR), as far as that goes authoritative (AA), perhaps truncated (TC); recursion was asked for (RD) and can be had (RA).
    let flags = [0x84 | u8::from(is_cut) << 1 | packet[2] & 1, 0x80 | code];
    let count = u16::try_from(records.len()).expect("few records");
    let mut out = [&packet[..2], &flags, &[0, 1], &count.to_be_bytes(), &[0; 4]].concat();
    out.extend_from_slice(&packet[12..end + 4]);
    for (of, data) in records {
        put_name(&mut out, of.as_deref().unwrap_or(&question.0));
        let (kind, bytes) = encoded(&data);
        out.extend((kind as u16).to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
        out.extend(bytes);
    }
    Some(out)
}

fn encoded(data: &Data) -> (Kind, Vec<u8>) {
    let mut bytes = Vec::new();
    match data {
        Data::Address(IpAddr::V4(address)) => (Kind::A, address.octets().to_vec()),
        Data::Address(IpAddr::V6(address)) => (Kind::Aaaa, address.octets().to_vec()),
        Data::Alias(name) => {
            put_name(&mut bytes, name);
            (Kind::Cname, bytes)
        }
        Data::Service { priority, weight, port, target } => {
            bytes.extend([priority, weight, port].into_iter().flat_map(|number| number.to_be_bytes()));
            put_name(&mut bytes, target);
            (Kind::Srv, bytes)
        }
    }
}

/// The name at `at` in lower case, and where it ends. Questions are not compressed.
fn name_at(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).expect("a label is short"));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}
