//! Certificates made for one case, and clients that trust them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
pub use rustls::{HandshakeKind, ProtocolVersion};

use crate::Peer;

/// A certificate that vouches for itself, and its key, in files.
pub struct Made {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Makes a certificate for `names`, in `NAME.pem` and `NAME.key` of a folder.
pub fn certificate(folder: &Path, name: &str, names: &[&str]) -> Result<Made> {
    certificate_with(folder, name, names, |_| {})
}

/// The same, with something else about it.
pub fn certificate_with(
    folder: &Path,
    name: &str,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> Result<Made> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    change(&mut params);
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let made = Made { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
    fs::write(&made.cert, params.self_signed(&pair)?.pem())?;
    fs::write(&made.key, pair.serialize_pem())?;
    Ok(made)
}

/// A client that trusts these certificates and speaks these versions (empty: all). It keeps tickets for its later connections.
pub fn trusting(certs: &[&Path], versions: &[&'static SupportedProtocolVersion]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for cert in certs {
        roots.add(CertificateDer::from_pem_file(cert).with_context(|| cert.display().to_string())?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if versions.is_empty() { rustls::ALL_VERSIONS } else { versions };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// A connection that begins TLS for `name`.
pub fn secure(peer: Peer, name: &str, client: &Arc<ClientConfig>) -> Result<Peer> {
    let name = ServerName::try_from(name.to_owned())?;
    peer.secure(ClientConnection::new(client.clone(), name)?)
}
