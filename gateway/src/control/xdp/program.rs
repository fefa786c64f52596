//! The program in the kernel, with its maps, attached or not.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abi::Table;
use abi::compile::TABLE_WORDS_MAX;
use abi::door::{config, map};
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use super::clock::{self, Clock, Moment};
use super::error::DoorError;
use super::maps::{Maps, configuration};
use super::sys;

/// The two entries; the second for drivers that refuse a program for packets in pieces.
pub(super) const DOOR: &str = "door";
pub(super) const DOOR_WHOLE: &str = "door_whole";
const CLOCK: &str = "clock";

/// Words of the tables in the kernel, powers of two: 64 KiB, 1 MiB, 16 MiB, 64 MiB, 128 MiB.
const CAPACITIES: [usize; 5] = [1 << 13, 1 << 17, 1 << 21, 1 << 23, TABLE_WORDS_MAX as usize];

static EMBEDDED: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/prebuilt/door.bpf.o"));

/// The compiled program. Ours is part of the gateway; a test may bring another.
#[derive(Clone)]
pub struct Object(Bytes);

#[derive(Clone)]
enum Bytes {
    Embedded,
    Read(Arc<[u8]>),
}

impl Object {
    pub fn embedded() -> Self {
        Self(Bytes::Embedded)
    }

    /// One that was just built.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Bytes::Read(fs::read(path)?.into())))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Embedded => EMBEDDED,
            Bytes::Read(bytes) => bytes,
        }
    }
}

/// Sources the program makes up instead of reading them, so that a bench does not measure one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Draw {
    /// The packet's.
    #[default]
    Packet,
    /// Any.
    Any,
    /// Any, and nobody is asked about it: what parsing alone costs.
    Nobody,
    /// One of so many, a power of two: [`abi::door::bench_source4`] and `bench_source6` of 0 to that.
    Listed(u32),
}

/// How a packet fared in a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// The program's word: see the constants.
    pub action: u32,
    /// Of one run, on average.
    pub time: Duration,
}

impl Trial {
    pub const ABORTED: u32 = 0;
    pub const DROP: u32 = 1;
    pub const PASS: u32 = 2;
}

/// Lists in the kernel that no packet is judged by.
pub struct Staged {
    lists: OwnedFd,
    capacity: usize,
}

/// Runs a loaded program, from any thread, whatever happens to its maps meanwhile.
pub struct Runner {
    program: OwnedFd,
}

impl Runner {
    fn new(program: &Xdp) -> Result<Self, DoorError> {
        let program = program.fd().map_err(DoorError::object)?.as_fd().try_clone_to_owned();
        Ok(Self { program: program.map_err(DoorError::kernel("copying a descriptor"))? })
    }

    /// Any program, for a bench that has others.
    pub fn of(program: OwnedFd) -> Self {
        Self { program }
    }

    /// On a packet that nobody sent, again and again. At least 14 bytes: the kernel wants a frame.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Result<Trial, DoorError> {
        self.test(frame, repeat, None)
    }

    /// The same, but the packets go where the program says, as if the interface of this number had received them: a
    /// generator, if it sends them back.
    pub fn run_live(&self, frame: &[u8], repeat: u32, interface: u32) -> Result<(), DoorError> {
        self.test(frame, repeat, Some(interface)).map(drop)
    }

    fn test(&self, frame: &[u8], repeat: u32, live: Option<u32>) -> Result<Trial, DoorError> {
        let (action, nanos) = sys::test_run(self.program.as_fd(), frame, repeat, live)
            .map_err(DoorError::kernel("trying the XDP program"))?;
        Ok(Trial { action, time: Duration::from_nanos(nanos.into()) })
    }
}

/// The loaded program with one generation of lists.
pub struct Program {
    ebpf: Ebpf,
    /// The array of maps whose only slot holds the lists.
    slot: OwnedFd,
    capacity: usize,
    maps: Maps,
}

impl Program {
    /// Loads the program by itself, for trials: its maps are its own, and it is attached nowhere. `room` is for tables
    /// that come later.
    pub fn load(object: &Object, table: &Table, room: usize, draw: Draw) -> Result<Self, DoorError> {
        Self::load_with(object, table, room, draw, None)
    }

