//! Refusals as the command line shows them, each with its exit code.

use provisioner_components::postgres::failover::Refusal;

use crate::cli::exit::{Exit, Stop};
use crate::cli::settings::Settings;

pub(crate) fn stop(settings: &Settings, refusal: &Refusal) -> Stop {
    let exit = match refusal {
        Refusal::Healthy { .. } => Exit::Healthy,
        Refusal::Unsure { .. } => Exit::Unsure,
        Refusal::NoReplicas { .. } => Exit::NoReplicas,
        Refusal::NoCandidate { .. } => Exit::NoCandidate,
        Refusal::CandidateBehind { .. } => Exit::CandidateBehind,
        Refusal::MayLose { .. } => Exit::MayLose,
        Refusal::Unclear(_) => Exit::Unclear,
        Refusal::Foreign { .. } => Exit::Foreign,
        Refusal::BadTarget { .. } => Exit::BadTarget,
        Refusal::NotReady { .. } => Exit::NotReady,
        Refusal::NoRoute { .. } => Exit::NoRoute,
        Refusal::UnderWay { .. } => Exit::UnderWay,
    };
    let hints = refusal.hints().iter();
    hints.fold(Stop::new(exit, refusal.to_string()), |stop, hint| stop.hint(settings.complete(hint)))
}
