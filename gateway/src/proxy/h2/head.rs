//! A request's head as `h2` gives it, written as the exchange reads heads: field lines behind each other in one text.

use http::request::Parts;
use http1::{ConnectionOptions, Fault, HeadLimits, Known, Method, RequestLine, Version};

use crate::config::model::Underscores;
use crate::limits::RESPONSE_FIELDS_MAX;
use crate::proxy::fields::Fields;
use crate::proxy::head::{Protocol, RequestHead, ResponseHead};
use crate::proxy::prepare::canonical;
use crate::refusal::Refusal;

/// A head, and what was said about this hop.
pub struct Received {
    pub head: RequestHead,
    pub options: ConnectionOptions,
    /// It asks for WebSocket by an extended CONNECT (RFC 8441 §4).
    pub websocket: bool,
}

/// Reads `parts`. What RFC 9113 §8.2 and §8.3 call malformed never came this far: `h2` has reset its stream.
pub fn read(parts: &Parts, limits: &HeadLimits, underscores: Underscores) -> Result<Received, Refusal> {
    let refuse = |fault| Err(Refusal::Malformed(fault));
    let websocket = match parts.extensions.get::<h2::ext::Protocol>() {
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => true,
        Some(_) => return Err(Refusal::ConnectUnsupported),
        None => false,
    };
    // Such a CONNECT is what a GET with `Upgrade` is in HTTP/1.1.
    let method_text = if websocket { "GET" } else { parts.method.as_str() };
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(http::header::HOST).iter();
    let host = hosts.next().map(|host| host.as_bytes());
    if hosts.next().is_some() {
        return refuse(Fault::HostRepeated);
    }
    let target = match parts.uri.path_and_query() {
        Some(target) => target.as_str().as_bytes(),
        // CONNECT has an authority and nothing else (RFC 9113 §8.5).
        None => authority.unwrap_or_default(),
    };
    if !target.is_ascii() {
        return refuse(Fault::TargetNotAscii);
    }
    if target.iter().any(|byte| byte.is_ascii_control() || *byte == b' ') {
        return refuse(Fault::TargetControl);
    }
    let mut fields = Fields::new();
    let too_large = Refusal::Malformed(Fault::HeadTooLarge);
    let mut write = |text: &[u8]| fields.receive_text(text).ok_or(too_large);
    let method_span = write(method_text.as_bytes())?;
    let target = write(target)?;
    let host = match (authority, host) {
        (Some(authority), Some(host)) if !is_same(authority, host)? => return refuse(Fault::TargetHostMismatch),
        (Some(host), _) | (None, Some(host)) => {
            http1::host_parts(host).map_err(Refusal::Malformed)?;
            write(host)?
        }
        (None, None) => return refuse(Fault::HostMissing),
    };
    let options = read_fields(parts, &mut fields, underscores)?;
    // Now that crumbs of a cookie are one field: browsers send each cookie as one.
    if fields.received().len() > limits.fields {
        return refuse(Fault::TooManyFields);
    }
    let bytes = fields.arena();
    if bytes.len() > limits.head_bytes {
        return Err(too_large);
    }
    let line = RequestLine {
        method: Method::of(method_text.as_bytes()),
        method_span,
        target,
        version: Version::Http11,
        host: Some(host),
        head_bytes: bytes.len(),
    };
    let target = http1::parse_target(bytes, &line, line.host).map_err(Refusal::Malformed)?;
    let (canonical, traits) = canonical(&target, line.method, bytes)?;
    let head = RequestHead::new(&line, Protocol::Http2, &target, canonical, traits, fields);
    Ok(Received { head, options, websocket })
}

/// Reads the head of a service's answer, interim or final.
pub fn read_answer(parts: &http::response::Parts) -> Result<ResponseHead, Fault> {
    if parts.headers.len() > RESPONSE_FIELDS_MAX {
        return Err(Fault::TooManyFields);
    }
    let mut fields = Fields::new();
    for (name, value) in &parts.headers {
        let name = name.as_str().as_bytes();
        if !fields.receive(name, value.as_bytes().trim_ascii(), Known::of(name)) {
            return Err(Fault::HeadTooLarge);
        }
    }
    Ok(ResponseHead { status: parts.status.as_u16(), fields })
}

/// RFC 9113 §8.3.1: who reads one of them and who reads the other must not see two hosts.
fn is_same(authority: &[u8], host: &[u8]) -> Result<bool, Refusal> {
    let (name, port) = http1::host_parts(authority).map_err(Refusal::Malformed)?;
    let (other, other_port) = http1::host_parts(host).map_err(Refusal::Malformed)?;
    Ok(name.eq_ignore_ascii_case(other) && port == other_port)
}

