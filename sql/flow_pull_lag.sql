--
-- How far pipelines lag behind their sources.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
CREATE FUNCTION lag(of_pipeline text) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', source, '->', target, coalesce(cursor_column, 'NULL'), safety, coalesce(watermark, 'NULL'),
        'waiting', coalesce(CASE WHEN rows_waiting > 500 THEN 'many' ELSE rows_waiting::text END, 'unknown'),
        'behind', coalesce(CASE WHEN seconds_behind > 86400 THEN 'days' WHEN seconds_behind > 0 THEN 'a bit' ELSE seconds_behind::text END, 'unknown'),
        CASE WHEN last_run_id = (SELECT max(run_id) FROM etl_patterns.run WHERE name = of_pipeline) THEN 'last run' END,
        'held by ' || held_by_pid)
    FROM etl_patterns.pipeline_lag WHERE pipeline = of_pipeline
$$;
CREATE TABLE src (id int, at timestamptz, w text, todo boolean DEFAULT true);
CREATE TABLE tgt (id int, at timestamptz);
SELECT pull('p', 'src', 'tgt', $$'at'$$), lag('p');
INSERT INTO src SELECT i, '2020-01-01'::timestamptz + i * interval '1 s', i FROM generate_series(1, 1000) i;
CREATE INDEX ON src (at);
CREATE INDEX ON src (id);
ANALYZE src;
SELECT lag('p');
SELECT pull('p', 'src', 'tgt', $$'at', batch_rows => 100$$);
SELECT lag('p');
SELECT pull('p', 'src', 'tgt', $$'at'$$), lag('p');
-- What is no time is behind since the last run.
SELECT pull('n', 'src', 'tgt', $$'id', batch_rows => 400$$);
SELECT lag('n');
SELECT pull('w', 'src', 'tgt', $$'w', safety => 'none', batch_rows => 1$$);
SELECT lag('w');
-- So are flags.
SELECT pull('f', 'src', 'tgt', $$flag_column => 'todo', batch_rows => 10$$);
SELECT lag('f');
-- Other servers are not asked, here for a file that is not there.
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE ft (id int) SERVER files OPTIONS (filename '/dev/null', format 'csv');
CREATE VIEW over_ft AS SELECT id FROM src UNION ALL TABLE ft;
CREATE TABLE over_now (id int);
SELECT pull('over', 'over_ft', 'over_now', $$'id', safety => 'none', batch_rows => 10$$);
ALTER FOREIGN TABLE ft OPTIONS (SET filename '/nonexistent');
SELECT lag('over');
SELECT etl_watermark_reset('over');
SET client_min_messages = warning;
DROP EXTENSION file_fdw CASCADE;
RESET client_min_messages;
-- A watermark that was only set by hand, and what is gone.
SELECT etl_watermark_set('by hand', '1');
SELECT pipeline, source, watermark, rows_waiting, seconds_behind FROM etl_patterns.pipeline_lag WHERE pipeline = 'by hand';
-- Each role sees its own.
-- Members of pg_monitor see all, but not the rows of the sources.
CREATE ROLE etl_puller;
SET ROLE etl_puller;
SELECT count(*) FROM etl_patterns.pipeline_lag;
RESET ROLE;
GRANT pg_monitor TO etl_puller;
SET ROLE etl_puller;
SELECT pipeline, rows_waiting, seconds_behind FROM etl_patterns.pipeline_lag ORDER BY pipeline COLLATE "C";
RESET ROLE;
DROP ROLE etl_puller;
-- A column that is gone, or another one now.
ALTER TABLE src DROP COLUMN w, DROP COLUMN todo, ALTER id TYPE timestamptz USING now();
SELECT pipeline, watermark, rows_waiting FROM etl_patterns.pipeline_lag ORDER BY pipeline COLLATE "C";
DROP TABLE src;
SELECT pipeline, target, watermark, rows_waiting, held_by_pid FROM etl_patterns.pipeline_lag ORDER BY pipeline COLLATE "C";
\i :end
