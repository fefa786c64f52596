//! Sans-I/O HTTP/1.1.
#![forbid(unsafe_code)]
