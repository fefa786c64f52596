//! `cors`: which pages of other origins may use a route from a browser (the CORS protocol, Fetch standard §3.3).
//!
//! A preflight (an OPTIONS with `Origin` and `Access-Control-Request-Method`) asks about the request that would follow it,
//! so the exchange looks the route up by the method asked for; the route found answers here, before anybody is asked who
//! they are: a browser sends no credentials with it. A route without this table leaves the OPTIONS to the ordinary rules.
//!
//! An answer says whose page may read it, and `Vary: Origin` also where nobody may: a cache must not hand one page's
//! answer to another. What the service itself says about other origins goes. Refusals of ours are readable like answers,
//! or a page could not tell a limit from a broken network. An origin that is not allowed is not refused: it gets an answer
//! its browser will not show to the page, as the standard has it.

use std::collections::HashSet;

use http1::{Known, Method};
use regex::bytes::Regex;

use super::vary::vary;
use super::{Answer, Context, Effect, Filter, Kind, Making, Phase, Step};

use crate::config::policies::{self, CorsOrigin};
use crate::proxy::fields::Fields;
use crate::proxy::head::{RequestHead, ResponseHead};
use crate::route::pattern::whole_regex;

pub(super) const KIND: Kind = Kind { name: "cors", phase: Phase::Access, compile };

/// Left in the exchange: the route was found by the method the request asks about.
pub struct Preflight;

/// The method a preflight asks about; `None`: it is not one.
pub fn asked_method(head: &RequestHead) -> Option<&[u8]> {
    if head.method != Method::Options {
        return None;
    }
    head.fields.first(Known::Origin)?;
    head.fields.first(Known::AccessControlRequestMethod).filter(|method| is_token(method))
}

struct Cors {
    origins: Origins,
    /// Values of fields; empty: not sent.
    methods: Box<[u8]>,
    headers: Box<[u8]>,
    expose: Box<[u8]>,
    /// seconds
    max_age: Box<[u8]>,
    credentials: bool,
    private_network: bool,
}

enum Origins {
    Any,
    These { exact: HashSet<Box<[u8]>>, suffixes: Vec<Suffix>, patterns: Vec<Regex> },
}

/// `https://*.example.com`
struct Suffix {
    /// `https://`
    before: Box<[u8]>,
    /// `.example.com`
    after: Box<[u8]>,
}

fn compile(making: &Making<'_>) -> Option<Box<dyn Filter>> {
    let route = making.route;
    Some(Box::new(Cors::of(route.cors.as_ref()?)))
}

impl Cors {
    fn of(written: &policies::Cors) -> Cors {
        let joined = |names: &[String]| names.join(", ").into_bytes().into();
        Cors {
            origins: Origins::of(&written.origins),
            methods: joined(&written.methods),
            headers: joined(&written.headers),
            expose: joined(&written.expose),
            max_age: written.max_age.0.as_secs().to_string().into_bytes().into(),
            credentials: written.credentials,
            private_network: written.private_network,
        }
    }

    /// Whose page may read the answer: the value of `Access-Control-Allow-Origin`.
    fn allowed<'o>(&self, origin: Option<&'o [u8]>) -> Option<&'o [u8]> {
        match &self.origins {
            // To whoever asks and however: caches need not tell origins apart.
            Origins::Any => Some(b"*"),
            these => origin.filter(|origin| these.take(origin)),
        }
    }

    /// What both kinds of answers say. Returns whether this page may read it.
    fn say_origin(&self, request: &RequestHead, fields: &mut Fields) -> bool {
        if !matches!(self.origins, Origins::Any) {
            vary(fields, b"origin");
        }
        let Some(origin) = self.allowed(request.fields.first(Known::Origin)) else { return false };
        fields.add(b"access-control-allow-origin", origin);
        if self.credentials {
            fields.add(b"access-control-allow-credentials", b"true");
        }
        true
    }

    fn preflight(&self, request: &RequestHead, asked: &[u8]) -> ResponseHead {
        let mut head = ResponseHead::new(204);
        let fields = &mut head.fields;
        if self.say_origin(request, fields) {
            // The route takes the method asked for, or it would not have been found by it.
            fields.add(b"access-control-allow-methods", if self.methods.is_empty() { asked } else { &self.methods });
            if !self.headers.is_empty() {
                fields.add(b"access-control-allow-headers", &self.headers);
            }
            let asks_for_private =
                |fields: &Fields| fields.get(b"access-control-request-private-network") == Some(b"true");
            if self.private_network && asks_for_private(&request.fields) {
                fields.add(b"access-control-allow-private-network", b"true");
            }
            fields.add(b"access-control-max-age", &self.max_age);
        }
        vary(fields, b"access-control-request-method");
        head
    }

    fn answer(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        head.fields.strike(|name, known| known == Known::Other && is_ours(name));
        // A preflight that got here asks about a route that has no such table: no word of this one is true for it.
        if asked_method(context.request).is_some() {
            vary(&mut head.fields, b"origin");
            return;
        }
        if self.say_origin(context.request, &mut head.fields) && !self.expose.is_empty() {
            head.fields.add(b"access-control-expose-headers", &self.expose);
        }
    }
}

