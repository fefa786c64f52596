//! The Debian package, in a fresh Debian: installed, run as its user, upgraded while it runs, purged. `cargo xtask test`
//! and `cargo xtask dist --test` make the package and the Debian, and say where they are.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use e2e::message::Message;
use e2e::notified::Notified;
use e2e::origin::{Serving, ok};
use e2e::root::{self, Root};
use e2e::{Origin, Peer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const GET: &str = "GET /any HTTP/1.1\r\nHost: package.test\r\n\r\n";
/// Forbids packages to start or stop anything (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A fresh Debian with the package in it, installed where services must not be touched.
fn installed() -> Option<Root> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(package), Some(tarball)) = (of("BAWAB_PACKAGE"), of("BAWAB_ROOT")) else {
        let reason = std::env::var("BAWAB_NO_PACKAGE");
        let reason = reason.unwrap_or_else(|_| "`cargo xtask test` makes what it takes".to_owned());
        eprintln!("not run: {}", reason.replace(": ", ", "));
        return None;
    };
    let root = Root::unpack(&tarball).unwrap();
    script(&root, POLICY, "exit 101");
    fs::copy(&package, root.path("/bawab.deb")).unwrap();
    Some(root)
}

fn install(root: &Root) {
    root.run(&["dpkg", "--install", "/bawab.deb"]).unwrap();
}

fn script(root: &Root, path: &str, text: &str) {
    let path = root.path(path);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
}

/// The installed gateway as systemd would run it.
struct Running {
    child: Child,
    notified: Notified,
    events: PathBuf,
    /// The service behind it.
    _origin: Serving,
}

impl Running {
    fn start(root: &Root, dir: &Path) -> Self {
        let origin = Origin::tcp().unwrap().answer(|_| ok("the service"));
        // Ports are the kernel's to give, and events are read below; all else stays as installed.
        let path = root.path("/etc/bawab/gateway.toml");
        let text = fs::read_to_string(&path).unwrap();
        for installed in ["127.0.0.1:8080", "127.0.0.1:8000"] {
            assert_eq!(text.matches(installed).count(), 1, "{text}");
        }
        let text = text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:8000", origin.address());
        fs::write(&path, format!("{text}\n[log]\nformat = \"json\"\n")).unwrap();
        // systemd's part: RuntimeDirectory, and the socket for notifications.
        root.make_folder("/run/bawab", "bawab").unwrap();
        let notified = Notified::bind(&root.path("/run"), "notify").unwrap();
        let events = dir.join("events");
        let child = root.start("bawab", &["/usr/bin/bawab", "run", "/etc/bawab/gateway.toml"], |command| {
            command.env("NOTIFY_SOCKET", "/run/notify");
            command.stdout(File::create(dir.join("access")).unwrap()).stderr(File::create(&events).unwrap());
        });
        let mut running = Self { child: child.unwrap(), notified, events, _origin: origin };
        let ready = running.notified.wait("READY");
        assert_eq!(ready.unwrap_or_else(|error| panic!("{error:#}\n{}", running.said())), "1");
        running
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.events).unwrap()
    }

    fn address(&self) -> SocketAddr {
        let said = self.said();
        let mut events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let listening = events.find(|event| event["message"] == "listening").unwrap_or_else(|| panic!("{said}"));
        listening["address"].as_str().unwrap().parse().unwrap()
    }

    /// What a new client is answered.
    fn ask(&self) -> String {
        let mut client = Peer::connect(self.address()).unwrap();
        client.send(GET).unwrap();
        Message::answer(&mut client, "GET").unwrap().text()
    }
}

/// Files a package manager keeps for itself, and what passwd(5) keeps as its backup.
fn is_bookkeeping(path: &Path) -> bool {
    let folders = ["var/lib/dpkg", "var/log", "var/cache/debconf"];
    let backups = ["etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/.pwd.lock"];
    folders.iter().any(|folder| path.starts_with(folder)) || backups.iter().any(|backup| path == Path::new(backup))
}

