//! Asks every member itself, past the route, whether it acknowledges writes: two that do at the same time are two
//! primaries.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::journal::{By, Journal, Outcome};
use super::session::{Connector, Session, Table};
use super::stop::Stop;
use crate::settings::Place;

const EVERY: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What a session does when no answer comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// It waits, as one in an application's pool does: a primary that comes back finds it and answers.
    Kept,
    /// It is left for a new one, as by a client that has just come.
    Fresh,
}

impl Lane {
    pub(super) const ALL: [Self; 2] = [Self::Kept, Self::Fresh];

    fn limit(self) -> Option<Duration> {
        match self {
            Self::Kept => None,
            Self::Fresh => Some(ANSWER_LIMIT),
        }
    }

    /// The lanes of a member share its numbers, one the odd and one the even.
    fn first(self) -> u64 {
        match self {
            Self::Kept => 1,
            Self::Fresh => 2,
        }
    }
}

pub(super) struct Prober {
    pub(super) member: u16,
    pub(super) lane: Lane,
    pub(super) place: Place,
    pub(super) connector: Arc<Connector>,
}

impl Prober {
    pub(super) async fn run(self, journal: Journal, stop: Stop) {
        let by = By::Member(self.member);
        let mut pace = interval(EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut session: Option<Session> = None;
        let mut number = self.lane.first();
        while !stop.is_told() {
            pace.tick().await;
            let open = match session.take().filter(|session| !session.is_closed()) {
                Some(open) => open,
                None => match self.connector.open(&self.place, Table::Members).await {
                    Ok(open) => open,
                    Err(_) => continue,
                },
            };
            let began = journal.now();
            let answer = stop.bound(self.lane.limit(), open.insert(self.member, number)).await;
            match answer.unwrap_or(Outcome::Unknown) {
                // A replica's; its session stays and would notice a promotion.
                Outcome::Refused => {}
                outcome => journal.note(by, number, began, outcome),
            }
            number += 2;
            // Cut off, a statement may still be under way on its session.
            session = answer.map(|_| open);
        }
    }
}
