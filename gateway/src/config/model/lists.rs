//! Address lists and the door in the kernel, as the operator writes them.

use std::collections::BTreeMap;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::words;

/// Addresses of one kind. What is written here and what the file holds belong together.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// What it means: `deny` (turned away everywhere, by the kernel where `[xdp]` says so), `exempt` (not limited, never banned by itself) or `named` (nothing, until a listener or a route names it).
    pub action: ListAction,
    /// Addresses and prefixes. Bits behind a prefix are ignored, and warned about.
    #[serde(default)]
    #[schemars(with = "Vec<words::Network>", extend("default" = null))]
    pub cidrs: Vec<String>,
    /// A file of them, relative to the one it is written in. It is read again when it changes.
    #[serde(default)]
    #[schemars(with = "Option<words::FilePath>")]
    pub file: Option<String>,
    /// What the file is: `auto` (default: by its first line), `text` (one a line, `#` and `;` begin a comment), `json` (Spamhaus' lines with `cidr`) or `csv` (MaxMind's tables with `network`).
    #[serde(default)]
    pub format: ListFormat,
    /// Of a `csv` file, the rows in which a column has one of these values: `{ country_iso_code = ["XX"] }`. Default: all rows.
    #[serde(default)]
    pub select: BTreeMap<String, Vec<String>>,
    /// A second `csv` file with more columns for each `geoname_id`, as MaxMind's `Locations` tables are.
    #[serde(default)]
    #[schemars(with = "Option<words::FilePath>")]
    pub locations: Option<String>,
    /// `enforce` (default), or `shadow`: count what would be denied, and deny nothing. Only with `deny`.
    #[serde(default)]
    pub mode: ListMode,
    /// Takes prefixes of more than a /16 (IPv6: /32), which are mistakes more often than not. Default false.
    #[serde(default)]
    pub force: bool,
}

/// What a list means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListAction {
    Deny,
    Exempt,
    Named,
}

impl ListAction {
    pub fn name(self) -> &'static str {
        match self {
            ListAction::Deny => "deny",
            ListAction::Exempt => "exempt",
            ListAction::Named => "named",
        }
    }
}

/// What a list's file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListFormat {
    #[default]
    Auto,
    Text,
    Json,
    Csv,
}

/// Whether a list is enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListMode {
    #[default]
    Enforce,
    Shadow,
}

/// The door in the kernel: an XDP program on these interfaces turns away what lists deny, bans, and floods of new connections. It goes on when the gateway ends; `bawab xdp detach` removes it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Xdp {
    /// Interfaces packets come in by. At least one, at most 16.
    #[schemars(with = "Vec<words::Interface>", length(min = 1))]
    pub interfaces: Vec<String>,
    /// What runs the program: `auto` (default: the driver, else the stack), `native` (the driver), `generic` (the stack) or `off` (nothing: the lists are enforced in user space only).
    #[serde(default)]
    pub mode: XdpMode,
    /// Networks that are let in whatever lists, bans and limits say: those this host is looked after from.
    #[serde(default)]
    #[schemars(with = "Vec<words::Cidr>")]
    pub manage: Vec<ipnet::IpNet>,
    /// New TCP connections to the gateway's ports that one address may open. Default: no limit.
    #[serde(default)]
    pub syn_limit: Option<SynLimit>,
    /// Whether the gateway is ready only while the program runs on every interface. Default false: without it the lists are enforced in user space.
    #[serde(default)]
    pub required: bool,
    /// What becomes of packets that are not what their own lengths say: `pass` (default, the stack drops them) or `drop`.
    #[serde(default)]
    pub malformed: Malformed,
    /// Count what would be dropped, and drop nothing. Default false.
    #[serde(default)]
    pub shadow: bool,
}

/// What runs the XDP program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    #[default]
    Auto,
    Native,
    Generic,
    Off,
}

/// What becomes of packets that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    #[default]
    Pass,
    Drop,
}

/// New connections from one address: an IPv4 address, an IPv6 /64, and eight times as many from an IPv6 /48.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SynLimit {
    /// How many in the long run: `"50/s"`.
    #[schemars(with = "words::PerSecond")]
    pub rate: PerSecond,
    /// How many at once. Default 200. 1 to 1000000.
    #[serde(default = "burst")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: u32,
    /// What each core takes from all addresses that are on no list. Default: no limit.
    #[serde(default)]
    #[schemars(with = "Option<words::PerSecond>")]
    pub all_per_core: Option<PerSecond>,
    /// `enforce` (default), or `shadow`: count what would be dropped, and drop nothing.
    #[serde(default)]
    pub mode: ListMode,
}

fn burst() -> u32 {
    200
}

/// So many a second: `"50/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PerSecond(pub u32);

impl FromStr for PerSecond {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<PerSecond, &'static str> {
        let why = r#"expected a whole number from 1 to 1000000 a second, such as "50/s""#;
        let number = text.strip_suffix("/s").ok_or(why)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|number| digits && (1..=1_000_000).contains(number));
        number.map(PerSecond).ok_or(why)
    }
}

impl TryFrom<String> for PerSecond {
    type Error = &'static str;

    fn try_from(text: String) -> Result<PerSecond, &'static str> {
        text.parse()
    }
}
