//! What the gateway and its XDP program agree on: the compiled address table with its decoder, and the keys and values of
//! the maps. `no_std`, so that the program is built from the very same lines.
//!
//! [`table`] says how a generation of lists lies in memory and finds the verdict for an address in it; both sides run it.
//! [`compile`] (user space only) makes such a table from prefixes. [`door`] is everything else in the maps.
//!
//! Whoever changes a layout or a meaning here raises [`LAYOUT`]: pinned maps of another layout are never opened.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "std")]
extern crate std;

#[cfg(feature = "std")]
pub mod compile;
pub mod door;
mod hash;
pub mod table;
mod verdict;

#[cfg(feature = "std")]
pub use compile::{CompileError, Entry, Table};
pub use verdict::{Action, RULES_MAX, Verdict};

/// Names the layout of everything in this crate. It is part of the path of the pins and the first word of every table.
pub const LAYOUT: u32 = 1;
