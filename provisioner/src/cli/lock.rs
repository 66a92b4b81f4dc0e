//! `lock`: who works on the stack right now, and how to take the lock away from somebody who does not give it back.

use clap::{Args, Subcommand};
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
    let context = Context::to_look(call).await?;
    match &arguments.what {
        What::Status => status(call, &context).await,
        What::Release { id } => release(call, &context, id).await,
    }
}

async fn status(call: &Call<'_>, context: &Context) -> anyhow::Result<Exit> {
    let holder = lease::holder(&*context.engine).await?;
    let value = json!({"stack": context.name(), "holder": holder, "ttl_secs": lease::TTL.as_secs()});
    call.printer.data(&value, || match &holder {
        None => format!("nobody holds the lock of stack {}\n", context.name()),
        Some(holder) => format!(
            "{holder} holds the lock of stack {}\n  it frees itself {} s after its holder is gone\n  release  {}\n",
            context.name(),
            lease::TTL.as_secs(),
            call.settings.again(&format!("lock release {}", holder.id)),
        ),
    })?;
    Ok(Exit::Done)
}

async fn release(call: &Call<'_>, context: &Context, id: &str) -> anyhow::Result<Exit> {
    match lease::release_by_id(&*context.engine, id).await {
        Ok(()) => {}
        Err(error @ (LeaseError::OtherId { .. } | LeaseError::NotHeld)) => {
            let stop = Stop::new(Exit::Refused, error.to_string());
            return Err(stop.hint(format!("see who holds it with: {}", call.settings.again("lock status"))).into());
        }
        Err(error) => return Err(error.into()),
    }
    call.printer.data(&json!({"stack": context.name(), "released": id}), || format!("lock {id} released\n"))?;
    Ok(Exit::Done)
}
