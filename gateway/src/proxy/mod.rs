//! The data path: what happens between a client's connection and a service's.
//!
//! ```text
//! accept → connection (PROXY header, TLS, which protocol) → h1 | h2 (a head) → prepare (canonical path, client) →
//!   exchange (route, filters, attempts) → relay (one attempt) → answer
//! ```
//!
//! [`h1`] and [`h2`] are the client's side and [`upstream::h1`] the service's. [`exchange`] is the corridor between them
//! and knows none; [`fields`], [`head`], [`body`] and [`answer`] are what it sees. [`wire`] is what bytes travel on, below both.

pub mod answer;
pub mod body;
pub mod connection;
pub mod decoded;
pub mod error_page;
pub mod exchange;
pub mod fetch;
pub mod fields;
pub mod finishing;
pub mod forward;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod head;
pub mod mirror;
pub mod prepare;
pub mod proxy_protocol;
pub mod relay;
pub mod replay;
pub mod reply;
pub mod retry;
pub mod sticky;
pub mod tee;
pub mod trace;
pub mod tunnel;
pub mod upstream;
pub mod websocket;
pub mod wire;
