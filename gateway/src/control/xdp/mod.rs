//! The door in the kernel: loads the XDP program, attaches it, fills its maps, and leaves it there. The only user of aya.
//!
//! A [`Door`] is one interface. While it is open, this process alone writes the maps (a lock on the pins says so); when it is
//! dropped, or the process dies, the program stays attached and goes on with what it was told last. The next [`Door::open`]
//! finds it, takes over bans and counters, and replaces the program without a packet that meets none. [`detach`] ends it.
//!
//! Everything here blocks for microseconds, but opening (up to 200 ms) and publishing (5 to 50 ms): it is for the control
//! thread or one beside it. The lists come compiled ([`abi::Table`]), safe and complete: nothing here knows what must not be
//! denied. What the program does with a packet is told in `ebpf/src/main.rs`.
//!
//! ```text
//! let table = Table::compile(&entries, seed)?;
//! let mut door = Door::open("eth0", &Settings::default(), &table)?;      // DoorError says what is missing
//! door.maps_mut().set_syn_limits(&limits);
//! door.publish(&Table::compile(&others, seed)?)?;                        // whole generations, atomically
//! door.maps_mut().ban(Banned::client(addr), Duration::from_secs(600), reason, false)?;
//! every second: door.maps_mut().sweep(); while let Some(event) = door.maps_mut().event() { .. }
//! ```

mod clock;
mod error;
mod maps;
mod netlink;
mod pins;
mod program;
mod sys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use abi::Table;
use abi::door::{config, map};
use aya::programs::loaded_programs;
use caps::{CapSet, Capability};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

pub use error::DoorError;
pub use maps::{Ban, Banned, Count, Maps, Rate, SynLimits};
pub use program::{Draw, Object, Program, Runner, Staged, Trial};

use netlink::Attached;
use pins::{PinnedLink, Pins};
use program::{DOOR, DOOR_WHOLE};

/// What the XDP program of an interface is run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The driver, which may hand over packets in pieces.
    NativeFrags,
    /// The driver.
    Native,
    /// The stack, after it made a buffer for the packet: correct, and several times slower.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NativeFrags => "native with fragments",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Which of them will do. `Auto` takes the first that works, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModeChoice {
    #[default]
    Auto,
    Native,
    Generic,
}

impl ModeChoice {
    /// What is tried, in this order: the mode, and the entry of the object.
    fn attempts(self) -> &'static [(Mode, &'static str)] {
        const ALL: [(Mode, &str); 4] =
            [(Mode::NativeFrags, DOOR), (Mode::Native, DOOR_WHOLE), (Mode::Generic, DOOR), (Mode::Generic, DOOR_WHOLE)];
        match self {
            Self::Auto => &ALL,
            Self::Native => &ALL[..2],
            Self::Generic => &ALL[2..],
        }
    }

    fn takes(self, native: bool) -> bool {
        match self {
            Self::Auto => true,
            Self::Native => native,
            Self::Generic => !native,
        }
    }
}

/// How a door is opened.
#[derive(Clone)]
pub struct Settings {
    pub mode: ModeChoice,
    /// The folder of the pins, on a BPF file system.
    pub pins: PathBuf,
    /// How long to wait for another process to close the door, as one does that hands over.
    pub wait: Duration,
    pub object: Object,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: ModeChoice::Auto,
            pins: Path::new(pins::BPFFS).join("bawab"),
            wait: Duration::ZERO,
            object: Object::embedded(),
        }
    }
}

/// The program on one interface.
pub struct Door {
    interface: String,
    number: u32,
    mode: Mode,
    object: Object,
    program: Program,
    pins: Pins,
}

