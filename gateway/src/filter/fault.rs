//! `fault`: delays or refuses a share of the requests on purpose, to see what clients make of it.
//!
//! Runs behind every check, where a real service would be slow or fail. Which requests are hit is drawn from their id, so a
//! request that a trusted hop names is hit again when it is sent again. An injected answer says what it is.

use std::time::Duration;

use bytes::Bytes;

use super::{Answer, Context, Effect, Filter, Kind, Phase, Step};
use crate::config::model;
use crate::proxy::head::ResponseHead;
use crate::route::condition::lot;

pub(super) const KIND: Kind = Kind { name: "fault", phase: Phase::Convert, compile };

struct Fault {
    delay: Option<(Duration, u32)>,
    abort: Option<(u16, u32)>,
}

/// Two draws of one request have nothing to do with each other.
const DELAY_DRAW: u64 = 1;
const ABORT_DRAW: u64 = 2;

fn compile(route: &model::Route) -> Option<Box<dyn Filter>> {
    let written = route.fault.as_ref()?;
    let share = |percentage: model::Percentage| percentage.millionths();
    Some(Box::new(Fault {
        delay: written.delay.map(|time| (time.0, share(written.delay_percentage))),
        abort: written.abort.map(|status| (status, share(written.abort_percentage))),
    }))
}

impl Filter for Fault {
    fn request(&self, context: &mut Context<'_>, step: Step) -> Effect {
        let id = context.facts.request_id;
        if let (Some((time, share)), Step::Start) = (self.delay, step)
            && lot(id, DELAY_DRAW) < share
        {
            return Effect::Delay(time);
        }
        match self.abort.filter(|(_, share)| lot(id, ABORT_DRAW) < *share) {
            Some((status, _)) => {
                let mut head = ResponseHead::new(status);
                head.fields.add(b"content-type", b"application/problem+json");
                head.fields.add(b"cache-control", b"no-store");
                let body = format!(
                    "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{status},\"detail\":\"this failure was injected on purpose\",\"code\":\"injected_fault\"}}\n",
                    http1::encode::reason(status)
                );
                Effect::Answer(Answer::Send { head, body: Bytes::from(body) })
            }
            None => Effect::Next,
        }
    }
}
