//! The step of the demo that shows endpoints by DNS.

use anyhow::Result;
use serde_json::Value;

use super::gateway::Gateway;
use super::services::Services;
use super::stage::Stage;

pub(super) fn moved(stage: &mut Stage, gateway: &mut Gateway, services: &Services) -> Result<()> {
    const GET: &str = "GET /moving/1 HTTP/1.1\r\nHost: api.example\r\n\r\n";
    let answer = stage.ask(gateway.public, GET)?;
    stage.check("an SRV record says host and port", answer.text().starts_with("books-a received"));
    services.runs_at(1);
    let event = gateway.event("endpoints changed", |_: &Value| {})?;
    let endpoint = |field: &str, nth: usize| event[field] == services.address(nth);
    stage.note(&format!("! {event}"));
    stage.check("the record changes, and the gateway notices", endpoint("added", 1) && endpoint("removed", 0));
    let answer = stage.ask(gateway.public, GET)?;
    stage.check("the next request goes there", answer.text().starts_with("books-b received"));
    services.fails();
    let event = gateway.event("a name cannot be resolved", |_: &Value| {})?;
    stage.note(&format!("! {event}"));
    let answer = stage.ask(gateway.public, GET)?;
    let is_kept = answer.text().starts_with("books-b received") && event["kept"] == 1;
    stage.check("DNS fails, and the last answer is kept", is_kept);
    services.runs_at(1);
    Ok(())
}
