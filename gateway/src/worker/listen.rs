//! Listening sockets: bound and held on the control side, lent to workers, each of which accepts on its own.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use abi::Action;
use socket2::{Domain, Protocol, Type};

use super::Worker;
use crate::config::model::ClientAddress;
use crate::limits::{ACCEPT_BACKLOG, LAST_HANDSHAKES_MS};
use crate::proxy::connection::{self, Connection};
use crate::rt::{self, AcceptStop, Listener, Socket};
use crate::snapshot::Snapshot;
use crate::tables::bans::unix_ms;

/// A listening socket on its way to a worker.
pub struct BoundListener {
    /// index into `Snapshot::listeners`
    pub index: usize,
    pub socket: TcpListener,
    /// Another process holds the same socket (the service manager): it does not close with us, whatever is queued.
    pub held_elsewhere: bool,
}

/// Dropped when accepting has ended: what is queued from then on is for whoever accepts next. The kernel wakes one of those
/// who wait on a socket, and if that one has just been told to stop, the connection waits unseen: so the next one begins
/// when the one before has stopped.
pub type Until = Arc<dyn Any + Send + Sync>;

/// What becomes of connections the kernel has queued when a worker stops accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// The socket closes: they are taken first, because the kernel would reset them.
    Take,
    /// Somebody else goes on accepting from this very socket.
    Leave,
}

/// One accept loop of a worker.
pub(super) struct Accepting {
    index: usize,
    stop: AcceptStop,
    held_elsewhere: bool,
    end: Rc<RefCell<Option<(Queued, Until)>>>,
}

/// Binds `address` so often; the kernel spreads connections over the sockets (SO_REUSEPORT). `beside`: a socket of ours is
/// bound there already.
pub fn bind(address: SocketAddr, count: usize, beside: bool) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 && !beside {
        // With SO_REUSEPORT a second gateway would silently take a share of the connections; without it the bind fails.
        drop(socket(address, false)?);
    }
    let mut sockets: Vec<TcpListener> = Vec::new();
    for _ in 0..count {
        // The kernel has chosen the port for the first one when it was 0.
        let address = sockets.first().map_or(Ok(address), TcpListener::local_addr)?;
        let socket = socket(address, true)?;
        socket.listen(ACCEPT_BACKLOG)?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
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

impl Worker {
    /// Accepts from `listener` from now on.
    pub(super) fn listen(self: &Rc<Worker>, listener: BoundListener) {
        let BoundListener { index, socket, held_elsewhere } = listener;
        match Listener::new(socket) {
            Ok((listener, stop)) => {
                let end = Rc::new(RefCell::new(None));
                self.accepting.borrow_mut().push(Accepting { index, stop, held_elsewhere, end: end.clone() });
                self.accept_loops.set(self.accept_loops.get() + 1);
                rt::spawn(accept(self.clone(), listener, index, end));
            }
            Err(error) => tracing::error!(worker = self.id, %error, "a listening socket was lost"),
        }
    }

    /// Stops accepting from the sockets of one listener, or of all.
    pub(super) fn unlisten(&self, index: Option<usize>, queued: Queued, until: &Until) {
        let ends = |accepting: &mut Accepting| index.is_none_or(|index| accepting.index == index);
        // Taken out first: a stopped accept runs on its own time.
        let stopped: Vec<Accepting> = self.accepting.borrow_mut().extract_if(.., ends).collect();
        for accepting in stopped {
            let queued = if accepting.held_elsewhere { Queued::Leave } else { queued };
            *accepting.end.borrow_mut() = Some((queued, until.clone()));
            accepting.stop.stop();
        }
    }

    /// Whether lists and bans let `client` in, whose connection came by the listener `index`.
    pub fn admits(&self, snapshot: &Snapshot, index: usize, client: IpAddr) -> bool {
        let bans = &self.shared().bans;
        let banned = || {
            bans.any()
                && bans.find(client, unix_ms()).is_some()
                && snapshot.lists.standing(client).action != Action::Manage
        };
        !snapshot.lists.verdict(client).denies() && snapshot.listeners[index].gate.admits(client) && !banned()
    }
}

/// Accepts until it is stopped.
async fn accept(worker: Rc<Worker>, listener: Listener, index: usize, end: Rc<RefCell<Option<(Queued, Until)>>>) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => take(&worker, socket, peer, index),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => break,
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
            }
        }
    }
    let (queued, until) = end.take().unzip();
    if queued == Some(Queued::Take) {
        match listener.shut_door() {
            // What is there already need not wait for those who are still on their way.
            Ok(()) => {
                take_queued(&worker, &listener, index);
                rt::sleep(Duration::from_millis(LAST_HANDSHAKES_MS)).await;
            }
            Err(_) => worker.core().accept_errors.inc(),
        }
        take_queued(&worker, &listener, index);
    }
    // The socket is closed before anybody hears that the loop has ended.
    drop(listener);
    drop(until);
    worker.accept_loops.set(worker.accept_loops.get() - 1);
    worker.end_if_done();
}

/// Serves what the kernel has queued.
fn take_queued(worker: &Rc<Worker>, listener: &Listener, index: usize) {
    loop {
        match listener.accept_queued() {
            Ok(Some((socket, peer))) => take(worker, socket, peer, index),
            Ok(None) => return,
            Err(_) => return worker.core().accept_errors.inc(),
        }
    }
}

/// Serves a connection, if there is room for it.
fn take(worker: &Rc<Worker>, socket: Socket, peer: SocketAddr, index: usize) {
    let core = worker.core();
    core.connections_accepted.inc();
    let shared = worker.shared();
    let pinned = worker.pinned();
    let settings = &pinned.snapshot.settings;
    let peer = peer.ip().to_canonical();
    let rule = pinned.snapshot.listeners[index].client_address;
    let introduced = rule == ClientAddress::ProxyProtocol;
    match rule {
        // Where the connection is the client, it ends here: a connection that is refused later has cost a request.
        ClientAddress::Peer if !worker.admits(&pinned.snapshot, index, peer) => {
            core.connections_refused_list.inc();
            return;
        }
        // Whoever is not believed would only tell lies.
        ClientAddress::ProxyProtocol if !settings.trusted_hops.iter().any(|hop| hop.contains(&peer)) => {
            core.proxy_headers_untrusted.inc();
            return;
        }
        ClientAddress::Peer | ClientAddress::Forwarded | ClientAddress::ProxyProtocol => {}
    }
    let place = match introduced {
        true => shared.connections.enter(settings.connections_max),
        false => shared.connections.enter_from(peer, settings.connections_max, settings.connections_per_address_max),
    };
    match place {
        Ok(place) => {
            // Built here and not in the task: a task that took the parts would keep room for them beside the whole.
            rt::spawn(connection::serve(Connection::new(Open::new(worker), socket, peer, introduced, index, place)));
        }
        Err(full) => worker.count_full(full),
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
