--
-- Creating the table of a dimension.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
SET timezone = 'UTC';
SET datestyle = 'ISO';
-- The columns of a table, its constraints and its options.
CREATE FUNCTION shape(of_table regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT concat_ws(' ', quote_ident(attname), format_type(atttypid, atttypmod),
        'COLLATE ' || quote_ident((SELECT collname FROM pg_collation c
            WHERE c.oid = attcollation AND collname <> 'default')),
        CASE WHEN attnotnull THEN 'NOT NULL' END,
        CASE attidentity WHEN 'a' THEN 'ALWAYS' END,
        'DEFAULT ' || pg_get_expr(adbin, adrelid),
        '-- ' || col_description(attrelid, attnum))
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = of_table AND attnum > 0 ORDER BY attnum;
    RETURN QUERY SELECT pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = of_table AND contype <> 'n' ORDER BY contype;
    RETURN QUERY SELECT 'index on ' || regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '')
        FROM pg_index WHERE indrelid = of_table ORDER BY indexrelid;
    RETURN QUERY SELECT 'with ' || array_to_string(reloptions, ', ') FROM pg_class WHERE oid = of_table;
END $$;
CREATE TABLE customer (
    id int, region varchar(10) COLLATE "C", name text NOT NULL, segment char(3), score numeric(6,2) DEFAULT 1,
    doc json, tags text[], updated_at timestamptz);
ALTER TABLE customer ADD gone int, ADD twice int GENERATED ALWAYS AS (id * 2) STORED;
ALTER TABLE customer DROP gone;
-- All columns of the source.
SELECT etl_scd2_create('customer_dim', 'customer', '{region,id}');
SELECT shape('customer_dim');
-- Those of the lists, with their roles, and former values.
SELECT etl_scd2_create('roles', 'customer', '{id}', '{score,segment}', '{name}', '{region}',
    '{"segment": "previous_segment", "score": "former score"}', time_type => 'timestamp', open_end => 'infinity');
SELECT shape('roles');
-- Dates with inclusive ends, other names, no flag.
SELECT etl_scd2_create('days', 'customer', '{id}', '{name}', valid_from => 'since', valid_to => 'until',
    is_current => NULL, time_type => 'date', open_end => '9999-12-31', bounds => '[]', surrogate_key => 'days_key');
SELECT shape('days');
SELECT etl_scd2_create('halfdays', 'customer', '{id}', '{name}', time_type => 'date');
-- The constraints at work.
INSERT INTO days (id, name, since, until) VALUES (1, 'a', '2024-01-01', '2024-01-01'), (1, 'b', '2024-01-02', DEFAULT) RETURNING *;
SELECT try($$INSERT INTO days (id, name, since, until) VALUES (1, 'a', '2024-01-05', '2024-01-04')$$);
SELECT try($$INSERT INTO days (id, name, since, until) VALUES (1, 'a', '2024-01-02', '2024-01-04')$$);
SELECT try($$INSERT INTO days (id, name, since, until) VALUES (NULL, 'a', '2024-01-02', '2024-01-04')$$);
SELECT try($$INSERT INTO halfdays (id, name, valid_from, valid_to, is_current) VALUES (1, 'a', '2024-01-02', '2024-01-02', false)$$);
INSERT INTO halfdays (id, name, valid_from, is_current) VALUES (1, 'a', '2024-01-02', true) RETURNING *;
-- What is created is what the check looks at.
SELECT * FROM etl_scd2_verify('days', '{id}', 'since', 'until', NULL, bounds => '[]');
SELECT * FROM etl_scd2_verify('halfdays', '{id}');
-- Closing versions is HOT: no index holds what it writes, and pages have room.
SELECT etl_scd2_create('hot', 'customer', '{id}', '{name}');
INSERT INTO hot (id, name, valid_from, is_current) SELECT i, 'x', '2024-01-01', true FROM generate_series(1, 1000) i;
BEGIN;
UPDATE hot SET valid_to = '2024-02-01', is_current = false WHERE id % 20 = 1;
SELECT pg_stat_get_xact_tuples_updated('hot'::regclass) AS updated, pg_stat_get_xact_tuples_hot_updated('hot'::regclass) AS hot;
COMMIT;
-- A view and a temporary table as source.
CREATE VIEW customer_view AS SELECT id, name || '!' AS name, segment COLLATE "POSIX" AS segment FROM customer;
SELECT etl_scd2_create('of_view', 'customer_view', '{id}');
SELECT shape('of_view');
CREATE TEMP TABLE passing (id int, v text);
SELECT etl_scd2_create('pg_temp.of_temp', 'passing', '{id}');
SELECT relpersistence FROM pg_class WHERE oid = 'of_temp'::regclass;
-- Names: schemas, quotes, unicode; types and collations of other schemas.
CREATE SCHEMA "Odd ""schema""";
CREATE TYPE "Odd ""schema"""."Mood's" AS ENUM ('a', 'b');
CREATE COLLATION "Odd ""schema"""."My coll" FROM "C";
CREATE TABLE "Odd ""schema"""."Größe's; ""x""" ("Id ""1""" int, "select" "Odd ""schema"""."Mood's", "Ünï'x" text COLLATE "Odd ""schema"""."My coll");
SELECT etl_scd2_create('"Odd ""schema"""."Dim ""Größe"""', '"Odd ""schema"""."Größe''s; ""x"""', ARRAY['Id "1"', 'select'],
    previous => '{"Ünï''x": "former ''Ünï"}', valid_from => 'From', valid_to => 'To', is_current => 'Is "Current"');
