//! Names that are looked up.

use std::fmt;
use std::time::Instant;

use prometheus_client::metrics::MetricType;

use super::super::metrics::Metrics;
use super::super::names::{NameShown, Outcome};
use super::Families;
use crate::limits::DNS_SERIES_MAX;

pub(super) fn names(families: &mut Families<'_>, metrics: &Metrics) -> fmt::Result {
    let mut names = metrics.names.all();
    names.truncate(DNS_SERIES_MAX);
    let labels = |one: &NameShown| [("name", one.name.clone()), ("type", one.kind.name().to_owned())];
    let help = "Look-ups of names by how they ended";
    let mut family = families.begin("bawab_dns_lookups", help, MetricType::Counter)?;
    for one in &names {
        for outcome in Outcome::ALL {
            let [name, kind] = labels(one);
            family.counter(&[name, kind, ("outcome", outcome.name().to_owned())], one.tally.get(outcome))?;
        }
    }
    let help = "Addresses a name leads to";
    let mut family = families.begin("bawab_dns_addresses", help, MetricType::Gauge)?;
    for one in &names {
        family.gauge(&labels(one), one.addresses as u64)?;
    }
    let help = "Since the last good answer";
    let mut family = families.begin("bawab_dns_answer_age_seconds", help, MetricType::Gauge)?;
    let now = Instant::now();
    for one in &names {
        if let Some(at) = one.good_at {
            family.gauge(&labels(one), now.saturating_duration_since(at).as_secs_f64())?;
        }
    }
    Ok(())
}
