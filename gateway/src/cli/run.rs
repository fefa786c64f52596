//! `bawab run FILE`: the gateway itself.

use std::path::Path;
use std::process::ExitCode;

use super::{check, show_problems};
use crate::config::model::{self, Config};
use crate::control::{self, Ended};
use crate::observe::events;

/// Exchanges were cut at the end, or a worker died.
const EXIT_CUT: u8 = 3;

pub(super) fn main(path: &Path) -> ExitCode {
    let loaded = match check::check(path) {
        Ok(loaded) => loaded,
        Err(problems) => return show_problems(&problems),
    };
    start_events(&loaded.config);
    match control::run(loaded.config) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut | Ended::Failed) => ExitCode::from(EXIT_CUT),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_events(config: &Config) {
    let level = match config.log.level {
        model::Level::Error => tracing::Level::ERROR,
        model::Level::Warn => tracing::Level::WARN,
        model::Level::Info => tracing::Level::INFO,
    };
    let format = match config.log.format {
        model::Format::Text => events::Format::Text,
        model::Format::Json => events::Format::Json,
    };
    // A second call in one process has no effect, and nothing to say.
    events::start(level, format);
}
