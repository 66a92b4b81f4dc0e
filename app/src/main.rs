//! A thin e-commerce service: catalogue reads through Redis and a replica, orders on the primary.

mod background;
mod basket;
mod breaker;
mod cache;
mod config;
mod cursor;
mod http;
mod messaging;
mod process;
mod relay;
mod search;
mod seed;
mod serve;
mod state;
mod store;
mod telemetry;
mod trust;
mod worker;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use config::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match telemetry::logs(&cli.log).and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "app stops");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // Clients that cannot be told which one take what the process has chosen; nobody chose before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().context("start the async runtime")?;
    runtime.block_on(async {
        match command {
            Command::Serve(config) => serve::run(config).await,
            Command::Migrate(owner) => store::schema::migrate(&owner.database_url.postgres()?).await,
            Command::Relay(config) => relay::run(config).await,
            Command::Worker(config) => worker::run(config).await,
            Command::Reindex(config) => search::reindex(&config).await,
            Command::Seed(owner) => seed::run(&owner.database_url.postgres()?).await,
        }
    })
}
