//! `/api/v1/admin/dead-letters`: what workers gave up, giving it to them again, and dropping it.

use std::collections::HashSet;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use lapin::{message::Delivery, types::AMQPValue};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Connection;

use crate::{
    basket::Fault,
    http::{
        accounts::NO_STORE,
        doors::{Admin, Staff},
        error::Problem,
        input::{Asked, Input, Path},
        observe::RequestId,
        page,
    },
    messaging::{
        ERROR, REASON,
        broker::{BrokerError, Link},
    },
    state::{AppState, Shared},
    store::{
        StoreError,
        audit::{self, Author, Change},
    },
    worker::delivery::{self, Destination},
};

/// A request has ten seconds, and each of them is confirmed by the broker before the next one.
const AT_ONCE_MAX: usize = 500;
/// To look at one takes no such time, and who names some wants these and not the oldest.
const LOOKED_AT_MAX: usize = 5_000;
const BATCH: usize = 100;

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct LimitQuery {
    limit: Option<u32>,
}

/// Which of them. Exactly one of the three, so that nothing is removed by a slip.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    /// So many of the oldest, 1 to 100.
    limit: Option<u32>,
    /// These alone, at most 500 at once, of the oldest 5,000.
    message_ids: Option<HashSet<String>>,
    /// As many as are there now, at most 500 at once.
    #[serde(default)]
    all: bool,
}

#[derive(Debug)]
pub(in crate::http) enum Wanted {
    Oldest(u8),
    These(HashSet<String>),
    All,
}

impl Choice {
    pub(in crate::http) fn wanted(self) -> Result<Wanted, Problem> {
        match self {
            Self { limit: Some(limit), message_ids: None, all: false } => page::limit(Some(limit)).map(Wanted::Oldest),
            Self { limit: None, message_ids: Some(ids), all: false } if !ids.is_empty() => Ok(Wanted::These(ids)),
            Self { limit: None, message_ids: None, all: true } => Ok(Wanted::All),
            _ => {
                let faults = [Fault::new("limit", "expected one of limit, message_ids and all")];
                Err(Problem::faults("invalid_choice", &faults))
            }
        }
    }
}

/// Without what it says: that is the customers' own.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetter {
    message_id: Option<String>,
    topic: Option<String>,
    attempts: u32,
    reason: Option<String>,
    error: Option<String>,
}

impl DeadLetter {
    fn of(delivery: &Delivery) -> Self {
        let headers = delivery.properties.headers().as_ref();
        let header = |name: &str| match headers.and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => Some(text.to_string()),
            _ => None,
        };
        Self {
            message_id: message_id(delivery),
            topic: delivery.properties.kind().as_ref().map(ToString::to_string),
            attempts: delivery::attempt(delivery),
            reason: header(REASON),
            error: header(ERROR),
        }
    }
}

fn message_id(delivery: &Delivery) -> Option<String> {
    delivery.properties.message_id().as_ref().map(ToString::to_string)
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = DeadLetterQueue)]
pub(crate) struct Queue {
    queue: String,
    messages: u32,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Replayed {
    replayed: u32,
    /// By the broker: they stay dead letters.
    refused: u32,
    remaining: u32,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Dropped {
    dropped: u32,
    remaining: u32,
}

async fn connect(state: &AppState) -> Result<Link, Problem> {
    let Some(broker) = &state.broker else {
        let detail = "no broker is set up for this service";
        return Err(Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "broker_not_set_up", detail));
    };
    Ok(broker.connect().await?)
}

async fn known(state: &AppState, queue: &str) -> Result<(), Problem> {
    let names = state.queues.names().await?;
    let is_known = names.iter().any(|name| name == queue);
    is_known.then_some(()).ok_or_else(|| Problem::not_found(format!("expected one of {}", names.join(", "))))
}

/// How many there are.
async fn count(link: &Link, queue: &str) -> Result<u32, Problem> {
    let counted = link.count(&dead(queue)).await?;
    counted.ok_or_else(|| Problem::not_found(format!("the broker has no queue {}", dead(queue))))
}

pub(crate) async fn queues(State(state): State<Shared>, Staff(_): Staff) -> Result<Response, Problem> {
    let names = state.queues.names().await?;
    let link = connect(&state).await?;
    let counted = async {
        let mut items = Vec::new();
        for queue in names {
            // One that is named here and not there yet has none.
            if let Some(messages) = link.count(&dead(&queue)).await? {
                items.push(Queue { queue, messages });
            }
        }
        Ok::<_, BrokerError>(items)
    };
    let counted = counted.await;
    link.close().await;
    Ok(([NO_STORE], Json(json!({ "items": counted? }))).into_response())
}

fn dead(queue: &str) -> String {
    format!("q.dead.{queue}")
}

/// They go back as soon as they were looked at.
pub(crate) async fn list(
    State(state): State<Shared>,
    Staff(_): Staff,
    Path(queue): Path<String>,
    Asked(LimitQuery { limit }): Asked<LimitQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(limit)?;
    known(&state, &queue).await?;
    let link = connect(&state).await?;
    let taken = async {
        count(&link, &queue).await?;
        Ok::<_, Problem>(take(&link, &queue, usize::from(limit)).await?)
    };
    let taken = taken.await;
    link.close().await;
    let items: Vec<DeadLetter> = taken?.iter().map(DeadLetter::of).collect();
    Ok(([NO_STORE], Json(json!({ "items": items }))).into_response())
}

async fn take(link: &Link, queue: &str, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
    let mut taken = Vec::new();
    while taken.len() < limit {
        match link.get(&dead(queue)).await? {
            Some(delivery) => taken.push(delivery),
            None => break,
        }
    }
    Ok(taken)
}

/// What becomes of a dead letter.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is in its queue again before it leaves the dead letters. One whose effect was had after all is known there by
    /// its id.
    Replay,
    Drop,
}

