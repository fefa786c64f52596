//! `cargo xtask ebpf [--check]`: the XDP program, built for the kernel's virtual machine and put where it is committed.
//!
//! A plain `cargo build` takes the committed objects and needs none of the tools below. Two records lie beside them: what
//! they were built from, and by which tools. `--check` holds them against the sources, builds the program anew where the
//! tools are, runs the tests of the gateway's XDP module on what it built, and compares the bytes if the tools are the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::setup::{self, Purpose};
use crate::{process, workspace};

/// Debian's own compiler comes with a `core` for this target, so nothing has to be fetched from elsewhere.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const STRIP: &str = "/usr/lib/llvm-22/bin/llvm-strip";
const TARGET: &str = "bpfel-unknown-none";
/// The binaries of the `ebpf` package: the program, and what the bench holds it against.
const OBJECTS: [&str; 2] = ["door", "anchors"];
/// Functions that the verifier looks at once each; they have to keep their names.
const EXPORTS: [&str; 2] = ["lists6", "upper6"];
/// What the objects are made of, besides the tools.
const SOURCES: [&str; 5] = ["ebpf/src", "ebpf/abi/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "ebpf/abi/Cargo.toml"];
const PREBUILT: &str = "ebpf/prebuilt";
const RECORD: &str = "ebpf/prebuilt/RECORD";

pub(crate) fn run(words: &[String]) -> Result<bool> {
    match words {
        [] => rebuild(),
        [word] if word == "--check" => check(),
        _ => bail!("usage: cargo xtask ebpf [--check]"),
    }
}

/// Builds the objects and records how.
fn rebuild() -> Result<bool> {
    let missing = setup::provide(&[Purpose::Ebpf])?;
    ensure!(missing.is_empty(), "missing:\n  {}", missing.join("\n  "));
    let prebuilt = workspace::root()?.join(PREBUILT);
    fs::create_dir_all(&prebuilt)?;
    for object in build()? {
        let to = prebuilt.join(object.file_name().context("an object has a name")?);
        fs::copy(&object, &to)?;
        println!("{:>6} KiB  {}", to.metadata()?.len() / 1024, to.display());
    }
    fs::write(workspace::root()?.join(RECORD), record(&prebuilt)?)?;
    Ok(true)
}

fn check() -> Result<bool> {
    let root = workspace::root()?;
    let recorded = read_record(&fs::read_to_string(root.join(RECORD)).context("reading the record of the objects")?);
    let sources = sources()?;
    let mut held = true;
    let mut expect = |what: &str, found: &str| {
        if recorded.get(what).map(String::as_str) != Some(found) {
            println!("{RECORD}: {what} is {found} now; run `cargo xtask ebpf` and commit what it makes");
            held = false;
        }
    };
    expect("sources", &sources);
    for name in OBJECTS {
        let file = object_name(name);
        expect(&file, &sum(&root.join(PREBUILT).join(&file))?);
    }

    let missing = setup::provide(&[Purpose::Ebpf])?;
    if !missing.is_empty() {
        println!("not run: building the XDP program: {}", missing.join("; "));
        return Ok(held);
    }
    let objects = build()?;
    held &= test(&objects[0])?;
    let same_tools = tools()?.iter().all(|(tool, version)| recorded.get(tool) == Some(version));
    for object in &objects {
        let file = object.file_name().context("an object has a name")?.to_string_lossy().into_owned();
        let is_same = recorded.get(&file) == Some(&sum(object)?);
        match (is_same, same_tools) {
            (true, _) => println!("{file}: built anew, the same bytes"),
            (false, true) => {
                println!("{file}: the same tools make other bytes; run `cargo xtask ebpf` and commit what it makes");
                held = false;
            }
            (false, false) => println!("{file}: other tools ({:?}) make other bytes, which passed the tests", tools()?),
        }
    }
    Ok(held)
}

/// The tests of the gateway's XDP module, with this object instead of the embedded one.
fn test(object: &Path) -> Result<bool> {
    let mut command = workspace::cargo()?;
    command.args(["test", "--package", "bawab", "--lib", "--quiet", "control::xdp"]).env("BAWAB_XDP_OBJECT", object);
    Ok(process::status(&mut command)?.success())
}

/// The objects, below the target folder.
fn build() -> Result<Vec<PathBuf>> {
    let root = workspace::root()?;
    let folder = workspace::target()?.join("ebpf");
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    flags.extend(EXPORTS.iter().map(|name| format!("-Clink-arg=--export={name}")));
    // aya-ebpf's own build script would say so, did it know the flags above.
    flags.push("--cfg=bpf_target_arch=\"x86_64\"".to_owned());
    // Line numbers go into the object, for the verifier's log; paths of this machine must not.
    flags.push(format!("--remap-path-prefix={}=.", root.display()));
    for registry in registries()? {
        flags.push(format!("--remap-path-prefix={}=crates", registry.display()));
    }
    let mut command = Command::new(CARGO);
    command.args(["build", "--release", "--locked", "--quiet", "--target", TARGET]).current_dir(root.join("ebpf"));
    // Of ours only the place: the toolchain that runs this task is another one.
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    // The target is no stable one; the compiler is pinned by its package instead.
    command.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", &folder);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let linker = setup::BPF_LINKER.find()?.context("bpf-linker is not installed; `cargo xtask setup` installs it")?;
    let linker_folder = linker.parent().context("a program lies in a folder")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [linker_folder.to_owned()].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders)?);
    process::run(&mut command)?;
    let built = folder.join(TARGET).join("release");
    let out = folder.join("objects");
    fs::create_dir_all(&out)?;
    let strip = |name: &str| -> Result<PathBuf> {
        let object = out.join(object_name(name));
        // DWARF only: the kernel reads BTF, which stays.
        process::run(Command::new(STRIP).arg("--strip-debug").arg("-o").arg(&object).arg(built.join(name)))?;
        Ok(object)
    };
    OBJECTS.iter().map(|name| strip(name)).collect()
}

