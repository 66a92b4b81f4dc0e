-- no-transaction
-- Orders lie on disk in the order of their time, so a few bytes a block are enough, and placing one costs nothing more.
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_time ON orders USING brin (created_at) WITH (pages_per_range = 16, autosummarize = on);
