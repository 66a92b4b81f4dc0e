//! The contract on a real cluster. Needs one: see `support`.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use support::on_kubernetes;

provisioner_core::engine_contract_of_state!(on_kubernetes);
provisioner_core::engine_contract_of_processes!(on_kubernetes);
