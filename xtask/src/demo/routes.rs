//! The steps of the demo that show which route a request gets, and what a route can do with it.

use std::collections::BTreeSet;

use anyhow::Result;
use e2e::Peer;
use e2e::message::Message;

use super::gateway::Gateway;
use super::services::Services;
use super::stage::Stage;

/// Requests of the split. Of so many, three quarters are 150; 120 and 180 are almost five standard deviations away.
const DRAWN: usize = 200;
/// Sessions of the split, and how often each comes back.
const SESSIONS: usize = 12;
const VISITS: usize = 3;

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n{fields}\r\n")
}

pub(super) fn rewritten(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, &get("/shelves/7/books/42?lang=ar", ""))?;
    let seen = answer.text().to_ascii_lowercase();
    stage.check("the service is asked for /s/7/42, query and all", seen.contains("get /s/7/42?lang=ar http/1.1"));
    stage.check("by the host of that shelf", seen.lines().any(|line| line == "host: 7.internal"));
    let answer = stage.ask(gateway.public, &get("/shelves/7/books/42/pages", ""))?;
    stage.check("a name stands for one segment, no more: 404", answer.refusal()? == (404, "no_route".to_owned()));
    Ok(())
}

pub(super) fn canary(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, &get("/books/42", "X-Canary: 1\r\n"))?;
    stage.check("who asks for the canary gets it", answer.text().starts_with("media received"));
    let answer = stage.ask(gateway.public, &get("/books/42", "X-Canary: 2\r\n"))?;
    stage.check("anybody else gets the books", answer.text().starts_with("books-"));
    Ok(())
}

pub(super) fn split(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let mut client = Peer::connect(gateway.public)?;
    let mut ask = |fields: &str| -> Result<bool> {
        client.send(get("/split", fields))?;
        Ok(Message::answer(&mut client, "GET")?.text().starts_with("books-"))
    };
    let mut books = 0;
    for _ in 0..DRAWN {
        books += usize::from(ask("")?);
    }
    stage.note(&format!("> GET /split, {DRAWN} times: {books} went to the books, {} to the media", DRAWN - books));
    stage.check("some three in four are for the books", (120..=180).contains(&books));
    let (mut stay, mut targets) = (true, BTreeSet::new());
    for session in 0..SESSIONS {
        let cookie = format!("Cookie: session={session}\r\n");
        let first = ask(&cookie)?;
        for _ in 0..VISITS {
            stay &= ask(&cookie)? == first;
        }
        targets.insert(first);
    }
    stage.note(&format!("> GET /split with Cookie: session=0 to {}, {} times each", SESSIONS - 1, VISITS + 1));
    stage.check("a session stays where it was", stay);
    stage.check("and not all of them in one place", targets.len() == 2);
    Ok(())
}

pub(super) fn redirected(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, &get("/old/a/b?c=d", ""))?;
    let location = answer.head.field("location");
    let right = answer.head.status() == 308 && location == Some("https://www.example.com/new/a/b?c=d");
    stage.check("308 to the same page elsewhere, with its query", right);
    Ok(())
}

pub(super) fn maintained(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, &get("/billing/1", ""))?;
    stage.check("503 maintenance", answer.refusal()? == (503, "maintenance".to_owned()));
    stage.check("and when to come again, in seconds", answer.head.field("retry-after") == Some("1800"));
    let answer = stage.ask_from("127.0.0.70", gateway.public, &get("/billing/1", ""))?;
    stage.check("who looks after the service is let through", answer.head.status() == 200);
    Ok(())
}

pub(super) fn error_page(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, &get("/wiki/page", "Accept: text/html\r\n"))?;
    let id = answer.head.field("x-request-id").unwrap_or("none").to_owned();
    let page = answer.text();
    let is_page = answer.head.status() == 502 && page.starts_with("<h1>Bad Gateway</h1>") && page.contains(&id);
    stage.check("a browser sees the page, with the request's id", is_page);
    let answer = stage.ask(gateway.public, &get("/wiki/page", "Accept: application/problem+json\r\n"))?;
    stage.check("a program gets problem+json", answer.refusal()? == (502, "upstream_connect_failed".to_owned()));
    Ok(())
}

pub(super) fn explained(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let said = stage.run(&mut gateway.command(&["explain", "route", "GET", "http://api.example/books/./42"]))?;
    let first = said.lines().next().unwrap_or_default();
    stage
        .check("the route of the request, and where it is written", first.starts_with("route      books  (demo.toml:"));
    let near = said.contains("canary: its condition on the header `x-canary` does not hold");
    stage.check("and why the canary is not it", near);
    let words = ["explain", "route", "GET", "http://api.example/books/42", "-H", "X-Canary: 1", "--running"];
    let said = stage.run(&mut gateway.command(&words))?;
    stage.check("the gateway that runs says the same of the canary", said.starts_with("route      canary\n"));
    let said = stage.run(&mut gateway.command(&["explain", "route", "PUT", "http://api.example/books/42"]))?;
    stage.check("and of what is refused: 405, and what is allowed", said.contains("405 method_not_allowed"));
    Ok(())
}
