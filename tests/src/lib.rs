//! End-to-end tests: the real `bawab` binary, real sockets, raw bytes.
//!
//! - [`gateway`] starts the binary with a configuration and reads what it says: events, access log, metrics.
//! - [`peer`] is one end of a connection, as client or as upstream; every wait has a deadline.
//! - [`kept`] is a client that keeps its connection, and notices when it is told that it closes.
//! - [`origin`] is where the gateway connects to.
//! - [`dns`] is a DNS server that says what a case wants it to.
//! - [`message`] reads HTTP messages strictly and knows nothing of the gateway's own codec: two readers that share a
//!   mistake would agree.
//! - [`http2`] is a client that speaks HTTP/2, whole or frame by frame, and [`http2_service`] a service; [`tls`] is a client that
//!   speaks TLS.
//! - [`netns`] is two network namespaces, for what only the kernel's door can show.
//! - [`program`] is one of `tests/programs`, which speak by libraries that nobody here wrote.
//! - [`notified`] is where sd_notify goes; [`root`] is a fresh Debian to install a package into.
//! - [`wire`] runs the scripts in `tests/wire/*.txt`; `tests/wire/README.md` explains their format.
//!
//! Cases live in `tests/e2e/`. Nothing sleeps to be right: a case waits for an event, and [`patience`] only bounds how
//! long a broken gateway is waited for.
#![forbid(unsafe_code)]

use std::sync::LazyLock;
use std::time::Duration;

pub mod access_log;
pub mod binary;
pub mod config;
pub mod dns;
pub mod gateway;
pub mod http2;
pub mod http2_service;
pub mod kept;
pub mod message;
pub mod metrics;
pub mod netns;
pub mod notified;
pub mod origin;
pub mod peer;
pub mod program;
pub mod root;
pub mod taken;
pub mod tls;
pub mod wire;

pub use dns::Dns;
pub use gateway::Gateway;
pub use http2_service::Http2Service;
pub use kept::Kept;
pub use origin::Origin;
pub use peer::{End, Peer};

/// How long any one thing is waited for before the case fails. Far above what a loaded two-core machine needs, so that
/// a slow machine is never mistaken for a broken gateway. `BAWAB_PATIENCE_S` sets another, to see failures sooner.
pub fn patience() -> Duration {
    static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
        let seconds = std::env::var("BAWAB_PATIENCE_S").ok().and_then(|seconds| seconds.parse().ok());
        Duration::from_secs(seconds.unwrap_or(20))
    });
    *PATIENCE
}
