-- Pictures of products. The files are below /media/; their names never change what they show.
CREATE TABLE product_media (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id   bigint NOT NULL REFERENCES products (id) ON DELETE CASCADE,
    position     integer NOT NULL DEFAULT 0 CHECK (position >= 0),
    -- Relative, without a segment that is empty or begins with a dot.
    path         text NOT NULL CHECK (length(path) <= 255 AND path ~ '^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$'),
    content_type text NOT NULL,
    alt          text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (product_id, position)
);

-- Whoever makes the change, the event is part of the transaction: cached answers are out of date from its commit on.
CREATE FUNCTION catalogue_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload)
    VALUES (gen_random_uuid(), 'catalogue.changed', TG_TABLE_NAME, 0, '{}');
    RETURN NULL;
END
$$;

CREATE TRIGGER catalogue_changed AFTER INSERT OR UPDATE OR DELETE ON products
    FOR EACH STATEMENT EXECUTE FUNCTION catalogue_changed();
CREATE TRIGGER catalogue_changed AFTER INSERT OR UPDATE OR DELETE ON categories
    FOR EACH STATEMENT EXECUTE FUNCTION catalogue_changed();
CREATE TRIGGER catalogue_changed AFTER INSERT OR UPDATE OR DELETE ON product_media
    FOR EACH STATEMENT EXECUTE FUNCTION catalogue_changed();
CREATE TRIGGER catalogue_changed AFTER INSERT OR DELETE ON inventory
    FOR EACH STATEMENT EXECUTE FUNCTION catalogue_changed();
-- Every order changes stock, but cached answers say only whether there is any.
CREATE TRIGGER catalogue_changed_by_stock AFTER UPDATE ON inventory
    FOR EACH ROW WHEN ((OLD.on_hand > 0) <> (NEW.on_hand > 0)) EXECUTE FUNCTION catalogue_changed();
