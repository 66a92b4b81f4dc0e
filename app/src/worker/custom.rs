//! `custom.*`: the place where a shop's own tasks go. This one writes down what arrived, and marks orders as paid when
//! the provider of payments says so.

use serde_json::Value;
use sqlx::{Connection, PgPool};

use super::{Failure, Handled, Handler};
use crate::{
    messaging::envelope::Envelope,
    store::{
        StoreError, answered,
        audit::Actor,
        inbox,
        payments::{self, Payment, PaymentError},
        webhooks::RECEIVED,
    },
};

const CONSUMER: &str = "custom";
const TOPICS: &str = "custom.";
const PAID: &str = "payment.succeeded";

pub(crate) struct Tasks {
    pool: PgPool,
    /// Whose word about payments counts.
    payment_provider: String,
}

impl Tasks {
    pub(crate) fn new(pool: PgPool, payment_provider: String) -> Self {
        Self { pool, payment_provider }
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
        if let Some(payment) = self.payment(event)? {
            let request_id = event.request_id.as_deref().unwrap_or_default();
            let by = Actor { id: None, name: &self.payment_provider, request_id };
            payments::mark_paid(&mut tx, by, &payment).await?;
        }
        tx.commit().await.map_err(StoreError::of_commit)?;
        Ok(Handled::Done)
    }

    /// Other providers may say what they like about payments.
    fn payment(&self, event: &Envelope) -> Result<Option<Payment>, Failure> {
        let (data, said) = (&event.data, &event.data["body"]);
        if event.topic != RECEIVED || data["provider"] != self.payment_provider.as_str() || said["type"] != PAID {
            return Ok(None);
        }
        let Value::Object(payment) = &said["data"] else {
            return Err(Failure::undecodable(&format!("{PAID}: expected data with order_id, amount_cents, currency")));
        };
        serde_json::from_value(payment.clone().into()).map(Some).map_err(|error| Failure::undecodable(&error))
    }
}

/// What does not fit waits for a person: no later try would make it fit.
impl From<PaymentError> for Failure {
    fn from(error: PaymentError) -> Self {
        let reason = match error {
            PaymentError::UnknownOrder(_) => "unknown_order",
            PaymentError::OtherAmount { .. } => "other_amount",
            PaymentError::PaidBefore(_) => "paid_before",
            PaymentError::NotPlaced { .. } => "not_placed",
            PaymentError::Store(error) => return error.into(),
        };
        Self::Permanent { reason, error: error.to_string() }
    }
}

impl Handler for Tasks {
    const NEEDS: Option<&'static str> = None;

    async fn handle(&self, events: &[Envelope]) -> Result<Handled, Failure> {
        let mut handled = Handled::Duplicate;
        for event in events {
            if answered(self.record(event)).await? == Handled::Done {
                handled = Handled::Done;
            }
        }
        Ok(handled)
    }
}
