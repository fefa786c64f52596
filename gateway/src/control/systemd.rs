//! What the service manager is told, and what it gives: nothing happens where there is none.

use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;

use super::sockets::{Given, GivenSocket, Label};

/// Variables that are meant for this process alone and would mislead one it starts.
pub(super) const OWN_VARIABLES: [&str; 5] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID"];

pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Another process is the service from now on.
pub(super) fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Everything moves.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// Within which time [`alive`] has to be said again and again; `None`: nobody waits for it.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The sockets it listens on for us (LISTEN_FDS). Called once, before anything else could have these descriptors.
pub(super) fn given() -> std::io::Result<Given> {
    let mut given = Given::default();
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: the service manager passed this descriptor to this process (LISTEN_PID), and this is the only place that
        // takes it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = TcpListener::from(socket);
        // Workers wait for connections; a socket that never waits would keep them spinning.
        socket.set_nonblocking(false)?;
        given.sockets.push(GivenSocket { label: Label::Name(name), socket, held_elsewhere: true });
    }
    Ok(given)
}
