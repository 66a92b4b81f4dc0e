//! Objects from descriptions: pure. What is rendered here is what is applied, field by field.

mod files;
mod pod;
mod workload;

pub(crate) use files::{Entry, Placed, entries, files_secret, placed, secret_env};
pub(crate) use pod::{MAIN, NEVER, STOP, helper, job};
pub(crate) use workload::{Described, is_stateful, shared, volume, workload};

#[cfg(test)]
mod tests;
