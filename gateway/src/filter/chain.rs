//! The filters of a route in their order, and the only place that waits for what they want.

use std::rc::Rc;

use super::{Answer, Context, Effect, Filter, Phase, Step};
use crate::limits::{BODY_COLLECT_BYTES_MAX, DELAY_MS_MAX, EFFECTS_PER_FILTER_MAX};
use crate::proxy::exchange::Exchange;
use crate::proxy::fetch;
use crate::proxy::head::ResponseHead;
use crate::refusal::Refusal;
use crate::rt::deadline::ms;

/// The filters of a route.
#[derive(Default)]
pub struct Chain {
    /// in the order of their phases
    filters: Vec<Link>,
}

/// A filter in its place.
pub struct Link {
    pub phase: Phase,
    /// The name of its kind.
    pub name: &'static str,
    pub filter: Box<dyn Filter>,
}

/// An exchange that ended in the chain.
pub struct Ended {
    pub answer: Answer,
    /// Filters that saw the request and will see the answer.
    pub passed: usize,
}

impl Chain {
    pub fn new(mut filters: Vec<Link>) -> Chain {
        // Stable: within a phase the order stays.
        filters.sort_by_key(|link| link.phase);
        Chain { filters }
    }

    /// The filters in the order in which a request meets them.
    pub fn steps(&self) -> impl Iterator<Item = (Phase, &'static str)> {
        self.filters.iter().map(|link| (link.phase, link.name))
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Walks the request through all filters.
    pub async fn request(&self, exchange: &mut Exchange<'_>) -> Result<(), Box<Ended>> {
        for (passed, Link { phase, filter, .. }) in self.filters.iter().enumerate() {
            let mut step = Step::Start;
            let mut effects = 0;
            loop {
                let effect = filter.request(&mut exchange.context(), step);
                let end = |answer| Err(Box::new(Ended { answer, passed }));
                step = match effect {
                    Effect::Next => break,
                    Effect::Answer(answer) => return end(answer),
                    _ if effects == EFFECTS_PER_FILTER_MAX => return end(Answer::Refuse(Refusal::Internal)),
                    // On the heap: most exchanges wait for nothing, and should not carry the room for it.
                    other => match Box::pin(wait_for(exchange, *phase, other)).await {
                        Ok(step) => step,
                        Err(refusal) => return end(Answer::Refuse(refusal)),
                    },
                };
                effects += 1;
            }
        }
        Ok(())
    }

    /// Walks the answer back through the first `passed` filters, and through those that finish every answer.
    pub fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead, passed: usize) {
        for (at, link) in self.filters.iter().enumerate().rev() {
            if at < passed || link.phase == Phase::Finish {
                link.filter.response(context, head);
            }
        }
    }

    /// Whether preflights that ask about this route's requests are answered here.
    pub fn answers_preflights(&self) -> bool {
        self.filters.iter().any(|link| link.filter.answers_preflights())
    }

    /// Walks a refusal of ours back through all filters.
    pub fn refusal(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        self.filters.iter().rev().for_each(|link| link.filter.refusal(context, head));
    }
}

async fn wait_for(exchange: &mut Exchange<'_>, phase: Phase, effect: Effect) -> Result<Step, Refusal> {
    match effect {
        // Before the client is known its body is not worth memory.
        Effect::NeedBody(_) if phase < Phase::Identify => Err(Refusal::Internal),
        Effect::NeedBody(bytes_max) => exchange.hold_body(bytes_max.min(BODY_COLLECT_BYTES_MAX)).await.map(Step::Body),
        Effect::Call(subrequest) => {
            let reply =
                exchange.until_over(fetch::fetch(exchange.worker.clone(), exchange.pinned(), subrequest)).await?;
            Ok(Step::Reply(reply.map(Rc::new)))
        }
        Effect::Follow(shared) => Ok(Step::Reply(exchange.until_over(shared.wait()).await?)),
        Effect::Offload(job) => exchange.offload(job).await.map(Step::Done),
        Effect::Delay(time) => exchange.pause(ms(time).min(DELAY_MS_MAX)).await.map(|()| Step::Elapsed),
        Effect::Next | Effect::Answer(_) => unreachable!("decided by the caller"),
    }
}
