//! A range of bytes in the buffer a head was parsed from.

/// `len` bytes from `start`. Half the size of a slice, and it survives the buffer being moved or grown, which a slice
/// does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    /// The bytes of this span in `bytes`, the buffer it was made from.
    ///
    /// # Panics
    /// When `bytes` is another, shorter buffer: a bug of the caller, not of the peer.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end()]
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first byte after the span.
    #[inline]
    pub fn end(self) -> usize {
        self.start as usize + self.len as usize
    }

    /// Where `part`, a slice of `whole`, lies in it. `whole` is at most 4 GiB: heads are bounded far below.
    #[inline]
    pub(crate) fn within(whole: &[u8], part: &[u8]) -> Span {
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        debug_assert!(start + part.len() <= whole.len(), "part is a slice of whole");
        Span { start: start as u32, len: part.len() as u32 }
    }

    /// The span from `start` up to `end`.
    #[inline]
    pub(crate) fn between(start: usize, end: usize) -> Span {
        debug_assert!(start <= end);
        Span { start: start as u32, len: (end - start) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_finds_its_bytes_again() {
        let whole = b"GET / HTTP/1.1";
        let span = Span::within(whole, &whole[4..5]);
        assert_eq!(span, Span { start: 4, len: 1 });
        assert_eq!(span.of(whole), b"/");
        assert_eq!(span.end(), 5);
        assert!(!span.is_empty());
        assert!(Span::default().of(whole).is_empty());
    }
}