    /// With `pins`, the maps that are pinned there are taken and the others are made and pinned there; but for the lists,
    /// which are always new: the program that is attached meanwhile keeps its own.
    pub(super) fn load_with(
        object: &Object,
        table: &Table,
        room: usize,
        draw: Draw,
        pins: Option<&Path>,
    ) -> Result<Self, DoorError> {
        let words = table.words().len().max(room);
        let capacity = CAPACITIES.into_iter().find(|capacity| *capacity >= words).unwrap_or(TABLE_WORDS_MAX as usize);
        let lists = fill(table, capacity)?;
        let slot = sys::create_slot("bawab_lists", lists.as_fd()).map_err(DoorError::kernel("creating a map"))?;
        sys::set_slot(slot.as_fd(), lists.as_fd()).map_err(DoorError::kernel("setting the lists"))?;

        let mask = capacity as u32 - 1;
        let (draw, draw_mask) = match draw {
            Draw::Packet => (0_u32, 0),
            Draw::Any => (1, 0),
            Draw::Nobody => (3, 0),
            Draw::Listed(count) => (2, count - 1),
        };
        // aya takes a map that exists from a pin only.
        let passage = Passage::new(pins, &slot)?;
        let mut loader = EbpfLoader::new();
        loader.btf(None).map_pin_path(map::LISTS, passage.path.as_path());
        loader.override_global("TABLE_MASK", &mask, true);
        loader.override_global("DRAW", &draw, true).override_global("DRAW_MASK", &draw_mask, true);
        for name in map::ALL.into_iter().filter(|name| *name != map::LISTS) {
            if let Some(pins) = pins {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let mut ebpf = loader.load(object.bytes()).map_err(DoorError::object)?;
        drop(passage);

        let config = configuration(&ebpf)?;
        let clock = clock(&mut ebpf, u32::try_from(config.load(config::HZ)).ok().filter(|hz| *hz > 0))?;
        if config.load(config::SEED) == 0 {
            let seed = getrandom::u64().map_err(|error| DoorError::Kernel {
                what: "asking for randomness",
                error: std::io::Error::other(error.to_string()),
            })?;
            config.store(config::SEED, seed | 1);
        }
        let maps = Maps::take(&mut ebpf, config, clock)?;
        Ok(Self { ebpf, slot, capacity, maps })
    }

    /// Replaces the lists: every packet is judged by all of the old ones or all of the new ones. Returns when no packet is
    /// judged by the old ones any more, which takes some milliseconds.
    pub fn publish(&mut self, table: &Table) -> Result<(), DoorError> {
        let staged = self.stage(table)?;
        self.swap(staged)
    }

    /// The slower half of [`Program::publish`]: the lists are in the kernel, and nobody asks them yet.
    pub fn stage(&self, table: &Table) -> Result<Staged, DoorError> {
        let words = table.words().len();
        if words > self.capacity {
            return Err(DoorError::TableSize { words, words_max: self.capacity });
        }
        Ok(Staged { lists: fill(table, self.capacity)?, capacity: self.capacity })
    }

    /// The other half: one store, and waiting for those who look at the old ones.
    pub fn swap(&mut self, staged: Staged) -> Result<(), DoorError> {
        if staged.capacity != self.capacity {
            return Err(DoorError::TableSize { words: staged.capacity, words_max: self.capacity });
        }
        sys::set_slot(self.slot.as_fd(), staged.lists.as_fd()).map_err(DoorError::kernel("setting the lists"))
    }

    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    pub fn maps_mut(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Runs the program on packets that nobody sent.
    pub fn runner(&mut self) -> Result<Runner, DoorError> {
        Runner::new(self.entry(DOOR)?)
    }

    /// Instructions the verifier looked at; `None` where the kernel does not say.
    pub fn verified_instructions(&mut self) -> Result<Option<u32>, DoorError> {
        Ok(self.entry(DOOR)?.info().map_err(DoorError::object)?.verified_instruction_count())
    }

    /// How often the kernel ran the program and for how many nanoseconds, while it keeps such statistics
    /// (`kernel.bpf_stats_enabled`).
    pub fn run_stats(&mut self) -> Result<(u64, u64), DoorError> {
        let fd = self.entry(DOOR)?.fd().map_err(DoorError::object)?.as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
            .map_err(DoorError::kernel("reading the statistics of the program"))?;
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Ok((number("run_cnt"), number("run_time_ns")))
    }

    /// An entry of the object, in the kernel.
    pub(super) fn entry(&mut self, name: &str) -> Result<&mut Xdp, DoorError> {
        entry(&mut self.ebpf, name)
    }
}

fn fill(table: &Table, capacity: usize) -> Result<OwnedFd, DoorError> {
    sys::filled("bawab_table", table.words(), capacity).map_err(DoorError::kernel("creating a map for the lists"))
}

fn entry<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, DoorError> {
    let program = ebpf.program_mut(name).ok_or_else(|| DoorError::object(format!("it has no program `{name}`")))?;
    let program: &mut Xdp = program.try_into().map_err(DoorError::object)?;
    if program.fd().is_err() {
        program.load().map_err(|error| match error {
            ProgramError::LoadError { io_error, verifier_log } if io_error.raw_os_error() != Some(libc::EPERM) => {
                DoorError::Verifier { log: format!("{io_error}\n{verifier_log}") }
            }
            ProgramError::LoadError { io_error, .. } => {
                DoorError::Kernel { what: "loading the XDP program", error: io_error }
            }
            error => DoorError::object(error),
        })?;
    }
    Ok(program)
}

/// Asks the program's clock; its rate as well, if nobody did before.
fn clock(ebpf: &mut Ebpf, hz: Option<u32>) -> Result<Clock, DoorError> {
    let first = moment(ebpf)?;
    if let Some(hz) = hz {
        return Ok(Clock::new(first, hz));
    }
    loop {
        std::thread::sleep(clock::MEASURED);
        let second = moment(ebpf)?;
        if let Some(hz) = clock::rate(first, second) {
            return Ok(Clock::new(second, hz));
        }
    }
}

fn moment(ebpf: &mut Ebpf) -> Result<Moment, DoorError> {
    let mut frame = [0; 64];
    let options = TestRunOptions { data_in: Some(&[0; 64]), data_out: Some(&mut frame), ..TestRunOptions::default() };
    entry(ebpf, CLOCK)?.test_run(options).map_err(DoorError::object)?;
    let word = |at: usize| u64::from_ne_bytes(*frame[at..].first_chunk().expect("sixteen bytes"));
    Ok(Moment { jiffies: word(0), nanos: word(8) })
}

/// A pin for the time of loading, gone with this value.
struct Passage {
    path: PathBuf,
}

impl Passage {
    fn new(pins: Option<&Path>, map: &OwnedFd) -> Result<Self, DoorError> {
        let folder = pins.unwrap_or(Path::new(super::pins::BPFFS));
        let path = folder.join(format!("bawab_lists_{}_{}", std::process::id(), map.as_raw_fd()));
        _ = fs::remove_file(&path);
        sys::pin(map.as_fd(), &path).map_err(DoorError::kernel("pinning a map"))?;
        Ok(Self { path })
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a pin could not be removed");
        }
    }
}
