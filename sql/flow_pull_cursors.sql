--
-- Incremental pulls over cursors of all types, and values that are in no
-- order.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull

-- Pulls a table with a cursor of this type in batches.  "value" is the cursor
-- of row i, from n = i / 7, so that seven rows have the same one.  The second
-- half of the rows is written when the first has been read.  After each batch
-- the target must have just the rows up to the watermark.  Session settings
-- change with every batch.
CREATE FUNCTION sweep(cursor_type text, value text, batch int, safety text DEFAULT 'auto') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    r record;
    wrong bigint;
    batches int := 0;
    half int;
    saved text := current_setting('TimeZone');
BEGIN
    EXECUTE format('CREATE TABLE s (i int, c %s)', cursor_type);
    CREATE TABLE t (LIKE s);
    FOR half IN 0..1 LOOP
        EXECUTE format('INSERT INTO s SELECT i, %s FROM (SELECT i, (i / 7) AS n FROM generate_series(%s, %s) AS i) AS x'
            ' ORDER BY i DESC', value, 490 * half, 490 * half + 489);
        LOOP
            batches := batches + 1;
            PERFORM set_config('DateStyle', (ARRAY['SQL, DMY', 'German', 'ISO, YMD', 'Postgres, MDY'])[1 + batches % 4], true),
                set_config('TimeZone', (ARRAY['America/New_York', 'Asia/Kathmandu', 'UTC'])[1 + batches % 3], true),
                set_config('extra_float_digits', (batches % 19 - 15)::text, true),
                set_config('bytea_output', (ARRAY['hex', 'escape'])[1 + batches % 2], true),
                set_config('IntervalStyle', (ARRAY['iso_8601', 'sql_standard', 'postgres'])[1 + batches % 3], true),
                set_config('search_path', (ARRAY['etl_test, public', '', 'etl_test, pg_catalog'])[1 + batches % 3], true);
            SELECT * INTO r FROM public.etl_incremental_pull('sweep', 'etl_test.s', 'etl_test.t', 'c',
                safety => sweep.safety, batch_rows => batch);
            PERFORM set_config('search_path', 'etl_test, public', true), set_config('TimeZone', saved, true);
            IF r.rows_read > greatest(batch, 7) OR r.rows_read <> r.rows_inserted
                OR r.watermark_high IS DISTINCT FROM public.etl_watermark_get('sweep') THEN
                RETURN format('%s: batch %s is %s', cursor_type, batches, r);
            END IF;
            EXECUTE 'SET LOCAL DateStyle = ISO';
            EXECUTE format('SELECT count(*) FROM (SELECT * FROM s WHERE c <= %L EXCEPT ALL TABLE t) x', r.watermark_high) INTO wrong;
            IF wrong <> 0 OR (SELECT count(*) FROM t) > (SELECT count(*) FROM s) THEN
                RETURN format('%s: %s rows up to %s are missing', cursor_type, wrong, r.watermark_high);
            END IF;
            EXIT WHEN NOT r.more;
        END LOOP;
    END LOOP;
    SELECT * INTO r FROM missing('s', 't');
    DROP TABLE s, t;
    PERFORM public.etl_watermark_reset('sweep');
    RETURN format('%s: %s missing, %s too many, %s batches', cursor_type, r.missing, r.too_many, batches);
END $$;

