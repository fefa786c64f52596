//! What a service manager is told and gives, and what happens when a worker stands still.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use e2e::message::Message;
use e2e::notified::Notified;
use e2e::{Gateway, Origin, Peer, binary, config, origin};
use rustix::process::Signal;
use tempfile::TempDir;

/// What stands where the service manager would.
struct Manager {
    notified: Notified,
    dir: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let dir = tempfile::tempdir().unwrap();
        Manager { notified: Notified::bind(dir.path(), "notify").unwrap(), dir }
    }

    fn start(&self, overrides: &str, upstream: &str, variables: &[(&str, &str)]) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        let text = text(overrides, upstream, &dir);
        let mut command = Command::new(binary::path());
        command.arg("run").arg(dir.path().join("gateway.toml")).stdin(Stdio::null());
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify")).envs(variables.iter().copied());
        Gateway::start_by(&mut command, &text, dir).unwrap()
    }

    /// Waits for a line `name=...` and returns what follows the `=`.
    fn hears(&mut self, name: &str) -> String {
        self.notified.wait(name).unwrap()
    }

    fn heard(&self, name: &str) -> bool {
        self.notified.heard().iter().any(|line| line.starts_with(name))
    }
}

fn text(overrides: &str, upstream: &str, dir: &TempDir) -> String {
    let values = [("upstream", upstream.to_owned()), ("dir", dir.path().display().to_string())];
    let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    config::fill(&config::over_base(overrides).unwrap(), &values)
}

#[test]
fn a_service_manager_hears_what_happens() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let mut manager = Manager::new();
    let mut gateway = manager.start("", origin.address(), &[]);
    assert_eq!(manager.hears("READY"), "1");
    let status = manager.hears("STATUS");
    assert!(status.starts_with("serving configuration "), "{status}");
    gateway.signal(Signal::HUP).unwrap();
    assert_eq!(manager.hears("RELOADING"), "1");
    manager.hears("MONOTONIC_USEC");
    assert_eq!(manager.hears("READY"), "1");
    gateway.signal(Signal::TERM).unwrap();
    assert_eq!(manager.hears("STOPPING"), "1");
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
    assert!(!manager.heard("WATCHDOG="), "nobody asked for it");
}

#[test]
fn a_service_manager_hears_of_the_process_that_took_over() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let mut manager = Manager::new();
    let mut gateway = manager.start("", origin.address(), &[]);
    assert_eq!(manager.hears("READY"), "1");
    gateway.signal(Signal::USR2).unwrap();
    let successor = gateway.successor(1).unwrap();
    assert_eq!(manager.hears("MAINPID"), successor.as_raw_nonzero().to_string());
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
    assert!(!manager.heard("STOPPING="), "the service goes on");
}

#[test]
fn the_watchdog_is_fed_by_this_process_and_by_the_next() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let mut manager = Manager::new();
    let gateway = manager.start("", origin.address(), &[("WATCHDOG_USEC", "5000000")]);
    assert_eq!(manager.hears("WATCHDOG"), "1");
    gateway.signal(Signal::USR2).unwrap();
    gateway.event("drained").unwrap();
    manager.hears("MAINPID");
    assert_eq!(manager.hears("WATCHDOG"), "1");
}

#[test]
fn sockets_of_the_service_manager_are_used_and_stay_its_own() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let dir = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let overrides = format!("[gateway]\nworkers = 2\n[[listener]]\nname = \"main\"\naddress = \"{address}\"");
    let text = text(&overrides, origin.address(), &dir);
    // As systemd passes them: descriptor 3, and who they are for.
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=main exec \"$0\" run \"$1\"";
    command.args(["-c", script]).arg(binary::path()).arg(dir.path().join("gateway.toml"));
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    let mut gateway = Gateway::start_by(&mut command, &text, dir).unwrap();
    for _ in 0..8 {
        assert_eq!(gateway.get("/").unwrap().head.status(), 200);
    }
    gateway.signal(Signal::TERM).unwrap();
    assert_eq!(gateway.exit().unwrap().code(), Some(0));
    // The socket is open still: the next start serves whoever comes meanwhile.
    let mut waiting = Peer::connect(address).unwrap();
    waiting.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = self::text(&overrides, origin.address(), &dir);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary::path()).arg(dir.path().join("gateway.toml"));
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    let _gateway = Gateway::start_by(&mut command, &text, dir).unwrap();
    assert_eq!(Message::answer(&mut waiting, "GET").unwrap().head.status(), 200);
}

/// Stops one thread of another process and keeps it stopped until its standard input ends.
const STOP_THREAD: &str = "
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
libc.ptrace.argtypes = [ctypes.c_long] * 4
thread = int(sys.argv[1])
if libc.ptrace(PTRACE_SEIZE, thread, 0, 0) or libc.ptrace(PTRACE_INTERRUPT, thread, 0, 0):
    sys.exit('ptrace: %d' % ctypes.get_errno())
sys.stdin.read()
";

#[test]
fn a_worker_that_stands_still_ends_the_process() {
    if !rustix::process::geteuid().is_root() {
        println!("not run: stopping a thread of another process needs root");
        return;
    }
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let mut manager = Manager::new();
    let mut gateway = manager.start(
        "[gateway]\nworkers = 2\nworker_stall = \"2s\"",
        origin.address(),
        &[("WATCHDOG_USEC", "5000000")],
    );
    assert_eq!(manager.hears("WATCHDOG"), "1");
    let tasks = format!("/proc/{}/task", gateway.pid().unwrap().as_raw_nonzero());
    let worker = std::fs::read_dir(tasks)
        .unwrap()
        .flatten()
        .find(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "worker-1"));
    let thread = worker.expect("there is a second worker").file_name();
    let mut tracer =
        Command::new("python3").args(["-c", STOP_THREAD]).arg(thread).stdin(Stdio::piped()).spawn().unwrap();
    let event = gateway.event("a worker stands still; the process ends");
    // The kernel keeps what is left of a traced thread until its tracer has looked.
    drop(tracer.stdin.take());
    tracer.wait().unwrap();
    assert_eq!(event.unwrap()["worker"], 1);
    assert_eq!(gateway.exit().unwrap().code(), Some(3));
}
