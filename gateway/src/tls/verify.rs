//! Whether a service is who it must be: by its certificate, by its key, or both.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::provider;
use super::service::Roots;

/// Asked of every certificate a service shows.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None`: any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// SHA-256 of keys of which the service must have one; none: any.
    pins: Vec<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a key that is pinned to another comes to.
pub(super) const NOT_PINNED: CertificateError = CertificateError::ApplicationVerificationFailure;

impl Verifier {
    pub(super) fn new(
        roots: Option<&Roots>,
        crls: &[CertificateRevocationListDer<'static>],
        pins: &[[u8; 32]],
    ) -> Result<Verifier, Error> {
        // A certificate that is revoked is not good, nor one of which that is unknown, nor one whose list is over. Asked of every
        // certificate below the root.
        let chain = roots.map(|roots| {
            WebPkiServerVerifier::builder_with_provider(roots.store.clone(), provider())
                .with_crls(crls.iter().cloned())
                .enforce_revocation_expiration()
                .build()
        });
        let chain = chain.transpose().map_err(|error| Error::General(error.to_string()))?;
        Ok(Verifier { chain, pins: pins.to_vec(), algorithms: provider().signature_verification_algorithms })
    }

    /// Whether the certificates of an earlier handshake would pass now.
    pub(super) fn still_good(
        &self,
        shown: Option<&[CertificateDer<'_>]>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let (own, rest) = shown.and_then(<[_]>::split_first).ok_or(Error::NoCertificatesPresented)?;
        self.verify_server_cert(own, rest, name, &[], now).map(drop)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        if !self.pins.is_empty() {
            let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
            let key: [u8; 32] = Sha256::digest(&key[..]).into();
            if !self.pins.contains(&key) {
                return Err(NOT_PINNED.into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // Whoever shows a certificate must have its key, whatever the certificate: a pin would mean nothing otherwise.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_that_was_good_once_is_looked_at_again() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["books.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 2, 1));
        let own = params.self_signed(&key).unwrap().der().clone();
        let verifier = Verifier::new(Some(&Roots::new(std::slice::from_ref(&own)).unwrap()), &[], &[]).unwrap();
        let at = |s| UnixTime::since_unix_epoch(Duration::from_secs(s));
        let (within, later) = (at(1_767_312_000), at(1_772_000_000));
        let (books, films) = (ServerName::try_from("books.test").unwrap(), ServerName::try_from("films.test").unwrap());
        let shown = [own];
        assert_eq!(verifier.still_good(Some(&shown), &books, within), Ok(()));
        assert!(matches!(
            verifier.still_good(Some(&shown), &books, later),
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))
        ));
        assert!(verifier.still_good(Some(&shown), &films, within).is_err());
        assert_eq!(verifier.still_good(None, &books, within), Err(Error::NoCertificatesPresented));
        // A key that is pinned, and whatever is written in the certificate.
        let pinned = |pin| Verifier::new(None, &[], &[pin]).unwrap().still_good(Some(&shown), &films, later);
        assert_eq!(pinned([7; 32]), Err(NOT_PINNED.into()));
        let spki = ParsedCertificate::try_from(&shown[0]).unwrap().subject_public_key_info();
        assert_eq!(pinned(Sha256::digest(&spki[..]).into()), Ok(()));
    }
}