fn object_name(name: &str) -> String {
    format!("{name}.bpf.o")
}

/// Where cargo unpacks crates.
fn registries() -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let Some(sources) = home.map(|home| home.join("registry/src")).filter(|folder| folder.is_dir()) else {
        return Ok(Vec::new());
    };
    fs::read_dir(sources)?.map(|entry| Ok(entry?.path())).collect()
}

/// A line each: a name, a space, what it is.
fn record(prebuilt: &Path) -> Result<String> {
    let mut text = String::from(
        "# Written by `cargo xtask ebpf`: what the objects are, what they were built from, and by what.\n",
    );
    for name in OBJECTS {
        let file = object_name(name);
        writeln!(text, "{file} {}", sum(&prebuilt.join(&file))?)?;
    }
    writeln!(text, "sources {}", sources()?)?;
    for (tool, version) in tools()? {
        writeln!(text, "{tool} {version}")?;
    }
    Ok(text)
}

fn read_record(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, what)| (name.to_owned(), what.to_owned())).collect()
}

/// Names and versions of what makes the bytes.
fn tools() -> Result<BTreeMap<String, String>> {
    let version = |program: &Path| -> Result<String> {
        Ok(process::output(Command::new(program).arg("--version"))?.trim().replace('\n', " "))
    };
    let linker = setup::BPF_LINKER.find()?.context("bpf-linker is not installed")?;
    let strip = version(Path::new(STRIP))?;
    let llvm = strip.split_once("version ").map_or(strip.as_str(), |(_, version)| version);
    Ok(BTreeMap::from([
        ("rustc".to_owned(), version(Path::new(RUSTC))?),
        ("bpf-linker".to_owned(), version(&linker)?),
        ("llvm".to_owned(), llvm.split_whitespace().next().unwrap_or_default().to_owned()),
    ]))
}

/// Names and contents of all sources, in order.
fn sources() -> Result<String> {
    let root = workspace::root()?;
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(&root)?.to_string_lossy().into_owned();
        let content = fs::read(&file)?;
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    }
    Ok(hex(&hash.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    // The compiler of tables is user space's alone.
    if path.ends_with("abi/src/compile") {
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("reading {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

fn sum(file: &Path) -> Result<String> {
    Ok(hex(&Sha256::digest(fs::read(file).with_context(|| format!("reading {}", file.display()))?)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_objects_are_the_recorded_ones_and_of_these_sources() {
        let root = workspace::root().unwrap();
        let recorded = read_record(&fs::read_to_string(root.join(RECORD)).unwrap());
        assert_eq!(recorded["sources"], sources().unwrap(), "run `cargo xtask ebpf`");
        for name in OBJECTS {
            let file = object_name(name);
            assert_eq!(recorded[&file], sum(&root.join(PREBUILT).join(&file)).unwrap(), "{file}");
        }
    }
}
