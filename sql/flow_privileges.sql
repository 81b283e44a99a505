--
-- Who may load what.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE ROLE etl_reader;
CREATE ROLE etl_nobody;
GRANT pg_read_server_files TO etl_reader;
CREATE TABLE t (a int, b text DEFAULT 'none', c int);
SELECT file('t.csv', E'a,b\n1,x\n');
SELECT file('tc.csv', E'a,b,c\n1,x,3\n');

-- Reading files is a privilege of its own; INSERT does not bring it.
GRANT INSERT, SELECT ON t TO etl_nobody;
SET ROLE etl_nobody;
SELECT load('t', 't.csv');
SELECT load('t', 'missing.csv');
SELECT try($$SELECT * FROM etl_csv_infer(place('t.csv'))$$);
SELECT try($$SELECT etl_create_table_from_csv('etl_test.new', place('t.csv'))$$);

-- And the other way round.
SET ROLE etl_reader;
SELECT load('t', 't.csv');
SELECT load('t', 'missing.csv');
RESET ROLE;
GRANT SELECT, UPDATE, DELETE ON t TO etl_reader;
SET ROLE etl_reader;
SELECT load('t', 't.csv');
RESET ROLE;

-- INSERT on columns is enough for these columns.
GRANT INSERT (a, b) ON t TO etl_reader;
SET ROLE etl_reader;
SELECT load('t', 't.csv');
SELECT load('t', 'tc.csv');
SELECT load('t', 'tc.csv', 'header => ''skip''');
SELECT load('t', 't.csv', 'header => ''skip'', columns => ''{a,b}'', force => true');
SELECT * FROM t;
RESET ROLE;

-- A file that is in already is no way round the privileges.
REVOKE INSERT (a, b) ON t FROM etl_reader;
SET ROLE etl_reader;
SELECT load('t', 't.csv');
RESET ROLE;
GRANT INSERT (a, b) ON t TO etl_reader;

-- Removing and moving files takes more.
SET ROLE etl_reader;
SELECT load('t', 't.csv', 'after_load => ''delete''');
SELECT load('t', 't.csv', format('after_load => ''move'', move_to => %L', place('')));
RESET ROLE;
SELECT count(*) FROM pg_ls_dir('etl_test') f WHERE f = 't.csv';

-- on_conflict reads keys and writes columns.
CREATE TABLE k (id int PRIMARY KEY, v text);
SELECT file('k.csv', E'id,v\n1,one\n');
GRANT INSERT ON k TO etl_reader;
SET ROLE etl_reader;
SELECT load('k', 'k.csv', 'on_conflict => ''skip''');
SELECT load('k', 'k.csv', 'on_conflict => ''update''');
RESET ROLE;
GRANT SELECT (id) ON k TO etl_reader;
SET ROLE etl_reader;
SELECT load('k', 'k.csv', 'on_conflict => ''skip''');
SELECT load('k', 'k.csv', 'on_conflict => ''update'', force => true');
RESET ROLE;
GRANT UPDATE (v) ON k TO etl_reader;
SET ROLE etl_reader;
SELECT load('k', 'k.csv', 'on_conflict => ''update'', force => true');
RESET ROLE;
GRANT SELECT (v) ON k TO etl_reader;
SET ROLE etl_reader;
SELECT load('k', 'k.csv', 'on_conflict => ''update'', force => true');
RESET ROLE;

-- Only an owner's load rebuilds indexes.
CREATE INDEX ON k (v);
SELECT file('k2.csv', E'id,v\n2,two\n');
SET ROLE etl_reader;
SELECT load('k', 'k2.csv', 'indexes => ''rebuild''');
RESET ROLE;

-- Defaults, checks and triggers run as the caller.
CREATE FUNCTION who() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
CREATE TABLE w (a int, who text DEFAULT who());
GRANT INSERT ON w TO etl_reader;
SELECT file('w.csv', E'a\n1\nx\n');
SET ROLE etl_reader;
SELECT load('w', 'w.csv', 'on_error => ''dead_letter''');
RESET ROLE;
SELECT * FROM w;

-- A read-only transaction.
BEGIN READ ONLY;
SELECT * FROM etl_bulk_copy('t', '/nowhere.csv');
ROLLBACK;
DROP OWNED BY etl_reader, etl_nobody;
DROP ROLE etl_reader, etl_nobody;
\i :end
