//! `bawab run FILE`: the gateway itself.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{check, show_problems};
use crate::control::{self, Ended};
use crate::observe::events;

/// Exchanges were cut at the end, or a worker died.
const EXIT_CUT: u8 = 3;

pub(super) fn main(path: &Path) -> ExitCode {
    // First of all: it closes whatever descriptors came along.
    let inheritance = match control::inherit() {
        Ok(inheritance) => inheritance,
        Err(error) => {
            // Whoever closed stderr does not want to know.
            let _ = writeln!(std::io::stderr(), "cannot take over from the process before this one: {error}");
            return ExitCode::FAILURE;
        }
    };
    let loaded = match check::check(path) {
        Ok(loaded) => loaded,
        Err(problems) => return show_problems(&problems),
    };
    events::start(loaded.config.log.level.into(), loaded.config.log.format.into());
    match control::run(path, loaded, inheritance) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut | Ended::Failed) => ExitCode::from(EXIT_CUT),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
