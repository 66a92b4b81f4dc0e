//! Decisions from made-up surveys.

use std::collections::{BTreeMap, BTreeSet};

use insta::assert_snapshot;
use provisioner_core::component::Component;
use provisioner_core::manifest::{Manifest, PostgresMember, Synchronous};
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::plan::Plan;
use provisioner_core::stack::{Resource, Stack};

use super::super::Postgres;
use super::super::cluster::{Change, ChangeKind, Cluster};
use super::super::lsn::Lsn;
use super::elect::{Attributes, Voter, elect};
use super::survey::{Seen, Survey, Told, Unarchived};
use super::{Refusal, Scene, Wish, abandon, isolate, succeed, successor, switchover};
use crate::route::Route;
use crate::testing::manifest;

const PRIMARY: &str = "postgres-1";

fn member(ordinal: u32) -> Member {
    Member::nth("postgres", ordinal)
}

fn stack(replicas: u32, synchronous: Synchronous) -> Stack {
    let mut manifest: Manifest = manifest();
    manifest.postgres.replicas = replicas;
    manifest.postgres.synchronous = synchronous;
    let components: [Box<dyn Component>; 2] = [Box::<Route>::default(), Box::new(Postgres)];
    let declared = components.iter().flat_map(|component| component.declare(&manifest));
    Stack::new(manifest.name.clone(), declared.chain([Resource::Network]))
}

fn replica(received: u64) -> Told {
    Told {
        system_id: "7".to_owned(),
        in_recovery: true,
        timeline: 1,
        received: Lsn(received),
        replayed: Lsn(received),
        replay_paused: false,
        upstream: PRIMARY.to_owned(),
        heard_ms_ago: Some(2500),
        primary_end: Some(Lsn(received + 100)),
        streaming: BTreeSet::new(),
        synchronous_names: String::new(),
        archiving_fails: false,
        unarchived: None,
        is_full: false,
        free_walsenders: 10,
        free_slots: 10,
        backups_running: 0,
    }
}

fn primary(replicas: u32) -> Told {
    let streaming = (2..=replicas + 1).map(member).collect();
    Told { in_recovery: false, streaming, upstream: String::new(), ..replica(5000) }
}

fn seen(told: Told) -> Seen {
    Seen { state: Some(State::Running), told: Ok(told) }
}

fn gone() -> Seen {
    Seen { state: Some(State::Exited), told: Err("connection refused".to_owned()) }
}

/// The primary is lost; the replicas have received this much, and each of them is waited for.
fn lost(received: &[u64]) -> Survey {
    let replicas: BTreeSet<Member> = (2..).take(received.len()).map(member).collect();
    let told = (2..).zip(received).map(|(ordinal, received)| (member(ordinal), seen(replica(*received))));
    let members: BTreeMap<Member, Seen> = told.chain([(member(1), gone())]).collect();
    let cluster = Cluster {
        system_id: "7".to_owned(),
        primary: member(1),
        replicas: replicas.clone(),
        epoch: 1,
        timeline: 1,
        synchronous: replicas,
        change: None,
    };
    let route = [(Member::nth("route", 1), Ok(()))].into();
    Survey { cluster, members, route }
}

fn standing(replicas: u32) -> Survey {
    let mut survey = lost(&vec![5000; replicas as usize]);
    survey.members.insert(member(1), seen(primary(replicas)));
    survey
}

fn under_way(kind: ChangeKind, to: Option<u32>) -> Option<Change> {
    Some(Change { kind, from: member(1), to: to.map(member), promoting: false, since: 0 })
}

fn promoting(kind: ChangeKind, to: u32) -> Option<Change> {
    under_way(kind, Some(to)).map(|change| Change { promoting: true, ..change })
}

fn both(survey: &Survey, synchronous: Synchronous, wish: Wish) -> Result<String, Refusal> {
    let replicas = u32::try_from(survey.members.len() - 1).unwrap();
    let stack = stack(replicas, synchronous);
    let scene = Scene { stack: &stack, survey, wish };
    let (first, second): (Plan, Plan) = (isolate(&scene, "its process is gone")?, succeed(&scene)?);
    Ok(format!("isolate:\n{first}succeed:\n{second}"))
}

