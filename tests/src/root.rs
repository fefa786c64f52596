//! A fresh Debian in a folder of its own, to install a package into. For root only.
//!
//! Nothing is ever mounted where anybody else could see it: each command runs in a mount namespace of its own, and what
//! it needs mounted (/proc) is gone with it. So the folder can be removed like any other, which it is on drop, after
//! every process that runs in it was ended.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use crate::patience;

/// Mounts /proc in the root `$0`, enters it and becomes the rest of the words.
const ENTER: &str = r#"mount -t proc proc "$0/proc" && exec chroot "$@""#;
/// The kernel's own files, made by debootstrap, need no looking at.
const UNSEEN: [&str; 3] = ["proc", "sys", "dev"];

pub struct Root {
    folder: TempDir,
}

impl Root {
    /// Unpacks a tarball of a whole system beside it.
    pub fn unpack(tarball: &Path) -> Result<Self> {
        let beside = tarball.parent().context("the tarball lies in a folder")?;
        let folder = tempfile::Builder::new().prefix("root-").tempdir_in(beside)?;
        let mut command = Command::new("tar");
        command.args(["--extract", "--numeric-owner", "--same-permissions", "--file"]).arg(tarball);
        succeed(command.arg("--directory").arg(folder.path()))?;
        // A temporary folder is its owner's alone; the root of a system is open to its users.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { folder })
    }

    /// The path outside of `path` inside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// Runs a program as root in there, to a good end. What it wrote to stdout.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        succeed(self.enter(&[]).arg(self.folder.path()).args(words))
    }

    /// Starts a program as `user`, whose group has the same name; `prepare` may set more about the command.
    pub fn start(&self, user: &str, words: &[&str], prepare: impl FnOnce(&mut Command)) -> Result<Child> {
        let mut command = self.enter(&[&format!("--userspec={user}:{user}")]);
        command.arg(self.folder.path()).args(words);
        prepare(&mut command);
        command.spawn().with_context(|| format!("start {words:?}"))
    }

    /// Every file in there, but the kernel's.
    pub fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let root = self.folder.path();
        let mut files = BTreeSet::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let path = entry.path();
                let inside = path.strip_prefix(root)?.to_owned();
                if entry.file_type()?.is_dir() && !UNSEEN.iter().any(|unseen| inside == Path::new(unseen)) {
                    folders.push(path);
                }
                files.insert(inside);
            }
        }
        Ok(files)
    }

    /// User and group id of a user in there.
    pub fn ids(&self, user: &str) -> Result<(u32, u32)> {
        let passwd = fs::read_to_string(self.path("/etc/passwd"))?;
        let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line[0] == user).with_context(|| format!("there is no user {user}"))?;
        Ok((line[2].parse()?, line[3].parse()?))
    }

    /// Makes a folder that belongs to `user`.
    pub fn make_folder(&self, path: &str, user: &str) -> Result<()> {
        let (uid, gid) = self.ids(user)?;
        fs::create_dir(self.path(path))?;
        chown(self.path(path), Some(uid), Some(gid)).with_context(|| format!("giving {path} to {user}"))
    }

    fn enter(&self, options: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", ENTER]).arg(self.folder.path());
        command.args(options).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    /// The processes that run in there: those whose root it is.
    fn processes(&self) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let inside = |entry: &fs::DirEntry| {
            fs::read_link(entry.path().join("root")).is_ok_and(|root| root == self.folder.path())
        };
        let number = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
        entries.flatten().filter(inside).filter_map(number).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let deadline = Instant::now() + patience();
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
                // Not necessarily our child, and then somebody else reaps it.
                let _ = gone(pid);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let inside =
            |line: &str| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(self.folder.path()));
        if mounts.lines().any(inside) {
            // Cannot be, but removing through a mount would empty what is mounted.
            self.folder.disable_cleanup(true);
            eprintln!("something is mounted in {}: it stays", self.folder.path().display());
        }
    }
}

/// Waits for the end of a process, which need not be our child.
pub fn gone(pid: Pid) -> Result<()> {
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let mut polled = [PollFd::new(&handle, PollFlags::IN)];
    ensure!(poll(&mut polled, Some(&Timespec::try_from(patience())?))? == 1, "process {pid:?} does not end");
    Ok(())
}

/// Waits for the end of a child.
pub fn ended(child: &mut Child) -> Result<ExitStatus> {
    gone(pid(child)?)?;
    Ok(child.wait()?)
}

pub fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id is positive")
}

fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{command:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&said).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
