//! Compares what comes over a connection with what a block says must come, and tells the difference.

use std::fmt::Write;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::script::{Expected, FieldPatterns, HeadPattern, RefusalPattern};
use crate::message::{self, Head, Message};
use crate::peer::{End, Peer, shown};

/// Takes from `peer` what `expected` says, or tells how it differs. Which connection is meant was settled before.
/// `last`: nothing but the end of the connection follows in this block.
pub fn meet(expected: &Expected, last: bool, peer: &mut Peer) -> Result<()> {
    match expected {
        Expected::Head(pattern) => compare_head(pattern, &Head::read(peer)?),
        Expected::Refusal(pattern) => compare_refusal(pattern, last, peer),
        Expected::Bytes(bytes) => {
            let got = peer.take(bytes.len())?;
            ensure!(got == *bytes, "bytes differ\n  - {}\n  + {}", shown(bytes), shown(&got));
            Ok(())
        }
        Expected::Chunks { data, open, trailers } => compare_chunks(data, *open, trailers, peer),
        Expected::Eof => ended(peer, &[End::Eof]),
        Expected::Reset => ended(peer, &[End::Reset]),
        Expected::Cut => ended(peer, &[End::Eof, End::Reset]),
        Expected::Nothing => {
            let pending = peer.pending()?;
            ensure!(pending.is_empty(), "nothing should have come\n  + {}", shown(pending));
            Ok(())
        }
        Expected::Incomplete => {
            if !peer.pending()?.is_empty() {
                let (got, _) = peer.rest()?;
                let complete = got.windows(5).any(|window| window == b"\r\n0\r\n");
                ensure!(!complete, "a request came to its end\n  + {}", shown(&got));
            }
            Ok(())
        }
        Expected::SameConnection | Expected::NewConnection | Expected::Connection(_) => Ok(()),
    }
}

fn ended(peer: &mut Peer, as_wanted: &[End]) -> Result<()> {
    let end = peer.finish()?;
    ensure!(as_wanted.contains(&end), "the connection ended by {end:?}, not {as_wanted:?}");
    Ok(())
}

fn compare_head(pattern: &HeadPattern, got: &Head) -> Result<()> {
    let mut difference = String::new();
    if pattern.start.matches(&got.start) {
        let _ = writeln!(difference, "    {}", got.start);
    } else {
        let _ = writeln!(difference, "  - {}\n  + {}", pattern.start, got.start);
    }
    let same = compare_fields(&pattern.fields, &got.fields, &mut difference);
    ensure!(same && pattern.start.matches(&got.start), "heads differ (- expected, + came)\n{difference}");
    Ok(())
}

/// `true` when they agree; writes them line by line into `difference` either way.
fn compare_fields(pattern: &FieldPatterns, got: &[(String, String)], difference: &mut String) -> bool {
    let mut same = true;
    let mut left: Vec<_> = got.iter().collect();
    for (name, value) in &pattern.present {
        // The first left of that name: fields of one name keep their order.
        match left.iter().position(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some(at) if value.matches(&left[at].1) => {
                let (name, value) = left.remove(at);
                let _ = writeln!(difference, "    {name}: {}", value.escape_debug());
            }
            _ => {
                same = false;
                let _ = writeln!(difference, "  - {name}: {value}");
            }
        }
    }
    for (name, value) in left {
        let forbidden = pattern.absent.iter().any(|absent| absent.eq_ignore_ascii_case(name));
        if forbidden || !pattern.open {
            same = false;
            let _ = writeln!(difference, "  + {name}: {}", value.escape_debug());
        } else {
            let _ = writeln!(difference, "    {name}: {}", value.escape_debug());
        }
    }
    same
}

fn compare_refusal(pattern: &RefusalPattern, closes: bool, peer: &mut Peer) -> Result<()> {
    let Message { head, body, .. } = Message::answer(peer, if pattern.head_only { "HEAD" } else { "GET" })?;
    let mut wrong = Vec::new();
    let mut want = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    want(head.status() == pattern.status, format!("status {}, not {}", head.status(), pattern.status));
    want(head.start.starts_with("HTTP/1.1 "), format!("the status line `{}`", head.start));
    want(
        head.field("content-type") == Some("application/problem+json"),
        "no Content-Type: application/problem+json".into(),
    );
    want(head.field("cache-control") == Some("no-store"), "no Cache-Control: no-store".into());
    want(pattern.head_only || head.field("content-length").is_some(), "no Content-Length".into());
    let request_id = head.field("x-request-id").unwrap_or_default();
    want(!request_id.is_empty(), "no X-Request-Id".into());
    if closes {
        want(
            head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
            "no Connection: close before closing".into(),
        );
    }
    if !pattern.head_only {
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default();
        want(pattern.code.matches(text("code")), format!("code `{}`, not `{}`", text("code"), pattern.code));
        want(
            problem.get("status").and_then(Value::as_u64) == Some(pattern.status.into()),
            "`status` in the body is not the status".into(),
        );
        want(text("request_id") == request_id, format!("request_id `{}`, not that of the field", text("request_id")));
        want(
            text("ended_by") == pattern.ended_by,
            format!("ended_by `{}`, not `{}`", text("ended_by"), pattern.ended_by),
        );
        want(!text("title").is_empty(), "no `title`".into());
    }
    let mut difference = String::new();
    let fields = FieldPatterns { open: true, ..clone_of(&pattern.fields) };
    want(compare_fields(&fields, &head.fields, &mut difference), format!("fields differ\n{difference}"));
    if !wrong.is_empty() {
        bail!(
            "not the refusal {} {}: {}\n  + {head:?}\n  + {}",
            pattern.status,
            pattern.code,
            wrong.join("; "),
            shown(&body)
        );
    }
    Ok(())
}