fn refused(survey: &Survey) -> String {
    both(survey, Synchronous::Required, Wish::default()).unwrap_err().to_string()
}

fn planned(survey: &Survey, to: &str) -> Result<String, Refusal> {
    let replicas = u32::try_from(survey.members.len() - 1).unwrap();
    let stack = stack(replicas, Synchronous::Required);
    switchover(&Scene { stack: &stack, survey, wish: Wish::default() }, to).map(|plan| plan.to_string())
}

#[test]
fn the_primary_of_three_is_lost() {
    assert_snapshot!(both(&lost(&[5000, 4900]), Synchronous::Required, Wish::default()).unwrap());
}

#[test]
fn the_primary_of_two_is_lost_and_who_prefers_goes_on_unprotected() {
    assert_snapshot!(both(&lost(&[5000]), Synchronous::Preferred, Wish::default()).unwrap());
}

/// Whoever is led to a primary that was not proven down may be acknowledged what is lost.
#[test]
fn by_force_a_route_member_that_cannot_be_told_stays_an_obstacle() {
    let plan = |force| both(&lost(&[5000, 4900]), Synchronous::Required, Wish { force, ..Wish::default() }).unwrap();
    assert!(plan(false).contains("route.close fenced=yes"), "{}", plan(false));
    assert!(!plan(true).contains("fenced=yes"), "{}", plan(true));
}

#[test]
fn who_must_always_wait_waits_for_the_old_primary_where_there_is_nobody_else() {
    let plan = both(&lost(&[5000]), Synchronous::Required, Wish::default()).unwrap();
    assert!(plan.contains("names=ANY 1 (\"postgres-1\") slots=postgres_1"), "{plan}");
}

#[test]
fn without_a_set_that_commits_waited_for_rows_may_be_lost() {
    let mut survey = lost(&[5000]);
    survey.cluster.synchronous.clear();
    assert_snapshot!(refused(&survey));
    let allowed = Wish { allow_data_loss: true, ..Wish::default() };
    assert!(both(&survey, Synchronous::Off, allowed).is_ok());
}

#[test]
fn a_member_that_may_have_acknowledged_alone_must_be_asked() {
    let mut survey = lost(&[5000, 5000]);
    survey.members.insert(member(3), gone());
    assert_snapshot!(refused(&survey));
}

#[test]
fn nobody_left_is_a_refusal_that_says_why_each_is_out() {
    let mut survey = lost(&[5000, 5000, 5000]);
    survey.members.insert(member(2), gone());
    survey.members.insert(member(3), seen(Told { system_id: "8".to_owned(), ..replica(5000) }));
    survey.members.insert(member(4), seen(Told { timeline: 3, ..replica(5000) }));
    assert_snapshot!(refused(&survey));
    let mut alone = lost(&[]);
    alone.cluster.replicas.clear();
    assert_eq!(refused(&alone), "the cluster has no replica that could take over from postgres-1");
}

#[test]
fn two_that_take_writes_are_nothing_to_decide_on() {
    let mut survey = lost(&[5000, 5000]);
    survey.members.insert(member(3), seen(primary(0)));
    assert_eq!(
        refused(&survey),
        "who is primary is not clear: postgres-3 takes writes, and the record names postgres-1"
    );
}

#[test]
fn nobody_is_promoted_whom_no_route_leads_to() {
    let away = |survey: &mut Survey, ordinal| {
        survey.route.insert(Member::nth("route", ordinal), Err("it is exited".to_owned()));
    };
    let (mut lost, mut healthy) = (lost(&[5000, 5000]), standing(2));
    away(&mut lost, 2);
    assert!(both(&lost, Synchronous::Required, Wish::default()).is_ok(), "one of two is enough");
    away(&mut lost, 1);
    away(&mut healthy, 1);
    let reason = "no member of the route can be told where to lead: route-1: it is exited";
    assert_eq!(refused(&lost), format!("{reason}; route-2: it is exited"));
    assert_eq!(planned(&healthy, "postgres-2").unwrap_err().to_string(), reason);
}

