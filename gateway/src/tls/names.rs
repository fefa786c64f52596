//! Which certificate a client gets: by the name it asks for (RFC 6066 §3), and by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certificate;

type Certificates = Vec<Arc<Certificate>>;

/// Certificates by the names they are for. Of several for one name a client gets the first it can verify.
#[derive(Debug)]
pub(super) struct ByName {
    exact: HashMap<String, Certificates>,
    /// By what follows `*.`; a wildcard is one label (RFC 9525 §6.3).
    wildcard: HashMap<String, Certificates>,
    /// For clients that name nobody, or somebody unknown.
    default: Certificates,
    refuse_unknown: bool,
}

impl ByName {
    pub(super) fn new(certificates: &[Arc<Certificate>], refuse_unknown: bool) -> ByName {
        let mut by_name =
            ByName { exact: HashMap::new(), wildcard: HashMap::new(), default: Vec::new(), refuse_unknown };
        for certificate in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut by_name.wildcard, suffix),
                    None => (&mut by_name.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(certificate.clone());
            }
        }
        // The first one, and those that differ from it by their algorithm alone.
        let Some(first) = certificates.first() else { return by_name };
        let same = certificates.iter().filter(|other| Arc::ptr_eq(first, other) || other.names == first.names);
        by_name.default = same.cloned().collect();
        by_name
    }

    /// The certificates for `name`, which is in lower case; at least one. `None`: none of them is for it.
    pub(super) fn find(&self, name: &str) -> Option<&[Arc<Certificate>]> {
        let by_suffix = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(by_suffix).map(Vec::as_slice)
    }

    /// Those that stand for `name` where clients must not get around them: also of a wildcard that ends it further up, since
    /// routes take hosts by the end of their names at any depth. `None`: no certificate has to do with it.
    pub(super) fn closest(&self, name: &str) -> Option<&[Arc<Certificate>]> {
        let mut above = std::iter::successors(Some(name), |name| Some(name.split_once('.')?.1)).skip(1);
        self.exact.get(name).or_else(|| above.find_map(|suffix| self.wildcard.get(suffix))).map(Vec::as_slice)
    }

    /// Where there is none for the name.
    pub(super) fn default(&self) -> &[Arc<Certificate>] {
        &self.default
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let certificates = match name.and_then(|name| self.find(&name)) {
            Some(certificates) => certificates,
            None if self.refuse_unknown => return None,
            None => &self.default,
        };
        let fits =
            |certificate: &&Arc<Certificate>| certificate.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let certificate = certificates.iter().find(fits).or(certificates.first())?;
        let now_s = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() as i64);
        Some(certificate.key_at(now_s).clone())
    }
}
