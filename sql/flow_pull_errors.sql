--
-- What a user gets wrong with a pull: the error names the way out, and
-- nothing is read.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
CREATE TABLE src (id int, v text, at timestamptz, ts timestamp, d date, n bigint, w text, j json, f float8, flag boolean);
CREATE TABLE tgt (id int, v text, at timestamptz);
INSERT INTO src VALUES (1, 'a', '2020-01-01', '2020-01-01', '2020-01-01', 1, 'w', '{}', 1.5, true);

-- Words.
SELECT pull('p', 'src', 'tgt', o) FROM unnest(ARRAY[
    $$'at', apply => 'replace'$$, $$'at', apply => 'Append'$$, $$'at', safety => 'safe'$$, $$'at', null_cursor => 'skip'$$,
    $$'at', apply => NULL$$, $$'at', safety => NULL$$, $$'at', null_cursor => NULL$$,
    $$'at', max_wait => NULL$$]) o;

-- Names.
SELECT try($$SELECT etl_incremental_pull(NULL, 'src', 'tgt', 'at')$$);
SELECT try($$SELECT etl_incremental_pull('p', NULL, 'tgt', 'at')$$);
SELECT try($$SELECT etl_incremental_pull('p', 'src', NULL, 'at')$$);
SELECT try($$SELECT etl_incremental_pull('p', 0::oid::regclass, 'tgt', 'at')$$);
SELECT pull('p', 'src', 'src', $$'at'$$);
SELECT pull('p', 'src', 'tgt');
SELECT pull('p', 'src', 'tgt', o) FROM unnest(ARRAY[
    $$'nope'$$, $$'At'$$, $$'ctid'$$, $$'j'$$, $$'at', flag_column => 'flag'$$, $$NULL, flag_column => 'nope'$$,
    $$NULL, flag_column => 'v'$$]) o;
CREATE INDEX some_index ON src (at);
CREATE SEQUENCE some_sequence;
SELECT pull('p', r, 'tgt', $$'at'$$) FROM unnest('{some_index,some_sequence}'::text[]) r;
SELECT pull('p', 'src', r, $$'at'$$) FROM unnest('{some_index,some_sequence}'::text[]) r;
CREATE MATERIALIZED VIEW mat AS TABLE tgt;
SELECT pull('p', 'src', 'mat', $$'at'$$);
SELECT pull('p', 'src', 'pg_catalog.pg_class', $$'at'$$);
CREATE TABLE nothing_in_common (x int);
SELECT pull('p', 'src', 'nothing_in_common', $$'at'$$);

-- Keys.
SELECT pull('p', 'src', 'tgt', o) FROM unnest(ARRAY[
    $$'at', apply => 'upsert'$$, $$'at', apply => 'scd1'$$, $$'at', apply => 'scd2'$$, $$'at', apply => 'scd3'$$,
    $$'at', '{}', 'upsert'$$, $$'at', '{nope}', 'upsert'$$, $$'at', '{n}', 'upsert'$$, $$'at', '{id,id}', 'upsert'$$,
    $$'at', '{NULL}', 'upsert'$$, $$'at', '{nope}'$$,
    $$'at', lookback => '1 hour'$$, $$'at', null_cursor => 'include'$$]) o;

-- Options of the merges.
SELECT pull('p', 'src', 'tgt', $$'at', '{id}', apply => $$ || o) FROM unnest(ARRAY[
    $$'upsert', apply_options => '{"tracked": ["v"]}'$$, $$'upsert', apply_options => '[]'$$, $$'upsert', apply_options => '1'$$,
    $$'upsert', apply_options => '{"absent": "delete"}'$$, $$'upsert', apply_options => '{"keys": ["v"]}'$$,
    $$'upsert', apply_options => '{"target": "x"}'$$, $$'upsert', apply_options => '{"max_delete_fraction": 0.5}'$$,
    $$'upsert', apply_options => '{"duplicates": "first"}'$$, $$'upsert', apply_options => '{"update_columns": "v"}'$$,
    $$'upsert', apply_options => '{"update_columns": ["nope"]}'$$, $$'upsert', apply_options => '{"keep_tombstones": "maybe"}'$$,
    $$'upsert', apply_options => '{"sequence_by": 1}'$$, $$'upsert', apply_options => '{"duplicates": null}'$$,
    $$'scd2', apply_options => '{"absent_scope": ["v"]}'$$, $$'scd2', apply_options => '{"dry_run": true}'$$,
    $$'scd2', apply_options => '{"max_close_fraction": 1}'$$, $$'scd2', apply_options => '{"source": "src"}'$$,
    $$'scd3', apply_options => '{"previous": {"nope": "v"}}'$$, $$'scd3'$$,
    $$'append', apply_options => '{"duplicates": "last"}'$$,
    $$'append', apply_options => '{"columns": "id"}'$$, $$'append', apply_options => '{"columns": ["id", "nope"]}'$$,
    $$'append', apply_options => '{"columns": []}'$$, $$'append', apply_options => '{"columns": [1]}'$$]) o;
