--
-- Code of others that runs while a pull or a look at its lag goes on.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
CREATE TABLE src (id int, todo boolean DEFAULT true, v text);
CREATE TABLE tgt (id int, v text);
INSERT INTO src SELECT i, true, repeat('x', 1000) FROM generate_series(1, 200) i;
-- A trigger of the target that forgets the pipeline, pulls it, or sets it.
CREATE FUNCTION intrude() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() = 1 THEN
        EXECUTE TG_ARGV[0];
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER forgets BEFORE INSERT ON tgt FOR EACH ROW EXECUTE FUNCTION intrude('SELECT etl_watermark_reset(''p'')');
-- There is nothing to forget yet.
SELECT pull('p', 'src', 'tgt', $$'id', end_value => '3'$$);
SELECT pull('p', 'src', 'tgt', $$'id'$$);
DROP TRIGGER forgets ON tgt;
CREATE TRIGGER pulls BEFORE INSERT ON tgt FOR EACH ROW EXECUTE FUNCTION intrude('SELECT etl_incremental_pull(''p'', ''src'', ''tgt'', ''id'')');
SELECT pull('p', 'src', 'tgt', $$'id'$$);
DROP TRIGGER pulls ON tgt;
CREATE TRIGGER sets BEFORE INSERT ON tgt FOR EACH ROW EXECUTE FUNCTION intrude('SELECT etl_watermark_set(''p'', ''0'')');
SELECT pull('p', 'src', 'tgt', $$'id'$$);
DROP TRIGGER sets ON tgt;
-- Nor on the first run.
CREATE TRIGGER sets BEFORE INSERT ON tgt FOR EACH ROW EXECUTE FUNCTION intrude('SELECT etl_watermark_set(''first'', ''0'')');
SELECT pull('first', 'src', 'tgt', $$'id', end_value => '2'$$);
DROP TRIGGER sets ON tgt;
SELECT pull('p', 'src', 'tgt', $$'id'$$);
SELECT count(*), count(DISTINCT id) FROM tgt;
-- Flagged rows that do not fit into memory.
TRUNCATE tgt;
SET work_mem = '64kB';
SELECT rows_read FROM etl_incremental_pull('f', 'src', 'tgt', flag_column => 'todo');
RESET work_mem;
-- Rows and money have an order, but none that a watermark could tell.
CREATE TYPE pair AS (a int, b int);
CREATE TABLE odd (p pair, m money);
SELECT pull('odd', 'odd', 'tgt', $$'p', safety => 'none'$$);
ALTER TABLE tgt ADD m money;
SELECT pull('odd', 'odd', 'tgt', $$'p', safety => 'none'$$);
SELECT pull('odd', 'odd', 'tgt', $$'m', safety => 'none'$$);
-- A superuser looks at the lag of a view that belongs to somebody else.
CREATE ROLE etl_intruder;
GRANT CREATE ON SCHEMA etl_test TO etl_intruder;
GRANT USAGE ON SCHEMA etl_test TO etl_intruder;
SET ROLE etl_intruder;
CREATE TABLE own (id int);
INSERT INTO own VALUES (1), (2);
CREATE TABLE copy (id int);
CREATE TABLE seen (who text);
CREATE FUNCTION look(id int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES (current_user);
    PERFORM set_config('work_mem', '1MB', false);
    RETURN id;
END $$;
CREATE VIEW watching AS SELECT look(id) AS id FROM own;
SELECT pull('i', 'watching', 'copy', $$'id', safety => 'none', batch_rows => 1$$);
TRUNCATE seen;
RESET ROLE;
RESET work_mem;
SELECT rows_waiting > 0 AS waiting FROM etl_patterns.pipeline_lag WHERE pipeline = 'i';
SELECT DISTINCT who FROM seen;
SELECT current_setting('work_mem') <> '1MB' AS as_before;
-- Nor does a superuser repeat the call of somebody else, who has passed what it runs.
SELECT try($$SELECT etl_backfill('i', NULL, NULL)$$);
CALL etl_incremental_drain('i');
SELECT DISTINCT who FROM seen;
SET ROLE etl_intruder;
CALL etl_incremental_drain('i');
RESET ROLE;
SELECT count(*) FROM copy;
-- An error there does not hide the other pipelines.
CREATE OR REPLACE FUNCTION look(id int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'nobody is to look';
END $$;
SELECT pipeline, rows_waiting FROM etl_patterns.pipeline_lag ORDER BY pipeline COLLATE "C";
DROP OWNED BY etl_intruder;
SELECT pipeline, rows_waiting FROM etl_patterns.pipeline_lag ORDER BY pipeline COLLATE "C";
DROP ROLE etl_intruder;
SELECT pipeline, rows_waiting FROM etl_patterns.pipeline_lag ORDER BY pipeline COLLATE "C";
\i :end
