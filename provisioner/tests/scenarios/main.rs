//! Real stacks on the real engine, one invariant a scenario. They run one after the other; those of one module share a
//! stack. A scenario that fails leaves status and logs below `artifacts/`, and with `KEEP_FAILED=1` the stack too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a scenario ends where it cannot go on"
)]

mod app;
mod cluster;
mod data;
mod drift;
mod elasticsearch;
mod external;
mod failover;
mod first_hour;
mod foreign;
mod gate;
mod hard_cases;
mod harness;
mod http;
mod killed;
mod lock;
mod media;
mod messaging;
mod monitoring;
mod proxy;
mod rejoin;
mod restricted;
mod selling;
mod smoke;
mod tls;
mod trouble;
mod wire;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // They share two cores and a stack.
    arguments.test_threads = Some(1);
    let trials: Vec<Trial> = [
        // They share a stack, which the last one of the second leaves with two primaries.
        hard_cases::SCENARIOS,
        failover::SCENARIOS,
        first_hour::SCENARIOS,
        drift::SCENARIOS,
        elasticsearch::SCENARIOS,
        external::SCENARIOS,
        lock::SCENARIOS,
        wire::SCENARIOS,
        data::SCENARIOS,
        killed::SCENARIOS,
        foreign::SCENARIOS,
        app::SCENARIOS,
        media::SCENARIOS,
        messaging::SCENARIOS,
        monitoring::SCENARIOS,
        rejoin::SCENARIOS,
        restricted::SCENARIOS,
        smoke::SCENARIOS,
        tls::SCENARIOS,
        trouble::SCENARIOS,
        cluster::SCENARIOS,
    ]
    .concat()
    .into_iter()
    .map(|(name, body)| Trial::test(name, move || harness::guarded(name, body)))
    .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    harness::take_everything_down();
    trouble::detach();
    conclusion.exit();
}