-- Keys are read even if they are not named.
SELECT pull('keys', 'src', 'tgt', $$'at', '{id}', 'upsert', '{"columns": ["v"]}'$$);
TABLE tgt;
TRUNCATE tgt;

-- Numbers and times.
SELECT pull('p', 'src', 'tgt', o) FROM unnest(ARRAY[
    $$'at', batch_rows => 0$$, $$'at', batch_rows => -5$$, $$'at', max_wait => '-1s'$$,
    $$'at', '{id}', lookback => '-1s'$$, $$'at', safety => 'lag', lag => '-1s'$$, $$'at', lag => '1h'$$,
    $$'at', safety => 'horizon', lag => '1h'$$, $$'n', safety => 'lag', lag => '1h'$$,
    $$'n', '{id}', lookback => '1 hour'$$, $$'w', '{id}', safety => 'none', lookback => '1 hour'$$,
    $$'at', initial_value => 'soon'$$, $$'at', end_value => '2020-13-01'$$, $$'n', initial_value => '1.5'$$,
    $$'n', end_value => ''$$, $$'n', end_value => '99999999999999999999'$$,
    $$'n', initial_value => '10', end_value => '5'$$, $$'n', initial_value => '10', end_value => '10'$$]) o;

SELECT etl_watermark_reset('p');

-- Safety that would not be safe.
SELECT pull('p', 'src', 'tgt', o) FROM unnest(ARRAY[
    $$'n', safety => 'horizon'$$, $$'w', safety => 'horizon'$$, $$'at', safety => 'lock_wait'$$, $$'ts', safety => 'lock_wait'$$,
    $$'d', safety => 'lock_wait'$$, $$'n', safety => 'lag'$$, $$'w'$$, $$'f'$$]) o;
SET track_activities = off;
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT pull('p', 'src', 'tgt', $$'n'$$);
SELECT etl_watermark_reset('p');
RESET track_activities;

-- Snapshots that are older than the limit.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pull('p', 'src', 'tgt', $$'at'$$);
SELECT pull('p', 'src', 'tgt', $$'n'$$);
SELECT pull('p', 'src', 'tgt', $$'at', safety => 'lag', lag => '1 h'$$);
SELECT etl_watermark_reset('p');
SELECT pull('p', 'src', 'tgt', $$'n', safety => 'none'$$);
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pull('p', 'src', 'tgt', $$'n'$$);
ROLLBACK;
BEGIN READ ONLY;
SELECT pull('p', 'src', 'tgt', $$'n'$$);
SELECT backfill('p', NULL, NULL);
SELECT try($$SELECT etl_watermark_set('p', '1')$$);
ROLLBACK;

-- Sequences whose numbers do not come in the order of the lock.
CREATE TABLE seq (id bigserial, v text);
CREATE TABLE seq_now (id bigint, v text);
INSERT INTO seq (v) VALUES ('a');
ALTER SEQUENCE seq_id_seq CACHE 10;
SELECT pull('s', 'seq', 'seq_now', $$'id'$$);
ALTER SEQUENCE seq_id_seq CACHE 1 CYCLE;
SELECT pull('s', 'seq', 'seq_now', $$'id'$$);
ALTER SEQUENCE seq_id_seq NO CYCLE MINVALUE -10 INCREMENT -1;
SELECT pull('s', 'seq', 'seq_now', $$'id'$$);
SELECT pull('none', 'seq', 'seq_now', $$'id', safety => 'none'$$);
ALTER SEQUENCE seq_id_seq INCREMENT 1 MINVALUE 1;
SELECT pull('s', 'seq', 'seq_now', $$'id'$$);
CREATE TABLE ident (id bigint GENERATED ALWAYS AS IDENTITY (CACHE 5), v text);
SELECT pull('i', 'ident', 'seq_now', $$'id'$$);
CREATE SEQUENCE "Odd ""one""" CACHE 7;
CREATE TABLE by_default (id bigint DEFAULT 1000 + nextval('"Odd ""one"""'), v text);
SELECT pull('i', 'by_default', 'seq_now', $$'id'$$);
-- That of a partition counts, too.
CREATE TABLE parted (id bigint, v text) PARTITION BY LIST (v);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE SEQUENCE part_seq CACHE 5;
ALTER TABLE parted_a ALTER id SET DEFAULT nextval('part_seq');
SELECT pull('i', 'parted', 'seq_now', $$'id'$$);
ALTER SEQUENCE part_seq CACHE 1;
SELECT pull('i', 'parted', 'seq_now', $$'id'$$);

