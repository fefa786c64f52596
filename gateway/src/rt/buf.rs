//! One pooled buffer: bytes with room in front for a head and behind for a chunk's end.
//!
//! A buffer belongs to whoever holds it, the kernel included; dropped, it returns to the pool of the thread it is
//! dropped on. Free buffers are reused newest first, so the touched pages stay few and warm.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;

use crate::limits::{BUFFER_BYTES, BUFFER_HEADROOM, BUFFER_TAILROOM, BUFFERS_FREE_KEPT, BUFFERS_FREE_MAX};

const TOTAL: usize = BUFFER_HEADROOM + BUFFER_BYTES + BUFFER_TAILROOM;

/// Not cleared: a fresh buffer costs the pages that are touched and nothing else.
type Memory = Box<[MaybeUninit<u8>]>;

thread_local! {
    static FREE: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
    /// The fewest free buffers there were since the last look.
    static SPARE: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<u64> = const { Cell::new(0) };
    static MISSED: Cell<u64> = const { Cell::new(0) };
}

/// Buffers of this thread that are in use now.
pub fn buffers_live() -> u64 {
    LIVE.get()
}

/// Times this thread's pool was empty and memory was asked for.
pub fn buffers_missed() -> u64 {
    MISSED.get()
}

/// Frees buffers that were not needed since the last call, but for those that are always kept. A burst of large bodies should
/// not hold its memory for ever.
pub fn free_spare_buffers() {
    FREE.with_borrow_mut(|free| {
        let spare = SPARE.replace(free.len()).min(free.len().saturating_sub(BUFFERS_FREE_KEPT));
        // The oldest lie in front.
        free.drain(..spare);
        SPARE.set(free.len());
    });
}

/// A window of bytes in a fixed allocation.
///
/// `BUFFER_HEADROOM` bytes lie free before a fresh window and `BUFFER_TAILROOM` behind a full one, so a head can be put
/// in front of body bytes, and a chunk's end behind them, without moving them.
pub struct Buf {
    memory: Memory,
    /// `start <= end <= memory.len()`, and `memory[start..end]` is initialised.
    start: u32,
    end: u32,
}

impl Buf {
    /// An empty buffer: room for `BUFFER_BYTES`, headroom in front. No allocation while the pool has one.
    pub fn take() -> Buf {
        let free = FREE.with_borrow_mut(|free| {
            let memory = free.pop();
            SPARE.set(SPARE.get().min(free.len()));
            memory
        });
        let memory = free.unwrap_or_else(|| {
            MISSED.set(MISSED.get() + 1);
            Box::new_uninit_slice(TOTAL)
        });
        LIVE.set(LIVE.get() + 1);
        Buf { memory, start: BUFFER_HEADROOM as u32, end: BUFFER_HEADROOM as u32 }
    }

    /// A buffer holding `text`. `None`: it does not fit, headroom and all.
    pub fn copy_of(text: &[u8]) -> Option<Buf> {
        let mut buf = Buf::take();
        if text.len() > TOTAL - BUFFER_TAILROOM {
            return None;
        }
        if text.len() > BUFFER_BYTES {
            buf.start = 0;
            buf.end = 0;
        }
        buf.append(text).then_some(buf)
    }

    pub fn bytes(&self) -> &[u8] {
        let window = &self.memory[self.start as usize..self.end as usize];
        // SAFETY: the window is initialised: every method that widens it has written what it adds.
        unsafe { window.assume_init_ref() }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let window = &mut self.memory[self.start as usize..self.end as usize];
        // SAFETY: as for `bytes`.
        unsafe { window.assume_init_mut() }
    }

    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that still fit behind the window, the room for a chunk's end left out.
    pub fn room(&self) -> usize {
        (TOTAL - BUFFER_TAILROOM).saturating_sub(self.end as usize)
    }

    /// Bytes that fit in front of the window.
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Adds `text` behind the window, tail room included. `false`: it does not fit, nothing was added.
    #[must_use]
    pub fn append(&mut self, text: &[u8]) -> bool {
        let end = self.end as usize;
        let Some(space) = self.memory.get_mut(end..end + text.len()) else { return false };
        space.write_copy_of_slice(text);
        self.end += text.len() as u32;
        true
    }

    /// Puts `text` in front of the window. `false`: it does not fit, nothing was added.
    #[must_use]
    pub fn prepend(&mut self, text: &[u8]) -> bool {
        let Some(start) = (self.start as usize).checked_sub(text.len()) else { return false };
        self.memory[start..start + text.len()].write_copy_of_slice(text);
        self.start = start as u32;
        true
    }

    /// Drops the first `n` bytes of the window; all of it when there are fewer.
    pub fn advance(&mut self, n: usize) {
        self.start = (self.start + n as u32).min(self.end);
    }

