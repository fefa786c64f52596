//! How a service is spoken to.

use schemars::JsonSchema;
use serde::Deserialize;

/// What an upstream's endpoints speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
}
