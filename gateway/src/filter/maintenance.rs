//! `maintenance`: answers 503 for a service that is down on purpose, and lets those through who look after it.
//!
//! The route keeps everything else it says, so that taking the table out is all it takes to open again.

use bytes::Bytes;
use ipnet::IpNet;

use super::{Answer, Context, Effect, Filter, Kind, Phase, Step};
use crate::config::model;
use crate::proxy::head::ResponseHead;
use crate::proxy::reply;
use crate::refusal::Refusal;

pub(super) const KIND: Kind = Kind { name: "maintenance", phase: Phase::Access, compile };

struct Maintenance {
    retry_after_s: u64,
    /// Media type and text; `None`: problem+json.
    body: Option<(Box<str>, Bytes)>,
    except: Vec<IpNet>,
}

fn compile(route: &model::Route) -> Option<Box<dyn Filter>> {
    let written = route.maintenance.as_ref()?;
    let kind = written.content_type.as_deref().unwrap_or("text/plain; charset=utf-8");
    Some(Box::new(Maintenance {
        // Whole seconds (RFC 9110 §10.2.3), rounded up.
        retry_after_s: written.retry_after.0.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
        body: written.body.as_ref().map(|body| (kind.into(), Bytes::from(body.clone()))),
        except: written.except.clone(),
    }))
}

impl Filter for Maintenance {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        let client = context.facts.client.address.to_canonical();
        if self.except.iter().any(|network| network.contains(&client)) {
            return Effect::Next;
        }
        let Some((kind, body)) = &self.body else {
            context.kept.put(reply::RetryAfter(self.retry_after_s));
            return Effect::Answer(Answer::Refuse(Refusal::Maintenance));
        };
        let mut head = ResponseHead::new(Refusal::Maintenance.status());
        let fields = &mut head.fields;
        fields.add(b"retry-after", itoa::Buffer::new().format(self.retry_after_s).as_bytes());
        fields.add(b"cache-control", b"no-store");
        fields.add(b"content-type", kind.as_bytes());
        Effect::Answer(Answer::Send { head, body: body.clone() })
    }
}
