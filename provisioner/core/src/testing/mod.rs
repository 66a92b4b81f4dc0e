//! An engine in memory, and the contract that every engine passes.

pub mod memory;
