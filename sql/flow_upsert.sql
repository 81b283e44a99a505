--
-- etl_upsert() and etl_scd1_merge(): what becomes of each row, and the counts.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin

-- Merges and tells the counts that are not zero, or the whole error.
CREATE FUNCTION merge(args text, function text DEFAULT 'etl_upsert') RETURNS SETOF text
LANGUAGE sql AS $$
    SELECT try(format(
        'SELECT concat_ws('', '', rows_read || '' read'', nullif(inserted, 0) || '' inserted'','
        ' nullif(updated, 0) || '' updated'', nullif(unchanged, 0) || '' unchanged'','
        ' nullif(deleted, 0) || '' deleted'', nullif(stale, 0) || '' stale'','
        ' nullif(duplicates, 0) || '' duplicates'', nullif(rejected, 0) || '' rejected'')'
        ' FROM public.%I(%s)', function, args))
$$;

CREATE FUNCTION rejects(of_target text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s %s %s%s | %s', category, error_code, column_name || ': ', error_message, payload)
    FROM etl_patterns.dead_letter
    WHERE status = 'pending' AND target = of_target::regclass
    ORDER BY (payload->>'id')::int NULLS LAST, dead_letter_id
$$;

-- Insert, update, leave alone.
CREATE TABLE t (id int PRIMARY KEY, name text, price numeric, info json);
CREATE TABLE s (LIKE t);
INSERT INTO s VALUES (1, 'one', 1.0, '{"a": 1}'), (2, 'two', NULL, NULL), (3, NULL, 3, NULL);
SELECT merge($$'t', 's', '{id}'$$);
TABLE t ORDER BY id;

-- Nothing to do is nothing done: the rows are where they were.
CREATE TEMP TABLE before AS SELECT ctid AS place, xmin AS writer, * FROM t;
SELECT merge($$'t', 's', '{id}'$$);
UPDATE s SET price = 1.00 WHERE id = 1;
SELECT merge($$'t', 's', '{id}'$$);
SELECT count(*) AS moved FROM before b FULL JOIN t ON b.place = t.ctid AND b.writer = t.xmin
WHERE b.id IS NULL OR t.id IS NULL;
SELECT price FROM t WHERE id = 1;

-- To and from null, json by its text, a new key; others stay.
UPDATE s SET name = NULL, info = '{"a":1}' WHERE id = 1;
UPDATE s SET price = 2.5 WHERE id = 2;
UPDATE s SET name = 'three' WHERE id = 3;
INSERT INTO s VALUES (4, 'four', 4, NULL);
SELECT merge($$'t', 's', '{id}'$$);
TABLE t ORDER BY id;
SELECT merge($$'t', 's', '{id}'$$, 'etl_scd1_merge');
DELETE FROM s WHERE id < 4;
SELECT merge($$'t', 's', '{id}'$$);
SELECT count(*) FROM t;
TRUNCATE s;
SELECT merge($$'t', 's', '{id}'$$);

-- The runs of both names.
SELECT operation, name, target, status, rows_read, rows_inserted, rows_updated, rows_deleted, rows_unchanged, rows_rejected
FROM etl_patterns.run ORDER BY run_id;

-- Columns that the source lacks, more than the target has, the table's own.
CREATE TABLE wide (id int, code text DEFAULT 'none', n int, note text DEFAULT 'new',
    twice int GENERATED ALWAYS AS (n * 2) STORED, seq int GENERATED ALWAYS AS IDENTITY, sk serial);
ALTER TABLE wide DROP COLUMN code;
CREATE TABLE narrow (n bigint, id smallint, other text);
INSERT INTO narrow VALUES (10, 1, 'x'), (20, 2, 'y');
SELECT merge($$'wide', 'narrow', '{id}'$$);
TABLE wide ORDER BY id;
UPDATE wide SET note = 'kept' WHERE id = 1;
UPDATE narrow SET n = n + 1;
INSERT INTO narrow VALUES (30, 3, 'z');
SELECT merge($$'wide', 'narrow', '{id}'$$);
TABLE wide ORDER BY id;

-- update_columns limits what is compared and updated, not what is inserted.
CREATE TABLE lim (id int PRIMARY KEY, a int, b int);
CREATE TABLE lim_src (LIKE lim);
INSERT INTO lim VALUES (1, 1, 1), (2, 2, 2);
INSERT INTO lim_src VALUES (1, 1, 9), (2, 9, 9), (3, 3, 3);
SELECT merge($$'lim', 'lim_src', '{id}', update_columns => '{a}'$$);
TABLE lim ORDER BY id;
INSERT INTO lim_src VALUES (4, 4, 4);
SELECT merge($$'lim', 'lim_src', '{id}', update_columns => '{}'$$);
SELECT merge($$'lim', 'lim_src', '{id}', update_columns => '{nope}'$$);
SELECT merge($$'lim', 'lim_src', '{id}', update_columns => '{id}'$$);

-- Keys of several columns, in any order; the target needs no constraint on them.
CREATE TABLE many (a int, b text, v int);
CREATE TABLE many_src (v int, b text, a int);
INSERT INTO many_src VALUES (1, 'x', 1), (2, 'y', 1), (3, 'x', 2);
SELECT merge($$'many', 'many_src', '{b, a}'$$);
UPDATE many_src SET v = 20 WHERE b = 'y';
SELECT merge($$'many', 'many_src', '{b, a}'$$);
TABLE many ORDER BY a, b;
INSERT INTO many VALUES (1, 'x', 5);
UPDATE many_src SET v = 30 WHERE (a, b) = (1, 'x');
SELECT merge($$'many', 'many_src', '{b, a}'$$);

-- Duplicates without a sequence.
CREATE TABLE dup (id int PRIMARY KEY, v int);
CREATE TABLE dup_src (id int, v int);
INSERT INTO dup_src VALUES (1, 1), (1, 1), (2, 1);
SELECT merge($$'dup', 'dup_src', '{id}'$$);
INSERT INTO dup_src VALUES (1, 2), (1, 3), (2, 5);
SELECT merge($$'dup', 'dup_src', '{id}'$$);
SELECT merge($$'dup', 'dup_src', '{id}', duplicates => 'dead_letter'$$);
TABLE dup ORDER BY id;
SELECT rejects('dup');
SELECT merge($$'dup', 'dup_src', '{id}', duplicates => 'last'$$);
TABLE dup ORDER BY id;

-- Null keys.
INSERT INTO dup_src VALUES (NULL, 7), (NULL, 8);
SELECT merge($$'dup', 'dup_src', '{id}', duplicates => 'last'$$);
SELECT merge($$'dup', 'dup_src', '{id}', duplicates => 'last', null_keys => 'dead_letter'$$);
SELECT rejects('dup') OFFSET 6;
-- they are rows and no text that could be edited
SELECT try(format('SELECT public.etl_dead_letter_edit(%s, ''8,8'')', min(dead_letter_id))) FROM etl_patterns.dead_letter;
SELECT count(*) FROM dup;

-- A sequence: the newest counts, whatever the order; stale rows are refused.
CREATE TABLE seq (id int PRIMARY KEY, v text, at timestamp);
CREATE TABLE seq_src (LIKE seq);
INSERT INTO seq_src VALUES (1, 'b', '2024-01-02'), (1, 'c', '2024-01-03'), (1, 'a', '2024-01-01'), (2, 'x', '2024-01-05');
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at'$$);
TABLE seq ORDER BY id;
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at'$$);
TRUNCATE seq_src;
INSERT INTO seq_src VALUES (1, 'old', '2024-01-02'), (2, 'same time', '2024-01-05');
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at'$$);
TABLE seq ORDER BY id;
-- newer, but equal: only the sequence moves
TRUNCATE seq_src;
INSERT INTO seq_src VALUES (1, 'c', '2024-01-09');
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at'$$);
INSERT INTO seq_src VALUES (1, 'late', '2024-01-08');
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at'$$);
TABLE seq ORDER BY id;
-- a stored row without a sequence is older than all
UPDATE seq SET at = NULL WHERE id = 2;
TRUNCATE seq_src;
INSERT INTO seq_src VALUES (2, 'any', '1999-01-01');
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at'$$);
TABLE seq ORDER BY id;
-- a null sequence obeys null_keys; a tie obeys duplicates
INSERT INTO seq_src VALUES (3, 'when?', NULL), (4, 'p', '2024-02-02'), (4, 'q', '2024-02-02'), (4, 'o', '2024-02-01');
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at'$$);
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at', null_keys => 'dead_letter'$$);
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at', null_keys => 'dead_letter', duplicates => 'dead_letter'$$);
TABLE seq ORDER BY id;
SELECT merge($$'seq', 'seq_src', '{id}', sequence_by => 'at', null_keys => 'dead_letter', duplicates => 'last'$$);
TABLE seq ORDER BY id;

-- Deletes, and the tombstones that they leave.
CREATE TABLE del (id int PRIMARY KEY, v text, ver bigint);
CREATE TABLE del_src (id int, v text, ver int, op text);
INSERT INTO del VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 5);
INSERT INTO del_src VALUES (1, NULL, 2, 'd'), (2, 'bb', 2, NULL), (3, NULL, 4, 'd'), (9, NULL, 7, 'd');
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
TABLE del ORDER BY id;
SELECT id, ver, deleted_at IS NOT NULL AS deleted_at, run_id > 0 AS run_id FROM del_tombstones ORDER BY id;
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
-- what is not newer than the delete stays away, what is newer comes back
TRUNCATE del_src;
INSERT INTO del_src VALUES (1, 'stale', 1, 'u'), (9, 'equal', 7, 'u');
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
UPDATE del_src SET ver = 8;
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
TABLE del ORDER BY id;
-- a delete beats an upsert of its time; a newer one moves the tombstone
TRUNCATE del_src;
INSERT INTO del_src VALUES (1, 'u', 9, 'u'), (1, NULL, 9, 'd'), (1, 'v', 9, 'u');
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
SELECT id, ver FROM del_tombstones ORDER BY id;
-- without tombstones nothing keeps it away
UPDATE del_src SET ver = 3, op = 'u', v = 'back';
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d''', keep_tombstones => false$$);
TABLE del ORDER BY id;
-- without a sequence there is nothing to remember
CREATE TABLE nos (id int, v text);
INSERT INTO nos VALUES (1, 'a'), (2, 'b');
SELECT merge($$'nos', 'del_src', '{id}', delete_when => 'v = ''back'''$$);
TABLE nos ORDER BY id;
SELECT to_regclass('nos_tombstones');
SELECT merge($$'nos', 'del_src', '{id}', keep_tombstones => true$$);
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'no such'$$);
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'v'$$);
-- an expression sees the source, and nothing else
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'deleted_at IS NOT NULL'$$);
SELECT merge($$'del', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'id = 1 AND ver > 0 AND op IS NULL'$$);
-- a row that deletes is not unchanged, however equal it is
SELECT merge($$'del', 'del', '{id}'$$);
CREATE TABLE twin AS TABLE del;
SELECT merge($$'del', 'twin', '{id}', delete_when => 'id = 2'$$);
SELECT merge($$'del', 'twin', '{id}', sequence_by => 'ver', delete_when => 'id = 3'$$);
TABLE del ORDER BY id;
-- another table of that name
CREATE TABLE nos_tombstones (id int);
ALTER TABLE nos ADD ver int;
SELECT merge($$'nos', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);

