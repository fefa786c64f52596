//! Whom a connection is to and what is spoken on it: what must be equal for a kept one to be used again.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use crate::config::model::{self, ProxyVersion, UpstreamProtocol};
use crate::rt::Peer;
use crate::tls::{Service, ServiceTls};

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// How an endpoint is spoken to: the same for all addresses of one host.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Link {
    pub http: Wanted,
    /// `None`: plain HTTP.
    pub tls: Option<Service>,
    /// Connections begin with a header that names their client.
    pub proxy: Option<ProxyVersion>,
}

/// Which HTTP is to be spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Wanted {
    #[default]
    One,
    Two,
    /// What is agreed on within TLS.
    Either,
}

/// Which HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

impl Link {
    /// To an endpoint of `upstream` at this host, as it is written; `None`: a Unix socket. `tls`: what was read for the upstream;
    /// there is such where it speaks TLS.
    pub fn of(upstream: &model::Upstream, host: Option<&str>, tls: Option<&Arc<ServiceTls>>) -> Link {
        let http = match upstream.protocol() {
            UpstreamProtocol::Http1 => Wanted::One,
            UpstreamProtocol::Http2 => Wanted::Two,
            UpstreamProtocol::Auto => Wanted::Either,
        };
        let tls = upstream.tls.as_ref().map(|_| {
            let service = tls.and_then(|tls| tls.service(host.unwrap_or_default()));
            service.expect("files were read with the configuration, and every endpoint has a name that can be verified")
        });
        Link { http, tls, proxy: upstream.proxy_protocol }
    }
}

/// Whom a connection is to.
#[derive(Debug, Clone)]
pub struct Identity {
    pub peer: Peer,
    pub link: Arc<Link>,
    /// Whom alone it serves, where it says so itself ([`Link::proxy`]).
    pub client: Option<IpAddr>,
    /// Of everything else here, so that a pool need not hash it again.
    hash: u64,
}

impl Identity {
    pub fn new(peer: Peer, link: Arc<Link>) -> Identity {
        Identity { hash: HASHER.hash_one((&peer, &*link)), peer, link, client: None }
    }

    /// The same endpoint, for one client.
    pub fn for_client(&self, client: IpAddr) -> Identity {
        let Identity { peer, link, .. } = self.clone();
        Identity { hash: HASHER.hash_one((&peer, &*link, client)), peer, link, client: Some(client) }
    }

    /// The endpoint, whomever a connection serves.
    pub fn endpoint(&self) -> Cow<'_, Identity> {
        match self.client {
            None => Cow::Borrowed(self),
            Some(_) => Cow::Owned(Identity::new(self.peer.clone(), self.link.clone())),
        }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        let links_equal = || Arc::ptr_eq(&self.link, &other.link) || self.link == other.link;
        self.hash == other.hash && self.client == other.client && self.peer == other.peer && links_equal()
    }
}

impl Eq for Identity {}

impl std::hash::Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A hasher for keys that carry their hash.
#[derive(Debug, Default, Clone, Copy)]
pub struct Prehashed(u64);

impl std::hash::Hasher for Prehashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("an identity writes its hash and nothing else")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
