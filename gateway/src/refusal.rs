//! Why the gateway answers itself: the one table from cause to status, code, whose fault it is and whether a retry is safe.
//! Exhaustive on purpose: a new cause does not compile before it has its line here.

use http1::Fault;

/// Why an exchange did not get its service's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The client's message breaks HTTP.
    Malformed(Fault),
    /// A field name holds `_`, and the listener refuses that.
    FieldNameUnderscore,
    /// The client asked for a tunnel.
    ConnectUnsupported,
    /// The client expects something other than `100-continue`.
    ExpectationFailed,
    /// HTTP without TLS, where TLS is spoken.
    TlsRequired,
    /// The host asks something else of clients than what this connection's handshake stands for.
    MisdirectedRequest,
    /// A PROXY header where none is expected.
    ProxyHeaderUnexpected,
    /// The head did not become complete in time.
    HeadTimeout,
    /// The client stopped sending its body.
    BodyTimeout,
    /// The client sends its body too slowly.
    BodyTooSlow,
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// Decoded the body is larger than the route takes for what was sent.
    BodyTooDense,
    /// The body is not in the content coding it says.
    BodyCodingMalformed,
    /// The body is in a content coding we do not speak, or in several.
    BodyCodingUnsupported,
    /// No route takes this host and path.
    NoRoute,
    /// A route takes this host and path, but not with this method.
    MethodNotAllowed,
    /// The upstream has no endpoint, or none of its names could be resolved.
    NoEndpoint,
    /// The upstream, or every endpoint that was asked, has as many requests as it may.
    UpstreamOverloaded,
    /// No connection to the endpoint could be opened.
    UpstreamConnectFailed,
    /// The endpoint is not who it must be, or does not speak TLS as it should.
    UpstreamTlsFailed,
    UpstreamConnectTimeout,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamTotalTimeout,
    /// The upstream closed its connection before its answer's head was complete.
    UpstreamClosed,
    /// The upstream closed its connection, or broke its framing, inside its answer's body.
    UpstreamBodyCut,
    /// The upstream's connection breaks HTTP/2.
    UpstreamHttp2Broken,
    /// The upstream's answer breaks HTTP.
    UpstreamMalformed(Fault),
    /// The upstream answered an upgrade with another protocol, or one that nobody asked for.
    UpgradeMismatch,
    /// The client's address is on a list, or not on the one it must be on.
    AddressDenied,
    /// The client is banned for a time.
    AddressBanned,
    /// The route is closed on purpose.
    Maintenance,
    /// What the route makes of the path or host is none that services read alike.
    RewriteNotCanonical,
    /// The request head does not fit any more after its edits.
    HeadTooLarge,
    /// A bounded queue was full, or work handed off came back too late.
    Overloaded,
    /// The client left before its answer was complete.
    ClientGone,
    /// The client took nothing of its answer for too long.
    ClientStalled,
    /// The client takes its answer too slowly.
    ClientTooSlow,
    /// A bug of ours.
    Internal,
}

/// Whose doing a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Client,
    Upstream,
    Gateway,
}

impl Party {
    pub fn name(self) -> &'static str {
        match self {
            Party::Client => "client",
            Party::Upstream => "upstream",
            Party::Gateway => "gateway",
        }
    }
}

/// One line of the table.
struct Line {
    status: u16,
    code: &'static str,
    party: Party,
    /// The upstream cannot have acted on the request.
    retry_safe: bool,
    /// What the client can do.
    detail: &'static str,
}

impl Refusal {
    /// Every cause; of the malformed ones, one each, since their faults have codes of their own.
    const PLAIN: [Refusal; 37] = [
        Refusal::FieldNameUnderscore,
        Refusal::ConnectUnsupported,
        Refusal::ExpectationFailed,
        Refusal::TlsRequired,
        Refusal::MisdirectedRequest,
        Refusal::ProxyHeaderUnexpected,
        Refusal::HeadTimeout,
        Refusal::BodyTimeout,
        Refusal::BodyTooSlow,
        Refusal::BodyTooLarge,
        Refusal::BodyTooDense,
        Refusal::BodyCodingMalformed,
        Refusal::BodyCodingUnsupported,
        Refusal::NoRoute,
        Refusal::MethodNotAllowed,
        Refusal::NoEndpoint,
        Refusal::UpstreamOverloaded,
        Refusal::UpstreamConnectFailed,
        Refusal::UpstreamTlsFailed,
        Refusal::UpstreamConnectTimeout,
        Refusal::UpstreamFirstByteTimeout,
        Refusal::UpstreamIdleTimeout,
        Refusal::UpstreamTotalTimeout,
        Refusal::UpstreamClosed,
        Refusal::UpstreamBodyCut,
        Refusal::UpstreamHttp2Broken,
        Refusal::UpgradeMismatch,
        Refusal::AddressDenied,
        Refusal::AddressBanned,
        Refusal::Maintenance,
        Refusal::RewriteNotCanonical,
        Refusal::HeadTooLarge,
        Refusal::Overloaded,
        Refusal::ClientGone,
        Refusal::ClientStalled,
        Refusal::ClientTooSlow,
        Refusal::Internal,
    ];

