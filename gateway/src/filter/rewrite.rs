//! `rewrite`: asks the upstream for another path, or by another host, than the client asked for.
//!
//! Runs inside the cache and behind every check: router, limits, cache and log go by what the client asked for. What comes out
//! is a canonical path again, or the request is refused: a capture that would turn into a dot segment or an empty one behind
//! its new neighbour is not something to guess about.

use http1::{Canonical, PathPolicy};

use super::text::{render, render_path};
use super::{Answer, Context, Effect, Filter, Kind, Making, Phase, Step};
use crate::config::template::Template;
use crate::refusal::Refusal;

pub(super) const KIND: Kind = Kind { name: "rewrite", phase: Phase::Convert, compile };

struct Rewrite {
    path: Path,
    host: Option<Template>,
}

/// What becomes of a path.
pub enum Path {
    Keep,
    Whole(Template),
    /// Replaces the part before the pattern's rest.
    Prefix(Box<[u8]>),
}

fn compile(making: &Making<'_>) -> Option<Box<dyn Filter>> {
    let route = making.route;
    let written = route.rewrite.as_ref()?;
    Some(Box::new(Rewrite {
        path: Path::of(written.path.as_deref(), written.prefix.as_deref()),
        host: written.host.as_deref().map(template),
    }))
}

fn template(text: &str) -> Template {
    Template::parse(text).expect("config::load checked the template")
}

impl Path {
    /// From checked settings.
    pub fn of(path: Option<&str>, prefix: Option<&str>) -> Path {
        match (path, prefix) {
            (Some(path), _) => Path::Whole(template(path)),
            (None, Some(prefix)) => Path::Prefix(prefix.trim_end_matches('/').as_bytes().into()),
            (None, None) => Path::Keep,
        }
    }

    /// The new path of this request. `None`: it stays.
    pub fn make(&self, context: &Context<'_>) -> Result<Option<Vec<u8>>, Refusal> {
        let mut made = Vec::new();
        match self {
            Path::Keep => return Ok(None),
            Path::Whole(template) => render_path(template, context, &mut made),
            Path::Prefix(prefix) => {
                made.extend_from_slice(prefix);
                let path = context.request.path();
                made.extend_from_slice(context.facts.route.map_or(path, |route| route.pattern.rest(path)));
                if made.is_empty() {
                    made.push(b'/');
                }
            }
        }
        match http1::canonical_path(&made, &PathPolicy::KEEP, &mut Vec::new()) {
            Ok(Canonical::Unchanged(_)) => Ok(Some(made)),
            Ok(Canonical::Rewritten(_)) | Err(_) => Err(Refusal::RewriteNotCanonical),
        }
    }
}

impl Filter for Rewrite {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        let refuse = |refusal| Effect::Answer(Answer::Refuse(refusal));
        match self.path.make(context) {
            Ok(None) => {}
            Ok(Some(path)) => context.request.send_path(path),
            Err(refusal) => return refuse(refusal),
        }
        if let Some(template) = &self.host {
            let mut host = Vec::new();
            render(template, context, &mut host);
            if http1::host_parts(&host).is_err() {
                return refuse(Refusal::RewriteNotCanonical);
            }
            context.request.send_host(host);
        }
        Effect::Next
    }
}
