//! Why nothing was agreed on with a service: in words for the log, by a short list of reasons for metrics.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use crate::limits::TLS_DETAIL_BYTES_MAX;
use crate::observe::rfc3339;

/// A handshake with a service that came to nothing.
#[derive(Debug, Clone)]
pub struct NoAgreement {
    pub reason: Reason,
    /// What we saw, for the log. Of bounded length.
    pub detail: String,
    /// What was known of the service is good no more and was dropped: it may be good when it is asked anew.
    pub is_stale: bool,
}

/// The reasons, as they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Expired,
    NotYetValid,
    UnknownIssuer,
    /// It is for another name.
    Name,
    Revoked,
    /// No list in force says whether it is revoked.
    RevocationUnknown,
    /// The service has another key than it is pinned to.
    Pin,
    /// Anything else about the service's certificate.
    Certificate,
    /// The service does not take our certificate, or wants one.
    ClientCertificate,
    /// No version, algorithm or protocol in common, or the service breaks the rules of TLS.
    Protocol,
    /// The service says so and not why.
    Alert,
    /// What it speaks is no TLS.
    NoTls,
    /// It hung up.
    Closed,
}

impl Reason {
    pub const ALL: [Reason; 13] = [
        Reason::Expired,
        Reason::NotYetValid,
        Reason::UnknownIssuer,
        Reason::Name,
        Reason::Revoked,
        Reason::RevocationUnknown,
        Reason::Pin,
        Reason::Certificate,
        Reason::ClientCertificate,
        Reason::Protocol,
        Reason::Alert,
        Reason::NoTls,
        Reason::Closed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::NotYetValid => "not_yet_valid",
            Reason::UnknownIssuer => "unknown_issuer",
            Reason::Name => "name",
            Reason::Revoked => "revoked",
            Reason::RevocationUnknown => "revocation_unknown",
            Reason::Pin => "pin",
            Reason::Certificate => "certificate",
            Reason::ClientCertificate => "client_certificate",
            Reason::Protocol => "protocol",
            Reason::Alert => "alert",
            Reason::NoTls => "no_tls",
            Reason::Closed => "closed",
        }
    }
}

impl NoAgreement {
    fn new(reason: Reason, detail: impl Into<String>) -> NoAgreement {
        let mut detail = detail.into();
        // Names in a certificate are somebody else's, and may be many.
        if detail.len() > TLS_DETAIL_BYTES_MAX {
            detail.truncate(detail.floor_char_boundary(TLS_DETAIL_BYTES_MAX));
            detail.push_str("...");
        }
        NoAgreement { reason, detail, is_stale: false }
    }

    pub fn of(error: &Error) -> NoAgreement {
        match error {
            Error::InvalidCertificate(error) => certificate(error),
            Error::AlertReceived(alert) if is_about_ours(*alert) => NoAgreement::client_certificate(*alert),
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                NoAgreement::new(Reason::Protocol, "the service speaks none of the protocols it was offered (ALPN)")
            }
            Error::AlertReceived(
                alert @ (AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity),
            ) => NoAgreement::new(
                Reason::Protocol,
                format!("the service refused: alert {}", words(&format!("{alert:?}"))),
            ),
            Error::AlertReceived(alert) => {
                NoAgreement::new(Reason::Alert, format!("the service refused: alert {}", words(&format!("{alert:?}"))))
            }
            Error::InvalidMessage(_) => NoAgreement::new(Reason::NoTls, "what the service speaks is no TLS"),
            Error::NoApplicationProtocol => NoAgreement::not_http2(),
            Error::PeerIncompatible(what) => {
                let what = words(&format!("{what:?}"));
                NoAgreement::new(Reason::Protocol, format!("nothing in common with the service: {what}"))
            }
            error => NoAgreement::new(Reason::Protocol, error.to_string()),
        }
    }

    pub fn not_http2() -> NoAgreement {
        NoAgreement::new(Reason::Protocol, "the service does not agree on HTTP/2 (ALPN `h2`)")
    }

    pub fn broken(error: &io::Error) -> NoAgreement {
        NoAgreement::new(Reason::Closed, format!("the connection broke during the TLS handshake: {error}"))
    }

    pub fn closed() -> NoAgreement {
        NoAgreement::new(Reason::Closed, "closed during the TLS handshake")
    }

    fn client_certificate(alert: AlertDescription) -> NoAgreement {
        let what = match alert {
            AlertDescription::CertificateRequired => "the service wants a client certificate".to_owned(),
            alert => {
                format!("the service takes no client certificate like ours: alert {}", words(&format!("{alert:?}")))
            }
        };
        NoAgreement::new(Reason::ClientCertificate, what)
    }

    /// What a service says of our certificate comes after the handshake in TLS 1.3 (RFC 8446 §4.4.2.4), where an answer is
    /// awaited. `None`: `error` is something else.
    pub fn after_handshake(error: &io::Error) -> Option<NoAgreement> {
        match error.get_ref()?.downcast_ref::<Error>()? {
            Error::AlertReceived(alert) if is_about_ours(*alert) => Some(NoAgreement::client_certificate(*alert)),
            _ => None,
        }
    }
}

