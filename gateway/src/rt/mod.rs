//! The runtime seam: the only files that name monoio. A ring and its thread, sockets with owned buffers, deadlines, wakes.
//!
//! monoio is a thread-per-core io_uring runtime without a release since 2024. Everything the data path asks of it is
//! asked here, so that replacing it means rewriting this folder and nothing else. What it gets wrong is cured here too:
//!
//! | danger | cure |
//! |---|---|
//! | a panic in a task ends the worker with all its connections | [`spawn`] catches it and counts it |
//! | its timers starve behind a busy run queue, and cost an operation each | [`deadline`]: one sweep a core |
//! | a dropped accept loses the connection | [`Listener::accept`] is stopped by a canceller, never dropped |
//! | a dropped read loses its bytes | a read is ended by shutting its socket down, so it always completes |
//! | accepted sockets are inherited by children | [`Listener::accept`] sets close-on-exec |
//! | a name given to connect is resolved on this thread | [`Socket::connect`] takes addresses only |
//! | a waiting receive owns its buffer | [`Reader::readable`] waits without one |
//! | a library that polls cannot own a buffer as long as the kernel does | a [`Lane`] owns it, and the half, between the two |
//! | a wake from another thread costs a channel and may be lost on weak memory | [`wake`]: an eventfd read through the ring |
//!
//! Nothing here wakes its own task: a task that must yield does so through the ring ([`yield_now`]).

mod buf;
mod crew;
pub mod deadline;
mod inherit;
mod lane;
mod ring;
mod select;
mod socket;
mod task;
mod ticker;
pub mod wake;

pub use buf::{Buf, buffers_live, buffers_missed, free_spare_buffers};
pub use crew::{Crew, Job};
pub use inherit::close_inherited;
pub use lane::Lane;
pub use ring::{RingError, RingFlags, run};
pub use select::{Either, Notify, select};
pub use socket::{AcceptStop, Listener, Peer, Reader, Socket, Writer};
pub use task::{panics, sleep, spawn, yield_now};
pub use ticker::Ticker;
