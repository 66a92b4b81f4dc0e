-- What PostgreSQL finds products by while the search engine is away: whole words, in no particular language, because
-- the engine does not know one either.
CREATE FUNCTION product_words(name text, brand text, description text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN setweight(to_tsvector('simple', name), 'A')
        || setweight(to_tsvector('simple', brand), 'A')
        || setweight(to_tsvector('simple', description), 'C');

-- An index on the expression: a column would rewrite the table while nobody may read it. Reads and orders go on.
CREATE INDEX products_by_words ON products USING gin (product_words(name, brand, description)) WHERE NOT hidden;

CREATE INDEX categories_by_parent ON categories (parent_id);
