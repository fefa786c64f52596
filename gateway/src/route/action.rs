//! What a route does with a request that passed its filters: one upstream, one of several, or an answer of its own.

use std::net::IpAddr;

use bytes::Bytes;

use crate::balance::{Destination, Key, Keyed};
use crate::config::model::{self, KeepQuery, SplitBy};
use crate::filter::Context;
use crate::filter::rewrite::Path;
use crate::proxy::fields::Fields;
use crate::proxy::head::ResponseHead;
use crate::refusal::Refusal;

/// What a route does.
pub enum Action {
    Upstream(Destination),
    Split(Split),
    Redirect(Box<Redirect>),
    Respond(Box<Respond>),
}

/// Requests divided among upstreams.
pub struct Split {
    /// Each with the sum of the weights up to it and with it.
    targets: Vec<(u64, Destination)>,
    /// What keeps a client with one target.
    by: Option<Key>,
}

/// An answer that sends the client elsewhere.
pub struct Redirect {
    status: u16,
    scheme: Option<&'static str>,
    host: Option<Box<str>>,
    path: Path,
    query: bool,
}

/// A fixed answer.
pub struct Respond {
    status: u16,
    content_type: Box<str>,
    body: Bytes,
}

impl Action {
    /// What a checked route does. `to` finds what a name, and a subset of it, stand for.
    pub fn of(route: &model::Route, to: impl Fn(&str, Option<&model::Subset>) -> Destination) -> Action {
        if let Some(split) = &route.split {
            return Action::Split(Split::of(split, to));
        }
        if let Some(redirect) = &route.redirect {
            return Action::Redirect(Box::new(Redirect {
                status: redirect.status.0,
                scheme: redirect.scheme.map(model::Scheme::text),
                host: redirect.host.as_deref().map(Box::from),
                path: Path::of(redirect.path.as_deref(), redirect.prefix.as_deref()),
                query: redirect.query == KeepQuery::Keep,
            }));
        }
        if let Some(respond) = &route.respond {
            return Action::Respond(Box::new(Respond {
                status: respond.status,
                content_type: respond.content_type.as_deref().unwrap_or("text/plain; charset=utf-8").into(),
                body: Bytes::from(respond.body.clone()),
            }));
        }
        let upstream = route.upstream.as_deref().expect("config::load found one action");
        Action::Upstream(to(upstream, route.subset.as_ref()))
    }
}

impl Split {
    fn of(written: &model::Split, to: impl Fn(&str, Option<&model::Subset>) -> Destination) -> Split {
        let mut sum = 0;
        let weighted = written.targets.iter().filter(|target| target.weight > 0);
        let targets = weighted.map(|target| {
            sum += u64::from(target.weight);
            (sum, to(&target.upstream, target.subset.as_ref()))
        });
        let by = written.by.as_ref().map(|by| match by {
            SplitBy::Client => Key::Client,
            SplitBy::Header(header) => Key::Header(header.to_ascii_lowercase().into()),
            SplitBy::Cookie(cookie) => Key::Cookie(cookie.as_str().into()),
        });
        Split { targets: targets.collect(), by }
    }

    /// Each target with its share, 0 to 1.
    pub fn shares(&self) -> impl Iterator<Item = (Destination, f64)> {
        let whole = self.targets.last().map_or(1, |(sum, _)| *sum) as f64;
        let mut before = 0;
        self.targets.iter().map(move |&(sum, target)| {
            let share = (sum - before) as f64 / whole;
            before = sum;
            (target, share)
        })
    }

    /// The target of a request. `lot`: 64 random bits, for whom nothing keeps with a target.
    pub fn pick(&self, fields: &Fields, client: IpAddr, lot: u64) -> Destination {
        let request = Keyed { fields, client: Some(client), path: b"" };
        let bits = self.by.as_ref().and_then(|by| by.bits(request)).unwrap_or(lot);
        let whole = self.targets.last().map_or(1, |(sum, _)| *sum);
        // The high half of the product is uniform below `whole` (Lemire).
        let at = ((u128::from(bits) * u128::from(whole)) >> 64) as u64;
        let target = self.targets.partition_point(|(sum, _)| *sum <= at);
        self.targets[target].1
    }
}

