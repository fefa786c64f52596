//! What an upstream's `tls` names.

use std::path::Path;
use std::sync::Arc;

use super::super::files;
use super::super::service::{OwnCertificate, Parts, Roots, ServiceTls, server_name};
use super::{Named, Reader};
use crate::config::model::{UpstreamProtocol, UpstreamTls};
use crate::config::words::pinned_key;

impl Reader<'_> {
    pub(super) fn service(&mut self, tls: &UpstreamTls, protocol: UpstreamProtocol, key: &str) -> Option<ServiceTls> {
        let before = self.read.problems.len();
        let mut crls = Vec::new();
        let roots = match (tls.danger_accept_any_certificate, &tls.ca) {
            (true, _) => None,
            (false, None) => self.system_roots(key),
            (false, Some(ca)) => {
                let ca_key = format!("{key}.ca");
                let file = self.file(&ca_key, ca);
                let named = |(nth, written): (usize, &String)| {
                    let key = format!("{key}.crl[{nth}]");
                    Named { file: self.file(&key, written), key }
                };
                let lists: Vec<Named> = tls.crl.iter().enumerate().map(named).collect();
                let known = self.roots.get(&file).filter(|_| lists.is_empty()).cloned();
                known.or_else(|| {
                    let (roots, read) = self.authorities(&ca_key, &file, &lists)?;
                    crls = read;
                    let roots = self.open(&ca_key, &file, |_| Roots::new(&roots).map_err(|error| error.to_string()))?;
                    Some(self.keep(&file, roots))
                })
            }
        };
        let own = match (&tls.cert, &tls.key) {
            (Some(cert), Some(secret)) => self.pair((cert, secret), key, "services").map(|(file, pair, leaf)| {
                let certificate = OwnCertificate { file, not_after_s: leaf.not_after_s };
                (Arc::new(pair), certificate)
            }),
            _ => None,
        };
        if self.read.problems.len() > before {
            return None;
        }
        if tls.danger_accept_any_certificate {
            let what = match tls.pins.is_empty() {
                true => "any certificate is taken: whoever is on the way to the service can read and change everything",
                false => "any certificate is taken whose key is pinned: neither its name nor its dates are looked at",
            };
            self.warn(&format!("{key}.danger_accept_any_certificate"), what.to_owned());
        }
        let parts = Parts {
            roots,
            crls,
            pins: tls.pins.iter().filter_map(|pin| pinned_key(pin)).collect(),
            server_name: tls.server_name.as_deref().and_then(server_name),
            own,
            versions: tls.versions,
            protocol,
        };
        ServiceTls::new(parts).map_err(|error| self.problem(key, error.to_string())).ok()
    }

    /// What the system trusts, so that an authority its administrators have installed is trusted here, too, and one the
    /// distribution has struck no more: a list in the binary would be as old as that.
    fn system_roots(&mut self, key: &str) -> Option<Arc<Roots>> {
        let Some(file) = files::system_roots() else {
            let why = "this system has no roots to verify the service by: install them (package ca-certificates), or write `ca`";
            self.problem(key, why.to_owned());
            return None;
        };
        if let Some(known) = self.roots.get(&file) {
            return Some(known.clone());
        }
        self.read.files.push(file.clone());
        let roots = self.open(key, &file, |file| match Roots::of_system(&files::chain(file)?) {
            roots if roots.store.is_empty() => Err("none of the system's roots can be used".to_owned()),
            roots => Ok(roots),
        })?;
        Some(self.keep(&file, roots))
    }

    fn keep(&mut self, file: &Path, roots: Roots) -> Arc<Roots> {
        let roots = Arc::new(roots);
        self.roots.insert(file.to_owned(), roots.clone());
        roots
    }
}
