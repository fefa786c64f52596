//! Listening sockets: bound here, held here for as long as they are configured, lent to workers.
//!
//! A socket that closes resets the connections the kernel has queued for it, so none closes while it is needed: a worker
//! that goes leaves its sockets to others, another process that takes over gets these very sockets, and one that is
//! configured no more is emptied by its worker before it closes.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::SockRef;

use super::socket_address;
use super::start::StartError;
use crate::config::model::{self, Config};
use crate::snapshot::{Listener, Snapshot};
use crate::worker::{self, BoundListener};

/// Different addresses a process may have listened on in its life. Connections know their listener by its number, so
/// numbers are not used again for another address.
const SLOTS_MAX: usize = 4096;

/// What a listener is recognised by over reloads and from one process to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// As it is written.
    pub(super) address: String,
    /// Port 0 may be written several times: how many came before.
    pub(super) nth: usize,
}

/// The keys of the configured listeners, in their order.
pub(super) fn keys(config: &Config) -> Vec<Key> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let addresses = config.listener.iter().map(|listener| listener.address.as_str());
    addresses
        .map(|address| {
            let count = seen.entry(address).or_default();
            *count += 1;
            Key { address: address.to_owned(), nth: *count - 1 }
        })
        .collect()
}

/// Listening sockets somebody else opened for us.
#[derive(Default)]
pub(super) struct Given {
    pub(super) sockets: Vec<GivenSocket>,
}

pub(super) struct GivenSocket {
    pub(super) label: Label,
    pub(super) socket: TcpListener,
    /// Whoever gave it holds it, too, and goes on to.
    pub(super) held_elsewhere: bool,
}

/// What a given socket is meant for.
pub(super) enum Label {
    /// The process before us listened on it as this.
    Key(Key),
    /// The service manager's name for it; the socket's own address counts as well.
    Name(String),
}

impl Given {
    /// Takes those meant for the listener that has this key and is written like this.
    fn take(&mut self, key: &Key, written: &model::Listener) -> Vec<Lent> {
        let address = socket_address(&written.address);
        let meant = |given: &mut GivenSocket| match &given.label {
            Label::Key(other) => other == key,
            Label::Name(name) => {
                written.name.as_ref() == Some(name) || (address.is_some() && given.socket.local_addr().ok() == address)
            }
        };
        self.sockets.extract_if(.., meant).map(|given| Lent::new(given.socket, given.held_elsewhere)).collect()
    }
}

/// The listening sockets of this process.
#[derive(Default)]
pub(super) struct Sockets {
    slots: Vec<Slot>,
}

/// A listener by its number, which is its index here and in [`Snapshot::listeners`].
struct Slot {
    key: Key,
    rules: Arc<Listener>,
    closed: Arc<AtomicBool>,
    /// Empty: configured no more.
    sockets: Vec<Lent>,
}

struct Lent {
    socket: TcpListener,
    /// The service manager holds it, too.
    held_elsewhere: bool,
    /// Who accepts from it. More than one where the kernel does not let us open another beside it.
    workers: Vec<usize>,
}

impl Lent {
    /// To nobody yet.
    fn new(socket: TcpListener, held_elsewhere: bool) -> Lent {
        Lent { socket, held_elsewhere, workers: Vec::new() }
    }
}

/// What a configuration needs, opened and not yet in use.
pub(super) struct Plan {
    listeners: Vec<Planned>,
}

struct Planned {
    key: Key,
    fresh: Vec<Lent>,
}

