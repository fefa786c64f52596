//! What is said of an endpoint beside where it is, and how far away that makes it.

use std::sync::Arc;

use crate::config::model;

/// What is said of an endpoint.
#[derive(Debug, Default)]
pub struct About {
    pub tags: Vec<String>,
    pub zone: Option<String>,
    pub datacenter: Option<String>,
    /// `None`: the gateway does not know where it runs itself.
    pub distance: Option<Distance>,
}

/// How far an endpoint is from the gateway. Nearer is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// The same zone.
    Zone,
    /// The same datacenter.
    Datacenter,
    /// Elsewhere, or it is not said where.
    Far,
}

impl Distance {
    pub const ALL: [Distance; 3] = [Distance::Zone, Distance::Datacenter, Distance::Far];

    pub fn name(self) -> &'static str {
        match self {
            Distance::Zone => "zone",
            Distance::Datacenter => "datacenter",
            Distance::Far => "far",
        }
    }

    /// From `here` to an endpoint. Two zones of one name in two datacenters are two.
    fn of(here: &model::Gateway, written: &model::Endpoint) -> Option<Distance> {
        if here.zone.is_none() && here.datacenter.is_none() {
            return None;
        }
        let same = |one: &Option<String>, other: &Option<String>| Some(one.as_ref()? == other.as_ref()?);
        let (zone, datacenter) = (same(&here.zone, &written.zone), same(&here.datacenter, &written.datacenter));
        Some(match (zone, datacenter) {
            (Some(true), Some(true) | None) => Distance::Zone,
            (_, Some(true)) => Distance::Datacenter,
            _ => Distance::Far,
        })
    }
}

impl About {
    /// Of an endpoint, for a gateway that runs `here`.
    pub fn of(here: &model::Gateway, written: &model::Endpoint) -> Arc<About> {
        Arc::new(About {
            tags: written.tags.clone(),
            zone: written.zone.clone(),
            datacenter: written.datacenter.clone(),
            distance: Distance::of(here, written),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_what_is_in_the_same_zone_and_then_in_the_same_datacenter() {
        let place = |text: &str| {
            let (zone, datacenter) = text.split_once('@').unwrap_or((text, ""));
            let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
            (named(zone), named(datacenter))
        };
        let check = |here: &str, there: &str, expected: Option<&str>| {
            let (zone, datacenter) = place(here);
            let here_is = model::Gateway { zone, datacenter, ..model::Gateway::default() };
            let (zone, datacenter) = place(there);
            let written = toml::from_str::<model::Upstream>("endpoints = ['a:1']").expect("an upstream");
            let written = model::Endpoint { zone, datacenter, ..written.endpoints[0].clone() };
            assert_eq!(Distance::of(&here_is, &written).map(Distance::name), expected, "{here} to {there}");
        };
        check("", "a@x", None);
        check("a", "a", Some("zone"));
        check("a", "a@x", Some("zone"));
        check("a", "b", Some("far"));
        check("a", "", Some("far"));
        check("a@x", "a@x", Some("zone"));
        check("a@x", "a", Some("zone"));
        check("a@x", "a@y", Some("far"));
        check("a@x", "b@x", Some("datacenter"));
        check("a@x", "@x", Some("datacenter"));
        check("@x", "a@x", Some("datacenter"));
        check("@x", "a", Some("far"));
    }
}
