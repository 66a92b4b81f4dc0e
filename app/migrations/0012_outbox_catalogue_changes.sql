-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS outbox_catalogue_changes ON outbox (id) WHERE published_at IS NULL AND topic = 'catalogue.changed'
