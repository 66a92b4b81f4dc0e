//! The operations, in the order of the page.

use utoipa::openapi::{
    Content,
    HttpMethod::{self, Delete, Get, Patch, Post, Put},
    Schema,
    schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type},
};

use super::{
    Door::{self, Admin, Guests, Known, Open, Owned, Session, Staff},
    Operation,
};
use crate::{
    basket::OrderRequest,
    http::{
        accounts::{Account, Login, PasswordChange, Profile, Registration},
        admin::{
            analytics::{LowStockQuery, SalesQuery, TopQuery},
            dead_letters::{Choice, DeadLetter, Dropped, LimitQuery, Queue, Replayed},
            media::MediaQuery,
            orders::{NewStatus, OrderQuery, WithItems},
            products::{ProductQuery, Whole},
            records::AuditQuery,
            stock::{NewMovement, PageQuery},
            users::{UserPatch, UserQuery},
        },
        cart::{Cart, Contents, Quantity},
        health::{Alive, Readiness, Version},
        history::ListQuery as HistoryQuery,
        products::ListQuery,
        suggest::{SuggestQuery, Suggestions},
        tokens::{TokenMade, TokenRequest},
        webhooks::Taken,
    },
    search::request::Answer as SearchAnswer,
    store::{
        admin::{
            analytics::{LowStock, Sales, TopProduct},
            media::Medium,
            orders::Order as AdminOrder,
            outbox::Entry as OutboxEntry,
            products::{Fields, Product as AdminProduct},
            stock::{Applied, Moved},
            users::User as AdminUser,
        },
        audit::Entry as AuditEntry,
        cart::CartLine,
        history::Entry,
        orders::Order,
        products::{Brand, Category, Detail, Product},
        tokens::Token,
    },
};

const READ_AFTER: &str = "For the account's next read of its orders; guests have none";

pub(super) fn all() -> Vec<Operation> {
    [catalogue(), account(), buying(), products(), shop(), operation()].into_iter().flatten().collect()
}

fn on(tag: &'static str) -> impl Fn(HttpMethod, &'static str, Door, &str) -> Operation {
    move |method, path, door, summary| Operation::new(method, path, tag, door, summary)
}

fn catalogue() -> Vec<Operation> {
    let on = on("catalogue");
    vec![
        on(Get, "/api/v1/products", Open, "List products").query::<ListQuery>().lists::<Product>(true).cached(),
        on(Get, "/api/v1/products/{sku}", Open, "One product and its pictures").gives::<Detail>(200).cached(),
        on(Get, "/api/v1/categories", Open, "All categories").lists::<Category>(false).cached(),
        on(Get, "/api/v1/brands", Open, "All brands").lists::<Brand>(false).cached(),
        on(Get, "/api/v1/search", Open, "Find products, with facets")
            .parameter("q", "Words; typing errors are forgiven")
            .parameter("category", "May be given several times")
            .parameter("brand", "May be given several times")
            .parameter("min_price", "Cents")
            .parameter("max_price", "Cents")
            .parameter("in_stock", "true or false")
            .parameter("sort", "relevance, price_asc or price_desc")
            .parameter("limit", "1 to 100")
            .parameter("cursor", "Where the last page ended")
            .refuses(400, &["invalid_query", "invalid_cursor"])
            .gives::<SearchAnswer>(200),
        on(Get, "/api/v1/search/suggest", Open, "What somebody may mean who still types")
            .query::<SuggestQuery>()
            .gives::<Suggestions>(200),
    ]
}

fn account() -> Vec<Operation> {
    let on = on("account");
    vec![
        on(Post, "/api/v1/auth/register", Open, "Make an account and log in")
            .takes::<Registration>()
            .refuses(409, &["address_taken"])
            .refuses(422, &["invalid_registration"])
            .refuses(429, &["too_many_tries"])
            .gives::<Account>(201),
        on(Post, "/api/v1/auth/login", Open, "Log in; the answer has the csrf_token")
            .takes::<Login>()
            .refuses(401, &["wrong_credentials"])
            .refuses(429, &["too_many_tries"])
            .gives::<Account>(200),
        on(Post, "/api/v1/auth/logout", Session, "Log out").gives_schema(204, None),
        on(Post, "/api/v1/auth/password", Session, "Change the password; all other sessions and tokens end")
            .takes::<PasswordChange>()
            .refuses(403, &["wrong_credentials"])
            .refuses(422, &["invalid_password"])
            .refuses(429, &["too_many_tries"])
            .gives::<Account>(200),
        on(Get, "/api/v1/me", Known("read"), "One's own account").gives::<Account>(200),
        on(Patch, "/api/v1/me", Session, "Change one's name")
            .takes::<Profile>()
            .refuses(422, &["invalid_account"])
            .gives::<Account>(200),
        on(Get, "/api/v1/me/tokens", Session, "One's own API tokens").lists::<Token>(false),
        on(Post, "/api/v1/me/tokens", Session, "Make an API token; it is shown once")
            .takes::<TokenRequest>()
            .refuses(409, &["too_many_tokens"])
            .refuses(422, &["invalid_token_request"])
            .gives::<TokenMade>(201),
        on(Delete, "/api/v1/me/tokens/{id}", Session, "Withdraw an API token").gives_schema(204, None),
    ]
}