-- Each half has seventy values of seven rows: a batch of 20 holds two of them,
-- and one that is too small for one value holds one all the same.
SELECT sweep('timestamp', $$timestamp '2020-02-29 23:59:59.999' + n * interval '100 microseconds'$$, 20);
SELECT sweep('timestamptz', $$timestamptz '2020-03-29 00:59:59.999+00' + n * interval '1 microsecond'$$, 20);
SELECT sweep('date', $$date '1999-12-30' + n$$, 10);
SELECT sweep('smallint', $$n - 70$$, 20);
SELECT sweep('int', $$n - 70$$, 1);
SELECT sweep('bigint', $$n + 9007199254740993$$, 20);
SELECT sweep('numeric', $$n / 3.0 - 5$$, 20);
SELECT sweep('numeric(20,10)', $$n / 3.0$$, 100000);
SELECT sweep('float8', $$n / 3.0::float8$$, 20, 'lock_wait');
SELECT sweep('float4', $$n / 3.0::float4$$, 20, 'lock_wait');
SELECT sweep('text', $$'it''s "' || lpad(n::text, 5, '0') || E'"\\'$$, 20, 'lock_wait');
SELECT sweep('text COLLATE "C"', $$chr(200 + n) || n$$, 20, 'lock_wait');
SELECT sweep('varchar(10)', $$lpad(n::text, 10, '0')$$, 20, 'none');
SELECT sweep('char(10)', $$lpad(n::text, 5, '0')$$, 20, 'none');
SELECT sweep('uuid', $$lpad(to_hex(n), 32, '0')::uuid$$, 20, 'lock_wait');
SELECT sweep('bytea', $$decode(lpad(to_hex(n), 8, '0'), 'hex')$$, 20, 'none');
SELECT sweep('interval', $$n * interval '1 day 1.000001 seconds'$$, 20, 'none');
SELECT sweep('time', $$time '00:00' + n * interval '1.5 seconds'$$, 20, 'none');
SELECT sweep('inet', $$inet '10.0.0.0' + n$$, 20, 'none');
SELECT sweep('pg_lsn', $$pg_lsn '0/0' + n$$, 20, 'none');
SELECT sweep('oid', $$n::oid$$, 20, 'none');
SELECT sweep('xid8', $$n::text::xid8$$, 20, 'none');
SELECT sweep('int[]', $$ARRAY[n, -n]$$, 20, 'none');
CREATE DOMAIN moment AS timestamptz NOT NULL;
CREATE DOMAIN number AS int CHECK (value >= 0);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
SELECT sweep('moment', $$timestamptz '2020-01-01' + n * interval '1 hour'$$, 20);
SELECT sweep('number', $$n$$, 20);
SELECT sweep('mood', $$CASE WHEN n < 70 THEN 'sad' ELSE 'happy' END::mood$$, 2000, 'none');

-- The watermark's form does not depend on the session.
CREATE TABLE s (a timestamptz, b timestamp, c date, d float8, e bytea);
INSERT INTO s VALUES ('2020-07-01 12:00:00.000001+02', '2020-07-01 12:00:00.1', '2020-07-01', 0.1::float8 + 0.2, '\x00ff');
CREATE TABLE t (LIKE s);
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'Australia/Lord_Howe';
SET extra_float_digits = -10;
SET bytea_output = 'escape';
SELECT pull(c, 's', 't', format('%L, safety => ''none''', c)) FROM unnest('{a,b,c,d,e}'::text[]) c;
RESET DateStyle;
SET TimeZone = 'UTC';
RESET extra_float_digits;
RESET bytea_output;
SELECT pipeline, value FROM etl_patterns.watermark ORDER BY pipeline;
SELECT pull(c, 's', 't', format('%L, safety => ''none''', c)) FROM unnest('{a,b,c,d,e}'::text[]) c;
-- A value that is set by hand is read as the session writes it, and stored in
-- that form.
SET DateStyle = 'SQL, DMY';
SELECT etl_watermark_set('c', '02/01/2020');
SELECT etl_watermark_get('c');
SELECT pull('c', 's', 't', $$'c', safety => 'none', end_value => '01/07/2020'$$);
RESET DateStyle;

-- A limit is rounded as the column rounds what it gets, or a transaction that
-- has just begun could have a value below it.
CREATE DOMAIN whole AS timestamptz(0);
CREATE TABLE rounded (id int, a timestamptz(0), b timestamp(1), c whole);
CREATE TABLE rounded_now (LIKE rounded);
SELECT pull('rounded ' || c, 'rounded', 'rounded_now', format('%L', c)) FROM unnest('{a,b,c}'::text[]) c;
SELECT name, detail->>'limit' ~ CASE name WHEN 'rounded b' THEN '\.\d\d' ELSE '\.' END AS finer
FROM etl_patterns.run WHERE name LIKE 'rounded%' ORDER BY name COLLATE "C";

