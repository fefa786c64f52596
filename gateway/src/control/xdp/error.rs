//! Why the door in the kernel cannot be had, in words an operator can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Mode;

/// None of these stops the gateway: the same lists are enforced in user space.
#[derive(Debug)]
pub enum DoorError {
    UnknownInterface {
        interface: String,
    },
    /// Capabilities the process lacks, by name.
    Capabilities {
        missing: Vec<String>,
    },
    /// There is no BPF file system where the pins belong.
    NoBpffs {
        path: PathBuf,
    },
    /// This user may not write where the pins belong.
    PinsDenied {
        folder: PathBuf,
        error: io::Error,
    },
    /// Another process has this interface's door open.
    Busy {
        interface: String,
    },
    /// A program of somebody else is attached.
    Foreign {
        interface: String,
        name: String,
        id: u32,
    },
    /// What was tried, and how each failed.
    Attach {
        interface: String,
        tried: Vec<(Mode, String)>,
    },
    /// The kernel does not accept the program; the log is its verifier's.
    Verifier {
        log: String,
    },
    /// The table is larger than the program was loaded for, and it is not attached, so it cannot be replaced.
    TableSize {
        words: usize,
        words_max: usize,
    },
    /// No room for another ban.
    BansFull {
        bans_max: u32,
    },
    /// Something of the kernel that should work did not.
    Kernel {
        what: &'static str,
        error: io::Error,
    },
    /// Something of the object or of the maps that should be there is not; our bug, or another object.
    Object {
        what: String,
    },
}

impl DoorError {
    pub(super) fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Kernel { what, error }
    }

    pub(super) fn object(error: impl fmt::Display) -> Self {
        Self::Object { what: error.to_string() }
    }
}

impl fmt::Display for DoorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownInterface { interface } => write!(f, "there is no network interface `{interface}`"),
            Self::Capabilities { missing } => {
                write!(f, "the process lacks {}, which XDP programs need", missing.join(" and "))
            }
            Self::NoBpffs { path } => {
                write!(f, "{} is on no BPF file system; mount one (`mount -t bpf bpf /sys/fs/bpf`)", path.display())
            }
            Self::PinsDenied { folder, error } => {
                let folder = folder.display();
                write!(
                    f,
                    "{folder}: {error}; it must be a folder of this user, who must get to it; under systemd see bawab-door.conf"
                )
            }
            Self::Busy { interface } => {
                write!(f, "another process has the XDP program of `{interface}` in its hands; stop it first")
            }
            Self::Foreign { interface, name, id } => write!(
                f,
                "`{interface}` has an XDP program of somebody else, `{name}` (id {id}); remove it, or leave this interface to it"
            ),
            Self::Attach { interface, tried } => {
                write!(f, "the XDP program cannot be attached to `{interface}`:")?;
                for (nth, (mode, error)) in tried.iter().enumerate() {
                    write!(f, "{} {mode}: {error}", if nth == 0 { "" } else { ";" })?;
                }
                Ok(())
            }
            Self::Verifier { log } => write!(f, "the kernel refuses the XDP program; its log:\n{log}"),
            Self::TableSize { words, words_max } => {
                write!(f, "the lists have {words} words in compiled form, the loaded program takes {words_max}")
            }
            Self::BansFull { bans_max } => write!(f, "{bans_max} addresses are banned already, which is the most"),
            Self::Kernel { what, error } if error.raw_os_error() == Some(libc::E2BIG) => {
                write!(f, "{what}: {error}; it needs Linux 6.0 or newer")
            }
            Self::Kernel { what, error } => write!(f, "{what}: {error}"),
            Self::Object { what } => write!(f, "the XDP object is not as it should be: {what}"),
        }
    }
}

impl std::error::Error for DoorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kernel { error, .. } | Self::PinsDenied { error, .. } => Some(error),
            _ => None,
        }
    }
}
