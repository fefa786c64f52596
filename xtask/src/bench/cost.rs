//! What a process and its core spent between two moments, and what a socket operation costs right now.
//!
//! Two accounts are kept, because each has a blind spot: the process's own time (every thread of it and of its
//! children) leaves out kernel work done for it elsewhere, the core's busy time takes in whatever else ran there.
//! A report counts the worse of the two.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// How long `socket_pair_cost` measures.
const PROBE: Duration = Duration::from_millis(40);
/// A core this busy (0 to 1) without us disturbs what is measured on it.
const BUSY_MAX: f64 = 0.05;
/// Send-and-receive turns between two looks at the clock.
const PROBE_BATCH: u32 = 256;

/// A reading of the counters of one process tree and one core.
pub(super) struct Reading {
    /// Nanoseconds on a CPU, by thread.
    threads: HashMap<u32, u64>,
    /// User and system time by process, in clock ticks; threads that ended are in it.
    processes: HashMap<u32, u64>,
    core: Core,
}

/// What happened between two readings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) process: Duration,
    /// The core's time not idle and not waiting for a disk. Time the hypervisor took is not in it.
    pub(super) core: Duration,
    pub(super) stolen: Duration,
}

#[derive(Clone, Copy)]
struct Core {
    busy_ticks: u64,
    stolen_ticks: u64,
}

impl Reading {
    pub(super) fn take(pid: u32, core: usize) -> Result<Self> {
        let mut threads = HashMap::new();
        let mut processes = HashMap::new();
        for pid in tree(pid)? {
            // A process or thread may end while it is being read: what is gone is left out, never an error.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let fields = after_name(&stat);
            let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            // utime and stime, fields 14 and 15 of proc_pid_stat(5).
            processes.insert(pid, ticks(11) + ticks(12));
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
                continue;
            };
            for task in tasks.flatten() {
                let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
                    continue;
                };
                let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
                let tid = task.file_name().to_str().and_then(|text| text.parse().ok());
                if let (Some(tid), Some(nanos)) = (tid, nanos) {
                    threads.insert(tid, nanos);
                }
            }
        }
        Ok(Self { threads, processes, core: core_ticks(core)? })
    }

    /// What was spent since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Spent {
        let nanos = grown(&earlier.threads, &self.threads);
        let ticks = grown(&earlier.processes, &self.processes);
        let by_threads = Duration::from_nanos(nanos);
        let by_process = from_ticks(ticks);
        // Ticks are coarse and threads that ended are missing from the fine account: believe the coarse one only when
        // it is larger by more than its own grain.
        let process =
            if by_process > by_threads + from_ticks(2 * self.processes.len() as u64) { by_process } else { by_threads };
        Spent {
            process,
            core: from_ticks(self.core.busy_ticks.saturating_sub(earlier.core.busy_ticks)),
            stolen: from_ticks(self.core.stolen_ticks.saturating_sub(earlier.core.stolen_ticks)),
        }
    }
}

/// Resident memory of a process and its children, in KiB. Pages two of them share count once for each.
pub(super) fn resident_kib(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in tree(pid)? {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        sum += line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Two cores this process may use: one for what is measured, one for what loads it.
pub(super) fn cores() -> Result<(usize, usize)> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let measured = cores.next().context("no core to run on")?;
    let loading = cores.next().context("two cores are needed: one for what is measured, one for the load")?;
    Ok((measured, loading))
}

/// How busy a core is while nothing of ours runs, 0 to 1. Says so when that is too much to measure beside.
pub(super) fn busy(core: usize) -> Result<f64> {
    let begin = Instant::now();
    let before = core_ticks(core)?;
    std::thread::sleep(Duration::from_secs(1));
    let spent = from_ticks(core_ticks(core)?.busy_ticks.saturating_sub(before.busy_ticks));
    let busy = spent.as_secs_f64() / begin.elapsed().as_secs_f64();
    if busy > BUSY_MAX {
        println!("the machine is not quiet: core {core} was {:.0} % busy before anything was started", busy * 100.0);
    }
    Ok(busy)
}

/// Keeps the calling thread on one core.
pub(super) fn stay_on(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("moving to core {core}"))
}

/// CPU time of one send and one receive on a socket pair, measured on `core` by a thread of its own. A machine's speed
/// moves with its neighbours; a cost divided by this one moves much less.
pub(super) fn socket_pair_cost(core: usize) -> Result<Duration> {
    let probe = std::thread::spawn(move || -> Result<Duration> {
        stay_on(core)?;
        let (mut near, mut far) = UnixStream::pair()?;
        let mut buffer = [0u8; 128];
        let begin = Instant::now();
        let spent = thread_time();
        let mut turns = 0;
        while begin.elapsed() < PROBE {
            for _ in 0..PROBE_BATCH {
                near.write_all(&buffer)?;
                far.read_exact(&mut buffer)?;
            }
            turns += PROBE_BATCH;
        }
        Ok((thread_time() - spent) / turns)
    });
    probe.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A process and all that descend from it.
pub(super) fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        if let Some(parent) = after_name(&stat).get(1).and_then(|text| text.parse::<u32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(found)
}

/// The fields of /proc/PID/stat from the third on: the second, the name, may hold spaces and parentheses.
fn after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default()
}

/// The growth of each counter, those that began in between from zero.
fn grown(earlier: &HashMap<u32, u64>, later: &HashMap<u32, u64>) -> u64 {
    later.iter().map(|(id, value)| value.saturating_sub(earlier.get(id).copied().unwrap_or(0))).sum()
}

fn core_ticks(core: usize) -> Result<Core> {
    let stat = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(name.as_str())).context("no such core in /proc/stat")?;
    // user nice system idle iowait irq softirq steal (proc_stat(5)); guest time is part of user time.
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|text| text.parse().ok()).collect();
    let at = |field: usize| ticks.get(field).copied().unwrap_or(0);
    Ok(Core { busy_ticks: at(0) + at(1) + at(2) + at(5) + at(6), stolen_ticks: at(7) })
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "77 (a) b (c)) S 5 77 77 0 -1 4194560 90 0 0 0 12 34 0 0";
        let fields = after_name(stat);
        assert_eq!((fields[1], fields[11], fields[12]), ("5", "12", "34"));
    }

    #[test]
    fn counters_that_began_in_between_count_from_zero() {
        let earlier = HashMap::from([(1, 10), (2, 5)]);
        let later = HashMap::from([(1, 25), (3, 7)]);
        assert_eq!(grown(&earlier, &later), 22);
    }

    #[test]
    fn own_time_is_seen() {
        let core = cores().map_or(0, |(measured, _)| measured);
        let before = Reading::take(std::process::id(), core).unwrap();
        let begin = thread_time();
        while thread_time() - begin < Duration::from_millis(50) {}
        let spent = Reading::take(std::process::id(), core).unwrap().since(&before);
        assert!(spent.process >= Duration::from_millis(40), "{spent:?}");
        assert!(resident_kib(std::process::id()).unwrap() > 100);
    }
}
