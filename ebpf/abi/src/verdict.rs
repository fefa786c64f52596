//! What the lists say about an address.

/// Rule ids are 1 to `RULES_MAX - 1`; 0 is no rule. Twelve bits, because two ids and an action share 32.
pub const RULES_MAX: u16 = 4096;

/// What is done with an address. In rising order of precedence, and the number is the one in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Action {
    /// No list says anything.
    #[default]
    Pass = 0,
    /// Not limited, never banned by itself.
    Exempt = 1,
    /// Turned away.
    Deny = 2,
    /// Let in whatever else is said.
    Manage = 3,
}

/// The answer of a table for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    pub action: Action,
    /// The rule that decided; 0 when `action` is [`Action::Pass`].
    pub rule: u16,
    /// A deny rule in shadow mode that would have turned the address away, were it enforced; 0 when there is none.
    /// Only with [`Action::Pass`] and [`Action::Exempt`]: what is denied anyway or managed is not the shadow's doing.
    pub shadow: u16,
}

impl Verdict {
    pub const PASS: Self = Self { action: Action::Pass, rule: 0, shadow: 0 };

    /// Whether the address is turned away.
    #[inline(always)]
    pub const fn denies(self) -> bool {
        matches!(self.action, Action::Deny)
    }

    /// The form in a table: action in bits 0 and 1, rule from bit 2, shadow from bit 14.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.action as u64 | (self.rule as u64 & 0xfff) << 2 | (self.shadow as u64 & 0xfff) << 14
    }

    /// Any word is some verdict.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        let action = match word & 3 {
            0 => Action::Pass,
            1 => Action::Exempt,
            2 => Action::Deny,
            _ => Action::Manage,
        };
        Self { action, rule: (word >> 2) as u16 & 0xfff, shadow: (word >> 14) as u16 & 0xfff }
    }
}
