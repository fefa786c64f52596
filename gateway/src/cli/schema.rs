//! `bawab schema`: the JSON Schema of the configuration, for editors and for whoever wants the reference.

use std::process::ExitCode;

use super::answer;
use crate::config;

pub(super) fn main() -> ExitCode {
    answer(&format!("{:#}\n", config::schema()))
}
