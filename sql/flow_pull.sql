--
-- Incremental pulls: what is read, what is remembered, what is undone.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
CREATE TABLE src (id int, v text, at timestamptz);
CREATE TABLE tgt (LIKE src);

-- An empty source, the first rows, nothing new, new ones.
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT etl_watermark_get('p');
INSERT INTO src VALUES (1, 'one', '2020-01-01 00:00:00.000001+00'), (2, 'two', '2020-01-01 00:00:00.000002+00');
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT pull('p', 'src', 'tgt', $$'at'$$);
INSERT INTO src VALUES (3, 'three', '2020-01-01 00:00:00.000002+00'), (4, 'four', '2020-01-01 00:00:00.000003+00');
SELECT pull('p', 'src', 'tgt', $$'at'$$);
TABLE tgt ORDER BY id;
SELECT etl_watermark_get('p');

-- What is remembered: of each run, and of the pipeline.
SELECT operation, target, role = current_user::regrole, status, rows_read, rows_inserted, watermark_low, watermark_high,
    detail->>'safety'
FROM etl_patterns.run WHERE name = 'p' ORDER BY run_id;
SELECT source, target, cursor_column, value, run_id = (SELECT max(run_id) FROM etl_patterns.run)
FROM etl_patterns.watermark WHERE pipeline = 'p';

-- A rollback takes rows, watermark and run back.
INSERT INTO src VALUES (5, 'five', '2020-01-02');
BEGIN;
SELECT told(to_json(r)) FROM etl_incremental_pull('p', 'src', 'tgt', 'at') r;
SELECT etl_watermark_get('p'), (SELECT count(*) FROM tgt);
ROLLBACK;
SELECT etl_watermark_get('p'), (SELECT count(*) FROM tgt), last_run('p');
BEGIN;
SAVEPOINT here;
SELECT told(to_json(r)) FROM etl_incremental_pull('p', 'src', 'tgt', 'at') r;
ROLLBACK TO here;
COMMIT;
SELECT etl_watermark_get('p'), (SELECT count(*) FROM tgt), last_run('p');

-- So does an error in the middle.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF new.id = 6 THEN RAISE 'no sixes'; END IF; RETURN new; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON tgt FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO src VALUES (6, 'six', '2020-01-03');
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT etl_watermark_get('p'), (SELECT count(*) FROM tgt), last_run('p');
DROP TRIGGER refuse ON tgt;
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT missing('src', 'tgt');

-- A row that a trigger drops is unchanged.
CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF new.id = 7 THEN RETURN NULL; END IF; RETURN new; END $$;
CREATE TRIGGER drop_row BEFORE INSERT ON tgt FOR EACH ROW EXECUTE FUNCTION drop_row();
INSERT INTO src VALUES (7, 'seven', '2020-01-04'), (8, 'eight', '2020-01-05');
SELECT pull('p', 'src', 'tgt', $$'at'$$);
DROP TRIGGER drop_row ON tgt;
DELETE FROM src WHERE id = 7;

-- Where to begin and where to end: from, inclusive, up to, exclusive.
CREATE TABLE part (LIKE src);
SELECT pull('part', 'src', 'part', $$'at', initial_value => '2020-01-02', end_value => '2020-01-05'$$);
SELECT id FROM part ORDER BY id;
SELECT pull('part', 'src', 'part', $$'at', initial_value => '2020-01-01', end_value => '2020-01-05'$$);
SELECT pull('part', 'src', 'part', $$'at'$$);
SELECT id FROM part ORDER BY id;

-- A source whose maximum goes back: the watermark stays.
DELETE FROM src WHERE at >= '2020-01-03';
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT etl_watermark_get('p');
INSERT INTO src VALUES (9, 'below', '2020-01-04');
SELECT pull('p', 'src', 'tgt', $$'at'$$);

-- Watermarks by hand.
SELECT etl_watermark_set('p', '2020-01-02');
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT id FROM tgt WHERE id = 9;
SELECT etl_watermark_set('p', '2020-01-09 12:00+02');
SELECT etl_watermark_get('p');
SELECT try($$SELECT etl_watermark_set('p', 'yesterday noon')$$);
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT etl_watermark_reset('p'), etl_watermark_reset('p');
TRUNCATE tgt;
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT missing('src', 'tgt');
-- A watermark that was there before the first run: rows up to it count as read.
SELECT etl_watermark_set('ahead', '2020-01-01 00:00:00.000003+00');
TRUNCATE part;
SELECT pull('ahead', 'src', 'part', $$'at', initial_value => '2019-01-01'$$);
SELECT id FROM part ORDER BY id;

