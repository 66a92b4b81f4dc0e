CREATE TABLE cart_items (
    user_id    uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    product_id bigint NOT NULL REFERENCES products (id) ON DELETE CASCADE,
    qty        integer NOT NULL CHECK (qty > 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, product_id)
);

-- For the foreign key alone: a product that goes must not search every cart.
CREATE INDEX cart_items_by_product ON cart_items (product_id);
