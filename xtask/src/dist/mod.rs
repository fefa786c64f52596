//! `cargo xtask dist [--test]`: what is handed out. A Debian package, a tarball of the same files, and their SHA-256.
//!
//! The program is built apart, in `dist` below the target folder: without line tables, but with the names of functions,
//! which backtraces and perf show. Paths of this machine are mapped away and times are those of the commit, so that the
//! same commit, toolchain and libc give the same bytes wherever they are built.

mod notices;
pub(crate) mod root;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{self, Purpose};
use crate::{process, workspace};

/// Files of the tarball besides the program and the notices: from where in the repository, to where in it.
const FILES: &[(&str, &str)] = &[
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("conf/package.toml", "etc/bawab/gateway.toml"),
    ("conf/bawab.service", "systemd/bawab.service"),
    ("conf/bawab.socket", "systemd/bawab.socket"),
    ("conf/bawab-door.conf", "systemd/bawab-door.conf"),
    ("conf/bawab.sysusers", "systemd/bawab.sysusers"),
    ("conf/bawab.logrotate", "etc/logrotate.d/bawab"),
    ("conf/gateway.toml", "examples/gateway.toml"),
    ("conf/minimal.toml", "examples/minimal.toml"),
    ("docs/configuration.md", "docs/configuration.md"),
    ("docs/observability.md", "docs/observability.md"),
    ("docs/operations.md", "docs/operations.md"),
];

pub(crate) fn run(words: &[String]) -> Result<bool> {
    let with_test = match words {
        [] => false,
        [word] if word == "--test" => true,
        _ => bail!("usage: cargo xtask dist [--test]"),
    };
    for line in setup::provide(&[Purpose::Package])? {
        println!("missing: {line}");
    }
    let folder = workspace::target()?.join("dist");
    let out = folder.join("out");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    let program = build(&folder)?;
    let package = debian_package(&program, &folder.join("stage"), &out)?;
    let tarball = tarball(&program, &folder.join("stage"), &out)?;
    let mut names = Vec::new();
    for file in package.iter().chain([&tarball]) {
        let name = file.file_name().context("what was made has a name")?.to_owned();
        println!("{:>8} KiB  {}", file.metadata()?.len() / 1024, file.display());
        names.push(name);
    }
    let sums = process::output(Command::new("sha256sum").args(&names).current_dir(&out))?;
    fs::write(out.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    match package {
        Some(package) if with_test => crate::test::package(&package),
        Some(_) => Ok(true),
        None => {
            println!("not made: the Debian package: cargo-deb is not here (`cargo xtask setup`)");
            Ok(!with_test)
        }
    }
}

/// The program as it is handed out.
fn build(folder: &Path) -> Result<PathBuf> {
    let mut flags = Vec::new();
    for (from, to) in [(workspace::root()?, "bawab"), (folder.to_owned(), "target")] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    for sources in notices::library_folders()? {
        flags.push(format!("--remap-path-prefix={}=crates", sources.display()));
    }
    let mut command = workspace::cargo()?;
    command.args(["build", "--release", "--locked", "--package", "bawab", "--bin", "bawab"]);
    command.env("CARGO_TARGET_DIR", folder).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "none");
    // mimalloc writes when it was compiled into itself. One time for all commits, because cargo keeps what it compiled.
    command.env("SOURCE_DATE_EPOCH", "0");
    process::run(&mut command)?;
    Ok(folder.join("release/bawab"))
}

/// A Debian package with this program, made in `out`. `stage` is a folder for nothing else. `None`: cargo-deb is not here.
pub(crate) fn debian_package(program: &Path, stage: &Path, out: &Path) -> Result<Option<PathBuf>> {
    let Some(cargo_deb) = setup::CARGO_DEB.find()? else {
        return Ok(None);
    };
    // cargo-deb takes files from where cargo puts a release build, whatever the program was built for.
    let release = stage.join("release");
    fs::create_dir_all(&release)?;
    fs::copy(program, release.join("bawab")).with_context(|| format!("copying {}", program.display()))?;
    fs::write(release.join("NOTICES"), notices::text()?)?;
    let made = stage.join("made");
    if made.exists() {
        fs::remove_dir_all(&made)?;
    }
    let mut command = Command::new(cargo_deb);
    // Quiet: its warnings are about what is done on purpose here; that the package is whole is what its test is for.
    command.args(["--quiet", "--package", "bawab", "--locked", "--no-build", "--no-strip", "--output"]).arg(&made);
    command.current_dir(workspace::root()?).env("CARGO_TARGET_DIR", stage).env("SOURCE_DATE_EPOCH", epoch());
    process::output(&mut command)?;
    let mut packages = fs::read_dir(&made)?.collect::<Result<Vec<_>, _>>()?;
    ensure!(packages.len() == 1, "cargo-deb made {} files", packages.len());
    let package = packages.remove(0);
    let place = out.join(package.file_name());
    fs::rename(package.path(), &place)?;
    Ok(Some(place))
}

/// A tarball for systems without dpkg.
fn tarball(program: &Path, stage: &Path, out: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("bawab-{version}-{}-linux", std::env::consts::ARCH);
    let folder = stage.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let root = workspace::root()?;
    let put = |from: &Path, to: &str| -> Result<()> {
        let to = folder.join(to);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        Ok(())
    };
    put(program, "bin/bawab")?;
    for (from, to) in FILES {
        put(&root.join(from), to)?;
    }
    fs::write(folder.join("NOTICES"), notices::text()?)?;
    let file = out.join(format!("{name}.tar.gz"));
    let mut command = Command::new("tar");
    // Owner, order, times and modes of this machine do not get in; gzip keeps no name and no time.
    command.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    command.args(["--mode=u=rwX,go=rX", "--use-compress-program=gzip --no-name -9"]);
    command.arg(format!("--mtime=@{}", epoch())).arg("--file").arg(&file).arg("--directory").arg(stage).arg(&name);
    process::run(&mut command)?;
    Ok(file)
}

/// Seconds since 1970 of the commit: the time of everything in a package. Outside a git checkout, 1970 itself.
fn epoch() -> String {
    let time = workspace::root()
        .and_then(|root| process::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root)));
    time.map_or_else(|_| "0".to_owned(), |text| text.trim().to_owned())
}
