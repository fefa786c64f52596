//! A check by gRPC: the call every service of it knows to be asked how it is (`grpc.health.v1.Health/Check`).
//!
//! Two messages of one field each, read and written here: what a whole compiler of messages would be for.

use std::future::poll_fn;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::Reason;
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::Outcome;
use crate::limits::CHECK_ANSWER_BYTES_MAX;
use crate::observe::metrics::CheckOutcome;
use crate::proxy::grpc::Status;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    authority: String,
    message: Bytes,
}

/// `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

impl Asked {
    /// `service`: as its server calls it; empty for the server as a whole. At most 64 KiB of it are said.
    pub(super) fn new(authority: &str, service: &str) -> Asked {
        let mut message = BytesMut::new();
        if !service.is_empty() {
            // Field 1, bytes of a length.
            message.put_u8(1 << 3 | 2);
            put_varint(&mut message, service.len() as u64);
            message.put_slice(service.as_bytes());
        }
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put(message);
        Asked { authority: authority.to_owned(), message: framed.freeze() }
    }

    /// Makes the call over a connection of its own.
    pub(super) async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Outcome {
        let (sender, connection) = match h2::client::handshake(stream).await {
            Ok(both) => both,
            Err(error) => return broken(&error),
        };
        let call = async {
            match self.call(sender).await {
                Ok(outcome) => outcome,
                Err(error) => broken(&error),
            }
        };
        tokio::select! {
            // What the call has come to goes before the connection's end.
            biased;
            outcome = call => outcome,
            ended = connection => match ended {
                Ok(()) => Outcome::new(CheckOutcome::Closed, "closed without an answer"),
                Err(error) => broken(&error),
            },
        }
    }

    async fn call(&self, sender: h2::client::SendRequest<Bytes>) -> Result<Outcome, h2::Error> {
        let mut sender = sender.ready().await?;
        let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "bawab-health-check")
            .body(());
        let Ok(request) = request else {
            let seen = format!("`{}` is no authority a request can be made to", self.authority);
            return Ok(Outcome::new(CheckOutcome::NotMade, seen));
        };
        let (answer, mut body) = sender.send_request(request, false)?;
        body.send_data(self.message.clone(), true)?;
        let (head, mut stream) = answer.await?.into_parts();
        if head.status != StatusCode::OK {
            return Ok(Outcome::new(CheckOutcome::Status, format!("status {}", head.status.as_u16())));
        }
        let mut whole = Vec::new();
        while let Some(piece) = poll_fn(|cx| stream.poll_data(cx)).await {
            let piece = piece?;
            if whole.len() + piece.len() > CHECK_ANSWER_BYTES_MAX {
                return Ok(Outcome::new(CheckOutcome::Malformed, "its answer is too long"));
            }
            stream.flow_control().release_capacity(piece.len())?;
            whole.extend_from_slice(&piece);
        }
        let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await?;
        let said = said(&head.headers).or_else(|| said(trailers.as_ref()?));
        Ok(judged(said.as_deref(), &whole))
    }
}

/// The value of `grpc-status`.
fn said(fields: &HeaderMap) -> Option<String> {
    Some(String::from_utf8_lossy(fields.get("grpc-status")?.as_bytes()).into_owned())
}

/// What an answer says: its `grpc-status` and its body.
fn judged(status: Option<&str>, body: &[u8]) -> Outcome {
    match status {
        Some("0") => {}
        Some(number) => {
            let name = number.parse().ok().and_then(|number: usize| Status::NAMES.get(number).copied());
            let seen = format!("grpc-status {number} ({})", name.unwrap_or("unknown"));
            return Outcome::new(CheckOutcome::Status, seen);
        }
        None => return Outcome::new(CheckOutcome::Malformed, "its answer is no gRPC: it has no grpc-status"),
    }
    match serving(body) {
        Some(SERVING) => Outcome::new(CheckOutcome::Passed, "SERVING"),
        Some(other) => {
            let name = usize::try_from(other).ok().and_then(|other| STATUSES.get(other).copied());
            Outcome::new(CheckOutcome::Status, name.map_or_else(|| format!("health {other}"), str::to_owned))
        }
        None => Outcome::new(CheckOutcome::Malformed, "its answer is no HealthCheckResponse"),
    }
}

/// Field 1 of the one message in `body`; 0 where that is left out, as a default is.
fn serving(body: &[u8]) -> Option<u64> {
    let (&compressed, rest) = body.split_first()?;
    let (length, mut message) = rest.split_first_chunk()?;
    if compressed != 0 || u32::from_be_bytes(*length) as usize != message.len() {
        return None;
    }
    let mut serving = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => serving = take_varint(&mut message)?,
            // Fields of a later version.
            (_, 0) => _ = take_varint(&mut message)?,
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(serving)
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn broken(error: &h2::Error) -> Outcome {
    // What speaks HTTP/1 answers the preface with an error of its own.
    let kind = match error.is_io() || error.reason() == Some(Reason::NO_ERROR) {
        true => CheckOutcome::Closed,
        false => CheckOutcome::Malformed,
    };
    Outcome::new(kind, format!("no answer by HTTP/2: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: Option<&str>, body: &[u8]) -> (CheckOutcome, String) {
        let Outcome { kind, seen } = judged(status, body);
        (kind, seen)
    }

    #[test]
    fn only_a_service_that_serves_passes() {
        assert_eq!(kind(Some("0"), &[0, 0, 0, 0, 2, 8, 1]), (CheckOutcome::Passed, "SERVING".to_owned()));
        assert_eq!(kind(Some("0"), &[0, 0, 0, 0, 2, 8, 2]), (CheckOutcome::Status, "NOT_SERVING".to_owned()));
        assert_eq!(kind(Some("0"), &[0, 0, 0, 0, 0]), (CheckOutcome::Status, "UNKNOWN".to_owned()));
        assert_eq!(kind(Some("0"), &[0, 0, 0, 0, 2, 8, 9]), (CheckOutcome::Status, "health 9".to_owned()));
        assert_eq!(kind(Some("12"), b""), (CheckOutcome::Status, "grpc-status 12 (unimplemented)".to_owned()));
        assert_eq!(kind(Some("x"), b"").1, "grpc-status x (unknown)");
        assert_eq!(kind(None, b"").0, CheckOutcome::Malformed);
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let message = [0x12, 2, b'o', b'k', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x28, 0x96, 1, 8, 1];
        let body = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
        assert_eq!(serving(&body), Some(SERVING));
    }

    #[test]
    fn what_is_cut_or_too_long_is_no_message() {
        for body in [
            &b""[..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 8, 1],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 0x12, 9],
            &[0, 0, 0, 0, 1, 3],
            &[0, 0, 0, 0, 12, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert_eq!(serving(body), None, "{body:?}");
        }
    }

    #[test]
    fn a_service_is_named_in_field_one() {
        assert_eq!(Asked::new("a", "").message, [0, 0, 0, 0, 0][..]);
        assert_eq!(Asked::new("a", "x.Y").message, [0, 0, 0, 0, 5, 0x0a, 3, b'x', b'.', b'Y'][..]);
        let long = "s".repeat(300);
        let message = Asked::new("a", &long).message;
        assert_eq!(message[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 2]);
        assert_eq!(message.len(), 5 + 3 + 300);
    }
}
