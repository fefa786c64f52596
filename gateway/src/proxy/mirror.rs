//! Copies of requests for other upstreams (`mirror`): sent detached, their answers dropped, never waited for.
//!
//! A copy of a request without a body leaves at once, one with a body when the exchange is over and the body went up whole: it
//! is kept beside its upload up to a bound, and a longer one is not copied. At most [`crate::limits::MIRRORS_PER_WORKER_MAX`] copies run on a worker at one time; one more is not sent. Both are counted.

use std::rc::Rc;

use bytes::Bytes;
use http1::Known;

use super::fetch::{self, Subrequest};
use super::fields::Fields;
use super::head::RequestHead;
use super::tee::Tee;
use crate::route::condition::lot;
use crate::rt::spawn;
use crate::snapshot::{HostPolicy, Mirror};
use crate::worker::{Pinned, Worker};

/// Copies of one request that were drawn, until its body is whole.
pub struct Mirroring<'a> {
    mirrors: Vec<&'a Mirror>,
    /// What of the body went up.
    tee: Tee,
}

/// Mirrors of one route are drawn apart.
const MIRROR_DRAW: u64 = 16;

impl<'a> Mirroring<'a> {
    /// Draws which of `mirrors` get a copy of the request with this id.
    pub fn draw(mirrors: &'a [Mirror], request_id: &[u8]) -> Option<Box<Mirroring<'a>>> {
        let drawn = mirrors.iter().zip(MIRROR_DRAW..).filter(|(mirror, salt)| lot(request_id, *salt) < mirror.share);
        let mirrors: Vec<&Mirror> = drawn.map(|(mirror, _)| mirror).collect();
        let bytes_max = mirrors.iter().map(|mirror| mirror.body_bytes_max).max()?;
        Some(Box::new(Mirroring { mirrors, tee: Tee::new(bytes_max) }))
    }

    pub fn tee(&self) -> &Tee {
        &self.tee
    }

    /// Sends the copies. The request's body went up whole.
    pub fn send(self, worker: &Rc<Worker>, pinned: &Rc<Pinned>, head: &RequestHead) {
        let body = self.tee.into_bytes().map(Bytes::from);
        for mirror in self.mirrors {
            let core = worker.core();
            let Some(body) = body.as_ref().filter(|body| body.len() <= mirror.body_bytes_max) else {
                core.mirrors_too_long.inc();
                continue;
            };
            let Some(place) = worker.enter_mirror() else {
                core.mirrors_too_many.inc();
                continue;
            };
            core.mirrors_sent.inc();
            let settings = &pinned.snapshot.upstreams[mirror.to.upstream];
            let mut fields = Fields::new();
            // The body is here: nobody is asked whether to send it.
            let kept = head.fields.iter().filter(|(_, _, known)| *known != Known::Expect);
            kept.for_each(|(name, value, _)| fields.add(name, value));
            let target = [head.sent_path(), head.query().map_or(&b""[..], |_| b"?"), head.query().unwrap_or_default()];
            let subrequest = Subrequest {
                to: mirror.to,
                method: head.method,
                method_text: Some(head.method_text().into()),
                // Paths and queries of a parsed head are ASCII.
                target: String::from_utf8_lossy(&target.concat()).into_owned(),
                host: match (head.sent_host(), &settings.host) {
                    (Some(host), _) => Some(host.into()),
                    (None, HostPolicy::Keep) => Some(head.authority().into()),
                    (None, HostPolicy::Endpoint) => None,
                    (None, HostPolicy::Fixed(host)) => Some(host.as_bytes().into()),
                },
                fields,
                body: body.clone(),
                wait_ms: settings.timeouts.total,
                keep_body: false,
                once: true,
            };
            let (worker, pinned) = (worker.clone(), pinned.clone());
            spawn(async move {
                if fetch::fetch(worker.clone(), pinned, subrequest).await.is_err() {
                    worker.core().mirrors_failed.inc();
                }
                drop(place);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Destination;

    #[test]
    fn shares_are_drawn_by_the_request() {
        let mirrors = [("a", 1_000_000), ("b", 500_000), ("c", 0)];
        let mirrors: Vec<Mirror> = (0..)
            .zip(mirrors)
            .map(|(upstream, (_, share))| Mirror { to: Destination::whole(upstream), share, body_bytes_max: 10 })
            .collect();
        let mut counts = [0; 3];
        for number in 0..1000u32 {
            let id = format!("{number:032x}");
            for drawn in Mirroring::draw(&mirrors, id.as_bytes()).expect("the first is always drawn").mirrors {
                counts[drawn.to.upstream] += 1;
            }
        }
        assert!(counts[0] == 1000 && (400..600).contains(&counts[1]) && counts[2] == 0, "{counts:?}");
        assert!(Mirroring::draw(&mirrors[2..], b"x").is_none());
    }
}