-- With keys: a row whose key is in the target is left alone.
CREATE TABLE keyed (id int PRIMARY KEY, v text, at timestamptz);
INSERT INTO keyed VALUES (2, 'mine', NULL);
SELECT pull('keyed', 'src', 'keyed', $$'at', keys => '{id}'$$);
SELECT id, v FROM keyed ORDER BY id;

-- The merges.
CREATE TABLE emp (id int, dept text, since date, note text);
INSERT INTO emp VALUES (1, 'Sales', '2020-01-01', 'a'), (2, 'Legal', '2020-01-01', 'b');
CREATE TABLE emp_1 (id int PRIMARY KEY, dept text, since date);
SELECT etl_scd2_create('etl_test.emp_2', 'emp', '{id}', '{dept}', time_type => 'date');
CREATE TABLE emp_3 (id int PRIMARY KEY, dept text, was text);
CREATE PROCEDURE merges() LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN SELECT 'upsert: ' || pull('upsert', 'emp', 'emp_1', $o$'since', '{id}', 'upsert',
                                          '{"sequence_by": "since", "update_columns": ["dept"]}'$o$)
        UNION ALL SELECT 'scd2: ' || pull('scd2', 'emp', 'emp_2', $o$'since', '{id}', 'scd2',
                                          '{"sequence_by": "since", "tracked": ["dept"]}'$o$)
        UNION ALL SELECT 'scd3: ' || pull('scd3', 'emp', 'emp_3', $o$'since', '{id}', 'scd3',
                                          '{"previous": {"dept": "was"}}'$o$)
    LOOP
        RAISE INFO '%', line;
    END LOOP;
END $$;
CALL merges();
CALL merges();
UPDATE emp SET dept = 'Support', since = '2020-02-01' WHERE id = 1;
INSERT INTO emp VALUES (3, 'Legal', '2020-02-02', 'c');
CALL merges();
TABLE emp_1 ORDER BY id;
SELECT id, dept, valid_from, valid_to, is_current FROM emp_2 ORDER BY id, valid_from;
TABLE emp_3 ORDER BY id;
SELECT operation, name, rows_read, rows_inserted, rows_updated, rows_unchanged, detail->>'way' IS NOT NULL AS way
FROM etl_patterns.run WHERE name IN ('upsert', 'scd2', 'scd3') ORDER BY run_id DESC LIMIT 3;
-- scd1 is upsert by another name.
CREATE TABLE emp_b (LIKE emp_1);
SELECT pull('scd1', 'emp', 'emp_b', $$'since', '{id}', 'scd1'$$);
SELECT missing('emp_1', 'emp_b');
-- Deletes that the source marks.
CREATE TABLE ev (id int, v text, gone boolean, n bigint);
CREATE TABLE ev_now (id int PRIMARY KEY, v text, n bigint);
INSERT INTO ev VALUES (1, 'a', false, 1), (2, 'b', false, 2);
SELECT pull('ev', 'ev', 'ev_now', $$'n', '{id}', 'upsert', '{"sequence_by": "n", "delete_when": "gone"}'$$);
INSERT INTO ev VALUES (1, NULL, true, 3);
SELECT pull('ev', 'ev', 'ev_now', $$'n', '{id}', 'upsert', '{"sequence_by": "n", "delete_when": "gone"}'$$);
TABLE ev_now;
SELECT rows_read, rows_inserted, rows_deleted, rows_unchanged FROM etl_patterns.run WHERE name = 'ev' ORDER BY run_id;
-- Rejects become dead letters of the pull.
CREATE TABLE dup (id int, v text, n int);
INSERT INTO dup VALUES (1, 'a', 1), (1, 'b', 1), (NULL, 'c', 2), (3, 'd', 3);
CREATE TABLE dup_now (id int PRIMARY KEY, v text);
SELECT pull('dup', 'dup', 'dup_now', $$'n', '{id}', 'upsert'$$);
SELECT pull('dup', 'dup', 'dup_now', $$'n', '{id}', 'upsert', '{"duplicates": "dead_letter", "null_keys": "dead_letter"}'$$);
TABLE dup_now;
SELECT d.operation, d.target, d.category, d.payload
FROM etl_patterns.dead_letter d JOIN etl_patterns.run r USING (run_id) WHERE r.name = 'dup' ORDER BY d.payload::text;

-- Only some of the columns.
CREATE TABLE chosen (id int, v text DEFAULT 'untouched', at timestamptz);
SELECT pull('chosen', 'src', 'chosen', $$'at', apply_options => '{"columns": ["id"]}'$$);
SELECT DISTINCT v, at FROM chosen;

