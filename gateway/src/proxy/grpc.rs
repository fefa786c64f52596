//! What gRPC says over HTTP that HTTP does not know: its statuses, its deadlines, and how it is told of an error.
//!
//! From the protocol's description ("gRPC over HTTP2"): a call is answered with HTTP 200, and how it went is in `grpc-status`,
//! which is among the trailers, or in the head where there is nothing else ("Trailers-Only").

use std::fmt::Write as _;

use http1::{Field, Known, Span};

use super::fields::Fields;
use super::head::ResponseHead;
use super::trace::RequestId;
use crate::refusal::Refusal;

/// How a call went, 0 to 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(u8);

impl Status {
    pub const OK: Status = Status(0);
    pub const UNKNOWN: Status = Status(2);
    pub const DEADLINE_EXCEEDED: Status = Status(4);
    pub const PERMISSION_DENIED: Status = Status(7);
    pub const RESOURCE_EXHAUSTED: Status = Status(8);
    pub const UNIMPLEMENTED: Status = Status(12);
    pub const INTERNAL: Status = Status(13);
    pub const UNAVAILABLE: Status = Status(14);
    pub const UNAUTHENTICATED: Status = Status(16);

    /// By number.
    pub const NAMES: [&str; 17] = [
        "ok",
        "cancelled",
        "unknown",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "already_exists",
        "permission_denied",
        "resource_exhausted",
        "failed_precondition",
        "aborted",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
        "unauthenticated",
    ];

    pub fn named(name: &str) -> Option<Status> {
        Status::NAMES.iter().position(|known| *known == name).map(|number| Status(number as u8))
    }

    pub fn name(self) -> &'static str {
        Status::NAMES[self.index()]
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The value of `grpc-status`. One that no version of gRPC knows is `unknown`.
    fn of(value: &[u8]) -> Status {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.filter(|number| usize::from(*number) < Status::NAMES.len()).map_or(Status::UNKNOWN, Status)
    }

    /// What a head says, where it says all there is.
    pub fn in_head(fields: &Fields) -> Option<Status> {
        fields.get(b"grpc-status").map(Status::of)
    }

    /// What trailers say, which lie in `bytes`.
    pub fn in_trailers(bytes: &[u8], fields: &[Field]) -> Option<Status> {
        let said = fields.iter().find(|field| field.name.of(bytes).eq_ignore_ascii_case(b"grpc-status"));
        said.map(|field| Status::of(field.value.of(bytes)))
    }

    /// The status of HTTP that says about the service what this one does: for who counts failures.
    pub fn as_http(self) -> u16 {
        match self.0 {
            // unknown, internal, data_loss
            2 | 13 | 15 => 500,
            // deadline_exceeded
            4 => 504,
            // unavailable
            14 => 503,
            // Of the caller's making, or an answer like another.
            _ => 200,
        }
    }

    /// What we refuse with.
    pub fn of_refusal(refusal: Refusal) -> Status {
        match refusal {
            Refusal::BodyTooLarge | Refusal::BodyTooDense | Refusal::HeadTooLarge => Status::RESOURCE_EXHAUSTED,
            Refusal::UpstreamTotalTimeout
            | Refusal::UpstreamFirstByteTimeout
            | Refusal::UpstreamIdleTimeout
            | Refusal::BodyTimeout => Status::DEADLINE_EXCEEDED,
            Refusal::Internal => Status::INTERNAL,
            refusal => match refusal.status() {
                401 => Status::UNAUTHENTICATED,
                403 => Status::PERMISSION_DENIED,
                404 | 405 | 501 => Status::UNIMPLEMENTED,
                429 => Status::RESOURCE_EXHAUSTED,
                502..=504 => Status::UNAVAILABLE,
                400..=499 => Status::INTERNAL,
                _ => Status::UNKNOWN,
            },
        }
    }
}