SELECT shape('"Odd ""schema"""."Dim ""Größe"""');
SELECT etl_scd2_create('pg_class', 'customer', '{id}', '{name}');
SELECT etl_scd2_create(repeat('x', 63), 'customer', '{id}', '{name}');
SELECT attname FROM pg_attribute WHERE attrelid = repeat('x', 63)::regclass AND attnum = 1;
SELECT try($$SELECT etl_scd2_create('a; DROP TABLE customer', 'customer', '{id}')$$);
SELECT etl_scd2_create('"a; DROP TABLE customer"', 'customer', '{id}');
-- The caller's rights.
CREATE ROLE etl_test_maker;
SET ROLE etl_test_maker;
SELECT try($$SELECT etl_scd2_create('etl_test.mine', 'etl_test.customer', '{id}')$$);
RESET ROLE;
GRANT SELECT (id, name) ON customer TO etl_test_maker;
SET ROLE etl_test_maker;
SELECT try($$SELECT etl_scd2_create('etl_test.mine', 'etl_test.customer', '{id}')$$);
RESET ROLE;
GRANT CREATE ON SCHEMA etl_test TO etl_test_maker;
SET ROLE etl_test_maker;
SELECT etl_scd2_create('etl_test.mine', 'etl_test.customer', '{id}');
RESET ROLE;
SELECT relowner::regrole FROM pg_class WHERE oid = 'mine'::regclass;
DROP OWNED BY etl_test_maker;
DROP ROLE etl_test_maker;
-- Names that are taken.
SELECT try($$SELECT etl_scd2_create('customer', 'customer', '{id}')$$);
ALTER TABLE customer ADD client_id int, ADD valid_from date, ADD is_current text;
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', '{name}')$$);
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', '{name}', surrogate_key => 'score')$$);
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', '{name}', surrogate_key => 'valid_to')$$);
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', surrogate_key => 'key')$$);
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', surrogate_key => 'key', valid_from => 'since')$$);
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', '{name}', surrogate_key => 'key', valid_to => 'valid_from')$$);
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', '{name}', previous => '{"name": "id"}', surrogate_key => 'key')$$);
SELECT try($$SELECT etl_scd2_create('client', 'customer', '{id}', '{name}', surrogate_key => 'key')$$);
-- What is refused.
SELECT try($$SELECT etl_scd2_create(NULL, 'customer', '{id}')$$);
SELECT try($$SELECT etl_scd2_create('new', NULL, '{id}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', NULL)$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{nope}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id,id}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', '{name}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', fixed => '{nope}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{doc}', '{name}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', previous => '{"score": "former"}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', previous => '{"nope": "former"}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', previous => '["name"]')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', previous => '1')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', previous => '{"name": ["a"]}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', previous => '{"name": null}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', previous => '{"name": ""}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', bounds => '(]')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', bounds => '[]')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', time_type => 'json')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', time_type => 0)$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}', open_end => 'someday')$$);
SELECT try($$SELECT etl_scd2_create('nope.new', 'customer', '{id}', '{name}')$$);
SELECT try($$SELECT etl_scd2_create('other.public.new', 'customer', '{id}', '{name}')$$);
SELECT try($$SELECT etl_scd2_create('new', 'customer_dim_pkey', '{id}')$$);
BEGIN TRANSACTION READ ONLY;
SELECT try($$SELECT etl_scd2_create('new', 'customer', '{id}', '{name}')$$);
COMMIT;
SELECT to_regclass('new');
SET client_min_messages = warning;
DROP SCHEMA "Odd ""schema""" CASCADE;
\i :end
