//! From prefixes to a [`Table`]: precedence, overlaps and defaults are resolved here, once, so that nobody interprets a
//! list while a packet or a request waits. User space only, pure: entries in, words or an error out.
//!
//! A million entries take a tenth of a second; memory is the table plus about 40 bytes per entry while it is made.

mod buckets;
mod cidr;
mod layers;
mod v4;
mod v6;

use std::fmt;
use std::net::IpAddr;
use std::vec::Vec;

pub use cidr::{Cidr, CidrError};
use layers::Classes;

use crate::hash::{mix, mix2};
use crate::table::{self, REGIONS, header};
use crate::verdict::{Action, RULES_MAX, Verdict};

/// Words of the largest table: 128 MiB. A million IPv4 addresses from anywhere take 34 MiB, a million IPv6 /64 18 MiB, a
/// million IPv4 prefixes of all lengths up to 60 MiB.
pub const TABLE_WORDS_MAX: u32 = 1 << 24;

/// Seeds tried before the buckets are said to be impossible. One is nearly always enough: they are half empty.
const SEEDS_MAX: u64 = 16;

/// A line of a list: what is said about a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub cidr: Cidr,
    /// Not [`Action::Pass`]: nothing has to be said then.
    pub action: Action,
    /// 1 to [`RULES_MAX`] - 1. Where one prefix stands in several lists of one action, the lowest rule has it.
    pub rule: u16,
    /// Count what would be denied, and deny nothing. Only with [`Action::Deny`].
    pub shadow: bool,
}

/// Why there is no table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompileError {
    /// The rule of an entry is 0 or too high.
    Rule { entry: usize, rule: u16 },
    /// An entry that says nothing.
    Pass { entry: usize },
    /// Only what denies can be tried out.
    ShadowOf { entry: usize, action: Action },
    /// Lists overlap in more ways than classes can name.
    Classes { classes_max: u8 },
    /// The table would be larger than [`TABLE_WORDS_MAX`].
    Size { bytes: u64, bytes_max: u64 },
    /// Our bug or a very unlucky machine.
    Seeds,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { entry, rule } => {
                write!(f, "entry {entry}: rule {rule} is not between 1 and {}", RULES_MAX - 1)
            }
            Self::Pass { entry } => write!(f, "entry {entry}: `pass` is what an address gets without an entry"),
            Self::ShadowOf { entry, action } => {
                write!(f, "entry {entry}: only `deny` can be in shadow mode, not {action:?}")
            }
            Self::Classes { classes_max } => {
                write!(f, "the lists overlap in more than {classes_max} different ways; merge some of them")
            }
            Self::Size { bytes, bytes_max } => write!(
                f,
                "the lists need {} MiB in compiled form, and {} MiB is the most; leave some out or merge neighbouring prefixes",
                bytes.div_ceil(1 << 20),
                bytes_max >> 20
            ),
            Self::Seeds => write!(f, "no seed spreads the addresses over the buckets"),
        }
    }
}

impl std::error::Error for CompileError {}

/// A compiled generation of lists. Immutable; as large as its content needs, from 12 KiB.
///
/// The kernel's copy is word for word this one ([`Table::words`]), and both are read by the same lookup.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    words: Vec<u64>,
}

impl Table {
    /// Precedence: manage over deny over exempt, and the most specific prefix within one action. Entries in shadow mode
    /// change nothing but [`Verdict::shadow`]. `::ffff:0:0/96` and longer is IPv4.
    ///
    /// `seed` makes the places of addresses in the table unpredictable; take it from the system's randomness. The verdicts
    /// do not depend on it.
    pub fn compile(entries: &[Entry], seed: u64) -> Result<Self, CompileError> {
        let count = entries.iter().filter(|entry| entry.cidr.addr().is_ipv4()).count();
        let mut v4 = Vec::with_capacity(count);
        let mut v6 = Vec::with_capacity(entries.len() - count);
        for (index, entry) in entries.iter().enumerate() {
            let layer = layers::layer_of(entry, index)?;
            match entry.cidr.addr() {
                IpAddr::V4(addr) => v4.push(v4::key(addr.to_bits(), entry.cidr.length(), entry.rule, layer)),
                IpAddr::V6(addr) => v6.push(v6::Key::new(addr.to_bits(), entry.cidr.length(), entry.rule, layer)),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();

        let mut generation = mix2(v4.len() as u64, v6.len() as u64);
        v4.iter().for_each(|key| generation = mix2(generation, *key));
        v6.iter().for_each(|key| generation = key.fold(generation));

        let mut classes = Classes::default();
        let v4 = v4::Plan::new(&v4, &mut classes)?;
        let v6 = v6::Plan::new(&v6, &mut classes)?;
        let words_max = u64::from(TABLE_WORDS_MAX);
        let used = u64::from(REGIONS) + v4.words() + v6.words();
        if used > words_max {
            return Err(CompileError::Size { bytes: used * 8, bytes_max: words_max * 8 });
        }

        for attempt in 0..SEEDS_MAX {
            let seed = mix(seed.wrapping_add(attempt));
            let mut words = std::vec![0; used as usize];
            words[header::MAGIC as usize] = table::MAGIC;
            words[header::GENERATION as usize] = generation;
            words[header::SEED as usize] = seed;
            words[header::USED as usize] = used;
            words[header::ENTRIES as usize] = entries.len() as u64;
            classes.write(&mut words);
            let v6_offset = REGIONS + v4.words() as u32;
            if v4.write(&mut words, REGIONS, seed) && v6.write(&mut words, v6_offset, seed) {
                return Ok(Self { words });
            }
        }
        Err(CompileError::Seeds)
    }

    /// The table of no lists.
    pub fn empty() -> Self {
        Self::compile(&[], 0).expect("nothing always fits")
    }

    /// An IPv4-mapped address, as a dual-stack socket shows it, is the IPv4 address.
    pub fn verdict(&self, addr: IpAddr) -> Verdict {
        match addr.to_canonical() {
            IpAddr::V4(addr) => table::verdict4(self.words.as_slice(), addr.to_bits()),
            IpAddr::V6(addr) => {
                let bits = addr.to_bits();
                table::verdict6(self.words.as_slice(), (bits >> 64) as u64, bits as u64)
            }
        }
    }

    /// What is copied into the kernel, header first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Equal for equal entries, in whatever order and whoever compiled them.
    pub fn generation(&self) -> u64 {
        self.words[header::GENERATION as usize]
    }

    /// How many entries went in, duplicates included.
    pub fn entries(&self) -> u64 {
        self.words[header::ENTRIES as usize]
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("generation", &format_args!("{:016x}", self.generation()))
            .field("entries", &self.entries())
            .field("bytes", &(self.words.len() * 8))
            .finish()
    }
}

/// Rounds up to whole lines, so that each region starts on one.
fn lines(words: u64) -> u64 {
    words.next_multiple_of(u64::from(table::LINE_WORDS))
}

/// Two numbers as a word of the header.
fn halves(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
