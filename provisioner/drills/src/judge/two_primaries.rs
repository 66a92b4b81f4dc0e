//! When two members acknowledged writes at the same time.

use crate::Rows;
use crate::journal::{Answer, Journal};

/// A member that answers again within this went on in between: a session waits no longer before it is left.
const PAUSE_US: u64 = 1_000_000;
/// What one acknowledgement in another's time stands for: members are asked that often.
const PERIOD_US: u64 = 50_000;

/// Time in which a member acknowledged row after row.
#[derive(Clone, Copy)]
struct Tenure {
    member: usize,
    first: u64,
    last: u64,
}

/// `kept` are the answers that the new primary holds. One of them that was asked for before another member began to
/// acknowledge may have been given before, too, and have been long under way: a network that heals, a process that goes
/// on.
pub(super) fn overlap_us(journal: &Journal, kept: Option<&Rows>) -> u64 {
    let tenures = tenures(journal, |answer| {
        let is_kept = u16::try_from(answer.member)
            .is_ok_and(|member| kept.is_some_and(|rows| rows.contains(member, answer.number)));
        !(is_kept && was_overtaken(journal, answer))
    });
    let mut shared: Vec<(u64, u64)> = Vec::new();
    for (at, one) in tenures.iter().enumerate() {
        for other in tenures.iter().skip(at + 1).filter(|other| other.member != one.member) {
            let (begin, end) = (one.first.max(other.first), one.last.min(other.last));
            if begin <= end {
                shared.push((begin, end.max(begin + PERIOD_US)));
            }
        }
    }
    shared.sort_unstable();
    let mut covered = 0;
    let mut until = 0;
    for (begin, end) in shared {
        covered += end.saturating_sub(begin.max(until));
        until = until.max(end);
    }
    covered
}

/// Somebody else acknowledged between its beginning and its end.
fn was_overtaken(journal: &Journal, answer: &Answer) -> bool {
    let during = answer.began_us..answer.end_us();
    journal
        .answers
        .iter()
        .any(|other| other.is_acked && other.member != answer.member && during.contains(&other.end_us()))
}

fn tenures(journal: &Journal, counts: impl Fn(&Answer) -> bool) -> Vec<Tenure> {
    let mut tenures: Vec<Tenure> = Vec::new();
    for answer in journal.answers.iter().filter(|answer| answer.is_acked && counts(answer)) {
        let at = answer.end_us();
        match tenures.iter_mut().rev().find(|tenure| tenure.member == answer.member) {
            Some(tenure) if at - tenure.last <= PAUSE_US => tenure.last = at,
            _ => tenures.push(Tenure { member: answer.member, first: at, last: at }),
        }
    }
    tenures
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of members as (member, number, began, end) in milliseconds.
    fn overlap_ms(answers: &[(usize, u64, u64, u64)], kept: &[(u16, u64)]) -> u64 {
        let mut journal = Journal::parse("ledger 1 1 1 postgres-1,postgres-2\n").unwrap();
        journal.answers = answers
            .iter()
            .map(|(member, number, began, end)| Answer {
                member: *member,
                number: *number,
                began_us: began * 1000,
                took_us: (end - began) * 1000,
                is_acked: true,
            })
            .collect();
        journal.answers.sort_by_key(Answer::end_us);
        overlap_us(&journal, Some(&kept.iter().copied().collect())) / 1000
    }

    #[test]
    fn one_after_the_other_is_a_handover() {
        assert_eq!(overlap_ms(&[(0, 1, 0, 1), (0, 3, 50, 51), (1, 1, 300, 301), (1, 3, 350, 351)], &[]), 0);
        let back = [(0, 1, 0, 1), (1, 1, 800, 801), (1, 3, 1000, 1001), (0, 3, 2000, 2001)];
        assert_eq!(overlap_ms(&back, &[]), 0);
    }

    #[test]
    fn a_member_that_answers_in_anothers_time_is_a_second_primary() {
        let zombie = [(1, 1, 100, 101), (1, 3, 200, 201), (0, 7, 240, 241), (1, 5, 300, 301)];
        assert_eq!(overlap_ms(&zombie, &[]), 50);
        let long = [(0, 1, 0, 1), (1, 1, 100, 101), (0, 3, 900, 901), (1, 3, 1000, 1001)];
        assert_eq!(overlap_ms(&long, &[]), 800);
    }

    /// The row arrived in time, its acknowledgement did not.
    #[test]
    fn an_answer_that_was_long_under_way_counts_only_if_its_row_is_lost() {
        let held_up = [(0, 1, 0, 1), (1, 1, 100, 101), (0, 3, 50, 240), (1, 3, 300, 301)];
        assert_eq!(overlap_ms(&held_up, &[(0, 1), (0, 3)]), 0);
        assert_eq!(overlap_ms(&held_up, &[(0, 1)]), 139);
    }
}
