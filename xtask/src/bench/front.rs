//! What peers speak with clients, in the words of each peer's configuration.

use e2e::tls::Made;

use super::peers::Peer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    Plain,
    /// TLS 1.2 and 1.3, over it HTTP/1.1 and HTTP/2 by ALPN.
    Tls,
}

impl Front {
    /// Requests a connection may bring: over TLS more than the 10,000 that are usual, because h2load does not come again
    /// when a server ends a connection.
    fn requests(self) -> u32 {
        match self {
            Self::Plain => 10_000,
            Self::Tls => 1_000_000,
        }
    }

    fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls => "https",
        }
    }
}

/// The words of a peer's configuration, and what stands for them.
pub(super) fn words(peer: Peer, front: Front, certificate: &Made) -> Vec<(&'static str, String)> {
    let mut words = vec![("requests", front.requests().to_string()), ("scheme", front.scheme().to_owned())];
    let (cert, key) = (certificate.cert.display(), certificate.key.display());
    let mut of_tls = |word, text: String| words.push((word, if front == Front::Tls { text } else { String::new() }));
    match peer {
        Peer::Gateway => of_tls("tls", format!("tls.certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]")),
        Peer::Nginx => {
            of_tls("listen", "ssl http2".to_owned());
            of_tls(
                "tls",
                format!(
                    "        ssl_certificate {cert};\n        ssl_certificate_key {key};\n        ssl_protocols TLSv1.2 TLSv1.3;"
                ),
            );
        }
        Peer::Haproxy => {
            // It wants both in one file.
            let both = certificate.cert.with_extension("both.pem");
            of_tls("tls", format!("ssl crt {} ssl-min-ver TLSv1.2 alpn h2,http/1.1", both.display()));
        }
        Peer::Envoy => of_tls("tls", envoy(certificate)),
        Peer::Traefik => {
            of_tls("router_tls", ", tls: {}".to_owned());
            of_tls(
                "tls",
                format!(
                    "tls:\n  options: {{ default: {{ minVersion: VersionTLS12 }} }}\n  \
                     stores: {{ default: {{ defaultCertificate: {{ certFile: \"{cert}\", keyFile: \"{key}\" }} }} }}"
                ),
            );
        }
        Peer::Floor => {}
    }
    words
}

fn envoy(certificate: &Made) -> String {
    let (cert, key) = (certificate.cert.display(), certificate.key.display());
    format!(
        r#"          transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_params: {{ tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3 }}
                tls_certificates:
                  - certificate_chain: {{ filename: "{cert}" }}
                    private_key: {{ filename: "{key}" }}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_listeners_name_no_certificate_and_tls_ones_do() {
        let made = Made { cert: "a/c.pem".into(), key: "a/c.key".into() };
        for peer in [Peer::Gateway, Peer::Nginx, Peer::Haproxy, Peer::Envoy, Peer::Traefik] {
            let named = |front| words(peer, front, &made).iter().any(|(_, text)| text.contains("a/c."));
            assert!(!named(Front::Plain) && named(Front::Tls), "{}", peer.name());
            let names = |front| words(peer, front, &made).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
            assert_eq!(names(Front::Plain), names(Front::Tls), "{}", peer.name());
        }
    }
}
