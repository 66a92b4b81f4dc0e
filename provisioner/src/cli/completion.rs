//! `completion`: a script for a shell. Needs neither manifest nor engine.

use clap::Args;
use clap_complete::{Shell, generate};

use super::exit::Exit;
use super::{Call, command};

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// Shell to write it for
    shell: Shell,
}

pub(super) fn completion(call: &Call<'_>, arguments: &CompletionArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut command(), "provisioner", &mut script);
    call.printer.stdout(&script)?;
    Ok(Exit::Done)
}
