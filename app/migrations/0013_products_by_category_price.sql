-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS products_by_category_price ON products (category_id, price_cents, id) WHERE NOT hidden
