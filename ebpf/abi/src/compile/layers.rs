//! Precedence: which of the entries that hold an address decide, and the classes that outcomes are numbered by.

use std::collections::HashMap;
use std::vec::Vec;

use super::{CompileError, Entry};
use crate::table::{CLASSES, CLASSES_MAX};
use crate::verdict::{Action, RULES_MAX, Verdict};

/// Entries of one layer overrule each other by length only; the layers by precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Layer {
    Shadow,
    Exempt,
    Deny,
    Manage,
}

impl Layer {
    pub(super) fn from_bits(bits: u64) -> Self {
        [Self::Shadow, Self::Exempt, Self::Deny, Self::Manage][bits as usize & 3]
    }
}

pub(super) fn layer_of(entry: &Entry, index: usize) -> Result<Layer, CompileError> {
    if entry.rule == 0 || entry.rule >= RULES_MAX {
        return Err(CompileError::Rule { entry: index, rule: entry.rule });
    }
    match (entry.action, entry.shadow) {
        (Action::Pass, _) => Err(CompileError::Pass { entry: index }),
        (Action::Deny, true) => Ok(Layer::Shadow),
        (action, true) => Err(CompileError::ShadowOf { entry: index, action }),
        (Action::Exempt, false) => Ok(Layer::Exempt),
        (Action::Deny, false) => Ok(Layer::Deny),
        (Action::Manage, false) => Ok(Layer::Manage),
    }
}

/// The rule that each layer has at some place; 0 where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Layers {
    rules: [u16; 4],
}

impl Layers {
    /// These layers within a more specific prefix.
    pub(super) fn with(mut self, layer: Layer, rule: u16) -> Self {
        self.rules[layer as usize] = rule;
        self
    }

    pub(super) fn verdict(self) -> Verdict {
        let [shadow, exempt, deny, manage] = self.rules;
        if manage != 0 {
            Verdict { action: Action::Manage, rule: manage, shadow: 0 }
        } else if deny != 0 {
            Verdict { action: Action::Deny, rule: deny, shadow: 0 }
        } else if exempt != 0 {
            Verdict { action: Action::Exempt, rule: exempt, shadow }
        } else {
            Verdict { action: Action::Pass, rule: 0, shadow }
        }
    }
}

/// Numbers for the verdicts that occur, from 1.
#[derive(Default)]
pub(super) struct Classes {
    verdicts: Vec<Verdict>,
    numbers: HashMap<u64, u8>,
    last: (u64, u8),
}

impl Classes {
    pub(super) fn number(&mut self, layers: Layers) -> Result<u8, CompileError> {
        let verdict = layers.verdict();
        let packed = verdict.pack();
        // Nearly every entry of a list has the outcome of the one before it.
        if self.last.0 == packed && self.last.1 != 0 {
            return Ok(self.last.1);
        }
        let class = match self.numbers.get(&packed) {
            Some(class) => *class,
            None if self.verdicts.len() == usize::from(CLASSES_MAX) => {
                return Err(CompileError::Classes { classes_max: CLASSES_MAX });
            }
            None => {
                self.verdicts.push(verdict);
                let class = self.verdicts.len() as u8;
                self.numbers.insert(packed, class);
                class
            }
        };
        self.last = (packed, class);
        Ok(class)
    }

    pub(super) fn write(&self, words: &mut [u64]) {
        for (index, verdict) in self.verdicts.iter().enumerate() {
            words[CLASSES as usize + 1 + index] = verdict.pack();
        }
    }
}
