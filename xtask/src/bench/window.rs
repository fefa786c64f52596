//! One measured window of one peer under load: what it spent, what it answered, and a line of a table of many.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::cost::{self, Reading, Spent};
use super::peers::{Running, Stage};
use super::report::Spread;
use super::wrk::{self, Ask, Load};

/// A core this much busier than the peer on it also worked for somebody else: kernel work for the peer is less than that.
const STRANGER_RATIO: f64 = 1.25;
const WARM_UP: Duration = Duration::from_secs(1);

/// The columns of [`line()`], behind who they are about.
pub(super) const TITLES: [&str; 9] =
    ["cpu us/req", "process", "core", "norm", "req/s", "p50 ms", "p99 ms", "RSS MiB", "errors"];

pub(super) struct Window {
    pub(super) load: Load,
    pub(super) spent: Spent,
    pub(super) resident_kib: u64,
    /// Cost of a send and a receive on a socket pair around this window.
    pub(super) socket_pair: Duration,
}

impl Window {
    /// Warms a peer up, loads it with wrk for `time`, and stops it.
    pub(super) fn measure(stage: &Stage, running: Running, ask: &Ask<'_>, time: Duration) -> Result<Self> {
        Self::measure_under(stage, running, time, |time| wrk::load(ask, stage.loading_core, time))
    }

    /// The same with a load of one's own, which is told how long to go on.
    pub(super) fn measure_under(
        stage: &Stage,
        running: Running,
        time: Duration,
        mut load: impl FnMut(Duration) -> Result<Load>,
    ) -> Result<Self> {
        let pid = running.server.pid();
        load(WARM_UP)?;
        let speed_before = cost::socket_pair_cost(stage.measured_core)?;
        let before = Reading::take(pid, stage.measured_core)?;
        let load = load(time)?;
        let spent = Reading::take(pid, stage.measured_core)?.since(&before);
        let resident_kib = cost::resident_kib(pid)?;
        let socket_pair = (speed_before + cost::socket_pair_cost(stage.measured_core)?) / 2;
        running.server.stop()?;
        ensure!(load.requests > 0, "nothing was answered");
        Ok(Self { load, spent, resident_kib, socket_pair })
    }

    /// CPU microseconds per request: the process's own account or its core's, whichever is worse.
    pub(super) fn cost(&self) -> f64 {
        self.process_cost().max(self.core_cost())
    }

    pub(super) fn process_cost(&self) -> f64 {
        micros(self.spent.process) / self.load.requests as f64
    }

    fn core_cost(&self) -> f64 {
        micros(self.spent.core) / self.load.requests as f64
    }

    /// The cost in socket-pair operations: steadier than microseconds when the machine's speed moves.
    pub(super) fn norm(&self) -> f64 {
        self.cost() / micros(self.socket_pair)
    }

    fn has_stranger(&self) -> bool {
        self.core_cost() > STRANGER_RATIO * self.process_cost()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "requests": self.load.requests, "errors": self.load.errors, "requests_per_second": self.load.per_second,
            "p50_us": micros(self.load.p50), "p99_us": micros(self.load.p99),
            "cpu_us_per_request": self.cost(), "process_us_per_request": self.process_cost(), "core_us_per_request": self.core_cost(),
            "norm": self.norm(), "socket_pair_us": micros(self.socket_pair), "stolen_us": micros(self.spent.stolen), "resident_kib": self.resident_kib,
        })
    }
}

/// Medians of `windows` under [`TITLES`]. `None`: there are no windows.
pub(super) fn line(windows: &[&Window]) -> Option<Vec<String>> {
    let of = |figure: fn(&Window) -> f64| Spread::of(windows.iter().map(|window| figure(window)));
    let median = |figure| of(figure).map(|spread| spread.median);
    let errors: u64 = windows.iter().map(|window| window.load.errors).sum();
    Some(vec![
        of(Window::cost)?.to_string(),
        format!("{:.1}", median(Window::process_cost)?),
        format!("{:.1}", median(Window::core_cost)?),
        of(Window::norm)?.to_string(),
        format!("{:.0}", median(|window| window.load.per_second)?),
        format!("{:.2}", median(|window| micros(window.load.p50) / 1e3)?),
        format!("{:.2}", median(|window| micros(window.load.p99) / 1e3)?),
        format!("{:.1}", median(|window| window.resident_kib as f64 / 1024.0)?),
        errors.to_string(),
    ])
}

/// Says so when cores worked for more than the peers on them.
pub(super) fn warn_of_strangers<'a>(windows: impl ExactSizeIterator<Item = &'a Window>) {
    let count = windows.len();
    let strangers = windows.filter(|window| window.has_stranger()).count();
    if strangers > 0 {
        println!(
            "\nin {strangers} of {count} windows the core was busy with more than the peer: measure again on a quiet machine"
        );
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Ten requests.
    pub(in super::super) fn window(process_us: u64, core_us: u64) -> Window {
        let load = Load { requests: 10, per_second: 10.0, p50: Duration::ZERO, p99: Duration::ZERO, errors: 0 };
        let spent = Spent {
            process: Duration::from_micros(process_us),
            core: Duration::from_micros(core_us),
            stolen: Duration::ZERO,
        };
        Window { load, spent, resident_kib: 0, socket_pair: Duration::from_micros(2) }
    }

    #[test]
    fn the_worse_of_the_two_accounts_counts() {
        assert_eq!(window(150, 120).cost(), 15.0);
        assert_eq!(window(100, 120).cost(), 12.0);
        assert_eq!(window(100, 120).norm(), 6.0);
    }

    #[test]
    fn a_core_that_worked_for_somebody_else_is_seen() {
        assert!(!window(100, 120).has_stranger());
        assert!(window(100, 130).has_stranger());
    }
}
