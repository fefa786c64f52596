//! From TOML text to a [`Config`](model::Config) that holds together, or every problem it has.

pub mod model;
pub mod template;
pub mod units;
pub mod words;