    /// The codes in the order of [`Refusal::index`], for counters.
    pub fn codes() -> &'static [&'static str] {
        static CODES: std::sync::LazyLock<Vec<&'static str>> = std::sync::LazyLock::new(|| {
            let plain = Refusal::PLAIN.iter().map(|refusal| refusal.code());
            plain.chain(["upstream_malformed"]).chain(Fault::ALL.iter().map(|fault| fault.code())).collect()
        });
        &CODES
    }

    /// Its place in [`Refusal::codes`]. A walk over a short table: refusals are not the fast path.
    pub fn index(self) -> usize {
        let code = self.code();
        Refusal::codes().iter().position(|&known| known == code).expect("every code is in the table")
    }

    pub fn status(self) -> u16 {
        self.line().status
    }

    /// A stable name for machines, in problem+json, the access log and metrics.
    pub fn code(self) -> &'static str {
        self.line().code
    }

    pub fn party(self) -> Party {
        self.line().party
    }

    /// Whether the same request may be sent again without risk that it is acted on twice.
    pub fn retry_safe(self) -> bool {
        self.line().retry_safe
    }

    /// Whether there is somebody to answer. 499 is for logs and counters only.
    pub fn is_answered(self) -> bool {
        self.status() != 499
    }

    /// Text for the client: what it can do. Never what we saw inside.
    pub fn detail(self) -> &'static str {
        self.line().detail
    }

    fn line(self) -> Line {
        use Party::{Client, Gateway, Upstream};
        let line = |status, code, party, retry_safe, detail| Line { status, code, party, retry_safe, detail };
        match self {
            Refusal::Malformed(fault) => line(fault.status(), fault.code(), Client, true, fault.detail()),
            Refusal::FieldNameUnderscore => line(
                400,
                "field_name_underscore",
                Client,
                true,
                "a field name holds an underscore, which some services cannot tell from a hyphen; use a hyphen",
            ),
            Refusal::ConnectUnsupported => {
                line(501, "connect_unsupported", Client, true, "this gateway does not open tunnels")
            }
            Refusal::ExpectationFailed => {
                line(417, "expectation_failed", Client, true, "the only expectation known here is 100-continue")
            }
            Refusal::TlsRequired => line(400, "tls_required", Client, true, "this port speaks TLS; use an `https` URL"),
            Refusal::MisdirectedRequest => line(
                421,
                "misdirected_request",
                Client,
                true,
                "this host is not served over this connection; open another one for it, with its name in the TLS handshake",
            ),
            Refusal::ProxyHeaderUnexpected => line(
                400,
                "proxy_header_unexpected",
                Client,
                true,
                "this port takes no PROXY header; begin with the request",
            ),
            Refusal::HeadTimeout => {
                line(408, "head_timeout", Client, true, "the request head was not complete in time; send it at once")
            }
            Refusal::BodyTimeout => {
                line(408, "body_timeout", Client, false, "the request body stopped coming; send it without pauses")
            }
            Refusal::BodyTooSlow => {
                line(408, "body_too_slow", Client, false, "the request body comes too slowly; use a faster connection")
            }
            Refusal::BodyTooLarge => {
                line(413, "body_too_large", Client, false, "the request body is larger than this route takes")
            }
            Refusal::BodyTooDense => line(
                413,
                "body_too_dense",
                Client,
                false,
                "the request body is much larger than what was sent of it; send it uncompressed or in smaller parts",
            ),
            Refusal::BodyCodingMalformed => line(
                400,
                "body_coding_malformed",
                Client,
                false,
                "the request body is not what its Content-Encoding says, or it was cut short",
            ),
            Refusal::BodyCodingUnsupported => line(
                415,
                "body_coding_unsupported",
                Client,
                true,
                "the request body's Content-Encoding is not one of those the Accept-Encoding field lists, or there are several",
            ),
            Refusal::NoRoute => line(404, "no_route", Client, true, "nothing is served at this host and path"),
            Refusal::MethodNotAllowed => line(
                405,
                "method_not_allowed",
                Client,
                true,
                "this path does not take this method; the Allow field lists those it takes",
            ),
            Refusal::NoEndpoint => {
                line(503, "no_endpoint", Upstream, true, "the service has nowhere to run right now; try again later")
            }
            Refusal::UpstreamOverloaded => {
                line(503, "upstream_overloaded", Gateway, true, "the service has enough to do; try again after a pause")
            }
            Refusal::UpstreamConnectFailed => {
                line(502, "upstream_connect_failed", Upstream, true, "the service cannot be reached; try again later")
            }
            Refusal::UpstreamTlsFailed => line(
                502,
                "upstream_tls_failed",
                Upstream,
                true,
                "no secure connection to the service can be had; try again later",
            ),
            Refusal::UpstreamConnectTimeout => {
                line(504, "upstream_connect_timeout", Upstream, true, "the service cannot be reached; try again later")
            }
            Refusal::UpstreamFirstByteTimeout => line(
                504,
                "upstream_first_byte_timeout",
                Upstream,
                false,
                "the service did not answer in time; it may have acted on the request",
            ),
            Refusal::UpstreamIdleTimeout => line(
                504,
                "upstream_idle_timeout",
                Upstream,
                false,
                "the service stopped in the middle; it may have acted on the request",
            ),
            Refusal::UpstreamTotalTimeout => line(
                504,
                "upstream_total_timeout",
                Upstream,
                false,
                "the exchange took too long; the service may have acted on the request",
            ),
            Refusal::UpstreamClosed => line(
                502,
                "upstream_closed",
                Upstream,
                false,
                "the service closed its connection without an answer; it may have acted on the request",
            ),
            Refusal::UpstreamBodyCut => line(
                502,
                "upstream_body_cut",
                Upstream,
                false,
                "the service's answer ended early; it may have acted on the request",
            ),
            Refusal::UpstreamHttp2Broken => line(
                502,
                "upstream_http2_broken",
                Upstream,
                false,
                "the service's connection broke HTTP/2; it may have acted on the request",
            ),
            Refusal::UpstreamMalformed(_) => line(
                502,
                "upstream_malformed",
                Upstream,
                false,
                "the service's answer is not valid HTTP; it may have acted on the request",
            ),
            Refusal::UpgradeMismatch => line(
                502,
                "upgrade_mismatch",
                Upstream,
                false,
                "the service switched to a protocol that was not asked for, or not to the one that was",
            ),
            Refusal::AddressDenied => line(
                403,
                "address_denied",
                Client,
                true,
                "this address is not let in here; ask whoever runs this service",
            ),
            Refusal::AddressBanned => {
                line(403, "address_banned", Client, true, "this address is not let in for a time; come again later")
            }
            Refusal::Maintenance => line(
                503,
                "maintenance",
                Gateway,
                true,
                "this is closed for maintenance; come again when retry-after is over",
            ),
            Refusal::RewriteNotCanonical => line(
                400,
                "rewrite_not_canonical",
                Client,
                true,
                "this path cannot be passed on to the service; send one without dots or nothing between its slashes",
            ),
            Refusal::HeadTooLarge => line(
                431,
                "edited_head_too_large",
                Client,
                true,
                "the request head is too large to be passed on; send fewer or shorter fields",
            ),
            Refusal::Overloaded => {
                line(503, "overloaded", Gateway, true, "the gateway is overloaded; try again after a pause")
            }
            Refusal::ClientGone => line(499, "client_gone", Client, false, "the client left"),
            Refusal::ClientStalled => {
                line(499, "client_stalled", Client, false, "the client took nothing of the answer")
            }
            Refusal::ClientTooSlow => line(499, "client_too_slow", Client, false, "the client read too slowly"),
            Refusal::Internal => {
                line(500, "internal", Gateway, false, "the gateway failed; the request id finds it in the log")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_there_once_and_finds_itself() {
        let mut codes = Refusal::codes().to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Refusal::codes().len());
        for refusal in Refusal::PLAIN {
            assert_eq!(Refusal::codes()[refusal.index()], refusal.code());
        }
        for &fault in Fault::ALL {
            assert_eq!(Refusal::codes()[Refusal::Malformed(fault).index()], fault.code());
            assert_eq!(Refusal::codes()[Refusal::UpstreamMalformed(fault).index()], "upstream_malformed");
        }
    }

    #[test]
    fn the_page_has_every_code_with_its_status() {
        let page = include_str!("../../docs/observability.md");
        let malformed = Refusal::UpstreamMalformed(Fault::ALL[0]);
        for refusal in Refusal::PLAIN.into_iter().chain([malformed]) {
            let (status, code) = (format!("| {} |", refusal.status()), format!("`{}`", refusal.code()));
            assert!(page.lines().any(|line| line.starts_with(&status) && line.contains(&code)), "{status} {code}");
        }
        let statuses: std::collections::BTreeSet<u16> = Fault::ALL.iter().map(|fault| fault.status()).collect();
        assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [400, 413, 414, 431, 501, 505]);
    }

    #[test]
    fn what_the_upstream_may_have_seen_is_not_safe_to_repeat() {
        assert!(Refusal::UpstreamConnectFailed.retry_safe());
        assert!(!Refusal::UpstreamClosed.retry_safe());
        assert!(!Refusal::UpstreamFirstByteTimeout.retry_safe());
    }
}
