//! What a ledger and the members' rows prove, as people and machines read it.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use proptest::prelude::*;
use provisioner_core::manifest::{Objectives, Synchronous};
use provisioner_core::name::Member;
use provisioner_drills::Rows;
use provisioner_drills::journal::{Journal, Outcome};
use provisioner_drills::judge::{Breach, Case, Held, Phase, Stage, Verdict, judge};
use provisioner_drills::report;

const SECOND: u64 = 1_000_000;
const FAULT_US: u64 = 2 * SECOND;

/// Two writers with a row every 10 ms; the first member acknowledges, from `FAULT_US` on nobody, from `back_us` on the
/// second.
fn ledger(back_us: u64) -> Journal {
    let mut text = "ledger 1 1790000000000000 2 postgres-1,postgres-2\n".to_owned();
    for at in (0..5 * SECOND).step_by(10_000) {
        let number = at / 10_000 + 1;
        for writer in 0..2 {
            let (letter, took) = match at {
                _ if at < FAULT_US => ('a', 700),
                FAULT_US => ('u', 900),
                _ if at < back_us => ('r', 300),
                _ => ('a', 800),
            };
            writeln!(text, "{letter} {writer} {number} {at} {took}").unwrap();
        }
        let member = match at {
            _ if at < FAULT_US => Some(0),
            _ if at >= back_us => Some(1),
            _ => None,
        };
        if let Some(member) = member.filter(|_| at % 50_000 == 0) {
            writeln!(text, "A {member} {number} {at} 500").unwrap();
        }
    }
    writeln!(text, "end {}", 5 * SECOND).unwrap();
    Journal::parse(&text).unwrap()
}

fn acked(journal: &Journal) -> Vec<(u16, u64)> {
    let acked = journal.entries.iter().filter(|entry| entry.outcome == Outcome::Acked);
    acked.map(|entry| (entry.writer, entry.number)).collect()
}

fn answers(journal: &Journal) -> Rows {
    journal.answers.iter().map(|answer| (u16::try_from(answer.member).unwrap(), answer.number)).collect()
}

fn held(journal: &Journal, stage: Stage, rows: impl IntoIterator<Item = (u16, u64)>) -> Held {
    let member = Member::named(if stage == Stage::Rebuilt { "postgres-1" } else { "postgres-2" });
    Held { member, stage, rows: rows.into_iter().collect(), answers: answers(journal) }
}

fn roles(pairs: &[(&str, &str)]) -> BTreeMap<Member, String> {
    pairs.iter().map(|(member, role)| (Member::named(*member), (*role).to_owned())).collect()
}

fn verdict(journal: &Journal, held: &[Held], synchronous: Synchronous) -> Verdict {
    verdict_by(Objectives::ARCHITECTURE, journal, held, synchronous)
}

fn verdict_by(objectives: Objectives, journal: &Journal, held: &[Held], synchronous: Synchronous) -> Verdict {
    let phase = |name: &str, began_ms: u64, took_ms, budget_ms| Phase {
        name: name.to_owned(),
        began_us: FAULT_US + began_ms * 1000,
        took_ms,
        budget_ms,
    };
    judge(&Case {
        engine: "docker",
        fault: "kill",
        synchronous,
        objectives,
        journal,
        fault_us: FAULT_US,
        held,
        phases: vec![
            phase("detect", 0, 410, 1000),
            phase("fence", 410, 45, 1000),
            phase("elect", 455, 22, 100),
            phase("promote", 477, 130, 100),
            phase("re-point", 607, 60, 200),
            phase("first write", 667, 13, 200),
            phase("redundancy back", 680, 12_345, 10_000),
        ],
        unprotected_ms: 0,
        members_before: roles(&[("postgres-1", "primary"), ("postgres-2", "replica")]),
        members_after: roles(&[("postgres-1", "replica"), ("postgres-2", "primary")]),
    })
}

/// What a failover without loss leaves.
fn whole(journal: &Journal) -> Vec<Held> {
    [Stage::Primary, Stage::Rebuilt].map(|stage| held(journal, stage, acked(journal))).into()
}

fn without(journal: &Journal, stage: Stage, lost: &[(u16, u64)]) -> Held {
    held(journal, stage, acked(journal).into_iter().filter(|row| !lost.contains(row)))
}

