//! Plays the cases of a script against a gateway, in one thread and strictly in the order of their lines.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::expect::meet;
use super::script::{Actor, Block, Case, Expected, Script, Sending, Step};
use super::text::Pattern;
use crate::access_log::AccessLog;
use crate::config;
use crate::gateway::Gateway;
use crate::origin::{Origin, Refusing, Silent, readable};
use crate::patience;
use crate::peer::{Peer, shown};

/// How bytes are written, the client's and the upstream's alike. The outcome must not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feed {
    /// As the script has it.
    Whole,
    /// Each write in two.
    Halves,
    /// Byte by byte; the middle of a long write in larger pieces.
    Bytes,
}

impl Feed {
    pub const ALL: [Self; 3] = [Self::Whole, Self::Halves, Self::Bytes];
}

/// What became of one case.
pub struct Outcome {
    pub script: String,
    pub case: String,
    pub feed: Feed,
    pub result: Result<()>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (fed {:?}): ", self.script, self.case, self.feed)?;
        match &self.result {
            Ok(()) => f.write_str("ok"),
            Err(error) => write!(f, "{error:#}"),
        }
    }
}

/// Plays all cases that may be fed this way. Cases share a gateway as long as none of them disturbs the next.
pub fn play(script: &Script, feed: Feed) -> Vec<Outcome> {
    let mut stage: Option<Stage> = None;
    let mut outcomes = Vec::new();
    for case in &script.cases {
        if feed != Feed::Whole && (script.feeds_whole_only || case.feeds_whole_only) {
            continue;
        }
        if case.disturbs() {
            stage = None;
        }
        let result = match &mut stage {
            Some(stage) => Ok(stage),
            None => Stage::set(script, case).map(|new| stage.insert(new)),
        };
        let result = result.and_then(|stage| stage.play(case, feed));
        if case.disturbs() || result.is_err() {
            stage = None;
        }
        outcomes.push(Outcome { script: script.name.clone(), case: case.name.clone(), feed, result });
    }
    outcomes
}

impl Case {
    /// Whether it needs a gateway nobody used before, and leaves one that nobody should use after.
    fn disturbs(&self) -> bool {
        self.config.is_some()
            || self.blocks.iter().any(|block| match (&block.actor, &block.step) {
                (Actor::Log, _) => true,
                // A pooled connection that the upstream closed is noticed in its own time.
                (Actor::Upstream(_), Step::Send(sendings)) => {
                    sendings.iter().any(|sending| !matches!(sending, Sending::Write(_)))
                }
                _ => false,
            })
    }
}

/// A gateway, the upstreams it was told of, and the connections between them.
struct Stage {
    gateway: Gateway,
    log: AccessLog,
    upstreams: BTreeMap<u8, Upstream>,
    _refusing: Refusing,
    _silent: Option<Silent>,
    _dir: TempDir,
}

/// Byte by byte, and on a machine that is slow besides, a client of ours is slower than the defaults allow.
const UNHURRIED: &str = "[limits]\nrate_min = \"0B\"\n[timeouts]\nhead = \"120s\"\n";

/// Upstreams `{upstream}`, `{upstream2}`, `{upstream3}`; number 9 is `{upstream.unix}`.
const UPSTREAMS: [u8; 3] = [1, 2, 3];
const UNIX: u8 = 9;

struct Upstream {
    origin: Origin,
    /// By the order they were accepted in; they outlive a case, as the gateway keeps them for reuse.
    connections: BTreeMap<usize, Peer>,
    accepted: usize,
    current: Option<usize>,
    /// Those this case used, in the order of first use.
    used: Vec<usize>,
}

