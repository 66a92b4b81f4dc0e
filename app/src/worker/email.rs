//! `email.*`: sends mail.
//!
//! SMTP cannot take part in a transaction. The inbox row is written first, the mail goes out, and only the COMMIT comes
//! after the server's 250. Where that answer is lost, or this process is killed before the COMMIT, or the COMMIT's own
//! answer is lost with the database, nobody knows whether the mail is on its way: it is sent again, under the same
//! Message-ID. A lost answer uses up an attempt, so that is five times at most. The uncommitted inbox row keeps a second
//! worker waiting meanwhile.

use std::time::Duration;

use anyhow::Context;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp,
};
use serde::Deserialize;
use sqlx::{Connection, Executor, PgPool};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Failure, Handled, Handler};
use crate::{
    background::Background,
    config,
    messaging::envelope::Envelope,
    store::{
        StoreError, answered, inbox,
        orders::{self, Order},
        outbox::{ORDER_CANCELLED, ORDER_CONFIRMATION},
    },
};

const CONSUMER: &str = "email";
const MAIL_SERVER: &str = "mail server";
/// To reach the server and to send, together: less than the time that a worker has to stop. A server that took the mail may
/// still be silent then.
const SEND_WITHIN: Duration = Duration::from_secs(18);
/// The transaction is idle while the mail goes out, for longer than sessions otherwise may be.
const IDLE_LIMIT: &str = "SET LOCAL idle_in_transaction_session_timeout = '20s'";
/// The server refuses this client's login, not this mail: RFC 4954.
const LOGIN_REFUSED: [u16; 5] = [454, 530, 534, 535, 538];

pub(crate) struct Notices {
    pool: PgPool,
    mailer: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// What a mail says about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Template {
    Confirmation,
    Cancelled,
}

impl Template {
    fn of(topic: &str) -> Option<Self> {
        match topic {
            ORDER_CONFIRMATION => Some(Self::Confirmation),
            ORDER_CANCELLED => Some(Self::Cancelled),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Confirmation => "order_confirmation",
            Self::Cancelled => "order_cancelled",
        }
    }

    fn subject(self, number: i64) -> String {
        match self {
            Self::Confirmation => format!("Your order {number}"),
            Self::Cancelled => format!("Your order {number} is cancelled"),
        }
    }

    fn first_line(self, number: i64) -> String {
        match self {
            Self::Confirmation => format!("Thank you for your order {number}."),
            Self::Cancelled => format!("Your order {number} is cancelled, and nothing of it will be sent:"),
        }
    }
}

/// Fields of the event that this worker needs.
#[derive(Debug, Deserialize)]
struct Notice {
    order_id: Uuid,
    email: String,
}

impl Notices {
    pub(crate) fn new(config: &config::EmailWorker, background: &Background) -> anyhow::Result<Self> {
        let mailer = config.smtp_url.smtp(&background.trust)?.timeout(Some(SEND_WITHIN)).build();
        let from = config.mail_from.parse::<Mailbox>();
        let from =
            from.with_context(|| format!("parse MAIL_FROM {:?}: expected shop@example.com", config.mail_from))?;
        Ok(Self { pool: background.pool.clone(), mailer, from })
    }

    async fn tell(&self, event: &Envelope) -> Result<Handled, Failure> {
        let template = Template::of(&event.topic).ok_or_else(|| Failure::Permanent {
            reason: "unknown_template",
            error: format!("found a message of type {:?}", event.topic),
        })?;
        let wanted: Notice =
            serde_json::from_value(event.data.clone()).map_err(|error| Failure::undecodable(&error))?;
        let (mut connection, found) = answered(async {
            let mut connection = self.pool.acquire().await?;
            let found = orders::by_id(&mut connection, wanted.order_id).await?;
            Ok::<_, StoreError>((connection, found))
        })
        .await?;
        let order = found.map(|found| found.order).ok_or_else(|| Failure::Permanent {
            reason: "unknown_order",
            error: format!("no order has the id {}", wanted.order_id),
        })?;
        let mail = compose(&self.from, &wanted.email, event.id, template, &order)?;
        let until = Instant::now() + SEND_WITHIN;
        // Whether the server is there is found out before anything is sent: from then on it may have taken the mail.
        self.reach(until).await?;

        let claimed = answered(async {
            let mut tx = connection.begin().await?;
            tx.execute(IDLE_LIMIT).await?;
            if !inbox::claim(&mut tx, CONSUMER, event.id).await? {
                return Ok::<_, StoreError>(None);
            }
            inbox::log_email(&mut tx, event.id, &wanted.email, template.name(), order.id).await?;
            Ok(Some(tx))
        });
        let Some(tx) = claimed.await? else { return Ok(Handled::Duplicate) };
        match timeout_at(until, self.mailer.send(mail)).await {
            Ok(sent) => sent.map_err(|error| refusal(&error, &wanted.email))?,
            Err(_) => return Err(Failure::Transient(format!("{MAIL_SERVER}: no answer within {SEND_WITHIN:?}"))),
        };
        answered(tx.commit()).await.map_err(StoreError::of_commit)?;
        Ok(Handled::Done)
    }

    async fn reach(&self, until: Instant) -> Result<(), Failure> {
        let why = match timeout_at(until, self.mailer.test_connection()).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => "it does not answer NOOP".to_owned(),
            Ok(Err(error)) => error_chain(&error),
            Err(_) => format!("no answer within {SEND_WITHIN:?}"),
        };
        Err(Failure::Away { what: MAIL_SERVER, why })
    }
}

