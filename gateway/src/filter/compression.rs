//! `compression`: answers in the content coding the client would have (RFC 9110 §8.4, §12.5.3).
//!
//! The last change of an answer on its way out: what others write into its head decides here whether it may be touched. It
//! may not where somebody said so (`no-transform`, RFC 9111 §5.2.2.6), where bytes are counted (ranges) or coded already,
//! and where there are none. Pieces are compressed as they come, and what the coder holds back leaves before the gateway
//! waits for more, so that nobody waits for a buffer to fill. A coded body is another representation: a strong `ETag`
//! becomes weak (RFC 9110 §8.8.1), digests and `Accept-Ranges` go, `Vary` says what the choice depends on.
//!
//! Compressing a secret beside text of an attacker's choice tells the secret by the answer's length (BREACH). Whether a
//! route's answers hold both is the operator's to know: the filter does not guess from `Set-Cookie` and the like.

use http1::{Known, Method};

use super::coding::encode::Encoder;
use super::coding::{Accepted, Coding};
use super::vary::vary;
use super::{Context, Effect, Filter, Kind, Phase, Step};
use crate::config::model;
use crate::config::policies::{self, Algorithm, CompressionLevel};
use crate::proxy::fields::Fields;
use crate::proxy::head::{RequestHead, ResponseHead};

pub(super) const KIND: Kind = Kind { name: "compression", phase: Phase::Finish, compile };

struct Compression {
    /// The one preferred first.
    offered: Vec<Coding>,
    types: Types,
    bytes_min: u64,
    level: CompressionLevel,
}

/// Media types by their parts. All in lower case.
#[derive(Default)]
struct Types {
    exact: Vec<Box<[u8]>>,
    /// `text/`
    prefixes: Vec<Box<[u8]>>,
    /// `+json`
    suffixes: Vec<Box<[u8]>>,
}

fn compile(route: &model::Route) -> Option<Box<dyn Filter>> {
    Some(Box::new(Compression::of(route.compression.as_ref()?)))
}

impl Compression {
    fn of(written: &policies::Compression) -> Compression {
        let coding = |algorithm: &Algorithm| match algorithm {
            Algorithm::Zstd => Coding::Zstd,
            Algorithm::Br => Coding::Br,
            Algorithm::Gzip => Coding::Gzip,
        };
        Compression {
            offered: written.algorithms.iter().map(coding).collect(),
            types: Types::of(&written.types),
            bytes_min: written.bytes_min.0,
            level: written.level,
        }
    }

    /// Whether the answer is one that would be compressed for a client that can read it.
    fn fits(&self, request: &RequestHead, head: &ResponseHead) -> bool {
        let fields = &head.fields;
        let has = |known| fields.first(known).is_some();
        !matches!(head.status, 100..=199 | 204 | 205 | 206 | 304)
            && !has(Known::ContentEncoding)
            && !has(Known::ContentRange)
            && fields.first(Known::ContentType).is_some_and(|kind| self.types.take(kind))
            && length(fields).is_none_or(|length| length > 0 && length >= self.bytes_min)
            && !forbids_transforms(fields)
            && !forbids_transforms(&request.fields)
    }
}

impl Types {
    fn of(written: &[String]) -> Types {
        let mut types = Types::default();
        for kind in written {
            let kind = kind.to_ascii_lowercase();
            let (list, kind) = match kind.strip_suffix('*') {
                Some("*/") => (&mut types.prefixes, ""),
                Some(prefix) => (&mut types.prefixes, prefix),
                None if kind.starts_with('+') => (&mut types.suffixes, &*kind),
                None => (&mut types.exact, &*kind),
            };
            list.push(kind.as_bytes().into());
        }
        types
    }