#[test]
fn a_failover_without_loss() {
    let journal = ledger(FAULT_US + 680_000);
    let verdict = verdict(&journal, &whole(&journal), Synchronous::Required);
    assert!(verdict.passed);
    insta::assert_snapshot!("human", report::human(&verdict));
    insta::assert_snapshot!("json", report::json(&verdict).unwrap());
}

#[test]
fn a_failover_that_is_slower_than_the_manifest_wants_it() {
    let journal = ledger(FAULT_US + 680_000);
    let asked = Objectives { rto: Duration::from_millis(500), rpo: Duration::ZERO };
    let verdict = verdict_by(asked, &journal, &whole(&journal), Synchronous::Required);
    assert_eq!(verdict.breaches, [Breach::Rto { found_ms: 691, objective_ms: 500 }]);
    insta::assert_snapshot!("human_objectives", report::human(&verdict));
}

#[test]
fn a_failover_that_lost_rows() {
    let journal = ledger(FAULT_US + 680_000);
    let lost = [(0, 199), (1, 199), (0, 200)];
    let held = [
        without(&journal, Stage::Primary, &lost),
        without(&journal, Stage::Rebuilt, &[(0, 199), (1, 199), (0, 200), (1, 3)]),
    ];
    let verdict = verdict(&journal, &held, Synchronous::Required);
    assert!(!verdict.passed);
    assert_eq!((verdict.rpo_rows, verdict.rpo_ms), (3, 20));
    insta::assert_snapshot!("human_lost", report::human(&verdict));
}

/// Where commits wait for nobody a loss is measured and told, and judged by the objective.
#[test]
fn an_asynchronous_loss_within_the_objective_passes() {
    let journal = ledger(FAULT_US + 680_000);
    let held = [without(&journal, Stage::Primary, &[(1, 150)])];
    let asynchronous = verdict(&journal, &held, Synchronous::Off);
    assert!(asynchronous.passed, "{:?}", asynchronous.breaches);
    assert_eq!((asynchronous.rpo_rows, asynchronous.rpo_ms), (1, 510));
    let expected = [Breach::Lost { member: Member::named("postgres-2"), rows: 1 }];
    assert_eq!(verdict(&journal, &held, Synchronous::Required).breaches, expected);
}

#[test]
fn writes_that_never_come_back_are_no_recovery() {
    let journal = ledger(6 * SECOND);
    let verdict = verdict(&journal, &whole(&journal), Synchronous::Required);
    assert_eq!((verdict.rto_ms, &verdict.breaches[..]), (None, &[Breach::NeverBack][..]));
}

/// Rows that come back for a moment do not end an outage.
#[test]
fn writes_that_stop_again_count_until_the_end() {
    let mut journal = ledger(FAULT_US + 680_000);
    let last = FAULT_US + 700_000;
    for entry in journal.entries.iter_mut().filter(|entry| entry.began_us > last) {
        entry.outcome = Outcome::Refused;
    }
    let held = whole(&journal);
    assert_eq!(verdict(&journal, &held, Synchronous::Required).rto_ms, Some(2290));
}

#[test]
fn rows_that_nobody_sent_or_that_were_refused_fail() {
    let journal = ledger(FAULT_US + 680_000);
    let (refused, never_sent) = ((0, 203), (1, 9_999));
    let rows = acked(&journal).into_iter().chain([refused, never_sent]);
    let held = [held(&journal, Stage::Primary, rows)];
    let member = || Member::named("postgres-2");
    let expected =
        [Breach::NeverSent { member: member(), rows: 1 }, Breach::RefusedButThere { member: member(), rows: 1 }];
    assert_eq!(verdict(&journal, &held, Synchronous::Required).breaches, expected);
}

#[test]
fn an_unknown_row_may_be_there_or_not() {
    let journal = ledger(FAULT_US + 680_000);
    let unknown = (0, FAULT_US / 10_000 + 1);
    for rows in [acked(&journal), acked(&journal).into_iter().chain([unknown]).collect()] {
        assert!(verdict(&journal, &[held(&journal, Stage::Primary, rows)], Synchronous::Required).passed);
    }
}

