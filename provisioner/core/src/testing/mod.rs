//! An engine in memory, and the contract that every engine passes.

pub mod contract;
pub mod memory;
