--
-- What becomes of a file once its rows are committed.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int);
CREATE FUNCTION files() RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(f, ' ' ORDER BY f COLLATE "C") FROM (
    SELECT f FROM pg_ls_dir('etl_test') f WHERE f ~ 'csv' UNION ALL SELECT 'done/' || f FROM pg_ls_dir('etl_test/done') f) x $$;
SELECT shell('mkdir done');
SELECT file(i || '.csv', E'a\n' || i || E'\n') FROM generate_series(1, 9) i;
\set move 'format(''after_load => ''''move'''', move_to => %L'', place(''done''))'

SELECT load('t', '1.csv', 'after_load => ''delete''');
SELECT load('t', '2.csv', :move);
SELECT load('t', '3.csv', format('after_load => ''move'', move_to => %L', place('done/')));
SELECT files();
-- A failed load, and one that is rolled back, keep the file.
SELECT file('bad.csv', E'a\nx\n');
SELECT load('t', 'bad.csv', 'after_load => ''delete''');
BEGIN;
SELECT load('t', '4.csv', 'after_load => ''delete''');
SELECT files();
ROLLBACK;
SELECT files();
-- A savepoint takes its files along.
BEGIN;
SAVEPOINT a;
SELECT load('t', '4.csv', 'after_load => ''delete''');
ROLLBACK TO a;
SELECT load('t', '5.csv', 'after_load => ''delete''');
SAVEPOINT b;
SELECT load('t', '6.csv', :move);
RELEASE b;
SAVEPOINT c;
SAVEPOINT d;
SELECT load('t', '7.csv', :move);
RELEASE d;
ROLLBACK TO c;
COMMIT;
SELECT files();
SELECT a FROM t ORDER BY a;
-- Still there though loaded: only what was left to do is done.
SELECT load('t', '7.csv');
SELECT load('t', '7.csv', :move);
SELECT files();
-- No prepared transactions with such files.
BEGIN;
SELECT load('t', '8.csv', 'after_load => ''delete''');
PREPARE TRANSACTION 'etl_test';
SELECT load('t', '8.csv');
-- Where it would go: nothing there, no directory, a file of that name.
SELECT load('t', '4.csv', format('after_load => ''move'', move_to => %L', place('nowhere')));
SELECT load('t', '4.csv', format('after_load => ''move'', move_to => %L', place('9.csv')));
SELECT load('t', '4.csv', 'after_load => ''move'', move_to => ''/proc''');
SELECT file('done/4.csv', 'in the way');
SELECT load('t', '4.csv', :move);
SELECT files(), (SELECT count(*) FROM t WHERE a = 4);
SELECT shell('rm done/4.csv');
-- The way is barred between load and commit: a warning, and the file stays.
BEGIN;
SELECT load('t', '4.csv', :move);
SELECT file('done/4.csv', 'in the way');
SET LOCAL client_min_messages = error;
COMMIT;
SELECT files(), pg_read_file('etl_test/done/4.csv'), (SELECT count(*) FROM t WHERE a = 4);
-- The file changes between load and commit: it is left alone.
BEGIN;
SELECT load('t', '9.csv', 'after_load => ''delete''');
SELECT file('9.csv', E'a\n0\n');
SET LOCAL client_min_messages = error;
COMMIT;
SELECT load('t', '9.csv', 'after_load => ''delete''');
SELECT files();
-- Every file of a pattern; the same file twice in one transaction.
SELECT file('g' || i || '.csv', E'a\n20' || i || E'\n') FROM generate_series(1, 3) i;
BEGIN;
SELECT load('t', 'g?.csv', :move);
COMMIT;
SELECT files();
SELECT file('twice.csv', E'a\n300\n');
BEGIN;
SELECT load('t', 'twice.csv', 'after_load => ''delete''');
SET LOCAL client_min_messages = error;
SELECT load('t', 'twice.csv', 'after_load => ''delete''');
COMMIT;
SELECT files();
-- A link is neither removed nor followed to what it points to.
SELECT shell('ln -s 8.csv link.csv');
SELECT load('t', 'link.csv', 'after_load => ''delete''');
SELECT load('t', 'link.csv', :move);
SELECT shell('rm link.csv');
-- dry_run touches nothing.
SELECT file('dry.csv', E'a\n400\n');
SELECT load('t', 'dry.csv', 'after_load => ''delete'', dry_run => true');
SELECT files();
SELECT a FROM t ORDER BY a;
\i :end