fn clone_of(fields: &FieldPatterns) -> FieldPatterns {
    FieldPatterns { present: fields.present.clone(), absent: fields.absent.clone(), open: fields.open }
}

fn compare_chunks(data: &[u8], open: bool, trailers: &FieldPatterns, peer: &mut Peer) -> Result<()> {
    let mut got = Vec::new();
    while !(open && got.len() >= data.len()) {
        match message::chunk(peer)? {
            Some(chunk) => got.extend(chunk),
            None if open => bail!("the last chunk came, but the body should stay open, after {}", shown(&got)),
            None => break,
        }
    }
    ensure!(got == data, "bodies differ\n  - {}\n  + {}", shown(data), shown(&got));
    if !open {
        let mut difference = String::new();
        ensure!(compare_fields(trailers, &message::fields(peer)?, &mut difference), "trailers differ\n{difference}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Origin;
    use crate::wire::script::{Script, Step};

    /// Sends `came` and compares it with the block `text`.
    fn check(text: &str, came: &[u8]) -> Result<()> {
        let script = Script::parse("x.txt", &format!("== x\n{text}\n")).unwrap();
        let Step::Expect(items) = &script.cases[0].blocks[0].step else { panic!("expects") };
        let origin = Origin::tcp().unwrap();
        let mut sender = Peer::connect(origin.address().parse().unwrap()).unwrap();
        let mut receiver = origin.accept().unwrap();
        sender.send(came).unwrap();
        drop(sender);
        items
            .iter()
            .try_for_each(|item| meet(item, false, &mut receiver))
            .and_then(|()| meet(&Expected::Eof, true, &mut receiver))
    }

    const OK: &str = "client< HTTP/1.1 200 OK\nclient< A: 1\nclient< B: *\nclient<";

    #[test]
    fn equal_messages_pass_whatever_the_order_of_fields() {
        check(OK, b"HTTP/1.1 200 OK\r\nA: 1\r\nB: x\r\n\r\n").unwrap();
        check(OK, b"HTTP/1.1 200 OK\r\nb: x\r\na: 1\r\n\r\n").unwrap();
        check(
            &format!("{OK}\nclient< <chunks abc>\nclient< T: 1\nclient<"),
            b"HTTP/1.1 200 OK\r\nB: \r\nA: 1\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\nT: 1\r\n\r\n",
        )
        .unwrap();
        check("client< <chunks-open abc>", b"3\r\nabc\r\n").unwrap();
        check("client< body\\", b"body").unwrap();
    }

    #[test]
    fn every_difference_is_told() {
        for (text, came) in [
            (OK, &b"HTTP/1.1 201 OK\r\nA: 1\r\nB: x\r\n\r\n"[..]),
            (OK, b"HTTP/1.1 200 OK\r\nA: 2\r\nB: x\r\n\r\n"),
            (OK, b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n"),
            (OK, b"HTTP/1.1 200 OK\r\nA: 1\r\nB: x\r\nC: y\r\n\r\n"),
            (OK, b"HTTP/1.1 200 OK\r\nA: 1\r\nA: 1\r\nB: x\r\n\r\n"),
            (OK, b"HTTP/1.1 200 OK\r\nA: 1\r\nB: x\r\n\r\nmore"),
            (OK, b"HTTP/1.1 200 OK\nA: 1\r\nB: x\r\n\r\n"),
            (OK, b"HTTP/1.1 200 OK\r\nA : 1\r\nB: x\r\n\r\n"),
            ("client< <chunks abc>\nclient<", b"3\r\nabd\r\n0\r\n\r\n"),
            ("client< <chunks abc>\nclient<", b"3\r\nabc\r\n0\r\nT: 1\r\n\r\n"),
            ("client< <chunks abc>\nclient<", b"3;x\r\nabc\r\n0\r\n\r\n"),
            ("client< <chunks-open abc>", b"3\r\nabc\r\n0\r\n\r\n"),
            ("client< <refusal 404 no_route>", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        ] {
            assert!(check(text, came).is_err(), "{text}\n{}", shown(came));
        }
    }
}