/// Alerts a service sends for what we show it, or do not.
fn is_about_ours(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}

fn certificate(error: &CertificateError) -> NoAgreement {
    use CertificateError as Wrong;
    let (reason, detail) = match error {
        Wrong::Expired => (Reason::Expired, "certificate expired".to_owned()),
        Wrong::ExpiredContext { not_after, .. } => {
            (Reason::Expired, format!("certificate expired: it was good until {}", date(*not_after)))
        }
        Wrong::NotValidYet => (Reason::NotYetValid, "certificate not valid yet".to_owned()),
        Wrong::NotValidYetContext { not_before, .. } => {
            (Reason::NotYetValid, format!("certificate not valid yet: it begins at {}", date(*not_before)))
        }
        Wrong::UnknownIssuer => {
            (Reason::UnknownIssuer, "unknown issuer: no root that is trusted vouches for the certificate".to_owned())
        }
        Wrong::NotValidForName => (Reason::Name, "certificate not valid for the name of the service".to_owned()),
        error @ Wrong::NotValidForNameContext { .. } => (Reason::Name, error.to_string()),
        Wrong::Revoked => (Reason::Revoked, "certificate revoked".to_owned()),
        Wrong::UnknownRevocationStatus => {
            (Reason::RevocationUnknown, "no revocation list is of the certificate's issuer".to_owned())
        }
        Wrong::ExpiredRevocationList => (Reason::RevocationUnknown, "the revocation list is over".to_owned()),
        Wrong::ExpiredRevocationListContext { next_update, .. } => {
            (Reason::RevocationUnknown, format!("the revocation list is over since {}", date(*next_update)))
        }
        Wrong::ApplicationVerificationFailure => {
            (Reason::Pin, "pin mismatch: the service has none of the keys in `pins`".to_owned())
        }
        error => (Reason::Certificate, format!("invalid certificate: {error}")),
    };
    NoAgreement::new(reason, detail)
}

fn date(time: UnixTime) -> String {
    rfc3339::text(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

/// `HandshakeFailure` as `handshake failure`.
fn words(name: &str) -> String {
    let mut words = String::new();
    let mut before_is_lower = false;
    for char in name.chars() {
        if char.is_ascii_uppercase() && before_is_lower {
            words.push(' ');
        }
        before_is_lower = !char.is_ascii_uppercase();
        words.push(char.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_where_they_are_counted() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason:?}");
        }
    }

    #[test]
    fn every_error_has_a_reason_and_words() {
        let time = |s| UnixTime::since_unix_epoch(Duration::from_secs(s));
        let wrong = |error: CertificateError| Error::InvalidCertificate(error);
        let long = CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("a.test").unwrap(),
            presented: (0..1000).map(|number| format!("\u{17e}{number}.test")).collect(),
        };
        let cases = [
            (
                wrong(CertificateError::ExpiredContext { time: time(9), not_after: time(0) }),
                Reason::Expired,
                "certificate expired: it was good until 1970-01-01T00:00:00",
            ),
            (wrong(CertificateError::UnknownIssuer), Reason::UnknownIssuer, "unknown issuer"),
            (wrong(long), Reason::Name, "certificate not valid for name \"a.test\""),
            (wrong(CertificateError::BadEncoding), Reason::Certificate, "invalid certificate: BadEncoding"),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                Reason::Alert,
                "the service refused: alert handshake failure",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                Reason::ClientCertificate,
                "the service takes no client certificate like ours: alert unknown ca",
            ),
            (
                Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
                Reason::NoTls,
                "what the service speaks is no TLS",
            ),
        ];
        for (error, reason, words) in cases {
            let failure = NoAgreement::of(&error);
            assert_eq!(failure.reason, reason, "{error:?}");
            assert!(failure.detail.starts_with(words), "{}", failure.detail);
            assert!(failure.detail.len() <= TLS_DETAIL_BYTES_MAX + 3, "{}", failure.detail);
        }
    }
}