impl Redirect {
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The answer, or why there is none.
    pub fn answer(&self, context: &Context<'_>) -> Result<(ResponseHead, Bytes), Refusal> {
        let mut location = Vec::new();
        if self.scheme.is_some() || self.host.is_some() {
            let authority = context.request.authority();
            let host = match (&self.host, self.scheme) {
                (Some(host), _) => host.as_bytes(),
                // The port belonged to the other scheme.
                (None, Some(_)) => http1::host_parts(authority).map_or(authority, |(name, _)| name),
                (None, None) => authority,
            };
            if host.is_empty() {
                // HTTP/1.0 without Host: there is nothing to say where to.
                return Err(Refusal::Malformed(http1::Fault::HostMissing));
            }
            location.extend_from_slice(self.scheme.unwrap_or(context.facts.scheme).as_bytes());
            location.extend_from_slice(b"://");
            location.extend_from_slice(host);
        }
        match self.path.make(context)? {
            Some(path) => location.extend_from_slice(&path),
            None => location.extend_from_slice(context.request.path()),
        }
        if let Some(query) = context.request.query().filter(|_| self.query) {
            location.push(b'?');
            location.extend_from_slice(query);
        }
        let mut head = ResponseHead::new(self.status);
        head.fields.add(b"location", &location);
        Ok((head, Bytes::new()))
    }
}

impl Respond {
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The answer.
    pub fn answer(&self) -> (ResponseHead, Bytes) {
        let mut head = ResponseHead::new(self.status);
        if !self.body.is_empty() {
            head.fields.add(b"content-type", self.content_type.as_bytes());
        }
        (head, self.body.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Split {
        let written: model::Split = toml::from_str(text).expect(text);
        Split::of(&written, |name, _| Destination::whole(name.parse().expect("a number")))
    }

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
        fields
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn weights_divide_the_whole_range() {
        let split =
            split("targets = [{ upstream = '0', weight = 3 }, { upstream = '1', weight = 0 }, { upstream = '2' }]");
        let mut counts = [0; 3];
        for step in 0..400u64 {
            counts[split.pick(&Fields::new(), CLIENT, step * (u64::MAX / 400) + u64::MAX / 800).upstream] += 1;
        }
        assert_eq!(counts, [300, 0, 100]);
        assert_eq!(split.pick(&Fields::new(), CLIENT, u64::MAX).upstream, 2);
        assert_eq!(split.pick(&Fields::new(), CLIENT, 0).upstream, 0);
    }

    #[test]
    fn a_client_stays_with_its_target() {
        let text = |by: &str| format!("by = '{by}'\ntargets = [{{ upstream = '0' }}, {{ upstream = '1' }}]");
        let by_cookie = split(&text("cookie:id"));
        let by_header = split(&text("header:X-User"));
        let by_client = split(&text("client"));
        let mut seen = [0; 2];
        for user in 0..200 {
            let head = fields(&[("cookie", &format!("a=b; id={user}")), ("x-user", &user.to_string())]);
            let client = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, user as u8));
            let first = by_cookie.pick(&head, CLIENT, 0);
            seen[first.upstream] += 1;
            assert_eq!(by_cookie.pick(&head, CLIENT, u64::MAX), first);
            // The same value is the same client, wherever it stands.
            assert_eq!(by_header.pick(&head, CLIENT, 7), first);
            assert_eq!(by_client.pick(&head, client, 0), by_client.pick(&Fields::new(), client, u64::MAX));
        }
        assert!(seen.iter().all(|count| (60..140).contains(count)), "{seen:?}");
        // Without the cookie it is drawn.
        assert_ne!(by_cookie.pick(&Fields::new(), CLIENT, 0), by_cookie.pick(&Fields::new(), CLIENT, u64::MAX));
    }
}
