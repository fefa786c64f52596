//! The systemd units in `conf/`: what systemd itself says about them.

use std::path::Path;
use std::process::{Command, Stdio};

use e2e::binary;

/// What `systemd-analyze verify` says about these units, as far as it is about us: the units they refer to are the
/// machine's own. `None`: it is not here.
fn verified(units: &[&Path]) -> Option<String> {
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units)
        .env("SYSTEMD_LOG_COLOR", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| eprintln!("not run: systemd-analyze is not installed"))
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    Some(said.lines().filter(|line| line.contains("bawab")).collect::<Vec<_>>().join("\n"))
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let (service, socket) = (dir.path().join("bawab.service"), dir.path().join("bawab.socket"));
    let conf = binary::workspace().join("conf");
    // A program that is not there is a problem of its own, and the package is not installed here.
    let program = binary::path().to_str().unwrap();
    let text = std::fs::read_to_string(conf.join("bawab.service")).unwrap().replace("/usr/bin/bawab", program);
    std::fs::write(&service, &text).unwrap();
    std::fs::copy(conf.join("bawab.socket"), &socket).unwrap();
    // The drop-in that the door in the kernel needs.
    let drop_in = dir.path().join("bawab.service.d/door.conf");
    std::fs::create_dir(drop_in.parent().unwrap()).unwrap();
    std::fs::copy(conf.join("bawab-door.conf"), &drop_in).unwrap();
    let Some(said) = verified(&[&service, &socket]) else { return };
    assert_eq!(said, "");

    // It would have said so.
    std::fs::write(&service, text.replace("[Service]\n", "[Service]\nProtectEverything=yes\n")).unwrap();
    let said = verified(&[&service, &socket]).unwrap();
    assert!(said.contains("ProtectEverything"), "{said}");
    std::fs::write(&drop_in, "[Service]\nProtectEverybody=yes\n").unwrap();
    let said = verified(&[&service, &socket]).unwrap();
    assert!(said.contains("ProtectEverybody"), "{said}");
}