#[test]
fn a_killed_run_is_carried_on_with_the_same_member() {
    // It was promoted, and the run was killed before it could say so.
    let mut survey = lost(&[5000, 5000]);
    survey.cluster.change = promoting(ChangeKind::Failover, 3);
    survey.members.insert(member(3), seen(Told { timeline: 2, ..primary(0) }));
    assert_snapshot!(both(&survey, Synchronous::Required, Wish::default()).unwrap());
}

#[test]
fn who_a_switchover_was_meant_for_stands_for_election_where_nothing_was_handed_over() {
    let mut survey = lost(&[6000, 5000]);
    survey.cluster.change = under_way(ChangeKind::Switchover, Some(3));
    let plan = both(&survey, Synchronous::Required, Wish::default()).unwrap();
    assert!(plan.contains("postgres.promote postgres-2"), "it has received more: {plan}");
    survey.members.insert(member(2), gone());
    assert!(
        refused(&survey).contains("postgres-2 (it is exited: connection refused) cannot be asked"),
        "{}",
        refused(&survey)
    );
}

#[test]
fn another_one_than_the_chosen_is_made_primary_by_force_alone() {
    let mut survey = lost(&[5000, 5000]);
    survey.cluster.change = promoting(ChangeKind::Failover, 3);
    survey.members.insert(member(3), gone());
    let plan = |wish| both(&survey, Synchronous::Required, wish);
    assert!(plan(Wish::default()).unwrap().contains("postgres.promote postgres-3"));
    let forced = plan(Wish { force: true, allow_data_loss: true }).unwrap();
    assert!(forced.contains("postgres.promote postgres-2 force=yes"), "{forced}");
}

#[test]
fn a_replica_without_room_is_not_told_to_stay_still() {
    let mut survey = lost(&[5000, 5000]);
    survey.members.insert(member(3), seen(Told { is_full: true, ..replica(5000) }));
    let plan = both(&survey, Synchronous::Required, Wish::default()).unwrap();
    assert!(plan.contains("postgres.freeze postgres-2") && !plan.contains("postgres.freeze postgres-3"), "{plan}");
}

#[test]
fn a_change_is_taken_back_only_while_nobody_was_told_to_promote_itself() {
    let mut survey = standing(2);
    let stack = stack(2, Synchronous::Required);
    let taken_back = |survey: &Survey| abandon(&Scene { stack: &stack, survey, wish: Wish::default() });
    survey.cluster.change = under_way(ChangeKind::Switchover, Some(3));
    assert!(taken_back(&survey).unwrap().is_some());
    survey.cluster.change = promoting(ChangeKind::Switchover, 3);
    let refusal = taken_back(&survey).unwrap_err().to_string();
    assert_eq!(refusal, "who is primary is not clear: postgres-3 may have been promoted instead of postgres-1");
}

#[test]
fn the_most_advanced_wins_then_priority_then_region_then_name() {
    let told = [replica(10), replica(20), replica(20), replica(20)];
    let members: Vec<Member> = (2..=5).map(member).collect();
    let winner = |attributes: [Attributes; 4], home: Option<&str>| {
        let voters: Vec<Voter<'_>> = members
            .iter()
            .zip(&told)
            .zip(attributes)
            .map(|((member, told), attributes)| Voter { member, told, attributes })
            .collect();
        elect(&voters, &waited_for(&members), home).map(|winner| winner.member.to_string())
    };
    let plain = Attributes::default;
    let priority = |priority| Attributes { priority, ..plain() };
    let region = |name: &str| Attributes { region: Some(name.to_owned()), ..plain() };
    let nofailover = || Attributes { nofailover: true, ..plain() };
    assert_eq!(winner([plain(), plain(), plain(), plain()], None).unwrap(), "postgres-3");
    assert_eq!(winner([priority(9), plain(), priority(1), plain()], None).unwrap(), "postgres-4");
    assert_eq!(winner([plain(), plain(), region("a"), region("b")], Some("b")).unwrap(), "postgres-5");
    assert_eq!(winner([plain(), nofailover(), plain(), nofailover()], None).unwrap(), "postgres-4");
    let mut full = told.clone();
    full[1].is_full = true;
    full[2].is_full = true;
    let voters = members.iter().zip(&full).map(|(member, told)| Voter { member, told, attributes: plain() });
    let voters: Vec<Voter<'_>> = voters.collect();
    let armed = waited_for(&members);
    assert_eq!(
        elect(&voters, &armed, None).unwrap().member.as_str(),
        "postgres-5",
        "who has no room cannot be promoted"
    );
    assert_eq!(
        elect(&voters[1..3], &armed, None).unwrap_err().to_string(),
        "no replica can take over: postgres-3: its disk is full; postgres-4: its disk is full"
    );
    let behind = winner([plain(), nofailover(), nofailover(), nofailover()], None).unwrap_err();
    assert!(matches!(behind, Refusal::CandidateBehind { bytes: 10, .. }), "{behind}");
    let nobody = winner([nofailover(), nofailover(), nofailover(), nofailover()], None).unwrap_err();
    assert!(matches!(nobody, Refusal::NoCandidate { .. }), "{nobody}");
}