impl Door {
    /// Attaches the program with these lists, or puts it in the place of the one an earlier process left. Bans, counters and
    /// the bypass word are kept over that; limits and flags too, until they are set.
    ///
    /// A door that was attached in a mode that `settings` does not take is detached first, so some packets meet none.
    pub fn open(interface: &str, settings: &Settings, table: &Table) -> Result<Self, DoorError> {
        let number = number(interface)?;
        check_capabilities()?;
        pins::check_bpffs(&settings.pins)?;
        sys::unlimit_memlock();
        let pins = Pins::lock(&settings.pins, interface, settings.wait)?;
        let attached = netlink::attached(number).map_err(DoorError::kernel("asking for the attached program"))?;
        let kept = find(&pins, interface, number, attached, settings.mode)?;
        let mut program = Program::load_with(&settings.object, table, 0, Draw::Packet, Some(&pins.current()?))?;
        let (link, mode) = match kept {
            Some((kept, native)) => {
                let mode = replace(&mut program, &kept, native)?;
                (kept.link, mode)
            }
            None => attach(&mut program, interface, number, settings.mode)?,
        };
        pins.keep(&link)?;
        Ok(Self { interface: interface.to_owned(), number, mode, object: settings.object.clone(), program, pins })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the program is on the interface still. An interface that vanishes takes it along, also when one of the same
    /// name comes back: open the door again then.
    pub fn is_attached(&self) -> bool {
        number(&self.interface).is_ok_and(|number| number == self.number) && live(&self.pins, self.number).is_some()
    }

    /// Replaces the lists: every packet is judged by all of the old ones or all of the new ones. On return none is judged by
    /// the old ones any more.
    pub fn publish(&mut self, table: &Table) -> Result<(), DoorError> {
        match self.program.publish(table) {
            // A larger one needs maps of another size, and so another program: it comes with its lists.
            Err(DoorError::TableSize { .. }) => {
                let mut program =
                    Program::load_with(&self.object, table, 0, Draw::Packet, Some(&self.pins.current()?))?;
                let link = live(&self.pins, self.number).ok_or_else(|| DoorError::Kernel {
                    what: "replacing the program",
                    error: std::io::Error::other("it is not attached any more"),
                })?;
                self.mode = replace(&mut program, &link, self.mode != Mode::Generic)?;
                self.program = program;
                Ok(())
            }
            done => done,
        }
    }

    /// Bans, counters, limits, samples, bypass.
    pub fn maps(&self) -> &Maps {
        self.program.maps()
    }

    pub fn maps_mut(&mut self) -> &mut Maps {
        self.program.maps_mut()
    }

    /// The program itself, for trials.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Detaches the program and removes everything, bans and counters included.
    pub fn detach(self) -> Result<(), DoorError> {
        self.pins.remove().map_err(DoorError::kernel("removing the pins"))
    }
}

/// How long a gateway that has just ended may still seem to have the door: a program it was starting has its descriptors for
/// a moment.
const DETACH_WAIT: Duration = Duration::from_secs(1);

/// Detaches what an earlier process left on an interface and removes all of it, also if the interface is gone. Whether
/// there was anything. [`DoorError::Busy`] while a gateway has it open.
pub fn detach(interface: &str, pins: &Path) -> Result<bool, DoorError> {
    if !pins::exist(pins, interface) {
        return Ok(false);
    }
    let pins = Pins::lock(pins, interface, DETACH_WAIT)?;
    pins.remove().map_err(DoorError::kernel("removing the pins"))?;
    Ok(true)
}

/// Turns every drop of an interface's program off, or on again, without opening its door: one word, so also beside a gateway
/// that has it open, and when none runs. Whether there is such a program.
pub fn set_bypass(interface: &str, pins: &Path, on: bool) -> Result<bool, DoorError> {
    let map = match sys::open(&pins::map(pins, interface, map::CONFIG)) {
        Ok(map) => map,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(DoorError::Kernel { what: "opening the pinned configuration", error }),
    };
    let words =
        sys::Mapping::new(map.as_fd(), config::WORDS).map_err(DoorError::kernel("mapping the pinned configuration"))?;
    words.store(config::BYPASS, u64::from(on));
    Ok(true)
}

/// The interfaces that [`detach`] has something to do for.
pub fn pinned_interfaces(pins: &Path) -> Vec<String> {
    pins::interfaces(pins)
}

fn number(interface: &str) -> Result<u32, DoorError> {
    let unknown = || DoorError::UnknownInterface { interface: interface.to_owned() };
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .map_err(|error| DoorError::Kernel { what: "opening a socket", error: error.into() })?;
    netdevice::name_to_index(&socket, interface).map_err(|_| unknown())
}

/// Said before anything fails with no more than EPERM.
fn check_capabilities() -> Result<(), DoorError> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    // CAP_SYS_ADMIN stands for the newer two.
    let admin = has(Capability::CAP_SYS_ADMIN);
    let needed = [(Capability::CAP_NET_ADMIN, false), (Capability::CAP_BPF, admin), (Capability::CAP_PERFMON, admin)];
    let missing: Vec<String> =
        needed.into_iter().filter(|(one, is_given)| !is_given && !has(*one)).map(|(one, _)| one.to_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(DoorError::Capabilities { missing }) }
}

