//! Whether the primary is lost: never by one look, and never while somebody still hears from it.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::observed::{Observed, State};
use tokio::time::Instant;

use super::super::cluster::Cluster;
use super::super::sql::SqlError;
use super::survey::{ASK_LIMIT, Asker, DISK_FULL, Survey, full};

/// Between two looks.
pub const EVERY: Duration = Duration::from_millis(200);
/// One slow fork on a busy host is not a lost primary.
const STRIKES: u32 = 3;
/// The strikes of a server that refuses at once come fast; one that is started again in place is back within this.
const REFUSING: Duration = Duration::from_millis(750);
/// Crash recovery in place comes first; most of it is over long before.
const STARTING: Duration = Duration::from_secs(10);
/// A query may fill a disk and give it back when it fails; then the room is there again within moments.
const FULL: Duration = Duration::from_secs(3);
/// Whether there is room is looked at once a second, and at each look while there was none.
const ROOM_EVERY: u32 = 5;
/// A replica that heard from the primary so lately proves that it lives, whatever is seen from here. Half of
/// `wal_sender_timeout`, after which an idle primary says a word, is longer: then the strikes decide.
const HEARD_MS: u64 = 2_000;
const STARTING_UP: &str = "57P03";

/// What one look showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It takes writes.
    Writes,
    InRecovery,
    /// It answers, and has no room for any row.
    Full(String),
    /// It is up and says that it cannot serve just now.
    Busy(String),
    StartingUp,
    Refuses(String),
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    /// Something is wrong, and it is too early or too unclear to call it lost.
    Unsure(String),
    Lost(String),
    /// It lives, which replicas confirm, and by its own word it cannot take writes any more.
    Full(String),
}

/// Looks so far, of which the verdict is made.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    count: u32,
    since: Option<Duration>,
    /// How long it has been given: other trouble has other patience, and is counted anew.
    patience: Duration,
}

impl Strikes {
    /// `at` counts from any fixed moment. `state` is the engine's word, asked for only where the member did not answer.
    pub(super) fn judge(&mut self, at: Duration, answer: &Answer, state: Option<State>) -> Health {
        let reason = match answer {
            Answer::Writes => {
                *self = Self::default();
                return Health::Healthy;
            }
            Answer::Busy(reason) => return Health::Unsure(format!("it answers: {reason}")),
            Answer::InRecovery => "it is in recovery and takes no writes".to_owned(),
            Answer::StartingUp => "it is starting up".to_owned(),
            Answer::Full(reason) => format!("its disk is full: {reason}"),
            Answer::Refuses(reason) => reason.clone(),
            Answer::Silent => format!("no answer within {} ms", ASK_LIMIT.as_millis()),
        };
        match state {
            None => return Health::Lost("the engine has no such member".to_owned()),
            Some(state @ (State::Exited | State::Created)) => {
                return Health::Lost(format!("its process is gone: the engine calls it {}", state.word()));
            }
            Some(State::Running | State::Paused | State::Restarting) => {}
        }
        let patience = match answer {
            Answer::StartingUp => STARTING,
            Answer::Full(_) => FULL,
            _ => REFUSING,
        };
        if self.patience != patience {
            *self = Self { patience, ..Self::default() };
        }
        let since = *self.since.get_or_insert(at);
        self.count += 1;
        let lasted = at.saturating_sub(since);
        if self.count >= STRIKES && lasted >= patience {
            let looks = self.count;
            let reason = format!("{looks} looks in {} ms: {reason}", lasted.as_millis());
            return if matches!(answer, Answer::Full(_)) { Health::Full(reason) } else { Health::Lost(reason) };
        }
        Health::Unsure(reason)
    }
}

/// The replica that still hears from the primary, if one does.
pub fn heard_by(survey: &Survey) -> Option<(&Member, u64)> {
    let replicas = survey.cluster.replicas.iter();
    let heard = replicas.filter_map(|replica| Some((replica, survey.told(replica)?.heard_ms_ago?)));
    heard.filter(|(_, ms)| *ms < HEARD_MS).min_by_key(|(_, ms)| *ms)
}

/// Looks at the primary again and again on behalf of whoever decides.
pub struct Watcher {
    asker: Asker,
    strikes: Strikes,
    begin: Instant,
    looks: u32,
}

impl Watcher {
    pub async fn new(access: &Access<'_>) -> Result<Self, Failure> {
        Ok(Self { asker: Asker::new(access).await?, strikes: Strikes::default(), begin: Instant::now(), looks: 0 })
    }

    /// One look at the recorded primary. What the engine says is asked anew where the primary does not answer, and is
    /// returned for whoever goes on with it.
    pub async fn look(
        &mut self,
        access: &Access<'_>,
        cluster: &Cluster,
    ) -> Result<(Health, Option<Observed>), Failure> {
        let looks_for_room = self.strikes.count > 0 || self.looks.is_multiple_of(ROOM_EVERY);
        self.looks += 1;
        let answer = self.answer(access, &cluster.primary, looks_for_room).await;
        let at = self.begin.elapsed();
        if answer == Answer::Writes {
            return Ok((self.strikes.judge(at, &answer, Some(State::Running)), None));
        }
        let observed = access.engine.observe().await?;
        let state = observed.workload(&cluster.primary).map(|found| found.state);
        Ok((self.strikes.judge(at, &answer, state), Some(observed)))
    }

