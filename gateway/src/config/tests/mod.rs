//! Tests of the loader as a whole.

mod arbitrary;
mod golden;
mod reference;
