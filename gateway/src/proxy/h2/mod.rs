//! A client's HTTP/2 connection (RFC 9113), by the `h2` crate: each stream becomes an exchange with a task of its own.
//!
//! ```text
//! wire ─ Stream ─ meter ─ h2 ─┬─ exchange (head, body, answer)
//!                             └─ exchange ...
//! ```
//!
//! One task drives the connection ([`session`]): it reads and writes, hands streams out, and keeps the waits that `h2` has
//! none of: the handshake, idle connections, silent peers, age, drain. An exchange ([`stream`]) waits for its own body and
//! window, in a task that served another stream before. [`meter`] sees what frames a client sends beside its requests.

pub mod answer;
pub mod body;
pub mod fields;
pub mod head;
pub mod meter;
pub mod outgoing;
pub mod session;
pub mod stream;

pub use session::serve;
pub use stream::Begun;
