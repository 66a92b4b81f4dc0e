-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS custom_tasks_by_age ON custom_tasks (done_at)
