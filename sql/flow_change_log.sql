--
-- etl_scd2_merge(change_log => true): the history does not depend on how
-- changes were cut into batches, nor on their order.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
SET datestyle = ISO;

-- Merges by way of the log and tells the counts that are not zero, or the
-- whole error.
CREATE FUNCTION merge(args text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT try(format(
        'SELECT concat_ws('', '', rows_read || '' read'', nullif(inserted, 0) || '' inserted'','
        ' nullif(opened, 0) || '' opened'', nullif(closed, 0) || '' closed'','
        ' nullif(corrected, 0) || '' corrected'', nullif(overwritten, 0) || '' overwritten'','
        ' nullif(unchanged, 0) || '' unchanged'', nullif(deleted, 0) || '' deleted'','
        ' nullif(revived, 0) || '' revived'', nullif(late, 0) || '' late'','
        ' nullif(duplicates, 0) || '' duplicates'', nullif(rejected, 0) || '' rejected'')'
        ' FROM public.etl_scd2_merge(%s, change_log => true)', args))
$$;

CREATE FUNCTION versions(of_target text, more text DEFAULT '') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT concat_ws('' '', id, valid_from || '' to '' || coalesce(valid_to::text, ''now''), '':'', '
        'coalesce(name, ''-'') %s) FROM %s ORDER BY id, valid_from', more, of_target::regclass);
END $$;

-- A new log.
CREATE TABLE d (sk int GENERATED ALWAYS AS IDENTITY, id int, name varchar(10) COLLATE "C", note text, first text,
    was varchar(10), valid_from date NOT NULL, valid_to date, is_current boolean);
CREATE TABLE s (id int, name text, note text, first text, day date, op text);
CREATE FUNCTION merge_d(more text DEFAULT '') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT merge($q$'d', 's', '{id}', 'day', overwrite => '{note}', fixed => '{first}', previous => '{"name": "was"}',
        delete_when => 'op = ''D'''$q$ || more)
$$;
INSERT INTO s VALUES (1, 'a', 'x', 'f1', '2026-01-01', 'U'), (1, 'a', 'y', 'f2', '2026-03-01', 'U'),
    (2, 'm', NULL, NULL, '2026-01-10', 'U');
SELECT merge_d();
\pset tuples_only off
\pset format aligned
\d d_changes
\pset tuples_only on
\pset format unaligned
SELECT obj_description('d_changes'::regclass);
SELECT change_id, run_id = (SELECT max(run_id) FROM etl_patterns.run) AS of_this_run, received_at IS NOT NULL,
    change_time, is_delete, id, name, note, first FROM d_changes ORDER BY change_id;
SELECT versions('d', ', note, first, was, is_current');
SELECT operation, status, rows_read, rows_inserted, rows_unchanged, detail->>'way' AS way, detail->>'source' AS source
FROM etl_patterns.run;

-- Redelivery changes nothing.
CREATE TEMP TABLE before AS SELECT ctid AS place, xmin AS writer, * FROM d;
SELECT merge_d();
SELECT count(*) AS moved FROM before b FULL JOIN d ON b.place = d.ctid AND b.writer = d.xmin
WHERE b.sk IS NULL OR d.sk IS NULL;
SELECT id, change_time, count(*), count(DISTINCT run_id) FROM d_changes GROUP BY 1, 2 ORDER BY 1, 2;

-- A late row between two equal ones: the later one is remembered.
TRUNCATE s;
INSERT INTO s VALUES (1, 'b', 'late', 'f3', '2026-02-01', 'U');
SELECT merge_d();
SELECT versions('d', ', note, first, was, is_current');

-- Before the first, a delete and a row after it, another row of one time.
TRUNCATE s;
INSERT INTO s VALUES (1, 'z', 'early', 'f0', '2025-12-01', 'U'), (1, NULL, NULL, NULL, '2026-02-15', 'D'),
    (2, 'n', 'n', 'n', '2026-01-10', 'U'), (3, NULL, NULL, NULL, '2026-01-01', 'D');
SELECT merge_d();
SELECT versions('d', ', note, first, was, is_current');
TRUNCATE s;
INSERT INTO s VALUES (3, 'after', NULL, NULL, '2026-01-02', 'U'), (3, 'before', NULL, NULL, '2025-12-31', 'U'),
    (2, NULL, NULL, NULL, '2026-01-10', 'D');
SELECT merge_d();
SELECT versions('d', ', was, is_current');
SELECT count(*) FROM etl_scd2_verify('d', '{id}', tracked => '{name}');

-- The same in one batch and in another order is the same.
CREATE TABLE once (LIKE d INCLUDING ALL);
CREATE VIEW all_once AS
    SELECT DISTINCT ON (id, change_time) id, name, note, first, change_time AS day,
        CASE WHEN is_delete THEN 'D' ELSE 'U' END AS op
    FROM d_changes ORDER BY id, change_time, change_id DESC;
SELECT merge($q$'once', 'all_once', '{id}', 'day', overwrite => '{note}', fixed => '{first}',
    previous => '{"name": "was"}', delete_when => 'op = ''D'''$q$);
SELECT versions('d', ', note, first, was, is_current') EXCEPT ALL SELECT versions('once', ', note, first, was, is_current');
SELECT count(*) FROM d UNION ALL SELECT count(*) FROM once;
DROP VIEW all_once;
DROP TABLE once, once_changes;

-- Duplicates do not stay in the log, nor what is rejected.
TRUNCATE s;
INSERT INTO s VALUES (4, 'p', NULL, NULL, '2026-01-01', 'U'), (4, 'q', NULL, NULL, '2026-01-01', 'U'),
    (4, 'r', NULL, NULL, '2026-01-02', 'U'), (4, 'r', NULL, NULL, '2026-01-02', 'U'), (4, 'r', NULL, NULL, NULL, 'U'),
    (NULL, 'r', NULL, NULL, '2026-01-02', 'U'), (5, 'p', NULL, NULL, '2026-01-01', 'U'), (5, NULL, NULL, NULL, '2026-01-01', 'D');
SELECT merge_d();
SELECT merge_d($$, null_keys => 'dead_letter'$$);
SELECT count(*) FROM d_changes WHERE id >= 4;
SELECT merge_d($$, null_keys => 'dead_letter', duplicates => 'dead_letter'$$);
SELECT change_time, is_delete, id, name FROM d_changes WHERE id >= 4 ORDER BY change_id;
SELECT error_message, payload FROM etl_patterns.dead_letter ORDER BY dead_letter_id;
SELECT merge_d($$, null_keys => 'dead_letter', duplicates => 'last'$$);
SELECT versions('d') OFFSET 6;
SELECT change_time, is_delete, id, name FROM d_changes WHERE id >= 4 ORDER BY change_id;
TRUNCATE s;
SELECT merge_d();

-- A dry run leaves nothing but its row.
CREATE TABLE dry (LIKE d INCLUDING ALL);
INSERT INTO s VALUES (1, 'a', 'x', 'f1', '2026-01-01', 'U'), (NULL, 'a', 'y', 'f2', '2026-03-01', 'U');
SELECT merge($$'dry', 's', '{id}', 'day', dry_run => true, null_keys => 'dead_letter'$$);
SELECT to_regclass('dry_changes'), (SELECT count(*) FROM dry),
    (SELECT count(*) FROM etl_patterns.dead_letter WHERE target = 'dry'::regclass);
SELECT status, rows_read, rows_inserted, rows_rejected FROM etl_patterns.run WHERE target = 'dry'::regclass;
UPDATE s SET id = 6;
SELECT count(*) AS logged FROM d_changes \gset
SELECT merge_d(', dry_run => true');
SELECT count(*) - :logged AS more FROM d_changes;
SELECT count(*) FROM d WHERE id = 6;
UPDATE s SET name = 'longer than ten';
SELECT merge_d(', dry_run => true');
TRUNCATE s;

-- A log of a target that has versions, closed ones and gaps.
CREATE TABLE old (id int, name text, note text, valid_from timestamp(0), valid_to timestamp(0) DEFAULT 'infinity',
    is_current boolean);
INSERT INTO old VALUES (1, 'a', 'n', '2026-01-01', '2026-02-01', false), (1, 'b', 'n', '2026-02-01', 'infinity', true),
    (2, 'a', NULL, '2026-01-01', '2026-02-01', false), (2, 'a', NULL, '2026-03-01', '2026-04-01', false),
    (3, 'a', NULL, '2026-01-01', 'infinity', true), (NULL, 'no key', NULL, '2026-01-01', 'infinity', true),
    (4, 'no start', NULL, NULL, 'infinity', true);
CREATE TABLE s2 (id int, name text, note text, at timestamp);
INSERT INTO s2 VALUES (1, 'late', 'n', '2026-01-15'), (2, 'late', 'x', '2026-02-15 12:00:00.6'), (3, 'b', NULL, '2026-01-01');
SELECT merge($$'old', 's2', '{id}', 'at'$$);
SELECT run_id, change_time, is_delete, id, name FROM old_changes WHERE run_id IS NULL ORDER BY id, change_time;
SELECT id, name, valid_from, valid_to, is_current FROM old WHERE id < 4 ORDER BY id, valid_from;
SELECT merge($$'old', 's2', '{id}', 'at'$$);
INSERT INTO s2 VALUES (4, 'x', NULL, '2026-01-01');
SELECT merge($$'old', 's2', '{id}', 'at'$$);

-- A log that was dropped is made anew.
DELETE FROM old WHERE id = 4;
DROP TABLE old_changes;
SELECT merge($$'old', 's2', '{id}', 'at'$$);
SELECT count(*) FILTER (WHERE run_id IS NULL) AS seeded, count(*) FROM old_changes;
SELECT id, name, valid_from, valid_to, is_current FROM old ORDER BY id, valid_from;

-- What was written without the log is not lost.
UPDATE s2 SET name = 'without', at = '2026-05-01' WHERE id = 1;
SELECT unchanged, opened FROM etl_scd2_merge('old', 's2', '{id}', 'at');
UPDATE s2 SET name = 'with', at = '2026-01-20' WHERE id = 1;
SELECT merge($$'old', 's2', '{id}', 'at'$$);
DELETE FROM s2 WHERE id = 1;
SELECT merge($$'old', 's2', '{id}', 'at'$$);

-- Days with both ends; an end that stands for none; no flag.
CREATE TABLE days (id int, name text, valid_from date, valid_to date DEFAULT '9999-12-31');
INSERT INTO days VALUES (1, 'a', '2026-01-01', '2026-01-31'), (1, 'b', '2026-02-01', '2026-02-10'),
    (1, 'c', '2026-03-01', '9999-12-31');
CREATE TABLE s3 (id int, name text, day date);
INSERT INTO s3 VALUES (1, 'new', '2026-02-05'), (1, 'new', '2026-02-20');
SELECT merge($$'days', 's3', '{id}', 'day', bounds => '[]', is_current => NULL$$);
SELECT change_time, is_delete, name FROM days_changes ORDER BY change_time, change_id;
SELECT versions('days');

-- Rows take effect at a given time; all columns may have names like ours.
SET timezone = 'UTC';
CREATE TABLE "Odd ""d""" ("change_id" int, "is_delete" text, "run_id" text, "select" text, change_id_ text,
    "valid from" timestamptz, "valid to" timestamptz);
CREATE TABLE "S's" ("change_id" int, "is_delete" text, "run_id" text, "select" text, change_id_ text);
INSERT INTO "S's" VALUES (1, 'no', 'r', 's', 'c');
CREATE FUNCTION merge_odd(at text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT merge(format($q$'"Odd ""d"""', '"S''s"', '{change_id,"select"}', valid_from => 'valid from',
        valid_to => 'valid to', is_current => NULL, delete_when => 'is_delete = ''yes''', effective_at => %L$q$, at))
$$;
SELECT merge_odd('2026-02-01');
UPDATE "S's" SET run_id = 'q';
SELECT merge_odd('2026-01-01');
UPDATE "S's" SET is_delete = 'yes';
SELECT merge_odd('2026-01-15');
SELECT * FROM "Odd ""d""" ORDER BY "valid from";
SELECT attname, format_type(atttypid, atttypmod), attnotnull, attidentity FROM pg_attribute
WHERE attrelid = '"Odd ""d""_changes"'::regclass AND attnum > 0 ORDER BY attnum;

-- Names that are too long.
CREATE TABLE this_is_a_very_long_name_for_a_table_with_the_versions_of_sth_1 (LIKE days);
CREATE TABLE this_is_a_very_long_name_for_a_table_with_the_versions_of_sth_2 (LIKE days);
SELECT merge($$'this_is_a_very_long_name_for_a_table_with_the_versions_of_sth_1', 's3', '{id}', 'day', is_current => NULL$$);
SELECT merge($$'this_is_a_very_long_name_for_a_table_with_the_versions_of_sth_2', 's3', '{id}', 'day', is_current => NULL$$);
SELECT relname FROM pg_class WHERE relname ~ '^this_is.*_changes$' ORDER BY 1;

-- Partitioned, unlogged and temporary targets, views.
CREATE TABLE parted (LIKE days) PARTITION BY RANGE (valid_from);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2026-02-10');
CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
SELECT merge($$'parted', 's3', '{id}', 'day', is_current => NULL$$);
UPDATE s3 SET name = 'other', day = day - 7;
SELECT merge($$'parted', 's3', '{id}', 'day', is_current => NULL$$);
SELECT versions('parted', ', tableoid::regclass');
CREATE UNLOGGED TABLE unlogged (LIKE days);
SELECT merge($$'unlogged', 's3', '{id}', 'day', is_current => NULL$$);
CREATE TEMP TABLE temporary (LIKE days);
SELECT merge($$'temporary', 's3', '{id}', 'day', is_current => NULL$$);
SELECT relname, relpersistence FROM pg_class WHERE relname IN ('unlogged_changes', 'temporary_changes') ORDER BY 1;
CREATE VIEW seen AS SELECT * FROM days;
UPDATE s3 SET id = 7;
SELECT merge($$'seen', 's3', '{id}', 'day', bounds => '[]', is_current => NULL, open_end => '9999-12-31'$$);
UPDATE s3 SET day = day - 30, name = 'x' WHERE day < '2026-02-01';
SELECT merge($$'seen', 's3', '{id}', 'day', bounds => '[]', is_current => NULL, open_end => '9999-12-31'$$);
SELECT versions('days') OFFSET 5;

-- Keys of many types, domains, a key that has no order.
CREATE DOMAIN kind AS text CHECK (VALUE <> '') NOT NULL;
CREATE TABLE types (u uuid, k kind, x xid, c char(3), n numeric(6, 2), a int[], p point, valid_from int, valid_to int);
CREATE TABLE s4 (LIKE types);
ALTER TABLE s4 DROP COLUMN valid_to, ADD COLUMN del boolean;
INSERT INTO s4 VALUES ('00000000-0000-0000-0000-000000000001', 'k', '5', 'c', 1, '{1,NULL}', '(1,2)', 10, false);
CREATE FUNCTION merge_types() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT merge($q$'types', 's4', '{u,k,x,c,n,a}', 'valid_from', is_current => NULL, delete_when => 'del'$q$)
$$;
SELECT merge_types();
UPDATE s4 SET p = '(3,4)', valid_from = 5;
SELECT merge_types();
UPDATE s4 SET del = true, valid_from = 7, n = 1.001;
SELECT merge_types();
SELECT p, n, valid_from, valid_to FROM types ORDER BY valid_from;
DROP TABLE types_changes;
SELECT merge_types();

-- What does not go together.
SELECT merge_d($$, absent => 'close'$$);
SELECT merge_d($$, late => 'ignore'$$);

-- Something else of the log's name, or not as it was.
INSERT INTO s VALUES (1, 'b', NULL, NULL, '2026-06-01', 'U');
CREATE VIEW days2_changes AS SELECT 1 AS change_id;
CREATE TABLE days2 (LIKE days);
SELECT merge($$'days2', 's3', '{id}', 'day', is_current => NULL$$);
DROP VIEW days2_changes;
CREATE TABLE days2_changes (id int, name text);
SELECT merge($$'days2', 's3', '{id}', 'day', is_current => NULL$$);
ALTER TABLE d ADD COLUMN more text;
ALTER TABLE s ADD COLUMN more text;
SELECT merge_d();
ALTER TABLE d_changes ADD COLUMN more text;
ALTER TABLE d ALTER name TYPE varchar(20);
SELECT merge_d();
ALTER TABLE d_changes ALTER name TYPE varchar(20);
ALTER TABLE d_changes ALTER change_id DROP IDENTITY;
SELECT merge_d();
ALTER TABLE d_changes ALTER change_id ADD GENERATED BY DEFAULT AS IDENTITY (START 1000);
SELECT merge_d();

-- A trigger of the log that keeps rows out.
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER keep_out BEFORE INSERT ON d_changes FOR EACH ROW EXECUTE FUNCTION keep_out();
SELECT merge_d();
DROP TRIGGER keep_out ON d_changes;

-- Rights.
CREATE ROLE etl_test_owner;
CREATE ROLE etl_test_merger;
CREATE ROLE etl_test_stranger;
CREATE SCHEMA shared;
GRANT USAGE ON SCHEMA shared TO PUBLIC;
GRANT CREATE ON SCHEMA shared TO etl_test_owner, etl_test_stranger;
GRANT SELECT ON s3, days TO PUBLIC;
CREATE FUNCTION merge_shared() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT merge($q$'shared.t', 's3', '{id}', 'day', is_current => NULL$q$)
$$;
SET ROLE etl_test_owner;
CREATE TABLE shared.t (LIKE days);
GRANT SELECT, INSERT, UPDATE ON shared.t TO etl_test_merger;
SET ROLE etl_test_merger;
SELECT merge_shared();
SET ROLE etl_test_stranger;
CREATE TABLE shared.t_changes (change_id int8);
SET ROLE etl_test_owner;
SELECT merge_shared();
RESET ROLE;
DROP TABLE shared.t_changes;
SET ROLE etl_test_owner;
SELECT merge_shared();
SET ROLE etl_test_merger;
SELECT merge_shared();
SET ROLE etl_test_owner;
GRANT SELECT, INSERT ON shared.t_changes TO etl_test_merger;
SET ROLE etl_test_merger;
SELECT merge_shared();
SET ROLE etl_test_owner;
ALTER TABLE shared.t_changes ENABLE ROW LEVEL SECURITY;
SET ROLE etl_test_merger;
SELECT merge_shared();
SET ROLE etl_test_owner;
SELECT merge_shared();
DROP TABLE shared.t_changes;
ALTER TABLE shared.t ENABLE ROW LEVEL SECURITY;
CREATE POLICY one ON shared.t USING (id = 1);
RESET ROLE;
GRANT CREATE ON SCHEMA shared TO etl_test_merger;
SET ROLE etl_test_merger;
SELECT merge_shared();
RESET ROLE;
SELECT to_regclass('shared.t_changes');
SET client_min_messages = warning;
DROP SCHEMA shared CASCADE;
DROP ROLE etl_test_owner, etl_test_merger, etl_test_stranger;

-- An extension that is made anew starts its runs at 1: old runs are known.
SELECT max(run_id) > 1 FROM d_changes;
DROP EXTENSION etl_patterns;
CREATE EXTENSION etl_patterns SCHEMA public;
RESET client_min_messages;
UPDATE s SET name = 'again', day = '2026-06-02';
SELECT merge_d();
SELECT versions('d') LIMIT 7;

-- All ways lead there.
SET etl_patterns.merge_path = 'general';
UPDATE s SET name = 'general', day = '2026-05-31';
SELECT merge_d();
SELECT versions('d') LIMIT 8;
RESET etl_patterns.merge_path;
\i :end
