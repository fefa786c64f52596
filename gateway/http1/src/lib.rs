//! Sans-I/O HTTP/1.1: bytes in, ranges and verdicts out. No sockets, no clock, no task.
//!
//! The gateway's data path calls it twice for every exchange, once on the client's side and once on the upstream's. It
//! reads the way [RFC 9112] lets the strictest reader read: whatever another implementation could understand
//! differently is a [`Fault`], never a guess, because the two sides of a proxy that guess differently are how one
//! request becomes two.
//!
//! In the order a message meets them:
//!
//! | module | what it decides |
//! |---|---|
//! | [`scan`] | where a head ends, however its bytes arrive |
//! | [`request`], [`response`] | start line and fields, as [`Span`]s into the caller's buffer |
//! | [`target`] | which of the four forms the request-target has, and whom it is for |
//! | [`path`] | the one canonical spelling of a path |
//! | [`framing`] | how the body ends; nothing after it looks at Content-Length or Transfer-Encoding |
//! | [`connection`] | what the Connection field says about this hop |
//! | [`chunked`] | the chunked coding and its trailers, both ways |
//! | [`encode`] | heads, written without an allocation per field |
//! | [`fault`] | everything that can be wrong, each with its own code |
//!
//! Nothing here panics on any input and no work is done twice: feeding a head byte by byte costs as much scanning as
//! feeding it whole, and ends in the same verdict.
//!
//! ```
//! use http1::{Canonical, Framing, HeadLimits, PathPolicy, Scanner};
//!
//! let limits = HeadLimits { head_bytes: 64 * 1024, fields: 100, target_bytes: 8 * 1024 };
//! let mut fields = Vec::new();
//! let mut scanner = Scanner::default();
//! let received = b"GET /a/./%62?c HTTP/1.1\r\nHost: example.com\r\n\r\n";
//!
//! assert_eq!(http1::read_request(&mut scanner, &received[..20], &limits, &mut fields)?, None);
//! let line = http1::read_request(&mut scanner, received, &limits, &mut fields)?.expect("the head is whole");
//! let target = http1::parse_target(received, &line, line.host)?;
//! assert_eq!(http1::request_framing(received, line.version, &fields)?, Framing::None);
//!
//! let mut path = Vec::new();
//! let canonical = http1::canonical_path(target.path.of(received), &PathPolicy::KEEP, &mut path)?;
//! assert!(matches!(canonical, Canonical::Rewritten(_)));
//! assert_eq!(path, b"/a/b");
//! # Ok::<(), http1::Fault>(())
//! ```
//!
//! [RFC 9112]: https://www.rfc-editor.org/rfc/rfc9112
#![forbid(unsafe_code)]

pub mod chunked;
pub mod connection;
pub mod encode;
pub mod fault;
pub mod field;
pub mod framing;
pub mod path;
pub mod request;
pub mod response;
pub mod scan;
pub mod span;
pub mod target;

mod bytes;
mod fields;

pub use chunked::{ChunkLimits, Decoded, Decoder};
pub use connection::{ConnectionOptions, connection_options, is_connection_listed};
pub use fault::Fault;
pub use field::{Field, Known};
pub use framing::{Framing, request_framing, response_framing};
pub use path::{Canonical, PathPolicy, PathTraits, Rule, canonical_path};
pub use request::{HeadLimits, Method, RequestLine, Version, parse_request, read_request};
pub use response::{StatusLine, parse_response, read_response};
pub use scan::Scanner;
pub use span::Span;
pub use target::{Form, Target, host_parts, parse_target};
