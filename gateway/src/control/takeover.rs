//! One process takes over from another: a new binary serves, and no connection notices.
//!
//! The running process starts its own program anew with one end of a socket pair as standard input, and sends the listening
//! sockets over it, who is banned, how endpoints stand, and where names lead. The new one checks its configuration, starts everything but accepting, and says so;
//! only then does the old one stop accepting, tell the new one what changed meanwhile and that it may begin, and finish what
//! it runs. What comes between the two waits in the kernel's queue. Whatever goes wrong before that leaves the old one as it
//! was.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::dns::Handed as HandedName;
use super::sockets::{Given, GivenSocket, Key, Label};
use super::systemd::OWN_VARIABLES;
use crate::tables::bans::Ban;
use crate::tables::health::record::Handed;

/// Tells a new process that its standard input is the socket of the one before it.
const VARIABLE: &str = "BAWAB_TAKE_OVER";

/// How long a new process may take until it serves. A configuration of 10,000 routes loads in a second or two.
const START_WAIT: Duration = Duration::from_secs(60);

/// Bytes of one message: an address and a word, the list of all listeners, or some bans.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Bans of one message. Each is a reason of at most 200 characters, an address and a number: together within what a socket
/// pair takes at once, whose buffer is 208 KiB.
const BANS_PER_MESSAGE: usize = 100;

/// Endpoints of one message. Each is a name of at most 64 bytes, an address of at most some 110 and a few numbers.
const ENDPOINTS_PER_MESSAGE: usize = 200;

/// Addresses of names of one message. Each is two names of at most 253 bytes and some numbers.
const NAMES_PER_MESSAGE: usize = 200;

/// How this process was started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Asked at the start: later the path of a replaced binary is no longer known.
    pub(super) fn of_this_process() -> io::Result<Program> {
        Ok(Program { path: std::env::current_exe()?, arguments: std::env::args_os().skip(1).collect() })
    }
}

/// What goes over the socket pair. One message each, a descriptor with those that are about a socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Listener {
        address: String,
        nth: usize,
        held_elsewhere: bool,
    },
    Admin {
        address: String,
    },
    /// Who is banned, and who is no longer.
    Bans {
        banned: Vec<(IpAddr, Ban)>,
        unbanned: Vec<IpAddr>,
    },
    /// How endpoints stand, by upstream and address.
    Endpoints(Vec<(String, String, Handed)>),
    /// Where names lead.
    Names(Vec<HandedName>),
    /// That was all of it.
    End,
    /// From the new process: it is about to accept from these.
    Ready {
        listeners: Vec<(String, usize)>,
    },
    /// Nobody else accepts any more.
    Begin,
}

/// What a process hands over.
pub(super) struct Estate {
    pub(super) listeners: Vec<GivenSocket>,
    pub(super) admin: Option<(String, OwnedFd)>,
    pub(super) bans: Vec<(IpAddr, Ban)>,
    pub(super) endpoints: Vec<(String, String, Handed)>,
    pub(super) names: Vec<HandedName>,
}

/// A new process that is about to accept.
pub(super) struct Successor {
    pub(super) pid: u32,
    /// Who it knows to be banned.
    bans: HashMap<IpAddr, Ban>,
    /// What it listens on. Whatever else there is will have nobody.
    pub(super) listeners: Vec<Key>,
    socket: OwnedFd,
}

impl Successor {
    /// Nobody accepts here any more: it begins, and knows of every ban there is `now`.
    pub(super) fn begin(mut self, mut now: Vec<(IpAddr, Ban)>) {
        now.retain(|(client, ban)| self.bans.remove(client).as_ref() != Some(ban));
        let unbanned: Vec<IpAddr> = self.bans.into_keys().collect();
        // Should the word not arrive, the end of the connection says the same.
        let told = send_bans(&self.socket, &now, &unbanned).and_then(|()| send(&self.socket, &Word::Begin, None));
        if let Err(error) = told {
            tracing::warn!(%error, "the new process could not be told to begin");
        }
    }
}

