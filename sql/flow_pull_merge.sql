--
-- Pulls through the merge family: etl_incremental_pull() with keys.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin

SET datestyle = 'ISO, YMD';

-- Pulls and tells the counts that are not zero and the watermark, or the
-- whole error.
CREATE FUNCTION pull(args text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT try(format(
        'SELECT concat_ws('', '', rows_read || '' read'', nullif(rows_inserted, 0) || '' inserted'','
        ' nullif(rows_updated, 0) || '' updated'', nullif(rows_unchanged, 0) || '' unchanged'','
        ' nullif(rows_rejected, 0) || '' rejected'', ''up to '' || watermark_high, nullif(more, false))'
        ' FROM public.etl_incremental_pull(%s)', args))
$$;

-- What a run's detail says of the merge.
CREATE FUNCTION last_merge(VARIADIC members text[]) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_object_agg(m, detail->'merge'->m)
    FROM (SELECT detail FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1) r, unnest(members) m
$$;

-- A source with a mark for deleted rows, and a number that only grows.
CREATE TABLE s (id int, name text, price numeric, gone boolean NOT NULL DEFAULT false,
    n bigint NOT NULL GENERATED ALWAYS AS IDENTITY);
CREATE INDEX ON s (n);
CREATE FUNCTION touch(of_id int, new_name text, new_price numeric, is_gone boolean DEFAULT false) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM s WHERE id = of_id;
    INSERT INTO s (id, name, price, gone) VALUES (of_id, new_name, new_price, is_gone)
$$;
CREATE FUNCTION restart() RETURNS void LANGUAGE sql AS $$
    TRUNCATE s RESTART IDENTITY;
    SELECT touch(i, 'name ' || i, i) FROM generate_series(1, 4) i
$$;

-- upsert: three pulls with updates, a delete and a row that comes back.
SELECT restart();
CREATE TABLE up (id int PRIMARY KEY, name text, price numeric, n bigint);
\set args '''up'', ''s'', ''up'', ''n'', ''{id}'', ''upsert'', ''{"delete_when": "gone", "sequence_by": "n"}'''
SELECT pull(:'args');
SELECT touch(2, 'two', 2.5);
SELECT touch(3, 'name 3', 3, true);
SELECT touch(5, 'name 5', 5);
SELECT pull(:'args');
TABLE up ORDER BY id;
SELECT id, n FROM up_tombstones;
SELECT touch(3, 'three', 3);
SELECT touch(1, 'name 1', 1);
SELECT touch(6, 'never there', 6, true);
SELECT pull(:'args');
TABLE up ORDER BY id;
SELECT pull(:'args');

-- The runs are those of the pull, and the tombstones know them.
SELECT operation, name, target, status, rows_read, rows_inserted, rows_updated, rows_deleted, rows_unchanged,
    watermark_low, watermark_high, detail->>'apply' AS apply, detail->'merge'->>'stale' AS stale
FROM etl_patterns.run ORDER BY run_id;
SELECT t.id, t.n, r.operation, r.watermark_high FROM up_tombstones t JOIN etl_patterns.run r USING (run_id) ORDER BY id;
SELECT (detail->'merge') - 'way' AS merge FROM etl_patterns.run ORDER BY run_id LIMIT 1;

-- What is older than a tombstone or than what is stored is stale.
INSERT INTO up VALUES (7, 'by hand', 7, 1000);
SELECT touch(7, 'seven', 7);
SELECT pull(:'args');
SELECT last_merge('stale');
SELECT * FROM up WHERE id = 7;

-- scd1, of some columns, with a range that was read before: etl_backfill().
SELECT restart();
CREATE TABLE one (id int PRIMARY KEY, name text, price numeric);
\set args '''one'', ''s'', ''one'', ''n'', ''{id}'', ''scd1'', ''{"columns": ["id", "name"]}'''
SELECT pull(:'args');
TABLE one ORDER BY id;
UPDATE one SET name = 'spoilt', price = 9 WHERE id < 3;
SELECT touch(4, 'four', 4);
SELECT pull(:'args');
SELECT try($$SELECT rows_read, rows_updated, rows_unchanged FROM etl_backfill('one', '1', '3')$$);
TABLE one ORDER BY id;
SELECT etl_watermark_get('one');

-- Without a key in "columns" it is read all the same.
SELECT pull($$'one b', 's', 'one', 'n', '{id}', 'scd1', '{"columns": ["price"], "update_columns": ["price"]}'$$);
TABLE one ORDER BY id;

-- What deletes and what orders need not be among the columns.
CREATE TABLE narrow (id int PRIMARY KEY, name text, price numeric, n bigint);
SELECT pull($$'narrow', 's', 'narrow', 'n', '{id}', 'upsert',
    '{"columns": ["name"], "sequence_by": "n", "delete_when": "etl_s.is_gone"}'$$);
\set args '''narrow'', ''s'', ''narrow'', ''n'', ''{id}'', ''upsert'', ''{"columns": ["name"], "sequence_by": "n", "delete_when": "etl_s.gone"}'''
SELECT pull(:'args');
SELECT touch(2, NULL, NULL, true);
SELECT pull(:'args');
TABLE narrow ORDER BY id;

-- scd3.
SELECT restart();
CREATE TABLE three (id int PRIMARY KEY, name text, former text, changed timestamptz);
\set args '''three'', ''s'', ''three'', ''n'', ''{id}'', ''scd3'', ''{"previous": {"name": "former"}, "changed_at": "changed"}'''
SELECT pull(:'args');
SELECT touch(1, 'one', 1);
SELECT touch(2, 'name 2', 2);
SELECT pull(:'args');
SELECT touch(1, 'first', 1);
SELECT pull(:'args');
SELECT id, name, former, changed IS NOT NULL AS changed FROM three ORDER BY id;

-- scd2: the cursor says when a row takes effect, and a key may change several
-- times between two pulls.
CREATE TABLE log (id int, name text, op text, at timestamp);
CREATE TABLE two (id int, name text, valid_from timestamp, valid_to timestamp, is_current boolean);
INSERT INTO log VALUES (1, 'a', 'I', '2024-01-01'), (2, 'x', 'I', '2024-01-02'), (1, 'b', 'U', '2024-01-03'),
    (1, 'c', 'U', '2024-01-04');
\set args '''two'', ''log'', ''two'', ''at'', ''{id}'', ''scd2'', ''{"sequence_by": "at", "delete_when": "op = ''''D''''"}'', ''none'''
SELECT pull(:'args');
TABLE two ORDER BY id, valid_from;
INSERT INTO log VALUES (1, 'c', 'U', '2024-01-05'), (2, NULL, 'D', '2024-01-06'), (2, 'y', 'I', '2024-01-07'),
    (2, 'z', 'U', '2024-01-07 12:00'), (3, 'q', 'I', '2024-01-08');
SELECT pull(:'args');
SELECT last_merge('opened', 'closed', 'revived', 'late');
INSERT INTO log VALUES (1, 'd', 'U', '2024-01-09'), (3, NULL, 'D', '2024-01-09');
SELECT pull(:'args');
TABLE two ORDER BY id, valid_from;
SELECT * FROM etl_scd2_verify('two', '{id}');

-- Read again, nothing changes.
SELECT pull(:'args' || ', lookback => ''1 year''');
SELECT count(*) FROM two;

-- With a change log, batch by batch.
CREATE TABLE logged (LIKE two);
SELECT pull($$'logged', 'log', 'logged', 'at', '{id}', 'scd2',
    '{"sequence_by": "at", "delete_when": "op = ''D''", "change_log": true}', 'none', batch_rows => 3$$)
FROM generate_series(1, 4);
(TABLE two EXCEPT ALL TABLE logged) UNION ALL (TABLE logged EXCEPT ALL TABLE two);
SELECT count(*) FROM logged_changes;

-- append with keys: what is there stays, the first of a new key is stored.
CREATE TABLE app (id int, name text);
INSERT INTO app VALUES (2, 'mine'), (3, 'mine'), (3, 'mine, too');
\set args '''app'', ''log'', ''app'', ''at'', ''{id}'', safety => ''none'''
SELECT pull(:'args');
TABLE app ORDER BY id, name;
INSERT INTO log VALUES (4, 'new', 'I', '2024-01-10'), (1, 'z', 'U', '2024-01-10');
SELECT pull(:'args');
SELECT pull(:'args' || ', lookback => ''10 days''');
TABLE app ORDER BY id, name;

-- duplicates => 'last' is the last by the cursor, however the rows lie.
CREATE TABLE heap (id int, name text, at int);
INSERT INTO heap VALUES (1, 'late', 3), (1, 'early', 1), (1, 'middle', 2);
CREATE TABLE last (id int, name text);
SELECT pull($$'last', 'heap', 'last', 'at', '{id}', 'upsert', safety => 'none'$$);
SELECT pull($$'last', 'heap', 'last', 'at', '{id}', 'upsert', '{"duplicates": "last"}', 'none'$$);
TABLE last;

-- Dead letters are the pull's.
INSERT INTO heap VALUES (NULL, 'no key', 4), (2, 'two', 5), (3, 'a', 6), (3, 'b', 7);
SELECT pull($$'last', 'heap', 'last', 'at', '{id}', 'upsert',
    '{"duplicates": "dead_letter", "null_keys": "dead_letter"}', 'none'$$);
TABLE last ORDER BY id;
SELECT d.operation, d.source_name, d.category, d.error_message, d.payload, d.run_id = r.run_id AS of_last_run
FROM etl_patterns.dead_letter d, (SELECT max(run_id) AS run_id FROM etl_patterns.run) r
ORDER BY dead_letter_id;

-- Rows without a cursor are read each time.
CREATE TABLE nulls (id int PRIMARY KEY, name text, at int);
INSERT INTO nulls VALUES (1, 'one', 1), (2, 'two', NULL);
CREATE TABLE nulls_too (id int PRIMARY KEY, name text);
\set args '''nulls'', ''nulls'', ''nulls_too'', ''at'', ''{id}'', ''upsert'', safety => ''none'', null_cursor => ''include'''
SELECT pull(:'args');
UPDATE nulls SET name = 'changed' WHERE id = 2;
SELECT pull(:'args');
TABLE nulls_too ORDER BY id;

-- Flags: the rows are at hand already, and the flag is not a column.
CREATE TABLE flagged (id int PRIMARY KEY, name text, gone boolean DEFAULT false, dirty boolean DEFAULT true);
INSERT INTO flagged VALUES (1, 'one'), (2, 'two'), (3, 'three');
CREATE TABLE clean (id int PRIMARY KEY, name text, dirty boolean);
\set args '''flags'', ''flagged'', ''clean'', flag_column => ''dirty'', keys => ''{id}'', apply => ''upsert'', apply_options => ''{"delete_when": "gone"}'''
SELECT pull(:'args');
UPDATE flagged SET name = 'deux', dirty = true WHERE id = 2;
UPDATE flagged SET gone = true, dirty = true WHERE id = 3;
SELECT pull(:'args');
TABLE clean ORDER BY id;
SELECT pull(:'args');

-- A few rows for a large table are looked up, many are not.
CREATE TABLE big (id int PRIMARY KEY, v int, n int);
INSERT INTO big SELECT i, i, i FROM generate_series(1, 20000) i;
CREATE INDEX ON big (n);
CREATE TABLE copy (id int PRIMARY KEY, v int);
ANALYZE big;
SELECT pull($$'big', 'big', 'copy', 'n', '{id}', 'upsert', safety => 'none'$$);
SELECT last_merge('way');
ANALYZE copy;
INSERT INTO big SELECT i, i, i FROM generate_series(20001, 20020) i;
UPDATE big SET v = -1, n = 20021 WHERE id = 7;
SELECT pull($$'big', 'big', 'copy', 'n', '{id}', 'upsert', safety => 'none'$$);
SELECT last_merge('way');
(SELECT id, v FROM big EXCEPT ALL TABLE copy) UNION ALL (TABLE copy EXCEPT ALL SELECT id, v FROM big);

-- The same as the plain function with a view of the range, for each function,
-- range by range.
CREATE TABLE events AS
SELECT (i * 7919 % 37) AS id, CASE WHEN i % 5 = 0 THEN NULL ELSE 'v' || (i * 31 % 4) END AS name,
    (i * 17 % 11)::numeric AS price, i % 13 = 0 AS gone, i AS n, timestamp '2024-01-01' + i * interval '1 hour' AS at
FROM generate_series(1, 400) i;
CREATE TABLE t_upsert (id int, name text, price numeric, n int);
CREATE TABLE t_scd2 (id int, name text, price numeric, valid_from timestamp, valid_to timestamp, is_current boolean);
CREATE TABLE t_scd3 (id int, name text, price numeric, former text);
CREATE TABLE p_upsert (LIKE t_upsert);
CREATE TABLE p_scd1 (LIKE t_upsert);
CREATE TABLE p_scd2 (LIKE t_scd2);
CREATE TABLE p_scd3 (LIKE t_scd3);
CREATE FUNCTION differ(a regclass, b regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL TABLE %2$s) UNION ALL'
        ' (TABLE %2$s EXCEPT ALL TABLE %1$s)) d', a, b) INTO n;
    RETURN n;
