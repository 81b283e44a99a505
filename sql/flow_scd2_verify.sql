--
-- Checking the versions of a dimension.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE TABLE dim (
    dim_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id int, city text, score numeric,
    valid_from timestamptz, valid_to timestamptz, is_current boolean);
-- A sound dimension: no row.  An empty one, too.  A gap is one only when asked for.
SELECT * FROM etl_scd2_verify('dim', '{id}');
INSERT INTO dim (id, city, score, valid_from, valid_to, is_current) VALUES
    (1, 'Rome', 1, '2024-01-01', '2024-02-01', false),
    (1, 'Oslo', 1, '2024-02-01', '2024-03-01', false),
    (1, 'Rome', 1, '2024-03-01', NULL, true),
    (2, 'Oslo', NULL, '2024-01-01', '2024-02-01', false),
    (2, 'Oslo', 0, '2024-02-01', '2024-03-01', false),
    (2, NULL, 0, '2024-03-01', '2024-04-01', false),
    (2, 'Oslo', 0, '2024-06-01', 'infinity', true),
    (3, 'Bern', 3, '2024-01-01', '2024-02-01', false);
SELECT * FROM etl_scd2_verify('dim', '{id}');
SELECT * FROM etl_scd2_verify('dim', '{id}', gaps => true);
-- Each problem.
CREATE TABLE bad (LIKE dim INCLUDING ALL);
INSERT INTO bad (id, city, score, valid_from, valid_to, is_current) VALUES
    -- a long version that contains several, and is not the neighbour of the last
    (10, 'a', 1, '2024-01-01', '2024-12-01', false),
    (10, 'b', 1, '2024-02-01', '2024-03-01', false),
    (10, 'c', 1, '2024-06-01', '2024-07-01', false),
    (10, 'd', 1, '2024-12-01', NULL, true),
    -- three open ones
    (20, 'a', 1, '2024-01-01', NULL, true),
    (20, 'b', 1, '2024-02-01', 'infinity', true),
    (20, 'c', 1, '2024-03-01', NULL, true),
    -- start after and at the end; neither is a neighbour, but the last has the start of the second
    (30, 'a', 1, '2024-02-01', '2024-01-01', false),
    (30, 'a', 1, '2024-02-02', '2024-02-02', false),
    (30, 'a', 1, '2024-02-02', 'infinity', true),
    -- equal neighbours: values, nulls
    (40, 'a', 1.0, '2024-01-01', '2024-02-01', false),
    (40, 'a', 1.00, '2024-02-01', '2024-03-01', false),
    (40, NULL, 1, '2024-03-01', '2024-04-01', false),
    (40, NULL, 1, '2024-04-01', NULL, true),
    -- is_current: wrong both ways, and null
    (50, 'a', 1, '2024-01-01', '2024-02-01', true),
    (50, 'b', 1, '2024-02-01', '2024-03-01', NULL),
    (50, 'c', 1, '2024-03-01', NULL, false),
    -- the same key and start
    (60, 'a', 1, '2024-01-01', '2024-02-01', false),
    (60, 'b', 1, '2024-01-01', '2024-02-01', false),
    -- no start
    (70, 'a', 1, NULL, '2024-02-01', false),
    (70, 'b', 1, '2024-02-01', NULL, true),
    (70, 'c', 1, NULL, NULL, true),
    -- no key: versions of nothing, which are not held against each other
    (NULL, 'a', 1, '2024-01-01', NULL, true),
    (NULL, 'a', 1, '2024-01-01', '2024-02-01', true),
    -- gaps: before the second, and none after the long one
    (80, 'a', 1, '2024-01-01', '2024-02-01', false),
    (80, 'b', 1, '2024-03-01', '2024-12-01', false),
    (80, 'c', 1, '2024-04-01', '2024-05-01', false),
    (80, 'd', 1, '2024-12-01', '2024-12-02', false),
    -- "-infinity" is an end like any other
    (90, 'a', 1, '2024-01-01', '-infinity', false);
SELECT * FROM etl_scd2_verify('bad', '{id}', gaps => true);
SELECT problem, count(*) FROM etl_scd2_verify('bad', '{id}') GROUP BY problem ORDER BY problem;
-- A surrogate key is not compared, however its constraint is checked.
CREATE TABLE deferred (n int PRIMARY KEY DEFERRABLE, id int, city text, valid_from date, valid_to date);
INSERT INTO deferred VALUES (1, 1, 'a', '2024-01-01', '2024-02-01'), (2, 1, 'a', '2024-02-01', NULL);
SELECT * FROM etl_scd2_verify('deferred', '{id}', is_current => NULL);
-- What is compared: named columns, none, all others without the surrogate key.
SELECT * FROM etl_scd2_verify('dim', '{id}', tracked => '{score}');
SELECT * FROM etl_scd2_verify('dim', '{id}', tracked => '{}');
SELECT * FROM etl_scd2_verify('dim', '{id}', is_current => NULL, tracked => '{score,is_current}');
CREATE TABLE odd (
    id int, n int PRIMARY KEY, doc json, place point, doubled int GENERATED ALWAYS AS (n * 2) STORED,
    docs json[], pair dim, valid_from int, valid_to int);
