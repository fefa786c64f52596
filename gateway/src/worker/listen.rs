//! Listening sockets: bound on the control side for all workers at once, accepted from by each on its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::Worker;
use crate::limits::ACCEPT_BACKLOG;
use crate::proxy::h1;
use crate::rt::{self, AcceptStop, Listener};
use crate::tables::connections::Full;

/// A listening socket on its way to its worker.
pub struct BoundListener {
    /// index into `Snapshot::listeners`
    pub index: usize,
    socket: TcpListener,
}

impl BoundListener {
    /// Opens it on the worker's ring.
    pub fn open(self) -> io::Result<(usize, Listener, AcceptStop)> {
        let (listener, stop) = Listener::new(self.socket)?;
        Ok((self.index, listener, stop))
    }
}

/// Binds `address` once for each of `workers`; the kernel spreads connections over them (SO_REUSEPORT). Returns the
/// address, whose port the kernel chose when it was 0.
pub fn bind(index: usize, address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<BoundListener>)> {
    if address.port() != 0 {
        // With SO_REUSEPORT a second gateway would silently take a share of the connections; without it the bind fails.
        drop(socket(address, false)?);
    }
    let first = socket(address, true)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(socket(address, true)?);
    }
    for socket in &sockets {
        socket.listen(ACCEPT_BACKLOG)?;
    }
    Ok((address, sockets.into_iter().map(|socket| BoundListener { index, socket: socket.into() }).collect()))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` are two listeners, each what it says.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts until it is stopped.
pub(super) async fn accept(worker: Rc<Worker>, listener: Listener, index: usize) {
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => {
                let core = worker.core();
                match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        core.connections_refused_fd.inc();
                        // The kernel keeps the connection in its queue; asking again at once would only spin.
                        rt::sleep(Duration::from_millis(50)).await;
                    }
                    _ => core.accept_errors.inc(),
                }
                continue;
            }
        };
        let core = worker.core();
        core.connections_accepted.inc();
        let shared = worker.shared();
        let place = shared.connections.enter(peer.ip(), shared.connections_max, shared.connections_per_address_max);
        let place = match place {
            Ok(place) => place,
            Err(Full::Total) => {
                core.connections_refused_total_limit.inc();
                continue;
            }
            Err(Full::Address) => {
                core.connections_refused_address_limit.inc();
                continue;
            }
        };
        // Built here and not in the task: a task that took the parts would keep room for them beside the whole.
        rt::spawn(h1::serve(h1::Connection::new(Open::new(&worker), socket, peer.ip(), index, place)));
    }
}

/// A worker as one of its connections holds it: counted as open until it is dropped, by a panic too.
pub struct Open {
    worker: Rc<Worker>,
}

impl Open {
    fn new(worker: &Rc<Worker>) -> Open {
        worker.opened();
        Open { worker: worker.clone() }
    }

    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.closed();
    }
}
