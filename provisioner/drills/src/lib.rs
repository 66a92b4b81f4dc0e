//! Proves under failure: a ledger of acknowledged writes, a judge that compares it with what members hold, a report.
//!
//! [`ledger`] has the effects; [`journal`], [`judge`] and [`report`] are pure.

pub mod journal;
pub mod judge;
pub mod ledger;
pub mod report;
mod rows;

pub use rows::Rows;
