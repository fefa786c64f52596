//! `bawab check FILE`: the very loader of `run`, and nothing after it.

use std::path::Path;
use std::process::ExitCode;

use super::{answer, show, show_problems};
use crate::config::{self, Loaded};
use crate::problem::Problems;

/// Loads the configuration at `path`, or says everything that is wrong with it.
pub fn check(path: &Path) -> Result<Loaded, Problems> {
    config::load(path)
}

pub(super) fn main(path: &Path) -> ExitCode {
    match check(path) {
        Ok(loaded) => {
            let Loaded { config, files, .. } = &loaded;
            let warnings = loaded.warnings();
            warnings.iter().for_each(show);
            let count = |count: usize, thing: &str| format!("{count} {thing}{}", if count == 1 { "" } else { "s" });
            answer(&format!(
                "{}: no problems{} ({}, {}, {}, {})\n",
                path.display(),
                warnings.map_or(String::new(), |warnings| format!(", {}", count(warnings.count(), "warning"))),
                count(files.len(), "file"),
                count(config.listener.len(), "listener"),
                count(config.route.len(), "route"),
                count(config.upstream.len(), "upstream"),
            ))
        }
        Err(problems) => show_problems(&problems),
    }
}
