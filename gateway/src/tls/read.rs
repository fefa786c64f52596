//! Reads what the listeners of a configuration show and ask for, and what its upstreams are to be; says what does not fit.

mod services;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use super::policy::{Asked, try_list};
use super::service::Roots;
use super::tickets::FileKey;
use super::{Certificate, ServerTls, Stapled, Tls, client, files, ocsp, provider};
use crate::config::model::{self, ClientAuth, Config};
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

/// Reads what the listeners and upstreams of `config` need. `folder`: of the file in which a key was written; `place`: where.
pub fn read(config: &Config, folder: &dyn Fn(&str) -> PathBuf, place: &dyn Fn(&str) -> Option<Place>) -> Read {
    let mut reader = Reader { read: Read::default(), folder, place, roots: HashMap::new() };
    for (index, listener) in config.listener.iter().enumerate() {
        let key = format!("listener[{index}].tls");
        let tls = listener.tls.as_ref().and_then(|tls| reader.listener(tls, listener.http2, &key));
        reader.read.tls.listeners.push(tls.map(Arc::new));
    }
    for (name, upstream) in &config.upstream {
        let Some(tls) = &upstream.tls else { continue };
        if let Some(tls) = reader.service(tls, upstream.protocol(), &format!("upstream.{name}.tls")) {
            reader.read.tls.upstreams.insert(name.clone(), Arc::new(tls));
        }
    }
    reader.read
}

struct Reader<'a> {
    read: Read,
    folder: &'a dyn Fn(&str) -> PathBuf,
    place: &'a dyn Fn(&str) -> Option<Place>,
    /// Of services, by their file: most upstreams have the same.
    roots: HashMap<PathBuf, Arc<Roots>>,
}

/// What is asked of the clients of a certificate, before any file was read. Where two certificates say the same, it is one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Wanted {
    mode: ClientAuth,
    /// Each file with the key it was written at.
    roots: Option<Named>,
    lists: Vec<Named>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Named {
    key: String,
    file: PathBuf,
}

