//! What errors look like to a client: the operator's pages in place of problem+json, and, where they say so, in place of what
//! the upstream answered.
//!
//! Pages of the route go before those for all routes. Among those for a status the client gets the media type it prefers;
//! problem+json is always one of the choices, and loses a tie: whoever writes a page means it.

use std::io::Write as _;

use bytes::Bytes;
use http1::Known;

use super::fields::Fields;
use crate::config::model;
use crate::config::template::{Page, Piece, Shown};
use crate::config::words::status_range;
use crate::refusal::Refusal;
use crate::snapshot::{Route, Settings};

/// A page, compiled.
pub struct ErrorPage {
    /// First and last status of each range.
    statuses: Vec<(u16, u16)>,
    content_type: Box<str>,
    page: Page,
    escape: Escape,
    upstream: bool,
}

/// How what a page shows is written, so that it stays text.
#[derive(Clone, Copy)]
enum Escape {
    Html,
    Json,
    Nothing,
}

/// What a page can show.
pub struct Told<'a> {
    status: u16,
    code: &'a str,
    detail: &'a str,
    request_id: &'a [u8],
}

impl<'a> Told<'a> {
    pub fn of(refusal: Refusal, request_id: &'a [u8]) -> Told<'a> {
        Told { status: refusal.status(), code: refusal.code(), detail: refusal.detail(), request_id }
    }

    /// An answer of the upstream.
    pub fn of_upstream(status: u16, request_id: &'a [u8]) -> Told<'a> {
        Told { status, code: "upstream_answer", detail: "the service behind this gateway answered so", request_id }
    }
}

/// What says something about the body that a page replaces.
const OF_THE_BODY: [&str; 14] = [
    "content-type",
    "content-length",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-disposition",
    "accept-ranges",
    "etag",
    "last-modified",
    "content-digest",
    "repr-digest",
    "digest",
    "content-md5",
];

impl ErrorPage {
    /// From a checked page.
    pub fn of(written: &model::ErrorPage) -> ErrorPage {
        let essence = essence(&written.content_type);
        let is = |kinds: &[&str]| kinds.iter().any(|kind| essence.ends_with(kind));
        ErrorPage {
            statuses: written.status.iter().filter_map(|text| status_range(text)).collect(),
            page: Page::parse(&written.body).expect("config::load checked the page"),
            escape: match () {
                () if is(&["html", "xml"]) => Escape::Html,
                () if is(&["json"]) => Escape::Json,
                () => Escape::Nothing,
            },
            content_type: written.content_type.as_str().into(),
            upstream: written.upstream,
        }
    }

    fn is_for(&self, status: u16) -> bool {
        self.statuses.iter().any(|&(first, last)| (first..=last).contains(&status))
    }

    /// Makes `fields` those of this page, and returns its body.
    pub fn dress(&self, fields: &mut Fields, told: &Told<'_>) -> Bytes {
        OF_THE_BODY.iter().for_each(|name| fields.remove(name.as_bytes()));
        fields.add(b"content-type", self.content_type.as_bytes());
        fields.set(b"cache-control", b"no-store");
        fields.add(b"vary", b"accept");
        let mut body = Vec::new();
        for piece in &self.page.pieces {
            match piece {
                Piece::Text(text) => body.extend_from_slice(text.as_bytes()),
                Piece::Variable(shown) => self.show(*shown, told, &mut body),
            }
        }
        Bytes::from(body)
    }

    fn show(&self, shown: Shown, told: &Told<'_>, out: &mut Vec<u8>) {
        let text: &[u8] = match shown {
            // Writing to memory does not fail.
            Shown::Status => return drop(write!(out, "{}", told.status)),
            Shown::Reason => http1::encode::reason(told.status).as_bytes(),
            Shown::Code => told.code.as_bytes(),
            Shown::Detail => told.detail.as_bytes(),
            Shown::RequestId => told.request_id,
        };
        for &byte in text {
            match (self.escape, byte) {
                (Escape::Html, b'<' | b'>' | b'&' | b'"' | b'\'') => drop(write!(out, "&#{byte};")),
                (Escape::Json, b'"' | b'\\') => out.extend([b'\\', byte]),
                _ => out.push(byte),
            }
        }
    }
}

/// `text/html; charset=utf-8` without what follows the type, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The pages of an exchange, in the order in which they are asked.
pub fn pages<'a>(route: Option<&'a Route>, settings: &'a Settings) -> impl Iterator<Item = &'a ErrorPage> {
    route.into_iter().flat_map(|route| &route.errors).chain(&settings.errors)
}

/// The page for a status that the client of `fields` likes best. `None`: what would be sent without it.
/// `upstream`: in place of what the upstream answered, which only some pages take.
pub fn choose<'a>(
    pages: impl Iterator<Item = &'a ErrorPage>,
    status: u16,
    fields: &Fields,
    upstream: bool,
) -> Option<&'a ErrorPage> {
    let mut candidates = pages.filter(|page| page.is_for(status) && (page.upstream || !upstream)).peekable();
    candidates.peek()?;
    let accept: Vec<&[u8]> =
        fields.iter().filter(|(_, _, known)| *known == Known::Accept).map(|(_, value, _)| value).collect();
    let liked = |kind: &str| quality(&accept, kind);
    let mut best: Option<(&ErrorPage, u16)> = None;
    for page in candidates {
        let quality = liked(&essence(&page.content_type));
        if quality > 0 && best.is_none_or(|(_, other)| quality > other) {
            best = Some((page, quality));
        }
    }
    // What the upstream says in a type of its own is no choice of ours: there the page always goes first.
    best.filter(|(_, quality)| upstream || *quality >= liked("application/problem+json")).map(|(page, _)| page)
}

