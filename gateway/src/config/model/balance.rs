//! How an endpoint is picked for a request.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::words;

/// How an endpoint is picked.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "BalanceText")]
#[schemars(with = "BalanceText")]
pub enum Balance {
    #[default]
    RoundRobin,
    LeastRequest,
    PeakEwma,
    Hash(HashBalance),
}

/// The two ways to write it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum BalanceText {
    Name(BalanceName),
    Hash(HashBalance),
}

/// `round_robin` (default): in turn, by weight. `least_request`: of two drawn by weight the one with fewer requests running for its weight. `peak_ewma`: of two drawn by weight the one that is expected to answer sooner.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum BalanceName {
    RoundRobin,
    LeastRequest,
    PeakEwma,
}

/// The same endpoint for requests that have the same in common.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct HashBalance {
    /// `maglev`: even to a percent or two, and a few keys more move than must when endpoints change. `ring_hash`: shares are some 8 % off, and no key moves that need not.
    pub policy: HashTable,
    /// What requests must have in common: `client` (its address), `path`, `header:name` or `cookie:name`. A request without it goes to any endpoint.
    #[schemars(with = "words::HashOn")]
    pub on: HashOn,
    /// An endpoint that runs more than so many times its fair share of the upstream's requests is passed over for the next one. Default: no bound. 1.01 to 100.
    #[serde(default)]
    #[schemars(range(min = 1.01, max = 100.0))]
    pub load_max: Option<f64>,
}

/// How keys are divided among endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum HashTable {
    Maglev,
    RingHash,
}

/// What requests must have in common to get the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum HashOn {
    Client,
    Path,
    Header(String),
    Cookie(String),
}

impl FromStr for HashOn {
    type Err = ();

    fn from_str(text: &str) -> Result<HashOn, ()> {
        match text.split_once(':') {
            None if text == "client" => Ok(HashOn::Client),
            None if text == "path" => Ok(HashOn::Path),
            Some(("header", name)) if words::is_token(name) => Ok(HashOn::Header(name.to_owned())),
            Some(("cookie", name)) if words::is_token(name) => Ok(HashOn::Cookie(name.to_owned())),
            _ => Err(()),
        }
    }
}

impl TryFrom<String> for HashOn {
    type Error = &'static str;

    fn try_from(text: String) -> Result<HashOn, &'static str> {
        text.parse().map_err(|()| "not something to hash on")
    }
}

impl From<BalanceText> for Balance {
    fn from(text: BalanceText) -> Balance {
        match text {
            BalanceText::Name(BalanceName::RoundRobin) => Balance::RoundRobin,
            BalanceText::Name(BalanceName::LeastRequest) => Balance::LeastRequest,
            BalanceText::Name(BalanceName::PeakEwma) => Balance::PeakEwma,
            BalanceText::Hash(hash) => Balance::Hash(hash),
        }
    }
}
