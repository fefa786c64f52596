//! Descriptors a process was started with.

/// Closes every descriptor but the three standard ones. For the very beginning of a process, which owns none of them yet.
pub fn close_inherited() {
    // SAFETY: the caller is at the start of the process, so nothing in it holds one of these.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}
