//! Which certificate a client gets: by the name it asks for (RFC 6066 §3), and by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certificate;

type Keys = Vec<Arc<CertifiedKey>>;

/// Certificates by the names they are for. Of several for one name a client gets the first it can verify.
#[derive(Debug)]
pub(super) struct ByName {
    exact: HashMap<String, Keys>,
    /// By what follows `*.`; a wildcard is one label (RFC 9525 §6.3).
    wildcard: HashMap<String, Keys>,
    /// For clients that name nobody, or somebody unknown.
    default: Keys,
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
                map.entry(name.to_owned()).or_default().push(certificate.key.clone());
            }
        }
        // The first one, and those that differ from it by their algorithm alone.
        let Some(first) = certificates.first() else { return by_name };
        let same = certificates.iter().filter(|other| Arc::ptr_eq(first, other) || other.names == first.names);
        by_name.default = same.map(|certificate| certificate.key.clone()).collect();
        by_name
    }

    /// `None`: no certificate is for this name, and none is shown in place of it.
    fn find(&self, name: Option<&str>) -> Option<&Keys> {
        let Some(name) = name else { return (!self.refuse_unknown).then_some(&self.default) };
        let name = name.to_ascii_lowercase();
        let by_suffix = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(by_suffix).or((!self.refuse_unknown).then_some(&self.default))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.find(hello.server_name())?;
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        keys.iter().find(fits).or(keys.first()).cloned()
    }
}
