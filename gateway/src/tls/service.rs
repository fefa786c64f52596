//! TLS towards services: who one must be, who we are to it, and what is agreed on with it.
//!
//! A service is verified against roots and by its name, by the keys it is pinned to, or both; nothing else lets it pass but the
//! operator's own word. Tickets belong to these settings: what was agreed on under others is never gone on with.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, Connection, HandshakeKind, RootCertStore};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::NoAgreement;
use super::policy::add_all;
use super::verify::Verifier;
use super::{provider, versions};
use crate::balance::Http;
use crate::config::model::{TlsVersions, UpstreamProtocol};
use crate::limits::SERVICE_TICKETS_MAX;

/// What the services of one upstream are spoken to by.
pub struct ServiceTls {
    client: Arc<Client>,
    /// In place of the host of each endpoint.
    server_name: Option<ServerName<'static>>,
    /// Any certificate is good, as the operator wrote.
    pub accepts_any: bool,
    /// What we show when we are asked.
    pub certificate: Option<OwnCertificate>,
}

/// A certificate of ours, as operators want to know of it.
pub struct OwnCertificate {
    pub file: PathBuf,
    /// Unix time in seconds.
    pub not_after_s: i64,
}

/// Everything that decides whom we speak to and who we are.
struct Client {
    config: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
    tickets: Arc<ClientSessionMemoryCache>,
    needs_http2: bool,
    digest: [u8; 32],
}

/// Roots, compiled once for all upstreams that have the same.
pub(super) struct Roots {
    pub(super) store: Arc<RootCertStore>,
    digest: [u8; 32],
}

impl Roots {
    pub(super) fn new(certificates: &[CertificateDer<'static>]) -> Result<Roots, rustls::Error> {
        let mut store = RootCertStore::empty();
        certificates.iter().try_for_each(|root| store.add(root.clone()))?;
        Ok(Roots::of(store, certificates))
    }

    /// Of a system's, of which some may be beyond us.
    pub(super) fn of_system(certificates: &[CertificateDer<'static>]) -> Roots {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates.iter().cloned());
        Roots::of(store, certificates)
    }

    fn of(store: RootCertStore, certificates: &[CertificateDer<'static>]) -> Roots {
        let mut digest = Sha256::new();
        add_all(&mut digest, certificates.iter().map(|root| &root[..]));
        Roots { store: Arc::new(store), digest: digest.finalize().into() }
    }
}

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// What was read for an upstream.
pub(super) struct Parts {
    /// `None`: any certificate is good.
    pub(super) roots: Option<Arc<Roots>>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
    /// SHA-256 of a SubjectPublicKeyInfo; none: any key.
    pub(super) pins: Vec<[u8; 32]>,
    pub(super) server_name: Option<ServerName<'static>>,
    pub(super) own: Option<(Arc<CertifiedKey>, OwnCertificate)>,
    pub(super) versions: TlsVersions,
    pub(super) protocol: UpstreamProtocol,
}

impl Parts {
    /// Changes whenever somebody else may be spoken to, or hears something else.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix([self.versions as u8, self.protocol as u8]);
        digest.update(self.roots.as_ref().map_or([0; 32], |roots| roots.digest));
        add_all(&mut digest, self.crls.iter().map(|list| &list[..]));
        add_all(&mut digest, self.pins.iter().map(|pin| &pin[..]));
        let chain = self.own.iter().flat_map(|(pair, _)| &pair.cert);
        chain.for_each(|link| digest.update(Sha256::digest(link)));
        digest.finalize().into()
    }

    /// In the order in which we like them (RFC 7301 §3.2).
    fn offered(&self) -> Vec<Vec<u8>> {
        let protocols: &[&[u8]] = match self.protocol {
            UpstreamProtocol::Http1 => &[HTTP1],
            UpstreamProtocol::Http2 => &[HTTP2],
            UpstreamProtocol::Auto => &[HTTP2, HTTP1],
        };
        protocols.iter().map(|protocol| protocol.to_vec()).collect()
    }
}

impl ServiceTls {
    /// The same settings keep their tickets, also over reloads.
    pub(super) fn new(parts: Parts) -> Result<ServiceTls, rustls::Error> {
        static KNOWN: OnceLock<Mutex<HashMap<[u8; 32], Weak<Client>>>> = OnceLock::new();
        let digest = parts.digest();
        let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, client| client.strong_count() > 0);
        let client = match known.get(&digest).and_then(Weak::upgrade) {
            Some(client) => client,
            None => {
                let client = Arc::new(Client::new(&parts, digest)?);
                known.insert(digest, Arc::downgrade(&client));
                client
            }
        };
        let Parts { roots, server_name, own, .. } = parts;
        Ok(ServiceTls { client, server_name, accepts_any: roots.is_none(), certificate: own.map(|(_, own)| own) })
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(self.client.digest);
        digest.update(self.server_name.as_ref().map(ServerName::to_str).unwrap_or_default().as_bytes());
        digest.finalize().into()
    }

    /// An endpoint of that host, as it is written. `None`: no certificate could be for it.
    pub fn service(self: &Arc<ServiceTls>, host: &str) -> Option<Service> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host)?,
        };
        Some(Service { tls: self.clone(), name })
    }
}

