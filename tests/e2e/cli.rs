//! The command line: exit codes and what it says when it cannot do what it is asked.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use e2e::{Gateway, Origin, binary};
use tempfile::TempDir;

fn bawab(args: &[&str]) -> Output {
    Command::new(binary::path()).args(args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(dir: &TempDir, config: &str) -> PathBuf {
    let path = dir.path().join("gateway.toml");
    std::fs::write(&path, config).expect("a temporary file");
    path
}

fn check(path: &Path) -> Output {
    bawab(&["check", &path.display().to_string()])
}

const SMALLEST: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[upstream.orders]
endpoints = ["127.0.0.1:8000"]

[[route]]
path = "/orders/**"
upstream = "orders"
auth = "none"
"#;

#[test]
fn check_accepts_the_smallest_useful_file() {
    let dir = tempfile::tempdir().unwrap();
    let output = check(&file(&dir, SMALLEST));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn check_tells_all_problems_at_once_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let broken = SMALLEST.replace("upstream = \"orders\"", "upstream = \"ordesr\"").replace("auth = \"none\"\n", "")
        + "\n[limits]\nheadbytes = 1\nfields = 0\n";
    let output = check(&file(&dir, &broken));
    let said = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["gateway.toml", "ordesr", "did you mean", "orders", "auth", "headbytes", "head_bytes", "fields"] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
}

#[test]
fn check_says_where_the_toml_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let output = check(&file(&dir, "[[listener]]\naddress = \n"));
    let said = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("gateway.toml:2"), "{said}");
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml").display().to_string();
    for command in ["check", "run"] {
        let output = bawab(&[command, &missing]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(said.contains("missing.toml"), "{command}: {said}");
    }
}

#[test]
fn run_refuses_what_check_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, &SMALLEST.replace("auth = \"none\"", ""));
    let checked = check(&path);
    let run = bawab(&["run", &path.display().to_string()]);
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("auth"), "{}", text(&run.stderr));
    assert_eq!(checked.status.code(), Some(1));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let output = bawab(&["run", &file(&dir, &SMALLEST.replace("127.0.0.1:0", &address)).display().to_string()]);
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}

/// Two gateways would share a port by SO_REUSEPORT, each getting half of the connections: nobody wants that by accident.
#[test]
fn a_port_of_another_gateway_is_taken_too() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, &SMALLEST.replace("127.0.0.1:0", &address));
    let mut child =
        Command::new(binary::path()).arg("run").arg(&path).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    // It either says so and ends, or it says that it listens: then it is ended here.
    let said: Vec<String> =
        std::io::BufRead::lines(stderr).map_while(Result::ok).take_while(|line| !line.contains("ready")).collect();
    let _ = child.kill();
    let status = child.wait().unwrap();
    assert!(status.code().is_some_and(|code| code != 0), "it ran beside the other: {}", said.join("\n"));
    assert!(said.join("\n").contains(&address), "{}", said.join("\n"));
}

#[test]
fn schema_is_json_schema() {
    let output = bawab(&["schema"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["$schema"].as_str().is_some_and(|url| url.contains("json-schema.org")), "{schema:#}");
    for key in ["gateway", "listener", "upstream", "route", "limits", "timeouts"] {
        assert!(schema["properties"].get(key).is_some(), "no `{key}`");
    }
}

#[test]
fn version_is_a_line_with_the_version() {
    for args in [["version"], ["--version"]] {
        let output = bawab(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.starts_with("bawab 0.1.0") && said.ends_with('\n'), "{args:?}: {said}");
    }
}

#[test]
fn a_wrong_command_is_named() {
    let output = bawab(&["rnu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("rnu"), "{}", text(&output.stderr));
}