impl Origins {
    fn of(written: &[CorsOrigin]) -> Origins {
        let (mut exact, mut suffixes, mut patterns) = (HashSet::new(), Vec::new(), Vec::new());
        for origin in written {
            match origin {
                CorsOrigin::Plain(any) if any == "*" => return Origins::Any,
                CorsOrigin::Plain(plain) => match plain.split_once('*') {
                    Some((before, after)) => {
                        suffixes.push(Suffix { before: before.as_bytes().into(), after: after.as_bytes().into() });
                    }
                    None => _ = exact.insert(plain.as_bytes().into()),
                },
                CorsOrigin::Pattern(pattern) => {
                    patterns.push(whole_regex(&pattern.regex).expect("config::load checked the expression"));
                }
            }
        }
        Origins::These { exact, suffixes, patterns }
    }

    fn take(&self, origin: &[u8]) -> bool {
        match self {
            Origins::Any => true,
            Origins::These { exact, suffixes, patterns } => {
                exact.contains(origin)
                    || suffixes.iter().any(|suffix| suffix.takes(origin))
                    || patterns.iter().any(|pattern| pattern.is_match(origin))
            }
        }
    }
}

impl Suffix {
    /// One label or more stand for the star, and nothing that is no part of a host.
    fn takes(&self, origin: &[u8]) -> bool {
        let labels = origin.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.after));
        labels.is_some_and(|labels| {
            labels.split(|&byte| byte == b'.').all(|label| {
                !label.is_empty() && label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            })
        })
    }
}

impl Filter for Cors {
    fn request(&self, context: &mut Context<'_>, _: Step) -> Effect {
        if context.kept.of::<Preflight>().is_none() {
            return Effect::Next;
        }
        // What `Connection` lists was struck since, perhaps the very fields that made this a preflight; it got this route as
        // one, and nothing but an answer of ours may come of it.
        let asked = asked_method(context.request).unwrap_or_default();
        Effect::Answer(Answer::Send { head: self.preflight(context.request, asked), body: bytes::Bytes::new() })
    }

    fn answers_preflights(&self) -> bool {
        true
    }

    fn response(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        self.answer(context, head);
    }

    fn refusal(&self, context: &mut Context<'_>, head: &mut ResponseHead) {
        self.answer(context, head);
    }
}

/// A name only this filter speaks.
fn is_ours(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"access-control-";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(written: &str) -> Origins {
        #[derive(serde::Deserialize)]
        struct Table {
            origins: Vec<CorsOrigin>,
        }
        Origins::of(&toml::from_str::<Table>(&format!("origins = {written}")).expect("good").origins)
    }

    #[track_caller]
    fn check(written: &str, taken: &[&str], others: &[&str]) {
        let origins = origins(written);
        for origin in taken {
            assert!(origins.take(origin.as_bytes()), "{origin}");
        }
        for origin in others {
            assert!(!origins.take(origin.as_bytes()), "{origin}");
        }
    }

    #[test]
    fn origins_are_compared_whole() {
        check(
            r#"["https://a.example", "http://b.example:81"]"#,
            &["https://a.example", "http://b.example:81"],
            &["http://a.example", "https://a.example:444", "https://a.example.evil", "https://x.a.example", "null", ""],
        );
        check(
            r#"["https://*.a.example"]"#,
            &["https://b.a.example", "https://c.b.a.example", "https://x-y_z.a.example"],
            &[
                "https://a.example",
                "https://.a.example",
                "https://b..a.example",
                "https://eviila.example",
                "http://b.a.example",
                "https://b.a.example:8443",
                "https://b.a.example.evil",
                "https://evil/.a.example",
                "https://evil@b.a.example",
                "https://evil?.a.example",
            ],
        );
        check(
            r#"[{ regex = 'https://pr-[0-9]+\.a\.example' }, "null"]"#,
            &["https://pr-1.a.example", "null"],
            &["https://pr-.a.example", "https://pr-1.a.example.evil", "https://pr-1xa.example"],
        );
    }
}
