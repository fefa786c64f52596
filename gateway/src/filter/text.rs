//! Templates made into text for one request: header values, and parts of a path or a host.

use std::io::Write as _;

use super::Context;
use crate::config::template::{Piece, Template, Variable};
use crate::route::condition::{cookie, field, parameter, raw_parameter};

/// Appends what `template` says of this request. No variable holds a line break: all went through the head parser or are ours.
pub(super) fn render(template: &Template, context: &Context<'_>, out: &mut Vec<u8>) {
    for piece in &template.pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Variable(variable) => show(variable, context, out),
        }
    }
}

/// [`render`] for a path: whatever a variable holds stays within its segment, escaped (RFC 3986 §3.3). What the path itself
/// captured is a path already.
pub(super) fn render_path(template: &Template, context: &Context<'_>, out: &mut Vec<u8>) {
    for piece in &template.pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Variable(variable @ (Variable::Capture(_) | Variable::Path)) => show(variable, context, out),
            Piece::Variable(variable) => {
                let mut shown = Vec::new();
                match variable {
                    // Decoded first, or its escapes would be escaped.
                    Variable::Query(name) => {
                        shown.extend_from_slice(&parameter(context.request.query(), name).unwrap_or_default());
                    }
                    variable => show(variable, context, &mut shown),
                }
                for byte in shown {
                    match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
                        // Writing to memory does not fail.
                        byte => drop(write!(out, "%{byte:02X}")),
                    }
                }
            }
        }
    }
}

fn show(variable: &Variable, context: &Context<'_>, out: &mut Vec<u8>) {
    let Context { request, facts, .. } = context;
    match variable {
        // Writing to memory does not fail.
        Variable::ClientIp => drop(write!(out, "{}", facts.client.address)),
        Variable::RequestId => out.extend_from_slice(facts.request_id),
        Variable::Route => out.extend_from_slice(facts.route_name().as_bytes()),
        Variable::Host => {
            let authority = request.authority();
            out.extend_from_slice(http1::host_parts(authority).map_or(authority, |(name, _)| name));
        }
        Variable::Method => out.extend_from_slice(request.method_text()),
        Variable::Path => out.extend_from_slice(request.path()),
        Variable::Scheme => out.extend_from_slice(facts.scheme.as_bytes()),
        Variable::Capture(name) => {
            let path = request.path();
            if let Some(range) = facts.route.and_then(|route| route.pattern.capture(path, name)) {
                out.extend_from_slice(&path[range]);
            }
        }
        Variable::Header(name) => out.extend_from_slice(&field(&request.fields, name).unwrap_or_default()),
        // As it was sent: decoded it could hold a line break.
        Variable::Query(name) => out.extend_from_slice(raw_parameter(request.query(), name).unwrap_or_default()),
        Variable::Cookie(name) => out.extend_from_slice(cookie(&request.fields, name).unwrap_or_default()),
    }
}
