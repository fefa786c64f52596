//! `explain ip`: what the lists say about an address, and which line says so.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use abi::Action;
use serde::Serialize;

use crate::config::units::Time;
use crate::lists::{Lists, Located};
use crate::snapshot::Snapshot;

/// What becomes of an address.
#[derive(Debug, Default, Serialize)]
pub struct Answer {
    pub address: String,
    /// `pass`, `exempt`, `deny`, `manage` or `banned`.
    pub verdict: &'static str,
    /// The list that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The line of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<Located>,
    /// A list in shadow mode that would deny.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ban: Option<Banned>,
    /// Since when the lists in effect are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Interfaces on which the kernel says the same, by the same table.
    pub doors: Vec<String>,
    /// What listeners and routes say beside it.
    pub elsewhere: Vec<String>,
    pub generation: String,
}

#[derive(Debug, Serialize)]
pub struct Banned {
    pub seconds_left: u64,
    pub reason: String,
}

/// What the lists of `snapshot` say. `ban`: what is left of one, and why.
pub fn explain(snapshot: &Snapshot, address: IpAddr, ban: Option<(Duration, Box<str>)>) -> Answer {
    let lists: &Lists = &snapshot.lists;
    let verdict = lists.standing(address);
    let name = |rule: u16| lists.rule(rule).map(|rule| rule.list.clone());
    let ban = ban.filter(|_| verdict.action != Action::Manage);
    let listeners = snapshot.listeners.iter().filter(|listener| !listener.gate.admits(address));
    let listeners = listeners.map(|listener| format!("listener {} turns it away", listener.name));
    let routes = snapshot.routes.iter().filter(|(_, route)| !route.gate.admits(address));
    let routes = routes.map(|(_, route)| format!("route {} turns it away", route.name));
    Answer {
        address: address.to_canonical().to_string(),
        verdict: match (verdict.action, &ban) {
            (Action::Manage, _) => "manage",
            (_, Some(_)) => "banned",
            (Action::Deny, None) => "deny",
            (Action::Exempt, None) => "exempt",
            (Action::Pass, None) => "pass",
        },
        list: name(verdict.rule),
        line: lists.locate(verdict.rule, address),
        shadow: name(verdict.shadow),
        ban: ban.map(|(left, reason)| Banned { seconds_left: left.as_secs(), reason: reason.into() }),
        since: None,
        doors: Vec::new(),
        elsewhere: listeners.chain(routes).collect(),
        generation: lists.generation(),
    }
}

impl Answer {
    /// For a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut row = |what: &str, text: String| {
            // Writing to memory does not fail.
            let _ = writeln!(out, "{what:<10} {text}");
        };
        let meaning = match self.verdict {
            "manage" => "let in whatever else is said",
            "banned" | "deny" => "turned away",
            "exempt" => "let in, not limited, never banned by itself",
            _ => "let in: no list that holds everywhere says anything",
        };
        row("address", format!("{} is {meaning}", self.address));
        if let Some(ban) = &self.ban {
            row("ban", format!("for another {}: {}", Time(Duration::from_secs(ban.seconds_left)), ban.reason));
        }
        if let Some(list) = &self.list {
            let line = self.line.as_ref().map(|line| format!(", {} in {}", line.cidr, line.place)).unwrap_or_default();
            row("list", format!("{list}{line}"));
        }
        if let Some(shadow) = &self.shadow {
            row("shadow", format!("{shadow} would turn it away, were it enforced"));
        }
        for elsewhere in &self.elsewhere {
            row("beside", elsewhere.clone());
        }
        match &self.doors[..] {
            [] => row("kernel", "not asked: no XDP program is attached, as far as is known here".to_owned()),
            doors => row("kernel", format!("says the same on {}, by the same table", doors.join(", "))),
        }
        let since = self.since.as_ref().map(|since| format!(", in effect since {since}")).unwrap_or_default();
        row("lists", format!("{}{since}", self.generation));
        out
    }
}
