//! `man`: manual pages, made from the same definitions as the help. Needs neither manifest nor engine.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap_mangen::Man;
use serde_json::json;

use super::exit::{Exit, Stop};
use super::{Call, command};

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Page of this command; none: of `provisioner`
    #[arg(value_name = "COMMAND", conflicts_with = "into")]
    command: Option<String>,

    /// Write the pages of all commands into this directory, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIRECTORY")]
    into: Option<PathBuf>,
}

pub(super) fn man(call: &Call<'_>, arguments: &ManArgs) -> anyhow::Result<Exit> {
    // Without it the pages of commands would lack the global options.
    let mut root = command();
    root.build();
    let Some(directory) = &arguments.into else {
        let page = match arguments.command.as_deref() {
            None => page(&root)?,
            Some(name) => page(root.find_subcommand(name).ok_or_else(|| no_such_command(&root, name))?)?,
        };
        call.printer.stdout(&page)?;
        return Ok(Exit::Done);
    };
    let written = || format!("write manual pages into {}", directory.display());
    std::fs::create_dir_all(directory).with_context(written)?;
    let mut files = Vec::new();
    for command in std::iter::once(&root).chain(root.get_subcommands().filter(|command| command.get_name() != "help")) {
        let man = Man::new(command.clone());
        let file = directory.join(man.get_filename());
        std::fs::write(&file, page(command)?).with_context(written)?;
        files.push(file);
    }
    call.printer.data(&json!({"files": files}), || format!("{} pages in {}\n", files.len(), directory.display()))?;
    Ok(Exit::Done)
}

fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

fn no_such_command(root: &clap::Command, name: &str) -> Stop {
    let names: Vec<&str> = root.get_subcommands().map(clap::Command::get_name).collect();
    Stop::new(Exit::Usage, format!("there is no command {name}")).hint(format!("commands: {}", names.join(", ")))
}