/// Starts the program anew and waits until it serves. Blocks. The error says what went wrong, in words.
pub(super) fn hand_over(program: &Program, estate: Estate) -> Result<Successor, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| format!("no socket pair: {error}"))?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&ours, timeout, Some(START_WAIT)).map_err(|error| error.to_string())?;
    }
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).env(VARIABLE, "stdin").stdin(Stdio::from(theirs));
    for name in OWN_VARIABLES {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|error| format!("cannot start {}: {error}", program.path.display()))?;
    // The command holds the other end; while it is open here, a child that dies would not be noticed.
    drop(command);
    let outcome = talk(&ours, &estate).map_err(failed("the new process did not answer"));
    match outcome {
        Ok(Some(listeners)) => {
            let listeners = listeners.into_iter().map(|(address, nth)| Key { address, nth }).collect();
            Ok(Successor { pid: child.id(), bans: estate.bans.into_iter().collect(), listeners, socket: ours })
        }
        Ok(None) => Err(how_it_ended(&mut child)),
        Err(why) => {
            // It may be about to start: two processes that both think they are the service would be worse than none.
            let _ = child.kill();
            let _ = child.wait();
            Err(why)
        }
    }
}

/// Sends everything and waits for the answer. `None`: the other end closed.
fn talk(socket: &OwnedFd, estate: &Estate) -> io::Result<Option<Vec<(String, usize)>>> {
    let sent = (|| {
        for GivenSocket { label, socket: listener, held_elsewhere } in &estate.listeners {
            let Label::Key(Key { address, nth }) = label else { continue };
            let word = Word::Listener { address: address.clone(), nth: *nth, held_elsewhere: *held_elsewhere };
            send(socket, &word, Some(listener.as_fd()))?;
        }
        if let Some((address, admin)) = &estate.admin {
            send(socket, &Word::Admin { address: address.clone() }, Some(admin.as_fd()))?;
        }
        send_bans(socket, &estate.bans, &[])?;
        for some in estate.endpoints.chunks(ENDPOINTS_PER_MESSAGE) {
            send(socket, &Word::Endpoints(some.to_vec()), None)?;
        }
        for some in estate.names.chunks(NAMES_PER_MESSAGE) {
            send(socket, &Word::Names(some.to_vec()), None)?;
        }
        send(socket, &Word::End, None)
    })();
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => match receive(socket)? {
            None => Ok(None),
            Some((Word::Ready { listeners }, _)) => Ok(Some(listeners)),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it said something else than that it is ready")),
        },
    }
}

/// In messages that fit.
fn send_bans(socket: &OwnedFd, banned: &[(IpAddr, Ban)], unbanned: &[IpAddr]) -> io::Result<()> {
    for some in banned.chunks(BANS_PER_MESSAGE) {
        send(socket, &Word::Bans { banned: some.to_vec(), unbanned: Vec::new() }, None)?;
    }
    for some in unbanned.chunks(BANS_PER_MESSAGE) {
        send(socket, &Word::Bans { banned: Vec::new(), unbanned: some.to_vec() }, None)?;
    }
    Ok(())
}

fn how_it_ended(child: &mut Child) -> String {
    match child.wait() {
        Ok(status) => format!("the new process ended before it was ready ({status}); what it said is above"),
        Err(error) => format!("the new process is gone: {error}"),
    }
}

/// What this process was given by the one before it.
pub struct Inheritance {
    pub(super) given: Given,
    pub(super) admin: Option<(String, OwnedFd)>,
    pub(super) bans: Vec<(IpAddr, Ban)>,
    pub(super) endpoints: Vec<(String, String, Handed)>,
    pub(super) names: Vec<HandedName>,
    pub(super) confirm: Confirm,
}

/// What became of bans while a process started.
#[derive(Debug, Default, PartialEq)]
pub(super) struct BansChanged {
    pub(super) banned: Vec<(IpAddr, Ban)>,
    pub(super) unbanned: Vec<IpAddr>,
}

/// The way to tell the process before us that we serve.
pub(super) struct Confirm(OwnedFd);

/// Takes what the process before us hands over. `None`: there was none. Before anything else opens a descriptor: whatever
/// else came with us is closed.
pub fn inherit() -> io::Result<Option<Inheritance>> {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != "stdin") {
        return Ok(None);
    }
    // A connection accepted just when we were started may have come along: its client would wait for us for ever.
    crate::rt::close_inherited();
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(START_WAIT))?;
    listen_to(socket).map(Some)
}

