//! How a request gets to its endpoint: by a connection that is kept, a stream on one that is shared, or a new one; where it is
//! agreed on which HTTP is spoken, by what the service said last.

use super::h2::Place;
use super::{Channel, ConnectError, Connection, Opened};
use crate::balance::{Http, Identity, Wanted};
use crate::rt::deadline::Guard;
use crate::snapshot::PoolSettings;
use crate::worker::Worker;

/// What a request goes by, and how that was opened; `None`: it has carried others.
pub type Reached = (Channel, Option<Opened>);

/// Whom to reach, and how long that may take.
pub struct Reaching<'a> {
    pub worker: &'a Worker,
    pub identity: &'a Identity,
    pub settings: PoolSettings,
    /// Not by a connection that was kept.
    pub fresh: bool,
    /// Only HTTP/1.1 can carry it.
    pub http1: bool,
    /// The exchange's.
    pub guard: &'a Guard,
    pub wait_ms: u64,
}

/// The error is safe to retry: nothing was sent.
pub async fn reach(to: &Reaching<'_>) -> Result<Reached, ConnectError> {
    let sessions = &to.worker.sessions;
    match to.identity.link.http {
        Wanted::Two => Box::pin(to.share()).await,
        Wanted::One => to.own().await,
        Wanted::Either if to.http1 || sessions.speaks_one(to.identity) => to.own().await,
        Wanted::Either => match to.kept() {
            Some(kept) => Ok(kept),
            None => Box::pin(to.share()).await,
        },
    }
}

impl Reaching<'_> {
    fn kept(&self) -> Option<Reached> {
        let kept = if self.fresh { None } else { self.worker.pool.take(self.identity) };
        kept.map(|kept| (Channel::H1(kept), None))
    }

    /// By a connection of its own.
    async fn own(&self) -> Result<Reached, ConnectError> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let Reaching { worker, identity, settings, http1, guard, wait_ms, .. } = *self;
        let connection = Box::pin(Connection::open(identity, http1, guard, wait_ms)).await?;
        let opened = Some(connection.opened);
        match connection.http {
            Http::One => Ok((Channel::H1(connection), opened)),
            // It spoke HTTP/1.1 until now.
            Http::Two => {
                let call = Box::pin(worker.sessions.adopt(identity, connection, settings)).await?;
                Ok((Channel::H2(call), opened))
            }
        }
    }

    /// By a connection that others use, too.
    async fn share(&self) -> Result<Reached, ConnectError> {
        let Reaching { worker, identity, settings, guard, wait_ms, .. } = *self;
        match worker.sessions.call(identity, settings, guard, wait_ms).await? {
            Place::Stream { call, opened } => Ok((Channel::H2(call), opened)),
            Place::Own(connection) => {
                let opened = Some(connection.opened);
                Ok((Channel::H1(connection), opened))
            }
            Place::Elsewhere => self.own().await,
        }
    }
}