impl Handler for Notices {
    const NEEDS: Option<&'static str> = Some(MAIL_SERVER);

    async fn prepare(&self) -> Result<(), Failure> {
        self.reach(Instant::now() + SEND_WITHIN).await
    }

    async fn handle(&self, events: &[Envelope]) -> Result<Handled, Failure> {
        let mut handled = Handled::Duplicate;
        for event in events {
            if self.tell(event).await? == Handled::Done {
                handled = Handled::Done;
            }
        }
        Ok(handled)
    }
}

fn refusal(error: &smtp::Error, recipient: &str) -> Failure {
    // Servers like to repeat the address.
    let why = error_chain(error).replace(recipient, "<recipient>");
    match error.status().map(u16::from) {
        Some(code) if LOGIN_REFUSED.contains(&code) => Failure::Away { what: MAIL_SERVER, why },
        Some(_) if error.is_permanent() => Failure::Permanent { reason: "mail_refused", error: why },
        // The mail asks for what the server does not offer, such as letters beyond ASCII in an address.
        None if error.is_client() => Failure::Permanent { reason: "mail_refused", error: why },
        // Without an answer, the mail may have been taken: this must come to an end.
        Some(_) | None => Failure::Transient(why),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Some errors repeat their source, some their own name before it.
        if inner_text.starts_with(&text) {
            text = inner_text;
        } else if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

fn compose(from: &Mailbox, to: &str, event: Uuid, template: Template, order: &Order) -> Result<Message, Failure> {
    let to: Mailbox = to.parse().map_err(|error| Failure::Permanent {
        reason: "bad_recipient",
        error: format!("parse the recipient: {error}"),
    })?;
    Message::builder()
        .from(from.clone())
        .to(to)
        .subject(template.subject(order.number))
        .message_id(Some(format!("<{event}@{}>", from.email.domain())))
        .header(ContentType::TEXT_PLAIN)
        .body(body(template, order))
        .map_err(|error| Failure::Permanent { reason: "bad_mail", error: error.to_string() })
}

fn body(template: Template, order: &Order) -> String {
    let lines: String = order
        .items
        .iter()
        .map(|item| {
            let cents = item.unit_cents * i64::from(item.qty);
            format!("{:>5} x {}  {}\n", item.qty, item.sku, money(cents, &order.currency))
        })
        .collect();
    let total = money(order.total_cents, &order.currency);
    format!("{}\n\n{lines}\nTotal: {total}\n", template.first_line(order.number))
}

fn money(cents: i64, currency: &str) -> String {
    format!("{}.{:02} {currency}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::*;
    use crate::store::orders::OrderItem;

    fn order() -> Order {
        Order {
            id: Uuid::nil(),
            number: 100_001,
            status: "placed".to_owned(),
            total_cents: 10_405,
            currency: "EUR".to_owned(),
            items: vec![
                OrderItem { sku: "NOR-KNI-01".to_owned(), qty: 2, unit_cents: 5_190 },
                OrderItem { sku: "ALM-LAM-02".to_owned(), qty: 1, unit_cents: 25 },
            ],
            created_at: "2026-11-22T18:00:00.000001Z".to_owned(),
        }
    }

    #[test]
    fn a_mail_has_an_id_that_follows_from_the_event_and_a_body_that_adds_up() {
        let event: Uuid = "0193e3a8-0000-7000-8000-000000000001".parse().unwrap();
        let from: Mailbox = "The Shop <shop@example.com>".parse().unwrap();
        let mail = compose(&from, "ada@example.org", event, Template::Confirmation, &order()).unwrap();
        let text = String::from_utf8(mail.formatted()).unwrap();
        assert!(text.contains("Message-ID: <0193e3a8-0000-7000-8000-000000000001@example.com>\r\n"), "{text}");
        assert!(text.contains("Subject: Your order 100001\r\n"), "{text}");
        for line in ["    2 x NOR-KNI-01  103.80 EUR", "    1 x ALM-LAM-02  0.25 EUR", "Total: 104.05 EUR"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_cancelled_order_is_told_as_such() {
        let from: Mailbox = "shop@example.com".parse().unwrap();
        let mail = compose(&from, "ada@example.org", Uuid::nil(), Template::Cancelled, &order()).unwrap();
        let text = String::from_utf8(mail.formatted()).unwrap();
        for line in ["Subject: Your order 100001 is cancelled\r\n", "Your order 100001 is cancelled, and nothing"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        for template in [Template::Confirmation, Template::Cancelled] {
            assert_eq!(Template::of(&format!("email.send_{}", template.name())), Some(template));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn money_reads_back_as_its_cents(cents in 0..=i64::MAX) {
            let text = money(cents, "EUR");
            let (whole, rest) = text.strip_suffix(" EUR").unwrap().split_once('.').unwrap();
            prop_assert_eq!(rest.len(), 2);
            let back = whole.parse::<i128>().unwrap() * 100 + rest.parse::<i128>().unwrap();
            prop_assert_eq!(back, i128::from(cents));
        }
    }

    #[test]
    fn an_address_that_is_none_is_the_end_of_the_message() {
        let from: Mailbox = "shop@example.com".parse().unwrap();
        let failure = compose(&from, "nobody\r\nBcc: all@example.com", Uuid::nil(), Template::Confirmation, &order())
            .unwrap_err();
        assert!(matches!(failure, Failure::Permanent { reason: "bad_recipient", .. }), "{failure:?}");
    }
}
