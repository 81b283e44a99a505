--
-- Incremental pulls from and into all kinds of relations, and columns of
-- other types.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
CREATE TABLE src (id int, v text, d date, n bigint);
INSERT INTO src SELECT i, 'v' || i, date '2020-01-01' + i, i FROM generate_series(1, 6) i;
CREATE FUNCTION way(pipeline text) RETURNS text LANGUAGE sql AS
$$ SELECT detail->>'way' FROM etl_patterns.run WHERE name = pipeline ORDER BY run_id DESC LIMIT 1 $$;

-- Partitions, sub-partitions, and a row without one.
CREATE TABLE parted (LIKE src) PARTITION BY RANGE (id);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES FROM (1) TO (3);
CREATE TABLE parted_b (n bigint, v text, gone int, id int, d date);
ALTER TABLE parted_b DROP COLUMN gone;
ALTER TABLE parted ATTACH PARTITION parted_b FOR VALUES FROM (3) TO (6);
SELECT pull('parted', 'src', 'parted', $$'n'$$), way('parted');
CREATE TABLE parted_c PARTITION OF parted DEFAULT;
SELECT pull('parted', 'src', 'parted', $$'n'$$), way('parted');
SELECT missing('src', 'parted');
-- And from them.
CREATE TABLE out_of (LIKE src);
SELECT pull('from parted', 'parted', 'out_of', $$'n', batch_rows => 4$$);
SELECT pull('from parted', 'parted', 'out_of', $$'n', batch_rows => 4$$);
SELECT missing('src', 'out_of');

-- Children of a table are part of it.
CREATE TABLE parent (LIKE src);
CREATE TABLE child () INHERITS (parent);
INSERT INTO child TABLE src;
TRUNCATE out_of;
SELECT pull('from parent', 'parent', 'out_of', $$'n'$$);
SELECT missing('src', 'out_of');

-- Views: one that is a table, one with a trigger, one that cannot be written.
CREATE TABLE base (id int, v text);
CREATE VIEW plain AS SELECT id, v FROM base WHERE id < 6 WITH CHECK OPTION;
SELECT pull('view', 'src', 'plain', $$'n', end_value => '6'$$), way('view');
SELECT pull('view', 'src', 'plain', $$'n'$$);
TABLE base ORDER BY id;
CREATE VIEW joined AS SELECT b.id, b.v || '!' AS v FROM base b GROUP BY 1, 2;
SELECT pull('joined', 'src', 'joined', $$'n'$$);
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO etl_test.base VALUES (new.id + 100, new.v); RETURN new; END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON joined FOR EACH ROW EXECUTE FUNCTION instead();
SELECT pull('joined', 'src', 'joined', $$'n'$$), way('joined');
SELECT count(*) FROM base WHERE id > 100;
CREATE VIEW rule_view AS SELECT id, v FROM base;
CREATE RULE instead AS ON INSERT TO rule_view DO INSTEAD INSERT INTO base VALUES (new.id + 200, new.v);
SELECT pull('rule', 'src', 'rule_view', $$'n'$$), way('rule');
SELECT count(*) FROM base WHERE id > 200;
-- A view as the source; its rows come in the cursor's order all the same.
CREATE VIEW doubled AS SELECT id, v, n * 2 AS n2 FROM src UNION ALL SELECT -id, v, n FROM src ORDER BY 1 DESC;
CREATE TABLE doubled_now (id int, v text);
SELECT pull('doubled', 'doubled', 'doubled_now', $$'n2', safety => 'none', batch_rows => 5$$);
SELECT pull('doubled', 'doubled', 'doubled_now', $$'n2', safety => 'none', batch_rows => 100$$);
SELECT count(*), count(DISTINCT id) FROM doubled_now;
-- Whose tables a view reads is known; whose clock, too.
CREATE VIEW timed AS SELECT id, d, n FROM src;
CREATE TABLE timed_now (id int);
SELECT pull('timed d', 'timed', 'timed_now', $$'d'$$), last_run('timed d');
SELECT pull('timed n', 'timed', 'timed_now', $$'n'$$), last_run('timed n');
CREATE MATERIALIZED VIEW mat AS TABLE src;
TRUNCATE timed_now;
SELECT pull('mat', 'mat', 'timed_now', $$'n', safety => 'none'$$);
-- Rows that appear later than they were written, who knows when.
SELECT pull('mat d', 'mat', 'timed_now', $$'d'$$);
SELECT pull('mat d', 'mat', 'timed_now', $$'d', safety => 'lag', lag => '1 day'$$);
CREATE FUNCTION rows_of() RETURNS SETOF src LANGUAGE sql AS 'TABLE etl_test.src';
CREATE VIEW called AS SELECT * FROM rows_of();
SELECT pull('called d', 'called', 'timed_now', $$'d'$$);
SELECT pull('called n', 'called', 'timed_now', $$'n'$$);
CREATE VIEW numbered AS SELECT id, n + i AS n FROM src, generate_series(0, 0) i;
SELECT pull('numbered', 'numbered', 'timed_now', $$'n'$$), last_run('numbered');

