--
-- Drains, backfills and flags.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
CREATE TABLE src (id int, v text, n int);
CREATE TABLE tgt (id int PRIMARY KEY, v text, n int);
INSERT INTO src SELECT i, 'v' || i, (i + 1) / 2 FROM generate_series(1, 20) i;
CREATE FUNCTION runs(pipeline text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('%s: %s rows to %s', operation, rows_read, watermark_high), ', ' ORDER BY run_id)
    FROM etl_patterns.run WHERE name = pipeline AND status <> 'skipped'
$$;

-- Each batch is a run of its own; what was called last is repeated.
SELECT pull('p', 'src', 'tgt', $$'n', '{id}', batch_rows => 4$$);
CALL etl_incremental_drain('p');
SELECT runs('p');
SELECT missing('src', 'tgt');
CALL etl_incremental_drain('p');
SELECT runs('p');
INSERT INTO src SELECT i, 'w', i FROM generate_series(21, 40) i;
CALL etl_incremental_drain('p', 2);
SELECT etl_watermark_get('p');
CALL etl_incremental_drain('p', max_runtime => '0 s');
SELECT etl_watermark_get('p');
CALL etl_incremental_drain(pipeline => 'p', max_batches => NULL, max_runtime => '1 day');
SELECT missing('src', 'tgt');
-- Without batch_rows, too.
CREATE TABLE whole (LIKE src);
SELECT pull('whole', 'src', 'whole', $$'n', end_value => '5'$$);
CALL etl_incremental_drain('whole');
SELECT runs('whole');
-- An error keeps the batches before it.
CREATE TABLE checked (id int, v text, n int CHECK (n <> 35));
SELECT pull('checked', 'src', 'checked', $$'n', batch_rows => 10, end_value => '1'$$);
SELECT pull('checked', 'src', 'checked', $$'n', batch_rows => 10$$);
CALL etl_incremental_drain('checked');
SELECT max(n), count(*), etl_watermark_get('checked') FROM checked;
-- From a procedure that may commit, and a block that does.
CREATE PROCEDURE drain_all() LANGUAGE plpgsql AS $$ BEGIN CALL public.etl_incremental_drain('p'); COMMIT; END $$;
INSERT INTO src VALUES (41, 'x', 41);
CALL drain_all();
SELECT etl_watermark_get('p');

-- A range again: from, inclusive, up to, exclusive.  The watermark stays.
DELETE FROM tgt WHERE n IN (3, 4, 5);
SELECT backfill('p', '4', '5');
SELECT backfill('p', NULL, '4');
SELECT backfill('p', '5', NULL);
SELECT backfill('p', '5', '5');
SELECT backfill('p', '100', NULL);
SELECT missing('src', 'tgt'), etl_watermark_get('p');
SELECT operation, status, rows_read, rows_inserted, rows_unchanged, watermark_low, watermark_high
FROM etl_patterns.run WHERE name = 'p' AND operation = 'backfill' ORDER BY run_id;
SELECT value, run_id = (SELECT max(run_id) FROM etl_patterns.run WHERE name = 'p' AND operation = 'incremental_pull')
FROM etl_patterns.watermark WHERE pipeline = 'p';
-- It reads beyond the watermark, and the pipeline does so again.
INSERT INTO src VALUES (42, 'y', 42);
SELECT backfill('p', '42', NULL);
SELECT pull('p', 'src', 'tgt', $$'n', '{id}'$$);
-- Without keys rows are there twice.
SELECT backfill('whole', '1', '2');
SELECT missing('src', 'whole');
-- A merge takes corrections.
CREATE TABLE up (id int PRIMARY KEY, v text, n int);
SELECT pull('up', 'src', 'up', $$'n', '{id}', 'upsert'$$);
UPDATE src SET v = 'mended' WHERE n = 3;
SELECT backfill('up', '3', '4');
SELECT missing('src', 'up');

-- Flags: each row once, and again when it is flagged again.
CREATE TABLE item (id int PRIMARY KEY, v text, todo boolean DEFAULT true);
CREATE TABLE item_now (id int PRIMARY KEY, v text);
INSERT INTO item SELECT i, 'v' || i, CASE WHEN i < 6 THEN true WHEN i = 6 THEN false END FROM generate_series(1, 7) i;
\set item 'SELECT pull(''item'', ''item'', ''item_now'', $$flag_column => ''todo'', keys => ''{id}'', apply => ''upsert'', batch_rows => 3$$)'
:item;
:item;
:item;
TABLE item ORDER BY id;
TABLE item_now ORDER BY id;
UPDATE item SET v = 'again', todo = true WHERE id IN (2, 6);
BEGIN;
:item;
ROLLBACK;
SELECT count(*) FROM item WHERE todo;
:item;
TABLE item_now ORDER BY id;
SELECT operation, status, rows_read, rows_updated, rows_inserted, watermark_low, watermark_high
FROM etl_patterns.run WHERE name = 'item' ORDER BY run_id DESC LIMIT 1;
SELECT source, cursor_column, target, value FROM etl_patterns.watermark WHERE pipeline = 'item';
UPDATE item SET todo = true;
CALL etl_incremental_drain('item');
SELECT count(*) FROM item WHERE todo;
-- The trigger that flags what changes leaves the pull's own update alone.
CREATE FUNCTION flag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.todo IS NOT DISTINCT FROM old.todo THEN new.todo := true; END IF;
    RETURN new;
END $$;
CREATE TRIGGER flag BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION flag();
UPDATE item SET v = 'by trigger' WHERE id = 1;
:item;
:item;
-- One that sets the flag whatever happens would have rows read for ever.
CREATE OR REPLACE FUNCTION flag() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.todo := true; RETURN new; END $$;
UPDATE item SET v = 'again by trigger' WHERE id = 1;
:item;
SELECT v FROM item_now WHERE id = 1;
DROP TRIGGER flag ON item;
-- The target may have the flag's column.
CREATE TABLE item_copy (id int, todo boolean);
SELECT pull('item copy', 'item', 'item_copy', $$flag_column => 'todo'$$);
TABLE item_copy ORDER BY id;
-- Partitions, and a backfill, which flags have not.
CREATE TABLE parted (id int, todo boolean) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
INSERT INTO parted VALUES (1, true), (2, true);
CREATE TABLE parted_now (id int);
SELECT pull('parted', 'parted', 'parted_now', $$flag_column => 'todo'$$);
SELECT tableoid::regclass, * FROM parted ORDER BY id;
TABLE parted_now ORDER BY id;
SELECT backfill('parted', NULL, NULL);
CREATE VIEW seen AS SELECT * FROM item;
UPDATE item SET todo = true WHERE id < 3;
SELECT pull('view', 'seen', 'item_copy', $$flag_column => 'todo'$$);
\i :end
