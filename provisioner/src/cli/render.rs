//! `render`: the objects that `up` applies, for those who have them applied by other means. Reads only.

use provisioner_core::record::Records;
use provisioner_kubernetes::{Manifests, PushedImages, manifests};

use super::Call;
use super::exit::{Exit, Stop};
use crate::context::Context;
use crate::engines;

pub(super) async fn render(call: &Call<'_>) -> anyhow::Result<Exit> {
    let context = Context::to_change(call).await?;
    let Some(kubernetes) = &context.manifest.kubernetes else {
        let stop = Stop::new(Exit::Usage, format!("stack {} runs on Docker, which applies no files", context.name()));
        return Err(stop.hint("a section `kubernetes:` in the manifest makes Kubernetes its engine").into());
    };
    let pushed = pushed(context.engine.records()).await?;
    let options = engines::options(kubernetes);
    let rendered = manifests(&context.stack, kubernetes.namespace.as_deref(), &options, &pushed)?;
    let documents = rendered.objects.iter().map(serde_yaml::to_string).collect::<Result<Vec<_>, _>>()?;
    call.printer.data(&rendered.objects, || format!("{}{}", head(&context, &rendered), documents.join("---\n")))?;
    Ok(Exit::Done)
}

/// Under which digests the cluster pulls what was pushed for it.
async fn pushed(records: &dyn Records) -> anyhow::Result<PushedImages> {
    let found = records.get(PushedImages::RECORD).await?;
    Ok(found.map(|record| record.read(PushedImages::RECORD)).transpose()?.unwrap_or_default())
}

fn head(context: &Context, rendered: &Manifests) -> String {
    let mut text = format!(
        "# What `provisioner up` applies for {}.\n\
         # Secrets are not among it: their values exist in the cluster alone, where `provisioner up` makes them:\n",
        context.told()
    );
    for name in &rendered.secrets {
        text.push_str(&format!("#   {name}\n"));
    }
    text
}
