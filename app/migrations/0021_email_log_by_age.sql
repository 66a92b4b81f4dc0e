-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS email_log_by_age ON email_log (sent_at)
