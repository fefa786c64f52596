//! Finds the `bawab` binary, and builds it when there is none or an older one than its sources; finds other programs.
//! `BAWAB_BIN` names another binary, which is then used as it is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The binary under test. Built at most once per process; panics with cargo's words when that fails.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("BAWAB_BIN") {
        Some(path) => PathBuf::from(path),
        None => built(),
    })
}

fn built() -> PathBuf {
    // The test executable is `<target>/<profile>/deps/e2e-<hash>`.
    let this = std::env::current_exe().expect("the test executable has a path");
    let profile_dir = this.ancestors().nth(2).expect("the test executable lives in <target>/<profile>/deps");
    let binary = profile_dir.join("bawab");
    // A test against yesterday's binary proves nothing, and `cargo test -p e2e` alone does not build the gateway.
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if modified(&binary).is_some_and(|built_at| built_at >= newest_source()) {
        return binary;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "bawab", "--bin", "bawab"]).current_dir(workspace());
    if profile_dir.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target_dir) = profile_dir.parent() {
        cargo.arg("--target-dir").arg(target_dir);
    }
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "cargo build -p bawab failed:\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(binary.is_file(), "cargo built no {}", binary.display());
    binary
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

fn newest_source() -> SystemTime {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut folders = vec![workspace().join("gateway")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
                newest = newest.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            }
        }
    }
    newest
}

/// The folder of one language's libraries, once they are all in it. When they are not, that is said as the reason why a test was
/// not run.
pub fn fetched(language: &str) -> Option<PathBuf> {
    // The test executable is `<target>/<profile>/deps/e2e-<hash>`.
    let this = std::env::current_exe().ok()?;
    let folder = this.ancestors().nth(3)?.join("tools").join(language);
    if !folder.join("fetched").exists() {
        eprintln!(
            "not run: the {language} libraries of tests/programs are not there (`cargo xtask setup` fetches them)"
        );
        return None;
    }
    Some(folder)
}

/// A program that came with the libraries of Python.
pub fn find_of_python(name: &str) -> Option<PathBuf> {
    let program = fetched("python")?.join("bin").join(name);
    program.is_file().then_some(program)
}

/// Where `name` is installed; also where daemons are, which PATH often leaves out. When it is not, that is said as
/// the reason why a test was not run.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("not run: {name} is not installed");
    }
    found
}
