//! A verdict as people, machines and eyes take it.

mod chart;

use std::fmt::Write;
use std::time::Duration;

use provisioner_core::manifest::Objectives;

use crate::judge::{Stage, Verdict};

pub use chart::{ChartError, html};

/// What people read, without colours.
pub fn human(verdict: &Verdict) -> String {
    let Verdict { fault, engine, synchronous, acked, refused, unknown, .. } = verdict;
    let word = if verdict.passed { "passed" } else { "FAILED" };
    let mut text = format!("drill {word}: {fault} on {engine}, synchronous {synchronous}\n\n");
    let mut table = vec![["phase".to_owned(), "took".to_owned(), "budget".to_owned(), String::new()]];
    for phase in &verdict.phases {
        let mark = if phase.took_ms > phase.budget_ms { "over" } else { "" };
        table.push([phase.name.clone(), duration(phase.took_ms), duration(phase.budget_ms), mark.to_owned()]);
    }
    columns(&mut text, &table);
    text.push('\n');

    let (objectives, architecture) = (verdict.objectives, Objectives::ARCHITECTURE);
    let limit = |objective: Duration| duration(u64::try_from(objective.as_millis()).unwrap_or(u64::MAX));
    let beside = |objective: Duration, architecture: Duration| {
        if objective == architecture { String::new() } else { format!("{} by the architecture", limit(architecture)) }
    };
    let back = verdict.rto_ms.map_or("never".to_owned(), duration);
    let mut table = vec![
        [
            "writes back after".to_owned(),
            back,
            format!("at most {}", limit(objectives.rto)),
            beside(objectives.rto, architecture.rto),
        ],
        [
            "acknowledged, lost".to_owned(),
            format!("{}, {}", rows(verdict.rpo_rows), duration(verdict.rpo_ms)),
            format!("at most {}", limit(objectives.rpo)),
            beside(objectives.rpo, architecture.rpo),
        ],
        ["two primaries".to_owned(), duration(verdict.dual_primary_ms), "none".to_owned(), String::new()],
        ["unprotected".to_owned(), duration(verdict.unprotected_ms), String::new(), String::new()],
    ];
    for (member, stage, lacking) in &verdict.lacking {
        let stage = match stage {
            Stage::Primary => "new primary",
            Stage::Replica => "replica",
            Stage::Rebuilt => "rebuilt",
        };
        let held = format!("{} of {acked} rows", acked - lacking);
        table.push([format!("{member}, {stage}"), held, String::new(), String::new()]);
    }
    columns(&mut text, &table);
    // Writing into a String cannot fail.
    let _ = writeln!(text, "\nledger: {acked} acknowledged, {refused} refused, {unknown} unknown");
    for breach in &verdict.breaches {
        let _ = writeln!(text, "failed: {breach}");
    }
    text
}

pub fn json(verdict: &Verdict) -> serde_json::Result<String> {
    serde_json::to_string_pretty(verdict)
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// `850 ms`, `12.4 s`, `15 min`.
fn duration(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        60_000.. if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        10_000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}

fn columns(text: &mut String, table: &[[String; 4]]) {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    for [name, first, second, third] in table {
        let [a, b, c, _] = widths;
        let line = format!("{name:a$}  {first:b$}  {second:c$}  {third}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