#[test]
fn a_second_primary_fails() {
    let mut journal = ledger(FAULT_US + 680_000);
    let mut zombie = journal.answers[0];
    (zombie.began_us, zombie.number) = (4 * SECOND, 9_999);
    journal.answers.push(zombie);
    journal.answers.sort_by_key(provisioner_drills::journal::Answer::end_us);
    let held = whole(&journal);
    let found = verdict(&journal, &held, Synchronous::Required);
    assert_eq!((found.dual_primary_ms, &found.breaches[..]), (50, &[Breach::TwoPrimaries { ms: 50 }][..]));
}

/// Nothing is proven by a ledger that did not write, that broke off, or that nobody compared.
#[test]
fn a_measurement_that_failed_is_no_pass() {
    let mut journal = ledger(FAULT_US + 680_000);
    assert_eq!(verdict(&journal, &[], Synchronous::Off).breaches, [Breach::NotRead]);
    journal.end_us = None;
    let rows = whole(&journal);
    assert_eq!(verdict(&journal, &rows, Synchronous::Off).breaches, [Breach::CutOff]);
    journal.end_us = Some(5 * SECOND);
    journal.entries.retain(|entry| entry.began_us >= FAULT_US);
    let rows = [held(&journal, Stage::Primary, acked(&journal))];
    assert_eq!(verdict(&journal, &rows, Synchronous::Off).breaches, [Breach::NotSteady]);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let journal = ledger(FAULT_US + 680_000);
    let verdict = verdict(&journal, &whole(&journal), Synchronous::Required);
    let page = report::html(&verdict, &journal, FAULT_US).unwrap();
    assert!(page.contains("<svg ") && page.contains("seconds since the fault"), "{page}");
    for phase in &verdict.phases {
        assert!(page.contains(&phase.name), "{} is missing", phase.name);
    }
    for fetched in ["<script", "<link", "<img", "url("] {
        assert!(!page.contains(fetched), "found {fetched}");
    }
}

proptest! {
    #[test]
    fn every_lost_row_is_counted_once(
        back_ms in 1_u64..2000,
        lost in prop::collection::btree_set(0_usize..400, 0..20),
    ) {
        let journal = ledger(FAULT_US + back_ms * 1000);
        let rows = acked(&journal);
        let lost: Vec<(u16, u64)> = lost.into_iter().filter_map(|at| rows.get(at).copied()).collect();
        let found = verdict(&journal, &[without(&journal, Stage::Primary, &lost)], Synchronous::Required);
        prop_assert_eq!(found.rpo_rows, lost.len() as u64);
        prop_assert_eq!(found.passed, lost.is_empty());
        if let Some(one_more) = rows.iter().find(|row| !lost.contains(row)) {
            let lost: Vec<_> = lost.iter().copied().chain([*one_more]).collect();
            let more = verdict(&journal, &[without(&journal, Stage::Primary, &lost)], Synchronous::Required);
            prop_assert_eq!(more.rpo_rows, found.rpo_rows + 1);
        }
    }

    /// No acknowledgement lies inside the outage, whatever the journal's order.
    #[test]
    fn the_outage_is_as_long_as_nobody_acknowledged(back_ms in 1_u64..2900) {
        let journal = ledger(FAULT_US + back_ms * 1000);
        let found = verdict(&journal, &whole(&journal), Synchronous::Required).rto_ms.unwrap();
        let first = journal.first_ack_after(FAULT_US).unwrap();
        let last = FAULT_US - 10_000 + 700;
        prop_assert_eq!(found, (first - last).div_ceil(1000));
    }

    #[test]
    fn a_journal_cut_anywhere_is_read_up_to_its_last_whole_line(cut in 60_usize..3000) {
        let text: String = std::iter::once("ledger 1 1790000000000000 2 postgres-1,postgres-2\n".to_owned())
            .chain((1..200).map(|number| format!("a 1 {number} {} 700\n", number * 5000)))
            .collect();
        let cut = cut.min(text.len());
        let journal = Journal::parse(&text[..cut]).unwrap();
        prop_assert_eq!(journal.entries.len(), text[..cut].matches('\n').count() - 1);
        prop_assert_eq!(journal.end_us, None);
    }
}
