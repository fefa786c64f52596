//! Waits until the process at the other end of a loopback TCP connection has read what we sent.
//!
//! Cutting a request at an offset tests nothing when the kernel joins the two pieces in the reader's queue. The kernel
//! tells how full that queue is: `sock_diag(7)`, one exact look-up by address pair.

use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// A reader that has not taken the bytes by then does not want them now (back-pressure, or it is closing).
const WAIT_MAX: Duration = Duration::from_millis(30);

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// `nlmsghdr` before each message.
const HEADER_BYTES: usize = 16;
/// Where `idiag_rqueue` lies in `inet_diag_msg`: family, state, timer, retrans, the 48 bytes of the id, expires.
const RQUEUE_AT: usize = HEADER_BYTES + 4 + 48 + 4;

/// Waits until the reader's queue is empty. `false`: it did not become so soon, or cannot be seen here.
pub fn wait(socket: &Socket) -> bool {
    let address =
        |address: std::io::Result<socket2::SockAddr>| address.ok().and_then(|address| address.as_socket_ipv4());
    let (Some(ours), Some(theirs)) = (address(socket.local_addr()), address(socket.peer_addr())) else {
        return false;
    };
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match queued(theirs, ours) {
            Some(0) => return true,
            Some(_) if Instant::now() < deadline => std::thread::yield_now(),
            _ => return false,
        }
    }
}

/// Bytes that wait to be read in the socket bound to `local` and connected to `remote`.
fn queued(local: SocketAddrV4, remote: SocketAddrV4) -> Option<u32> {
    thread_local! {
        static DIAG: Option<Socket> = open();
    }
    DIAG.with(|diag| {
        let mut diag = diag.as_ref()?;
        diag.write_all(&request(local, remote)).ok()?;
        let mut answer = [0; 512];
        let filled = diag.read(&mut answer).ok()?;
        let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
        let field = answer[..filled].get(RQUEUE_AT..RQUEUE_AT + 4)?;
        (kind == SOCK_DIAG_BY_FAMILY).then_some(u32::from_ne_bytes(field.try_into().ok()?))
    })
}

fn open() -> Option<Socket> {
    let socket =
        Socket::new(Domain::from(AF_NETLINK), Type::RAW.cloexec(), Some(Protocol::from(NETLINK_SOCK_DIAG))).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    Some(socket)
}

/// `nlmsghdr` and `inet_diag_req_v2`.
fn request(local: SocketAddrV4, remote: SocketAddrV4) -> Vec<u8> {
    let mut message = Vec::with_capacity(72);
    message.extend(72_u32.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend([AF_INET, IPPROTO_TCP, 0, 0]); // family, protocol, no extensions, padding
    message.extend(u32::MAX.to_ne_bytes()); // any state
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    message.extend(local.ip().octets());
    message.extend([0; 12]); // the rest of an IPv6 address
    message.extend(remote.ip().octets());
    message.extend([0; 12]);
    message.extend([0; 4]); // any interface
    message.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    #[test]
    fn unread_bytes_are_seen_until_they_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        let (SocketAddr::V4(local), SocketAddr::V4(remote)) =
            (reader.local_addr().unwrap(), reader.peer_addr().unwrap())
        else {
            panic!("the listener is IPv4");
        };
        writer.write_all(b"abc").unwrap();
        let Some(waiting) = queued(local, remote) else {
            eprintln!("not run: this kernel has no sock_diag for TCP");
            return;
        };
        assert_eq!(waiting, 3);
        reader.read_exact(&mut [0; 3]).unwrap();
        assert!(wait(&Socket::from(writer)));
    }
}
