//! Certificates made for one case, and clients that trust them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};
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
    trusting_as(certs, versions, None)
}

/// The same, showing this certificate to whoever asks for one.
pub fn trusting_as(
    certs: &[&Path],
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Made>,
) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for cert in certs {
        roots.add(CertificateDer::from_pem_file(cert).with_context(|| cert.display().to_string())?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if versions.is_empty() { rustls::ALL_VERSIONS } else { versions };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let builder = builder.with_root_certificates(roots);
    Ok(Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(Made { cert, key }) => {
            let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
        }
    }))
}

/// The key of a certificate as `pins` has it.
pub fn pin(made: &Made) -> Result<String> {
    let key = KeyPair::from_pem(&fs::read_to_string(&made.key)?)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    Ok(format!("sha256/{}", base64::engine::general_purpose::STANDARD.encode(digest)))
}

/// A service that shows this certificate and speaks these versions (empty: all). `clients`: whose certificates it wants to see.
pub fn serving(
    own: &Made,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Authority>,
) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if versions.is_empty() { rustls::ALL_VERSIONS } else { versions };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&authority.cert)?)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_file_iter(&own.cert)?.collect::<Result<Vec<_>, _>>()?;
    Ok(builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&own.key)?)?)
}

/// An authority that signs certificates and lists of revoked ones.
pub struct Authority {
    folder: PathBuf,
    /// PEM file of its own certificate.
    pub cert: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// In `NAME.pem` of a folder; what it signs is there, too.
    pub fn new(folder: &Path, name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = folder.join(format!("{name}.pem"));
        fs::write(&cert, params.self_signed(&pair)?.pem())?;
        Ok(Authority { folder: folder.to_owned(), cert, issuer: Issuer::new(params, pair) })
    }

    /// A certificate for a service at these names and addresses, in `NAME.pem` and `NAME.key`.
    pub fn service(
        &self,
        name: &str,
        serial: u64,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Made> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        self.sign(name, params)
    }

    /// A certificate for a client, in `NAME.pem` and `NAME.key`.
    pub fn client(&self, name: &str, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Result<Made> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        self.sign(name, params)
    }

    /// A certificate for a server of `names`, as public authorities sign them: good since yesterday, for 90 days. In
    /// `NAME.pem` and `NAME.key`.
    pub fn server(&self, name: &str, names: &[&str]) -> Result<Made> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let (day, since) = (Duration::from_secs(24 * 3600), SystemTime::now().duration_since(UNIX_EPOCH)?);
        params.not_before = date_time_ymd(1970, 1, 1) + (since - day);
        params.not_after = params.not_before + 90 * day;
        self.sign(name, params)
    }

    fn sign(&self, name: &str, params: CertificateParams) -> Result<Made> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let made = Made { cert: self.folder.join(format!("{name}.pem")), key: self.folder.join(format!("{name}.key")) };
        fs::write(&made.cert, params.signed_by(&pair, &self.issuer)?.pem())?;
        fs::write(&made.key, pair.serialize_pem())?;
        Ok(made)
    }

    /// An authority below this one. What it signs is shown with its own certificate: append that to the file.
    pub fn below(&self, name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = self.folder.join(format!("{name}.pem"));
        fs::write(&cert, params.signed_by(&pair, &self.issuer)?.pem())?;
        Ok(Authority { folder: self.folder.clone(), cert, issuer: Issuer::new(params, pair) })
    }

    /// A list of the certificates with these serial numbers, good until the beginning of a year. DER.
    pub fn list(&self, serials: &[u64], until: i32) -> Result<Vec<u8>> {
        Ok(self.signed_list(serials, until)?.der().to_vec())
    }

    /// The same as PEM.
    pub fn list_pem(&self, serials: &[u64], until: i32) -> Result<String> {
        Ok(self.signed_list(serials, until)?.pem()?)
    }

    fn signed_list(&self, serials: &[u64], until: i32) -> Result<rcgen::CertificateRevocationList> {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?)
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    match content.len() {
        length @ 0..128 => [&[tag, length as u8], content].concat(),
        length => [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat(),
    }
}

/// An OCSP response (RFC 6960) about a serial number, which calls it good. It is signed by nobody. `until`: as a
/// GeneralizedTime.
pub fn staple(serial: u8, until: &str) -> Vec<u8> {
    let time = |text: &str| tlv(0x18, text.as_bytes());
    let hash = tlv(0x04, &[1; 20]);
    let algorithm = tlv(0x30, &tlv(0x06, &[43, 14, 3, 2, 26]));
    let id = tlv(0x30, &[algorithm, hash.clone(), hash.clone(), tlv(2, &[serial])].concat());
    let single = [id, tlv(0x80, &[]), time("20200101000000Z"), tlv(0xa0, &time(until))].concat();
    let data = [tlv(0xa2, &hash), time("20200101000000Z"), tlv(0x30, &tlv(0x30, &single))].concat();
    let basic = tlv(0x30, &[tlv(0x30, &data), tlv(0x30, &tlv(0x06, &[42, 3])), tlv(3, &[0, 1])].concat());
    let kind = tlv(0x06, &[43, 6, 1, 5, 5, 7, 48, 1, 1]);
    tlv(0x30, &[tlv(0x0a, &[0]), tlv(0xa0, &tlv(0x30, &[kind, tlv(4, &basic)].concat()))].concat())
}

/// A connection that begins TLS for `name`.
pub fn secure(peer: Peer, name: &str, client: &Arc<ClientConfig>) -> Result<Peer> {
    let name = ServerName::try_from(name.to_owned())?;
    peer.secure(ClientConnection::new(client.clone(), name)?)
}
