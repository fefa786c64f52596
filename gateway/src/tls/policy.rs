//! What is asked of clients before they come in: no certificate, or one that goes back to these roots and is not revoked.
//!
//! A listener has one policy, or several by the name a client begins TLS for. What was agreed on under one is never good under
//! another: neither a ticket (its keys belong to the policy) nor a request (its host must belong to the policy of the
//! handshake, see [`Scope`]).

use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ProducesTickets, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use super::client::ClientCertificate;
use super::provider;
use super::tickets::{self, FileKey, FleetTickets, Identity};
use crate::config::model::ClientAuth;

/// Which clients a handshake stands for: how they were asked and by which roots. Lists of revoked certificates are not part of
/// it: a newer one holds for handshakes, and cuts nobody's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope([u8; 32]);

impl Scope {
    /// Clients who were not asked.
    pub const OPEN: Scope = Scope([0; 32]);
}

/// What is asked, as it was read.
pub(super) struct Asked {
    mode: ClientAuth,
    roots: RootCertStore,
    scope: Scope,
    crls: Vec<CertificateRevocationListDer<'static>>,
    identity: Identity,
}

impl Asked {
    /// Nothing.
    pub(super) fn nothing() -> Asked {
        Asked {
            mode: ClientAuth::None,
            roots: RootCertStore::empty(),
            scope: Scope::OPEN,
            crls: Vec::new(),
            identity: Scope::OPEN.0,
        }
    }

    /// `mode` is not `None`.
    pub(super) fn new(
        mode: ClientAuth,
        certificates: &[CertificateDer<'static>],
        crls: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Asked, rustls::Error> {
        let mut roots = RootCertStore::empty();
        certificates.iter().try_for_each(|root| roots.add(root.clone()))?;
        let mut digest = Sha256::new_with_prefix([mode as u8]);
        add_all(&mut digest, certificates.iter().map(|root| &root[..]));
        let scope = Scope(digest.clone().finalize().into());
        add_all(&mut digest, crls.iter().map(|list| &list[..]));
        Ok(Asked { mode, roots, scope, crls, identity: digest.finalize().into() })
    }

    /// Changes whenever something else is asked.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A certificate that is revoked is not let in, nor one of which that is unknown, nor one whose list is over. Asked of
    /// every certificate below the root.
    fn verifier(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, VerifierBuilderError> {
        let roots = Arc::new(self.roots.clone());
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .with_crls(self.crls.clone())
            .enforce_revocation_expiration();
        match self.mode {
            ClientAuth::None => Ok(None),
            ClientAuth::Optional => builder.allow_unauthenticated().build().map(Some),
            ClientAuth::Required => builder.build().map(Some),
        }
    }
}

/// The same whatever the order: processes of a fleet may read their files in another one.
pub(super) fn add_all<'a>(digest: &mut Sha256, parts: impl Iterator<Item = &'a [u8]>) {
    let mut hashes: Vec<[u8; 32]> = parts.map(|part| Sha256::digest(part).into()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    digest.update((hashes.len() as u64).to_le_bytes());
    hashes.iter().for_each(|hash| digest.update(hash));
}

/// Looks at one list of revoked certificates as handshakes will.
pub(super) fn try_list(
    roots: &[CertificateDer<'static>],
    list: &CertificateRevocationListDer<'static>,
) -> Result<(), String> {
    let asked = Asked::new(ClientAuth::Required, roots, vec![list.clone()]).map_err(|error| error.to_string())?;
    asked.verifier().map(drop).map_err(|error| error.to_string())
}

/// Where tickets come from.
pub(super) fn tickets(keys: &[FileKey], asked: &Asked) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    match keys {
        [] => tickets::of_process(asked.identity),
        keys => Ok(Arc::new(FleetTickets::new(keys, &asked.identity)?)),
    }
}

/// What handshakes of one policy go by.
pub struct Policy {
    pub config: Arc<ServerConfig>,
    pub scope: Scope,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    is_required: bool,
}

impl Policy {
    /// `make`: the rest of the configuration, around who verifies.
    pub(super) fn new(
        asked: &Asked,
        make: impl FnOnce(Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, rustls::Error>,
    ) -> Result<Policy, rustls::Error> {
        let verifier = asked.verifier().map_err(|error| rustls::Error::General(error.to_string()))?;
        let config = make(verifier.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth))?;
        Ok(Policy {
            config: Arc::new(config),
            scope: asked.scope,
            verifier,
            is_required: asked.mode == ClientAuth::Required,
        })
    }

    /// Who the client of a finished handshake is, which showed `chain`. One that came by a ticket is verified again: its
    /// certificate may be over meanwhile. `by`: the URI of the certificate it was shown.
    pub fn identify(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
        by: Option<&str>,
    ) -> Result<Option<Rc<ClientCertificate>>, rustls::Error> {
        let Some(verifier) = &self.verifier else { return Ok(None) };
        let Some((own, rest)) = chain.and_then(<[_]>::split_first) else {
            return match self.is_required {
                true => Err(rustls::Error::NoCertificatesPresented),
                false => Ok(None),
            };
        };
        if resumed {
            verifier.verify_client_cert(own, rest, UnixTime::now())?;
        }
        match ClientCertificate::of(own, by) {
            Ok(certificate) => Ok(Some(Rc::new(certificate))),
            Err(why) => {
                tracing::debug!(%why, "a client certificate that was verified cannot be read");
                Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
            }
        }
    }
}
