//! `doctor`: the preflight by itself, with a manifest or without one.

use super::Call;
use super::exit::{self, Exit, Stop};
use super::settings::ManifestSource;
use crate::context::Context;
use crate::preflight::{self, Facts, Line};
use provisioner_core::engine::EngineError;
use provisioner_core::name::StackName;

pub(super) async fn doctor(call: &Call<'_>) -> anyhow::Result<Exit> {
    let (lines, hints) = match look(call).await {
        Ok(lines) => (lines, Vec::new()),
        Err(error) => match error.downcast_ref::<EngineError>() {
            Some(engine) => (vec![preflight::unreachable(engine)], exit::hints(&error)),
            None => return Err(error),
        },
    };
    call.printer.data(&lines, || preflight::render(&lines, call.printer.is_colored()))?;
    let refused = refuse(&lines).map_err(|stop| hints.into_iter().fold(stop, Stop::hint));
    refused?;
    Ok(Exit::Done)
}

async fn look(call: &Call<'_>) -> anyhow::Result<Vec<Line>> {
    if call.settings.manifest == ManifestSource::Nowhere {
        // Facts about the machine need no stack of their own; nothing is looked up under this name.
        let engine = call.engines.open(&call.settings.environment, &StackName::new("doctor")?).await?;
        return Ok(preflight::judge_host(&Facts::look(engine.host().await?, None)));
    }
    let context = Context::for_doctor(call).await?;
    let observed = context.snapshot().await?;
    lines(&context, &observed).await
}

/// The preflight of one stack, what was chosen for it included.
pub(super) async fn lines(
    context: &Context,
    observed: &provisioner_core::observed::Observed,
) -> anyhow::Result<Vec<Line>> {
    let facts = Facts::look(context.engine.host().await?, Some(&context.stack));
    let mut lines = preflight::judge(&facts, &context.manifest, &context.stack, observed);
    lines.extend(context.adapted.iter().map(|text| preflight::adapted(text)));
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