-- Triggers, defaults, generated and identity columns.
CREATE TABLE rich (sk bigint GENERATED ALWAYS AS IDENTITY, id int, v text, twice int GENERATED ALWAYS AS (id * 2) STORED,
    at timestamptz DEFAULT '2020-01-01', seen text);
CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.seen := lower(tg_when); RETURN new; END $$;
CREATE TRIGGER mark BEFORE INSERT ON rich FOR EACH ROW EXECUTE FUNCTION mark();
CREATE TABLE log (told text);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO etl_test.log SELECT format('%s rows', count(*)) FROM new_rows; RETURN NULL; END $$;
CREATE TRIGGER tell AFTER INSERT ON rich REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tell();
SELECT pull('rich', 'src', 'rich', $$'n'$$), way('rich');
SELECT sk, id, v, twice, at, seen FROM rich ORDER BY id LIMIT 2;
SELECT sum(substring(told, '\d+')::int) FROM log;
-- A source column that the target makes itself, and one that is generated there.
CREATE TABLE with_sk (sk bigint, id int, twice int, n int);
INSERT INTO with_sk VALUES (77, 7, 0, 7);
SELECT pull('sk', 'with_sk', 'rich', $$'n'$$);
SELECT sk, id, twice FROM rich WHERE id = 7;
INSERT INTO with_sk VALUES (78, 8, 0, 8);
SELECT pull('sk', 'with_sk', 'rich', $$'n', apply_options => '{"columns": ["id"]}'$$);
SELECT sk, id, twice FROM rich WHERE id = 8;
CREATE TABLE by_default (sk bigint GENERATED BY DEFAULT AS IDENTITY, id int);
SELECT pull('sk default', 'with_sk', 'by_default', $$'n'$$);
TABLE by_default;
CREATE TABLE gen_src (id int, g int GENERATED ALWAYS AS (id + 1) STORED);
INSERT INTO gen_src VALUES (1);
CREATE TABLE gen_now (id int, g int);
SELECT pull('gen', 'gen_src', 'gen_now', $$'g', safety => 'none'$$);
TABLE gen_now;

-- Row security of the target.
CREATE ROLE etl_puller;
GRANT USAGE ON SCHEMA etl_test TO etl_puller;
GRANT SELECT ON src TO etl_puller;
CREATE TABLE guarded (id int, v text);
GRANT SELECT, INSERT ON guarded TO etl_puller;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY small ON guarded TO etl_puller USING (true) WITH CHECK (id < 5);
SET ROLE etl_puller;
SELECT pull('rls', 'src', 'guarded', $$'n', end_value => '5'$$), way('rls');
SELECT pull('rls', 'src', 'guarded', $$'n'$$);
RESET ROLE;
SELECT count(*) FROM guarded;
DROP OWNED BY etl_puller;
DROP ROLE etl_puller;