    /// Keeps the first `n` bytes of the window.
    pub fn truncate(&mut self, n: usize) {
        self.end = self.end.min(self.start + n as u32);
    }

    /// Moves the bytes `from..from + len` of the window to `to`, which lies before them.
    pub fn shift(&mut self, from: usize, len: usize, to: usize) {
        self.bytes_mut().copy_within(from..from + len, to);
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        LIVE.set(LIVE.get().saturating_sub(1));
        // A buffer may outlive its thread's pool at exit; it is freed then.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < BUFFERS_FREE_MAX {
                free.push(memory);
            }
        });
    }
}

/// The kernel reads the window.
// SAFETY: the heap allocation does not move when the `Buf` does, and `read_ptr` and `bytes_init` describe the window,
// which is initialised and lives as long as `self`.
unsafe impl monoio::buf::IoBuf for Buf {
    fn read_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

/// The kernel writes behind the window; what it wrote joins the window.
// SAFETY: `write_ptr` and `bytes_total` describe the rest of the allocation behind the window, tail room left out, and
// `set_init` is told how much of exactly that was filled, so the window stays initialised.
unsafe impl monoio::buf::IoBufMut for Buf {
    fn write_ptr(&mut self) -> *mut u8 {
        let end = self.end as usize;
        self.memory[end..].as_mut_ptr().cast()
    }

    fn bytes_total(&mut self) -> usize {
        self.room()
    }

    unsafe fn set_init(&mut self, n: usize) {
        debug_assert!(n <= self.room(), "the kernel filled no more than it was offered");
        self.end += n as u32;
    }
}

/// A buffer offered to one read, of which only so much may be filled.
pub(super) struct UpTo {
    pub(super) buf: Buf,
    pub(super) limit: usize,
}

// SAFETY: as for `Buf`; offering less of the same space changes nothing about it.
unsafe impl monoio::buf::IoBufMut for UpTo {
    fn write_ptr(&mut self) -> *mut u8 {
        monoio::buf::IoBufMut::write_ptr(&mut self.buf)
    }

    fn bytes_total(&mut self) -> usize {
        self.buf.room().min(self.limit)
    }

    unsafe fn set_init(&mut self, n: usize) {
        // SAFETY: the kernel filled `n` bytes behind the window, passed on as told.
        unsafe { monoio::buf::IoBufMut::set_init(&mut self.buf, n) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_goes_in_front_and_an_end_behind_a_full_window() {
        let mut buf = Buf::take();
        assert!(buf.append(&vec![b'x'; BUFFER_BYTES]));
        assert_eq!(buf.room(), 0);
        assert!(buf.prepend(&[b'h'; BUFFER_HEADROOM]));
        assert!(!buf.prepend(b"h"));
        assert!(buf.append(&[b'e'; BUFFER_TAILROOM]));
        assert!(!buf.append(b"e"));
        assert_eq!(buf.len(), TOTAL);
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let first = Buf::take();
        let at = first.memory.as_ptr();
        drop(first);
        let missed = buffers_missed();
        let again = Buf::take();
        assert_eq!(again.memory.as_ptr(), at);
        assert_eq!(buffers_missed(), missed);
        assert!(again.is_empty());
    }

    #[test]
    fn what_a_burst_has_left_is_freed_once_it_was_not_needed() {
        let free = || FREE.with_borrow(Vec::len);
        let burst: Vec<Buf> = (0..BUFFERS_FREE_KEPT + 100).map(|_| Buf::take()).collect();
        drop(burst);
        free_spare_buffers();
        assert_eq!(free(), BUFFERS_FREE_KEPT + 100, "all of them were in use since the last look");
        // Forty are used now and then.
        let some: Vec<Buf> = (0..BUFFERS_FREE_KEPT + 40).map(|_| Buf::take()).collect();
        drop(some);
        free_spare_buffers();
        assert_eq!(free(), BUFFERS_FREE_KEPT + 40);
        free_spare_buffers();
        assert_eq!(free(), BUFFERS_FREE_KEPT);
    }

    #[test]
    fn window_edits_keep_the_rest() {
        let mut buf = Buf::copy_of(b"5\r\nhello").expect("fits");
        buf.shift(3, 5, 0);
        buf.truncate(5);
        assert_eq!(buf.bytes(), b"hello");
        buf.advance(4);
        assert_eq!(buf.bytes(), b"o");
        buf.advance(9);
        assert!(buf.is_empty());
    }

    #[test]
    fn a_copy_that_fits_only_without_headroom_fits() {
        assert!(Buf::copy_of(&vec![1; TOTAL - BUFFER_TAILROOM]).is_some());
        assert!(Buf::copy_of(&vec![1; TOTAL - BUFFER_TAILROOM + 1]).is_none());
    }
}