fn read_fields(parts: &Parts, fields: &mut Fields, underscores: Underscores) -> Result<ConnectionOptions, Refusal> {
    let mut options = ConnectionOptions::default();
    let mut all = parts.headers.iter().peekable();
    let mut cookies = Vec::new();
    while let Some((name, value)) = all.next() {
        let mut value = value.as_bytes();
        let known = Known::of(name.as_str().as_bytes());
        match known {
            Known::Te => options.te_trailers |= value.eq_ignore_ascii_case(b"trailers"),
            // RFC 9113 §8.2.3: crumbs become one field again where they leave HTTP/2.
            Known::Cookie => {
                while let Some((_, crumb)) = all.next_if(|(next, _)| *next == name) {
                    if cookies.is_empty() {
                        cookies.extend_from_slice(value);
                    }
                    cookies.extend_from_slice(b"; ");
                    cookies.extend_from_slice(crumb.as_bytes());
                }
                if !cookies.is_empty() {
                    value = &cookies;
                }
            }
            Known::Other if underscores == Underscores::Refuse && name.as_str().contains('_') => {
                return Err(Refusal::FieldNameUnderscore);
            }
            _ => {}
        }
        if !fields.receive(name.as_str().as_bytes(), value.trim_ascii(), known) {
            return Err(Refusal::Malformed(Fault::HeadTooLarge));
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 1000, fields: 10, target_bytes: 1000 };

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn fault(parts: &Parts) -> Option<Fault> {
        match read(parts, &LIMITS, Underscores::Refuse) {
            Err(Refusal::Malformed(fault)) => Some(fault),
            Err(other) => panic!("{other:?}"),
            Ok(_) => None,
        }
    }

    #[test]
    fn a_head_is_what_it_was_with_its_cookies_together() {
        let crumbs = [("cookie", "a=1"), ("x-a", " 1 "), ("cookie", "b=2"), ("te", "trailers"), ("cookie", "c=3")];
        let parts = parts("GET", "https://api.example:8443/a/%62/../c?q=1", &crumbs);
        let Received { head, options, websocket } = read(&parts, &LIMITS, Underscores::Refuse).expect("good");
        assert_eq!(head.method_text(), b"GET");
        assert_eq!(head.authority(), b"api.example:8443");
        assert_eq!(head.path(), b"/a/c");
        assert_eq!(head.query(), Some(&b"q=1"[..]));
        assert_eq!(head.fields.get(b"cookie"), Some(&b"a=1; b=2; c=3"[..]));
        assert_eq!(head.fields.iter().filter(|(_, _, known)| *known == Known::Cookie).count(), 1);
        assert_eq!(head.fields.get(b"x-a"), Some(&b"1"[..]));
        assert!(options.te_trailers && !websocket);
    }

    #[test]
    fn two_hosts_are_none() {
        for (uri, host, expected) in [
            ("https://a.example/", Some("a.example"), None),
            ("https://a.example/", Some("A.example"), None),
            ("https://a.example/", Some("b.example"), Some(Fault::TargetHostMismatch)),
            ("https://a.example/", Some("a.example:1"), Some(Fault::TargetHostMismatch)),
            ("https://x@a.example/", None, Some(Fault::HostUserinfo)),
            ("/", Some("b.example"), None),
            ("/", None, Some(Fault::HostMissing)),
        ] {
            let host: Vec<_> = host.map(|host| ("host", host)).into_iter().collect();
            assert_eq!(fault(&parts("GET", uri, &host)), expected, "{uri} {host:?}");
        }
    }

    #[test]
    fn a_host_is_sent_once() {
        let twice = [("host", "a.example"), ("host", "a.example")];
        assert_eq!(fault(&parts("GET", "/", &twice)), Some(Fault::HostRepeated));
        assert_eq!(fault(&parts("GET", "https://a.example/", &twice)), Some(Fault::HostRepeated));
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let long = "x".repeat(1000);
        assert_eq!(fault(&parts("GET", "http://a/", &[("x", &long)])), Some(Fault::HeadTooLarge));
        let many = [("x", "y"); 11];
        assert_eq!(fault(&parts("GET", "http://a/", &many)), Some(Fault::TooManyFields));
        let crumbs = [("cookie", "y=z"); 11];
        assert_eq!(fault(&parts("GET", "http://a/", &crumbs)), None);
        let huge = "x".repeat(70_000);
        assert_eq!(fault(&parts("GET", "http://a/", &[("x", &huge)])), Some(Fault::HeadTooLarge));
    }

    #[test]
    fn a_websocket_is_asked_for_by_a_connect_with_a_protocol() {
        let mut parts = parts("CONNECT", "https://a.example/chat", &[]);
        parts.extensions.insert(h2::ext::Protocol::from_static("websocket"));
        let received = read(&parts, &LIMITS, Underscores::Refuse).expect("good");
        assert!(received.websocket);
        assert_eq!((received.head.method, received.head.path()), (Method::Get, &b"/chat"[..]));
        parts.extensions.insert(h2::ext::Protocol::from_static("connect-udp"));
        assert!(matches!(read(&parts, &LIMITS, Underscores::Refuse), Err(Refusal::ConnectUnsupported)));
    }
}