-- Keys that the target holds with another length, precision and collation.
CREATE TABLE typed (a char(5), b varchar(10) COLLATE "POSIX", c numeric(6, 1), v text, ver timestamp(0));
CREATE TABLE typed_src (a text, b text COLLATE "C", c float8, v varchar, ver timestamptz, op text);
INSERT INTO typed_src VALUES ('ab', 'Key', 1.04, 'x', '2024-01-01 10:00:00.6', NULL);
SELECT merge($$'typed', 'typed_src', '{a, b, c}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
SELECT merge($$'typed', 'typed_src', '{a, b, c}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
TABLE typed;
UPDATE typed_src SET op = 'd', ver = '2024-01-01 10:00:01.2';
SELECT merge($$'typed', 'typed_src', '{a, b, c}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
TABLE typed;
UPDATE typed_src SET op = 'u', ver = '2024-01-01 10:00:01.1';
SELECT merge($$'typed', 'typed_src', '{a, b, c}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
SELECT a, b, c, ver FROM typed_tombstones;
UPDATE typed_src SET ver = '2024-01-01 10:00:01.3';
SELECT merge($$'typed', 'typed_src', '{a, b, c}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
TABLE typed;

-- Targets that are no plain table.
CREATE TABLE part (id int, v text, ver int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
CREATE TABLE part_src (id int, v text, ver int, op text);
INSERT INTO part VALUES (1, 'a', 1), (11, 'b', 1), (12, 'c', 1);
INSERT INTO part_src VALUES (1, 'aa', 2, 'u'), (11, NULL, 2, 'd'), (2, 'new', 2, 'u'), (12, 'c', 1, 'u');
SELECT merge($$'part', 'part_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''d'''$$);
SELECT tableoid::regclass, * FROM part ORDER BY id;
CREATE VIEW over AS SELECT * FROM part WHERE id < 10;
DELETE FROM part_src WHERE id >= 10;
UPDATE part_src SET v = v || '!' WHERE id = 2;
SELECT merge($$'over', 'part_src', '{id}', sequence_by => 'ver', delete_when => 'id = 1'$$);
TABLE part ORDER BY id;
CREATE TABLE logged (id int PRIMARY KEY, v text);
INSERT INTO logged VALUES (2, 'b'), (12, 'c');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON logged FOR EACH ROW EXECUTE FUNCTION shout();
SELECT merge($$'logged', 'part', '{id}'$$);
TABLE logged ORDER BY id;

-- A table that a stranger made is not touched: his triggers would run as us.
CREATE ROLE etl_test_owner;
CREATE ROLE etl_test_loader;
CREATE ROLE etl_test_stranger;
CREATE SCHEMA shared;
GRANT USAGE, CREATE ON SCHEMA shared TO etl_test_stranger, etl_test_owner;
GRANT USAGE ON SCHEMA shared TO etl_test_loader;
GRANT SELECT ON del_src TO etl_test_loader;
CREATE TABLE shared.d (id int PRIMARY KEY, v text, ver bigint);
ALTER TABLE shared.d OWNER TO etl_test_owner;
GRANT SELECT, INSERT, UPDATE, DELETE ON shared.d TO etl_test_loader;
SET ROLE etl_test_loader;
SELECT merge($$'shared.d', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''u'''$$);
SET ROLE etl_test_stranger;
CREATE TABLE shared.d_tombstones (id int PRIMARY KEY, ver bigint NOT NULL, deleted_at timestamptz, run_id bigint);
GRANT ALL ON shared.d_tombstones TO PUBLIC;
SET ROLE etl_test_loader;
SELECT merge($$'shared.d', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''u'''$$);
RESET ROLE;
ALTER TABLE shared.d_tombstones OWNER TO etl_test_owner;
SET ROLE etl_test_loader;
SELECT merge($$'shared.d', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''u'''$$);
RESET ROLE;
SELECT id, ver FROM shared.d_tombstones;

-- A tombstone that row security hides would not keep its key away.
ALTER TABLE shared.d_tombstones ENABLE ROW LEVEL SECURITY;
CREATE POLICY none ON shared.d_tombstones USING (false) WITH CHECK (true);
GRANT ALL ON shared.d_tombstones TO etl_test_loader;
SET ROLE etl_test_loader;
SELECT merge($$'shared.d', 'del_src', '{id}', sequence_by => 'ver', delete_when => 'op = ''u'''$$);
RESET ROLE;
DROP OWNED BY etl_test_owner, etl_test_loader, etl_test_stranger;
DROP SCHEMA shared CASCADE;
DROP ROLE etl_test_owner, etl_test_loader, etl_test_stranger;

-- A name that is too long, and columns named as ours.
CREATE TABLE a_target_whose_name_leaves_no_room_for_a_suffix_beside_it (run_id int, deleted_at int, v text);
CREATE TABLE long_src (run_id int, deleted_at int, v text, gone bool);
INSERT INTO long_src VALUES (1, 5, NULL, true);
SELECT merge($$'a_target_whose_name_leaves_no_room_for_a_suffix_beside_it', 'long_src', '{run_id}',
    sequence_by => 'deleted_at', delete_when => 'gone'$$);
SELECT relname, attname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
WHERE relname ~ '^a_target.*tombstones$' AND relkind = 'r' AND attnum > 0 ORDER BY attnum;

-- absent => 'delete': the source is the whole truth.
CREATE TABLE abs (id int PRIMARY KEY, v int);
CREATE TABLE abs_src (LIKE abs);
INSERT INTO abs SELECT i, i FROM generate_series(1, 10) i;
INSERT INTO abs_src SELECT i, i FROM generate_series(3, 11) i;
SELECT merge($$'abs', 'abs_src', '{id}', absent => 'delete', max_delete_fraction => 0.1$$);
SELECT count(*) FROM abs;
SELECT merge($$'abs', 'abs_src', '{id}', absent => 'delete', max_delete_fraction => 0.2$$);
SELECT string_agg(id::text, ' ' ORDER BY id) FROM abs;
SELECT detail FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
TRUNCATE abs_src;
SELECT merge($$'abs', 'abs_src', '{id}', absent => 'delete'$$);
SELECT count(*) FROM abs;
ALTER TABLE abs_src ALTER id DROP NOT NULL;
INSERT INTO abs_src VALUES (NULL, 1);
SELECT merge($$'abs', 'abs_src', '{id}', absent => 'delete', null_keys => 'dead_letter'$$);
SELECT count(*) FROM abs;
TRUNCATE abs_src;
SELECT merge($$'abs', 'abs_src', '{id}', absent => 'delete', max_delete_fraction => 1$$);
SELECT count(*) FROM abs;

-- with a sequence: as of the newest row of the source
CREATE TABLE absq (id int PRIMARY KEY, v text, ver int);
CREATE TABLE absq_src (LIKE absq);
INSERT INTO absq VALUES (1, 'older', 1), (2, 'newer', 9), (3, 'unknown', NULL), (4, 'there', 2);
INSERT INTO absq_src VALUES (4, 'there', 5);
SELECT merge($$'absq', 'absq_src', '{id}', sequence_by => 'ver', absent => 'delete'$$);
TABLE absq ORDER BY id;
TRUNCATE absq_src;
SELECT merge($$'absq', 'absq_src', '{id}', sequence_by => 'ver', absent => 'delete', max_delete_fraction => 1$$);
SELECT count(*) FROM absq;

-- What is asked must make sense before a row is read.
SELECT merge($$NULL, 's', '{id}'$$);
SELECT merge($$'t', NULL, '{id}'$$);
SELECT merge($$'t', 's', NULL$$);
SELECT merge($$'t', 's', '{}'$$);
SELECT merge($$'t', 's', '{nope}'$$);
SELECT merge($$'wide', 'narrow', '{note}'$$);
SELECT merge($$'t', 's', '{id, id}'$$);
SELECT merge($$'t', 's', '{info}'$$);
SELECT merge($$'t', 's', '{id}', absent => 'close'$$);
SELECT merge($$'t', 's', '{id}', duplicates => 'first'$$);
SELECT merge($$'t', 's', '{id}', null_keys => 'ignore'$$);
SELECT merge($$'t', 's', '{id}', sequence_by => 'nope'$$);
SELECT merge($$'t', 's', '{id}', sequence_by => 'id'$$);
SELECT merge($$'t', 's', '{id}', sequence_by => 'info'$$);
SELECT merge($$'t', 's', '{id}', max_delete_fraction => 2, absent => 'delete'$$);
SELECT merge($$'t', 's', '{id}', max_delete_fraction => 0.5$$);
SELECT merge($$'t', 't_pkey', '{id}'$$);
\i :end
