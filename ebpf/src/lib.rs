//! The door in the kernel: the XDP program that turns unwanted packets away before a socket sees them.
//!
//! Nothing is enforced here yet. The program (parse → manage → ban → deny → SYN rate → pass) and the ABI it
//! shares with the gateway arrive with the address lists; until then this crate only keeps their place in the tree.
#![no_std]
#![forbid(unsafe_code)]
