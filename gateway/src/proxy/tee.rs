//! A body kept beside its upload, up to a bound: for copies of the request, and to send it again.

use std::cell::{Cell, RefCell};

/// What of a body went up. Seen by the upload while others ask about it, so everything here is behind a shared reference.
pub struct Tee {
    bytes: RefCell<Vec<u8>>,
    bytes_max: usize,
    over: Cell<bool>,
}

impl Tee {
    pub fn new(bytes_max: usize) -> Tee {
        Tee { bytes: RefCell::default(), bytes_max, over: Cell::new(false) }
    }

    /// A piece that is sent to the upstream.
    pub fn see(&self, piece: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        if self.over.get() || bytes.len() + piece.len() > self.bytes_max {
            self.over.set(true);
            // Nobody wants the beginning of a body.
            *bytes = Vec::new();
        } else {
            bytes.extend_from_slice(piece);
        }
    }

    /// A piece went where nobody saw it.
    pub fn lose(&self) {
        self.over.set(true);
    }

    /// It is longer than the bound, or has a hole.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// The body is sent once more, from its beginning.
    pub fn restart(&self) {
        self.bytes.borrow_mut().clear();
        self.over.set(false);
    }

    /// What went up; `None`: not all of it is here.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        (!self.over.get()).then(|| self.bytes.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_kept_up_to_its_bound_and_from_its_beginning() {
        let tee = Tee::new(4);
        tee.see(b"abcd");
        assert!(!tee.is_over());
        tee.see(b"e");
        assert!(tee.is_over());
        tee.restart();
        tee.see(b"ab");
        assert_eq!(tee.into_bytes().as_deref(), Some(&b"ab"[..]));
        let tee = Tee::new(4);
        tee.see(b"abcde");
        tee.see(b"");
        assert_eq!(tee.into_bytes(), None);
        let tee = Tee::new(4);
        tee.lose();
        assert_eq!(tee.into_bytes(), None);
    }
}
