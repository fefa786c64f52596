//! Which configuration runs, since when, and what became of the attempts to load another: for metrics and for the admin
//! listener. Written by the control side, once an attempt.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Another configuration runs now.
    Applied,
    /// It says what already runs.
    Unchanged,
    /// It has problems, or what it asks for cannot be had; the one before goes on.
    Failed,
}

impl Outcome {
    pub const ALL: [Outcome; 3] = [Outcome::Applied, Outcome::Unchanged, Outcome::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Failed => "failed",
        }
    }
}

/// The last attempt.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub at: SystemTime,
    pub outcome: Outcome,
    /// Why it failed, as `bawab check` says it; else empty.
    pub problems: String,
}

/// The configuration that runs.
#[derive(Debug, Clone)]
pub struct Current {
    /// Names what it says, secrets left out: 16 hexadecimal digits.
    pub hash: String,
    /// 1 for the one the process started with.
    pub generation: u64,
    pub loaded: SystemTime,
}

#[derive(Debug, Default)]
pub struct Reloads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    last: Option<Attempt>,
    counts: [u64; Outcome::ALL.len()],
}

impl Reloads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process has started with this one.
    pub fn started(&self, hash: &str, now: SystemTime) {
        self.lock().current = Some(Current { hash: hash.to_owned(), generation: 1, loaded: now });
    }

    /// Another one runs from now on.
    pub fn applied(&self, hash: &str, now: SystemTime) {
        let mut state = self.lock();
        let generation = state.current.as_ref().map_or(1, |current| current.generation + 1);
        state.current = Some(Current { hash: hash.to_owned(), generation, loaded: now });
        state.ended(Attempt { at: now, outcome: Outcome::Applied, problems: String::new() });
    }

    pub fn unchanged(&self, now: SystemTime) {
        self.lock().ended(Attempt { at: now, outcome: Outcome::Unchanged, problems: String::new() });
    }

    pub fn failed(&self, problems: &str, now: SystemTime) {
        self.lock().ended(Attempt { at: now, outcome: Outcome::Failed, problems: problems.to_owned() });
    }

    /// `None` before the start is over.
    pub fn current(&self) -> Option<Current> {
        self.lock().current.clone()
    }

    /// `None`: there was no attempt since the start.
    pub fn last(&self) -> Option<Attempt> {
        self.lock().last.clone()
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.lock().counts[outcome as usize]
    }
}

impl State {
    fn ended(&mut self, attempt: Attempt) {
        self.counts[attempt.outcome as usize] += 1;
        self.last = Some(attempt);
    }
}
