//! What is in a file of certificates, keys or lists; what is wrong with it in words of its own.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::tickets::FileKey;
use crate::limits::{CERTIFICATE_FILE_BYTES_MAX, REVOCATION_FILE_BYTES_MAX};

/// The certificates of a file; of a chain, the one that is shown first.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = bytes(path, CERTIFICATE_FILE_BYTES_MAX)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(broken)?;
    match chain.is_empty() {
        true if holds(&text, "PRIVATE KEY") => Err("it holds a private key and no certificate".to_owned()),
        true => Err("it holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)".to_owned()),
        false => Ok(chain),
    }
}

pub(super) fn secret(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = bytes(path, CERTIFICATE_FILE_BYTES_MAX)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if holds(&text, "ENCRYPTED PRIVATE KEY") => Err(
            "the key is encrypted; write it without a passphrase (`openssl pkey -in KEY -out PLAIN`), readable to the \
                 gateway's user alone"
                .to_owned(),
        ),
        Err(pem::Error::NoItemsFound) if holds(&text, "CERTIFICATE") => {
            Err("it holds a certificate and no private key".to_owned())
        }
        Err(pem::Error::NoItemsFound) => {
            Err("it holds no private key in PEM (`-----BEGIN PRIVATE KEY-----`)".to_owned())
        }
        Err(error) => Err(broken(error)),
    }
}

fn holds(text: &[u8], label: &str) -> bool {
    String::from_utf8_lossy(text).lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label))
}

fn broken(error: pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its PEM has a beginning and no end: the file was cut".to_owned(),
        pem::Error::Base64Decode(_) => "its PEM is no base64: the file was damaged".to_owned(),
        // Its text may hold what the file does.
        _ => "it is not PEM".to_owned(),
    }
}

/// Revocation lists, as PEM or one as DER.
pub(super) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let bytes = bytes(path, REVOCATION_FILE_BYTES_MAX)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let lists = lists.map_err(broken)?;
    match lists.is_empty() {
        // DER begins with a SEQUENCE.
        true if bytes.first() == Some(&0x30) => Ok(vec![bytes.into()]),
        true => Err("it holds no revocation list, neither in PEM (`-----BEGIN X509 CRL-----`) nor in DER".to_owned()),
        false => Ok(lists),
    }
}

/// What is in a file of DER that is not longer than a certificate's.
pub(super) fn der(path: &Path) -> Result<Vec<u8>, String> {
    bytes(path, CERTIFICATE_FILE_BYTES_MAX)
}

pub(super) fn ticket_key(path: &Path) -> Result<FileKey, String> {
    FileKey::new(bytes(path, CERTIFICATE_FILE_BYTES_MAX)?)
}

/// Where this system keeps the roots it trusts: `SSL_CERT_FILE`, or the bundle of its distribution.
pub(super) fn system_roots() -> Option<PathBuf> {
    openssl_probe::probe().cert_file
}

fn bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a file".to_owned());
    }
    if about.len() > bytes_max {
        return Err(format!("it has more than {bytes_max} bytes: another file was meant"));
    }
    fs::read(path).map_err(|error| error.to_string())
}