    async fn answer(&self, access: &Access<'_>, primary: &Member, looks_for_room: bool) -> Answer {
        let asked = async {
            let session = match self.asker.session(access, primary).await {
                Ok(session) => session,
                Err(error) => return classify(error),
            };
            match session.flag("SELECT pg_is_in_recovery()").await {
                Ok(false) if looks_for_room => full(&session).await.map_or(Answer::Writes, Answer::Full),
                Ok(false) => Answer::Writes,
                Ok(true) => Answer::InRecovery,
                Err(error) => classify(error),
            }
        };
        tokio::time::timeout(ASK_LIMIT, asked).await.unwrap_or(Answer::Silent)
    }
}

fn classify(error: SqlError) -> Answer {
    match error {
        SqlError::Server { code, .. } if code == STARTING_UP => Answer::StartingUp,
        // A session writes a file at its begin where the last one has not left it.
        SqlError::Server { ref code, .. } if code == DISK_FULL => Answer::Full(error.to_string()),
        SqlError::Server { .. } => Answer::Busy(error.to_string()),
        SqlError::TimedOut(_) => Answer::Silent,
        SqlError::Connection(reason) => Answer::Refuses(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(looks: &[(u64, Answer)]) -> Vec<Health> {
        let mut strikes = Strikes::default();
        let judge =
            |(ms, answer): &(u64, Answer)| strikes.judge(Duration::from_millis(*ms), answer, Some(State::Running));
        looks.iter().map(judge).collect()
    }

    fn refused() -> Answer {
        Answer::Refuses("connection refused".to_owned())
    }

    #[test]
    fn a_process_that_is_gone_is_lost_at_once() {
        let mut strikes = Strikes::default();
        assert!(matches!(strikes.judge(Duration::ZERO, &refused(), Some(State::Exited)), Health::Lost(_)));
        assert!(matches!(strikes.judge(Duration::ZERO, &refused(), None), Health::Lost(_)));
    }

    #[test]
    fn one_that_refuses_is_lost_after_three_looks_and_not_before_it_could_be_back() {
        let fast = judged(&[(0, refused()), (200, refused()), (400, refused()), (600, refused()), (800, refused())]);
        assert!(fast[..4].iter().all(|health| matches!(health, Health::Unsure(_))), "{fast:?}");
        assert_eq!(fast[4], Health::Lost("5 looks in 800 ms: connection refused".to_owned()));
        let slow = judged(&[(1000, Answer::Silent), (2200, Answer::Silent), (3400, Answer::Silent)]);
        assert!(matches!(slow[1], Health::Unsure(_)) && matches!(slow[2], Health::Lost(_)), "{slow:?}");
    }

    #[test]
    fn an_answer_in_between_begins_anew() {
        let looks =
            judged(&[(0, refused()), (500, refused()), (700, Answer::Writes), (900, refused()), (1100, refused())]);
        assert!(!looks.iter().any(|health| matches!(health, Health::Lost(_))), "{looks:?}");
    }

    #[test]
    fn crash_recovery_in_place_comes_first_and_not_for_ever() {
        let looks = judged(&[
            (0, refused()),
            (300, Answer::StartingUp),
            (5000, Answer::StartingUp),
            (9000, refused()),
            (9200, Answer::StartingUp),
            (15_000, Answer::StartingUp),
            (19_300, Answer::StartingUp),
        ]);
        assert!(looks[..6].iter().all(|health| matches!(health, Health::Unsure(_))), "{looks:?}");
        assert!(matches!(looks[6], Health::Lost(_)));
    }

    #[test]
    fn one_refused_row_after_two_silent_looks_is_no_full_disk() {
        let full = Answer::Full("No space left on device (53100)".to_owned());
        let looks = judged(&[(0, Answer::Silent), (1200, Answer::Silent), (3300, full)]);
        assert!(looks.iter().all(|health| matches!(health, Health::Unsure(_))), "{looks:?}");
    }

    #[test]
    fn a_full_disk_is_given_the_time_in_which_a_query_gives_it_back() {
        let full = || Answer::Full("No space left on device (53100)".to_owned());
        let brief = judged(&[(0, full()), (1000, full()), (2900, full()), (3100, Answer::Writes), (3300, full())]);
        assert!(!brief.iter().any(|health| matches!(health, Health::Full(_) | Health::Lost(_))), "{brief:?}");
        let full = judged(&[(0, full()), (1000, full()), (3100, full())]);
        let reason = "3 looks in 3100 ms: its disk is full: No space left on device (53100)";
        assert_eq!(full[2], Health::Full(reason.to_owned()));
    }

    #[test]
    fn a_session_that_cannot_begin_for_want_of_room_is_a_full_disk() {
        let error = |code: &str| SqlError::Server { code: code.to_owned(), message: "no".to_owned() };
        assert_eq!(classify(error("53100")), Answer::Full("no (53100)".to_owned()));
        assert_eq!(classify(error("53300")), Answer::Busy("no (53300)".to_owned()));
    }

    #[test]
    fn a_server_that_answers_with_an_error_is_not_lost() {
        let busy = Answer::Busy("sorry, too many clients already (53300)".to_owned());
        let looks = judged(&[(0, busy.clone()), (1000, busy.clone()), (5000, busy)]);
        assert!(looks.iter().all(|health| matches!(health, Health::Unsure(_))), "{looks:?}");
    }
}