INSERT INTO odd VALUES
    (1, 1, '{"a": 1}', '(1,2)', DEFAULT, NULL, NULL, 1, 2),
    (1, 2, '{"a": 1}', '(1,2)', DEFAULT, NULL, NULL, 2, 3),
    (1, 3, '{"a":1}', '(1,2)', DEFAULT, NULL, NULL, 3, 4),
    (1, 4, '{"a":1}', NULL, DEFAULT, NULL, NULL, 4, 5),
    (1, 5, '{"a":1}', NULL, DEFAULT, '{1}', NULL, 5, 6),
    (1, 6, '{"a":1}', NULL, DEFAULT, '{1}', ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL), 6, 7),
    (1, 7, '{"a":1}', NULL, DEFAULT, '{1}', ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL), 7, NULL);
SELECT * FROM etl_scd2_verify('odd', '{id}', is_current => NULL);
SELECT * FROM etl_scd2_verify('odd', '{id}', is_current => NULL, tracked => '{doc}');
-- Composite keys, dates with inclusive ends, an open end by default.
CREATE DOMAIN day AS date CHECK (VALUE > '1900-01-01');
CREATE TABLE days (
    region text, id int, city text, since day, until day DEFAULT '9999-12-31', PRIMARY KEY (region, id, since));
INSERT INTO days VALUES
    ('n', 1, 'Rome', '2024-01-01', '2024-01-31'),
    ('n', 1, 'Oslo', '2024-02-01', '2024-02-01'),
    ('n', 1, 'Rome', '2024-02-02', DEFAULT),
    ('n', 2, 'Rome', '2024-01-01', 'infinity'),
    ('s', 1, 'Rome', '2024-01-01', '2024-01-31');
SELECT * FROM etl_scd2_verify('days', '{region,id}', 'since', 'until', NULL, bounds => '[]', gaps => true);
INSERT INTO days VALUES
    ('s', 1, 'Bern', '2024-01-31', '2024-02-10'),
    ('s', 1, 'Bern', '2024-02-11', '2024-02-20'),
    ('s', 1, 'Bern', '2024-02-22', '2024-02-21'),
    ('s', 1, 'Bonn', '2024-03-01', '5874897-12-31'),
    ('s', 2, 'Bonn', '2024-03-01', DEFAULT),
    ('s', 2, 'Kiel', '2024-03-02', DEFAULT),
    ('s', 3, 'Kiel', '2024-03-02', '2024-03-03'),
    ('s', 3, 'Kiel', 'infinity', 'infinity');
