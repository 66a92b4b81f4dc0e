//! `lock`: who works on the stack right now, and how to take the lock away from somebody who does not give it back.

use clap::{Args, Subcommand};
use provisioner_core::engine::Engine;
use provisioner_core::lease::{self, LeaseError};
use serde_json::json;

use super::Call;
use super::exit::{Exit, Stop};
use crate::context::Context;

#[derive(Debug, Args)]
pub(super) struct LockArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show who holds the lock
    Status,
    /// Take the lock away from its holder, whose run then begins no further step
    Release {
        /// Id that `lock status` shows, so that nobody releases somebody else's lock by mistake
        id: String,
    },
}

pub(super) async fn lock(call: &Call<'_>, arguments: &LockArgs) -> anyhow::Result<Exit> {
    let manifest = Context::offline(call)?.manifest;
    let cluster = manifest.kubernetes.as_ref();
    let engine = call.engines.open(&call.settings.environment, &manifest.name, cluster).await?;
    match &arguments.what {
        What::Status => status(call, &*engine).await,
        What::Release { id } => release(call, &*engine, id).await,
    }
}

async fn status(call: &Call<'_>, engine: &dyn Engine) -> anyhow::Result<Exit> {
    let holder = lease::holder(engine).await?;
    let value = json!({"stack": engine.stack(), "holder": holder, "ttl_secs": lease::TTL.as_secs()});
    call.printer.data(&value, || match &holder {
        None => format!("nobody holds the lock of stack {}\n", engine.stack()),
        Some(holder) => format!(
            "{holder} holds the lock of stack {}\n  it frees itself {} s after its holder is gone\n  release  {}\n",
            engine.stack(),
            lease::TTL.as_secs(),
            call.settings.again(&format!("lock release {}", holder.id)),
        ),
    })?;
    Ok(Exit::Done)
}

async fn release(call: &Call<'_>, engine: &dyn Engine, id: &str) -> anyhow::Result<Exit> {
    match lease::release_by_id(engine, id).await {
        Ok(()) => {}
        Err(error @ (LeaseError::OtherId { .. } | LeaseError::NotHeld)) => {
            let stop = Stop::new(Exit::Refused, error.to_string());
            return Err(stop.hint(format!("see who holds it with: {}", call.settings.again("lock status"))).into());
        }
        Err(error) => return Err(error.into()),
    }
    call.printer.data(&json!({"stack": engine.stack(), "released": id}), || format!("lock {id} released\n"))?;
    Ok(Exit::Done)
}
