//! `cargo xtask setup [--check]`: what tests, benches and checks need besides rustup and a C compiler.
//!
//! As root on Debian or Ubuntu missing packages are installed, without starting or enabling any service. Elsewhere it
//! says what to install. Cargo's tools and the libraries of registries go below the target folder: nothing of the user's own is touched.

mod libraries;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{process, workspace};

/// What something is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Test,
    Bench,
    /// The checks of `cargo xtask ci` besides the tests.
    Check,
    /// The Debian package and its test.
    Package,
    /// The XDP program.
    Ebpf,
}

impl Purpose {
    const ALL: [Self; 5] = [Self::Test, Self::Bench, Self::Check, Self::Package, Self::Ebpf];
}

/// A program of the system.
struct Need {
    purpose: Purpose,
    /// What to look for.
    sign: Sign,
    /// Its package in Debian and Ubuntu.
    package: &'static str,
    what_for: &'static str,
}

enum Sign {
    Program(&'static str),
    /// `python3` has these modules.
    Python(&'static str),
    /// This exists: what a program of the same name elsewhere in `PATH` would not do for.
    Path(&'static str),
}

const NEEDS: &[Need] = &[
    need(Purpose::Test, Sign::Program("nginx"), "nginx-light", "a service behind the gateway"),
    need(Purpose::Test, Sign::Program("python3"), "python3", "another one, of its standard library"),
    need(Purpose::Test, Sign::Program("curl"), "curl", "a client"),
    need(Purpose::Test, Sign::Program("nghttp"), "nghttp2-client", "a client that speaks HTTP/2"),
    need(Purpose::Test, Sign::Program("varnishtest"), "varnish", "the same, frame by frame"),
    need(Purpose::Test, Sign::Python("venv, ensurepip"), "python3-venv", "libraries and tools of Python"),
    need(Purpose::Test, Sign::Program("node"), "nodejs", "libraries of another language"),
    need(Purpose::Test, Sign::Program("npm"), "npm", "fetches them"),
    need(Purpose::Test, Sign::Program("logrotate"), "logrotate", "rotates the access log as the package has it"),
    need(Purpose::Bench, Sign::Program("wrk"), "wrk", "the load"),
    need(Purpose::Bench, Sign::Program("nginx"), "nginx-light", "a peer, and the service behind all peers"),
    need(Purpose::Bench, Sign::Program("haproxy"), "haproxy", "a peer"),
    need(Purpose::Bench, Sign::Program("h2load"), "nghttp2-client", "the load at a given rate"),
    need(Purpose::Bench, Sign::Python("venv, ensurepip"), "python3-venv", "Envoy and Traefik come as Python wheels"),
    need(Purpose::Bench, Sign::Program("ip"), "iproute2", "network namespaces to flood"),
    need(Purpose::Bench, Sign::Program("nft"), "nftables", "what the XDP program is held against in a flood"),
    need(Purpose::Bench, Sign::Program("ethtool"), "ethtool", "has a veth pair receive as a network card does"),
    need(Purpose::Check, Sign::Program("valgrind"), "valgrind", "counts the instructions of an exchange"),
    need(Purpose::Test, Sign::Program("ip"), "iproute2", "network namespaces to try the XDP program in"),
    need(Purpose::Ebpf, Sign::Path("/usr/bin/rustc"), "rustc-web", "the compiler of the XDP program"),
    need(Purpose::Ebpf, Sign::Path("/usr/bin/cargo"), "cargo-web", "the same"),
    need(
        Purpose::Ebpf,
        Sign::Path("/usr/lib/rustlib/bpfel-unknown-none"),
        "libstd-rust-web-dev-bpf",
        "its library for the kernel's machine",
    ),
    need(Purpose::Ebpf, Sign::Path("/usr/lib/llvm-22/include/llvm-c"), "llvm-22-dev", "bpf-linker is built with it"),
    need(Purpose::Ebpf, Sign::Path("/usr/lib/llvm-22/bin/llvm-strip"), "llvm-22", "strips the object"),
    need(Purpose::Package, Sign::Program("dpkg-shlibdeps"), "dpkg-dev", "the libraries the package depends on"),
    need(Purpose::Package, Sign::Program("debootstrap"), "debootstrap", "a fresh Debian, where the package is tried"),
];

const fn need(purpose: Purpose, sign: Sign, package: &'static str, what_for: &'static str) -> Need {
    Need { purpose, sign, package, what_for }
}

/// A program that cargo installs. The version is pinned so that a new release of it cannot fail an old commit.
pub(crate) struct CargoTool {
    purpose: Purpose,
    name: &'static str,
    version: &'static str,
    /// Besides the name and the version.
    options: &'static [&'static str],
    /// Variables of the build.
    variables: &'static [(&'static str, &'static str)],
    what_for: &'static str,
}

pub(crate) const CARGO_DENY: CargoTool = CargoTool {
    purpose: Purpose::Check,
    name: "cargo-deny",
    version: "0.20.2",
    options: QUICK,
    variables: &[],
    what_for: "licences, sources, advisories",
};

pub(crate) const CARGO_DEB: CargoTool = CargoTool {
    purpose: Purpose::Package,
    name: "cargo-deb",
    version: "3.8.0",
    options: QUICK,
    variables: &[],
    what_for: "the Debian package",
};

/// With Debian's LLVM: the same as that of the compiler, and nothing to download.
pub(crate) const BPF_LINKER: CargoTool = CargoTool {
    purpose: Purpose::Ebpf,
    name: "bpf-linker",
    version: "0.13.0",
    options: &["--no-default-features", "--features", "llvm-22"],
    variables: &[("LLVM_PREFIX", "/usr/lib/llvm-22"), ("RUSTFLAGS", "-L /usr/lib/llvm-22/lib")],
    what_for: "links the XDP program",
};

/// A debug build is quick enough to run and much quicker to make.
const QUICK: &[&str] = &["--debug"];

const CARGO_TOOLS: [&CargoTool; 3] = [&CARGO_DENY, &CARGO_DEB, &BPF_LINKER];

pub(crate) fn run(words: &[String]) -> Result<bool> {
    let missing = match words {
        [] => provide(&Purpose::ALL)?,
        [word] if word == "--check" => missing(&Purpose::ALL)?,
        _ => bail!("usage: cargo xtask setup [--check]"),
    };
    if missing.is_empty() {
        println!("everything is there");
    } else {
        println!("{} missing:\n  {}", missing.len(), missing.join("\n  "));
    }
    Ok(missing.is_empty())
}

/// Installs what is missing for these purposes where that is possible, and returns what is missing still.
pub(crate) fn provide(purposes: &[Purpose]) -> Result<Vec<String>> {
    let packages: BTreeSet<&str> = absent(purposes).map(|need| need.package).collect();
    if !packages.is_empty() {
        install(&packages)?;
    }
    for tool in CARGO_TOOLS.iter().filter(|tool| purposes.contains(&tool.purpose)) {
        if tool.find()?.is_none() {
            tool.install()?;
        }
    }
    for libraries in libraries::ALL.iter().filter(|libraries| purposes.contains(&libraries.purpose)) {
        if !libraries.are_there()? {
            libraries.fetch()?;
        }
    }
    missing(purposes)
}

impl CargoTool {
    /// The pinned version: ours, or the user's if it is the same.
    pub(crate) fn find(&self) -> Result<Option<PathBuf>> {
        let candidates = [Some(tools()?.join("bin").join(self.name)), process::find(self.name)];
        Ok(candidates.into_iter().flatten().find(|program| {
            let version = process::output(Command::new(program).arg("--version"));
            // `cargo-deny 0.20.2`, but `3.8.0`.
            version.is_ok_and(|text| text.split_whitespace().last() == Some(self.version))
        }))
    }

    fn install(&self) -> Result<()> {
        let mut command = workspace::cargo()?;
        command.args(["install", "--quiet", "--locked", self.name, "--version", self.version]).args(self.options);
        command.arg("--root").arg(tools()?).envs(self.variables.iter().copied());
        // Built apart: its dependencies are not ours.
        command.env_remove("CARGO_TARGET_DIR");
        println!("installing {} {} into {}", self.name, self.version, tools()?.display());
        if !process::status(&mut command)?.success() {
            println!("{} could not be installed", self.name);
        }
        Ok(())
    }
}

/// A line for each thing that is not there.
fn missing(purposes: &[Purpose]) -> Result<Vec<String>> {
    let mut lines: Vec<String> = absent(purposes)
        .map(|need| {
            format!("{} (package {}), for {:?}: {}", need.sign.shown(), need.package, need.purpose, need.what_for)
        })
        .collect();
    for tool in CARGO_TOOLS.iter().filter(|tool| purposes.contains(&tool.purpose)) {
        if tool.find()?.is_none() {
            lines.push(format!(
                "{} {} (cargo install), for {:?}: {}",
                tool.name, tool.version, tool.purpose, tool.what_for
            ));
        }
    }
    for libraries in libraries::ALL.iter().filter(|libraries| purposes.contains(&libraries.purpose)) {
        if !libraries.are_there()? {
            lines.push(libraries.shown());
        }
    }
    Ok(lines)
}

fn absent(purposes: &[Purpose]) -> impl Iterator<Item = &'static Need> {
    NEEDS.iter().filter(|need| purposes.contains(&need.purpose) && !need.sign.is_there())
}

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => process::find(name).is_some(),
            Self::Path(path) => Path::new(path).exists(),
            Self::Python(modules) => {
                process::output(Command::new("python3").args(["-c", &format!("import {modules}")])).is_ok()
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Program(name) => (*name).to_owned(),
            Self::Python(modules) => format!("python3 with {modules}"),
            Self::Path(path) => (*path).to_owned(),
        }
    }
}

/// A machine without a network, or with a broken apt, goes on with what it has: what is missing is listed in the end.
fn install(packages: &BTreeSet<&str>) -> Result<()> {
    let packages_text = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if !Path::new("/etc/debian_version").exists() {
        println!("this is not Debian or Ubuntu: please install what these packages of theirs hold: {packages_text}");
    } else if !rustix::process::geteuid().is_root() {
        println!("not root, so please run: sudo apt-get install --no-install-recommends {packages_text}");
    } else {
        println!("installing {packages_text}");
        let mut command = Command::new("sh");
        command.args(["-c", include_str!("install.sh"), "install.sh"]).args(packages);
        if !process::status(&mut command)?.success() {
            println!("apt-get could not install {packages_text}");
        }
    }
    Ok(())
}

/// Where tools and libraries go that are installed for us.
fn tools() -> Result<PathBuf> {
    Ok(workspace::target()?.join("tools"))
}