/// How much a client wants `kind`, 0 (not at all) to 1000, by the most specific range of its `Accept` (RFC 9110 §12.5.1).
/// Parameters of ranges beside `q` are not compared. Without `Accept` it wants everything.
fn quality(accept: &[&[u8]], kind: &str) -> u16 {
    if accept.is_empty() {
        return 1000;
    }
    let (main, _) = kind.split_once('/').unwrap_or((kind, ""));
    let mut best = (0, 0);
    for range in accept.iter().flat_map(|value| value.split(|&byte| byte == b',')) {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().unwrap_or_default();
        let specific = match range {
            b"*/*" => 1,
            _ if range.eq_ignore_ascii_case(kind.as_bytes()) => 3,
            _ if range.strip_suffix(b"/*").is_some_and(|range| range.eq_ignore_ascii_case(main.as_bytes())) => 2,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        let weight = weight.map_or(1000, thousandths);
        if specific > best.0 {
            best = (specific, weight);
        }
    }
    best.1
}

/// `0.5` is 500. What is no weight (RFC 9110 §12.4.2) is none.
fn thousandths(weight: &[u8]) -> u16 {
    let Some(value) = std::str::from_utf8(weight).ok().and_then(|text| text.parse::<f32>().ok()) else { return 0 };
    (value.clamp(0.0, 1.0) * 1000.0) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(status: &[&str], content_type: &str, body: &str, upstream: bool) -> ErrorPage {
        ErrorPage::of(&model::ErrorPage {
            status: status.iter().map(|&text| text.to_owned()).collect(),
            content_type: content_type.to_owned(),
            body: body.to_owned(),
            upstream,
        })
    }

    fn asked(accept: Option<&str>) -> Fields {
        let mut fields = Fields::new();
        accept.iter().for_each(|accept| fields.add(b"accept", accept.as_bytes()));
        fields
    }

    #[test]
    fn a_client_gets_the_type_it_prefers() {
        let pages = [
            page(&["404", "5xx"], "text/html; charset=utf-8", "html", false),
            page(&["4xx"], "application/json", "json", true),
        ];
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (status, accept, upstream, expected) in [
            (404, None, false, Some("html")),
            (404, Some("*/*"), false, Some("html")),
            (404, Some(browser), false, Some("html")),
            (404, Some("application/json"), false, Some("json")),
            (404, Some("application/*"), false, Some("json")),
            (404, Some("application/problem+json, */*;q=0.1"), false, None),
            (404, Some("text/html;q=0, */*"), false, Some("json")),
            // A client that takes neither gets the plain refusal.
            (404, Some("image/png"), false, None),
            (400, Some(browser), false, Some("json")),
            (503, Some("application/json"), false, None),
            (503, Some("text/*;q=0.3"), false, Some("html")),
            (404, Some(browser), true, Some("json")),
            (503, None, true, None),
        ] {
            let chosen = choose(pages.iter(), status, &asked(accept), upstream);
            let body = chosen.map(|page| match &page.page.pieces[..] {
                [Piece::Text(text)] => text.as_str(),
                other => panic!("{other:?}"),
            });
            assert_eq!(body, expected, "{status} {accept:?} {upstream}");
        }
    }

    #[test]
    fn what_a_page_shows_stays_text() {
        let told = Told { status: 404, code: "no_route", detail: "a \"b\"", request_id: b"<x>&'" };
        for (kind, expected) in [
            ("text/html", "404 not found no_route a &#34;b&#34; &#60;x&#62;&#38;&#39; ${x}"),
            ("application/problem+json", "404 not found no_route a \\\"b\\\" <x>&' ${x}"),
            ("text/plain", "404 not found no_route a \"b\" <x>&' ${x}"),
        ] {
            let page = page(&["404"], kind, "${status} ${reason} ${code} ${detail} ${request_id} $${x}", false);
            let mut fields = Fields::new();
            fields.add(b"Content-Type", b"x");
            fields.add(b"etag", b"y");
            fields.add(b"www-authenticate", b"Bearer");
            let body = page.dress(&mut fields, &told);
            assert_eq!(String::from_utf8_lossy(&body).to_lowercase(), expected, "{kind}");
            assert_eq!(fields.get(b"content-type"), Some(kind.as_bytes()));
            assert_eq!(fields.get(b"etag"), None);
            assert_eq!(fields.get(b"www-authenticate"), Some(&b"Bearer"[..]));
        }
    }
}
