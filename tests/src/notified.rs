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
    /// Lines received, and how many of them a wait has taken or passed over.
    lines: Vec<String>,
    passed: usize,
}

impl Notified {
    /// A socket named `name` in `folder` that everybody may write to.
    pub fn bind(folder: &Path, name: &str) -> Result<Self> {
        // By way of the folder's descriptor, because a socket's whole path may have 107 bytes at most (unix(7)).
        let handle = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
        let path = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join(name);
        let socket = UnixDatagram::bind(&path).with_context(|| format!("bind {name} in {}", folder.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        Ok(Self { socket, lines: Vec::new(), passed: 0 })
    }

    /// Every line received so far.
    pub fn heard(&self) -> &[String] {
        &self.lines
    }

    /// Waits for `name=...` and returns what follows the `=`; what came before it is passed over.
    pub fn wait(&mut self, name: &str) -> Result<String> {
        let from = self.passed;
        let found = self.wait_within(name, patience())?;
        found.with_context(|| format!("`{name}=` was never notified; other lines: {:?}", &self.lines[from..]))
    }

    /// As `wait`, but `None` when it does not come in time.
    pub fn wait_within(&mut self, name: &str, time: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + time;
        loop {
            while let Some(line) = self.lines.get(self.passed) {
                self.passed += 1;
                if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                    return Ok(Some(value.to_owned()));
                }
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
        assert_eq!(notified.heard(), ["STATUS=starting", "READY=1", "STATUS=ready", "MAINPID=7"]);
    }
}
