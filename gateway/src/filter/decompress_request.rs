//! `decompress_request`: request bodies are taken out of their content coding before anything looks at them, so that what
//! inspects them and the service behind it see plain bytes.
//!
//! A service that decodes for itself can be made to run out of memory by a few bytes; here the decoded size and its ratio to
//! what was sent are bounded (413), and what is not in its coding is refused (400) instead of passed on half. A coding
//! we do not speak, or several at once, is refused with 415 and the ones we do in `Accept-Encoding` (RFC 9110 §15.5.16,
//! §12.5.3). The upstream gets the body chunked: its length is not known before its end.

use http1::Known;

use super::coding::Coding;
use super::coding::decode::Decoder;
use super::compression::is_of_the_bytes;
use super::{Answer, Context, Effect, Filter, Kind, Making, Phase, Step};
use crate::proxy::fields::Fields;
use crate::refusal::Refusal;

pub(super) const KIND: Kind = Kind { name: "decompress_request", phase: Phase::Inspect, compile };

struct DecompressRequest {
    ratio_max: u32,
    bytes_max: u64,
}

fn compile(making: &Making<'_>) -> Option<Box<dyn Filter>> {
    let route = making.route;
    let written = route.decompress_request.as_ref()?;
    let bytes_max = written.bytes_max.map_or(u64::MAX, |size| size.0);
    Some(Box::new(DecompressRequest { ratio_max: written.ratio_max, bytes_max }))
}

/// The coding a body is in; `None`: it is plain. `Err`: one we do not speak, or more than one.
fn coding(fields: &Fields) -> Result<Option<Coding>, Refusal> {
    let values = fields.iter().filter(|&(_, _, known)| known == Known::ContentEncoding).map(|(_, value, _)| value);
    let names = values.flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let mut coding = None;
    // Empty elements of a list mean nothing (RFC 9110 §5.6.1.2), and `identity` has no business here but does no harm.
    for name in names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity")) {
        let one = Coding::of(name).ok_or(Refusal::BodyCodingUnsupported)?;
        if coding.replace(one).is_some() {
            return Err(Refusal::BodyCodingUnsupported);
        }
    }
    Ok(coding)
}

impl Filter for DecompressRequest {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        let refuse = |refusal| Effect::Answer(Answer::Refuse(refusal));
        let fields = &mut context.request.fields;
        if fields.first(Known::ContentEncoding).is_none() {
            return Effect::Next;
        }
        let coding = match coding(fields) {
            Ok(coding) => coding,
            Err(refusal) => return refuse(refusal),
        };
        if let Some(coding) = coding {
            let Some(decoder) = Decoder::new(coding, self.ratio_max, self.bytes_max) else {
                return refuse(Refusal::Overloaded);
            };
            context.kept.decoder = Some(Box::new(decoder));
            fields.strike(|name, known| known == Known::Other && is_of_the_bytes(name));
        }
        fields.remove_known(Known::ContentEncoding);
        Effect::Next
    }
}
