//! Stock comes back in the transaction that ends its order, and the search index hears of it.
//!
//! Rows are locked in ascending id, whatever join the planner picks: two orders with the same products never deadlock. The
//! events are written by the same statement: only it knows the version that the new stock has, and buyers who queue wait
//! for no further round trip. How stock goes is in `place`.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, outbox};

/// What the order took. True: one of the products had nothing left.
pub(super) async fn give_back(tx: &mut PgConnection, id: Uuid, request_id: &str) -> Result<bool, StoreError> {
    let had: Vec<i32> = sqlx::query_scalar(
        "WITH lines AS (SELECT product_id, qty FROM order_items WHERE order_id = $1), \
         locked AS ( \
           SELECT i.product_id FROM inventory i WHERE i.product_id IN (SELECT product_id FROM lines) \
           ORDER BY i.product_id FOR UPDATE), \
         given AS ( \
           UPDATE inventory i SET on_hand = i.on_hand + line.qty, updated_at = now() \
           FROM locked l JOIN lines line USING (product_id) WHERE i.product_id = l.product_id \
           RETURNING i.product_id, i.on_hand - line.qty AS had, line.qty, i.version), \
         moved AS ( \
           INSERT INTO stock_movements (product_id, delta, reason, order_id) \
           SELECT product_id, qty, 'cancel', $1 FROM given ORDER BY product_id), \
         announced AS ( \
           INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) \
           SELECT gen_random_uuid(), $2, p.id::text, p.version + g.version, \
             jsonb_build_object('product_id', p.id, 'sku', p.sku), $3::text::jsonb \
           FROM given g JOIN products p ON p.id = g.product_id ORDER BY p.id), \
         back AS ( \
           INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) \
           SELECT gen_random_uuid(), $4, p.id::text, g.version, \
             jsonb_build_object('product_id', p.id, 'sku', p.sku, 'on_hand', g.qty), $3::text::jsonb \
           FROM given g JOIN products p ON p.id = g.product_id WHERE g.had = 0 ORDER BY p.id) \
         SELECT had FROM given",
    )
    .bind(id)
    .bind(outbox::INDEX_PRODUCT)
    .bind(outbox::headers(request_id))
    .bind(outbox::BACK_IN_STOCK)
    .fetch_all(tx)
    .await?;
    Ok(had.contains(&0))
}
