//! `doctor`: the preflight by itself, with a manifest or without one.

use super::Call;
use super::exit::{self, Exit, Stop};
use super::settings::ManifestSource;
use crate::context::{Context, Place};
use crate::preflight::{self, Facts, Line};
use provisioner_components::external;
use provisioner_core::engine::EngineError;
use provisioner_core::name::StackName;

pub(super) async fn doctor(call: &Call<'_>) -> anyhow::Result<Exit> {
    let (lines, hints) = match look(call).await {
        Ok(lines) => (lines, Vec::new()),
        Err(error) if error.is::<EngineError>() || exit::of(&error) == Exit::Preflight => {
            (vec![preflight::unreachable(&error)], exit::hints(&error))
        }
        Err(error) => return Err(error),
    };
    call.printer.data(&lines, || preflight::render(&lines, call.printer.is_colored()))?;
    let refused = refuse(&lines).map_err(|stop| hints.into_iter().fold(stop, Stop::hint));
    refused?;
    Ok(Exit::Done)
}

async fn look(call: &Call<'_>) -> anyhow::Result<Vec<Line>> {
    if call.settings.manifest == ManifestSource::Nowhere {
        // Facts about the machine need no stack of their own; nothing is looked up under this name.
        let cluster = call.settings.cluster();
        let engine =
            call.engines.open(&call.settings.environment, &StackName::new("doctor")?, cluster.as_ref()).await?;
        let host = engine.host().await?;
        return Ok(match &cluster {
            Some(_) => preflight::judge_cluster(&host, engine.examine(None).await?),
            None => preflight::judge_host(&Facts::look(host, None)),
        });
    }
    let context = Context::for_doctor(call).await?;
    if let Some(place) = &context.place {
        // Whoever may not look at the stack is told all that is missing, and not what failed first.
        let lines = in_cluster(&context, place).await?;
        if preflight::is_refused(&lines) {
            return Ok(lines);
        }
    }
    let observed = context.snapshot().await?;
    lines(&context, &observed).await
}

/// The preflight of one stack, what was chosen for it included.
pub(super) async fn lines(
    context: &Context,
    observed: &provisioner_core::observed::Observed,
) -> anyhow::Result<Vec<Line>> {
    let mut lines = match &context.place {
        Some(place) => in_cluster(context, place).await?,
        None => {
            let facts = Facts::look(context.engine.host().await?, Some(&context.stack));
            preflight::judge(&facts, &context.manifest, &context.stack, observed)
        }
    };
    lines.extend(externals(context).await?);
    lines.extend(context.adapted.iter().map(|text| preflight::adapted(text)));
    Ok(lines)
}

/// A container of this machine's engine reaches what this machine reaches. From elsewhere nobody can tell before the stack
/// stands; then verify looks from inside.
async fn externals(context: &Context) -> anyhow::Result<Vec<Line>> {
    let is_here = context.place.is_none() && context.engine.host().await?.is_local;
    let looks = context.stack.externals().map(async |external| {
        let reached = external::reached(&external.host, external.port).await.map(drop);
        preflight::external(&external.component, &external.address(), reached, is_here)
    });
    Ok(futures_util::future::join_all(looks).await)
}

async fn in_cluster(context: &Context, place: &Place) -> anyhow::Result<Vec<Line>> {
    let mut conditions = context.engine.examine(Some(&context.stack)).await?;
    conditions.extend(context.certificate.clone());
    let mut lines = preflight::judge_cluster(&context.engine.host().await?, conditions);
    lines.insert(1, preflight::place(place));
    Ok(lines)
}

pub(super) fn refuse(lines: &[Line]) -> Result<(), Stop> {
    if !preflight::is_refused(lines) {
        return Ok(());
    }
    let refused = lines.iter().filter(|line| line.verdict == preflight::Verdict::Refused);
    let subjects: Vec<&str> = refused.map(|line| line.subject).collect();
    Err(Stop::new(Exit::Preflight, format!("preflight refuses: {}", subjects.join(", "))))
}
