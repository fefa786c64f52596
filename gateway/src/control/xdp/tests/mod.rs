//! The program in the kernel, by frames that nobody sent ([`frames`], [`limits`], [`generations`]) and between two network
//! namespaces ([`veth`], [`lifecycle`]). Root only; anywhere else each says that it was not run.

mod frame;
mod frames;
mod generations;
mod lifecycle;
mod limits;
mod network;
mod veth;

use abi::door::Counter;
use abi::{Action, Entry, Table};

use super::{Draw, Maps, Object, Program, Settings};

/// Why none of these tests can run here, if so.
fn lacks() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, for BPF and network namespaces");
    }
    // A container may be root and still have none of these.
    if super::check_capabilities().is_err() {
        return Some("needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    if super::pins::check_bpffs(&Settings::default().pins).is_err() {
        return Some("needs a BPF file system on /sys/fs/bpf");
    }
    match std::process::Command::new("ip").arg("-Version").output() {
        Ok(_) => None,
        Err(_) => Some("needs `ip`; `cargo xtask setup` installs it"),
    }
}

/// Ends the test, saying why, where it cannot run.
macro_rules! root_only {
    () => {
        if let Some(reason) = super::lacks() {
            println!("not run: {reason}");
            return;
        }
    };
}
use root_only;

/// The object under test: the embedded one, or one that was just built.
fn object() -> Object {
    match std::env::var_os("BAWAB_XDP_OBJECT") {
        Some(path) => Object::read(path.as_ref()).unwrap(),
        None => Object::embedded(),
    }
}

fn program(table: &Table) -> Program {
    Program::load(&object(), table, 0, Draw::Packet).unwrap_or_else(|error| panic!("{error}"))
}

fn settings() -> Settings {
    // A program that another test starts has our descriptors until it runs, and with them the lock of a door that is closed.
    Settings { object: object(), wait: std::time::Duration::from_secs(3), ..Settings::default() }
}

fn entry(cidr: &str, action: Action, rule: u16) -> Entry {
    Entry { cidr: cidr.parse().unwrap(), action, rule, shadow: false }
}

fn deny(cidr: &str, rule: u16) -> Table {
    Table::compile(&[entry(cidr, Action::Deny, rule)], 1).unwrap()
}

/// All counters that a test looks at, by index.
fn counts(maps: &Maps) -> Vec<(u32, u64)> {
    let rules = (1..16).map(|rule| (u32::from(rule), maps.rule_count(rule).unwrap().packets));
    let others = Counter::ALL.iter().map(|counter| (counter.index(), maps.count(*counter).unwrap().packets));
    rules.chain(others).collect()
}