impl Stage {
    fn set(script: &Script, case: &Case) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut upstreams = BTreeMap::new();
        for number in UPSTREAMS {
            upstreams.insert(number, Upstream::new(Origin::tcp()?));
        }
        upstreams.insert(UNIX, Upstream::new(Origin::unix(dir.path())?));
        let refusing = Refusing::new()?;
        let config = config::layered(&[UNHURRIED, &script.config, case.config.as_deref().unwrap_or_default()])?;
        let silent = config.contains("{silent}").then(Silent::new).transpose()?;
        let address = |number: u8| upstreams[&number].origin.address().to_owned();
        let addresses = [
            ("upstream", address(1)),
            ("upstream2", address(2)),
            ("upstream3", address(3)),
            ("upstream.unix", address(UNIX)),
            ("refusing", refusing.address().to_owned()),
            ("silent", silent.as_ref().map(|silent| silent.address().to_owned()).unwrap_or_default()),
        ];
        let values: Vec<_> = addresses.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let gateway = Gateway::start_with(&config, &values)?;
        let log = gateway.access_log()?;
        Ok(Self { gateway, log, upstreams, _refusing: refusing, _silent: silent, _dir: dir })
    }

    fn play(&mut self, case: &Case, feed: Feed) -> Result<()> {
        let mut clients = BTreeMap::new();
        let mut writers = Vec::new();
        for upstream in self.upstreams.values_mut() {
            upstream.begin()?;
        }
        let played = case.blocks.iter().try_for_each(|block| {
            self.step(block, feed, &mut clients, &mut writers).with_context(|| format!("line {}", block.line))
        });
        let played = played.and_then(|()| self.nothing_left(&mut clients));
        // What is still being written would wait for ever for a reader; closing the connections ends it.
        drop(clients);
        if played.is_err() {
            self.upstreams.values_mut().for_each(|upstream| upstream.connections.clear());
        }
        for writer in writers {
            let _ = writer.join();
        }
        played.map_err(|error| {
            let alive = if self.gateway.alive() { "" } else { " and is dead" };
            anyhow::anyhow!(
                "{error:#}\n  the gateway said{alive}: {}",
                self.gateway.said().lines().skip(2).collect::<Vec<_>>().join("\n    ")
            )
        })
    }

    fn step(
        &mut self,
        block: &Block,
        feed: Feed,
        clients: &mut BTreeMap<u8, Option<Peer>>,
        writers: &mut Vec<JoinHandle<()>>,
    ) -> Result<()> {
        match (block.actor, &block.step) {
            (Actor::Log, Step::Log(patterns)) => compare_log(patterns, &self.log.next_line()?),
            (Actor::Client(number), Step::Send(sendings)) => {
                let slot = match clients.entry(number) {
                    std::collections::btree_map::Entry::Occupied(slot) => slot.into_mut(),
                    std::collections::btree_map::Entry::Vacant(slot) => slot.insert(Some(self.gateway.client()?)),
                };
                sendings.iter().try_for_each(|sending| send(slot, sending, feed, writers))
            }
            (Actor::Client(number), Step::Expect(items)) => {
                let client =
                    clients.get_mut(&number).and_then(Option::as_mut).context("this client has no connection")?;
                meet_all(items, client)
            }
            (Actor::Upstream(number), step) => {
                let upstream = self.upstreams.get_mut(&number).context("no such upstream")?;
                match step {
                    Step::Send(sendings) => {
                        let current = upstream.current.context("nothing came to this upstream yet")?;
                        let mut slot = upstream.connections.remove(&current);
                        let sent = sendings.iter().try_for_each(|sending| send(&mut slot, sending, feed, writers));
                        if let Some(peer) = slot {
                            upstream.connections.insert(current, peer);
                        }
                        sent
                    }
                    Step::Expect(items) => upstream.expect(items),
                    Step::Log(_) => bail!("the log is no upstream"),
                }
            }
            (_, Step::Log(_)) | (Actor::Log, _) => bail!("only the log is read as a log"),
        }
    }

    /// Whatever came and no line of the case spoke of.
    fn nothing_left(&mut self, clients: &mut BTreeMap<u8, Option<Peer>>) -> Result<()> {
        for (number, client) in clients {
            if let Some(client) = client {
                let left = client.pending()?;
                ensure!(left.is_empty(), "client {number} got more than the case says\n  + {}", shown(left));
            }
        }
        for (number, upstream) in &mut self.upstreams {
            upstream.accept_now()?;
            for peer in upstream.connections.values_mut() {
                let left = peer.pending()?;
                ensure!(left.is_empty(), "upstream {number} got more than the case says\n  + {}", shown(left));
            }
        }
        Ok(())
    }
}

impl Upstream {
    fn new(origin: Origin) -> Self {
        Self { origin, connections: BTreeMap::new(), accepted: 0, current: None, used: Vec::new() }
    }

    /// Forgets connections that the gateway ended, and which were used.
    fn begin(&mut self) -> Result<()> {
        for peer in self.connections.values_mut() {
            peer.pending()?;
        }
        self.connections.retain(|_, peer| peer.ended().is_none());
        self.used.clear();
        self.current = None;
        Ok(())
    }

    fn accept_now(&mut self) -> Result<()> {
        while let Some(peer) = self.origin.accept_now()? {
            self.accepted += 1;
            self.connections.insert(self.accepted, peer);
        }
        Ok(())
    }

