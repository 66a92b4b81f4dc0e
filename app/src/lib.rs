//! A thin e-commerce service: catalogue reads through Redis and a replica, orders on the primary.

mod accounts;
mod background;
mod basket;
mod breaker;
mod cache;
mod catalogue;
mod config;
mod cursor;
mod day;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod housekeeping;
mod http;
mod media;
mod messaging;
mod process;
mod redis_link;
mod relay;
mod search;
mod seed;
mod serve;
mod state;
mod store;
mod telemetry;
#[cfg(all(test, feature = "live-tests"))]
mod testing;
mod traces;
mod trust;
mod web;
mod webhooks;
mod worker;

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use config::{Cli, Command};
use tokio::runtime::Runtime;
use trust::Trust;

/// `app COMMAND`
#[must_use]
pub fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(error, "app stops");
            if !tracing::dispatcher::has_been_set() {
                // There is no log yet that it could be in.
                let _ = writeln!(std::io::stderr(), "error: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    // Clients that cannot be told which one take what the process has chosen; nobody chose before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().context("start the async runtime")?;
    let trust = Trust::read(cli.ca_file.as_deref())?;
    let traces = {
        let _runtime = runtime.enter();
        traces::Traces::start(&cli.traces, &trust)?
    };
    telemetry::logs(&cli.log, &traces)?;
    let ended = run(&runtime, cli.command, trust);
    traces.finish();
    ended
}

fn run(runtime: &Runtime, command: Command, trust: Trust) -> anyhow::Result<()> {
    runtime.block_on(async {
        match command {
            Command::Serve(config) => serve::run(*config, &trust).await,
            Command::Migrate(owner) => store::schema::migrate(&owner.database_url.postgres()?).await,
            Command::Admin(config) => accounts::administrator::make(&config).await,
            Command::Relay(config) => relay::run(config, trust).await,
            Command::Worker(config) => worker::run(config, trust).await,
            Command::Reindex(config) => search::reindex(&config, &trust).await,
            Command::Seed(config) => seed::run(&config.owner.database_url.postgres()?, config.scale).await,
        }
    })
}