-- Another source, cursor or target under the same name.
SELECT pull('same', 'src', 'tgt', $$'at'$$);
CREATE TABLE src2 (LIKE src);
CREATE TABLE tgt2 (LIKE tgt);
SELECT pull('same', 'src2', 'tgt', $$'at'$$);
SELECT pull('same', 'src', 'tgt2', $$'at'$$);
SELECT pull('same', 'src', 'tgt', $$'ts'$$);
SELECT pull('same', 'src', 'tgt', $$flag_column => 'flag'$$);
SELECT etl_watermark_get('same');
ALTER TABLE src RENAME TO renamed;
SELECT pull('same', 'renamed', 'tgt', $$'at'$$);
ALTER TABLE renamed RENAME TO src;
DROP TABLE tgt2;
-- What was remembered is gone.
CREATE TABLE gone (LIKE src);
SELECT pull('gone', 'gone', 'tgt', $$'at'$$);
DROP TABLE gone;
CREATE TABLE gone (LIKE src);
SELECT pull('gone', 'gone', 'tgt', $$'at'$$);
SELECT backfill('gone', NULL, NULL);
SELECT etl_watermark_reset('gone');
SELECT pull('gone', 'gone', 'tgt', $$'at'$$);

-- Backfills and drains.
SELECT backfill('nobody', NULL, NULL);
SELECT backfill(NULL, NULL, NULL);
SELECT backfill('same', 'soon', NULL);
SELECT backfill('same', '2020-02-01', '2020-01-01');
CALL etl_incremental_drain('nobody');
CALL etl_incremental_drain(NULL);
CALL etl_incremental_drain('same', 0);
CALL etl_incremental_drain('same', -1);
BEGIN;
CALL etl_incremental_drain('same');
ROLLBACK;
DO $$ BEGIN CALL public.etl_incremental_drain('same'); END $$;
-- A watermark that was only set by hand says nothing about a source.
SELECT etl_watermark_set('by hand', '1');
SELECT backfill('by hand', NULL, NULL);
CALL etl_incremental_drain('by hand');

-- Flags.
SELECT pull('f', 'src', 'tgt', o) FROM unnest(ARRAY[
    $$flag_column => 'flag', safety => 'horizon'$$, $$flag_column => 'flag', lookback => '1h', keys => '{id}'$$,
    $$flag_column => 'flag', initial_value => '1'$$, $$flag_column => 'flag', end_value => '1'$$,
    $$flag_column => 'flag', lag => '1h'$$]) o;

-- Nothing was written by all that but the rows of two calls that are right.
SELECT count(*) FROM tgt;

-- Values that do not fit.
CREATE TABLE short (id smallint, v varchar(3), at timestamptz);
INSERT INTO src (id, v, at) VALUES (2, 'long', '2020-01-02');
SELECT pull('short', 'src', 'short', $$'at'$$);
UPDATE src SET v = 'x', id = 70000 WHERE id = 2;
SELECT pull('short', 'src', 'short', $$'at'$$);
UPDATE src SET id = NULL WHERE id = 70000;
ALTER TABLE short ALTER id SET NOT NULL;
SELECT pull('short', 'src', 'short', $$'at'$$);
ALTER TABLE short ALTER id DROP NOT NULL, ADD CHECK (v <> 'x');
SELECT pull('short', 'src', 'short', $$'at'$$);
SELECT etl_watermark_get('short') IS NULL, count(*) FROM short;
CREATE TABLE other_type (id uuid, v text);
SELECT pull('type', 'src', 'other_type', $$'at'$$);

-- A trigger that meddles with the pipeline that runs it.
CREATE TABLE meddled (id int, v text);
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN EXECUTE tg_argv[0]; RETURN new; END $$;
CREATE TRIGGER meddle BEFORE INSERT ON meddled FOR EACH ROW EXECUTE FUNCTION
    meddle('SELECT public.etl_watermark_set(''meddled'', ''2019-01-01'')');
SELECT pull('meddled', 'src', 'meddled', $$'at'$$);
SELECT etl_watermark_set('meddled', '2019-01-01');
SELECT pull('meddled', 'src', 'meddled', $$'at'$$);
CREATE OR REPLACE TRIGGER meddle BEFORE INSERT ON meddled FOR EACH ROW EXECUTE FUNCTION
    meddle('SELECT public.etl_watermark_reset(''meddled'')');
SELECT pull('meddled', 'src', 'meddled', $$'at'$$);
CREATE OR REPLACE TRIGGER meddle BEFORE INSERT ON meddled FOR EACH ROW WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION meddle('SELECT public.etl_incremental_pull(''meddled'', ''src'', ''meddled'', ''at'')');
SELECT pull('meddled', 'src', 'meddled', $$'at'$$);
SELECT etl_watermark_get('meddled'), count(*) FROM meddled;