/// What a certificate can be for: a DNS name, or an address, which is sent to nobody (RFC 6066 §3).
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    let unbracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match unbracketed.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) => Some(ServerName::from(address)),
        // A name is sent without its final dot.
        Err(_) if unbracketed.is_none() => {
            ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()).ok()
        }
        Err(_) => None,
    }
}

impl Client {
    fn new(parts: &Parts, digest: [u8; 32]) -> Result<Client, rustls::Error> {
        let verifier = Arc::new(Verifier::new(parts.roots.as_deref(), &parts.crls, &parts.pins)?);
        let tickets = Arc::new(ClientSessionMemoryCache::new(SERVICE_TICKETS_MAX));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(parts.versions))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match &parts.own {
            None => builder.with_no_client_auth(),
            Some((pair, _)) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.clone()))),
        };
        config.alpn_protocols = parts.offered();
        config.resumption = Resumption::store(tickets.clone());
        let needs_http2 = parts.protocol == UpstreamProtocol::Http2;
        Ok(Client { config: Arc::new(config), verifier, tickets, needs_http2, digest })
    }

    /// Drops what is known of a service, which must show its certificate again.
    fn forget(&self, name: &ServerName<'static>) {
        self.tickets.remove_tls12_session(name);
        while self.tickets.take_tls13_ticket(name).is_some() {}
    }
}

/// A service as it is spoken to: the settings, and who it must be. Equal: a connection to one serves the other.
#[derive(Clone)]
pub struct Service {
    tls: Arc<ServiceTls>,
    name: ServerName<'static>,
}

impl PartialEq for Service {
    fn eq(&self, other: &Service) -> bool {
        self.tls.client.digest == other.tls.client.digest && self.name == other.name
    }
}

impl Eq for Service {}

impl Hash for Service {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tls.client.digest.hash(state);
        self.name.hash(state);
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What was agreed on with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// HTTP/2, not HTTP/1.1.
    pub http2: bool,
    /// By a ticket of an earlier handshake.
    pub resumed: bool,
}

impl Service {
    /// `http1`: nothing else is offered, whatever the settings say.
    pub fn begin(&self, http1: bool) -> Result<ClientConnection, NoAgreement> {
        let (config, name) = (self.tls.client.config.clone(), self.name.clone());
        let begun = match http1 {
            true => ClientConnection::new_with_alpn(config, name, vec![HTTP1.to_vec()]),
            false => ClientConnection::new(config, name),
        };
        begun.map_err(|error| NoAgreement::of(&error))
    }

