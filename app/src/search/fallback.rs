//! The same search in PostgreSQL: whole words and beginnings of the last one, no tolerance for typing errors.

use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};

use super::{
    cursor::{Cursor, Engine, Key},
    request::{self, Answer, Count, FACET_SIZE, Facets, PRICE_BOUNDS, Request, Sort},
    suggest::{self, Suggested},
};
use crate::store::{StoreError, pools::Query, products::Product};

/// Every category with each one above it and itself.
const TREE: &str = "WITH RECURSIVE tree (id, slug) AS ( \
     SELECT id, slug FROM categories \
     UNION SELECT c.id, t.slug FROM categories c JOIN tree t ON c.parent_id = t.id) ";
const WORDS: &str = "product_words(p.name, p.brand, p.description)";

#[derive(Debug, FromRow)]
struct Found {
    #[sqlx(flatten)]
    product: Product,
    rank: f32,
}

#[derive(Debug, FromRow)]
struct Counted {
    facet: String,
    value: String,
    count: i64,
}

impl Query for Request {
    type Answer = Answer;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Answer, StoreError> {
        let found = page_query(self).build_query_as().fetch_all(&mut *connection).await?;
        let counted = count_query(self).build_query_as().fetch_all(connection).await?;
        Ok(answer(self, found, counted))
    }
}

fn answer(request: &Request, mut found: Vec<Found>, counted: Vec<Counted>) -> Answer {
    let next_cursor = request::cut(&mut found, request.limit, |last| Cursor {
        key: Key::new(request.sort, Engine::Postgres, last.rank, last.product.price_cents),
        id: last.product.id,
    });
    let mut answer = Answer {
        items: found.into_iter().map(|found| found.product).collect(),
        total: 0,
        facets: Facets::default(),
        degraded: true,
        next_cursor,
    };
    let mut prices = [0; PRICE_BOUNDS.len() + 1];
    for Counted { facet, value, count } in counted {
        let count = u64::try_from(count).unwrap_or_default();
        match facet.as_str() {
            "brand" => answer.facets.brands.push(Count { value, count }),
            "category" => answer.facets.categories.push(Count { value, count }),
            "price" => {
                if let Some(range) = value.parse::<usize>().ok().and_then(|position| prices.get_mut(position)) {
                    *range = count;
                }
            }
            _ => answer.total = count,
        }
    }
    answer.facets.prices = request::price_counts(|position| prices[position]);
    answer
}

/// A few of those that match, whichever: to rank all that begin with one letter takes longer than to type the next.
pub(super) struct Typed<'a>(pub(super) &'a str);

impl Query for Typed<'_> {
    type Answer = Vec<Suggested>;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Vec<Suggested>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT sku, name FROM (SELECT p.id, p.sku, p.name FROM products p WHERE ");
        push_always(&mut sql, &Request { q: Some(self.0.to_owned()), ..Request::default() });
        sql.push(" LIMIT 100) p ORDER BY id LIMIT ").push_bind(suggest::PRODUCTS);
        Ok(sql.build_query_as().fetch_all(connection).await?)
    }
}

/// As in the listing, the page is cut before the joins.
fn page_query(request: &Request) -> QueryBuilder<Postgres> {
    let order = match request.sort {
        Sort::Relevance => "rank DESC, id",
        Sort::PriceAsc => "price_cents, id",
        Sort::PriceDesc => "price_cents DESC, id DESC",
    };
    let mut sql = QueryBuilder::new(TREE);
    sql.push(
        "SELECT p.id, p.sku, p.name, p.description, p.brand, c.slug AS category, p.price_cents, p.currency, \
         coalesce(i.on_hand > 0, false) AS in_stock, p.rank FROM (SELECT * FROM (SELECT p.*, ",
    );
    match &request.q {
        Some(q) => {
            // Null where q has no word but is the SKU of a product.
            sql.push("coalesce(ts_rank(").push(WORDS).push(", ");
            push_words(&mut sql, q);
            sql.push("), 1)")
        }
        None => sql.push("0::real"),
    };
    sql.push(" AS rank FROM products p WHERE ");
    push_always(&mut sql, request);
    for facet in [Facet::Brand, Facet::Category, Facet::Price] {
        sql.push(" AND ");
        facet.push_filter(&mut sql, request);
    }
    sql.push(") p");
    if let Some(after) = request.after {
        let (left, compare) = match after.key {
            Key::Score(_, rank) => (sql.push(" WHERE (-rank, id) > (-").push_bind(rank), ", "),
            Key::PriceAsc(cents) => (sql.push(" WHERE (price_cents, id) > (").push_bind(cents), ", "),
            Key::PriceDesc(cents) => (sql.push(" WHERE (price_cents, id) < (").push_bind(cents), ", "),
        };
        left.push(compare).push_bind(after.id).push(")");
    }
    sql.push(format_args!(" ORDER BY {order} LIMIT ")).push_bind(i64::from(request.limit) + 1);
    sql.push(") p JOIN categories c ON c.id = p.category_id LEFT JOIN inventory i ON i.product_id = p.id ORDER BY ");
    sql.push(order.split(", ").map(|key| format!("p.{key}")).collect::<Vec<_>>().join(", "));
    sql
}