impl Reader<'_> {
    fn problem(&mut self, key: &str, why: String) {
        let at = (self.place)(key);
        self.read.problems.push(Problem::new(key, why).at(at));
    }

    fn warn(&mut self, key: &str, what: String) {
        let at = (self.place)(key);
        self.read.warnings.push(Problem::new(key, what).at(at));
    }

    /// The file that `key` names, which is looked at for changes from now on.
    fn file(&mut self, key: &str, written: &str) -> PathBuf {
        let file = (self.folder)(key).join(written);
        self.read.files.push(file.clone());
        file
    }

    /// What `read` makes of a file, or a problem at `key`.
    fn open<T>(&mut self, key: &str, file: &Path, read: impl FnOnce(&Path) -> Result<T, String>) -> Option<T> {
        read(file).map_err(|why| self.problem(key, format!("{}: {why}", file.display()))).ok()
    }

    fn listener(&mut self, tls: &model::Tls, http2: bool, key: &str) -> Option<ServerTls> {
        let before = self.read.problems.len();
        let mut policies: HashMap<Wanted, usize> = HashMap::new();
        let mut asked = Vec::new();
        let mut certificates = Vec::new();
        for (nth, written) in tls.certificates.iter().enumerate() {
            let own = format!("{key}.certificates[{nth}]");
            let wanted = self.wanted((tls, key), (written, &own));
            let next = policies.len();
            let policy = *policies.entry(wanted.clone()).or_insert(next);
            if policy == next {
                asked.extend(self.asked(wanted).map(Arc::new));
            }
            certificates.extend(self.certificate(written, &own, policy));
        }
        let ticket_keys = self.ticket_keys(tls, key);
        if self.read.problems.len() > before {
            return None;
        }
        self.check_names(&certificates, key);
        match ServerTls::new(tls, http2, certificates, &asked, &ticket_keys) {
            Ok(tls) => Some(tls),
            Err(error) => {
                self.problem(key, error.to_string());
                None
            }
        }
    }

    /// What is asked of clients of one certificate: what it says itself, else what the listener says.
    fn wanted(&mut self, (tls, key): (&model::Tls, &str), (certificate, own): (&model::Certificate, &str)) -> Wanted {
        let mode = certificate.client_auth.unwrap_or(tls.client_auth);
        if mode == ClientAuth::None {
            return Wanted { mode, roots: None, lists: Vec::new() };
        }
        let (roots, at) = match &certificate.client_ca {
            Some(own_roots) => (Some(own_roots), own),
            None => (tls.client_ca.as_ref(), key),
        };
        let mut named = |key: String, written: &str| Named { file: self.file(&key, written), key };
        let roots = roots.map(|roots| named(format!("{at}.client_ca"), roots));
        let (lists, at) = match &certificate.client_crl {
            Some(own_lists) => (own_lists, own),
            None => (&tls.client_crl, key),
        };
        let lists =
            lists.iter().enumerate().map(|(nth, list)| named(format!("{at}.client_crl[{nth}]"), list)).collect();
        Wanted { mode, roots, lists }
    }

    fn asked(&mut self, wanted: Wanted) -> Option<Asked> {
        let Some(Named { key, file }) = wanted.roots else { return Some(Asked::nothing()) };
        let (roots, lists) = self.authorities(&key, &file, &wanted.lists)?;
        match Asked::new(wanted.mode, &roots, lists) {
            Ok(asked) => Some(asked),
            Err(error) => {
                self.problem(&key, format!("{}: {error}", file.display()));
                None
            }
        }
    }

    /// The roots in `file` and their revocation lists.
    fn authorities(
        &mut self,
        key: &str,
        file: &Path,
        lists: &[Named],
    ) -> Option<(Vec<CertificateDer<'static>>, Vec<CertificateRevocationListDer<'static>>)> {
        let roots = self.open(key, file, files::chain)?;
        let mut without_list: Vec<(Vec<u8>, String)> = Vec::new();
        for (nth, root) in roots.iter().enumerate() {
            match X509Certificate::from_der(root) {
                Ok((_, root)) => {
                    let (subject, ends_s) = (root.subject(), root.validity().not_after.timestamp());
                    if ends_s <= now_s() {
                        self.warn(
                            key,
                            format!("{}: the root {subject} is over since {}", file.display(), date(ends_s)),
                        );
                    }
                    without_list.push((subject.as_raw().to_vec(), subject.to_string()));
                }
                Err(error) => {
                    let why = format!("{}: certificate {} in it cannot be read: {error}", file.display(), nth + 1);
                    self.problem(key, why);
                    return None;
                }
            }
        }
        let before = self.read.problems.len();
        let mut read = Vec::new();
        for Named { key, file } in lists {
            for list in self.open(key, file, files::revocation_lists).unwrap_or_default() {
                if let Err(why) = try_list(&roots, &list) {
                    self.problem(key, format!("{}: {why}", file.display()));
                    continue;
                }
                if let Ok((_, seen)) = CertificateRevocationList::from_der(&list) {
                    without_list.retain(|(subject, _)| subject != seen.issuer().as_raw());
                    let ends_s = seen.next_update().map_or(i64::MAX, |time| time.timestamp());
                    if ends_s <= now_s() {
                        let what = format!(
                            "{}: the list of {} is over since {}: every certificate of this issuer is refused until there \
                             is a newer one",
                            file.display(),
                            seen.issuer(),
                            date(ends_s)
                        );
                        self.warn(key, what);
                    }
                }
                read.push(list);
            }
        }
        if self.read.problems.len() > before {
            return None;
        }
        if let (Some(Named { key, .. }), false) = (lists.first(), without_list.is_empty()) {
            let key = key.rsplit_once('[').map_or(key.as_str(), |(key, _)| key).to_owned();
            for (_, root) in without_list {
                self.warn(&key, format!("no list is of the root {root}: every certificate below it is refused"));
            }
        }
        Some((roots, read))
    }

    fn certificate(&mut self, written: &model::Certificate, key: &str, policy: usize) -> Option<Arc<Certificate>> {
        let cert_key = format!("{key}.cert");
        let (cert_file, pair, leaf) = self.pair((&written.cert, &written.key), key, "clients")?;
        let Leaf { names, uri, serial, not_after_s, .. } = leaf;
        if names.is_empty() {
            let what = "it is for no DNS name: clients that ask for one will refuse it";
            self.warn(&cert_key, format!("{}: {what}", cert_file.display()));
        }
        let stapled = match &written.ocsp {
            Some(written) => Some(self.staple(written, &format!("{key}.ocsp"), &pair, &serial)?),
            None => None,
        };
        let key = Arc::new(pair);
        Some(Arc::new(Certificate { file: cert_file, names, not_after_s, uri, policy, key, stapled }))
    }

    /// The certificate and the key that `key.cert` and `key.key` name, and where the first is. `whom`: who is shown it.
    fn pair(&mut self, (cert, secret): (&str, &str), key: &str, whom: &str) -> Option<(PathBuf, CertifiedKey, Leaf)> {
        let (cert_key, key_key) = (format!("{key}.cert"), format!("{key}.key"));
        let (cert_file, key_file) = (self.file(&cert_key, cert), self.file(&key_key, secret));
        let chain = self.open(&cert_key, &cert_file, files::chain);
        let secret = self.open(&key_key, &key_file, files::secret);
        let (chain, secret) = (chain?, secret?);
        let leaf = self.open(&cert_key, &cert_file, |_| Leaf::of(&chain[0]))?;
        let load = |_: &Path| provider().key_provider.load_private_key(secret).map_err(|error| error.to_string());
        let signing = self.open(&key_key, &key_file, load)?;
        let pair = CertifiedKey::new(chain, signing);
        if pair.keys_match().is_err() {
            let why = format!("{} is not the key of the certificate in {}", key_file.display(), cert_file.display());
            self.problem(&key_key, why);
            return None;
        }
        let mut warn = |what: String| self.warn(&cert_key, format!("{}: {what}", cert_file.display()));
        if leaf.not_after_s <= now_s() {
            warn(format!("it is over since {}: {whom} will refuse it", date(leaf.not_after_s)));
        } else if leaf.not_before_s > now_s() {
            warn(format!("it begins at {}: {whom} will refuse it until then", date(leaf.not_before_s)));
        }
        Some((cert_file, pair, leaf))
    }

    fn staple(&mut self, written: &str, key: &str, pair: &CertifiedKey, serial: &[u8]) -> Option<Stapled> {
        let file = self.file(key, written);
        let der = self.open(key, &file, files::der)?;
        let status = self.open(key, &file, |_| ocsp::status(&der, serial))?;
        let until_s = status.next_update_s.unwrap_or(i64::MAX);
        if until_s <= now_s() {
            let what =
                format!("{}: it is over since {}: the certificate is shown without it", file.display(), date(until_s));
            self.warn(key, what);
        }
        if !status.is_good {
            self.warn(
                key,
                format!("{}: it says that the certificate is not good: clients will refuse it", file.display()),
            );
        }
        let mut pair = pair.clone();
        pair.ocsp = Some(der);
        Some(Stapled { key: Arc::new(pair), until_s })
    }

    fn ticket_keys(&mut self, tls: &model::Tls, key: &str) -> Vec<FileKey> {
        let mut keys = Vec::new();
        for (nth, written) in tls.ticket_keys.iter().enumerate() {
            let key = format!("{key}.ticket_keys[{nth}]");
            let file = self.file(&key, written);
            keys.extend(self.open(&key, &file, files::ticket_key));
        }
        keys
    }

    /// Clients of one name are asked in one way: which of its certificates they see is decided later, by what they can verify.
    fn check_names(&mut self, certificates: &[Arc<Certificate>], key: &str) {
        let mut first: HashMap<&str, (usize, usize)> = HashMap::new();
        for (nth, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                let (other, policy) = *first.entry(name).or_insert((nth, certificate.policy));
                if policy != certificate.policy {
                    let why = format!(
                        "it is for `{name}`, as `certificates[{other}]` is, and the two ask different things of clients"
                    );
                    self.problem(&format!("{key}.certificates[{nth}].cert"), why);
                    break;
                }
            }
        }
    }
}

/// What is read of a certificate.
struct Leaf {
    names: Vec<String>,
    uri: Option<String>,
    /// Content of its INTEGER.
    serial: Vec<u8>,
    /// Unix time in seconds.
    not_before_s: i64,
    not_after_s: i64,
}

impl Leaf {
    fn of(der: &CertificateDer<'_>) -> Result<Leaf, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("no X.509 certificate: {error}"))?;
        let validity = certificate.validity();
        let names =
            certificate.subject_alternative_name().map_err(|error| format!("its names cannot be read: {error}"))?;
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        Ok(Leaf {
            names: names.collect(),
            uri: client::uri(&certificate),
            serial: certificate.raw_serial().to_vec(),
            not_before_s: validity.not_before.timestamp(),
            not_after_s: validity.not_after.timestamp(),
        })
    }
}

fn now_s() -> i64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() as i64)
}

fn date(unix_s: i64) -> String {
    rfc3339::text(UNIX_EPOCH + Duration::from_secs(unix_s.max(0).unsigned_abs()))
}
