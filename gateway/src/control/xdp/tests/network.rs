//! Two network namespaces with a veth pair between them, made for one test and gone with it: nobody else can see them, and
//! the kernel removes them with their last descriptor.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::super::{Settings, detach};

/// How long a connection that has to fail is waited for.
const SHUT: Duration = Duration::from_millis(300);
/// And one that has to work: with a lost SYN or two.
const OPEN: Duration = Duration::from_secs(20);

/// The gateway's side has [`Network::interface`] with the addresses `10.77.0.1/24` and `fd77::1/64`; the client's side has
/// `.2` and those that tests add.
pub(super) struct Network {
    home: File,
    gateway: File,
    client: File,
    pub(super) interface: String,
    peer: String,
}

impl Network {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Fifteen bytes at most; pins are named by it, so it is unique on the machine.
        let interface = format!("bw{}.{number}", std::process::id());
        let peer = format!("bp{}.{number}", std::process::id());
        let home = namespace();
        let network = Self { home, gateway: fresh(), client: fresh(), interface, peer };
        network.make();
        network
    }

    fn make(&self) {
        let (interface, peer) = (&self.interface, &self.peer);
        self.at_gateway(|| {
            ip(&["link", "set", "lo", "up"]);
            // The other end goes where the client is: by a descriptor of ours.
            ip(&["link", "add", interface, "type", "veth", "peer", "name", peer]);
            let client = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&self.client));
            ip(&["link", "set", peer, "netns", &client]);
            ip(&["addr", "add", "10.77.0.1/24", "dev", interface]);
            ip(&["addr", "add", "fd77::1/64", "dev", interface, "nodad"]);
            ip(&["link", "set", interface, "up"]);
        });
        self.at_client(|| {
            ip(&["link", "set", "lo", "up"]);
            for host in 2..=9 {
                ip(&["addr", "add", &format!("10.77.0.{host}/24"), "dev", peer]);
                ip(&["addr", "add", &format!("fd77::{host}/64"), "dev", peer, "nodad"]);
            }
            ip(&["link", "set", peer, "up"]);
        });
    }

    /// Takes the pair away and makes it again, with the same names.
    pub(super) fn remake(&self) {
        self.at_gateway(|| ip(&["link", "del", &self.interface]));
        self.make();
    }

    pub(super) fn at_gateway<T>(&self, what: impl FnOnce() -> T) -> T {
        self.at(&self.gateway, what)
    }

    pub(super) fn at_client<T>(&self, what: impl FnOnce() -> T) -> T {
        self.at(&self.client, what)
    }

    /// Runs something in another namespace; sockets and threads that it makes stay there.
    fn at<T>(&self, namespace: &File, what: impl FnOnce() -> T) -> T {
        enter(namespace);
        // Back again when it panics too: the thread cleans up.
        let _back = Back(&self.home);
        what()
    }

    pub(super) fn listen(&self, addr: &str) -> TcpListener {
        let addr: IpAddr = addr.parse().unwrap();
        self.at_gateway(|| TcpListener::bind(SocketAddr::new(addr, 0)).unwrap())
    }

    /// Connects from an address of the client's.
    fn connect(&self, from: &str, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
        let from: IpAddr = from.parse().unwrap();
        self.at_client(|| {
            let domain = socket2::Domain::for_address(to);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            socket.connect_timeout(&to.into(), patience).map(|()| socket.into())
        })
    }

    pub(super) fn assert_open(&self, from: &str, listener: &TcpListener) {
        let to = listener.local_addr().unwrap();
        self.connect(from, to, OPEN).unwrap_or_else(|error| panic!("{from} cannot connect to {to}: {error}"));
    }

    pub(super) fn assert_shut(&self, from: &str, listener: &TcpListener) {
        let to = listener.local_addr().unwrap();
        assert!(self.connect(from, to, SHUT).is_err(), "{from} connects to {to}");
    }

    /// Sends datagrams without end from an address, and counts those that arrive.
    pub(super) fn flood(&self, from: &str) -> Flood {
        let receiver = self.at_gateway(|| UdpSocket::bind("10.77.0.1:0").unwrap());
        let sender = self.at_client(|| UdpSocket::bind((from, 0)).unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (arrived, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let threads = vec![
            thread::spawn({
                let stop = stop.clone();
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        _ = sender.send(&[7; 64]);
                    }
                }
            }),
            thread::spawn({
                let (stop, arrived) = (stop.clone(), arrived.clone());
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        if receiver.recv(&mut [0; 128]).is_ok() {
                            arrived.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }),
        ];
        Flood { arrived, stop, threads }
    }

    /// Where this network's pins are.
    pub(super) fn pins(&self) -> PathBuf {
        Settings::default().pins.join(self.interface.replace('.', ":"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = detach(&self.interface, &Settings::default().pins) {
            eprintln!("{}: {error}", self.interface);
        }
    }
}

pub(super) struct Flood {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Waits until more have arrived.
    pub(super) fn assert_flows(&self) {
        let before = self.arrived();
        let begin = std::time::Instant::now();
        while self.arrived() == before {
            assert!(begin.elapsed() < OPEN, "no packet arrives any more");
            thread::yield_now();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            _ = thread.join();
        }
    }
}

struct Back<'a>(&'a File);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        enter(self.0);
    }
}

/// The namespace of this thread.
fn namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// A new one. Made on a thread of its own, which alone leaves the namespace of the process.
fn fresh() -> File {
    let make = || {
        #[expect(unsafe_code, reason = "the other flags of unshare(2) can break what others rely on; this one cannot")]
        // SAFETY: the network namespace of this thread only; no descriptor table or file system state is taken apart.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        namespace()
    };
    thread::spawn(make).join().unwrap()
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

pub(super) fn ip(words: &[&str]) {
    let done = Command::new("ip").args(words).output().unwrap();
    assert!(done.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&done.stderr));
}
