//! Whole verbs against the memory engine: every line that a person or a program reads, and every exit code.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod binary;
mod bundle;
mod change;
mod console;
mod data;
mod docs;
mod drift;
mod external;
mod failover;
mod init;
mod kubernetes;
mod logs;
mod look;
mod open;
mod plans;
mod player;
mod prune;
mod rejoin;
mod safety;
mod smoke;
mod targets;
mod world;
