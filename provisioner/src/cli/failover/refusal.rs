//! Refusals as the command line shows them, each with its exit code.

use provisioner_components::postgres::failover::Refusal;

use crate::cli::exit::{Exit, Stop};
use crate::cli::settings::Settings;

pub(crate) fn stop(settings: &Settings, refusal: &Refusal) -> Stop {
    let exit = match refusal {
        Refusal::Healthy { .. } => Exit::Healthy,
        Refusal::Unsure { .. } => Exit::Unsure,
        Refusal::NoReplicas { .. } | Refusal::NoCandidate { .. } | Refusal::CandidateBehind { .. } => Exit::NoCandidate,
        Refusal::MayLose { .. } => Exit::MayLose,
        Refusal::Unclear(_) | Refusal::Foreign { .. } => Exit::Unclear,
        Refusal::BadTarget { .. } => Exit::BadTarget,
        Refusal::NotReady { .. } | Refusal::UnderWay { .. } => Exit::NotReady,
    };
    let hints = refusal.hints().iter();
    hints.fold(Stop::new(exit, refusal.to_string()), |stop, hint| stop.hint(settings.complete(hint)))
}
