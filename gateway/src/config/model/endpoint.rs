//! Where a service runs, and which of its endpoints are meant. Part of [`super::Upstream`] and [`super::Route`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::words;

/// An endpoint: its address alone, or with what is to be known of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(from = "EndpointText")]
#[schemars(with = "EndpointText")]
pub struct Endpoint {
    pub address: String,
    pub weight: u32,
    pub priority: u8,
    pub tags: Vec<String>,
    pub zone: Option<String>,
    pub datacenter: Option<String>,
}

/// The two ways to write an endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum EndpointText {
    /// `host:port` or `unix:/path`; weight 1.
    Address(#[schemars(with = "words::EndpointAddress")] String),
    Table(EndpointTable),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct EndpointTable {
    /// `host:port` or `unix:/path`.
    #[schemars(with = "words::EndpointAddress")]
    address: String,
    /// Its share of the requests beside the other endpoints'. Default 1. 0 to 1000000; 0 sends it nothing.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    weight: u32,
    /// Used only as far as the endpoints of lower numbers cannot take all requests. Default 0. 0 to 100.
    #[serde(default)]
    #[schemars(range(max = 100))]
    priority: u8,
    /// What is said of it, for `subset` of a route: `v2`, `canary`, `region=eu`. Default: nothing.
    #[serde(default)]
    #[schemars(with = "Vec<words::Tag>")]
    tags: Vec<String>,
    /// The zone it runs in, see `gateway.zone`. Default: not said.
    #[serde(default)]
    #[schemars(with = "Option<words::Name>")]
    zone: Option<String>,
    /// The datacenter it runs in, see `gateway.datacenter`. Default: not said.
    #[serde(default)]
    #[schemars(with = "Option<words::Name>")]
    datacenter: Option<String>,
}

pub(super) fn one() -> u32 {
    1
}

impl From<EndpointText> for Endpoint {
    fn from(text: EndpointText) -> Endpoint {
        let table = match text {
            EndpointText::Table(table) => table,
            EndpointText::Address(address) => {
                EndpointTable { address, weight: one(), priority: 0, tags: Vec::new(), zone: None, datacenter: None }
            }
        };
        let EndpointTable { address, weight, priority, tags, zone, datacenter } = table;
        Endpoint { address, weight, priority, tags, zone, datacenter }
    }
}

/// Whether endpoints that are near go first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    #[default]
    Prefer,
    Ignore,
}

/// Some of an upstream's endpoints: those that have all of these tags.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(from = "SubsetText")]
#[schemars(with = "SubsetText")]
pub struct Subset {
    pub tags: Vec<String>,
    pub fallback: Fallback,
}

/// The two ways to write a subset.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum SubsetText {
    /// Tags of which an endpoint must have all.
    Tags(#[schemars(with = "Vec<words::Tag>", length(min = 1))] Vec<String>),
    Table(SubsetTable),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct SubsetTable {
    /// Tags of which an endpoint must have all. At least one.
    #[schemars(with = "Vec<words::Tag>", length(min = 1))]
    tags: Vec<String>,
    /// Where none of them is usable: `none` (default) refuses with 503 `no_endpoint`, `any` takes any endpoint of the upstream.
    #[serde(default)]
    fallback: Fallback,
}

/// Who answers where none of a subset is usable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Fallback {
    #[default]
    None,
    Any,
}

impl From<SubsetText> for Subset {
    fn from(text: SubsetText) -> Subset {
        match text {
            SubsetText::Tags(tags) => Subset { tags, fallback: Fallback::None },
            SubsetText::Table(SubsetTable { tags, fallback }) => Subset { tags, fallback },
        }
    }
}
