//! The steps of the demo that show a route's policies.

use std::io::Read;

use anyhow::Result;
use e2e::Peer;
use e2e::message::Message;

use super::gateway::Gateway;
use super::services::Services;
use super::stage::Stage;

pub(super) fn other_origins(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /shop/cart HTTP/1.1\r\nHost: api.example\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
        )
    };
    let answer = stage.ask(gateway.public, &preflight("https://shop.example"))?;
    let field = |name: &str| answer.head.field(name);
    stage.check("a preflight is answered here", answer.head.status() == 204);
    let allowed = (field("access-control-allow-origin"), field("access-control-allow-methods"));
    stage.check("and allows this page its PUT", allowed == (Some("https://shop.example"), Some("PUT")));
    let answer = stage.ask(gateway.public, &preflight("https://evil.example"))?;
    let refused = answer.head.field("access-control-allow-origin").is_none();
    stage.check("not that of a stranger", answer.head.status() == 204 && refused);
    let get = "GET /shop/cart HTTP/1.1\r\nHost: api.example\r\nOrigin: https://beta.shop.example\r\n\r\n";
    let answer = stage.ask(gateway.public, get)?;
    let readable = answer.head.field("access-control-allow-origin") == Some("https://beta.shop.example");
    stage.check("an answer says whose page may read it", readable && answer.head.field("vary") == Some("origin"));
    Ok(())
}

pub(super) fn compressed(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let get = |accept: &str| {
        format!(
            "GET /catalogue/all HTTP/1.1\r\nHost: api.example\r\nAccept-Encoding: {accept}\r\nX-Note: {}\r\n\r\n",
            "na".repeat(200)
        )
    };
    let mut client = Peer::connect(gateway.public)?;
    stage.send(&mut client, &get("deflate, gzip;q=0.8"))?;
    let answer = Message::answer(&mut client, "GET")?;
    stage.received_head(&answer.head);
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut plain)?;
    stage.note(&format!("< ({} bytes, {} once decoded)", answer.body.len(), plain.len()));
    stage.check("the coding that both sides know", answer.head.field("content-encoding") == Some("gzip"));
    let smaller = answer.body.len() < plain.len() / 2;
    stage
        .check("less than half the bytes, and the same text", smaller && plain.contains("GET /catalogue/all HTTP/1.1"));
    stage.check("caches are told why", answer.head.field("vary") == Some("accept-encoding"));
    let answer = stage.ask(gateway.public, &get("identity"))?;
    stage.check("a client that decodes nothing gets it plain", answer.head.field("content-encoding").is_none());
    Ok(())
}

pub(super) fn for_browsers(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, "HEAD /catalogue/all HTTP/1.1\r\nHost: api.example\r\n\r\n")?;
    let field = |name: &str| answer.head.field(name);
    stage.check("types are not guessed", field("x-content-type-options") == Some("nosniff"));
    stage.check("nobody may frame it", field("content-security-policy") == Some("frame-ancestors 'none'"));
    stage.check("over http nothing is said of https", field("strict-transport-security").is_none());
    Ok(())
}
