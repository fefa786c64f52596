//! What the gateway would do, and why: for `bawab explain` and for the admin listener. Never on the data path, and never a
//! model of it: what is asked goes through the same reader, tables and policies as what a client sends.

pub mod ip;
pub mod route;
