//! Reads certificates and keys, and says what is wrong with a file in words of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Certificate, ServerTls, Tls, provider};
use crate::config::model::{self, Config};
use crate::limits::CERTIFICATE_FILE_BYTES_MAX;
use crate::observe::rfc3339;
use crate::problem::{Place, Problem};

/// Everything that came of reading.
#[derive(Default)]
pub struct Read {
    pub tls: Tls,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// Files that were read, also those that could not be.
    pub files: Vec<PathBuf>,
}

/// Reads what the listeners of `config` show. `folder`: of the file in which a key was written; `place`: where.
pub fn read(config: &Config, folder: &dyn Fn(&str) -> PathBuf, place: &dyn Fn(&str) -> Option<Place>) -> Read {
    let mut read = Read::default();
    for (index, listener) in config.listener.iter().enumerate() {
        let key = format!("listener[{index}].tls");
        let tls = listener.tls.as_ref().and_then(|tls| {
            let mut certificates = Vec::new();
            for (nth, written) in tls.certificates.iter().enumerate() {
                let key = format!("{key}.certificates[{nth}]");
                certificates.extend(read.certificate(written, &key, &folder(&key), place));
            }
            if certificates.len() < tls.certificates.len() {
                return None;
            }
            match ServerTls::new(tls, listener.http2, certificates) {
                Ok(tls) => Some(Arc::new(tls)),
                Err(error) => {
                    read.problems.push(Problem::new(key.clone(), error.to_string()).at(place(&key)));
                    None
                }
            }
        });
        read.tls.listeners.push(tls);
    }
    read
}

impl Read {
    fn certificate(
        &mut self,
        written: &model::Certificate,
        key: &str,
        folder: &Path,
        place: &dyn Fn(&str) -> Option<Place>,
    ) -> Option<Arc<Certificate>> {
        let (cert_file, key_file) = (folder.join(&written.cert), folder.join(&written.key));
        self.files.extend([cert_file.clone(), key_file.clone()]);
        let mut problem = |name: &str, why: String| {
            let key = format!("{key}.{name}");
            let at = place(&key);
            self.problems.push(Problem::new(key, why).at(at));
        };
        let chain = chain(&cert_file).map_err(|why| problem("cert", format!("{}: {why}", cert_file.display())));
        let secret = secret(&key_file).map_err(|why| problem("key", format!("{}: {why}", key_file.display())));
        let (chain, secret) = (chain.ok()?, secret.ok()?);
        let (names, not_before_s, not_after_s) = match leaf(&chain[0]) {
            Ok(leaf) => leaf,
            Err(why) => {
                problem("cert", format!("{}: {why}", cert_file.display()));
                return None;
            }
        };
        let signing = match provider().key_provider.load_private_key(secret) {
            Ok(signing) => signing,
            Err(error) => {
                problem("key", format!("{}: {error}", key_file.display()));
                return None;
            }
        };
        let pair = CertifiedKey::new(chain, signing);
        if pair.keys_match().is_err() {
            let why = format!("{} is not the key of the certificate in {}", key_file.display(), cert_file.display());
            problem("key", why);
            return None;
        }
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let mut warn = |what: String| {
            let key = format!("{key}.cert");
            let at = place(&key);
            self.warnings.push(Problem::new(key, format!("{}: {what}", cert_file.display())).at(at));
        };
        if not_after_s <= now_s {
            warn(format!("it is over since {}: clients will refuse it", date(not_after_s)));
        } else if not_before_s > now_s {
            warn(format!("it begins at {}: clients will refuse it until then", date(not_before_s)));
        }
        if names.is_empty() {
            warn("it is for no DNS name: clients that ask for one will refuse it".to_owned());
        }
        Some(Arc::new(Certificate { file: cert_file, names, not_after_s, key: Arc::new(pair) }))
    }
}

fn date(unix_s: i64) -> String {
    rfc3339::text(UNIX_EPOCH + std::time::Duration::from_secs(unix_s.max(0).unsigned_abs()))
}

/// The certificates of a file, the server's own first.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(broken)?;
    match chain.is_empty() {
        true if holds(&text, "PRIVATE KEY") => Err("it holds a private key and no certificate".to_owned()),
        true => Err("it holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)".to_owned()),
        false => Ok(chain),
    }
}

fn secret(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = text(path)?;
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

fn text(path: &Path) -> Result<Vec<u8>, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a file".to_owned());
    }
    if about.len() > CERTIFICATE_FILE_BYTES_MAX {
        return Err(format!("more than {CERTIFICATE_FILE_BYTES_MAX} bytes: not one certificate and its chain"));
    }
    fs::read(path).map_err(|error| error.to_string())
}

/// DNS names of a certificate, and from when to when it is valid, Unix time in seconds.
fn leaf(der: &CertificateDer<'_>) -> Result<(Vec<String>, i64, i64), String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| format!("no X.509 certificate: {error}"))?;
    let validity = certificate.validity();
    let names = certificate.subject_alternative_name().map_err(|error| format!("its names cannot be read: {error}"))?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok((names.collect(), validity.not_before.timestamp(), validity.not_after.timestamp()))
}