/// Takes everything that is handed over before we are ready.
fn listen_to(socket: OwnedFd) -> io::Result<Inheritance> {
    let mut given = Given::default();
    let mut admin = None;
    let mut bans = Vec::new();
    let mut endpoints = Vec::new();
    let mut names = Vec::new();
    loop {
        match receive(&socket)? {
            Some((Word::Listener { address, nth, held_elsewhere }, Some(fd))) => {
                let label = Label::Key(Key { address, nth });
                given.sockets.push(GivenSocket { label, socket: TcpListener::from(fd), held_elsewhere });
            }
            Some((Word::Admin { address }, Some(fd))) => admin = Some((address, fd)),
            Some((Word::Bans { banned, .. }, _)) => bans.extend(banned),
            Some((Word::Endpoints(some), _)) => endpoints.extend(some),
            Some((Word::Names(some), _)) => names.extend(some),
            Some((Word::End, _)) => {
                return Ok(Inheritance { given, admin, bans, endpoints, names, confirm: Confirm(socket) });
            }
            Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a socket did not come along")),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Confirm {
    /// Tells the process before us that we are about to accept from these, and waits until it no longer does. What became
    /// of bans meanwhile.
    pub(super) fn ready(self, listeners: Vec<Key>) -> io::Result<BansChanged> {
        let listeners = listeners.into_iter().map(|key| (key.address, key.nth)).collect();
        send(&self.0, &Word::Ready { listeners }, None)?;
        let mut changed = BansChanged::default();
        loop {
            match receive(&self.0)? {
                Some((Word::Bans { banned, unbanned }, _)) => {
                    changed.banned.extend(banned);
                    changed.unbanned.extend(unbanned);
                }
                // Its end is as good as its word: it accepts no more.
                Some(_) | None => return Ok(changed),
            }
        }
    }
}

fn send(socket: &OwnedFd, word: &Word, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let text = serde_json::to_vec(word)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message and its descriptor. `None`: the other end is closed.
fn receive(socket: &OwnedFd) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
    let mut text = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(Some((serde_json::from_slice(&text[..received])?, fd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_go_along_and_so_does_what_becomes_of_them() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair");
        let client = |number: u32| IpAddr::V4(number.into());
        // The longest reason there is, in more messages than one.
        let ban = |until_ms| Ban { until_ms, reason: "\u{1f6aa}".repeat(200).into() };
        let before: Vec<(IpAddr, Ban)> = (0..250).map(|number| (client(number), ban(1_000))).collect();
        let mut now = before.clone();
        now.retain(|(who, _)| *who != client(7));
        now[0].1 = ban(2_000);
        now.push((client(300), ban(3_000)));
        let stands = |number: usize| {
            let handed =
                Handed { drained: true, unhealthy: false, proven: true, ejected: None, level: 0, ejections: 7 };
            ("u".repeat(64), format!("unix:/{}{number:03}", "s".repeat(103)), handed)
        };
        let endpoints: Vec<(String, String, Handed)> = (0..450).map(stands).collect();
        let names: Vec<HandedName> = (0..=255).map(HandedName::longest).collect();
        let estate = Estate {
            listeners: Vec::new(),
            admin: None,
            bans: before.clone(),
            endpoints: endpoints.clone(),
            names: names.clone(),
        };
        let changed = std::thread::scope(|scope| {
            let new = scope.spawn(|| {
                let Inheritance { bans, endpoints: stand, names: lead, confirm, .. } =
                    listen_to(theirs).expect("all of it");
                assert_eq!(bans, before);
                assert_eq!(stand, endpoints);
                assert_eq!(lead, names);
                confirm.ready(Vec::new()).expect("a beginning")
            });
            assert_eq!(talk(&ours, &estate).expect("an answer"), Some(Vec::new()));
            let bans = estate.bans.into_iter().collect();
            Successor { pid: 0, bans, listeners: Vec::new(), socket: ours }.begin(now);
            new.join().expect("the new one")
        });
        let banned = vec![(client(0), ban(2_000)), (client(300), ban(3_000))];
        assert_eq!(changed, BansChanged { banned, unbanned: vec![client(7)] });
    }
}
