//! Where clients come in, and what they speak there, as the operator writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::words;

/// A socket clients connect to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its name in logs and metrics. Default: its address.
    #[serde(default)]
    #[schemars(with = "Option<words::Name>")]
    pub name: Option<String>,
    /// `ip:port`; port 0 lets the kernel choose (the choice is logged).
    #[schemars(with = "words::ListenAddress")]
    pub address: String,
    /// How a client's address is decided, once and for all uses. `peer` (default): who opened the connection. `forwarded`: `X-Forwarded-For` walked from the right past `gateway.trusted_hops`. `proxy_protocol`: every connection is from one of `gateway.trusted_hops` and begins with a PROXY header (version 1 or 2), which says who the client is; others are closed.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// Lists whose addresses are refused here, beside those that are denied everywhere.
    #[serde(default)]
    #[schemars(with = "Vec<words::Name>")]
    pub deny: Vec<String>,
    /// Lists of which one must hold the client. Default: any client.
    #[serde(default)]
    #[schemars(with = "Vec<words::Name>")]
    pub allow: Vec<String>,
    /// What to do with request fields that have `_` in their name, which some services cannot tell from `-`: `refuse` (default, 400), `drop` or `keep`.
    #[serde(default)]
    pub underscores: Underscores,
    /// HTTP/2 is spoken beside HTTP/1: under TLS by ALPN, else with clients that begin with its preface. Default true.
    #[serde(default = "yes")]
    pub http2: bool,
    /// Clients speak TLS here. Default: plain HTTP.
    #[serde(default)]
    pub tls: Option<Tls>,
}

fn yes() -> bool {
    true
}

/// TLS towards clients.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates, chosen by the host a client names; the first is for those that name none.
    #[schemars(length(min = 1, max = 1000))]
    pub certificates: Vec<Certificate>,
    /// `intermediate` (default): TLS 1.2 and 1.3. `modern`: 1.3 only.
    #[serde(default)]
    pub versions: TlsVersions,
    /// What clients get that name a host of no certificate, or none. `default` (default): the first certificate. `refuse`: no handshake.
    #[serde(default)]
    pub unknown_names: UnknownNames,
    /// Whether clients show a certificate. `none` (default): they are not asked. `optional`: they are, and whoever has none comes in, too. `required`: without one there is no handshake. One that cannot be verified is never let in.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// PEM file of the roots that clients' certificates must go back to. Default: none; needed where clients are asked.
    #[serde(default)]
    #[schemars(with = "Option<words::FilePath>")]
    pub client_ca: Option<String>,
    /// Files of revocation lists (PEM or DER). With one, every certificate below a root needs a list of its issuer that is in force. Default: nobody asks whether a certificate was revoked.
    #[serde(default)]
    #[schemars(with = "Vec<words::FilePath>", length(max = 100))]
    pub client_crl: Vec<String>,
    /// Whether services hear of the client's certificate in `X-Forwarded-Client-Cert`. `none` (default): no. `set`: yes, of the one verified here. What clients send under that name is struck in any case.
    #[serde(default)]
    pub forward_client_cert: ForwardClientCert,
    /// Files of 80 (or 48) random bytes that tickets are made with, the same for a fleet: the first makes them, all are known. Default: keys of this process alone, changed every six hours.
    #[serde(default)]
    #[schemars(with = "Vec<words::FilePath>", length(max = 8))]
    pub ticket_keys: Vec<String>,
}

/// A certificate and its key. Files are read again when they change.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file of the certificate and what links it to a root, the certificate first; relative to the file it is written in.
    #[schemars(with = "words::FilePath")]
    pub cert: String,
    /// PEM file of its private key, not encrypted.
    #[schemars(with = "words::FilePath")]
    pub key: String,
    /// DER file of an OCSP response about it, shown beside it as long as it is in force. Default: none.
    #[serde(default)]
    #[schemars(with = "Option<words::FilePath>")]
    pub ocsp: Option<String>,
    /// For its names instead of the listener's. Default: the listener's.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// For its names instead of the listener's. Default: the listener's.
    #[serde(default)]
    #[schemars(with = "Option<words::FilePath>")]
    pub client_ca: Option<String>,
    /// For its names instead of the listener's. Default: the listener's.
    #[serde(default)]
    #[schemars(with = "Option<Vec<words::FilePath>>", length(max = 100))]
    pub client_crl: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    #[default]
    None,
    Optional,
    Required,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardClientCert {
    #[default]
    None,
    Set,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsVersions {
    #[default]
    Intermediate,
    Modern,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownNames {
    #[default]
    Default,
    Refuse,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddress {
    #[default]
    Peer,
    Forwarded,
    ProxyProtocol,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Underscores {
    #[default]
    Refuse,
    Drop,
    Keep,
}
