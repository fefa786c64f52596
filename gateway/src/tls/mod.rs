//! TLS on both sides. Towards clients: certificates and keys read from files, which of them a client gets, and what is asked of
//! it. Towards services: whom they must be, and who we are to them.
//!
//! Everything is read and checked when a configuration is loaded, so a certificate that is unreadable, or whose key is
//! another's, never takes the place of one that works. Only this folder and `proxy::wire` name rustls.

mod client;
mod failure;
mod files;
mod names;
mod ocsp;
mod policy;
mod read;
mod service;
#[cfg(test)]
pub mod tests;
mod tickets;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use sha2::{Digest as _, Sha256};

pub use self::client::ClientCertificate;
pub use self::failure::{NoAgreement, Reason};
use self::names::ByName;
use self::policy::Asked;
pub use self::policy::{Policy, Scope};
pub use self::read::{Read, read};
pub use self::service::{Agreed, Checking, OwnCertificate, Service, ServiceTls, server_name};
use self::tickets::FileKey;
use crate::config::model::{self, ForwardClientCert, TlsVersions, UnknownNames};

/// TLS of a configuration.
#[derive(Default)]
pub struct Tls {
    /// Of all listeners, in their order. `None`: plain HTTP.
    pub listeners: Vec<Option<Arc<ServerTls>>>,
    /// Of upstreams by name, those that speak it.
    pub upstreams: BTreeMap<String, Arc<ServiceTls>>,
}

/// What one listener's handshakes need.
pub struct ServerTls {
    /// What is asked of clients, by the certificate that is for the name they ask for; the first is the first certificate's.
    policies: Vec<Policy>,
    names: Arc<ByName>,
    pub certificates: Vec<Arc<Certificate>>,
    /// Services hear of clients' certificates.
    pub forwards_client: bool,
    digest: [u8; 32],
}

/// A certificate with its chain and its key, and what operators want to know of it.
pub struct Certificate {
    pub file: PathBuf,
    /// DNS names it is for, lower case; a wildcard as `*.example.com`.
    pub names: Vec<String>,
    /// Unix time in seconds.
    pub not_after_s: i64,
    uri: Option<String>,
    /// index into `ServerTls::policies`
    policy: usize,
    key: Arc<CertifiedKey>,
    stapled: Option<Stapled>,
}

/// A certificate's key with an OCSP response beside it.
struct Stapled {
    key: Arc<CertifiedKey>,
    /// Unix time in seconds.
    until_s: i64,
}

impl Certificate {
    /// What it is called where there is room for one name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("without a name", String::as_str)
    }

    /// What is shown at that time. A staple that is over is not: clients would refuse what they take without one.
    fn key_at(&self, now_s: i64) -> &Arc<CertifiedKey> {
        self.stapled.as_ref().filter(|stapled| now_s < stapled.until_s).map_or(&self.key, |stapled| &stapled.key)
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Tls {
    /// Changes whenever another certificate is shown, or something else is asked, on either side.
    pub fn digest(&self) -> Vec<u8> {
        let mut digest = Sha256::new();
        for tls in &self.listeners {
            digest.update(tls.as_ref().map_or([0; 32], |tls| tls.digest));
        }
        // In the order of their names, which the configuration's own digest has.
        self.upstreams.values().for_each(|tls| digest.update(tls.digest()));
        digest.finalize().to_vec()
    }

    /// Every certificate that clients are shown, once.
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        let mut all: Vec<Arc<Certificate>> = Vec::new();
        for certificate in self.listeners.iter().flatten().flat_map(|tls| &tls.certificates) {
            if !all.iter().any(|known| known.file == certificate.file) {
                all.push(certificate.clone());
            }
        }
        all
    }
}

impl ServerTls {
    /// `certificates`: at least one; the first is for clients that name no host. `asked`: by the index a certificate's `policy`
    /// is.
    fn new(
        settings: &model::Tls,
        http2: bool,
        certificates: Vec<Arc<Certificate>>,
        asked: &[Arc<Asked>],
        ticket_keys: &[FileKey],
    ) -> Result<ServerTls, rustls::Error> {
        let versions = versions(settings.versions);
        let names = Arc::new(ByName::new(&certificates, settings.unknown_names == UnknownNames::Refuse));
        // In the order in which we like them (RFC 7301 §3.2).
        let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let policy = |asked: &Arc<Asked>| {
            let tickets = policy::tickets(ticket_keys, asked)?;
            Policy::new(asked, |verifier| {
                let mut config = ServerConfig::builder_with_provider(provider())
                    .with_protocol_versions(versions)?
                    .with_client_cert_verifier(verifier)
                    .with_cert_resolver(names.clone());
                config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
                // What a client resumes by is in its ticket, so nothing is kept here for it.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.ticketer = tickets;
                Ok(config)
            })
        };
        let policies = asked.iter().map(policy).collect::<Result<Vec<Policy>, _>>()?;
        Ok(ServerTls {
            policies,
            forwards_client: settings.forward_client_cert == ForwardClientCert::Set,
            digest: digest(&certificates, asked, ticket_keys),
            names,
            certificates,
        })
    }

    /// The one policy, if there is no other.
    pub fn only_policy(&self) -> Option<&Policy> {
        match &self.policies[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// What is asked of who asks for `host`: a name in lower case, without port and final dot. A wildcard's policy holds for
    /// every name below it; the first one for names that no certificate has to do with, as they are shown the first one.
    pub fn policy(&self, host: &str) -> &Policy {
        let certificate =
            self.only_policy().is_none().then(|| self.names.closest(host)).flatten().and_then(<[_]>::first);
        &self.policies[certificate.map_or(0, |certificate| certificate.policy)]
    }

    /// The URI of the certificate that clients are shown who ask for `name`.
    pub fn uri(&self, name: Option<&str>) -> Option<&str> {
        let shown = name.and_then(|name| self.names.find(name)).unwrap_or_else(|| self.names.default());
        shown.first()?.uri.as_deref()
    }
}

fn digest(certificates: &[Arc<Certificate>], asked: &[Arc<Asked>], ticket_keys: &[FileKey]) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    for certificate in certificates {
        certificate.key.cert.iter().for_each(|link| add(link));
        add(certificate.stapled.as_ref().and_then(|stapled| stapled.key.ocsp.as_deref()).unwrap_or_default());
        add(&certificate.policy.to_le_bytes());
    }
    asked.iter().for_each(|asked| add(asked.identity()));
    ticket_keys.iter().for_each(|key| add(key.bytes()));
    digest.finalize().into()
}

fn versions(written: TlsVersions) -> &'static [&'static SupportedProtocolVersion] {
    const INTERMEDIATE: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
    const MODERN: &[&SupportedProtocolVersion] = &[&version::TLS13];
    match written {
        TlsVersions::Intermediate => INTERMEDIATE,
        TlsVersions::Modern => MODERN,
    }
}

/// Algorithms: those of rustls, which are the `intermediate` ones of Mozilla's recommendations, with X25519MLKEM768
/// among the groups.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}