-- NULL is no value of an order, nor is what is beyond all others.
CREATE TABLE odd (id int, at timestamptz);
CREATE TABLE odd_now (LIKE odd);
INSERT INTO odd VALUES (1, '2020-01-01'), (2, NULL);
SELECT pull('odd', 'odd', 'odd_now', $$'at'$$);
SELECT pull('odd', 'odd', 'odd_now', $$'at', null_cursor => 'error'$$);
SELECT count(*) FROM odd_now;
SELECT pull('odd', 'odd', 'odd_now', $$'at', null_cursor => 'ignore'$$);
SELECT detail->'null_cursor_rows' FROM etl_patterns.run WHERE name = 'odd' ORDER BY run_id DESC LIMIT 1;
INSERT INTO odd VALUES (3, 'infinity'), (4, '-infinity'), (5, '2020-01-02');
SELECT pull('odd', 'odd', 'odd_now', $$'at', null_cursor => 'ignore'$$);
SELECT detail->'null_cursor_rows' FROM etl_patterns.run WHERE name = 'odd' ORDER BY run_id DESC LIMIT 1;
SELECT id FROM odd_now ORDER BY id;
SELECT etl_watermark_get('odd');
DELETE FROM odd WHERE at IS NULL;
SELECT pull('odd', 'odd', 'odd_now', $$'at'$$);
SELECT pull('odd', 'odd', 'odd_now', $$'at', null_cursor => 'include'$$);
SELECT pull('odd inc', 'odd', 'odd_now', $$'at', '{id}', null_cursor => 'include'$$);
SELECT pull('odd inc', 'odd', 'odd_now', $$'at', '{id}', null_cursor => 'include'$$);
INSERT INTO odd VALUES (6, NULL);
SELECT pull('odd inc', 'odd', 'odd_now', $$'at', '{id}', null_cursor => 'include'$$);
SELECT etl_watermark_get('odd inc');
SELECT missing('odd', 'odd_now');
-- An unread infinity blocks nothing: without rows in reach the policy still holds.
CREATE TABLE only_odd (id int, d date);
INSERT INTO only_odd VALUES (1, 'infinity');
CREATE TABLE only_odd_now (LIKE only_odd);
SELECT pull('only', 'only_odd', 'only_odd_now', $$'d'$$);
SELECT pull('only', 'only_odd', 'only_odd_now', $$'d', null_cursor => 'ignore'$$);
SELECT etl_watermark_get('only');
-- Numbers that are none.
CREATE TABLE nan (id int, n numeric, f float8);
INSERT INTO nan VALUES (1, 1, 1), (2, 'NaN', 'NaN'), (3, 'Infinity', 'Infinity'), (4, '-Infinity', '-Infinity'), (5, 5, 5);
CREATE TABLE nan_now (LIKE nan);
SELECT pull('nan n', 'nan', 'nan_now', $$'n'$$);
SELECT pull('nan n', 'nan', 'nan_now', $$'n', null_cursor => 'ignore'$$);
SELECT pull('nan f', 'nan', 'nan_now', $$'f', '{id}', safety => 'none', null_cursor => 'include'$$);
SELECT id FROM nan_now ORDER BY id;
SELECT pipeline, value FROM etl_patterns.watermark WHERE pipeline LIKE 'nan%' ORDER BY pipeline;
-- Bounds of that kind.
SELECT pull('bound', 'nan', 'nan_now', format('%s, null_cursor => ''ignore''', o))
FROM unnest(ARRAY[$$'n', initial_value => 'NaN'$$, $$'n', end_value => 'Infinity'$$]) o;
SELECT try($$SELECT etl_watermark_set('odd', 'infinity')$$);
-- The end of the range of a type.
CREATE TABLE edge (n bigint, s smallint, at timestamptz, d date);
INSERT INTO edge VALUES (9223372036854775807, 32767, '294276-12-31 23:59:59.999999+00', '5874897-12-31'),
    (-9223372036854775808, -32768, '4714-11-24 00:00:00+00 BC', '4714-11-24 BC');
CREATE TABLE edge_now (LIKE edge);
SELECT pull('edge ' || c, 'edge', 'edge_now', format('%L, safety => ''none''', c)) FROM unnest('{n,s,at,d}'::text[]) c;
SELECT pull('edge ' || c, 'edge', 'edge_now', format('%L, safety => ''none''', c)) FROM unnest('{n,s,at,d}'::text[]) c;
SELECT pipeline, value FROM etl_patterns.watermark WHERE pipeline LIKE 'edge%' ORDER BY pipeline;

-- An order that the collation gives, and one in which two texts are equal.
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE word (w text COLLATE nocase, id int);
INSERT INTO word VALUES ('a', 1), ('A', 2), ('b', 3), ('B', 4), ('c', 5);
CREATE TABLE word_now (LIKE word);
SELECT pull('word', 'word', 'word_now', $$'w', safety => 'none', batch_rows => 3$$);
SELECT pull('word', 'word', 'word_now', $$'w', safety => 'none', batch_rows => 3$$);
SELECT missing('word', 'word_now');
\i :end