    fn expect(&mut self, items: &[Expected]) -> Result<()> {
        if let [everywhere @ (Expected::Nothing | Expected::Incomplete)] = items {
            self.accept_now()?;
            return self.connections.values_mut().try_for_each(|peer| meet(everywhere, true, peer));
        }
        let last = self.current;
        if let Some(Expected::Connection(number)) = items.first() {
            let used = self.used.get(number - 1);
            self.current = Some(*used.with_context(|| format!("only {} connections were used", self.used.len()))?);
        } else if last.is_none() || items.iter().any(|item| matches!(item, Expected::Head(_))) {
            let current = self.with_bytes()?;
            if !self.used.contains(&current) {
                self.used.push(current);
            }
            self.current = Some(current);
            match items.first() {
                Some(Expected::SameConnection) => {
                    ensure!(last == self.current, "the request came on another connection")
                }
                Some(Expected::NewConnection) => {
                    ensure!(last != self.current, "the request came on the same connection")
                }
                _ => {}
            }
        }
        let peer = self.current.and_then(|current| self.connections.get_mut(&current));
        meet_all(items, peer.context("the script closed this connection")?)
    }

    /// The connection that has something to read, the current one first; waits for one.
    fn with_bytes(&mut self) -> Result<usize> {
        let deadline = Instant::now() + patience();
        loop {
            self.accept_now()?;
            let order = self.current.into_iter().chain(self.connections.keys().copied()).collect::<Vec<_>>();
            for number in order {
                if let Some(peer) = self.connections.get_mut(&number)
                    && !peer.pending()?.is_empty()
                {
                    return Ok(number);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no request came to the upstream");
            let open = self.connections.values().filter(|peer| peer.ended().is_none());
            let sockets: Vec<_> = open.map(Peer::socket).chain([self.origin.socket()]).collect();
            readable(&sockets, left.min(Duration::from_secs(1)))?;
        }
    }
}

fn meet_all(items: &[Expected], peer: &mut Peer) -> Result<()> {
    for (at, item) in items.iter().enumerate() {
        let last = matches!(items.get(at + 1), Some(Expected::Eof | Expected::Cut));
        meet(item, last, peer)?;
    }
    Ok(())
}

/// More than the kernel surely takes at once: written by a thread, while the script goes on and reads.
const WRITE_AT_ONCE_MAX: usize = 16 * 1024;

fn send(slot: &mut Option<Peer>, sending: &Sending, feed: Feed, writers: &mut Vec<JoinHandle<()>>) -> Result<()> {
    let peer = slot.as_mut().context("this connection was closed by the script")?;
    match sending {
        Sending::Write(bytes) if bytes.len() > WRITE_AT_ONCE_MAX => {
            let (mut writer, bytes) = (peer.writer()?, bytes.clone());
            writers.push(std::thread::spawn(move || {
                let _ = writer.send(bytes);
            }));
        }
        Sending::Write(bytes) => {
            // The other side may have refused and closed before it saw all; what it then says is for the script to tell.
            let _ = feed_in(peer, bytes, feed);
        }
        Sending::Connect => {}
        Sending::Fin => peer.fin()?,
        Sending::Close => *slot = None,
        Sending::Reset => slot.take().map_or(Ok(()), Peer::reset)?,
    }
    Ok(())
}

/// A write longer than this has only its ends fed byte by byte.
const BYTE_BY_BYTE_MAX: usize = 2048;

fn feed_in(peer: &mut Peer, bytes: &[u8], feed: Feed) -> Result<()> {
    match feed {
        Feed::Whole => peer.send(bytes),
        Feed::Halves => peer.send_in_pieces(bytes, bytes.len().div_ceil(2)),
        Feed::Bytes if bytes.len() <= BYTE_BY_BYTE_MAX => peer.send_in_pieces(bytes, 1),
        Feed::Bytes => {
            let (first, rest) = bytes.split_at(BYTE_BY_BYTE_MAX / 4);
            let (middle, last) = rest.split_at(rest.len() - BYTE_BY_BYTE_MAX / 4);
            peer.send_in_pieces(first, 1)?;
            peer.send_in_pieces(middle, 1000)?;
            peer.send_in_pieces(last, 1)
        }
    }
}

fn compare_log(patterns: &[(String, Option<Pattern>)], line: &Value) -> Result<()> {
    for (name, pattern) in patterns {
        let value = line.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        match (pattern, value) {
            (Some(pattern), Some(value)) => {
                ensure!(pattern.matches(&value), "log: {name} is `{value}`, not `{pattern}`\n  + {line}")
            }
            (Some(pattern), None) => bail!("log: no {name}, should be `{pattern}`\n  + {line}"),
            (None, Some(value)) => bail!("log: {name} is `{value}`, should be absent\n  + {line}"),
            (None, None) => {}
        }
    }
    Ok(())
}
