//! `env`: addresses and logins for programs of this machine. Shows secrets, as `open` does.

use std::collections::{BTreeMap, BTreeSet};

use provisioner_core::component::Variable;
use provisioner_core::observed::Observed;
use provisioner_core::stack::Text;

use super::Call;
use super::exit::{Exit, Stop};
use crate::context::Context;

pub(super) async fn env(call: &Call<'_>) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    if context.place.is_some() {
        let message =
            format!("env: {} publishes nothing on this machine that would outlast the command", context.told());
        let stop = Stop::new(Exit::Usage, message);
        return Err(stop
            .hint(format!("a page, for as long as it is looked at: {}", call.settings.again("open")))
            .hint(format!("a program inside: {} MEMBER -- COMMAND", call.settings.again("exec")))
            .into());
    }
    let observed = context.snapshot().await?;
    let variables = context.components.iter().flat_map(|component| component.variables(&context.stack));
    let mut texts: BTreeMap<&'static str, Text> = BTreeMap::new();
    for variable in variables {
        texts.insert(variable.name, outside(call, &context, &variable, &observed)?);
    }
    let names: BTreeSet<String> = texts.values().flat_map(|text| text.secrets()).map(str::to_owned).collect();
    let secrets = context.engine.secrets(&names).await?;
    let mut values: BTreeMap<&'static str, String> = BTreeMap::new();
    for (name, text) in texts {
        values.insert(name, text.resolve(&secrets)?);
    }
    call.printer
        .data(&values, || values.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect())?;
    Ok(Exit::Done)
}

fn outside(call: &Call<'_>, context: &Context, variable: &Variable, observed: &Observed) -> Result<Text, Stop> {
    let Variable { name, member, port, .. } = variable;
    let Some(member) = member else { return Ok(variable.outside(None)) };
    let published = observed.workload(member).and_then(|workload| workload.published.get(port));
    published.map(|address| variable.outside(Some(*address))).ok_or_else(|| {
        let message = format!("find {name}: port {port} of {member} is not published, is stack {} up?", context.name());
        Stop::new(Exit::Error, message).hint(call.settings.again("up"))
    })
}

/// Safe to `eval` in a POSIX shell whatever the value holds.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_inside_a_value_ends_no_word() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
