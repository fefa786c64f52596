//! A call of gRPC: its client and its service, message by message, without a library for it.

use anyhow::Result;
use bytes::Bytes;
use e2e::Http2Service;
use e2e::http2::{self, Client};
use e2e::http2_service::Reply;
use http::{HeaderMap, HeaderValue, Request};

use super::gateway::Gateway;
use super::services::Services;
use super::stage::Stage;

/// Greets whoever a message names.
pub(super) fn greeter() -> Result<Http2Service> {
    Http2Service::answer(|asked| {
        let name = asked.body.get(PREFIX..).unwrap_or_default();
        let mut reply = Reply::ok(message(&[b"salam, ", name].concat()));
        reply.head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        reply.trailers = Some(trailers);
        reply
    })
}

pub(super) fn call(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let to = gateway.public;
    let ask = |service: &str| -> Result<_> {
        let call = Request::post(format!("http://grpc.example/{service}/Greet"));
        let call = call.header("content-type", "application/grpc").header("te", "trailers").body(())?;
        http2::on(async { Ok(Client::connect(to).await?.send(call, message(b"everybody"), None).await?) })
    };
    stage.note("POST of a message, `everybody`, to /demo.Greeter/Greet, as application/grpc over HTTP/2");
    let answer = ask("demo.Greeter")?;
    let said = answer.body.get(PREFIX..).unwrap_or_default();
    stage.note(&format!("< {}, {}", answer.status, String::from_utf8_lossy(said)));
    stage.check("the service's message comes back", said == b"salam, everybody");
    let is_ok = answer.trailers.is_some_and(|trailers| trailers.get("grpc-status").is_some_and(|status| status == "0"));
    stage.check("and its status behind it, in the trailers", is_ok);
    let refused = ask("demo.Nobody")?;
    let (status, why) = (refused.field("grpc-status"), refused.field("grpc-message"));
    stage.note(&format!("< {}, grpc-status: {status}, grpc-message: {why}", refused.status));
    stage.check(
        "a refusal of ours is in gRPC's words: 12, unimplemented",
        status == "12" && why.starts_with("no_route"),
    );
    Ok(())
}

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A message in its frame.
fn message(bytes: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend((bytes.len() as u32).to_be_bytes());
    frame.extend(bytes);
    frame.into()
}
