//! What the kernel says about this process, asked at scrape time. Each answer is `None` where /proc does not give it: a
//! container may hide it, and a scrape without one figure is better than none.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of all threads so far, user and system.
pub(super) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident memory.
pub(super) fn resident_memory_bytes() -> Option<u64> {
    resident_bytes_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Open file descriptors. Costs a walk over the folder, about a millisecond for ten thousand.
pub(super) fn open_fds() -> Option<u64> {
    // One of them is the descriptor of the walk itself.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64)
}

/// The limit `open_fds` must stay below. `None` as well when there is none.
pub(super) fn max_fds() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// `VmRSS:      5120 kB`
fn resident_bytes_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn resident_memory_is_read_from_its_line_alone() {
        assert_eq!(resident_bytes_in("VmHWM:\t 9 kB\nVmRSS:\t    5120 kB\nRssAnon:\t 1 kB\n"), Some(5_242_880));
        assert_eq!(resident_bytes_in("VmHWM:\t 9 kB\n"), None);
        assert_eq!(resident_bytes_in("VmRSS:\t many kB\n"), None);
    }

    #[test]
    fn open_files_are_counted_and_below_the_limit() {
        let files: Vec<File> = (0..64).map(|_| File::open("/proc/self/status").unwrap()).collect();
        let open = open_fds().unwrap();
        assert!(open >= files.len() as u64, "{open}");
        assert!(max_fds().is_none_or(|max| open < max));
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = cpu_seconds();
        let mut work = 0_u64;
        while cpu_seconds() == before {
            work = std::hint::black_box(work.wrapping_add(1));
        }
        assert!(cpu_seconds() > before);
    }
}
