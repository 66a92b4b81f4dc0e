-- Instants as answers give them.
CREATE FUNCTION iso_utc(timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- What is not for sale any more stays for the orders that name it. It is hidden too, so whatever lists or finds products
-- need not ask twice. Both checks are validated by the next migration, which locks nobody out.
ALTER TABLE products ADD COLUMN active boolean NOT NULL DEFAULT true;
ALTER TABLE products ADD CONSTRAINT products_inactive_is_hidden CHECK (active OR hidden) NOT VALID;

ALTER TABLE orders ADD COLUMN refunded_at timestamptz;
ALTER TABLE orders DROP CONSTRAINT orders_status_check,
    ADD CONSTRAINT orders_status_check CHECK (status IN ('placed', 'cancelled', 'refunded')) NOT VALID;

ALTER TABLE stock_movements ADD COLUMN note text NOT NULL DEFAULT '';

-- Written in the transaction of the change that it tells of.
CREATE TABLE audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor_id   uuid NOT NULL REFERENCES users (id),
    -- As it was then.
    actor      text NOT NULL,
    action     text NOT NULL,
    entity     text NOT NULL,
    entity_id  text NOT NULL,
    before     jsonb,
    after      jsonb,
    request_id text NOT NULL
);

CREATE INDEX audit_log_by_entity ON audit_log (entity, entity_id, id);
CREATE INDEX audit_log_by_actor ON audit_log (actor_id, id);

CREATE FUNCTION audit_log_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever added to';
END
$$;

CREATE TRIGGER audit_log_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_stays();

-- A provider delivers until it hears yes, and so more than once.
CREATE TABLE webhook_events (
    provider    text NOT NULL,
    event_id    text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, event_id)
);

CREATE INDEX webhook_events_by_age ON webhook_events (received_at);