END $$;
CREATE FUNCTION both_ways(lo int, hi int) RETURNS TABLE (upsert bigint, scd1 bigint, scd2 bigint, scd3 bigint)
LANGUAGE plpgsql AS $$
DECLARE
    up_to text := (hi + 1)::text;
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW part AS SELECT * FROM events WHERE n BETWEEN %s AND %s', lo, hi);
    EXECUTE format('CREATE OR REPLACE VIEW latest AS SELECT DISTINCT ON (id) id, name, price FROM events'
        ' WHERE n BETWEEN %s AND %s ORDER BY id, n DESC', lo, hi);
    PERFORM etl_upsert('t_upsert', 'part', '{id}', sequence_by => 'n', delete_when => 'gone');
    PERFORM etl_scd2_merge('t_scd2', 'part', '{id}', sequence_by => 'at', delete_when => 'gone', tracked => '{name}');
    PERFORM etl_scd3_merge('t_scd3', 'latest', '{id}', '{"name": "former"}');
    PERFORM etl_incremental_pull('e upsert', 'events', 'p_upsert', 'n', '{id}', 'upsert',
        '{"sequence_by": "n", "delete_when": "gone"}', 'none', end_value => up_to);
    PERFORM etl_incremental_pull('e scd1', 'events', 'p_scd1', 'n', '{id}', 'scd1',
        '{"sequence_by": "n", "delete_when": "gone"}', 'none', end_value => up_to);
    PERFORM etl_incremental_pull('e scd2', 'events', 'p_scd2', 'n', '{id}', 'scd2',
        '{"sequence_by": "at", "delete_when": "gone", "tracked": ["name"]}', 'none', end_value => up_to);
    PERFORM etl_incremental_pull('e scd3 ' || hi, 'latest', 'p_scd3', 'id', '{id}', 'scd3',
        '{"previous": {"name": "former"}}', 'none');
    RETURN QUERY SELECT differ('t_upsert', 'p_upsert'), differ('t_upsert', 'p_scd1'), differ('t_scd2', 'p_scd2'),
        differ('t_scd3', 'p_scd3');
