"""As little Django as there can be: no middleware, no serializers, what Redis keeps goes out as it is."""
import json

import redis
from django.conf import settings
from django.db import connection
from django.http import HttpResponse
from django.urls import path

from . import accounts, catalogue, orders

KEPT = redis.Redis.from_url(settings.REDIS_URL) if settings.REDIS_URL else None
JSON = "application/json"
COLUMNS = ("sku", "name", "description", "brand", "category", "price_cents", "currency", "in_stock")


def printable(text):
    return isinstance(text, str) and 1 <= len(text) <= 64 and text.isprintable()


def checked(asked):
    """Raises ValueError for what the app refuses."""
    query = {"sort": asked.get("sort", "id"), "limit": int(asked.get("limit", 20))}
    if query["sort"] not in catalogue.ORDER or not 1 <= query["limit"] <= 100:
        raise ValueError("sort or limit")
    for name in ("category", "brand"):
        if text := asked.get(name):
            if not printable(text):
                raise ValueError(name)
            query[name] = text
    for name in ("min_price", "max_price"):
        if name in asked:
            query[name] = int(asked[name])
            if query[name] < 0:
                raise ValueError(name)
    if cursor := asked.get("cursor"):
        query["after"] = catalogue.decode(cursor, query["sort"])
    return query


def products(request):
    try:
        query = checked(request.GET)
    except ValueError as error:
        return HttpResponse(str(error), status=400)
    body = None
    if KEPT:
        name = catalogue.key(query)
        body = KEPT.get(name)
    if body is None:
        body = page(query)
        if KEPT:
            KEPT.set(name, body, settings.CACHED_SECONDS)
    return HttpResponse(body, content_type=JSON)


def page(query):
    with connection.cursor() as cursor:
        cursor.execute(*catalogue.listing(query))
        rows = cursor.fetchall()
    more, rows = len(rows) > query["limit"], rows[: query["limit"]]
    # Columns: the id, which is not shown, and then those of COLUMNS.
    next_cursor = catalogue.encode(query["sort"], rows[-1][6], rows[-1][0]) if more else None
    return orders.render({"items": [dict(zip(COLUMNS, row[1:])) for row in rows], "next_cursor": next_cursor}).encode()


def place(request):
    account = None
    if header := request.headers.get("Authorization"):
        account = accounts.by_header(header)
        if account is None:
            return HttpResponse("invalid_token", status=401)
        if "order" not in account.scopes:
            return HttpResponse("forbidden", status=403)
    key = request.headers.get("Idempotency-Key", "")
    try:
        asked = json.loads(request.body)
        email, items = asked["email"], asked["items"]
        known = all(printable(item["sku"]) and isinstance(item["qty"], int) and 1 <= item["qty"] <= 1000 for item in items)
        if not (known and 1 <= len(items) <= 50 and len(email) <= 254 and email.count("@") == 1 and 1 <= len(key) <= 255):
            raise ValueError("order")
    except (ValueError, KeyError, TypeError) as error:
        return HttpResponse(str(error), status=422)
    try:
        user = account.id if account else None
        status, body, headers = orders.place(user, email, orders.merged(items), key, request.headers.get("X-Request-Id", ""))
    except orders.Refused as refused:
        return HttpResponse(refused.code, status=refused.status)
    return HttpResponse(body, status=status, content_type=JSON, headers=headers)


urlpatterns = [path("api/v1/products", products), path("api/v1/orders", place)]
