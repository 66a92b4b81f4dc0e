"""The app's transaction, statement by statement (app/src/store/orders.rs). Both flavours run it by Django's cursor, which
costs less than the ORM would."""
import hashlib
import json
import uuid

from django.db import connection, transaction

OPERATION = "POST /api/v1/orders"
CLAIM = """INSERT INTO idempotency_keys (scope, key, fingerprint) SELECT %(scope)s::text, %(key)s::text, %(fingerprint)s::text
 WHERE pg_try_advisory_xact_lock(hashtextextended(%(scope)s::text || ' ' || %(key)s::text, 0)) ON CONFLICT DO NOTHING"""
STORED = "SELECT fingerprint, status, response FROM idempotency_keys WHERE scope = %s AND key = %s"
PRICE = "SELECT id, sku, price_cents, currency FROM products WHERE sku = ANY(%s::text[]) AND active ORDER BY id"
INSERT = """WITH placed AS (
   INSERT INTO orders (id, email, status, total_cents, currency, user_id)
   VALUES (%(id)s::uuid, %(email)s::text, 'placed', %(total)s::bigint, %(currency)s::text, %(user)s::uuid)
   RETURNING number, status, created_at),
 items AS (
   INSERT INTO order_items (order_id, product_id, qty, unit_cents)
   SELECT %(id)s::uuid, product_id, qty, unit_cents FROM unnest(%(ids)s::bigint[], %(quantities)s::int[], %(prices)s::bigint[]) AS line (product_id, qty, unit_cents))
 SELECT number, status, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM placed"""
APPEND = """INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers)
 VALUES (%s::uuid, 'email.send_order_confirmation', %s::text, 1, %s::jsonb, %s::jsonb)"""
COMPLETE = "UPDATE idempotency_keys SET status = %s, response = %s WHERE scope = %s AND key = %s"
POSITION = """SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END
 - '0/0'::pg_lsn)::bigint"""
TAKE = """WITH wanted AS (SELECT product_id, qty FROM unnest(%(ids)s::bigint[], %(quantities)s::int[]) AS line (product_id, qty)),
 locked AS (
   SELECT i.product_id FROM inventory i WHERE i.product_id = ANY(%(ids)s::bigint[]) ORDER BY i.product_id FOR UPDATE),
 taken AS (
   UPDATE inventory i SET on_hand = i.on_hand - w.qty, updated_at = now()
   FROM locked l JOIN wanted w USING (product_id)
   WHERE i.product_id = l.product_id AND i.on_hand >= w.qty
   RETURNING i.product_id, i.on_hand, i.version),
 announced AS (
   INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers)
   SELECT line.message_id, 'search.index_product', p.id::text, p.version + t.version,
     jsonb_build_object('product_id', p.id, 'sku', p.sku), jsonb_build_object('request_id', %(request_id)s::text)
   FROM unnest(%(ids)s::bigint[], %(messages)s::uuid[]) AS line (product_id, message_id)
   JOIN taken t USING (product_id) JOIN products p ON p.id = t.product_id ORDER BY p.id)
 SELECT product_id, on_hand FROM taken"""


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
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(CLAIM, {"scope": scope, "key": key, "fingerprint": fingerprint})
        if cursor.rowcount != 1:
            return replayed(cursor, scope, key, fingerprint)
        cursor.execute(PRICE, [list(lines)])
        priced = cursor.fetchall()
        if len(priced) < len(lines):
            raise Refused(422, "unknown_sku")
        currency = priced[0][3]
        if any(row[3] != currency for row in priced):
            raise Refused(422, "mixed_currencies")
        ids, quantities = [row[0] for row in priced], [lines[row[1]] for row in priced]
        order = {"id": str(uuid.uuid4())}
        total = sum(row[2] * qty for row, qty in zip(priced, quantities))
        cursor.execute(INSERT, {
            "id": order["id"], "email": email, "total": total, "currency": currency, "ids": ids, "quantities": quantities,
            "prices": [row[2] for row in priced], "user": user,
        })
        order["number"], order["status"], created_at = cursor.fetchone()
        order |= {"total_cents": total, "currency": currency}
        order["items"] = [{"sku": row[1], "qty": lines[row[1]], "unit_cents": row[2]} for row in priced]
        order["created_at"] = created_at
        payload = render({"email": email, "number": order["number"], "order_id": order["id"]})
        cursor.execute(APPEND, [uuid.uuid4(), order["id"], payload, render({"request_id": request_id})])
        body = render(order)
        cursor.execute(COMPLETE, [201, body, scope, key])
        cursor.execute(TAKE, {
            "ids": ids, "quantities": quantities, "messages": [uuid.uuid4() for _ in ids], "request_id": request_id,
        })
        if len(cursor.fetchall()) < len(ids):
            raise Refused(409, "out_of_stock")
    return 201, body


def replayed(cursor, scope, key, fingerprint):
    cursor.execute(STORED, [scope, key])
    stored = cursor.fetchone()
    if stored and stored[0] != fingerprint:
        raise Refused(422, "idempotency_key_reused")
    if not stored or stored[1] is None:
        raise Refused(409, "idempotency_key_running")
    return stored[1], stored[2]