#[test]
fn who_follows_the_promoted_one_already_is_part_of_what_is_carried_on() {
    for kind in [ChangeKind::Failover, ChangeKind::Switchover] {
        let mut survey = lost(&[5000, 5000]);
        survey.cluster.change = promoting(kind, 3);
        let on_the_next = |told: Told| seen(Told { timeline: 2, received: Lsn(6000), ..told });
        survey.members.insert(member(3), on_the_next(Told { in_recovery: false, ..replica(5500) }));
        survey.members.insert(member(2), on_the_next(replica(6000)));
        let stack = stack(2, Synchronous::Required);
        let scene = Scene { stack: &stack, survey: &survey, wish: Wish::default() };
        assert!(!isolate(&scene, "it is lost").unwrap().to_string().contains("postgres.freeze"));
        let (plan, fenced) = match kind {
            ChangeKind::Failover => (succeed(&scene), "fenced=yes "),
            ChangeKind::Switchover => (switchover(&scene, "postgres-3"), ""),
        };
        let plan = plan.unwrap().to_string();
        assert!(plan.contains(&format!("route.point closed=yes {fenced}ro=postgres-2 rw=postgres-3")), "{plan}");
        assert!(plan.contains("route.point ro=postgres-1 postgres-2 rw=postgres-3"), "{plan}");
        assert!(!plan.contains("postgres.rejoin postgres-2"), "{plan}");
    }
}

fn waited_for(members: &[Member]) -> BTreeSet<Member> {
    members.iter().cloned().collect()
}

/// A stack of three replicas, of which the last may never lead, and what its primary's commits wait for.
fn with_a_far_one() -> Stack {
    let mut manifest: Manifest = manifest();
    manifest.postgres.replicas = 3;
    manifest.postgres.synchronous = Synchronous::Required;
    let far = PostgresMember { nofailover: true, priority: 0, region: None };
    manifest.postgres.members = [(member(4), far)].into();
    let components: [Box<dyn Component>; 2] = [Box::<Route>::default(), Box::new(Postgres)];
    let declared = components.iter().flat_map(|component| component.declare(&manifest));
    Stack::new(manifest.name.clone(), declared.chain([Resource::Network]))
}

#[test]
fn one_that_may_not_lead_is_waited_for_by_nobody_and_what_it_alone_has_is_dropped() {
    let stack = with_a_far_one();
    let mut survey = lost(&[5000, 5000, 5200]);
    survey.cluster.synchronous = [2, 3].map(member).into();
    let planned = |survey: &Survey| succeed(&Scene { stack: &stack, survey, wish: Wish::default() });
    assert_snapshot!(planned(&survey).unwrap());

    survey.cluster.synchronous.insert(member(4));
    let refusal = planned(&survey).unwrap_err().to_string();
    assert_eq!(refusal, "postgres-2 lacks 200 bytes that postgres-4 has, and postgres-4 may not become primary");
}

