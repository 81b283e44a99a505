--
-- A source whose columns change between two pulls.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
CREATE TABLE src (id int, v text, n int);
CREATE TABLE tgt (id int PRIMARY KEY, v text);
INSERT INTO src VALUES (1, 'a', 1);
\set p 'SELECT pull(''p'', ''src'', ''tgt'', $$''n'', ''{id}'', ''upsert''$$)'
:p;

-- A new column that the target has not is not read, and said so once.
ALTER TABLE src ADD COLUMN extra text DEFAULT 'older';
INSERT INTO src VALUES (2, 'b', 2, 'newer');
:p;
:p;

-- One that the target has is read from now on; a backfill brings the rest.
ALTER TABLE src ADD COLUMN more int DEFAULT 7;
ALTER TABLE tgt ADD COLUMN more int;
INSERT INTO src VALUES (3, 'c', 3, 'x', 30);
:p;
TABLE tgt ORDER BY id;
SELECT backfill('p', NULL, NULL);
TABLE tgt ORDER BY id;
-- The target gets a column that the source had all along.
ALTER TABLE tgt ADD COLUMN extra text;
INSERT INTO src VALUES (4, 'd', 4, 'y', 40);
:p;
TABLE tgt ORDER BY id;

-- A dropped column that the target still has.
INSERT INTO src VALUES (5, 'e', 5, 'z', 50);
ALTER TABLE src DROP COLUMN extra;
:p;
SELECT etl_watermark_get('p');
ALTER TABLE tgt DROP COLUMN extra;
:p;
TABLE tgt ORDER BY id;
-- One that the target never had does not matter.
CREATE TABLE wide (id int, junk text, n int);
CREATE TABLE narrow (id int);
INSERT INTO wide VALUES (1, 'a', 1);
SELECT pull('narrow', 'wide', 'narrow', $$'n'$$);
ALTER TABLE wide DROP COLUMN junk;
INSERT INTO wide VALUES (2, 2);
SELECT pull('narrow', 'wide', 'narrow', $$'n'$$);
-- Nor does a column that comes back, nor the order of columns.
ALTER TABLE wide DROP COLUMN n;
SELECT pull('narrow', 'wide', 'narrow', $$'n'$$);
ALTER TABLE wide ADD COLUMN n int;
INSERT INTO wide VALUES (3, 3);
UPDATE wide SET n = id;
SELECT pull('narrow', 'wide', 'narrow', $$'n'$$);
TABLE narrow ORDER BY id;
-- A renamed column is a dropped one and a new one.
ALTER TABLE src RENAME COLUMN v TO value;
:p;
ALTER TABLE src RENAME COLUMN value TO v;
:p;

-- Another type: assigned if that is possible, whatever the values.
ALTER TABLE src ALTER v TYPE int USING length(v), ALTER more TYPE bigint;
INSERT INTO src VALUES (6, 66, 6, 60);
:p;
TABLE tgt ORDER BY id;
ALTER TABLE src ALTER more DROP DEFAULT, ALTER more TYPE bytea USING NULL;
INSERT INTO src VALUES (7, 77, 7, NULL);
:p;
SELECT etl_watermark_get('p');
ALTER TABLE src ALTER more TYPE text USING '70';
:p;
ALTER TABLE src ALTER more TYPE int USING more::int;
:p;

-- The cursor's: within integers only.
ALTER TABLE src ALTER n TYPE bigint;
INSERT INTO src VALUES (8, 88, 5000000000, 80);
:p;
SELECT etl_watermark_get('p');
ALTER TABLE src ALTER n TYPE numeric;
:p;
ALTER TABLE src ALTER n TYPE timestamptz USING to_timestamp(n);
:p;
SELECT etl_watermark_get('p');
-- The way out that the hint tells.
SELECT etl_watermark_reset('p');
SELECT pull('p', 'src', 'tgt', $$'n', '{id}', 'upsert'$$);
CREATE TABLE narrower (id int, n bigint);
INSERT INTO narrower VALUES (1, 100);
CREATE TABLE narrower_now (LIKE narrower);
SELECT pull('narrower', 'narrower', 'narrower_now', $$'n'$$);
ALTER TABLE narrower ALTER n TYPE smallint;
INSERT INTO narrower VALUES (2, 101);
SELECT pull('narrower', 'narrower', 'narrower_now', $$'n'$$);
SELECT etl_watermark_set('narrower', '70000');
SELECT pull('narrower', 'narrower', 'narrower_now', $$'n'$$);
-- A cursor of another precision is another type's value all the same.
CREATE TABLE prec (id int, at timestamptz(3));
INSERT INTO prec VALUES (1, '2020-01-01 00:00:00.123');
CREATE TABLE prec_now (LIKE prec);
SELECT pull('prec', 'prec', 'prec_now', $$'at'$$);
ALTER TABLE prec ALTER at TYPE timestamptz;
INSERT INTO prec VALUES (2, '2020-01-01 00:00:00.123456');
SELECT pull('prec', 'prec', 'prec_now', $$'at'$$);
ALTER TABLE prec ALTER at TYPE timestamp;
SELECT pull('prec', 'prec', 'prec_now', $$'at'$$);

-- Drift is found before a backfill and a drain, too.
ALTER TABLE narrower ADD COLUMN x text;
ALTER TABLE narrower DROP COLUMN id;
SELECT backfill('narrower', NULL, NULL);
CALL etl_incremental_drain('narrower');

-- A new column of a source whose columns are named is not read.
CREATE TABLE chosen (id int, v text, n int);
CREATE TABLE chosen_now (id int, v text, n int, x int);
SELECT pull('chosen', 'chosen', 'chosen_now', $$'n', apply_options => '{"columns": ["id", "v"]}'$$);
ALTER TABLE chosen ADD COLUMN x int;
INSERT INTO chosen VALUES (1, 'a', 1, 1);
SELECT pull('chosen', 'chosen', 'chosen_now', $$'n', apply_options => '{"columns": ["id", "v"]}'$$);
TABLE chosen_now;
ALTER TABLE chosen DROP COLUMN v;
SELECT pull('chosen', 'chosen', 'chosen_now', $$'n', apply_options => '{"columns": ["id", "v"]}'$$);
SELECT pull('chosen', 'chosen', 'chosen_now', $$'n', apply_options => '{"columns": ["id"]}'$$);

-- The columns of a flag's source are remembered as well.
CREATE TABLE flagged (id int, v text, todo boolean DEFAULT true);
CREATE TABLE flagged_now (id int, v text);
INSERT INTO flagged VALUES (1, 'a');
SELECT pull('flagged', 'flagged', 'flagged_now', $$flag_column => 'todo'$$);
ALTER TABLE flagged DROP COLUMN v;
INSERT INTO flagged VALUES (2);
SELECT pull('flagged', 'flagged', 'flagged_now', $$flag_column => 'todo'$$);
TABLE flagged;
ALTER TABLE flagged_now DROP COLUMN v;
SELECT pull('flagged', 'flagged', 'flagged_now', $$flag_column => 'todo'$$);
ALTER TABLE flagged ALTER todo DROP DEFAULT, ALTER todo TYPE int USING todo::int;
SELECT pull('flagged', 'flagged', 'flagged_now', $$flag_column => 'todo'$$);
\i :end
