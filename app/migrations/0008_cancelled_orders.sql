ALTER TABLE orders ADD COLUMN cancelled_at timestamptz;

-- Stock that came or went other than by an order. What an order takes stands in its lines: a row for each of those
-- would make every order write half as much again and say nothing new.
CREATE TABLE stock_movements (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id bigint NOT NULL REFERENCES products (id),
    delta      integer NOT NULL CHECK (delta <> 0),
    reason     text NOT NULL,
    order_id   uuid REFERENCES orders (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- An order gives back what it took once.
    UNIQUE (order_id, product_id, reason)
);

CREATE INDEX stock_movements_by_product ON stock_movements (product_id, id);

-- Every change of stock: a product's deltas add up to what it has more or less than it began with.
CREATE VIEW stock_ledger AS
    SELECT i.product_id, -i.qty AS delta, 'order' AS reason, i.order_id, o.created_at
    FROM order_items i JOIN orders o ON o.id = i.order_id
    UNION ALL
    SELECT product_id, delta, reason, order_id, created_at FROM stock_movements;
