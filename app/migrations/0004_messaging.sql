-- Stock changes without the product's row changing, so it needs a version of its own: the sum of both versions grows
-- with every change of either, and is what the search index compares.
ALTER TABLE inventory ADD COLUMN version bigint NOT NULL DEFAULT 1;

CREATE FUNCTION inventory_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$$;

CREATE TRIGGER inventory_next_version BEFORE UPDATE ON inventory
    FOR EACH ROW EXECUTE FUNCTION inventory_next_version();

-- A message that the broker would not take waits by itself and holds up no other.
ALTER TABLE outbox
    ADD COLUMN attempts        integer NOT NULL DEFAULT 0,
    ADD COLUMN next_attempt_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN last_error      text;

-- What the relay asks for, in the order in which it asks: rows that wait are not even looked at.
CREATE INDEX outbox_due ON outbox (next_attempt_at, id) WHERE published_at IS NULL;
DROP INDEX outbox_unpublished;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- One row a message a consumer has dealt with, written in the transaction of the effect.
CREATE TABLE inbox (
    consumer     text NOT NULL,
    message_id   uuid NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);

CREATE INDEX inbox_by_age ON inbox (processed_at);

CREATE TABLE email_log (
    message_id uuid PRIMARY KEY,
    recipient  text NOT NULL,
    template   text NOT NULL,
    order_id   uuid NOT NULL REFERENCES orders (id),
    sent_at    timestamptz NOT NULL DEFAULT now()
);

-- Where a shop's own tasks arrive.
CREATE TABLE custom_tasks (
    message_id uuid PRIMARY KEY,
    topic      text NOT NULL,
    data       jsonb NOT NULL,
    done_at    timestamptz NOT NULL DEFAULT now()
);
