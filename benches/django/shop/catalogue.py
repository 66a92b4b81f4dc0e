"""The app's query and cursors (app/src/store/products.rs, app/src/cursor.rs)."""
import base64

ORDER = {"id": ("id",), "price_asc": ("price_cents", "id"), "price_desc": ("price_cents DESC", "id DESC")}
FILTERS = {
    "category": "category_id = (SELECT id FROM categories WHERE slug = %s)",
    "brand": "brand = %s",
    "min_price": "price_cents >= %s",
    "max_price": "price_cents <= %s",
}


def encode(sort, price_cents, id):
    return base64.urlsafe_b64encode(f"{sort}:{price_cents}:{id}".encode()).rstrip(b"=").decode()


def decode(text, sort):
    """Raises ValueError for what this service never gave out."""
    name, price_cents, id = base64.b64decode(text + "=" * (-len(text) % 4), "-_", validate=True).decode().split(":")
    if name != sort:
        raise ValueError("the cursor belongs to another sort order")
    return int(price_cents), int(id)


def listing(query):
    """SQL and its values; one row more than asked for tells whether another page follows."""
    where, values = ["NOT hidden"], []
    for name, condition in FILTERS.items():
        if query.get(name) not in (None, ""):
            where.append(condition)
            values.append(query[name])
    sort = query["sort"]
    if query.get("after"):
        if sort == "id":
            where.append("id > %s")
            values.append(query["after"][1])
        else:
            where.append(f"(price_cents, id) {'>' if sort == 'price_asc' else '<'} (%s, %s)")
            values.extend(query["after"])
    values.append(query["limit"] + 1)
    return (
        "SELECT p.id, p.sku, p.name, p.description, p.brand, c.slug AS category, p.price_cents, p.currency, "
        f"coalesce(i.on_hand > 0, false) AS in_stock FROM (SELECT * FROM products WHERE {' AND '.join(where)} "
        f"ORDER BY {', '.join(ORDER[sort])} LIMIT %s) p JOIN categories c ON c.id = p.category_id "
        f"LEFT JOIN inventory i ON i.product_id = p.id ORDER BY {', '.join('p.' + key for key in ORDER[sort])}",
        values,
    )


def key(query):
    return "peer:" + ":".join(str(query.get(name)) for name in ("sort", "limit", "after", *FILTERS))
