//! A client that goes through the route, as the application does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::journal::{By, Journal, Outcome};
use super::session::{Connector, Session, Table};
use super::stop::Stop;

/// An answer that has not come by then is not waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_millis(50);

/// One row after the other, each with a number of its own whatever becomes of it.
pub(super) async fn run(writer: u16, every: Duration, connector: Arc<Connector>, journal: Journal, stop: Stop) {
    let mut pace = interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session: Option<Session> = None;
    let mut back_off = BACK_OFF_MIN;
    let mut number = 0;
    while !stop.is_told() {
        pace.tick().await;
        number += 1;
        let began = journal.now();
        let open = match session.take().filter(|session| !session.is_closed()) {
            Some(open) => Some(open),
            None => connector.open(connector.route(), Table::Entries).await.ok(),
        };
        let Some(open) = open else {
            journal.note(By::Writer(writer), number, began, Outcome::Refused);
            stop.pause(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
            continue;
        };
        let answer = stop.bound(Some(ANSWER_LIMIT), open.insert(writer, number)).await;
        let outcome = answer.unwrap_or(Outcome::Unknown);
        journal.note(By::Writer(writer), number, began, outcome);
        if outcome == Outcome::Acked {
            session = Some(open);
            back_off = BACK_OFF_MIN;
        } else {
            // Whoever refuses or says nothing is not asked again on this session; the route may lead elsewhere by now.
            drop(open);
            stop.pause(BACK_OFF_MIN).await;
        }
    }
}
