"""The app's order, statement by statement (app/src/store/place.rs). Both flavours run it by Django's cursor, which
costs less than the ORM would."""
import hashlib
import json
import uuid

from django.db import connection

OPERATION = "POST /api/v1/orders"
STORED = "SELECT fingerprint, status, response FROM idempotency_keys WHERE scope = %s AND key = %s"
PRICE = """SELECT id, sku, price_cents, currency FROM products
 WHERE sku = ANY((SELECT %s::text[])::text[]) AND active ORDER BY id"""
POSITION = """SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END
 - '0/0'::pg_lsn)::bigint"""
PLACE = """WITH ours AS MATERIALIZED (
   SELECT pg_try_advisory_xact_lock(hashtextextended(%(scope)s::text || ' ' || %(key)s::text, 0))
     AND NOT EXISTS (SELECT FROM idempotency_keys WHERE scope = %(scope)s::text AND key = %(key)s::text) AS is_ours),
 line AS MATERIALIZED (
   SELECT * FROM unnest((SELECT %(ids)s::bigint[]), (SELECT %(quantities)s::int[]), (SELECT %(prices)s::bigint[]), (SELECT %(messages)s::uuid[]))
     AS line (product_id, qty, unit_cents, message_id)),
 stock AS MATERIALIZED (
   SELECT product_id, on_hand FROM inventory
   WHERE product_id = ANY((SELECT %(ids)s::bigint[])::bigint[]) AND (SELECT is_ours FROM ours)
   ORDER BY product_id FOR UPDATE),
 short AS MATERIALIZED (
   SELECT product_id FROM line LEFT JOIN stock USING (product_id) WHERE on_hand IS NULL OR on_hand < qty),
 placed AS (
   INSERT INTO orders (id, email, status, total_cents, currency, user_id)
   SELECT %(id)s::uuid, %(email)s::text, 'placed', %(total)s::bigint, %(currency)s::text, %(user)s::uuid WHERE NOT EXISTS (SELECT FROM short)
   RETURNING id, number, status, total_cents, currency, created_at),
 claimed AS (
   INSERT INTO idempotency_keys (scope, key, fingerprint, status, response)
   SELECT %(scope)s::text, %(key)s::text, %(fingerprint)s::text, 201, (SELECT row_to_json(o) FROM (
     SELECT id, number, status, total_cents, currency, %(items)s::json AS items, iso_utc(created_at) AS created_at) o)
   FROM placed RETURNING response),
 items AS (
   INSERT INTO order_items (order_id, product_id, qty, unit_cents)
   SELECT id, product_id, qty, unit_cents FROM placed, line),
 taken AS (
   UPDATE inventory i SET on_hand = i.on_hand - line.qty, updated_at = now() FROM placed, line
   WHERE i.product_id = line.product_id RETURNING i.product_id, i.on_hand, i.version),
 announced AS (
   INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers)
   SELECT %(message)s::uuid, 'email.send_order_confirmation', id::text, 1,
     jsonb_build_object('order_id', id, 'number', number, 'email', %(email)s::text), %(headers)s::jsonb
   FROM placed UNION ALL
   SELECT message_id, 'search.index_product', p.id::text, p.version + taken.version,
     jsonb_build_object('product_id', p.id, 'sku', p.sku), %(headers)s::jsonb
   FROM taken JOIN line USING (product_id) JOIN products p ON p.id = taken.product_id)
 SELECT is_ours, (SELECT response FROM claimed) AS response,
   EXISTS (SELECT FROM taken WHERE on_hand = 0) AS sold_out, ARRAY(SELECT product_id FROM short) AS short FROM ours"""


class Refused(Exception):
    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


def render(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def merged(items):
    lines = {}
    for item in items:
        lines[item["sku"]] = lines.get(item["sku"], 0) + item["qty"]
    return dict(sorted(lines.items()))


def place(user, email, lines, key, request_id):
    """Status, body and headers; a refusal rolls everything back. `user` None is a guest."""
    # Keys are each account's own.
    scope = OPERATION if user is None else f"{OPERATION} {user}"
    status, body = transact(user, email, lines, scope, key, request_id)
    return status, body, {} if user is None else read_after()


def read_after():
    """From where on a server shows the order to whoever lists the account's (app/src/http/recent.rs)."""
    with connection.cursor() as cursor:
        cursor.execute(POSITION)
        position = f"{cursor.fetchone()[0]:020}"
    cookie = f"read_after={position}; Path=/api/; Max-Age=60; HttpOnly; SameSite=Lax"
    return {"X-Read-After": position, "Set-Cookie": cookie}


def transact(user, email, lines, scope, key, request_id):
    fingerprint = hashlib.sha256(render([email, lines]).encode()).hexdigest()
    with connection.cursor() as cursor:
        cursor.execute(PRICE, [list(lines)])
        priced = cursor.fetchall()
        if len(priced) < len(lines):
            return replayed(cursor, scope, key, fingerprint, Refused(422, "unknown_sku"))
        currency = priced[0][3]
        if any(row[3] != currency for row in priced):
            return replayed(cursor, scope, key, fingerprint, Refused(422, "mixed_currencies"))
        quantities = [lines[row[1]] for row in priced]
        cursor.execute(PLACE, {
            "scope": scope, "key": key, "fingerprint": fingerprint,
            "ids": [row[0] for row in priced], "quantities": quantities, "prices": [row[2] for row in priced],
            "messages": [uuid.uuid4() for _ in priced], "id": uuid.uuid4(), "email": email,
            "total": sum(row[2] * qty for row, qty in zip(priced, quantities)), "currency": currency, "user": user,
            "items": render([{"sku": row[1], "qty": lines[row[1]], "unit_cents": row[2]} for row in priced]),
            "message": uuid.uuid4(), "headers": render({"request_id": request_id}),
        })
        is_ours, body, _, _ = cursor.fetchone()
        if body is None:
            refusal = Refused(409, "out_of_stock" if is_ours else "idempotency_key_running")
            return replayed(cursor, scope, key, fingerprint, refusal)
    return 201, body


def replayed(cursor, scope, key, fingerprint, refusal):
    cursor.execute(STORED, [scope, key])
    stored = cursor.fetchone()
    if stored is None:
        raise refusal
    if stored[0] != fingerprint:
        raise Refused(422, "idempotency_key_reused")
    return stored[1], stored[2]
