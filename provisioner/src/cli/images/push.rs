//! `images push`: a cluster makes no images and pulls none from here, so they go to a registry that its nodes reach.

use std::collections::BTreeMap;

use clap::Args;
use provisioner_components::postgres;
use provisioner_core::engine::Output;
use provisioner_core::images::Pushed;
use provisioner_core::manifest::Kubernetes;
use provisioner_core::record;
use provisioner_core::stack::Image;
use provisioner_drills::ledger::Probe;
use provisioner_kubernetes::PushedImages;
use serde::Serialize;

use super::{Call, Exit, of};
use crate::cli::exit::Stop;
use crate::context::Context;
use crate::machine;
use crate::report::{Printer, counted};
use crate::table::{Table, Tone};

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// Registry to push to, with a path where it has one; the engine needs TLS unless it is on loopback [default:
    /// kubernetes.registry]
    #[arg(long, value_name = "REGISTRY", value_parser = parse_registry)]
    registry: Option<String>,

    /// The same registry as the cluster's nodes reach it [default: kubernetes.registry, else --registry]
    #[arg(long, value_name = "REGISTRY", value_parser = parse_registry)]
    registry_in_cluster: Option<String>,
}

fn parse_registry(text: &str) -> Result<String, String> {
    let is_right = Kubernetes::is_registry(text);
    is_right.then(|| text.to_owned()).ok_or_else(|| {
        format!("{text:?} is no registry, expected a host with its port and path, such as registry.example.com/shop")
    })
}

#[derive(Serialize)]
struct ImageView {
    id: String,
    reference: String,
    /// What pods are told to run.
    in_cluster: String,
    /// Layers that the registry did not have yet.
    layers: usize,
}

/// What builds and pushes print, for whoever wants to see it.
struct Told<'a> {
    printer: &'a Printer,
    is_verbose: bool,
}

impl Output for Told<'_> {
    fn line(&self, line: &str) {
        if self.is_verbose {
            self.printer.note(&format!("  {line}"));
        }
    }
}

pub(super) async fn push(call: &Call<'_>, arguments: &PushArgs) -> anyhow::Result<Exit> {
    let context = Context::to_change(call).await?;
    let Some(kubernetes) = &context.manifest.kubernetes else {
        let message = format!("stack {} runs on Docker, which makes its images itself", context.name());
        return Err(Stop::new(Exit::Usage, message).hint("images are pushed for a manifest with `kubernetes:`").into());
    };
    let registry = arguments.registry.as_ref().or(kubernetes.registry.as_ref()).ok_or_else(|| {
        let stop = Stop::new(Exit::Usage, "no registry is named, expected --registry or kubernetes.registry");
        stop.hint("for instance --registry registry.example.com/shop")
    })?;
    let in_cluster = arguments.registry_in_cluster.as_ref().or(kubernetes.registry.as_ref()).unwrap_or(registry);
    let workshop = call.engines.images(&call.settings.environment, context.name()).await?;
    let told = Told { printer: call.printer, is_verbose: call.settings.verbose };
    // Recipes start from the base.
    let (bases, others): (Vec<&Image>, Vec<&Image>) =
        of(&context.stack).partition(|image| matches!(image, Image::Base { .. }));
    let probe = probe(call, &context)?;
    let mut views = Vec::new();
    for image in bases.into_iter().chain(others).chain(&probe) {
        // Somebody's own is where its reference says, for the cluster as for everybody.
        if matches!(image, Image::Reference { .. }) {
            continue;
        }
        let (id, reference) = (image.id().0.as_str(), image.reference());
        call.printer.note(&format!("{id}: making and pushing it as {registry}/provisioner/{id}"));
        workshop.make(image, &context.images, &told).await?;
        let target = format!("{registry}/provisioner/{id}");
        let Pushed { digest, layers } = workshop.push(&reference, &target, &told).await?;
        let in_cluster = format!("{in_cluster}/provisioner/{id}@{digest}");
        views.push(ImageView { id: id.to_owned(), reference, in_cluster, layers });
    }
    note(&context, &views).await?;
    call.printer.data(&views, || human(&context, &views, call.printer.is_colored()))?;
    Ok(Exit::Done)
}

/// What a drill runs beside the database; no member does, so the stack does not declare it.
fn probe(call: &Call<'_>, context: &Context) -> anyhow::Result<Option<Image>> {
    if context.stack.members(postgres::NAME).next().is_none() {
        return Ok(None);
    }
    let Ok(program) = machine::probe() else {
        call.printer.note("probe: not built here, so no drill can run; make build");
        return Ok(None);
    };
    Ok(Some(Probe::read(&program)?.image()))
}

/// An image that was pushed before under the same id gives way: what runs it knows its digest.
async fn note(context: &Context, views: &[ImageView]) -> anyhow::Result<()> {
    let records = context.engine.records();
    record::update::<PushedImages, _>(records, PushedImages::RECORD, |known| {
        let is_first = known.is_none();
        let known = known.unwrap_or_default();
        let is_replaced =
            |reference: &str| views.iter().any(|view| reference.starts_with(&format!("provisioner/{}:", view.id)));
        let kept = known.0.iter().filter(|(reference, _)| !is_replaced(reference));
        let kept = kept.map(|(reference, in_cluster)| (reference.clone(), in_cluster.clone()));
        let pushed = views.iter().map(|view| (view.reference.clone(), view.in_cluster.clone()));
        let next = PushedImages(kept.chain(pushed).collect::<BTreeMap<_, _>>());
        (is_first || next != known).then_some(next)
    })
    .await?;
    Ok(())
}

fn human(context: &Context, views: &[ImageView], color: bool) -> String {
    let mut table = Table::with_header(&["IMAGE", "UPLOADED", "IN THE CLUSTER"]);
    for ImageView { id, in_cluster, layers, .. } in views {
        let (word, tone) = match layers {
            0 => ("nothing".to_owned(), Tone::Good),
            layers => (counted(*layers, "layer"), Tone::Warn),
        };
        table.row(vec![(id.clone(), None), (word, Some(tone)), (in_cluster.clone(), None)]);
    }
    format!("{}{} of {}\n", table.render(color), counted(views.len(), "image"), context.told())
}