/// All counts in one statement, so that they are of one moment.
fn count_query(request: &Request) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(TREE);
    sql.push(", matched AS MATERIALIZED (SELECT p.brand, p.category_id, p.price_cents");
    for facet in [Facet::Brand, Facet::Category, Facet::Price] {
        sql.push(", ");
        facet.push_filter(&mut sql, request);
        sql.push(format_args!(" AS {}", facet.flag()));
    }
    sql.push(" FROM products p WHERE ");
    push_always(&mut sql, request);
    sql.push(format_args!(
        ") (SELECT 'brand' AS facet, brand AS value, count(*) AS count FROM matched \
             WHERE in_category AND in_price GROUP BY brand ORDER BY count DESC, value LIMIT {FACET_SIZE}) \
         UNION ALL (SELECT 'category', t.slug, count(*) FROM matched m JOIN tree t ON t.id = m.category_id \
             WHERE in_brand AND in_price GROUP BY t.slug ORDER BY 3 DESC, 2 LIMIT {FACET_SIZE}) \
         UNION ALL (SELECT 'price', width_bucket(price_cents, "
    ));
    sql.push_bind(PRICE_BOUNDS.to_vec());
    sql.push(
        ")::text, count(*) FROM matched WHERE in_brand AND in_category GROUP BY 2) \
         UNION ALL (SELECT 'total', '', count(*) FROM matched WHERE in_brand AND in_category AND in_price)",
    );
    sql
}

/// What counts for every facet.
fn push_always(sql: &mut QueryBuilder<Postgres>, request: &Request) {
    sql.push("NOT p.hidden");
    if let Some(q) = &request.q {
        sql.push(" AND (").push(WORDS).push(" @@ ");
        push_words(sql, q);
        sql.push(" OR p.sku = ").push_bind(q.clone()).push(" OR p.sku = upper(").push_bind(q.clone()).push("))");
    }
    if request.in_stock {
        sql.push(" AND EXISTS (SELECT FROM inventory i WHERE i.product_id = p.id AND i.on_hand > 0)");
    }
}

/// All words, the last one as a beginning. Only text that PostgreSQL made itself is read as a query; what has no word
/// in it finds nothing.
fn push_words(sql: &mut QueryBuilder<Postgres>, q: &str) {
    sql.push("CASE WHEN numnode(plainto_tsquery('simple', ").push_bind(q.to_owned());
    sql.push(")) > 0 THEN (plainto_tsquery('simple', ").push_bind(q.to_owned()).push(")::text || ':*')::tsquery END");
}

#[derive(Clone, Copy)]
enum Facet {
    Brand,
    Category,
    Price,
}

impl Facet {
    fn flag(self) -> &'static str {
        match self {
            Self::Brand => "in_brand",
            Self::Category => "in_category",
            Self::Price => "in_price",
        }
    }

    fn push_filter(self, sql: &mut QueryBuilder<Postgres>, request: &Request) {
        sql.push("(true");
        match self {
            Self::Brand if !request.brands.is_empty() => {
                sql.push(" AND p.brand = ANY(").push_bind(request.brands.clone()).push(")");
            }
            Self::Category if !request.categories.is_empty() => {
                sql.push(" AND p.category_id IN (SELECT id FROM tree WHERE slug = ANY(");
                sql.push_bind(request.categories.clone()).push("))");
            }
            Self::Price => {
                if let Some(cents) = request.min_price {
                    sql.push(" AND p.price_cents >= ").push_bind(cents);
                }
                if let Some(cents) = request.max_price {
                    sql.push(" AND p.price_cents <= ").push_bind(cents);
                }
            }
            Self::Brand | Self::Category => {}
        }
        sql.push(")");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_bound_and_hidden_products_are_left_out() {
        let request = Request {
            q: Some("x') OR true --".to_owned()),
            brands: vec!["y' OR true --".to_owned()],
            limit: 20,
            ..Request::default()
        };
        for sql in [page_query(&request).into_string(), count_query(&request).into_string()] {
            assert!(sql.contains("NOT p.hidden") && !sql.contains("OR true"), "{sql}");
        }
    }

    #[test]
    fn a_page_is_cut_before_the_joins_and_never_by_offset() {
        let after = Some(Cursor { key: Key::Score(Engine::Postgres, 0.5), id: 2 });
        let sql = page_query(&Request { q: Some("wool".to_owned()), after, ..Request::default() }).into_string();
        assert!(sql.contains("(-rank, id) > (-$") && sql.contains("ORDER BY rank DESC, id LIMIT $"), "{sql}");
        assert!(sql.ends_with("ORDER BY p.rank DESC, p.id"), "{sql}");
        assert!(!sql.to_uppercase().contains("OFFSET"), "{sql}");
    }
}
