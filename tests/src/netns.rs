//! Two network namespaces with a veth pair between them, for what only the kernel's door can show. For root only. Nobody else
//! sees them, and the kernel removes them with their last descriptor.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

use crate::peer::Peer;

/// The gateway's side is [`Network::interface`] with `10.78.0.1/24` and `fd78::1/64`; the client's side has `.2` to `.5`.
pub struct Network {
    pub interface: String,
    /// The client's.
    pub far: String,
    gateway: File,
    client: File,
}

impl Network {
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Fifteen bytes at most; pins are named by it, so it is unique on the machine.
        let [interface, far] = ["be", "bf"].map(|side| format!("{side}{}-{number}", std::process::id()));
        let network = Self { interface, far, gateway: fresh()?, client: fresh()? };
        let (near, far) = (&network.interface, &network.far);
        network.at_gateway(|| {
            let client = format!("/proc/{}/fd/{}", std::process::id(), network.client.as_raw_fd());
            ip("link set lo up")?;
            ip(&format!("link add {near} type veth peer name {far} netns {client}"))?;
            ip(&format!("addr add 10.78.0.1/24 dev {near}"))?;
            ip(&format!("addr add fd78::1/64 dev {near} nodad"))?;
            ip(&format!("link set {near} up"))
        })?;
        network.at_client(|| {
            for host in 2..=5 {
                ip(&format!("addr add 10.78.0.{host}/24 dev {far}"))?;
                ip(&format!("addr add fd78::{host}/64 dev {far} nodad"))?;
            }
            ip("link set lo up")?;
            ip(&format!("link set {far} up"))
        })?;
        Ok(network)
    }

    /// Runs something where the gateway is; what it starts stays there.
    pub fn at_gateway<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        at(&self.gateway, what)
    }

    /// Runs something where the clients are.
    pub fn at_client<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        at(&self.client, what)
    }

    /// Connects from an address of the client's.
    pub fn connect(&self, from: &str, to: SocketAddr, patience: Duration) -> Result<Peer> {
        let from: IpAddr = from.parse()?;
        self.at_client(move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&to.into(), patience).with_context(|| format!("connect from {from} to {to}"))?;
            Ok(Peer::new(socket))
        })
    }
}

/// On a thread of its own, so that no other test's is moved.
fn at<T: Send>(namespace: &File, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let run = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            what()
        };
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A new namespace: made by a program that has it as long as its input is open, and kept by our descriptor.
fn fresh() -> Result<File> {
    let mut holder =
        Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // It answers when it runs where it should.
    let made = (|| {
        let input = holder.stdin.as_mut().context("piped")?;
        input.write_all(b"x")?;
        holder.stdout.as_mut().context("piped")?.read_exact(&mut [0])?;
        File::open(format!("/proc/{}/ns/net", holder.id())).context("the namespace")
    })();
    drop(holder.stdin.take());
    holder.wait()?;
    made
}

/// Runs `ip` with these words.
pub fn ip(words: &str) -> Result<()> {
    let done = Command::new("ip").args(words.split(' ')).output().context("run ip")?;
    ensure!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