SELECT * FROM etl_scd2_verify('days', '{region,id}', 'since', 'until', NULL, bounds => '[]', gaps => true);
-- Another open end than the default: versions to 9999-12-31 are closed then.
SELECT * FROM etl_scd2_verify('days', '{region,id}', 'since', 'until', NULL, bounds => '[]', open_end => '5874897-12-31');
-- A default that is not constant is no open end.
ALTER TABLE days ALTER until SET DEFAULT current_date;
SELECT * FROM etl_scd2_verify('days', '{region,id}', 'since', 'until', NULL, tracked => '{}') WHERE problem = 'two_open';
-- Names that need quotes.
CREATE SCHEMA "Odd ""schema""";
CREATE TABLE "Odd ""schema"""."Größe's; ""x""" ("Id ""1""" int, "select" int, "Ünï'x" text, "From" date, "To" date, "Is Current" bool);
INSERT INTO "Odd ""schema"""."Größe's; ""x""" VALUES (1, 1, 'a', '2024-01-01', '2024-02-01', false), (1, 1, 'a', '2024-02-01', NULL, false);
SELECT * FROM etl_scd2_verify('"Odd ""schema"""."Größe''s; ""x"""', ARRAY['Id "1"', 'select'], 'From', 'To', 'Is Current', ARRAY['Ünï''x']);
-- Partitions, a view, a temporary table.
CREATE TABLE parts (LIKE dim) PARTITION BY LIST (is_current);
CREATE TABLE parts_now PARTITION OF parts FOR VALUES IN (true);
CREATE TABLE parts_then PARTITION OF parts FOR VALUES IN (false);
INSERT INTO parts VALUES (1, 1, 'a', 1, '2024-01-01', '2024-03-01', false), (2, 1, 'b', 1, '2024-02-01', NULL, true);
SELECT * FROM etl_scd2_verify('parts', '{id}');
CREATE VIEW seen AS SELECT * FROM parts;
SELECT * FROM etl_scd2_verify('seen', '{id}');
CREATE TEMP TABLE passing AS SELECT * FROM parts;
SELECT * FROM etl_scd2_verify('passing', '{id}');
-- Operators and functions of the caller's schemas are not used.
CREATE FUNCTION wrong(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
CREATE OPERATOR etl_test.< (LEFTARG = int, RIGHTARG = int, FUNCTION = wrong);
CREATE OPERATOR etl_test.= (LEFTARG = int, RIGHTARG = int, FUNCTION = wrong);
CREATE FUNCTION lag(int) RETURNS int LANGUAGE sql AS 'SELECT 1/0';
SET search_path = etl_test, public, pg_catalog;
SELECT detail FROM etl_scd2_verify('odd', '{id}', is_current => NULL);
SET search_path = etl_test, public;
DROP OPERATOR etl_test.< (int, int);
DROP OPERATOR etl_test.= (int, int);
-- More rows than fit into work_mem, and an error for each.
SET work_mem = '64kB';
CREATE TABLE many AS SELECT k AS id, v % 2 AS a, date '2024-01-01' + v AS valid_from, date '2024-01-03' + v AS valid_to
    FROM generate_series(1, 1000) k, generate_series(1, 10) v;
SELECT problem, count(*), count(DISTINCT key) FROM etl_scd2_verify('many', '{id}', is_current => NULL) GROUP BY problem;
RESET work_mem;
-- As a join finds them: the versions that share a day with one that begins before, or with them.
CREATE TABLE mixed AS SELECT k AS id, v AS n, date '2024-01-01' + (k * 7 + v * 31) % 53 AS valid_from,
    nullif(date '2024-01-02' + (k * 7 + v * 31) % 53 + (k * 5 + v * 11) % (k % 9 + 1), date '2024-01-20') AS valid_to
    FROM generate_series(1, 300) k, generate_series(1, k % 7) v;
CREATE FUNCTION by_join(bounds text) RETURNS TABLE (id text, found bigint) LANGUAGE sql AS $$
    SELECT a.id::text, count(*) FROM mixed a WHERE EXISTS (SELECT FROM mixed b
        WHERE b.id = a.id AND b.n <> a.n AND daterange(a.valid_from, a.valid_to, bounds) && daterange(b.valid_from, b.valid_to, bounds)
          AND (b.valid_from, coalesce(b.valid_to, 'infinity'), b.n) < (a.valid_from, coalesce(a.valid_to, 'infinity'), a.n))
    GROUP BY a.id
$$;
CREATE FUNCTION by_verify(bounds text) RETURNS TABLE (id text, found bigint) LANGUAGE sql AS $$
    SELECT key->>'id', count(*) FROM etl_scd2_verify('mixed', '{id}', is_current => NULL, bounds => bounds)
    WHERE problem = 'overlap' GROUP BY key
$$;
SELECT bounds, (SELECT sum(found) FROM by_join(bounds)) AS by_join, (SELECT sum(found) FROM by_verify(bounds)) AS by_verify
    FROM unnest('{[),[]}'::text[]) AS bounds;
SELECT bounds, x.* FROM unnest('{[),[]}'::text[]) AS bounds, LATERAL (
    (SELECT * FROM by_join(bounds) EXCEPT SELECT * FROM by_verify(bounds))
    UNION ALL (SELECT * FROM by_verify(bounds) EXCEPT SELECT * FROM by_join(bounds))) AS x;
-- The caller's rights.
CREATE ROLE etl_test_reader;
SET ROLE etl_test_reader;
SELECT try($$SELECT * FROM etl_scd2_verify('bad', '{id}')$$);
RESET ROLE;
GRANT SELECT (id, city, valid_from, valid_to) ON bad TO etl_test_reader;
SET ROLE etl_test_reader;
SELECT try($$SELECT * FROM etl_scd2_verify('bad', '{id}')$$);
SELECT count(*) FROM etl_scd2_verify('bad', '{id}', is_current => NULL, tracked => '{city}');
RESET ROLE;
GRANT SELECT ON bad TO etl_test_reader;
ALTER TABLE bad ENABLE ROW LEVEL SECURITY;
CREATE POLICY sixty ON bad FOR SELECT TO etl_test_reader USING (id = 60);
SET ROLE etl_test_reader;
SELECT * FROM etl_scd2_verify('bad', '{id}');
RESET ROLE;
DROP OWNED BY etl_test_reader;
DROP ROLE etl_test_reader;
-- What is refused.
SELECT try($$SELECT * FROM etl_scd2_verify(NULL, '{id}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', NULL)$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{NULL}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{nope}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{ctid}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id,id}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', tracked => '{id}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', tracked => '{nope}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', 'nope')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', NULL)$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', valid_to => 'nope')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', valid_to => 'score')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('odd', '{id}', 'doc', 'place')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('odd', '{doc}', is_current => NULL)$$);
SELECT try($$SELECT * FROM etl_scd2_verify('odd', '{id}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', is_current => 'city')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', bounds => '()')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', bounds => NULL)$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', bounds => '[]')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim', '{id}', open_end => 'someday')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('bad_pkey', '{id}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify('dim_pkey', '{id}')$$);
SELECT try($$SELECT * FROM etl_scd2_verify(0, '{id}')$$);
ALTER TABLE odd RENAME doc TO valid_a;
ALTER TABLE odd RENAME docs TO valid_b;
ALTER TABLE odd ADD valid_c json;
SELECT try($$SELECT * FROM etl_scd2_verify('odd', '{id}', 'valid_a', 'valid_c', NULL)$$);
DROP TABLE "Odd ""schema"""."Größe's; ""x""";
DROP SCHEMA "Odd ""schema""";
\i :end