-- Rights: to read the source, to write the target, to move the watermark.
CREATE ROLE etl_puller;
CREATE ROLE etl_other;
GRANT USAGE ON SCHEMA etl_test TO etl_puller, etl_other;
CREATE TABLE own (id int, v text, at timestamptz);
INSERT INTO own VALUES (1, 'a', '2020-01-01'), (2, 'b', '2020-01-02');
CREATE TABLE own_now (LIKE own);
GRANT INSERT ON own_now TO etl_puller;
SET ROLE etl_puller;
SELECT pull('rights', 'own', 'own_now', $$'at'$$);
RESET ROLE;
GRANT SELECT (id, v) ON own TO etl_puller;
SET ROLE etl_puller;
SELECT pull('rights', 'own', 'own_now', $$'at'$$);
SELECT pull('rights', 'own', 'own_now', $$'id'$$);
SELECT pull('rights', 'own', 'own_now', $$'id', apply_options => '{"columns": ["id", "v"]}'$$);
RESET ROLE;
GRANT SELECT ON own TO etl_puller;
REVOKE INSERT ON own_now FROM etl_puller;
SET ROLE etl_puller;
SELECT etl_watermark_reset('rights');
SELECT pull('rights', 'own', 'own_now', $$'at'$$);
RESET ROLE;
GRANT INSERT (id, v) ON own_now TO etl_puller;
SET ROLE etl_puller;
SELECT pull('rights', 'own', 'own_now', $$'at'$$);
SELECT pull('rights', 'own', 'own_now', $$'at', apply_options => '{"columns": ["id", "v"]}'$$);
SELECT pull('rights up', 'own', 'own_now', $$'at', '{id}', 'upsert', '{"columns": ["id", "v"]}'$$);
-- Nor does horizon need the right to see other sessions.
SELECT last_run('rights');
RESET ROLE;
-- Another role's pipeline.
GRANT SELECT ON own TO etl_other;
GRANT INSERT ON own_now TO etl_other;
SET ROLE etl_other;
SELECT pull('rights', 'own', 'own_now', $$'at'$$);
SELECT backfill('rights', NULL, NULL);
CALL etl_incremental_drain('rights');
SELECT try($$SELECT etl_watermark_get('rights')$$);
SELECT try($$SELECT etl_watermark_set('rights', '2020-01-01')$$);
SELECT try($$SELECT etl_watermark_reset('rights')$$);
SELECT count(*) FROM etl_patterns.watermark;
SELECT count(*) FROM etl_patterns.run;
RESET ROLE;
-- Row security of the source hides rows for good: it is applied, not passed by.
SELECT etl_watermark_reset('rights');
TRUNCATE own_now;
ALTER TABLE own ENABLE ROW LEVEL SECURITY;
CREATE POLICY ones ON own FOR SELECT TO etl_puller USING (id = 1);
GRANT INSERT ON own_now TO etl_puller;
SET ROLE etl_puller;
SELECT pull('rights', 'own', 'own_now', $$'at'$$);
RESET ROLE;
TABLE own_now;
-- Flags are cleared with the caller's rights.
CREATE TABLE flagged (id int, flag boolean);
INSERT INTO flagged VALUES (1, true);
GRANT SELECT ON flagged TO etl_puller;
CREATE TABLE flagged_now (id int);
GRANT INSERT ON flagged_now TO etl_puller;
SET ROLE etl_puller;
SELECT pull('flagged', 'flagged', 'flagged_now', $$flag_column => 'flag'$$);
RESET ROLE;
GRANT UPDATE (flag) ON flagged TO etl_puller;
SET ROLE etl_puller;
SELECT pull('flagged', 'flagged', 'flagged_now', $$flag_column => 'flag'$$);
RESET ROLE;
DROP OWNED BY etl_puller, etl_other;
DROP ROLE etl_puller, etl_other;
-- What to do about a row that is there already, and which column a value does
-- not fit into.
CREATE TABLE there (id int PRIMARY KEY, name text, at timestamptz);
CREATE TABLE there_now (id int PRIMARY KEY, name varchar(3), at timestamptz);
INSERT INTO there VALUES (1, 'one', '2020-01-01');
SELECT pull('there', 'there', 'there_now', $$'at', safety => 'none'$$);
UPDATE there SET at = '2020-01-02';
SELECT pull('there', 'there', 'there_now', $$'at', safety => 'none'$$);
SELECT pull('there', 'there', 'there_now', $$'at', safety => 'none', keys => '{id}', apply => 'upsert'$$);
INSERT INTO there VALUES (2, 'three', '2020-01-03');
SELECT etl_incremental_pull('there', 'there', 'there_now', 'at', safety => 'none');
SELECT etl_incremental_pull('there', 'there', 'there_now', 'at', safety => 'none', keys => '{id}');
SELECT etl_incremental_pull('there', 'there', 'there_now', 'at', '{id}', 'scd3');
\i :end
