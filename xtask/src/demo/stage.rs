//! What the demo shows: requests as sent, answers as received, and whether each claim held.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
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

    /// The same from another address of this machine's.
    pub(super) fn ask_from(&self, from: &str, to: SocketAddr, request: &str) -> Result<Message> {
        self.note(&format!("(from {from})"));
        self.ask_on(&mut Peer::connect_from(from.parse()?, to)?, request)
    }

    /// The same of an admin listener.
    pub(super) fn ask_admin(&self, socket: &Path, request: &str) -> Result<Message> {
        self.ask_on(&mut Peer::connect_unix(socket)?, request)
    }

    /// Runs a command to its end and returns what it says, on both outputs; shows both.
    pub(super) fn run(&self, command: &mut Command) -> Result<String> {
        let words = command.get_args().map(|word| word.to_string_lossy());
        let words: Vec<String> =
            words.map(|word| if word.contains(' ') { format!("'{word}'") } else { word.into_owned() }).collect();
        println!("  $ bawab {}", words.join(" "));
        let done = command.stdin(Stdio::null()).output().context("starting bawab")?;
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        said.lines().for_each(|line| println!("  {line}"));
        Ok(said)
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
