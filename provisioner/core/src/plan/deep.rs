//! What deep comparisons found as reasons to act.

use super::{Impact, Withheld};
use crate::component::{Dependency, Planned, Tasks};
use crate::drift::{Comparison, Repair, Verdict};
use crate::observed::Observed;
use crate::stack::{OnChange, Workload};

/// What one member needs, by the strongest of its differences.
pub(super) fn member(workload: &Workload, observed: &Observed, is_running: bool) -> Option<(Impact, String)> {
    let mut because = Vec::new();
    let mut files = Vec::new();
    let (mut anew, mut reload) = (!is_running, false);
    for comparison in observed.deep.iter().filter(|one| one.member.as_ref() == Some(&workload.member)) {
        let Some(repair) = repair(comparison) else { continue };
        match repair {
            Repair::Replace => anew = true,
            Repair::PutFile { path } => {
                let file = workload.files.iter().find(|file| file.path == *path);
                anew |= file.is_none_or(|file| file.on_change == OnChange::Restart);
                reload |= file.is_some_and(|file| matches!(file.on_change, OnChange::Reload { .. }));
                files.push(path.clone());
            }
            Repair::Run { .. } | Repair::Command { .. } => continue,
        }
        because.extend(comparison.because());
    }
    if because.is_empty() {
        return None;
    }
    let impact = match (anew, reload) {
        (true, _) => Impact::Anew,
        (false, true) => Impact::Reload { files },
        (false, false) => Impact::None { files },
    };
    Some((impact, because.join("; ")))
}

/// Tasks that put server settings right. What they repair is kept with the server's data, so a server that starts anew
/// needs them all the same.
pub(super) fn enlist(observed: &Observed, wanted: &mut Tasks) {
    for comparison in &observed.deep {
        let Some(because) = comparison.because() else { continue };
        let task = match repair(comparison) {
            Some(Repair::Run { task }) => task,
            Some(Repair::Command { command }) => {
                wanted.withheld.push(by_a_person(comparison, because, command));
                continue;
            }
            _ => continue,
        };
        // A fingerprint in `with` is the component's own business: name and member say which task it is.
        let known = wanted.tasks.iter_mut().find(|planned| {
            let one = &planned.task;
            (&one.component, &one.name, &one.member) == (&task.component, &task.name, &task.member)
        });
        match known {
            Some(planned) => match &mut planned.because {
                None => planned.because = Some(because),
                Some(reasons) if !reasons.contains(&because) => reasons.push_str(&format!("; {because}")),
                Some(_) => {}
            },
            None => wanted.tasks.push(Planned {
                task: task.clone(),
                because: Some(because),
                after: task.member.iter().cloned().map(Dependency::Ready).collect(),
                before: Vec::new(),
            }),
        }
    }
}

/// The stack does what the manifest says all the same, so it does not block.
fn by_a_person(comparison: &Comparison, because: String, command: &str) -> Withheld {
    Withheld {
        what: format!("put {} right", comparison.what),
        reason: because,
        unlock: command.to_owned(),
        blocks: false,
    }
}

fn repair(comparison: &Comparison) -> Option<&Repair> {
    match &comparison.verdict {
        Verdict::Differs { repair, .. } => Some(repair),
        Verdict::Same | Verdict::Unknown { .. } => None,
    }
}
