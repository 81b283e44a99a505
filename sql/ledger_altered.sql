--
-- State tables that a superuser has altered: an error, and nothing worse.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int);
SELECT file('f.csv', E'a\n1\nx\n');
\set dl 'on_error => ''dead_letter'', force => true'
SELECT load('t', 'f.csv', :'dl');
-- Columns.
ALTER TABLE etl_patterns.dead_letter ADD COLUMN note text NOT NULL DEFAULT '';
SELECT load('t', 'f.csv', :'dl');
ALTER TABLE etl_patterns.dead_letter DROP COLUMN note;
SELECT load('t', 'f.csv', :'dl');
SELECT count(*), sum(length(raw_record)) FROM etl_patterns.dead_letter;
ALTER TABLE etl_patterns.watermark ADD COLUMN note text;
ALTER TABLE etl_patterns.watermark DROP COLUMN note;
SELECT etl_watermark_set('p', '0'), etl_watermark_get('p');
SELECT etl_watermark_set('p', '1'), etl_watermark_get('p');
BEGIN;
ALTER TABLE etl_patterns.dead_letter DROP COLUMN payload CASCADE;
SELECT load('t', 'f.csv', :'dl');
ROLLBACK;
-- Indexes.
CREATE INDEX plain ON etl_patterns.dead_letter (category, created_at) INCLUDE (attempts);
SELECT load('t', 'f.csv', :'dl');
CREATE INDEX expression ON etl_patterns.dead_letter (lower(error_message));
SELECT load('t', 'f.csv', :'dl');
DROP INDEX etl_patterns.expression;
CREATE INDEX partial ON etl_patterns.run (finished_at) WHERE status = 'dry_run';
SELECT load('t', 'f.csv', :'dl');
SELECT try('SELECT * FROM etl_dead_letter_replay()');
DROP INDEX etl_patterns.partial;
ALTER TABLE etl_patterns.watermark ADD CONSTRAINT one_each EXCLUDE (run_id WITH =);
SELECT try('SELECT etl_watermark_set(''p'', ''1'')');
SELECT try('SELECT etl_watermark_get(''p'')');
ALTER TABLE etl_patterns.watermark DROP CONSTRAINT one_each;
SELECT etl_watermark_set('p', '2'), etl_watermark_get('p');
SELECT load('t', 'f.csv', :'dl');
SELECT count(*) FROM t;
SELECT count(*) FROM etl_patterns.dead_letter;
\i :end
