//! The commands that end by themselves: what they print where, and what they end with.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Exit status, stdout and stderr of `bawab` with `arguments`.
fn bawab(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bawab")).args(arguments).output().expect("cargo built it");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (output.status.code().expect("no signal ends it"), text(output.stdout), text(output.stderr))
}

fn conf(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name).display().to_string()
}

#[test]
fn check_ends_with_0_when_there_is_no_problem() {
    let path = conf("minimal.toml");
    let (status, stdout, stderr) = bawab(&["check", &path]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("{path}: no problems (1 file, 1 listener, 1 route, 1 upstream)\n"));
}

#[test]
fn check_shows_every_problem_on_stderr_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let minimal = fs::read_to_string(conf("minimal.toml")).unwrap();
    fs::write(&path, minimal.replace("auth", "auht").replace("upstream = \"orders\"", "upstream = \"ordesr\""))
        .unwrap();
    let (status, stdout, stderr) = bawab(&["check", path.to_str().unwrap()]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    for said in ["route[0].auth: missing", "route[0].auht: unknown key", "did you mean \"orders\"?", "3 problems\n"] {
        assert!(stderr.contains(said), "{said} is not in\n{stderr}");
    }
    // It is not a terminal.
    assert!(!stderr.contains('\u{1b}'), "{stderr}");
}

#[test]
fn check_ends_with_2_when_the_file_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere.toml");
    for (path, reason) in [(nowhere.as_path(), "no such file"), (folder.path(), "it is a folder")] {
        let (status, stdout, stderr) = bawab(&["check", path.to_str().unwrap()]);
        assert_eq!((status, stdout.as_str()), (2, ""));
        assert_eq!(stderr, format!("cannot read `{}`: {reason}\n", path.display()));
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for arguments in [&[][..], &["chekc"], &["check", "a", "b"], &["schema", "--all"]] {
        let (status, stdout, stderr) = bawab(arguments);
        assert_eq!((status, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains("Usage: "), "{stderr}");
    }
}

#[test]
fn the_schema_is_json_on_stdout() {
    let (status, stdout, stderr) = bawab(&["schema"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(schema["properties"]["listener"]["type"], "array");
}

#[test]
fn the_version_is_on_stdout() {
    let (status, stdout, _) = bawab(&["version"]);
    assert_eq!(status, 0);
    assert_eq!(stdout.lines().next(), Some(concat!("bawab ", env!("CARGO_PKG_VERSION"))));
}
