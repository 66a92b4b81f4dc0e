//! The contract on a real engine, and what only Docker promises. Needs an engine that answers; `DOCKER_HOST` is honoured.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use support::on_docker;

provisioner_core::engine_contract_of_state!(on_docker);
provisioner_core::engine_contract_of_processes!(on_docker);
