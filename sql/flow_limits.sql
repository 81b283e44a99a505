--
-- How many rows may be rejected, and dry runs.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int PRIMARY KEY, b text);
SELECT file('three.csv', E'a,b\n1,x\nbad,x\n2,x\nbad,x\nbad,x\n3,x\n');
SELECT file('clean.csv', E'a,b\n1,x\n');

-- reject_limit: so many are allowed, one more is not.
SELECT load('t', 'three.csv', 'on_error => ''skip'', reject_limit => 2');
SELECT load('t', 'three.csv', 'on_error => ''dead_letter'', reject_limit => 2');
SELECT load('t', 'three.csv', 'on_error => ''dead_letter'', reject_limit => 0');
SELECT count(*) FROM t;
SELECT count(*) FROM etl_patterns.dead_letter;
SELECT count(*) FROM etl_patterns.run;
SELECT load('t', 'three.csv', 'on_error => ''dead_letter'', reject_limit => 3');
SELECT count(*) FROM t;
SELECT count(*) FROM etl_patterns.dead_letter;
TRUNCATE t;
SELECT load('t', 'clean.csv', 'on_error => ''skip'', reject_limit => 0');
-- It is for the whole call.
SELECT shell('cp three.csv x1.csv; (cat three.csv; echo bad,y) > x2.csv');
SELECT load('t', 'x?.csv', 'on_error => ''skip'', reject_limit => 6, force => true');
-- Rows that a constraint rejects count as well: 1 is there, so four of six are bad.
SELECT load('t', 'three.csv', 'on_error => ''skip'', reject_limit => 3, force => true');
SELECT load('t', 'three.csv', 'on_error => ''skip'', reject_limit => 4, force => true');
TRUNCATE t;

-- reject_ratio: rejected / read.
SELECT load('t', 'three.csv', 'on_error => ''skip'', reject_ratio => 0.499, force => true');
SELECT load('t', 'three.csv', 'on_error => ''skip'', reject_ratio => 0.5, force => true');
TRUNCATE t;
SELECT load('t', 'three.csv', 'on_error => ''skip'', reject_ratio => 0, force => true');
SELECT load('t', 'clean.csv', 'on_error => ''skip'', reject_ratio => 0, force => true');
SELECT file('all_bad.csv', E'a,b\nx,y\n');
SELECT load('t', 'all_bad.csv', 'on_error => ''skip'', reject_ratio => 1');
SELECT file('empty.csv', E'a,b\n');
SELECT load('t', 'empty.csv', 'on_error => ''skip'', reject_ratio => 0');
TRUNCATE t;

-- A dry run tells what would happen, and leaves its run row only.
SELECT max(run_id) AS last FROM etl_patterns.run \gset
SELECT max(file_id) AS last_file FROM etl_patterns.loaded_file \gset
SELECT max(dead_letter_id) AS last_letter FROM etl_patterns.dead_letter \gset
SELECT file('dry.csv', E'a,b\n1,x\nbad,x\n1,x\n"open,x\n4,x\n');
SELECT load('t', 'dry.csv', 'dry_run => true, on_error => ''dead_letter''');
SELECT load('t', 'dry.csv', 'dry_run => true, on_error => ''skip'', after_load => ''delete''');
SELECT load('t', 'dry.csv', 'dry_run => true');
SELECT count(*) FROM t;
SELECT count(*) FROM etl_patterns.loaded_file WHERE file_id > :last_file;
SELECT count(*) FROM etl_patterns.dead_letter WHERE dead_letter_id > :last_letter;
SELECT status, rows_read, rows_inserted, rows_rejected, detail -> 'rejected' FROM etl_patterns.run WHERE run_id > :last ORDER BY run_id;
SELECT r ->> 'line', r ->> 'category', r ->> 'error_code', r ->> 'message'
FROM etl_patterns.run, jsonb_array_elements(detail -> 'first_rejects') r WHERE run_id = (SELECT max(run_id) FROM etl_patterns.run);
SELECT count(*) FROM pg_ls_dir('etl_test') f WHERE f = 'dry.csv';
SELECT load('t', 'dry.csv', 'on_error => ''dead_letter''');
SELECT load('t', 'dry.csv', 'dry_run => true');
SELECT * FROM t ORDER BY a;
-- What a load skips it counts: nothing is silent.
SELECT rows_read = rows_inserted + rows_updated + rows_unchanged + rows_rejected FROM etl_patterns.run WHERE status <> 'skipped' GROUP BY 1;
\i :end
