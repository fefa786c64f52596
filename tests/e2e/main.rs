//! The cases: the real binary, real sockets.

mod wire;
