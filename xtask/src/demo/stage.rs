//! What the demo shows: requests as sent, answers as received, and whether each claim held.

use std::fmt;
use std::net::SocketAddr;

use anyhow::Result;
use e2e::Peer;
use e2e::message::{Head, Message};

/// Lines of a body that are shown.
const BODY_LINES_MAX: usize = 16;

#[derive(Default)]
pub(super) struct Stage {
    steps: usize,
    held: usize,
    failed: usize,
}

impl Stage {
    pub(super) fn begin(&mut self, title: &str) {
        self.steps += 1;
        println!("\n=== {}. {title}", self.steps);
    }

    /// A claim, and whether it is so.
    pub(super) fn check(&mut self, claim: &str, holds: bool) {
        if holds {
            self.held += 1;
            println!("  ok      {claim}");
        } else {
            self.failed += 1;
            println!("  FAILED  {claim}");
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.failed == 0
    }

    /// Sends a request on a connection of its own and returns the answer; shows both.
    pub(super) fn ask(&self, to: SocketAddr, request: &str) -> Result<Message> {
        self.ask_on(&mut Peer::connect(to)?, request)
    }

    /// The same on a connection that is kept.
    pub(super) fn ask_on(&self, client: &mut Peer, request: &str) -> Result<Message> {
        self.send(client, request)?;
        let answer = Message::answer(client, request.split(' ').next().unwrap_or_default())?;
        self.received(&answer);
        Ok(answer)
    }

    pub(super) fn send(&self, client: &mut Peer, text: &str) -> Result<()> {
        for line in text.trim_end_matches("\r\n").split("\r\n") {
            println!("  > {line}");
        }
        client.send(text)
    }

    pub(super) fn received(&self, answer: &Message) {
        self.received_head(&answer.head);
        let text = answer.text();
        for line in text.lines().take(BODY_LINES_MAX) {
            println!("  <   {line}");
        }
        let more = text.lines().count().saturating_sub(BODY_LINES_MAX);
        if more > 0 {
            println!("  <   ({more} lines more)");
        }
        for (name, value) in &answer.trailers {
            println!("  < (trailer) {name}: {value}");
        }
    }

    pub(super) fn received_head(&self, head: &Head) {
        println!("  < {}", head.start);
        for (name, value) in &head.fields {
            println!("  < {name}: {value}");
        }
    }

    pub(super) fn note(&self, text: &str) {
        println!("  {text}");
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps, {} claims held, {} failed", self.steps, self.held, self.failed)
    }
}