impl Sockets {
    /// Opens what `config` needs for so many workers besides what is open. Nothing changes when it fails.
    pub(super) fn plan(&self, config: &Config, workers: usize, given: &mut Given) -> Result<Plan, StartError> {
        let mut listeners: Vec<Planned> = Vec::new();
        for (key, written) in keys(config).into_iter().zip(&config.listener) {
            let name = || written.name.clone().unwrap_or_else(|| written.address.clone());
            let failed = |error| StartError::Listen { listener: name(), address: written.address.clone(), error };
            let slot = self.slots.iter().find(|slot| slot.key == key);
            let mut fresh = given.take(&key, written);
            let open = slot.map(|slot| slot.sockets.as_slice()).unwrap_or_default();
            let first = open.iter().chain(&fresh).next().map(|lent| &lent.socket);
            let missing = workers.saturating_sub(open.len() + fresh.len());
            let address = match first {
                Some(first) => first.local_addr().map_err(failed)?,
                None => socket_address(&written.address).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?,
            };
            let shareable = first.is_none_or(|first| SockRef::from(first).reuse_port().unwrap_or(false));
            if shareable && missing > 0 {
                let planned = listeners.iter().flat_map(|planned| &planned.fresh);
                let mut ours = self.slots.iter().flat_map(|slot| &slot.sockets).chain(planned);
                let beside = first.is_some() || ours.any(|lent| port(&lent.socket) == Some(address.port()));
                match worker::bind(address, missing, beside) {
                    Ok(more) => fresh.extend(more.into_iter().map(|socket| Lent::new(socket, false))),
                    // Another user's socket, from the service manager: its one queue is shared.
                    Err(_) if first.is_some() => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            if slot.is_none() && self.slots.len() + listeners.len() >= SLOTS_MAX {
                let what = "too many different addresses were listened on since the start; start anew";
                return Err(failed(io::Error::other(what)));
            }
            listeners.push(Planned { key, fresh });
        }
        Ok(Plan { listeners })
    }

    /// Puts a plan into effect. `snapshot` has its listeners in the order of the configuration the plan was made for, and
    /// gets them by number. Returns the numbers of those that are configured no more: their workers are to be told.
    pub(super) fn adopt(&mut self, plan: Plan, snapshot: &mut Snapshot) -> Vec<usize> {
        let mut configured = vec![false; self.slots.len()];
        for (Planned { key, fresh }, rules) in plan.listeners.into_iter().zip(snapshot.listeners.iter()) {
            let at = self.slots.iter().position(|slot| slot.key == key).unwrap_or_else(|| {
                configured.push(false);
                self.slots.push(Slot { key, rules: rules.clone(), closed: Arc::default(), sockets: Vec::new() });
                self.slots.len() - 1
            });
            configured[at] = true;
            let slot = &mut self.slots[at];
            slot.closed.store(false, Ordering::Relaxed);
            slot.rules = Arc::new(Listener { closed: slot.closed.clone(), ..Listener::clone(rules) });
            if slot.sockets.is_empty()
                && let Some(address) = fresh.first().and_then(|lent| lent.socket.local_addr().ok())
            {
                tracing::info!(listener = rules.name, %address, "listening");
            }
            slot.sockets.extend(fresh);
        }
        let mut closed = Vec::new();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if !configured[at] && !slot.sockets.is_empty() {
                tracing::info!(listener = slot.rules.name, "no longer listening");
                slot.closed.store(true, Ordering::Relaxed);
                // The workers' own handles keep it open until they have emptied its queue.
                slot.sockets.clear();
                closed.push(at);
            }
        }
        snapshot.listeners = Arc::new(self.slots.iter().map(|slot| slot.rules.clone()).collect());
        closed
    }

    /// Lends every socket to somebody among `workers`, and something of every listener to each of them. Returns who is to
    /// accept from what in addition.
    pub(super) fn lend(&mut self, workers: &[usize]) -> io::Result<Vec<(usize, BoundListener)>> {
        let mut loans = Vec::new();
        if workers.is_empty() {
            return Ok(loans);
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            for lent in &mut slot.sockets {
                lent.workers.retain(|worker| workers.contains(worker));
            }
            let held = |slot: &Slot, worker| slot.sockets.iter().filter(|lent| lent.workers.contains(&worker)).count();
            let mut lend = |lent: &mut Lent, worker| -> io::Result<()> {
                let held_elsewhere = lent.held_elsewhere;
                loans.push((worker, BoundListener { index, socket: lent.socket.try_clone()?, held_elsewhere }));
                lent.workers.push(worker);
                Ok(())
            };
            for at in 0..slot.sockets.len() {
                if slot.sockets[at].workers.is_empty() {
                    let poorest = workers.iter().copied().min_by_key(|&worker| held(slot, worker));
                    let poorest = poorest.expect("there are workers");
                    lend(&mut slot.sockets[at], poorest)?;
                }
            }
            for &worker in workers {
                if held(slot, worker) == 0
                    && let Some(least) = slot.sockets.iter_mut().min_by_key(|lent| lent.workers.len())
                {
                    lend(least, worker)?;
                }
            }
        }
        Ok(loans)
    }

    /// Takes back what was lent to a worker whose thread has ended: another worker may get its number.
    pub(super) fn take_back(&mut self, worker: usize) {
        for lent in self.slots.iter_mut().flat_map(|slot| &mut slot.sockets) {
            lent.workers.retain(|&id| id != worker);
        }
    }

    /// Every socket and what it is, for the process that takes over.
    pub(super) fn all(&self) -> io::Result<Vec<GivenSocket>> {
        let lent = self.slots.iter().flat_map(|slot| slot.sockets.iter().map(|lent| (&slot.key, lent)));
        lent.map(|(key, lent)| {
            let label = Label::Key(key.clone());
            Ok(GivenSocket { label, socket: lent.socket.try_clone()?, held_elsewhere: lent.held_elsewhere })
        })
        .collect()
    }

    /// The numbers of the listeners that are open and have none of these keys.
    pub(super) fn others(&self, keys: &[Key]) -> Vec<usize> {
        let is_other = |slot: &Slot| !slot.sockets.is_empty() && !keys.contains(&slot.key);
        self.slots.iter().enumerate().filter(|(_, slot)| is_other(slot)).map(|(at, _)| at).collect()
    }

    /// Lets go of all: what workers hold closes with them.
    pub(super) fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.sockets.clear());
    }
}

fn port(socket: &TcpListener) -> Option<u16> {
    socket.local_addr().ok().as_ref().map(SocketAddr::port)
}
