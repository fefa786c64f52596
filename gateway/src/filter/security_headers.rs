//! `security_headers`: the fields by which a service tells browsers to be careful, in one switch.
//!
//! What the service says itself stays, unless the route says `override`: it knows its pages. Refusals of ours get them,
//! too. `Strict-Transport-Security` means nothing over plain HTTP and must not be sent there (RFC 6797 §7.2): it is added
//! only where the client came by https, to us or to a trusted hop in front of us.
//!
//! Who may frame a page is said twice: in `X-Frame-Options` for old browsers, and in the `frame-ancestors` of a
//! `Content-Security-Policy` for the others, which obey only the latter where both are there (CSP §6.4.2). So where the
//! service says either, ours would change what it means by it, and neither is added.

use super::{Context, Effect, Filter, Kind, Phase, Step};
use crate::config::model;
use crate::config::policies::{self, Frame};
use crate::proxy::fields::Fields;
use crate::proxy::head::ResponseHead;

pub(super) const KIND: Kind = Kind { name: "security_headers", phase: Phase::Finish, compile };

const FRAME_OPTIONS: &[u8] = b"x-frame-options";
const CONTENT_SECURITY_POLICY: &[u8] = b"content-security-policy";
const FRAME_ANCESTORS: &[u8] = b"frame-ancestors";

struct SecurityHeaders {
    /// Names in lower case, and values.
    fields: Vec<(&'static [u8], Box<[u8]>)>,
    strict_transport_security: Option<Box<[u8]>>,
    frame: Option<FrameValues>,
    /// As written.
    content_security_policy: Option<Box<[u8]>>,
    overrides: bool,
}

/// Who may frame a page.
struct FrameValues {
    options: &'static [u8],
    /// The policy as written, if one is, and in it who may frame.
    policy: Box<[u8]>,
}

fn compile(route: &model::Route) -> Option<Box<dyn Filter>> {
    Some(Box::new(SecurityHeaders::of(route.security_headers.as_ref()?)))
}

impl SecurityHeaders {
    fn of(written: &policies::SecurityHeaders) -> SecurityHeaders {
        let some = |text: &String| (text != "off").then(|| text.clone());
        let opener = written.cross_origin_opener_policy.map(|policy| policy.name().to_owned());
        let resource = written.cross_origin_resource_policy.map(|policy| policy.name().to_owned());
        let all: [(&[u8], Option<String>); 5] = [
            (b"x-content-type-options", written.content_type_options.then(|| "nosniff".to_owned())),
            (b"referrer-policy", some(&written.referrer_policy)),
            (b"cross-origin-opener-policy", opener),
            (b"cross-origin-resource-policy", resource),
            (b"permissions-policy", written.permissions_policy.clone()),
        ];
        let fields = all.into_iter().filter_map(|(name, value)| Some((name, value?.into_bytes().into())));
        let policy = written.content_security_policy.as_deref();
        let frame = |options, ancestors: &str| {
            let policy = match policy {
                None => ancestors.to_owned(),
                Some(policy) if frames(policy.as_bytes()) => policy.to_owned(),
                Some(policy) => format!("{}; {ancestors}", policy.trim_end_matches([';', ' '])),
            };
            Some(FrameValues { options, policy: policy.into_bytes().into() })
        };
        SecurityHeaders {
            fields: fields.collect(),
            strict_transport_security: some(&written.strict_transport_security).map(|text| text.into_bytes().into()),
            frame: match written.frame {
                Frame::Off => None,
                Frame::Deny => frame(b"DENY", "frame-ancestors 'none'"),
                Frame::SameOrigin => frame(b"SAMEORIGIN", "frame-ancestors 'self'"),
            },
            content_security_policy: policy.map(|policy| policy.as_bytes().into()),
            overrides: written.overrides,
        }
    }

    fn say(&self, fields: &mut Fields, name: &[u8], value: &[u8]) {
        if self.overrides {
            fields.set(name, value);
        } else if fields.get(name).is_none() {
            fields.add(name, value);
        }
    }

    fn edit(&self, context: &Context<'_>, head: &mut ResponseHead) {
        // An upgraded connection is no page.
        if head.status == 101 {
            return;
        }
        let fields = &mut head.fields;
        let service_frames = fields.iter().any(|(name, value, _)| {
            name.eq_ignore_ascii_case(FRAME_OPTIONS)
                || (name.eq_ignore_ascii_case(CONTENT_SECURITY_POLICY) && frames(value))
        });
        match (&self.frame, &self.content_security_policy) {
            (Some(frame), written) if self.overrides || !service_frames => {
                fields.set(FRAME_OPTIONS, frame.options);
                match written {
                    // Of several policies each must allow: what the service forbids otherwise stays forbidden.
                    None if self.overrides => fields.add(CONTENT_SECURITY_POLICY, &frame.policy),
                    _ => self.say(fields, CONTENT_SECURITY_POLICY, &frame.policy),
                }
            }
            (_, Some(policy)) => self.say(fields, CONTENT_SECURITY_POLICY, policy),
            (_, None) => {}
        }
        for (name, value) in &self.fields {
            self.say(fields, name, value);
        }
        if let Some(value) = &self.strict_transport_security
            && came_by_https(context)
        {
            self.say(fields, b"strict-transport-security", value);
        }
    }
}

/// Whether a policy says who may frame the page.
fn frames(policy: &[u8]) -> bool {
    policy.windows(FRAME_ANCESTORS.len()).any(|window| window.eq_ignore_ascii_case(FRAME_ANCESTORS))
}

/// How the client spoke, to us or to a trusted hop. What others say about it was replaced by our own word.
fn came_by_https(context: &Context<'_>) -> bool {
    let said = || context.request.fields.first(http1::Known::XForwardedProto);
    context.facts.scheme == "https"
        || (context.facts.client.trusted && said().is_some_and(|proto| proto.eq_ignore_ascii_case(b"https")))
}

impl Filter for SecurityHeaders {
    fn request(&self, _: &mut Context<'_>, _: Step) -> Effect {
        Effect::Next
    }

    fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        self.edit(context, head);
    }

    fn refusal(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        self.edit(context, head);
    }
}
