//! The few things of bpf(2) that aya has no words for: maps whose value is as large as a table, their memory mapped, a slot
//! of an array of maps, and links that are links or nothing. Each wrapper is safe: what it takes is owned or borrowed, and lengths are its own.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Resource, Rlimit, setrlimit};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Calls bpf(2). `T` is the part of `union bpf_attr` that the command reads.
///
/// # Safety
/// Every pointer in the attributes is valid for what the command reads or writes there, until it returns.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are valid for their size, the kernel takes the rest as zero; what they point to is the
    // caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// An array with one element of so many words, to be mapped.
pub(super) fn create_words(name: &str, words: usize) -> io::Result<OwnedFd> {
    let value_bytes = u32::try_from(words * 8).map_err(|_| io::ErrorKind::InvalidInput)?;
    create(name, BPF_MAP_TYPE_ARRAY, value_bytes, BPF_F_MMAPABLE, 0)
}

/// An array of maps with one slot, for maps like `inner`.
pub(super) fn create_slot(name: &str, inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    create(name, BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 0, raw(inner))
}

fn create(name: &str, map_type: u32, value_bytes: u32, flags: u32, inner_map: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_bytes: u32,
        value_bytes: u32,
        entries_max: u32,
        flags: u32,
        inner_map: u32,
        numa_node: u32,
        name: [u8; 16],
    }
    let mut attributes =
        Create { map_type, key_bytes: 4, value_bytes, entries_max: 1, flags, inner_map, numa_node: 0, name: [0; 16] };
    // Fifteen bytes and a zero.
    for (to, from) in attributes.name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    // SAFETY: no pointers.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes)? };
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `inner` into the only slot. On return no program uses the map that was there before: the kernel waits for them.
pub(super) fn set_slot(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let (key, value) = (0_u32, raw(inner));
    let (key, value) = ((&raw const key) as u64, (&raw const value) as u64);
    // SAFETY: key and value are four bytes each, as the map was made, and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut Update { map: raw(outer), padding: 0, key, value, flags: 0 })? };
    Ok(())
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Gives a map, program or link a name on the BPF file system, which keeps it alive.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut Object { path: path.as_ptr() as u64, fd: raw(object), flags: 0 })? };
    Ok(())
}

/// Opens what was pinned.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut Object { path: path.as_ptr() as u64, fd: 0, flags: 0 })? };
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to an interface. Not by aya, which falls back to netlink without a word when the kernel says EINVAL:
/// such an attachment cannot be pinned, ends nothing when it should, and replaces what somebody else attached.
pub(super) fn create_link(program: BorrowedFd<'_>, interface: u32, native: bool) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
    }
    let flags = if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
    // SAFETY: no pointers.
    let fd =
        unsafe { bpf(BPF_LINK_CREATE, &mut Create { program: raw(program), interface, attach_type: BPF_XDP, flags })? };
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link, without a packet that meets none. With `old` only if it has that program still.
pub(super) fn update_link(
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old: u32,
    }
    let (flags, old) = old.map_or((0, 0), |old| (BPF_F_REPLACE, raw(old)));
    let mut attributes = Update { link: raw(link), program: raw(program), flags, old };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attributes)? };
    Ok(())
}

/// What a link connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) program: u32,
    /// 0: the interface is gone.
    pub(super) interface: u32,
}

/// `None`: it is no link of an XDP program.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<Option<LinkInfo>> {
    /// `bpf_link_info`, as far as an XDP link fills it.
    #[repr(C, align(8))]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        interface: u32,
        rest: [u32; 7],
    }
    #[repr(C)]
    struct Ask {
        fd: u32,
        bytes: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut ask = Ask { fd: raw(link), bytes: size_of::<Info>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: the kernel writes at most the bytes that are said, all of which may hold anything.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask)? };
    Ok((info.kind == BPF_LINK_TYPE_XDP).then_some(LinkInfo { program: info.program, interface: info.interface }))
}

/// Runs a program `repeat` times on a frame that nobody sent. What it returned at last, and nanoseconds of one run on
/// average. `live`: the frame goes where the program says, as if it had been received by the interface of this number.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    repeat: u32,
    live: Option<u32>,
) -> io::Result<(u32, u32)> {
    #[repr(C)]
    #[derive(Default)]
    struct Test {
        program: u32,
        result: u32,
        bytes_in: u32,
        bytes_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        nanos: u32,
        context_bytes_in: u32,
        context_bytes_out: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch: u32,
        padding: u32,
    }
    /// `xdp_md`, as far as a test may set it.
    #[repr(C)]
    struct Context {
        data: u32,
        data_end: u32,
        data_meta: u32,
        interface: u32,
        queue: u32,
        egress: u32,
    }
    let bytes_in = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut test = Test { program: raw(program), bytes_in, data_in: frame.as_ptr() as u64, repeat, ..Test::default() };
    let context =
        Context { data: 0, data_end: bytes_in, data_meta: 0, interface: live.unwrap_or(0), queue: 0, egress: 0 };
    if live.is_some() {
        test.context_in = (&raw const context) as u64;
        test.context_bytes_in = size_of::<Context>() as u32;
        test.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
        test.batch = 64;
    }
    // SAFETY: frame and context are read for the bytes that are said, and outlive the call; nothing is written out.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut test)? };
    Ok((test.result, test.nanos))
}

/// The words of a map in our address space. The kernel's program reads and we write them, each whole.
pub(super) struct Mapping {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: a pointer to shared memory that is accessed by atomic operations only.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `count` is the number of words the map was made with.
    pub(super) fn new(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        // SAFETY: a new mapping wherever the kernel likes; it touches no memory that is in use.
        let start = unsafe {
            mmap(std::ptr::null_mut(), count * 8, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)?
        };
        let words = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { words, count })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for `count` words as long as `self` lives, page-aligned, zeroed by the kernel.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }

    pub(super) fn load(&self, index: usize) -> u64 {
        self.words()[index].load(Ordering::Relaxed)
    }

    pub(super) fn store(&self, index: usize, word: u64) {
        self.words()[index].store(word, Ordering::Relaxed);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size; nobody has a reference into it any more.
        if let Err(error) = unsafe { munmap(self.words.as_ptr().cast(), self.count * 8) } {
            tracing::warn!(%error, "a map could not be unmapped");
        }
    }
}

/// A new array that holds these words, and zeros up to `capacity`.
pub(super) fn filled(name: &str, words: &[u64], capacity: usize) -> io::Result<OwnedFd> {
    let map = create_words(name, capacity)?;
    let mapping = Mapping::new(map.as_fd(), capacity)?;
    for (to, from) in mapping.words().iter().zip(words) {
        // The map is new: zeros need not be written, and pages of zeros are not touched.
        if *from != 0 {
            to.store(*from, Ordering::Relaxed);
        }
    }
    Ok(map)
}

/// Kernels before 5.11 count maps as locked memory; newer ones do not, so a refusal here is no reason to stop.
pub(super) fn unlimit_memlock() {
    _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}