#[test]
fn an_installed_package_runs_and_when_purged_leaves_nothing_behind() {
    let Some(root) = installed() else { return };
    let before = root.files().unwrap();
    install(&root);
    let passwd = fs::read_to_string(root.path("/etc/passwd")).unwrap();
    let user = passwd.lines().find(|line| line.starts_with("bawab:")).unwrap();
    assert!(user.ends_with("/nologin"), "{user}");
    let list = root.run(&["dpkg-query", "--listfiles", "bawab"]).unwrap();
    let service = "usr/lib/systemd/system/bawab.service";
    for file in ["usr/bin/bawab", service, "etc/logrotate.d/bawab", "usr/share/doc/bawab/NOTICES"] {
        assert!(list.contains(&format!("/{file}\n")), "{list}");
        assert_ne!(fs::metadata(root.path(file)).unwrap().len(), 0, "{file}");
    }
    // Enabled, as Debian does with every service; that it was not started is the policy's doing.
    assert!(root.path("/etc/systemd/system/multi-user.target.wants/bawab.service").is_symlink());
    root.run(&["bawab", "check"]).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(&root, dir.path());
    assert_eq!(running.ask(), "the service");
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let (uid, _) = root.ids("bawab").unwrap();
    assert!(status.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{status}");
    let admin = File::open(root.path("/run/bawab")).unwrap();
    let admin = format!("/proc/self/fd/{}/admin.sock", std::os::fd::AsRawFd::as_raw_fd(&admin));
    let mut admin = Peer::connect_unix(Path::new(&admin)).unwrap();
    admin.send("GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut admin, "GET").unwrap().head.status(), 200);
    kill_process(root::pid(&running.child).unwrap(), Signal::TERM).unwrap();
    assert_eq!(root::ended(&mut running.child).unwrap().code(), Some(0), "{}", running.said());

    // What systemd made for the service is systemd's to remove, except its logs.
    fs::remove_dir_all(root.path("/run/bawab")).unwrap();
    fs::remove_file(root.path("/run/notify")).unwrap();
    root.make_folder("/var/log/bawab", "bawab").unwrap();
    root.run(&["dpkg", "--purge", "bawab"]).unwrap();
    let after = root.files().unwrap();
    let left: BTreeSet<_> = after.difference(&before).filter(|path| !is_bookkeeping(path)).collect();
    assert!(left.is_empty(), "{left:?}");
    let ours: Vec<_> = after.iter().filter(|path| path.to_string_lossy().contains("bawab")).collect();
    assert_eq!(ours, [Path::new("bawab.deb")]);
    let lost: Vec<_> = before.difference(&after).filter(|path| !is_bookkeeping(path)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn an_upgrade_hands_the_sockets_over_to_the_new_program() {
    let Some(root) = installed() else { return };
    install(&root);
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(&root, dir.path());
    assert_eq!(running.ask(), "the service");
    // As far as the package's scripts can see, systemd runs and has the gateway started.
    fs::create_dir_all(root.path("/run/systemd/system")).unwrap();
    let main = running.child.id();
    script(
        &root,
        "/usr/local/sbin/systemctl",
        &format!("echo \"$*\" >> /run/asked\ncase \"$*\" in *MainPID*) echo {main} ;; esac"),
    );
    let asked = || fs::read_to_string(root.path("/run/asked")).unwrap_or_default();

    install(&root);
    assert!(!asked().contains("MainPID"), "the policy forbids to touch the service:\n{}", asked());

    fs::remove_file(root.path(POLICY)).unwrap();
    install(&root);
    assert!(asked().contains("MainPID"), "{}", asked());
    let new = running.notified.wait("MAINPID").unwrap_or_else(|error| panic!("{error:#}\n{}", running.said()));
    let new = Pid::from_raw(new.parse().unwrap()).unwrap();
    assert_eq!(root::ended(&mut running.child).unwrap().code(), Some(0), "{}", running.said());
    assert_eq!(running.ask(), "the service");
    let program = fs::read_link(format!("/proc/{}/exe", new.as_raw_nonzero())).unwrap();
    assert_eq!(program, root.path("/usr/bin/bawab"), "what runs is what was installed last");
    kill_process(new, Signal::TERM).unwrap();
    root::gone(new).unwrap();
    assert!(Peer::connect(running.address()).is_err(), "nobody listens any more");
}
