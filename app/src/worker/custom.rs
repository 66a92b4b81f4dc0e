//! `custom.*`: the place where a shop's own tasks go. This one writes down what arrived.

use sqlx::{Connection, PgPool};

use super::{Failure, Handled, Handler};
use crate::{
    messaging::envelope::Envelope,
    store::{StoreError, inbox},
};

const CONSUMER: &str = "custom";
const TOPICS: &str = "custom.";

pub(crate) struct Tasks {
    pool: PgPool,
}

impl Tasks {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn record(&self, event: &Envelope) -> Result<Handled, Failure> {
        if !event.topic.starts_with(TOPICS) {
            return Err(Failure::unknown_topic(event));
        }
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        if !inbox::claim(&mut tx, CONSUMER, event.id).await? {
            return Ok(Handled::Duplicate);
        }
        inbox::record_task(&mut tx, event.id, &event.topic, &event.data).await?;
        tx.commit().await.map_err(StoreError::of_commit)?;
        Ok(Handled::Done)
    }
}

impl Handler for Tasks {
    const NEEDS: Option<&'static str> = None;

    async fn handle(&self, events: &[Envelope]) -> Result<Handled, Failure> {
        let mut handled = Handled::Duplicate;
        for event in events {
            if self.record(event).await? == Handled::Done {
                handled = Handled::Done;
            }
        }
        Ok(handled)
    }
}
