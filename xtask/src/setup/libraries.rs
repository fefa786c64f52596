//! The libraries that programs in `tests/programs` use, from PyPI and npm. They go below the target folder, in the versions that
//! are written down beside the programs, so that nothing of the user's own is touched and a new release cannot fail an old commit.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Purpose, tools};
use crate::{process, workspace};

/// The packages of one registry.
pub(super) struct Libraries {
    pub(super) purpose: Purpose,
    /// Their folder below that of the tools.
    folder: &'static str,
    /// What has to be there to fetch them.
    program: &'static str,
    /// Files in `tests/programs` that say which they are.
    lists: &'static [&'static str],
    install: fn(&Libraries) -> Result<()>,
    what_for: &'static str,
}

pub(super) const ALL: [Libraries; 2] = [
    Libraries {
        purpose: Purpose::Test,
        folder: "python",
        program: "python3",
        lists: &["requirements.txt"],
        install: Libraries::install_wheels,
        what_for: "gRPC, WebSocket and HTTP/2 as Python speaks them, and a scanner of TLS",
    },
    Libraries {
        purpose: Purpose::Test,
        folder: "node",
        program: "npm",
        lists: &["package.json", "package-lock.json"],
        install: Libraries::install_modules,
        what_for: "gRPC and WebSocket as JavaScript speaks them",
    },
];

impl Libraries {
    /// Those that are written down, and no others.
    pub(super) fn are_there(&self) -> Result<bool> {
        Ok(fs::read_to_string(self.mark()?).is_ok_and(|text| self.text().is_ok_and(|wanted| wanted == text)))
    }

    /// Fetches them. A machine without a network goes on with what it has.
    pub(super) fn fetch(&self) -> Result<()> {
        let folder = self.folder()?;
        println!("fetching {} into {}", self.lists[0], folder.display());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        match (self.install)(self) {
            Ok(()) => fs::write(self.mark()?, self.text()?)?,
            Err(error) => println!("they cannot be had: {error:#}"),
        }
        Ok(())
    }

    pub(super) fn shown(&self) -> String {
        format!("tests/programs/{} (by {}), for {:?}: {}", self.lists[0], self.program, self.purpose, self.what_for)
    }

    fn install_wheels(&self) -> Result<()> {
        let folder = self.folder()?;
        process::output(Command::new(self.program).args(["-m", "venv"]).arg(&folder))?;
        let mut command = Command::new(folder.join("bin/pip"));
        command.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        process::output(command.arg("--requirement").arg(self.list(self.lists[0])?)).map(drop)
    }

    fn install_modules(&self) -> Result<()> {
        let folder = self.folder()?;
        for name in self.lists {
            fs::copy(self.list(name)?, folder.join(name))?;
        }
        let mut command = Command::new(self.program);
        command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        process::output(command.current_dir(&folder)).map(drop)
    }

    /// Written when everything else is there.
    fn mark(&self) -> Result<PathBuf> {
        Ok(self.folder()?.join("fetched"))
    }

    fn folder(&self) -> Result<PathBuf> {
        Ok(tools()?.join(self.folder))
    }

    fn text(&self) -> Result<String> {
        self.lists.iter().map(|name| Ok(fs::read_to_string(self.list(name)?)?)).collect()
    }

    fn list(&self, name: &str) -> Result<PathBuf> {
        Ok(workspace::root()?.join("tests/programs").join(name))
    }
}
