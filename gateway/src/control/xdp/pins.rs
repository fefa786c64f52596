//! The pins: what keeps the program attached and its maps alive while no gateway runs, and who may touch them.
//!
//! `ROOT/INTERFACE/vLAYOUT/` holds the link and the maps of one layout. The folder of the interface is locked by whoever
//! has the door open.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::LAYOUT;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, statfs};

use super::error::DoorError;
use super::sys::{self, LinkInfo};

/// Where the BPF file system is mounted everywhere.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
const LINK: &str = "LINK";
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The locked folder of an interface.
pub(super) struct Pins {
    /// Of the interface.
    folder: PathBuf,
    _lock: OwnedFd,
}

/// A link that some folder below holds.
pub(super) struct PinnedLink {
    pub(super) link: OwnedFd,
    pub(super) info: LinkInfo,
    folder: PathBuf,
}

impl Pins {
    /// Waits so long for the lock.
    pub(super) fn lock(root: &Path, interface: &str, wait: Duration) -> Result<Self, DoorError> {
        let folder = folder(root, interface);
        fs::create_dir_all(&folder).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                DoorError::PinsDenied { folder: root.to_owned(), error }
            }
            _ => DoorError::Kernel { what: "making a folder for the pins", error },
        })?;
        let lock = rustix::fs::open(&folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| DoorError::Kernel { what: "opening the folder of the pins", error: error.into() })?;
        let end = Instant::now() + wait;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(DoorError::Kernel { what: "locking the pins", error: error.into() });
            }
            if Instant::now() >= end {
                return Err(DoorError::Busy { interface: interface.to_owned() });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(Self { folder, _lock: lock })
    }

    /// The folder of this layout, made if it is not there.
    pub(super) fn current(&self) -> Result<PathBuf, DoorError> {
        let folder = self.folder.join(format!("v{LAYOUT}"));
        fs::create_dir_all(&folder).map_err(DoorError::kernel("making a folder for the pins"))?;
        Ok(folder)
    }

    /// All links of ours, of any layout.
    pub(super) fn links(&self) -> Vec<PinnedLink> {
        let open = |folder: PathBuf| -> io::Result<Option<PinnedLink>> {
            let link = sys::open(&folder.join(LINK))?;
            Ok(sys::link_info(link.as_fd())?.map(|info| PinnedLink { link, info, folder }))
        };
        folders(&self.folder).into_iter().filter_map(|folder| open(folder).ok().flatten()).collect()
    }

    /// Makes this the link of the current layout, and removes the folders of others.
    pub(super) fn keep(&self, link: &OwnedFd) -> Result<(), DoorError> {
        let current = self.current()?;
        match sys::pin(link.as_fd(), &current.join(LINK)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done.map_err(DoorError::kernel("pinning the link"))?,
        }
        for folder in folders(&self.folder).into_iter().filter(|folder| *folder != current) {
            remove(&folder).map_err(DoorError::kernel("removing the pins of another version"))?;
        }
        Ok(())
    }

    /// Removes everything; what the link held is detached with its last descriptor.
    pub(super) fn remove(self) -> io::Result<()> {
        for folder in folders(&self.folder) {
            remove(&folder)?;
        }
        fs::remove_dir(&self.folder)
    }
}

impl PinnedLink {
    /// Removes the pin: the program is detached as soon as `link` is closed.
    pub(super) fn release(self) -> io::Result<()> {
        fs::remove_file(self.folder.join(LINK))
    }
}

/// Whether there are pins for this interface.
pub(super) fn exist(root: &Path, interface: &str) -> bool {
    folder(root, interface).is_dir()
}

/// The pinned map of that name, in the layout of this program.
pub(super) fn map(root: &Path, interface: &str, name: &str) -> PathBuf {
    folder(root, interface).join(format!("v{LAYOUT}")).join(name)
}

/// Interfaces that have pins, as far as their names can be told.
pub(super) fn interfaces(root: &Path) -> Vec<String> {
    let names = folders(root).into_iter();
    names.filter_map(|folder| Some(folder.file_name()?.to_str()?.replace(':', "."))).collect()
}

/// The BPF file system allows no dots in names, and interfaces no colons.
fn folder(root: &Path, interface: &str) -> PathBuf {
    root.join(interface.replace('.', ":"))
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The link first: while it is there, the maps are in use.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(LINK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(folder)
}

/// Whether the nearest folder that exists is on a BPF file system.
pub(super) fn check_bpffs(root: &Path) -> Result<(), DoorError> {
    let nearest = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    match statfs(nearest) {
        // The type is signed or not, wide or not, as the architecture likes; the number fits all of them.
        Ok(about) if about.f_type as u32 == BPF_FS_MAGIC => Ok(()),
        _ => Err(DoorError::NoBpffs { path: root.to_owned() }),
    }
}
