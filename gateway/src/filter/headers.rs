//! `headers`: removes, sets and adds fields on the way in and on the way out, with a few safe variables.
//!
//! Names and values were checked when the configuration was loaded, and variables hold no CR, LF or NUL by construction:
//! what they show went through the head parser or is ours. Names the gateway itself speaks cannot be edited.

use super::text::render;
use super::{Context, Effect, Filter, Kind, Making, Phase, Step};
use crate::config::model::HeaderEdits;
use crate::config::template::Template;
use crate::proxy::fields::Fields;
use crate::proxy::head::ResponseHead;

pub(super) const KIND: Kind = Kind { name: "headers", phase: Phase::Finish, compile };

struct Headers {
    request: Edits,
    response: Edits,
}

#[derive(Default)]
struct Edits {
    remove: Vec<Box<[u8]>>,
    set: Vec<(Box<[u8]>, Template)>,
    add: Vec<(Box<[u8]>, Template)>,
}

fn compile(making: &Making<'_>) -> Option<Box<dyn Filter>> {
    let route = making.route;
    let written = &route.headers;
    let edits = |edits: &HeaderEdits| Edits {
        remove: edits.remove.iter().map(|name| name.as_bytes().into()).collect(),
        set: edits.set.iter().map(|(name, value)| (lowered(name), template(value))).collect(),
        add: edits.add.iter().map(|(name, value)| (lowered(name), template(value))).collect(),
    };
    let headers = Headers { request: edits(&written.request), response: edits(&written.response) };
    let idle = headers.request.is_empty() && headers.response.is_empty();
    (!idle).then(|| Box::new(headers) as Box<dyn Filter>)
}

fn lowered(name: &str) -> Box<[u8]> {
    name.to_ascii_lowercase().into_bytes().into()
}

fn template(value: &str) -> Template {
    Template::parse(value).expect("config::load checked the value")
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Values are made before fields are edited: a variable may show what an edit removes.
    fn values(&self, context: &Context<'_>) -> Vec<Vec<u8>> {
        self.set
            .iter()
            .chain(&self.add)
            .map(|(_, template)| {
                let mut out = Vec::new();
                render(template, context, &mut out);
                out
            })
            .collect()
    }

    fn apply(&self, fields: &mut Fields, values: Vec<Vec<u8>>) {
        self.remove.iter().for_each(|name| fields.remove(name));
        let mut values = values.into_iter();
        for ((name, _), value) in self.set.iter().zip(values.by_ref()) {
            fields.set(name, &value);
        }
        for ((name, _), value) in self.add.iter().zip(values) {
            fields.add(name, &value);
        }
    }
}

impl Filter for Headers {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        if !self.request.is_empty() {
            let values = self.request.values(context);
            self.request.apply(&mut context.request.fields, values);
        }
        Effect::Next
    }

    fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        if !self.response.is_empty() {
            let values = self.response.values(context);
            self.response.apply(&mut head.fields, values);
        }
    }
}
