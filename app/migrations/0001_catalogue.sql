CREATE TABLE categories (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent_id bigint REFERENCES categories (id),
    slug      text NOT NULL UNIQUE,
    name      text NOT NULL
);

CREATE TABLE products (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku         text NOT NULL UNIQUE,
    name        text NOT NULL,
    description text NOT NULL,
    brand       text NOT NULL,
    category_id bigint NOT NULL REFERENCES categories (id),
    attrs       jsonb NOT NULL DEFAULT '{}',
    price_cents bigint NOT NULL CHECK (price_cents BETWEEN 0 AND 1000000000),
    currency    text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- Hidden products can be read by SKU and ordered, and are never listed: probes use one.
    hidden      boolean NOT NULL DEFAULT false,
    version     bigint NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX products_by_price ON products (price_cents, id) WHERE NOT hidden;
CREATE INDEX products_by_category ON products (category_id, id) WHERE NOT hidden;
CREATE INDEX products_by_brand ON products (brand, id) WHERE NOT hidden;

-- The search index keeps the highest version it saw, so every change must raise it, whoever makes the change.
CREATE FUNCTION products_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE TRIGGER products_next_version BEFORE UPDATE ON products
    FOR EACH ROW EXECUTE FUNCTION products_next_version();

-- Stock changes with every order. No index but the primary key, and room on each page: updates stay heap-only.
CREATE TABLE inventory (
    product_id bigint PRIMARY KEY REFERENCES products (id),
    on_hand    integer NOT NULL CHECK (on_hand >= 0),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
