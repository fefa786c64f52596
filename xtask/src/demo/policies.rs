//! The steps of the demo that show a route's policies.

use anyhow::Result;

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
