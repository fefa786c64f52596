//! The cases: the real binary, real sockets. Scripts first (`wire`); here is what a script cannot say: many connections,
//! large bodies, signals, other programs, the command line.
#![expect(clippy::unwrap_used, reason = "a case ends at the first thing that is not as it should be")]

mod admin;
mod balance;
mod bodies;
mod caps;
mod cli;
mod client_certificates;
mod compression;
mod cors;
mod crowd;
mod decompress_request;
mod dns;
mod door;
mod drain;
mod explain;
mod grpc;
mod health;
mod http2;
mod http2_ends;
mod http2_upstream;
mod lists;
mod locality;
mod logs;
mod package;
mod paths;
mod policies;
mod programs;
mod proxy_protocol;
mod reload;
mod retries;
mod routes;
mod security_headers;
mod service;
mod slow;
mod sticky;
mod subsets;
mod systemd;
mod takeover;
mod tickets;
mod tls;
mod upstream_alpn;
mod upstream_tls;
mod wire;
