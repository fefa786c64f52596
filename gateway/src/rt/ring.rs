//! Starts a worker's ring with the best flags this kernel takes, or says what refuses io_uring.

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use io_uring::IoUring;
use monoio::{IoUringDriver, RuntimeBuilder};

use super::{deadline, task};

/// How a ring was set up. Better ones save 15 to 18 % of the CPU a request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingFlags {
    /// One thread submits, and completions are run when it asks for them (Linux 6.1).
    DeferTaskrun,
    /// Completions do not interrupt the thread (Linux 5.19).
    CoopTaskrun,
    /// Neither.
    Plain,
}

impl RingFlags {
    const LADDER: [RingFlags; 3] = [RingFlags::DeferTaskrun, RingFlags::CoopTaskrun, RingFlags::Plain];

    fn builder(self) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        match self {
            RingFlags::DeferTaskrun => builder.setup_single_issuer().setup_defer_taskrun(),
            RingFlags::CoopTaskrun => builder.setup_coop_taskrun(),
            RingFlags::Plain => &mut builder,
        };
        builder
    }

    /// The best flags this kernel takes. Every worker uses the same.
    pub fn probe() -> Result<RingFlags, RingError> {
        let mut refused = None;
        for flags in RingFlags::LADDER {
            match flags.builder().build(8) {
                Ok(_) => return Ok(flags),
                // An unknown flag is EINVAL; everything else would refuse the next rung as well, but asking is cheap.
                Err(error) => refused = Some(error),
            }
        }
        Err(RingError { cause: refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into()) })
    }
}

/// io_uring is not to be had.
#[derive(Debug)]
pub struct RingError {
    cause: io::Error,
}

impl std::error::Error for RingError {}

impl std::fmt::Display for RingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "io_uring is refused here ({}); the gateway needs it: ", self.cause)?;
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        match (self.cause.raw_os_error(), disabled.trim()) {
            (Some(libc::EPERM | libc::EACCES), "1" | "2") => f.write_str(
                "the sysctl kernel.io_uring_disabled forbids it, set it to 0 (or 1 and start with CAP_SYS_ADMIN or in \
                 the group of kernel.io_uring_group)",
            ),
            (Some(libc::EPERM | libc::EACCES), _) => f.write_str(
                "a seccomp profile forbids it, as container engines do by default; allow io_uring_setup, \
                 io_uring_enter and io_uring_register",
            ),
            (Some(libc::ENOSYS), _) => f.write_str("this kernel is built without it; Linux 5.19 or newer has it"),
            (Some(libc::ENOMEM), _) => f.write_str("locked memory is used up; raise LimitMEMLOCK or `ulimit -l`"),
            (Some(libc::EMFILE | libc::ENFILE), _) => f.write_str("no file descriptor is free; raise `ulimit -n`"),
            _ => f.write_str("Linux 5.19 or newer has it"),
        }
    }
}

/// Runs `task` on a new ring of this thread until it ends or panics. Connections that are open then are shut down, what was
/// spawned has [`ENDS_WITHIN`] to notice, and the ring is closed.
pub fn run<F: Future>(flags: RingFlags, entries: u32, task: F) -> Result<F::Output, RingError> {
    let runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(entries)
        .uring_builder(flags.builder())
        .enable_timer()
        .build()
        .map_err(|cause| RingError { cause })?;
    let _shut_all = ShutAll;
    let mut runtime = ManuallyDrop::new(runtime);
    let (output, all_ended) = runtime.block_on(async {
        let output = task.await;
        deadline::end_all();
        (output, task::all_ended(ENDS_WITHIN).await)
    });
    if all_ended {
        drop(ManuallyDrop::into_inner(runtime));
    } else {
        // A task that waits holds the ring, which holds the task: dropping would leak the ring all the same, and close
        // sockets under the kernel's feet.
        tracing::warn!("a worker's tasks did not end; its ring and what they hold stay until the process ends");
    }
    Ok(output)
}

/// What has to be done on the way out takes microseconds; the longest of it is a tick.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// Shuts down what is open when the ring's thread has run its last task, by a panic too.
struct ShutAll;

impl Drop for ShutAll {
    fn drop(&mut self) {
        deadline::shut_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_refuses() {
        let text = |errno| RingError { cause: io::Error::from_raw_os_error(errno) }.to_string();
        assert!(text(libc::EPERM).contains("io_uring_setup") || text(libc::EPERM).contains("io_uring_disabled"));
        assert!(text(libc::ENOSYS).contains("this kernel is built without it"));
        assert!(text(libc::ENOMEM).contains("LimitMEMLOCK"));
    }
}
