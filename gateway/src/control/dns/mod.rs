//! Names of upstreams, looked up again and again on the control thread, each once however many upstreams use it.
//!
//! [`name`] says when and what a failure means, [`lookup`] what is asked and what comes of it, [`client`] how. Here is the loop
//! around them: what is due is asked for, what comes back is taken in. Nothing here publishes anything; see
//! [`endpoints`](super::endpoints).

mod client;
mod lookup;
mod name;
mod srv;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use self::client::Client;
pub(super) use self::name::Found;
use self::name::{Change, Name, Rules, Said};
use crate::config::model::{self, RecordKind};
use crate::observe::names::{NameShown, Names, Outcome, Tally};

/// Look-ups whose outcome waits for the control loop; further ones wait before they end.
const ANSWERED_MAX: usize = 64;

/// What is looked up: the same for all that mean the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Question {
    /// In lower case.
    pub(super) name: String,
    pub(super) kind: RecordKind,
}

/// All names, and what looks them up.
pub(super) struct Dns {
    settings: model::Dns,
    rules: Rules,
    client: Arc<Client>,
    names: BTreeMap<Question, Tracked>,
    tell: mpsc::Sender<Answered>,
    told: mpsc::Receiver<Answered>,
    shown: Arc<Names>,
    /// It is the one that runs, and not one that is about to.
    is_shown: bool,
}

struct Tracked {
    name: Name,
    tally: Arc<Tally>,
    asking: Option<Asking>,
}

/// Ends with what it is for.
struct Asking(AbortHandle);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Answered {
    question: Question,
    said: Said,
    at: Instant,
}

/// What there is to act on.
pub(super) enum Seen {
    Answered(Box<Answer>),
    /// A name is to be looked up, or its answer is too old.
    Due,
}

/// That a look-up has ended.
pub(super) struct Answer(Answered);

/// A name that leads elsewhere now, and why.
pub(super) struct Moved {
    pub(super) question: Question,
    pub(super) why: String,
    /// It leads nowhere.
    pub(super) is_gone: bool,
}

/// What is known of names, for a configuration that is about to take the place of this one.
#[derive(Clone, Default)]
pub(super) struct Known(BTreeMap<Question, Name>);

/// An address of a name, for another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handed {
    question: Question,
    found: Found,
    age_ms: u64,
}

impl Known {
    /// As another process knew it.
    pub(super) fn taken_on(handed: Vec<Handed>, now: Instant) -> Known {
        let mut names: BTreeMap<Question, (Vec<Found>, u64)> = BTreeMap::new();
        for Handed { question, found, age_ms } in handed {
            let (list, age) = names.entry(question).or_default();
            list.push(found);
            *age = age_ms;
        }
        let name = |(question, (found, age_ms))| (question, Name::taken_on(found, Duration::from_millis(age_ms), now));
        Known(names.into_iter().map(name).collect())
    }
}

impl Dns {
    /// Looks `questions` up by `settings`, beginning with what is `known`.
    pub(super) fn new(settings: &model::Dns, questions: BTreeSet<Question>, known: &Known, shown: &Arc<Names>) -> Dns {
        let (tell, told) = mpsc::channel(ANSWERED_MAX);
        let now = Instant::now();
        let tracked = |question: Question| {
            let name = known.0.get(&question).cloned().unwrap_or_else(|| Name::new(now));
            let tally = shown.tally(&question.name, question.kind);
            (question, Tracked { name, tally, asking: None })
        };
        Dns {
            settings: settings.clone(),
            rules: Rules::of(settings),
            client: Arc::new(Client::new(settings)),
            names: questions.into_iter().map(tracked).collect(),
            tell,
            told,
            shown: shown.clone(),
            is_shown: false,
        }
    }

    /// What is known of every name.
    pub(super) fn known(&self) -> Known {
        Known(self.names.iter().map(|(question, tracked)| (question.clone(), tracked.name.clone())).collect())
    }

    /// The same, for another process.
    pub(super) fn hand_over(&self, now: Instant) -> Vec<Handed> {
        let handed = self.names.iter().flat_map(|(question, tracked)| {
            let age = tracked.name.good_at().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            let handed = move |found: &Found| Handed {
                question: question.clone(),
                found: found.clone(),
                age_ms: age.as_millis() as u64,
            };
            tracked.name.found().iter().map(handed)
        });
        handed.collect()
    }

    /// Goes on where `before` has got meanwhile, and asks by the same client if it would ask the same servers; other servers are asked
    /// at once. Which names that changes.
    pub(super) fn catch_up(&mut self, before: &Dns) -> BTreeSet<Question> {
        let now = Instant::now();
        let is_elsewhere = self.settings.resolvers != before.settings.resolvers;
        if self.settings == before.settings {
            self.client = before.client.clone();
        }
        let mut changed = BTreeSet::new();
        for (question, tracked) in &mut self.names {
            let Some(other) = before.names.get(question) else { continue };
            let is_behind = other.name.version() > tracked.name.version();
            let is_better = tracked.name.found().is_empty() || !other.name.found().is_empty();
            if is_behind && is_better {
                if other.name.found() != tracked.name.found() {
                    changed.insert(question.clone());
                }
                tracked.name = other.name.clone();
                tracked.asking = None;
            }
            tracked.name.adopt(&self.rules, now, is_elsewhere);
        }
        changed
    }

