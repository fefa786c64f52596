//! Wire scripts: what a client sends, what the upstream must receive, what it answers, what the client must get.
//! The format is explained in `tests/wire/README.md`.
//!
//! [`text`] reads one line's text, [`script`] a whole file into blocks, [`expect`] compares what came with what a block
//! says, [`play()`] runs a file's cases against a gateway.

pub mod expect;
pub mod play;
pub mod script;
pub mod text;

pub use play::{Feed, Outcome, play};
pub use script::Script;