END $$;
SELECT * FROM both_ways(1, 100);
SELECT * FROM both_ways(101, 101);
SELECT * FROM both_ways(102, 399);
SELECT * FROM both_ways(400, 400);
SELECT (SELECT count(*) FROM p_upsert) AS upsert, (SELECT count(*) FROM p_scd2) AS scd2, (SELECT count(*) FROM p_scd3) AS scd3;
SET etl_patterns.merge_path = 'general';
TRUNCATE t_upsert, p_upsert, p_scd1, t_scd2, p_scd2, t_scd3, p_scd3, t_upsert_tombstones, p_upsert_tombstones, p_scd1_tombstones;
SELECT count(etl_watermark_reset(pipeline)) FROM etl_patterns.watermark WHERE pipeline LIKE 'e %';
SELECT * FROM both_ways(1, 250);
SELECT * FROM both_ways(251, 400);
RESET etl_patterns.merge_path;

-- Options that are none, or not the pull's; nothing is read, and there is no
-- watermark.
CREATE FUNCTION options(apply text, options text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT pull(format($f$'bad', 's', 'up', 'n', '{id}', %L, %L, 'none'$f$, apply, options))
$$;
SELECT options('upsert', '[]');
SELECT options('upsert', '{"tracked": ["name"]}');
SELECT options('scd1', '{"SEQUENCE_BY": "n"}');
SELECT options('scd2', '{"keep_tombstones": true}');
SELECT options('scd3', '{"sequence_by": "n"}');
SELECT options('append', '{"sequence_by": "n"}');
SELECT options('upsert', '{"target": "up"}');
SELECT options('upsert', '{"source": "up"}');
SELECT options('scd2', '{"keys": ["id"]}');
SELECT options('scd2', '{"dry_run": true}');
SELECT options('upsert', '{"absent": "delete"}');
SELECT options('upsert', '{"max_delete_fraction": 1}');
SELECT options('scd2', '{"absent_scope": ["id"]}');
SELECT options('scd2', '{"max_close_fraction": 0.5}');
SELECT options('upsert', '{"update_columns": "name"}');
SELECT options('upsert', '{"update_columns": ["name", null]}');
SELECT options('upsert', '{"update_columns": {"name": 1}}');
SELECT options('upsert', '{"sequence_by": ["n"]}');
SELECT options('upsert', '{"delete_when": {"gone": true}}');
SELECT options('upsert', '{"keep_tombstones": "perhaps"}');
SELECT options('upsert', '{"keep_tombstones": true}');
SELECT options('upsert', '{"duplicates": "first"}');
SELECT options('upsert', '{"duplicates": null}');
SELECT options('upsert', '{"delete_when": "gone, true"}');
SELECT options('upsert', '{"sequence_by": "none"}');
SELECT options('upsert', '{"columns": []}');
SELECT options('upsert', '{"columns": "name"}');
SELECT options('append', '{"columns": ["name", 1]}');
SELECT options('upsert', '{"columns": ["name", "none"]}');
SELECT options('upsert', '{"columns": ["gone"]}');
SELECT options('scd2', '{}');
SELECT options('scd3', '{}');
SELECT options('scd3', '{"previous": "name"}');
SELECT options('scd2', '{"sequence_by": "n", "effective_at": "2024-01-01"}');
SELECT etl_watermark_get('bad') IS NULL AS none;

-- Null is the same as not given where that is null, scalars may be of any
-- JSON type that the parameter's type can read.
SELECT options('upsert', '{"sequence_by": null, "update_columns": null, "columns": null, "keep_tombstones": "off"}');

-- Functions of the same name that others have made are not taken for ours.
CREATE FUNCTION public.etl_upsert(target regclass, note text) RETURNS text LANGUAGE sql AS $$ SELECT note $$;
SELECT options('upsert', '{"note": "x"}');
DROP FUNCTION public.etl_upsert(regclass, text);

-- A pull needs the rights of a merge.
CREATE ROLE regress_etl_puller;
GRANT USAGE ON SCHEMA etl_test, public TO regress_etl_puller;
GRANT SELECT ON s, log TO regress_etl_puller;
GRANT SELECT, INSERT ON app TO regress_etl_puller;
SET ROLE regress_etl_puller;
SELECT pull($$'mine', 'log', 'app', 'at', '{id}', 'upsert', safety => 'none'$$);
RESET ROLE;
GRANT UPDATE ON app TO regress_etl_puller;
SET ROLE regress_etl_puller;
SELECT pull($$'mine', 'log', 'app', 'at', '{id}', safety => 'none'$$);
RESET ROLE;
DROP OWNED BY regress_etl_puller;
DROP ROLE regress_etl_puller;

-- More keys than the memory for them: those that are new are told by bits, and
-- the others looked at again.  The first row of a key counts, a key may be
-- stored twice, and numbers are equal whatever digits they show.
CREATE TABLE many (id int, k numeric, note text);
INSERT INTO many SELECT n, (n * 7919 % 60000) / 10.0, 'row ' || n
  FROM generate_series(1, 80000) n;
CREATE TABLE many_target (k numeric, note text, id int);
CREATE FUNCTION append_many(memory text, path text,
                            OUT read bigint, OUT inserted bigint, OUT unchanged bigint, OUT duplicates text,
                            OUT wrong bigint) AS $$
DECLARE
    pull record;
BEGIN
    PERFORM set_config('work_mem', memory, true), set_config('etl_patterns.merge_path', path, true);
    TRUNCATE many_target;
    INSERT INTO many_target SELECT k * 1.000, 'stored', -1 FROM many WHERE id <= 60000 AND id % 3 = 0;
    INSERT INTO many_target SELECT k, 'stored', -1 FROM many WHERE id = 3;
    ANALYZE many_target;
    PERFORM public.etl_watermark_reset('many');
    SELECT * INTO pull FROM public.etl_incremental_pull('many', 'many', 'many_target', 'id', safety => 'none', keys => '{k}');
    SELECT r.rows_read, r.rows_inserted, r.rows_unchanged, r.detail -> 'merge' ->> 'duplicates'
      INTO read, inserted, unchanged, duplicates FROM etl_patterns.run r WHERE r.run_id = pull.run_id;
    SELECT count(*) INTO wrong
      FROM (SELECT t.k, min(t.note) AS note, min(t.id) AS id, count(*) AS n FROM many_target t GROUP BY 1) t
      FULL JOIN (SELECT s.k, min(s.id) AS id FROM many s GROUP BY 1) s USING (k)
     WHERE (t.n, t.id, t.note) IS DISTINCT FROM
           (1 + (s.id = 3)::int, CASE WHEN s.id % 3 = 0 THEN -1 ELSE s.id END,
            CASE WHEN s.id % 3 = 0 THEN 'stored' ELSE 'row ' || s.id END);
END $$ LANGUAGE plpgsql;
SELECT * FROM append_many('64MB', 'auto');
SELECT * FROM append_many('64kB', 'auto');
SELECT * FROM append_many('64MB', 'general');
DROP FUNCTION append_many;
DROP TABLE many, many_target;

-- Keys that differ although all their hashes are the same.
CREATE TABLE folded (id int, k bigint[], i interval);
CREATE TABLE folded_target (LIKE folded);
INSERT INTO folded_target VALUES (1, '{1}', '1 microsecond');
INSERT INTO folded VALUES (1, '{4294967296}', 4294967296 * interval '1 microsecond'), (2, '{1}', '1 microsecond');
SELECT pull($$'folded', 'folded', 'folded_target', 'id', safety => 'none', keys => '{k}'$$);
DELETE FROM folded_target WHERE k <> '{1}';
SELECT pull($$'folded i', 'folded', 'folded_target', 'id', safety => 'none', keys => '{i}'$$);
TABLE folded_target ORDER BY k, id;
DELETE FROM folded_target WHERE k <> '{1}';
SELECT pull($$'folded up', 'folded', 'folded_target', 'id', apply => 'upsert', safety => 'none', keys => '{k}'$$);
TABLE folded_target ORDER BY k, id;
DROP TABLE folded, folded_target;

\i :end