-- A foreign table as the target: here the table of a file, which takes no rows.
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE ft (id int, v text, at timestamptz, flag boolean) SERVER files OPTIONS (filename '/dev/null', format 'csv');
SELECT pull('ft', 'src', 'ft', $$'n'$$);
-- As the source: lag for times, and what can be typed for the rest.
SELECT pull('from ft', 'ft', 'base', $$'at'$$), last_run('from ft');
SELECT pull('from ft id', 'ft', 'base', $$'id'$$);
SELECT pull('from ft id', 'ft', 'base', $$'id', safety => 'lock_wait'$$);
SELECT pull('from ft h', 'ft', 'base', $$'at', safety => 'horizon'$$);
SELECT pull('from ft id', 'ft', 'base', $$'id', safety => 'none'$$);
SELECT pull('from ft flag', 'ft', 'base', $$flag_column => 'flag'$$);
-- Another kind of server is not asked for what is infinite.
CREATE FOREIGN TABLE endless (id int, at timestamptz) SERVER files OPTIONS (program 'echo 1,2020-01-01; echo 2,infinity', format 'csv');
SELECT pull('endless', 'endless', 'base', $$'at', safety => 'none'$$);
SELECT pull('endless', 'endless', 'base', $$'at', safety => 'none', end_value => '2100-01-01'$$);
DROP EXTENSION file_fdw CASCADE;

-- Types that differ: what an INSERT would assign.
CREATE TABLE cast_src (n int, a int, b bigint, c text, d date, e numeric, f float8, g varchar, h timestamp, k int[]);
CREATE TABLE cast_now (a bigint, b numeric(10,2), c varchar(4), d timestamp, e int, f real, g char(5), h date, k bigint[], z int DEFAULT 9);
INSERT INTO cast_src VALUES (1, 1, 2, 'text', '2020-01-01', 2.5, 1.1, 'abc', '2020-01-01 10:00', '{1,2}');
SELECT pull('cast', 'cast_src', 'cast_now', $$'n'$$), way('cast');
TABLE cast_now;
-- Spaces at the end are cut, as INSERT does.
INSERT INTO cast_src (n, c) VALUES (2, 'four    ');
SELECT pull('cast', 'cast_src', 'cast_now', $$'n'$$);
INSERT INTO cast_src (n, c) VALUES (3, 'fives');
SELECT pull('cast', 'cast_src', 'cast_now', $$'n'$$);
SELECT etl_watermark_get('cast'), count(*) FROM cast_now;
CREATE DOMAIN small AS int CHECK (value < 10);
CREATE TABLE dom_now (a small);
SELECT pull('dom', 'cast_src', 'dom_now', $$'n', end_value => '2'$$);
UPDATE cast_src SET a = 10 WHERE n = 2;
SELECT pull('dom', 'cast_src', 'dom_now', $$'n'$$);
-- By way of a merge it is the same.
CREATE TABLE cast_up (n bigint PRIMARY KEY, c varchar(4), e int);
SELECT pull('cast up', 'cast_src', 'cast_up', $$'n', '{n}', 'upsert', end_value => '3'$$);
TABLE cast_up ORDER BY n;
SELECT pull('cast up', 'cast_src', 'cast_up', $$'n', '{n}', 'upsert'$$);
-- Large values, nulls, no column in common but the odd one, and names that need quotes.
CREATE TABLE "Odd ""src""" ("The Cursor" int, "a""b" text, "select" int);
INSERT INTO "Odd ""src""" VALUES (1, repeat('x', 3000000), NULL);
CREATE TABLE "Odd ""tgt""" ("a""b" text, "select" int);
SELECT pull('odd "p"', '"Odd ""src"""', '"Odd ""tgt"""', $$'The Cursor'$$);
SELECT length("a""b"), "select" FROM "Odd ""tgt""";
-- Unlogged and temporary tables.
CREATE TEMP TABLE tmp (LIKE src);
CREATE UNLOGGED TABLE unl (LIKE src);
SELECT pull('tmp', 'src', 'tmp', $$'n'$$);
SELECT pull('unl', 'tmp', 'unl', $$'n'$$);
SELECT missing('src', 'unl');
-- Flagged rows that are kept in a file for a while: none is left open.
CREATE TABLE flags AS SELECT n, true AS flag, repeat('x', 100) AS t FROM generate_series(1, 2000) n;
CREATE TABLE flags_now (n int, t text);
SET work_mem = '64kB';
SELECT rows_read, rows_inserted FROM etl_incremental_pull('many flags', 'flags', 'flags_now', flag_column => 'flag');
RESET work_mem;
\i :end