fn buying() -> Vec<Operation> {
    let on = on("buying");
    vec![
        on(Get, "/api/v1/cart", Known("read"), "The cart").gives::<Cart>(200),
        on(Put, "/api/v1/cart", Known("order"), "Replace the cart")
            .takes::<Contents>()
            .refuses(422, &["invalid_cart"])
            .gives::<Cart>(200),
        on(Delete, "/api/v1/cart", Known("order"), "Empty the cart").gives::<Cart>(200),
        on(Get, "/api/v1/cart/items/{sku}", Known("read"), "One line of the cart").gives::<CartLine>(200),
        on(Put, "/api/v1/cart/items/{sku}", Known("order"), "Set a line of the cart")
            .takes::<Quantity>()
            .refuses(409, &["cart_full"])
            .refuses(422, &["invalid_cart"])
            .gives::<Cart>(200),
        on(Delete, "/api/v1/cart/items/{sku}", Known("order"), "Remove a line of the cart").gives::<Cart>(200),
        on(Get, "/api/v1/orders", Known("read"), "One's own orders, newest first")
            .query::<HistoryQuery>()
            .may_have(
                "X-Read-After",
                "As the answer to an order or a cancel gave it: what it changed is in this answer",
            )
            .refuses(400, &["invalid_read_after"])
            .lists::<Entry>(true),
        on(Post, "/api/v1/orders", Guests("order"), "Order")
            .once()
            .takes::<OrderRequest>()
            .refuses(409, &["out_of_stock", "cart_empty"])
            .refuses(422, &["invalid_order", "unknown_sku", "mixed_currencies"])
            .gives::<Order>(201)
            .tells("X-Read-After", READ_AFTER),
        on(Get, "/api/v1/orders/{id}", Owned { own: "read", staff: "admin:read" }, "One order").gives::<Order>(200),
        on(
            Post,
            "/api/v1/orders/{id}/cancel",
            Owned { own: "order", staff: "admin:write" },
            "Cancel an order; its stock goes back",
        )
        .refuses(409, &["not_cancellable"])
        .gives::<Order>(200)
        .tells("X-Read-After", READ_AFTER),
    ]
}

fn products() -> Vec<Operation> {
    let on = on("admin: products");
    let one = "/api/v1/admin/products/{sku}";
    let picture = "/api/v1/admin/products/{sku}/media/{position}";
    let bytes =
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
    vec![
        on(Get, "/api/v1/admin/products", Staff, "All products, whatever their state")
            .query::<ProductQuery>()
            .lists::<AdminProduct>(true),
        on(Post, "/api/v1/admin/products", Admin, "Make a product; its stock is 0")
            .takes::<Whole>()
            .refuses(409, &["sku_taken"])
            .refuses(422, &["invalid_product"])
            .gives::<AdminProduct>(201),
        on(Get, one, Staff, "One product; its ETag is its version").gives::<AdminProduct>(200),
        on(Put, one, Admin, "Replace a product")
            .of_a_version()
            .takes::<Whole>()
            .refuses(422, &["invalid_product"])
            .gives::<AdminProduct>(200),
        on(Patch, one, Admin, "Change what is given")
            .of_a_version()
            .takes::<Fields>()
            .refuses(422, &["invalid_product"])
            .gives::<AdminProduct>(200),
        on(Delete, one, Admin, "Take a product off sale; orders keep it").of_a_version().gives::<AdminProduct>(200),
        on(Get, "/api/v1/admin/products/{sku}/media", Staff, "Its pictures").lists::<Medium>(false),
        on(Put, picture, Admin, "Put a picture in a place, 0 to 19: PNG, JPEG, GIF, WebP or AVIF up to 5 MiB")
            .query::<MediaQuery>()
            .takes_content("application/octet-stream", Content::new(Some(Schema::from(bytes))))
            .refuses(415, &["unsupported_media_type"])
            .gives::<Medium>(200),
        on(Delete, picture, Admin, "Take a picture away").gives_schema(204, None),
        on(Get, "/api/v1/admin/inventory/{sku}/movements", Staff, "Stock and its movements, newest first")
            .query::<PageQuery>()
            .lists_and::<Moved>(true, &[("sku", Type::String), ("on_hand", Type::Integer)]),
        on(Post, "/api/v1/admin/inventory/{sku}/movements", Staff, "Add to the stock or take from it")
            .once()
            .takes::<NewMovement>()
            .refuses(409, &["stock_out_of_range"])
            .refuses(422, &["invalid_movement"])
            .gives::<Applied>(201),
    ]
}