/// Whether the sender of these speaks gRPC: `application/grpc`, perhaps with a suffix. gRPC-Web is another protocol.
pub fn is_spoken(fields: &Fields) -> bool {
    let kind = fields.first(Known::ContentType).and_then(|kind| kind.get(..16).map(|_| kind.split_at(16)));
    kind.is_some_and(|(essence, rest)| {
        essence.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// Milliseconds a caller waits, as `grpc-timeout` says: up to eight digits and a unit. At least one.
pub fn timeout_ms(fields: &Fields) -> Option<u64> {
    let (unit, digits) = fields.get(b"grpc-timeout")?.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let ms = match unit {
        b'H' => value * 3_600_000,
        b'M' => value * 60_000,
        b'S' => value * 1000,
        b'm' => value,
        b'u' => value / 1000,
        b'n' => value / 1_000_000,
        _ => return None,
    };
    Some(ms.max(1))
}

/// The answer to a refusal for a caller that speaks gRPC: all of it is in the head.
pub fn refusal(refusal: Refusal, request_id: &RequestId) -> ResponseHead {
    let mut head = ResponseHead::new(200);
    let status = Status::of_refusal(refusal);
    head.fields.add(b"content-type", b"application/grpc");
    head.fields.add(b"grpc-status", itoa::Buffer::new().format(status.0).as_bytes());
    head.fields.add(b"grpc-message", message(refusal).as_bytes());
    head.fields.add(b"x-request-id", request_id.as_bytes());
    head
}

/// What ends a call that was answered in part: fields, and the bytes they lie in.
pub fn trailers(refusal: Refusal) -> (Vec<u8>, Vec<Field>) {
    let mut bytes = Vec::new();
    let mut write = |text: &[u8]| {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(text);
        Span { start, len: text.len() as u32 }
    };
    let status = itoa::Buffer::new().format(Status::of_refusal(refusal).0).to_owned();
    let said = [("grpc-status", status), ("grpc-message", message(refusal))];
    let fields = said.iter().map(|(name, value)| Field {
        name: write(name.as_bytes()),
        value: write(value.as_bytes()),
        known: Known::of(name.as_bytes()),
        underscore: false,
    });
    let fields = fields.collect();
    (bytes, fields)
}

/// `grpc-message`: text in which everything but visible ASCII is written by its number, and so is `%`.
fn message(refusal: Refusal) -> String {
    let mut text = String::new();
    for byte in format!("{}: {}", refusal.code(), refusal.detail()).bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            // Writing to text does not fail.
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: &[u8], value: &str) -> Fields {
        let mut fields = Fields::new();
        fields.add(name, value.as_bytes());
        fields
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("1S", Some(1000)),
            ("2M", Some(120_000)),
            ("99999999H", Some(99_999_999 * 3_600_000)),
            ("250m", Some(250)),
            ("2500u", Some(2)),
            ("1n", Some(1)),
            ("0S", Some(1)),
            ("100000000S", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("1s", None),
            ("1 S", None),
            ("", None),
        ] {
            assert_eq!(timeout_ms(&fields(b"grpc-timeout", text)), expected, "{text}");
        }
    }

    #[test]
    fn grpc_is_known_by_its_media_type() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=y"] {
            assert!(is_spoken(&fields(b"content-type", kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grp", ""] {
            assert!(!is_spoken(&fields(b"content-type", kind)), "{kind}");
        }
    }

    #[test]
    fn every_refusal_says_that_the_call_failed() {
        for code in Refusal::codes() {
            assert!(code.is_ascii());
        }
        for &fault in http1::Fault::ALL {
            assert_ne!(Status::of_refusal(Refusal::Malformed(fault)), Status::OK);
        }
        assert_eq!(Status::of_refusal(Refusal::NoRoute).name(), "unimplemented");
        assert_eq!(Status::of_refusal(Refusal::NoEndpoint).name(), "unavailable");
        assert_eq!(Status::of_refusal(Refusal::UpstreamTotalTimeout).name(), "deadline_exceeded");
        assert_eq!(Status::of_refusal(Refusal::AddressDenied).name(), "permission_denied");
    }

    #[test]
    fn a_status_that_nobody_knows_is_unknown() {
        for (text, expected) in [("0", 0), ("16", 16), ("17", 2), ("", 2), ("x", 2), ("256", 2)] {
            assert_eq!(Status::of(text.as_bytes()), Status(expected), "{text}");
        }
        assert_eq!(Status::named("unavailable"), Some(Status::UNAVAILABLE));
        assert_eq!(Status::named("UNAVAILABLE"), None);
    }
}
