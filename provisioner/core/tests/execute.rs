//! Walking a plan: failures stay where they are, and a run that was killed anywhere is simply run again.

mod common;

use common::{Wishes, components, engine, plan_now, stack, up};
use provisioner_core::engine::Engine;
use provisioner_core::execute::{Event, Execution, Listener, Outcome, Stop, execute};
use provisioner_core::name::Member;
use provisioner_core::plan::StepId;

#[tokio::test]
async fn a_failed_step_skips_its_dependents_and_lets_the_others_go_on() {
    let engine = engine();
    let stack = stack(&Wishes::default());
    engine.fail_after(Some(0));
    let (plan, outcomes) = up(&engine, &stack).await;
    for step in &plan.steps {
        match &outcomes[&step.id] {
            Outcome::Failed(_) => assert!(step.after.is_empty(), "{step}"),
            Outcome::Skipped { because_of } => {
                assert!(matches!(outcomes[because_of], Outcome::Failed(_)), "{step} names a step that failed");
            }
            Outcome::Done { .. } | Outcome::NotBegun => panic!("{step}"),
        }
    }
    assert!(outcomes.values().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count() > 1);
}

#[tokio::test]
async fn killed_after_any_number_of_changes_the_next_run_converges() {
    let stack = stack(&Wishes::default());
    let all = {
        let engine = engine();
        up(&engine, &stack).await;
        engine.take_calls().len()
    };
    for calls in 0..all {
        let engine = engine();
        engine.fail_after(Some(calls));
        up(&engine, &stack).await;
        engine.fail_after(None);
        let (_, outcomes) = up(&engine, &stack).await;
        let is_done = outcomes.values().all(|outcome| matches!(outcome, Outcome::Done { .. }));
        assert!(is_done, "killed after {calls} of {all} changes");
        assert_eq!(plan_now(&engine, &stack).await.to_string(), "", "killed after {calls} of {all} changes");
    }
}

#[tokio::test]
async fn what_goes_at_one_go_is_ended_and_nothing_else_begun_where_somebody_asks_to_stop() {
    let (engine, stack) = (engine(), stack(&Wishes::default()));
    let plan = plan_now(&engine, &stack).await;
    let observed = engine.observe().await.unwrap();
    let stop = Stop::default();
    // A step with another one after it, and that one.
    let then = plan.steps.iter().find(|step| !step.after.is_empty()).unwrap();
    let first = then.after.first().copied().unwrap();
    let execution = Execution {
        engine: &engine,
        components: &components(),
        stack: &stack,
        observed: &observed,
        listener: &StopsAt(first, stop.clone()),
        lease: None,
        stop,
        ready_limit: std::time::Duration::from_secs(5),
        at_one_go: [first, then.id].into(),
    };
    let outcomes = execute(&plan, &execution).await;
    assert!(matches!(outcomes[&then.id], Outcome::Done { .. }));
    assert!(outcomes.values().any(|outcome| matches!(outcome, Outcome::NotBegun)));
}

/// Asks to stop as soon as a step has begun.
struct StopsAt(StepId, Stop);

impl Listener for StopsAt {
    fn hear(&self, event: Event<'_>) {
        if matches!(event, Event::Started(step) if step.id == self.0) {
            self.1.request();
        }
    }
}

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let engine = engine();
    let stack = stack(&Wishes::default());
    up(&engine, &stack).await;
    engine.take_calls();
    up(&engine, &stack).await;
    assert_eq!(engine.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn secrets_are_resolved_at_the_engine_and_nowhere_before() {
    let engine = engine();
    let stack = stack(&Wishes::default());
    let (plan, _) = up(&engine, &stack).await;
    let json = serde_json::to_string(&plan).unwrap();
    assert!(json.contains("@{secret:store-password}"));
    assert!(!json.contains("xxxxxxxx"));
}

#[tokio::test]
async fn a_file_that_its_checker_refuses_fails_the_step_and_stays_drift() {
    let engine = engine();
    up(&engine, &stack(&Wishes::default())).await;
    engine.refuse_files(true);
    let wishes = Wishes { front_conf: "rate nonsense", ..Wishes::default() };
    let (_, outcomes) = up(&engine, &stack(&wishes)).await;
    assert!(matches!(outcomes[&StepId(1)], Outcome::Failed(_)));
    assert_eq!(engine.file(&Member::nth("front", 1), "/etc/front.conf").unwrap(), "rate 10");
    assert!(!plan_now(&engine, &stack(&wishes)).await.is_empty());
}