fn shop() -> Vec<Operation> {
    let on = on("admin: orders and users");
    vec![
        on(Get, "/api/v1/admin/orders", Staff, "All orders, newest first")
            .query::<OrderQuery>()
            .lists::<AdminOrder>(true),
        on(Get, "/api/v1/admin/orders/{id}", Staff, "One order").gives::<WithItems>(200),
        on(Post, "/api/v1/admin/orders/{id}/status", Staff, "Cancel: stock goes back. Refund: it does not")
            .takes::<NewStatus>()
            .refuses(409, &["status_not_allowed", "not_cancellable"])
            .gives::<WithItems>(200),
        on(Get, "/api/v1/admin/users", Staff, "All accounts, newest first")
            .query::<UserQuery>()
            .lists::<AdminUser>(true),
        on(Get, "/api/v1/admin/users/{id}", Staff, "One account").gives::<AdminUser>(200),
        on(Patch, "/api/v1/admin/users/{id}", Admin, "Change a role, shut somebody out or let them in")
            .takes::<UserPatch>()
            .refuses(409, &["own_account"])
            .refuses(422, &["invalid_user"])
            .gives::<AdminUser>(200),
    ]
}

fn operation() -> Vec<Operation> {
    let on = on("operation");
    vec![
        on(Get, "/api/v1/admin/analytics/sales", Staff, "Sales by day and category, from the replica")
            .query::<SalesQuery>()
            .lists::<Sales>(true),
        on(Get, "/api/v1/admin/analytics/top-products", Staff, "What sells most, from the replica")
            .query::<TopQuery>()
            .lists::<TopProduct>(false),
        on(Get, "/api/v1/admin/analytics/low-stock", Staff, "What is about to be sold out, from the replica")
            .query::<LowStockQuery>()
            .lists::<LowStock>(false),
        on(Get, "/api/v1/admin/outbox", Staff, "Events that are not published, oldest first")
            .query::<PageQuery>()
            .lists_and::<OutboxEntry>(true, &[("pending", Type::Integer), ("oldest_seconds", Type::Number)]),
        on(Get, "/api/v1/admin/audit", Staff, "Who changed what, newest first")
            .query::<AuditQuery>()
            .lists::<AuditEntry>(true),
        on(Get, "/api/v1/admin/dead-letters", Staff, "How many messages each worker gave up").lists::<Queue>(false),
        on(Get, "/api/v1/admin/dead-letters/{queue}", Staff, "The oldest of them and why")
            .query::<LimitQuery>()
            .lists::<DeadLetter>(false),
        on(Post, "/api/v1/admin/dead-letters/{queue}/replay", Admin, "Give them to their worker again")
            .takes::<Choice>()
            .refuses(422, &["invalid_choice"])
            .gives::<Replayed>(200),
        on(Post, "/api/v1/admin/dead-letters/{queue}/drop", Admin, "Remove them for good; the audit log names them")
            .takes::<Choice>()
            .refuses(422, &["invalid_choice"])
            .gives::<Dropped>(200),
        on(Post, "/api/v1/webhooks/{provider}", Open, "Take an event, signed by the rules of Standard Webhooks")
            .header("webhook-id", "The event's id: twice the same is one event")
            .header("webhook-timestamp", "Seconds since 1970, at most 300 off")
            .header("webhook-signature", "v1,BASE64 of the HMAC-SHA256 of id.timestamp.body")
            .takes_content("application/json", Content::new(Some(Schema::from(ObjectBuilder::new()))))
            .refuses(400, &["webhook_headers_missing", "invalid_json"])
            .refuses(401, &["webhook_signature_wrong", "webhook_time_wrong"])
            .gives::<Taken>(202),
        on(Get, "/livez", Open, "Whether the process answers").gives::<Alive>(200),
        on(Get, "/readyz", Open, "Whether it can take orders, and what is degraded").gives::<Readiness>(200),
        on(Get, "/version", Open, "Release and schema").gives::<Version>(200),
        on(Get, "/openapi.json", Open, "This document").gives_object(200),
        on(Get, "/docs", Open, "This document as a page").gives_schema(200, None),
    ]
}
