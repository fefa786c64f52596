//! Connections that carry one exchange at a time (HTTP/1): opened, kept and used again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::ConnectError;
use super::departed::Present;
use crate::balance::{Http, Identity, Prehashed, Wanted};
use crate::config::model::ProxyVersion;
use crate::limits::TICK_MS;
use crate::proxy::proxy_protocol::said;
use crate::proxy::wire::{Chunk, Halt, Wait, Wire};
use crate::rt::deadline::{Cause, Guard, now_ms};
use crate::rt::{Either, Peer, Socket, select};
use crate::snapshot::PoolSettings;
use crate::tls::{Agreed, NoAgreement, Service};

/// Kept connections asked in one sweep whether they are still good.
const ASKED_PER_SWEEP: usize = 256;

/// How a connection was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// By a ticket of an earlier handshake; `None`: without TLS.
    pub resumed: Option<bool>,
}

/// A connection to an endpoint.
pub struct Connection {
    pub wire: Wire,
    /// What is spoken on it.
    pub http: Http,
    pub opened: Opened,
    identity: Identity,
    born_ms: u64,
    /// It has served before: the service may have closed it meanwhile.
    pub reused: bool,
}

impl Connection {
    /// Opens a connection under the guard of an exchange. `http1`: nothing else may be agreed on. The error is safe to retry:
    /// nothing was sent.
    pub async fn open(
        identity: &Identity,
        http1: bool,
        guard: &Guard,
        wait_ms: u64,
    ) -> Result<Connection, ConnectError> {
        let begun_ms = now_ms();
        let mut is_again = false;
        loop {
            let left_ms = wait_ms.saturating_sub(now_ms() - begun_ms).max(1);
            guard.arm(left_ms, Cause::Connect);
            let result = select(Socket::connect(&identity.peer), guard.over()).await;
            guard.disarm();
            let mut wire = match result {
                Either::Left(Ok(socket)) => Wire::plain(socket),
                Either::Left(Err(error)) => return Err(ConnectError::Failed(error)),
                Either::Right(cause) => return Err(ConnectError::Over(cause)),
            };
            if let Some(version) = identity.link.proxy {
                let ms = wait_ms.saturating_sub(now_ms() - begun_ms).max(1);
                Box::pin(announce(&mut wire, version, identity, ms)).await?;
            }
            let mut http = if identity.link.http == Wanted::Two { Http::Two } else { Http::One };
            let mut opened = Opened { resumed: None };
            if let Some(service) = &identity.link.tls {
                let ms = wait_ms.saturating_sub(now_ms() - begun_ms).max(1);
                match Box::pin(secure(&mut wire, (service, http1), guard, ms)).await {
                    Ok(agreed) => {
                        http = if agreed.http2 { Http::Two } else { Http::One };
                        opened.resumed = Some(agreed.resumed);
                    }
                    // What was remembered of the service is good no more: once without that.
                    Err(ConnectError::Tls(NoAgreement { is_stale: true, .. })) if !is_again => {
                        is_again = true;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let (identity, born_ms) = (identity.clone(), now_ms());
            return Ok(Connection { wire, http, opened, identity, born_ms, reused: false });
        }
    }
}

/// Says whom a connection serves, before anything else.
async fn announce(wire: &mut Wire, version: ProxyVersion, identity: &Identity, ms: u64) -> Result<(), ConnectError> {
    let to = if let Peer::Tcp(address) = identity.peer { Some(address) } else { None };
    let header = Chunk::Shared(said::header(version, identity.client, to).into());
    wire.writer.write(header, Wait { ms, cause: Cause::Connect }).await.map_err(|halt| match halt {
        Halt::Expired(cause) => ConnectError::Over(cause),
        Halt::Broken(error) => ConnectError::Failed(error),
        Halt::Closed | Halt::Slow => ConnectError::Failed(std::io::ErrorKind::ConnectionReset.into()),
    })
}

/// Agrees on TLS with a service, in at most `ms`.
async fn secure(
    wire: &mut Wire,
    (service, http1): (&Service, bool),
    guard: &Guard,
    ms: u64,
) -> Result<Agreed, ConnectError> {
    if let Some(cause) = guard.fired() {
        return Err(ConnectError::Over(cause));
    }
    guard.attach(Some(wire.fd()));
    let done = wire.connect_tls(service, http1, Wait { ms, cause: Cause::Connect }).await;
    guard.attach(None);
    done.map_err(|error| match guard.fired().or(wire.fired()) {
        Some(cause) => ConnectError::Over(cause),
        None => ConnectError::Tls(error),
    })
}

/// Idle connections of one worker, newest last, by what must be equal for one to be used again.
#[derive(Default)]
pub struct Pool {
    pub(super) idle: RefCell<HashMap<Identity, Vec<Idle>, BuildHasherDefault<Prehashed>>>,
    pub(super) count: Cell<usize>,
    pub(super) present: RefCell<Present>,
}

pub(super) struct Idle {
    wire: Wire,
    opened: Opened,
    born_ms: u64,
    /// When it was last known to be good.
    good_ms: u64,
    expires_ms: u64,
}

impl Pool {
    /// A kept connection. One that idled for longer than a tick is asked first whether its peer closed it.
    pub fn take(&self, identity: &Identity) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(identity)?;
        let now = now_ms();
        while let Some(candidate) = kept.pop() {
            self.count.set(self.count.get() - 1);
            let good = candidate.expires_ms > now && (candidate.good_ms + TICK_MS >= now || candidate.wire.is_quiet());
            if good {
                return Some(Connection {
                    wire: candidate.wire,
                    http: Http::One,
                    opened: candidate.opened,
                    identity: identity.clone(),
                    born_ms: candidate.born_ms,
                    reused: true,
                });
            }
        }
        None
    }

    /// Keeps a connection whose last exchange is complete. Beyond the bound it is closed, and when something came behind the
    /// answer that the next exchange would take for its own.
    pub fn put(&self, connection: Connection, settings: PoolSettings) {
        if !connection.wire.has_no_rest() {
            return;
        }
        let now = now_ms();
        let expires_ms = (connection.born_ms.saturating_add(settings.age_ms)).min(now.saturating_add(settings.idle_ms));
        let mut idle = self.idle.borrow_mut();
        // The key is cloned for the first connection to an endpoint only.
        if !idle.contains_key(&connection.identity) {
            idle.insert(connection.identity.clone(), Vec::new());
        }
        let kept = idle.get_mut(&connection.identity).expect("inserted above");
        if kept.len() < settings.idle_max && expires_ms > now {
            self.present.borrow_mut().see(&connection.identity);
            let Connection { wire, opened, born_ms, .. } = connection;
            kept.push(Idle { wire, opened, born_ms, good_ms: now, expires_ms });
            self.count.set(self.count.get() + 1);
        }
    }

    /// Closes what is too old, and what its peer closed. Called by the worker's sweep.
    pub fn sweep(&self) {
        let now = now_ms();
        let mut asked = 0;
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, kept| {
            kept.retain_mut(|candidate| {
                if candidate.expires_ms <= now {
                    return false;
                }
                if candidate.good_ms + 4 * TICK_MS >= now || asked == ASKED_PER_SWEEP {
                    return true;
                }
                asked += 1;
                candidate.good_ms = now;
                candidate.wire.is_quiet()
            });
            !kept.is_empty()
        });
        self.count.set(idle.values().map(Vec::len).sum());
    }

    /// Closes all of them.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.count.set(0);
    }

    pub fn len(&self) -> usize {
        self.count.get()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