    /// What the finished handshake of `connection` has come to.
    pub fn agreed(&self, connection: &Connection) -> Result<Agreed, NoAgreement> {
        let client = &self.tls.client;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed {
            // The certificate was good when the ticket was made, and may be over meanwhile, or another one be in its place.
            let good = client.verifier.still_good(connection.peer_certificates(), &self.name, UnixTime::now());
            if let Err(error) = good {
                client.forget(&self.name);
                return Err(NoAgreement { is_stale: true, ..NoAgreement::of(&error) });
            }
        }
        let http2 = connection.alpn_protocol() == Some(HTTP2);
        match client.needs_http2 && !http2 {
            true => Err(NoAgreement::not_http2()),
            false => Ok(Agreed { http2, resumed }),
        }
    }

    /// For checks of the service. `http`: what is spoken by them, whatever requests speak; `None`: nothing.
    pub fn checking(&self, http: Option<Http>) -> Checking {
        let mut config = ClientConfig::clone(&self.tls.client.config);
        config.resumption = Resumption::disabled();
        match http {
            Some(Http::One) => config.alpn_protocols = vec![HTTP1.to_vec()],
            Some(Http::Two) => config.alpn_protocols = vec![HTTP2.to_vec()],
            None => {}
        }
        Checking { connector: TlsConnector::from(Arc::new(config)), name: self.name.clone() }
    }
}

/// A service as it is checked, on tokio: verified as for requests, and in full each time.
pub struct Checking {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Checking {
    pub async fn agree<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<TlsStream<S>, NoAgreement> {
        let connected = self.connector.connect(self.name.clone(), stream).await;
        connected.map_err(|error| match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(error) => NoAgreement::of(error),
            None if error.kind() == ErrorKind::UnexpectedEof => NoAgreement::closed(),
            None => NoAgreement::broken(&error),
        })
    }
}

impl std::fmt::Debug for Checking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checking").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Root;

    fn settings(roots: Option<&Arc<Roots>>, pins: &[[u8; 32]], protocol: UpstreamProtocol) -> Arc<ServiceTls> {
        let parts = Parts {
            roots: roots.cloned(),
            crls: Vec::new(),
            pins: pins.to_vec(),
            server_name: None,
            own: None,
            versions: TlsVersions::Intermediate,
            protocol,
        };
        Arc::new(ServiceTls::new(parts).unwrap())
    }

    fn root(name: &str) -> Arc<Roots> {
        use rustls::pki_types::pem::PemObject as _;
        let certificate = CertificateDer::from_pem_slice(Root::new(name).pem().as_bytes()).unwrap();
        Arc::new(Roots::new(&[certificate]).unwrap())
    }

    #[test]
    fn a_connection_serves_those_who_would_have_made_the_same() {
        use UpstreamProtocol::{Auto, Http1};
        let (one, other) = (root("one"), root("other"));
        let same = settings(Some(&one), &[], Auto).service("books.test").unwrap();
        assert_eq!(settings(Some(&one), &[], Auto).service("Books.Test."), Some(same.clone()));
        let different = [
            settings(Some(&other), &[], Auto).service("books.test"),
            settings(None, &[], Auto).service("books.test"),
            settings(Some(&one), &[[7; 32]], Auto).service("books.test"),
            settings(Some(&one), &[], Http1).service("books.test"),
            settings(Some(&one), &[], Auto).service("films.test"),
            settings(Some(&one), &[], Auto).service("10.0.0.1"),
        ];
        for different in different {
            assert_ne!(different, Some(same.clone()));
        }
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let check = |host: &str, name: Option<&str>| {
            assert_eq!(server_name(host).map(|name| name.to_str().into_owned()).as_deref(), name, "{host}");
        };
        check("Books.Internal", Some("books.internal"));
        check("books.internal.", Some("books.internal"));
        check("10.0.0.1", Some("10.0.0.1"));
        check("[2001:db8::1]", Some("2001:db8::1"));
        check("my_service", Some("my_service"));
        check("", None);
        check("[books]", None);
        check("books internal", None);
    }
}