#[test]
fn a_change_that_came_to_nothing_is_forgotten_unless_somebody_may_have_been_promoted() {
    let stack = stack(2, Synchronous::Required);
    let abandoned = |survey: &Survey| abandon(&Scene { stack: &stack, survey, wish: Wish::default() });
    let mut survey = standing(2);
    assert_eq!(abandoned(&survey), Ok(None));
    survey.cluster.change = under_way(ChangeKind::Failover, Some(2));
    let plan = abandoned(&survey).unwrap().unwrap().to_string();
    assert_eq!(
        plan,
        "  1 > run postgres.abandon postgres-1, because the failover from postgres-1 has come to nothing\n"
    );
    survey.members.insert(member(2), seen(primary(0)));
    assert!(matches!(abandoned(&survey), Err(Refusal::Unclear(_))));
}

#[test]
fn a_switchover() {
    assert_snapshot!(planned(&standing(2), "postgres-3").unwrap());
}

#[test]
fn a_switchover_to_nobody_named_goes_to_the_one_that_is_preferred() {
    let mut manifest: Manifest = manifest();
    manifest.postgres.replicas = 3;
    let said = |priority, nofailover| PostgresMember { priority, nofailover, region: None };
    manifest.postgres.members =
        [(member(2), said(0, false)), (member(3), said(9, true)), (member(4), said(5, false))].into();
    let survey = standing(3);
    let chosen = |manifest: &Manifest, survey: &Survey| {
        let declared = Postgres.declare(manifest);
        let stack = Stack::new(manifest.name.clone(), declared.into_iter().chain([Resource::Network]));
        successor(&Scene { stack: &stack, survey, wish: Wish::default() })
    };
    assert_eq!(chosen(&manifest, &survey), Ok(member(4)));
    manifest.postgres.members.clear();
    assert_eq!(chosen(&manifest, &survey), Ok(member(2)));
    let mut alone = standing(3);
    alone.cluster.replicas.clear();
    assert!(matches!(chosen(&manifest, &alone), Err(Refusal::NoCandidate { .. })));
}

#[test]
fn what_speaks_against_a_switchover_is_said_all_at_once() {
    let mut survey = standing(2);
    let unarchived = Some(Unarchived { files: 3, oldest_secs: 42 });
    let hindered = Told {
        archiving_fails: true,
        unarchived,
        is_full: true,
        backups_running: 1,
        streaming: BTreeSet::new(),
        ..primary(0)
    };
    survey.members.insert(member(1), seen(Told { received: Lsn(100 << 20), ..hindered }));
    survey.members.insert(member(3), seen(Told { replay_paused: true, free_slots: 0, ..replica(5000) }));
    assert_snapshot!(planned(&survey, "postgres-3").unwrap_err());
}

#[test]
fn a_switchover_leads_to_somebody_who_can_be_primary() {
    let reason = |to: &str| planned(&standing(1), to).unwrap_err().to_string();
    assert_eq!(reason("postgres-1"), "postgres-1 cannot be the new primary: it is the primary already");
    assert_eq!(reason("postgres-9"), "postgres-9 cannot be the new primary: the stack has no such PostgreSQL member");
    assert_eq!(reason("route-1"), "route-1 cannot be the new primary: the stack has no such PostgreSQL member");
    let mut outside = standing(1);
    outside.cluster.replicas.clear();
    let refusal = planned(&outside, "postgres-2").unwrap_err().to_string();
    assert_eq!(refusal, "postgres-2 cannot be the new primary: it does not belong to the cluster: rejoin it first");
}

#[test]
fn a_switchover_waits_for_another_change_to_be_carried_on() {
    let mut survey = standing(2);
    survey.cluster.change = under_way(ChangeKind::Failover, None);
    assert_eq!(
        planned(&survey, "postgres-3").unwrap_err().to_string(),
        "a failover from postgres-1 is under way already"
    );
    // Its own, whose primary has stopped by now, is carried on.
    survey.cluster.change = under_way(ChangeKind::Switchover, Some(3));
    survey.members.insert(member(1), gone());
    let plan = planned(&survey, "postgres-3").unwrap();
    assert!(!plan.contains("postgres.prepare"), "it may be down, so nothing can be proven of it: {plan}");
    assert!(plan.contains("  2 > run postgres.hand-over"), "{plan}");
}
