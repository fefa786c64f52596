//! `deny` and `allow` of a route: whom it turns away by address, and whom alone it lets in.
//!
//! Lists that hold everywhere were asked before a route was looked for (`Exchange::corridor`); these are the route's own. The
//! address is the one the listener's `client_address` rule decided.

use std::sync::Arc;

use super::{Answer, Context, Effect, Filter, Kind, Making, Phase, Step};
use crate::lists::Gate;
use crate::refusal::Refusal;

pub(super) const KIND: Kind = Kind { name: "ip_list", phase: Phase::Access, compile };

struct IpList(Arc<Gate>);

fn compile(making: &Making<'_>) -> Option<Box<dyn Filter>> {
    (!making.gate.is_empty()).then(|| Box::new(IpList(making.gate.clone())) as Box<dyn Filter>)
}

impl Filter for IpList {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        match self.0.admits(context.facts.client.address) {
            true => Effect::Next,
            false => Effect::Answer(Answer::Refuse(Refusal::AddressDenied)),
        }
    }
}