    /// Where `question` leads, as far as is known.
    pub(super) fn found(&self, question: &Question) -> &[Found] {
        self.names.get(question).map_or(&[], |tracked| tracked.name.found())
    }

    /// Whether there is a name of which no look-up has ended.
    pub(super) fn has_unasked(&self) -> bool {
        self.names.values().any(|tracked| tracked.name.version() == 0)
    }

    /// The next thing to act on. May be dropped at any time and loses nothing.
    pub(super) async fn next(&mut self) -> Seen {
        let due = self.names.values().filter(|tracked| tracked.asking.is_none()).map(|tracked| tracked.name.due());
        let expires = self.names.values().filter_map(|tracked| tracked.name.expires(&self.rules));
        let at = due.chain(expires).min();
        let due = async {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(answered) = self.told.recv() => Seen::Answered(Box::new(Answer(answered))),
            () = due => Seen::Due,
        }
    }

    /// Acts on it. Which names lead elsewhere now. Must be called within a `LocalSet`.
    pub(super) fn take(&mut self, seen: Seen) -> Vec<Moved> {
        match seen {
            Seen::Answered(answer) => self.answered(answer.0).into_iter().collect(),
            Seen::Due => self.due(Instant::now()),
        }
    }

    fn due(&mut self, now: Instant) -> Vec<Moved> {
        let mut moved = Vec::new();
        for (question, tracked) in &mut self.names {
            if let Change::Gone(why) = tracked.name.expire(&self.rules, now) {
                moved.push(Moved { question: question.clone(), why, is_gone: true });
            }
            if tracked.asking.is_some() || tracked.name.due() > now {
                continue;
            }
            let (client, tell, asked) = (self.client.clone(), self.tell.clone(), question.clone());
            let before = tracked.name.found().clone();
            let asking = tokio::task::spawn_local(async move {
                let said = lookup::look_up(client, asked.clone(), before).await;
                // Nobody listens any more when the process is ending.
                let _ = tell.send(Answered { question: asked, said, at: Instant::now() }).await;
            });
            tracked.asking = Some(Asking(asking.abort_handle()));
        }
        for Moved { question, .. } in &moved {
            self.show(question);
        }
        moved
    }

    fn answered(&mut self, Answered { question, said, at }: Answered) -> Option<Moved> {
        let tracked = self.names.get_mut(&question)?;
        tracked.asking = None;
        tracked.tally.count(match &said {
            Said::Answer { .. } => Outcome::Answered,
            Said::Denied { .. } => Outcome::Denied,
            Said::Failed { .. } => Outcome::Failed,
        });
        // Without random bytes look-ups go in step, which is no reason to make none.
        let lot = getrandom::u32().unwrap_or(u32::MAX / 2);
        let change = tracked.name.take(said, &self.rules, at, lot);
        let (name, kind, kept) = (&question.name, question.kind.name(), tracked.name.found().len());
        let why = match change {
            Change::None => None,
            Change::Again => {
                tracing::info!(name, kind, addresses = kept, "a name can be resolved again");
                None
            }
            Change::Failing => {
                let error = tracked.name.why().unwrap_or_default();
                match kept {
                    0 => tracing::error!(name, kind, error, kept, "a name cannot be resolved"),
                    _ => tracing::warn!(name, kind, error, kept, "a name cannot be resolved"),
                }
                None
            }
            Change::Elsewhere => Some("the answer of DNS has changed".to_owned()),
            Change::Gone(why) => Some(why),
        };
        self.show(&question);
        why.map(|why| Moved { question, why, is_gone: kept == 0 })
    }

    /// Lets metrics and the admin listener see how things are, from now on.
    pub(super) fn show_all(&mut self) {
        self.is_shown = true;
        self.shown.set(self.names.iter().map(|(question, tracked)| tracked.shown(question)).collect());
    }

    fn show(&self, question: &Question) {
        if let Some(tracked) = self.names.get(question).filter(|_| self.is_shown) {
            self.shown.put(tracked.shown(question));
        }
    }
}

impl Tracked {
    fn shown(&self, question: &Question) -> NameShown {
        NameShown {
            name: question.name.clone(),
            kind: question.kind,
            addresses: self.name.found().len(),
            good_at: self.name.good_at(),
            why: self.name.why().map(str::to_owned),
            tally: self.tally.clone(),
        }
    }
}

#[cfg(test)]
impl Handed {
    /// One that takes as much room as any.
    pub(super) fn longest(number: u8) -> Handed {
        let host = format!("{number:03}{}", "n".repeat(250));
        let found = Found {
            priority: 255,
            target: Some(host.as_str().into()),
            address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().expect("an address"),
            port: Some(65535),
            weight: u32::MAX,
        };
        Handed { question: Question { name: host, kind: RecordKind::Aaaa }, found, age_ms: u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_known_there() {
        let now = Instant::now();
        let handed = |name: &str, last: u8| Handed {
            question: Question { name: name.to_owned(), kind: RecordKind::A },
            found: Found::plain([10, 0, 0, last].into()),
            age_ms: 0,
        };
        let all = vec![handed("a", 1), handed("a", 2), handed("b", 3)];
        let known = Known::taken_on(all.clone(), now);
        let questions = known.0.keys().cloned().collect();
        let dns = Dns::new(&model::Dns::default(), questions, &known, &Arc::default());
        assert!(!dns.has_unasked(), "nobody need wait for them");
        assert_eq!(dns.hand_over(now), all);
    }
}
