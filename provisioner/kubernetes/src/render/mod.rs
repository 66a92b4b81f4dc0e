//! Objects from descriptions: pure. What is rendered here is what is applied, field by field.

mod files;
mod pod;
mod probes;
mod workload;

pub(crate) use files::{Entry, Placed, entries, files_secret, placed, secret_env};
pub(crate) use pod::{MAIN, NEVER, helper, job};
pub(crate) use probes::STOP;
pub(crate) use workload::{Described, Rendered, grown, is_stateful, making, shared, volume, workload};

#[cfg(test)]
mod tests;
