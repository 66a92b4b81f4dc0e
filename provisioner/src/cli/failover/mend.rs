//! What a failover or a switchover that was cut off has left undone: the primary is well, and the rest does not follow it.

use std::collections::BTreeSet;
use std::time::Duration;

use provisioner_components::postgres::failover as procedure;
use provisioner_components::postgres::rejoin::{self, Method};
use provisioner_components::{postgres, route};
use provisioner_core::engine::Quiet;
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Impact, Plan, Policy, StepId};
use provisioner_core::wait::{self, Look, WaitError};

use super::{Scene, Wish, cluster, mark, refused};
use crate::cli::Call;
use crate::cli::apply::Work;
use crate::context::Context;

/// Each round leaves less to do; a stack that has not settled by then does not.
const ROUNDS: usize = 10;

/// Does what is left, plan by plan, and says how many steps that took.
pub(super) async fn mend(work: &mut Work<'_>) -> anyhow::Result<usize> {
    let mended: anyhow::Result<()> = async {
        settle(work).await?;
        Ok(work.conclude("failover").await?)
    }
    .await;
    if mended.is_err() {
        mark(work).await;
    }
    mended?;
    Ok(work.walks.iter().map(|walk| walk.plan.steps.len()).sum())
}

/// The same after a change that has failed, which is somebody else's to tell.
pub(crate) async fn settle(work: &mut Work<'_>) -> anyhow::Result<()> {
    let (call, context) = (work.call, work.context);
    for _ in 0..ROUNDS {
        let Some((observed, plan)) = call.cut(next(call, context)).await?? else { break };
        if !work.carry(plan, &observed).await {
            break;
        }
    }
    Ok(())
}

/// The next thing that is left, by urgency: a change that came to nothing blocks all else, then writes and the replicas
/// that stand, then members outside the cluster.
pub(super) async fn next(call: &Call<'_>, context: &Context) -> anyhow::Result<Option<(Observed, Plan)>> {
    let observed = told(context).await?;
    let cluster = cluster(&observed)?;
    let access = context.access(&observed, &Quiet);
    if cluster.change.is_some() {
        let survey = procedure::survey(&access, None).await?;
        let scene = Scene { stack: &context.stack, survey: &survey, wish: Wish::default() };
        let plan = procedure::abandon(&scene).map_err(|refusal| refused(call.settings, &refusal))?;
        return Ok(plan.map(|plan| (observed, plan)));
    }
    let targets = [postgres::NAME, route::NAME].map(str::to_owned).into();
    let plan = context.plan(&observed, &Policy { targets, ..Policy::default() })?;
    if let Some(plan) = left_over(plan) {
        return Ok(Some((observed, plan)));
    }
    let members = context.stack.members(postgres::NAME).map(|workload| &workload.member);
    let is_outside = |member: &&Member| cluster.role(member).is_none() && observed.workload(member).is_some();
    let Some(member) = members.filter(is_outside).min() else { return Ok(None) };
    let found = rejoin::look(&access, &cluster, member).await;
    let scene = rejoin::Scene { stack: &context.stack, observed: &observed, cluster: &cluster, found };
    let plan = rejoin::decide(&scene, member, Method::Auto).map_err(|refusal| anyhow::anyhow!(refusal))?;
    Ok(plan.map(|plan| (observed, plan)))
}

/// How long the route may take to find the name of a member that has just started; it looks twice a second.
const TOLD_LIMIT: Duration = Duration::from_secs(5);
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// A snapshot in which the route says of every running member whether it leads there. Without that word a member counts as
/// led to, and nothing would seem to be left; one that is cut off stays without it.
async fn told(context: &Context) -> anyhow::Result<Observed> {
    let told = wait::until(TOLD_LIMIT, TOLD_EVERY, async || match context.observe().await {
        Ok(observed) if route::untold(&observed).is_empty() => Look::Done(observed),
        Ok(observed) => Look::Pending(format!("the route does not tell of {:?}", route::untold(&observed))),
        Err(error) => Look::Broken(error),
    });
    match told.await {
        Ok(observed) => Ok(observed),
        Err(WaitError::Broken(error)) => Err(error),
        Err(WaitError::TimedOut { .. }) => context.observe().await,
    }
}

/// What only a change of the primary leaves behind, and what that needs. That a replica is down, or that somebody has edited
/// the manifest since, is no business of a failover.
fn left_over(mut plan: Plan) -> Option<Plan> {
    let is_left_over =
        |action: &Action| matches!(action, Action::Run { task } if ["follow", "point"].contains(&task.name.as_str()));
    if !plan.steps.iter().any(|step| is_left_over(&step.action)) {
        return None;
    }
    plan.steps.retain(|step| match &step.action {
        Action::Change { impact, .. } => *impact == Impact::Start,
        Action::Remove { .. } => false,
        Action::Create { .. } | Action::Await { .. } | Action::Run { .. } => true,
    });
    let kept: BTreeSet<StepId> = plan.steps.iter().map(|step| step.id).collect();
    for step in &mut plan.steps {
        step.after.retain(|id| kept.contains(id));
    }
    Some(plan)
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Task;
    use provisioner_core::plan::Draft;
    use provisioner_core::stack::Resource;

    use super::*;

    fn change(impact: Impact) -> Action {
        Action::Change { to: Resource::Network, impact }
    }

    fn run(name: &str) -> Action {
        Action::Run { task: Task::new(postgres::NAME, name) }
    }

    #[test]
    fn an_edited_manifest_waits_for_the_next_up() {
        let mut draft = Draft::default();
        let restart = draft.step(change(Impact::Restart), "memory", &[]);
        let start = draft.step(change(Impact::Start), "it is down", &[]);
        let follow = draft.step(run("follow"), "it follows nobody", &[restart, start]);
        draft.step(run("synchronous"), "commits wait for it", &[follow]);
        let kept = left_over(draft.finish()).unwrap();
        assert_eq!(
            kept.steps.iter().map(|step| step.after.clone()).collect::<Vec<_>>(),
            [vec![], vec![start], vec![follow]]
        );
    }

    #[test]
    fn a_replica_that_is_down_is_no_business_of_a_failover() {
        let mut draft = Draft::default();
        let start = draft.step(change(Impact::Start), "it is down", &[]);
        draft.step(run("synchronous"), "commits wait for it", &[start]);
        assert!(left_over(draft.finish()).is_none());
    }
}
