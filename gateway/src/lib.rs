//! Bawab (Arabic for doorman): an edge API gateway for Linux. One binary, one TOML file, no data store of its own.
//!
//! # The corridor
//!
//! A request walks one corridor, top to bottom, in one file, [`proxy::exchange`]; every room off it can be understood alone.
//!
//! ```text
//! accept ─► (PROXY header) ─► (TLS) ─► read head ─► canonical path ─► client address ─► find route ─► filters by phase
//!   ─► (answer of our own | pick endpoint ─► send, repeat when that is safe) ─► filters reversed ─► write ─► count, log
//! ```
//!
//! # Where to look
//!
//! | side | module | what |
//! |---|---|---|
//! | both | [`snapshot`] | what we were told, compiled and immutable; workers read it once an exchange |
//! | | [`tables`] | what all cores must agree on: bounded, never waited on, surviving a reload |
//! | | [`refusal`] | why we answer ourselves: cause → status, code, whose fault |
//! | | [`lists`] | address lists: read, compiled, asked by every tier |
//! | | [`tls`] | certificates and keys: read, checked, chosen by name; with `proxy::wire` the only ones to name rustls |
//! | | [`limits`] | every bound nobody configures, with its reason |
//! | data path | [`rt`] | the seam to the runtime: ring, sockets, buffers, deadlines, wakes; the only one to name monoio |
//! | | [`worker`] | one core: its listeners, connections, pools, drain |
//! | | [`proxy`] | heads, bodies, the exchange, both sides of HTTP/1 (the codec itself is the crate `http1`) |
//! | | [`filter`] | policies, one a file, in the order of their phases |
//! | | [`route`], [`balance`] | which route, which endpoint |
//! | control path | [`config`], [`problem`] | the TOML as types; what is wrong with it, all at once |
//! | | [`control`] | start, signals, name resolution, admin listener: one event loop |
//! | | [`control::xdp`] | the XDP program (`ebpf/`): loaded, attached, pinned, fed with compiled lists; the only one to name aya |
//! | | [`observe`] | counters a core, histograms, access log, events |
//! | | [`cli`] | one file a subcommand |
//! | | [`explain`] | what the gateway would do, and why |
//!
//! # Invariants
//!
//! Held by tests; breaking one is a bug wherever it happens.
//!
//! 1. A path is made canonical once ([`http1::path`]); router, limits, log and upstream use that one form.
//! 2. Framing (RFC 9112 §6.3) is decided once ([`http1::framing`]); after it nobody looks at Content-Length or
//!    Transfer-Encoding.
//! 3. Every upstream message is rebuilt, never passed through; names the gateway speaks are removed from clients' heads and
//!    trailers in every spelling ([`proxy::forward`]).
//! 4. The client's address is decided once, by the listener's rule, never sniffed, and used everywhere alike.
//! 5. Every buffer, map, queue, count and wait has a bound ([`limits`] or configured), a counter, and a defined answer when
//!    it is hit.
//! 6. Bad configuration never loads. Nothing fails open unless the operator wrote it.
//! 7. Network input, configuration text and upstreams' answers never panic. A panic in one task costs that connection only.
//! 8. An endpoint change never drops a request.
//! 9. Secrets are a type that does not print ([`config::units::Secret`]).

pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod explain;
pub mod filter;
pub mod limits;
pub mod lists;
pub mod observe;
pub mod problem;
pub mod proxy;
pub mod refusal;
pub mod route;
pub mod rt;
pub mod snapshot;
pub mod tables;
pub mod tls;
pub mod worker;
