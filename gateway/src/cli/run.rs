//! `bawab run FILE`: the gateway itself.

use std::path::Path;
use std::process::ExitCode;

use crate::config::model::{Config, Format, Level};
use crate::control::{self, Ended};
use crate::observe::events;

/// Exit codes: 0 every exchange came to its end; 1 it did not start, or was cut; 2 usage.
pub fn run(file: &Path) -> ExitCode {
    let config: Config = match std::fs::read_to_string(file)
        .map_err(|error| error.to_string())
        .and_then(|text| toml::from_str(&text).map_err(|error| error.to_string()))
    {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(1);
        }
    };
    start_events(&config);
    match control::run(config) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut | Ended::Failed) => ExitCode::from(1),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(1)
        }
    }
}

fn start_events(config: &Config) {
    let level = match config.log.level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        _ => tracing::Level::INFO,
    };
    let format = match config.log.format {
        Format::Text => events::Format::Text,
        Format::Json => events::Format::Json,
    };
    events::start(level, format);
}
