//! How a service is spoken to.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::words;
use super::{TlsVersions, Upstream};

/// What an upstream's endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    Auto,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    V1,
    V2,
}

impl Upstream {
    /// What its endpoints speak, written or not.
    pub fn protocol(&self) -> UpstreamProtocol {
        match (self.protocol, &self.tls) {
            (Some(protocol), _) => protocol,
            (None, Some(_)) => UpstreamProtocol::Auto,
            (None, None) => UpstreamProtocol::Http1,
        }
    }
}

/// TLS towards a service. Files are read again when they change.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// PEM file of the roots that a service's certificate must go back to; relative to the file it is written in. Default: the roots this system trusts.
    #[schemars(with = "Option<words::FilePath>")]
    pub ca: Option<String>,
    /// Files of revocation lists (PEM or DER). With one, every certificate below a root needs a list of its issuer that is in force. Default: nobody asks whether a certificate was revoked.
    #[schemars(with = "Vec<words::FilePath>", length(max = 100))]
    pub crl: Vec<String>,
    /// The name a service is asked for (SNI) and that its certificate must be for; an address is not sent. Default: the endpoint's host, as it is written.
    #[schemars(with = "Option<words::ServerName>")]
    pub server_name: Option<String>,
    /// PEM file of the certificate that is shown to a service that asks for one, and what links it to a root. Default: none.
    #[schemars(with = "Option<words::FilePath>")]
    pub cert: Option<String>,
    /// PEM file of its private key, not encrypted. Default: none.
    #[schemars(with = "Option<words::FilePath>")]
    pub key: Option<String>,
    /// Keys of which a service must have one, beside all else: `sha256/` and the SHA-256 of the SubjectPublicKeyInfo in base64. Default: any key. At most 100.
    #[schemars(with = "Vec<words::Pin>", length(max = 100))]
    pub pins: Vec<String>,
    /// `intermediate` (default): TLS 1.2 and 1.3. `modern`: 1.3 only.
    pub versions: TlsVersions,
    /// Takes any certificate, of anybody and for any name, also one that is over: whoever is on the way can be the service. `pins` still hold. Default false.
    pub danger_accept_any_certificate: bool,
}
