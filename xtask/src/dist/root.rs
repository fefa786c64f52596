//! A fresh Debian as a tarball: where the package's test installs into. Made once with debootstrap, from the mirror the
//! machine's own apt uses, for the release the machine runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// Packages beyond `minbase`: what a machine with systemd has, and the package depends on.
const PACKAGES: &str = "procps,systemd";

/// The tarball in `folder`, made when it is not there yet. `Err(reason)`: it cannot be had here.
pub(crate) fn tarball(folder: &Path) -> Result<Result<PathBuf, String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Err("only root can make and enter a fresh Debian".to_owned()));
    }
    let Some(release) = Release::here() else {
        return Ok(Err("this is not Debian or Ubuntu".to_owned()));
    };
    let file = folder.join(format!("root-{}-{}.tar.gz", release.codename, std::env::consts::ARCH));
    if file.exists() {
        return Ok(Ok(file));
    }
    if process::find("debootstrap").is_none() {
        return Ok(Err("debootstrap is not installed".to_owned()));
    }
    let Some(mirror) = release.mirror() else {
        return Ok(Err(format!("apt here knows no mirror of {}", release.codename)));
    };
    fs::create_dir_all(folder)?;
    let root = folder.join("root.new");
    remove(&root)?;
    println!("making a fresh {} {} with debootstrap", release.id, release.codename);
    // In a mount namespace of its own: what debootstrap mounts in there is gone with it, also when it is killed.
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--",
        "debootstrap",
        "--variant=minbase",
        "--include",
        PACKAGES,
    ]);
    if release.id == "ubuntu" {
        command.arg("--components=main,universe");
    }
    command.arg(&release.codename).arg(&root).arg(mirror);
    let made = process::output(&mut command);
    let packed = made.and_then(|_| pack(&root, &file));
    remove(&root)?;
    Ok(packed.map(|()| file).map_err(|error| format!("debootstrap makes no root here ({})", last_line(&error))))
}

struct Release {
    /// `debian` or `ubuntu`.
    id: String,
    codename: String,
}

impl Release {
    fn here() -> Option<Self> {
        let text = fs::read_to_string("/etc/os-release").ok()?;
        let value = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            Some(value.trim_matches('"').to_owned())
        };
        let id = value("ID").filter(|id| id == "debian" || id == "ubuntu")?;
        Some(Self { id, codename: value("VERSION_CODENAME")? })
    }

    /// The mirror from which apt takes this release's main part.
    fn mirror(&self) -> Option<String> {
        let format = "$(CREATED_BY) $(CODENAME) $(COMPONENT) $(REPO_URI)";
        let lines = process::output(Command::new("apt-get").args(["indextargets", "--format", format])).ok()?;
        let wanted = format!("Packages {} main ", self.codename);
        lines.lines().find_map(|line| line.strip_prefix(&wanted)).map(str::to_owned)
    }
}

fn pack(root: &Path, file: &Path) -> Result<()> {
    let part = file.with_extension("part");
    let mut command = Command::new("tar");
    // Packed quickly: it is unpacked on this machine only. The downloaded packages are in it once, installed.
    command.args(["--create", "--use-compress-program=gzip -1", "--one-file-system", "--numeric-owner"]);
    command.args(["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*"]);
    command.arg("--file").arg(&part).arg("--directory").arg(root).arg(".");
    process::run(&mut command)?;
    fs::rename(part, file).context("keeping the root's tarball")
}

/// Removes a root, but never what is mounted in it.
fn remove(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let inside = |line: &str| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(root));
    ensure!(!mounts.lines().any(inside), "something is mounted in {}: it is not removed", root.display());
    fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))
}

fn last_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().last().unwrap_or_default().to_owned()
}