/// The pinned link that is attached to this interface. One whose interface is gone has the number 0.
fn live(pins: &Pins, number: u32) -> Option<PinnedLink> {
    pins.links().into_iter().find(|link| link.info.interface == number)
}

/// What an earlier process left that can be taken over, and whether it is native. Links of interfaces that are gone, and
/// one of a mode that is not wanted, are removed; somebody else's program is an error.
fn find(
    pins: &Pins,
    interface: &str,
    number: u32,
    attached: Option<Attached>,
    choice: ModeChoice,
) -> Result<Option<(PinnedLink, bool)>, DoorError> {
    let kept = live(pins, number);
    let (kept, attached) = match (kept, attached) {
        (Some(kept), Some(attached)) => (Some(kept), attached.native),
        (None, Some(attached)) => {
            // Only CAP_SYS_ADMIN may look at programs by their number.
            let name = name_of(attached.program).unwrap_or_else(|| "?".to_owned());
            return Err(DoorError::Foreign { interface: interface.to_owned(), name, id: attached.program });
        }
        _ => (None, false),
    };
    let wanted = kept.filter(|_| choice.takes(attached));
    let program = wanted.as_ref().map(|link| link.info.program);
    for link in pins.links().into_iter().filter(|link| Some(link.info.program) != program) {
        link.release().map_err(DoorError::kernel("removing an old link"))?;
    }
    Ok(wanted.map(|link| (link, attached)))
}

fn name_of(program: u32) -> Option<String> {
    let programs = loaded_programs().filter_map(Result::ok);
    programs.into_iter().find(|info| info.id() == program)?.name_as_str().map(str::to_owned)
}

/// Puts the program in the place of the one that the link has.
fn replace(program: &mut Program, kept: &PinnedLink, native: bool) -> Result<Mode, DoorError> {
    // Only CAP_SYS_ADMIN may open a program by its number. Without it the link's program is replaced unseen: the lock on the
    // pins is ours, so it is ours, too.
    let old = loaded_programs().filter_map(Result::ok).find(|info| info.id() == kept.info.program);
    let old = old.and_then(|info| info.fd().ok());
    let old = old.as_ref().map(AsFd::as_fd);
    let mut tried = Vec::new();
    for (mode, entry) in ModeChoice::Auto.attempts().iter().filter(|(mode, _)| (*mode != Mode::Generic) == native) {
        let new = program.entry(entry)?.fd().map_err(DoorError::object)?;
        match sys::update_link(kept.link.as_fd(), new.as_fd(), old) {
            Ok(()) => return Ok(*mode),
            Err(error) => tried.push((*mode, error.to_string())),
        }
    }
    Err(DoorError::Attach { interface: "its link".to_owned(), tried })
}

/// The ladder.
fn attach(
    program: &mut Program,
    interface: &str,
    number: u32,
    choice: ModeChoice,
) -> Result<(OwnedFd, Mode), DoorError> {
    let mut tried = Vec::new();
    for (mode, entry) in choice.attempts() {
        let new = program.entry(entry)?.fd().map_err(DoorError::object)?;
        match sys::create_link(new.as_fd(), number, *mode != Mode::Generic) {
            Ok(link) => return Ok((link, *mode)),
            Err(error) => tried.push((*mode, why(&error))),
        }
    }
    Err(DoorError::Attach { interface: interface.to_owned(), tried })
}

/// The kernel's number in words; the driver's own words go to the kernel's log only.
fn why(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver cannot".to_owned(),
        Some(libc::ERANGE | libc::EINVAL) => format!("{error}; the MTU may be too large for this"),
        Some(libc::EBUSY) => format!("{error}; somebody attached another program meanwhile"),
        _ => error.to_string(),
    }
}
