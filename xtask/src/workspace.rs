//! Where things are: the repository, cargo's target folder, and what cargo was told to be called.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The top folder of the repository. Cargo names it when a task is run as `cargo xtask`.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("run tasks as `cargo xtask NAME`")?;
    let root = Path::new(&manifest).parent().context("the xtask package has no parent folder")?;
    Ok(root.to_owned())
}

/// The folder cargo builds into, wherever the user moved it.
pub(crate) fn target() -> Result<PathBuf> {
    let mut command = cargo()?;
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = crate::process::output(&mut command)?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("reading `cargo metadata`")?;
    let target = metadata["target_directory"].as_str().context("`cargo metadata` names no target folder")?;
    Ok(PathBuf::from(target))
}

/// The cargo that runs us, in the top folder.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    // What `cargo run` sets for us is about this package; a build below must not see it.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    Ok(command)
}
