//! The data path: what happens between a client's connection and a service's.
//!
//! ```text
//! accept → h1 (read a head, canonical path) → exchange (route, filters, attempts) → relay (one attempt) → answer
//! ```
//!
//! [`h1`] is the client's side of HTTP/1 and [`upstream::h1`] the service's. [`exchange`] is the corridor between them
//! and knows neither; [`fields`], [`head`] and [`body`] are what it sees. [`wire`] is what bytes travel on, below both.

pub mod body;
pub mod error_page;
pub mod exchange;
pub mod fetch;
pub mod fields;
pub mod finishing;
pub mod forward;
pub mod h1;
pub mod head;
pub mod mirror;
pub mod relay;
pub mod reply;
pub mod trace;
pub mod tunnel;
pub mod upstream;
pub mod wire;
