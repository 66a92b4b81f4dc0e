//! `history`: the last runs that changed the stack, newest first.

use std::time::Duration;

use clap::Args;
use provisioner_core::clock;
use provisioner_core::history::{self, Drill, Ended, Run};
use serde_json::json;

use super::Call;
use super::exit::Exit;
use crate::context::Context;
use crate::progress::seconds;
use crate::table::{Table, Tone};

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Only the last so many
    #[arg(short = 'n', long, value_name = "RUNS")]
    last: Option<usize>,
}

pub(super) async fn history(call: &Call<'_>, arguments: &HistoryArgs) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let mut runs = history::read(&context.snapshot().await?)?;
    runs.truncate(arguments.last.unwrap_or(usize::MAX));
    let value = json!({"stack": context.name(), "runs": runs});
    call.printer.data(&value, || match runs.as_slice() {
        [] => format!("nothing was done yet to stack {}\n", context.name()),
        runs => table(runs).render(call.printer.is_colored()),
    })?;
    Ok(Exit::Done)
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::with_header(&["WHEN", "WHO", "ENDED", "STEPS", "TOOK", "COMMAND"]);
    for Run { at, user, host, command, took_ms, steps, left, ended, drill } in runs {
        let (word, is_good) = match drill {
            Some(drill) if !drill.passed => ("missed", false),
            _ => (ended.word(), *ended == Ended::Done),
        };
        let what = drill.as_ref().map_or_else(|| command.clone(), |drill| format!("{command}: {}", told(drill)));
        table.row(vec![
            (clock::human_time(*at), None),
            (format!("{user}@{host}"), None),
            (word.to_owned(), Some(if is_good { Tone::Good } else { Tone::Bad })),
            (format!("{} of {steps}", steps - left), None),
            (seconds(Duration::from_millis(*took_ms)), None),
            (what, None),
        ]);
    }
    table
}

fn told(drill: &Drill) -> String {
    let back = match drill.rto_ms {
        Some(ms) => format!("writes back after {ms} ms"),
        None => "writes never came back".to_owned(),
    };
    format!("{}, {back}, {} acknowledged rows lost", drill.fault, drill.rpo_rows)
}
