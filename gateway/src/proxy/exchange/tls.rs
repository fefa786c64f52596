//! What the connection's TLS means for one exchange: which hosts may be asked for, and who asks.

use super::Exchange;
use crate::refusal::Refusal;
use crate::route::{HOST_BYTES_MAX, host_name};
use crate::tls::{ClientCertificate, Scope};

impl<'a> Exchange<'a> {
    /// Whether the host is one that this client may ask for over this connection: what its handshake stands for must be what
    /// the host asks of clients (RFC 9110 §15.5.20). Asked of every request, since a reload may ask for more.
    pub(super) fn check_direction(&self) -> Result<(), Refusal> {
        let Some(tls) = &self.listener.tls else { return Ok(()) };
        let policy = tls.only_policy().unwrap_or_else(|| {
            let mut lowered = [0; HOST_BYTES_MAX];
            let host = host_name(self.head.authority(), &mut lowered);
            tls.policy(std::str::from_utf8(host).unwrap_or_default())
        });
        match self.tls.map_or(Scope::OPEN, |tls| tls.scope) == policy.scope {
            true => Ok(()),
            false => Err(Refusal::MisdirectedRequest),
        }
    }

    /// What the client has shown, and the listener verified.
    pub(super) fn client_certificate(&self) -> Option<&'a ClientCertificate> {
        self.tls.and_then(|tls| tls.client.as_deref())
    }

    /// Whether services hear of it.
    pub(super) fn forwards_client(&self) -> bool {
        self.listener.tls.as_ref().is_some_and(|tls| tls.forwards_client)
    }
}