impl Fate {
    fn action(self) -> &'static str {
        match self {
            Self::Replay => "dead_letters.replay",
            Self::Drop => "dead_letters.drop",
        }
    }
}

pub(crate) async fn replay(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Path(queue): Path<String>,
    Input(choice): Input<Choice>,
) -> Result<Response, Problem> {
    let outcome = decide(&state, &caller.author(id), &queue, choice, Fate::Replay).await?;
    let Outcome { done, refused, remaining } = outcome;
    Ok(([NO_STORE], Json(Replayed { replayed: done, refused, remaining })).into_response())
}

pub(crate) async fn discard(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Path(queue): Path<String>,
    Input(choice): Input<Choice>,
) -> Result<Response, Problem> {
    let Outcome { done, remaining, .. } = decide(&state, &caller.author(id), &queue, choice, Fate::Drop).await?;
    Ok(([NO_STORE], Json(Dropped { dropped: done, remaining })).into_response())
}

#[derive(Debug, Default)]
struct Outcome {
    done: u32,
    refused: u32,
    remaining: u32,
}

async fn decide(
    state: &AppState,
    author: &Author,
    queue: &str,
    choice: Choice,
    fate: Fate,
) -> Result<Outcome, Problem> {
    let wanted = choice.wanted()?;
    known(state, queue).await?;
    let link = connect(state).await?;
    let decided = async {
        let there = usize::try_from(count(&link, queue).await?).unwrap_or(usize::MAX);
        // What comes back meanwhile is not taken again: there is an end, however poisonous they are.
        let mut left = match &wanted {
            Wanted::Oldest(limit) => usize::from(*limit).min(there),
            Wanted::These(_) => there.min(LOOKED_AT_MAX),
            Wanted::All => there.min(AT_ONCE_MAX),
        };
        let mut room = AT_ONCE_MAX;
        let (mut outcome, mut held) = (Outcome::default(), 0);
        while left > 0 && room > 0 {
            let mut taken = take(&link, queue, left.min(BATCH)).await?;
            if taken.is_empty() {
                break;
            }
            left -= taken.len();
            held += u32::try_from(taken.len()).unwrap_or(u32::MAX);
            if let Wanted::These(ids) = &wanted {
                taken.retain(|delivery| message_id(delivery).is_some_and(|id| ids.contains(&id)));
                taken.truncate(room);
            }
            room = room.saturating_sub(taken.len());
            let (done, refused) = settle(state, author, &link, queue, &taken, fate).await?;
            outcome.done += done;
            outcome.refused += refused;
        }
        // What was passed over is not counted there before this link is closed, and some time after that.
        outcome.remaining = count(&link, queue).await? + held - outcome.done;
        Ok::<_, Problem>(outcome)
    };
    let decided = decided.await;
    link.close().await;
    decided
}

/// The audit row comes first: nothing is ever given again or removed that it does not name.
async fn settle(
    state: &AppState,
    author: &Author,
    link: &Link,
    queue: &str,
    taken: &[Delivery],
    fate: Fate,
) -> Result<(u32, u32), Problem> {
    if taken.is_empty() {
        return Ok((0, 0));
    }
    let letters: Vec<DeadLetter> = taken.iter().map(DeadLetter::of).collect();
    let change =
        Change { action: fate.action(), entity: "queue", entity_id: queue, before: Some(json!(letters)), after: None };
    record(state, author, change).await?;
    let (mut done, mut refused) = (0, 0);
    let origin = format!("q.{queue}");
    for delivery in taken {
        let is_settled = match fate {
            Fate::Replay => delivery::copy(link, delivery, &origin, &Destination::Again).await?,
            Fate::Drop => true,
        };
        if is_settled {
            delivery::acknowledge(delivery).await?;
            done += 1;
        } else {
            refused += 1;
        }
    }
    tracing::info!(queue, action = fate.action(), letters = taken.len(), "dead letters were settled");
    Ok((done, refused))
}

async fn record(state: &AppState, author: &Author, change: Change<'_>) -> Result<(), StoreError> {
    let mut connection = state.databases.connection().await?;
    let mut tx = connection.begin().await?;
    audit::record(&mut tx, author, change).await?;
    tx.commit().await.map_err(StoreError::of_commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_says_which_and_only_once() {
        let of = |value: serde_json::Value| serde_json::from_value::<Choice>(value).unwrap().wanted().is_ok();
        for good in [json!({ "limit": 1 }), json!({ "all": true }), json!({ "message_ids": ["a"] })] {
            assert!(of(good.clone()), "{good}");
        }
        for bad in [
            json!({}),
            json!({ "all": false }),
            json!({ "message_ids": [] }),
            json!({ "limit": 0 }),
            json!({ "limit": 101 }),
            json!({ "limit": 1, "all": true }),
            json!({ "limit": 1, "message_ids": ["a"] }),
        ] {
            assert!(!of(bad.clone()), "{bad}");
        }
    }
}
