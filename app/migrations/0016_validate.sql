ALTER TABLE products VALIDATE CONSTRAINT products_inactive_is_hidden;
ALTER TABLE orders VALIDATE CONSTRAINT orders_status_check;
