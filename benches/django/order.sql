-- The app's order of two lines as pgbench runs it: the same statements in one transaction, prepared, a round trip each. What the
-- app asks before and after it (is the session writable, whose is the token, how far is the log) is not in it.
-- A colon before a letter begins a variable of pgbench, so the time is written with dashes.
\set a random(1, 50000)
\set b random(50001, 100000)
\set key random(1, 9000000000000000000)
BEGIN;
INSERT INTO idempotency_keys (scope, key, fingerprint) SELECT :scope::text, :key::text, 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' WHERE pg_try_advisory_xact_lock(hashtextextended(:scope::text || ' ' || :key::text, 0)) ON CONFLICT DO NOTHING;
SELECT array_agg(id) AS ids, array_agg(price_cents) AS prices FROM (SELECT id, sku, price_cents, currency FROM products WHERE sku = ANY(ARRAY['PART-' || lpad(:a::text, 7, '0'), 'PART-' || lpad(:b::text, 7, '0')]) AND active ORDER BY id) AS found
\gset
WITH fresh AS (SELECT gen_random_uuid() AS id), placed AS (INSERT INTO orders (id, email, status, total_cents, currency, user_id) SELECT id, 'ada@example.org', 'placed', 300000, 'EUR', :account::uuid FROM fresh RETURNING id, number, status, created_at), items AS (INSERT INTO order_items (order_id, product_id, qty, unit_cents) SELECT fresh.id, product_id, qty, unit_cents FROM fresh, unnest(:ids::bigint[], '{1,2}'::int[], :prices::bigint[]) AS line (product_id, qty, unit_cents)) SELECT id AS order_id, number, status, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24-MI-SS.US"Z"') AS created_at FROM placed
\gset
INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) SELECT gen_random_uuid(), 'email.send_order_confirmation', :order_id::text, 1, jsonb_build_object('order_id', :order_id::text, 'number', :number::bigint, 'email', 'ada@example.org'), '{"request_id": "0123456789abcdef0123456789abcdef"}'::jsonb;
UPDATE idempotency_keys SET status = 201, response = '{"id":"00000000-0000-0000-0000-000000000000","number":100001,"status":"placed","total_cents":300000,"currency":"EUR","items":[{"sku":"PART-0000001","qty":1,"unit_cents":100000},{"sku":"PART-0050001","qty":2,"unit_cents":100000}],"created_at":"2026-01-01T00:00:00.000000Z"}' WHERE scope = :scope::text AND key = :key::text;
WITH wanted AS (SELECT product_id, qty FROM unnest(:ids::bigint[], '{1,2}'::int[]) AS line (product_id, qty)), locked AS (SELECT i.product_id FROM inventory i WHERE i.product_id = ANY(:ids::bigint[]) ORDER BY i.product_id FOR UPDATE), taken AS (UPDATE inventory i SET on_hand = i.on_hand - w.qty, updated_at = now() FROM locked l JOIN wanted w USING (product_id) WHERE i.product_id = l.product_id AND i.on_hand >= w.qty RETURNING i.product_id, i.on_hand, i.version), announced AS (INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) SELECT gen_random_uuid(), 'search.index_product', p.id::text, p.version + t.version, jsonb_build_object('product_id', p.id, 'sku', p.sku), '{"request_id": "0123456789abcdef0123456789abcdef"}'::jsonb FROM taken t JOIN products p ON p.id = t.product_id ORDER BY p.id) SELECT product_id, on_hand FROM taken;
COMMIT;
