//! The part of the provisioner that decides: manifests, stacks, snapshots, plans, and the traits through which engines
//! and components are used.
//!
//! ```text
//! manifest.yaml -> Manifest --declare()--> Stack --plan(Stack, Observed, Policy)--> Plan --execute(Engine)--> Outcomes
//! ```

pub mod cleanup;
pub mod clock;
pub mod component;
pub mod drift;
pub mod engine;
pub mod estate;
pub mod execute;
pub mod failure;
pub mod fault;
pub mod finding;
pub mod history;
pub mod images;
pub mod lease;
pub mod lines;
pub mod manifest;
pub mod name;
pub mod observed;
pub mod plan;
pub mod ready;
pub mod record;
pub mod secret;
pub mod stack;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trial;
pub mod wait;