-- Reading the last window again.
CREATE TABLE late (id int PRIMARY KEY, v text, at timestamp);
CREATE TABLE late_now (LIKE late INCLUDING ALL);
INSERT INTO late VALUES (1, 'a', '2020-01-01 10:00'), (2, 'b', '2020-01-01 11:00');
\set late 'SELECT pull(''late'', ''late'', ''late_now'', $$''at'', ''{id}'', lookback => ''1 hour'', initial_value => ''2020-01-01 10:00''$$)'
:late;
INSERT INTO late VALUES (3, 'late', '2020-01-01 10:30'), (4, 'too late', '2020-01-01 09:59:59.999999');
:late;
INSERT INTO late VALUES (5, 'new', '2020-01-01 11:20');
:late;
INSERT INTO late VALUES (6, 'just', '2020-01-01 10:20'), (7, 'not quite', '2020-01-01 10:19:59.999999');
:late;
SELECT id FROM late_now ORDER BY id;
UPDATE late SET v = 'B' WHERE id = 2;
SELECT pull('late up', 'late', 'late_now', $$'at', '{id}', 'upsert', lookback => '2 hours'$$);
UPDATE late SET v = 'BB' WHERE id = 2;
SELECT pull('late up', 'late', 'late_now', $$'at', '{id}', 'upsert', lookback => '2 hours'$$);
SELECT missing('late', 'late_now');
-- Of days, too.
CREATE TABLE days (id int, d date);
CREATE TABLE days_now (LIKE days);
INSERT INTO days SELECT i, date '2020-01-01' + i FROM generate_series(1, 5) i;
SELECT pull('days', 'days', 'days_now', $$'d', '{id}', lookback => '2 days'$$);
SELECT pull('days', 'days', 'days_now', $$'d', '{id}', lookback => '2 days'$$);

-- Batches end between two values; a value is never split.
CREATE TABLE many (n int, id int);
CREATE TABLE many_now (LIKE many);
INSERT INTO many SELECT CASE WHEN i <= 3 THEN 1 WHEN i <= 4 THEN 2 WHEN i <= 9 THEN 3 ELSE i END, i
FROM generate_series(1, 12) i;
\set many 'SELECT pull(''many'', ''many'', ''many_now'', $$''n'', batch_rows => 4$$)'
:many;
:many;
:many;
:many;
SELECT missing('many', 'many_now');
INSERT INTO many SELECT 20 + i, i FROM generate_series(1, 5) i;
SELECT pull('many', 'many', 'many_now', $$'n', batch_rows => 5$$);
INSERT INTO many SELECT 30 + i, i FROM generate_series(1, 5) i;
SELECT pull('many', 'many', 'many_now', $$'n', batch_rows => 4, end_value => '35'$$);
SELECT pull('many', 'many', 'many_now', $$'n', batch_rows => 1$$);
SELECT missing('many', 'many_now');

-- With lookback a batch may hold nothing but rows of the last window: it gets
-- on all the same.
CREATE TABLE slow (id int, at timestamptz);
CREATE TABLE slow_now (LIKE slow);
INSERT INTO slow SELECT i, timestamptz '2020-01-01' + i * interval '1 min' FROM generate_series(1, 20) i;
SELECT pull('slow', 'slow', 'slow_now', $$'at', '{id}', lookback => '10 min'$$);
INSERT INTO slow SELECT i, timestamptz '2020-01-01' + i * interval '1 min' FROM generate_series(21, 30) i;
SELECT pull('slow', 'slow', 'slow_now', $$'at', '{id}', lookback => '10 min', batch_rows => 4$$) FROM generate_series(1, 5);
SELECT missing('slow', 'slow_now');
CALL etl_incremental_drain('slow', 20);
SELECT missing('slow', 'slow_now');
SELECT etl_watermark_get('slow');

-- The watermark does not go back with the source.
DELETE FROM slow WHERE id > 25;
SELECT pull('slow', 'slow', 'slow_now', $$'at', '{id}', lookback => '10 min'$$);
DELETE FROM slow;
SELECT pull('slow', 'slow', 'slow_now', $$'at', '{id}', lookback => '10 min'$$);

-- Two pipelines from one source, and several to one target.
CREATE TABLE split (LIKE many);
SELECT pull('one', 'many', 'split', $$'n', end_value => '20'$$);
SELECT pull('two', 'many', 'split', $$'n', initial_value => '20'$$);
SELECT missing('many', 'split');
\i :end
