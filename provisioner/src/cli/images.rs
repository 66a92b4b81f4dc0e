//! `images`: what the stack's members run, and whether the engine has it; brought to a registry for an engine that makes
//! none.

mod push;

use clap::{Args, Subcommand};

use provisioner_core::stack::{Image, Resource, Stack};
use serde::Serialize;

use super::Call;
use super::exit::Exit;
use crate::context::Context;
use crate::table::{Table, Tone};

#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Build what the stack needs on the Docker engine, push it to a registry, and tell the cluster its digests
    Push(push::PushArgs),
}

impl ImagesArgs {
    pub(super) fn is_push(&self) -> bool {
        self.what.is_some()
    }
}

#[derive(Serialize)]
struct ImageStatus {
    id: String,
    reference: String,
    present: bool,
    /// `recipe`: built here; `base`: what recipes start from; `reference`: somebody's own.
    from: &'static str,
}

pub(super) async fn images(call: &Call<'_>, arguments: &ImagesArgs) -> anyhow::Result<Exit> {
    match &arguments.what {
        Some(What::Push(arguments)) => push::push(call, arguments).await,
        None => list(call).await,
    }
}

async fn list(call: &Call<'_>) -> anyhow::Result<Exit> {
    let context = Context::to_change(call).await?;
    let observed = context.snapshot().await?;
    let listed: Vec<ImageStatus> = of(&context.stack)
        .map(|image| ImageStatus {
            id: image.id().0.clone(),
            reference: image.reference(),
            present: observed.images.contains(&image.reference()),
            from: match image {
                Image::Base { .. } => "base",
                Image::Recipe(_) => "recipe",
                Image::Reference { .. } => "reference",
            },
        })
        .collect();
    call.printer.data(&listed, || {
        let mut table = Table::with_header(&["IMAGE", "FROM", "PRESENT", "REFERENCE"]);
        for ImageStatus { id, reference, present, from } in &listed {
            let (word, tone) = if *present { ("yes", Tone::Good) } else { ("no", Tone::Warn) };
            table.row(vec![
                (id.clone(), None),
                ((*from).to_owned(), None),
                (word.to_owned(), Some(tone)),
                (reference.clone(), None),
            ]);
        }
        table.render(call.printer.is_colored())
    })?;
    Ok(Exit::Done)
}

fn of(stack: &Stack) -> impl Iterator<Item = &Image> {
    stack.resources().filter_map(|resource| match resource {
        Resource::Image(image) => Some(image),
        _ => None,
    })
}
