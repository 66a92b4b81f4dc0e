CREATE TABLE orders (
    -- Random (version 4), because whoever knows the id may read the order.
    id          uuid PRIMARY KEY,
    number      bigint GENERATED ALWAYS AS IDENTITY (START WITH 100001) UNIQUE,
    email       text NOT NULL,
    status      text NOT NULL CHECK (status IN ('placed', 'cancelled')),
    total_cents bigint NOT NULL CHECK (total_cents >= 0),
    currency    text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_items (
    order_id   uuid NOT NULL REFERENCES orders (id),
    product_id bigint NOT NULL REFERENCES products (id),
    qty        integer NOT NULL CHECK (qty > 0),
    -- The price at the moment of the order; the product's may change later.
    unit_cents bigint NOT NULL CHECK (unit_cents >= 0),
    PRIMARY KEY (order_id, product_id)
);

-- A row is inserted and completed in the transaction of the work it stands for: a committed row always has a response.
CREATE TABLE idempotency_keys (
    scope       text NOT NULL,
    key         text NOT NULL,
    fingerprint text NOT NULL,
    status      smallint,
    response    text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
) WITH (fillfactor = 70);
