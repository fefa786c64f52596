//! A client that speaks TLS as the benches want it: the same version, cipher and group to every peer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use e2e::Peer;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore, version};

use super::peers::NAME;

/// What one client speaks and trusts. Tickets are kept in it: who has one of its own resumes its own sessions.
#[derive(Clone)]
pub(super) struct Client(Arc<ClientConfig>);

impl Client {
    /// TLS 1.3 with X25519 and AES-128-GCM, trusting the bench's certificate only. `protocol` is offered by ALPN.
    pub(super) fn new(certificate: &Path, protocol: &str, resumption: Resumption) -> Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        // What each would choose differs, and so does what it costs.
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![kx_group::X25519];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).with_context(|| certificate.display().to_string())?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config.resumption = resumption;
        Ok(Self(Arc::new(config)))
    }

    /// A connection that has shaken hands.
    pub(super) fn connect(&self, address: SocketAddr) -> Result<Peer> {
        self.secure(Peer::connect(address)?)
    }

    /// Shakes hands on a connection.
    pub(super) fn secure(&self, peer: Peer) -> Result<Peer> {
        e2e::tls::secure(peer, NAME, &self.0)
    }
}
