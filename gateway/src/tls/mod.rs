//! TLS of listeners: certificates and keys read from files, and which of them a client gets.
//!
//! Everything is read and checked when a configuration is loaded, so a certificate that is unreadable, or whose key is
//! another's, never takes the place of one that works. Only this folder and `proxy::wire` name rustls.

mod names;
mod read;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use sha2::{Digest as _, Sha256};

use self::names::ByName;
pub use self::read::{Read, read};
use crate::config::model::{self, TlsVersions, UnknownNames};

/// TLS of all listeners, by their order in the configuration. `None`: plain HTTP.
#[derive(Default)]
pub struct Tls {
    pub listeners: Vec<Option<Arc<ServerTls>>>,
}

/// What one listener's handshakes need.
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    pub certificates: Vec<Arc<Certificate>>,
}

/// A certificate with its chain and its key, and what operators want to know of it.
pub struct Certificate {
    pub file: PathBuf,
    /// DNS names it is for, lower case; a wildcard as `*.example.com`.
    pub names: Vec<String>,
    /// Unix time in seconds.
    pub not_after_s: i64,
    key: Arc<CertifiedKey>,
}

impl Certificate {
    /// What it is called where there is room for one name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("without a name", String::as_str)
    }
}

impl Tls {
    /// Changes whenever another certificate is shown.
    pub fn digest(&self) -> Vec<u8> {
        let mut digest = Sha256::new();
        for tls in &self.listeners {
            let certificates = tls.iter().flat_map(|tls| &tls.certificates);
            for link in certificates.flat_map(|certificate| &certificate.key.cert) {
                digest.update((link.len() as u64).to_le_bytes());
                digest.update(link);
            }
            digest.update(u64::MAX.to_le_bytes());
        }
        digest.finalize().to_vec()
    }

    /// Every certificate that is in use, once.
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
    /// `certificates`: at least one; the first is for clients that name no host.
    fn new(
        settings: &model::Tls,
        http2: bool,
        certificates: Vec<Arc<Certificate>>,
    ) -> Result<ServerTls, rustls::Error> {
        const INTERMEDIATE: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
        const MODERN: &[&SupportedProtocolVersion] = &[&version::TLS13];
        let versions = match settings.versions {
            TlsVersions::Intermediate => INTERMEDIATE,
            TlsVersions::Modern => MODERN,
        };
        let by_name = ByName::new(&certificates, settings.unknown_names == UnknownNames::Refuse);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(by_name));
        // In the order in which we like them (RFC 7301 §3.2).
        let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // What a client resumes by is in its ticket, so nothing is kept here for it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets()?;
        Ok(ServerTls { config: Arc::new(config), certificates })
    }
}

/// Algorithms: those of rustls, which are the `intermediate` ones of Mozilla's recommendations, with X25519MLKEM768
/// among the groups.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Keys of tickets: one set for the process, changed every six hours, so that a reload makes nobody shake hands anew.
fn tickets() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    static TICKETS: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    if let Some(known) = TICKETS.get() {
        return Ok(known.clone());
    }
    let fresh = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(TICKETS.get_or_init(|| fresh).clone())
}