    /// `kind` may have parameters.
    fn take(&self, kind: &[u8]) -> bool {
        let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let starts = |prefix: &[u8]| kind.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let ends = |suffix: &[u8]| {
            kind.len().checked_sub(suffix.len()).is_some_and(|at| kind[at..].eq_ignore_ascii_case(suffix))
        };
        // Events are small and come one by one, and gRPC codes its messages itself: only where they are written out.
        let is_its_own = starts(b"application/grpc") || kind.eq_ignore_ascii_case(b"text/event-stream");
        self.exact.iter().any(|exact| kind.eq_ignore_ascii_case(exact))
            || (!is_its_own
                && (self.prefixes.iter().any(|prefix| starts(prefix))
                    || self.suffixes.iter().any(|suffix| ends(suffix))))
    }
}

fn length(fields: &Fields) -> Option<u64> {
    std::str::from_utf8(fields.first(Known::ContentLength)?).ok()?.parse().ok()
}

fn forbids_transforms(fields: &Fields) -> bool {
    let mut values = fields.iter().filter(|&(_, _, known)| known == Known::CacheControl);
    values.any(|(_, value, _)| {
        value.split(|&byte| byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
    })
}

impl Filter for Compression {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        // Read before the route's own edits, which may take the field from the service.
        let accepted = Accepted::of(&context.request.fields);
        context.kept.put(accepted);
        Effect::Next
    }

    fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        // A 304 has no type to judge by, and must say what the answer it stands for said (RFC 9110 §15.4.5).
        if head.status == 304 {
            vary(&mut head.fields, b"accept-encoding");
        }
        if !self.fits(context.request, head) {
            return;
        }
        vary(&mut head.fields, b"accept-encoding");
        if context.request.method == Method::Head {
            return;
        }
        let accepted = context.kept.of().copied().unwrap_or_else(|| Accepted::of(&context.request.fields));
        let Some(coding) = accepted.choose(&self.offered) else { return };
        // No place among those at work: the answer goes as it is.
        let Some(encoder) = Encoder::new(coding, self.level) else { return };
        coded(&mut head.fields, coding);
        context.kept.transforms.push(Box::new(encoder));
    }
}

/// Makes the head that of a body in `coding`.
fn coded(fields: &mut Fields, coding: Coding) {
    if let Some(tag) = fields.first(Known::Etag).filter(|tag| tag.starts_with(b"\"")) {
        let weak = [b"W/", tag].concat();
        fields.set(b"etag", &weak);
    }
    fields.strike(|name, known| known == Known::ContentLength || (known == Known::Other && is_of_the_bytes(name)));
    fields.add(b"content-encoding", coding.name().as_bytes());
}

/// Fields that describe the very bytes of a body.
pub(super) fn is_of_the_bytes(name: &[u8]) -> bool {
    ["accept-ranges", "content-md5", "content-digest", "repr-digest", "digest"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_taken_whole_by_their_beginning_or_by_their_suffix() {
        let check = |written: &[&str], taken: &[&str], others: &[&str]| {
            let types = Types::of(&written.iter().map(|&kind| kind.to_owned()).collect::<Vec<_>>());
            for kind in taken {
                assert!(types.take(kind.as_bytes()), "{kind}");
            }
            for kind in others {
                assert!(!types.take(kind.as_bytes()), "{kind}");
            }
        };
        check(
            &["text/*", "application/json", "+xml"],
            &["text/html", "TEXT/Plain; charset=utf-8", "application/json", "Application/JSON;x=y", "image/svg+xml"],
            &["application/json5", "application/javascript", "image/png", "text", "xml", "", "text/event-stream"],
        );
        check(
            &["*/*"],
            &["image/png", "a/b"],
            &["application/grpc", "application/grpc-web+proto", "text/event-stream"],
        );
        check(&["text/event-stream"], &["text/event-stream; charset=utf-8"], &["text/html"]);
        let defaults = policies::Compression::default();
        let types = Types::of(&defaults.types);
        assert!(types.take(b"application/problem+json") && !types.take(b"application/grpc+json"));
    }
}
