-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS products_by_brand_price ON products (brand, price_cents, id) WHERE NOT hidden
