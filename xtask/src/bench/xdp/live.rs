//! What packets and clients meet on a veth pair: floods, and bans that begin.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Figures, program};
use crate::bench::Options;
use crate::bench::report::{Bar, Spread, table};
use crate::{process, workspace};

/// CPU per dropped packet as a part of nftables'.
const DROP_MAX: f64 = 0.5;
/// Requests beside a flood are at least 1.5 times nftables', so nftables' are at most this part of them.
const GOODPUT_MAX: f64 = 0.667;
const BAN_MICROS_MAX: f64 = 1000.0;
const BANS_MIN: usize = 300;

/// How much of it is measured.
pub(super) struct Wanted {
    floods: usize,
    seconds: u64,
    bans: usize,
}

impl Wanted {
    pub(super) fn read(options: &mut Options<'_>) -> Result<Self> {
        let wanted = Self {
            floods: options.number("--floods", 5)?,
            seconds: options.number("--seconds", 3)?,
            bans: options.number("--bans", BANS_MIN)?,
        };
        ensure!(wanted.floods > 0 && wanted.seconds > 0, "at least one flood of one second");
        ensure!(wanted.bans >= BANS_MIN, "--bans: at least {BANS_MIN}, for a 99th percentile");
        Ok(wanted)
    }

    pub(super) fn flood(&self) -> Result<Vec<Bar>> {
        let mut command = with_gateway("flood")?;
        let text = process::output(command.args([self.floods.to_string(), self.seconds.to_string()]))?;
        let figures = Figures::read(&text)?;
        println!(
            "a flood of UDP from 65,536 denied prefixes, {} rounds; median (smallest-largest)\n\
             the gateway and the thread that receives share a core, flood and clients the other\n",
            self.floods
        );
        let header = ["", "ns CPU a drop", "requests/s", "without flood", "M packets/s", "receiver"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for (guard, what) in [("xdp", "XDP"), ("nftables", "nftables, netdev ingress"), ("nobody", "neither")] {
            let shown = |key: &str, unit: f64| {
                let figures = figures.by_name.get(&format!("{guard}_{key}"));
                let spread = figures.and_then(|figures| Spread::of(figures.iter().map(|figure| figure / unit)));
                spread.map_or_else(|| "-".to_owned(), |spread| spread.to_string())
            };
            rows.push(vec![
                what.to_owned(),
                shown("nanos", 1.0),
                shown("requests", 1.0),
                shown("calm", 1.0),
                shown("rate", 1e6),
                shown("busy", 1.0),
            ]);
        }
        println!("{}", table(&rows));
        let bar = |claim: &str, figure, of, at_most| -> Result<Bar> {
            let found = figures.ratio(figure, of).with_context(|| format!("no figures of {figure} and {of}"))?;
            Ok(Bar { claim: claim.to_owned(), at_most, found })
        };
        Ok(vec![
            bar("CPU per dropped packet / nftables'", "xdp_nanos", "nftables_nanos", DROP_MAX)?,
            bar(
                "requests beside a flood, nftables' / the program's",
                "nftables_requests",
                "xdp_requests",
                GOODPUT_MAX,
            )?,
        ])
    }

    pub(super) fn ban(&self) -> Result<Bar> {
        let figures = Figures::read(&process::output(with_gateway("ban")?.arg(self.bans.to_string()))?)?;
        println!("microseconds until a ban holds, {} addresses", self.bans);
        let mut rows = vec![["", "p50", "p99", "largest"].map(str::to_owned).to_vec()];
        for (key, what) in [
            ("total", "from the POST to the last packet that came through"),
            ("answered", "  of these after the answer"),
            ("admin", "from the POST to its answer"),
        ] {
            let at =
                |part| figures.percentile(key, part).map_or_else(|| "-".to_owned(), |micros| format!("{micros:.0}"));
            rows.push(vec![what.to_owned(), at(0.5), at(0.99), at(1.0)]);
        }
        println!("{}", table(&rows));
        let p99 = figures.percentile("total", 0.99).context("no ban was measured")?;
        let found = Spread { median: p99, ..figures.spread("total").context("no ban was measured")? };
        let claim = "microseconds from POST /bans to the kernel's drop, its HTTP included, p99".to_owned();
        Ok(Bar { claim, at_most: BAN_MICROS_MAX, found })
    }
}

/// A program that starts the gateway, and the gateway to start.
fn with_gateway(name: &str) -> Result<Command> {
    process::run(workspace::cargo()?.args(["build", "--release", "--quiet", "--package", "bawab", "--bin", "bawab"]))?;
    let mut command = program(name)?;
    command.env("BAWAB_BIN", workspace::target()?.join("release/bawab"));
    Ok(command)
}
