//! `buffer_request`: the upstream hears of a request when its body is here, so that a slow client costs it no connection.
//!
//! What is held can be sent again: a request with a body may then be repeated where one without could be.

use super::{Context, Effect, Filter, Kind, Phase, Step};
use crate::config::model;

pub(super) const KIND: Kind = Kind { name: "buffer_request", phase: Phase::Convert, compile };

struct Buffer {
    bytes_max: usize,
}

fn compile(route: &model::Route) -> Option<Box<dyn Filter>> {
    let bytes_max = usize::try_from(route.buffer_request?.0).unwrap_or(usize::MAX);
    Some(Box::new(Buffer { bytes_max }))
}

impl Filter for Buffer {
    fn request(&self, _: &mut Context<'_>, step: Step) -> Effect {
        match step {
            Step::Start => Effect::NeedBody(self.bytes_max),
            _ => Effect::Next,
        }
    }
}
