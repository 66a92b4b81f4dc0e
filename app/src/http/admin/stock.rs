//! `/api/v1/admin/inventory/{sku}/movements`.

use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::products::known;
use crate::{
    basket::Fault,
    catalogue::invalidation,
    http::{
        accounts::refuse,
        doors::Staff,
        error::Problem,
        input::{Asked, Input, Path},
        observe::RequestId,
        orders::{idempotency_key, stored},
        page::Page,
    },
    state::Shared,
    store::{
        admin::stock::{self, Answer, CREATED, Movement, Reason},
        idempotency::Key,
    },
};

const DELTA_MAX: i32 = 1_000_000;
const NOTE_MAX: usize = 200;

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct PageQuery {
    pub(super) cursor: Option<String>,
    pub(super) limit: Option<u32>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMovement {
    delta: i32,
    reason: Reason,
    #[serde(default)]
    note: String,
}

/// With an Idempotency-Key, as an order: sent twice, it counts once.
pub(crate) async fn apply(
    State(state): State<Shared>,
    Staff(caller): Staff,
    Extension(id): Extension<RequestId>,
    Path(sku): Path<String>,
    headers: HeaderMap,
    Input(NewMovement { delta, reason, note }): Input<NewMovement>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let mut faults = Vec::new();
    if delta == 0 || delta.unsigned_abs() > DELTA_MAX.unsigned_abs() {
        faults.push(Fault::new("delta", &format!("expected -{DELTA_MAX} to {DELTA_MAX}, and not 0")));
    }
    if note.chars().count() > NOTE_MAX || note.contains(char::is_control) {
        faults.push(Fault::new("note", &format!("expected up to {NOTE_MAX} printable characters")));
    }
    refuse(&faults, "invalid_movement")?;
    let sku = known(&sku)?;
    let author = caller.author(id);
    let digest = Sha256::digest(format!("{sku}\n{delta}\n{}\n{note}", reason.name()));
    let fingerprint: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let scope = format!("POST /api/v1/admin/inventory {}", author.id);
    let key = Key { scope: &scope, key, fingerprint: &fingerprint };
    let movement = Movement { sku: &sku, delta, reason, note: &note };
    let answer = stock::apply(&mut *state.databases.connection().await?, &author, key, &movement).await?;
    match answer {
        Answer::Replayed { status, body } => Ok(stored(status, body, true)),
        Answer::Moved { body, availability_changed } => {
            if availability_changed {
                invalidation::announce_at_once(&state).await;
            }
            Ok(stored(CREATED, body, false))
        }
    }
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Staff(_): Staff,
    Path(sku): Path<String>,
    Asked(query): Asked<PageQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("movements", query.cursor.as_deref(), query.limit)?;
    let sku = known(&sku)?;
    let below = page.last.unwrap_or(i64::MAX);
    let (on_hand, rows) = stock::list(&mut *state.databases.connection().await?, &sku, below, page.rows()).await?;
    let body = Map::from_iter([("sku".to_owned(), json!(sku)), ("on_hand".to_owned(), json!(on_hand))]);
    Ok(page.answer_with(body, rows, |moved| moved.id))
}
