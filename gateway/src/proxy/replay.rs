//! What of a request's body can be sent again: what is here is held, what is still on its way is kept beside its upload.

use bytes::Bytes;

use super::body::{Body, Length};
use super::h1::body::BodyError;
use super::tee::Tee;
use super::wire::Chunk;

/// What would be sent again.
pub enum Replay {
    /// It cannot be.
    Not,
    Empty,
    Held(Option<Bytes>),
    Kept(Tee),
}

impl Replay {
    /// What it takes to send `body` a second time. One that is here whole is taken out and held; one of at most `bytes_max`
    /// that is not is kept on its way, if `keeps`.
    pub fn hold(body: &mut Body<'_>, bytes_max: usize, keeps: bool) -> Replay {
        if body.ended() {
            return Replay::Empty;
        }
        let whole = match body {
            Body::Held { bytes, .. } => return Replay::Held(bytes.clone()),
            Body::Wire { body, .. } => body.buffered_whole(bytes_max),
            Body::Stream { body } => body.buffered_whole(bytes_max),
            Body::Tunnel { .. } | Body::Decoded(_) | Body::Again(_) => None,
        };
        match (whole, body.length()) {
            (Some(bytes), _) => {
                *body = Body::held(Some(bytes.clone()));
                Replay::Held(Some(bytes))
            }
            (None, Length::Exact(length)) if length > bytes_max as u64 => Replay::Not,
            (None, _) if keeps => Replay::Kept(Tee::new(bytes_max)),
            (None, _) => Replay::Not,
        }
    }

    /// What the upload must show its pieces to.
    pub fn tee(&self) -> Option<&Tee> {
        match self {
            Replay::Kept(tee) => Some(tee),
            _ => None,
        }
    }

    /// Whether the body can be sent from its beginning. `still`: no piece of it is on its way from the client, and none would
    /// be lost by stopping.
    pub fn is_whole(&self, still: bool) -> bool {
        match self {
            Replay::Not => false,
            Replay::Empty | Replay::Held(_) => true,
            Replay::Kept(tee) => still && !tee.is_over(),
        }
    }

    /// Puts the body back as it was. `false`: the request must not be repeated.
    pub fn restore(self, body: &mut Body<'_>) -> bool {
        match self {
            Replay::Not => false,
            Replay::Empty => true,
            Replay::Held(bytes) => {
                *body = Body::held(bytes);
                true
            }
            Replay::Kept(tee) => {
                let Some(seen) = tee.into_bytes() else { return false };
                let source = std::mem::replace(body, Body::held(None));
                *body = Body::Again(Box::new(match source {
                    // Handed out whole, or not at all.
                    Body::Again(again) if again.beginning.is_some() => *again,
                    Body::Again(again) => Again::new(seen, again.source),
                    source => Again::new(seen, source),
                }));
                true
            }
        }
    }
}

/// A body whose beginning was sent before.
pub struct Again<'a> {
    beginning: Option<Bytes>,
    /// The rest, and what is known of the whole.
    source: Body<'a>,
}

impl<'a> Again<'a> {
    fn new(seen: Vec<u8>, source: Body<'a>) -> Again<'a> {
        Again { beginning: (!seen.is_empty()).then(|| seen.into()), source }
    }

    pub fn source(&self) -> &Body<'a> {
        &self.source
    }

    pub fn source_mut(&mut self) -> &mut Body<'a> {
        &mut self.source
    }

    /// What has not been sent yet, for who wants no more of it.
    pub fn rest(&mut self) -> &mut Body<'a> {
        self.beginning = None;
        &mut self.source
    }

    pub fn ended(&self) -> bool {
        self.beginning.is_none() && self.source.ended()
    }

    pub async fn next(&mut self) -> Result<Option<Chunk>, BodyError> {
        match self.beginning.take() {
            Some(bytes) => Ok(Some(Chunk::Shared(bytes))),
            None => self.source.next().await,
        }
    }

    pub fn next_buffered(&mut self) -> Result<Option<Chunk>, BodyError> {
        match self.beginning.take() {
            Some(bytes) => Ok(Some(Chunk::Shared(bytes))),
            None => self.source.next_buffered(),
        }
    }
}
