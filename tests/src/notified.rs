//! The other end of sd_notify(3): a datagram socket where systemd's would be.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::patience;

/// What is larger than this is no notification of ours.
const MESSAGE_BYTES_MAX: usize = 4096;

pub struct Notified {
    socket: UnixDatagram,
    /// Lines received and not yet taken by a wait.
    lines: Vec<String>,
}

impl Notified {
    /// A socket named `name` in `folder` that everybody may write to.
    pub fn bind(folder: &Path, name: &str) -> Result<Self> {
        // By way of the folder's descriptor, because a socket's whole path may have 107 bytes at most (unix(7)).
        let handle = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
        let path = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join(name);
        let socket = UnixDatagram::bind(&path).with_context(|| format!("bind {name} in {}", folder.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        Ok(Self { socket, lines: Vec::new() })
    }

    /// Waits for `name=...` and returns what follows the `=`; what came before it is dropped.
    pub fn wait(&mut self, name: &str) -> Result<String> {
        let mut passed = Vec::new();
        let found = self.find(name, patience(), &mut passed)?;
        found.with_context(|| format!("`{name}=` was never notified; other lines: {passed:?}"))
    }

    /// As `wait`, but `None` when it does not come in time.
    pub fn wait_within(&mut self, name: &str, time: Duration) -> Result<Option<String>> {
        self.find(name, time, &mut Vec::new())
    }

    fn find(&mut self, name: &str, time: Duration, passed: &mut Vec<String>) -> Result<Option<String>> {
        let deadline = Instant::now() + time;
        loop {
            while !self.lines.is_empty() {
                let line = self.lines.remove(0);
                if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                    return Ok(Some(value.to_owned()));
                }
                passed.push(line);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut message = [0; MESSAGE_BYTES_MAX];
            // A time-out is seen above.
            if let Ok(size) = self.socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..size]).into_owned();
                self.lines.extend(text.lines().map(str::to_owned));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_waited_for_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut notified = Notified::bind(dir.path(), "notify").unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        for message in ["STATUS=starting", "READY=1\nSTATUS=ready", "MAINPID=7"] {
            sender.send_to(message.as_bytes(), dir.path().join("notify")).unwrap();
        }
        assert_eq!(notified.wait("READY").unwrap(), "1");
        assert_eq!(notified.wait("STATUS").unwrap(), "ready");
        assert_eq!(notified.wait("MAINPID").unwrap(), "7");
        assert_eq!(notified.wait_within("MAINPID", Duration::ZERO).unwrap(), None);
    }
}
