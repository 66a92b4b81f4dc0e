-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_user ON orders (user_id, number DESC) WHERE user_id IS NOT NULL;
