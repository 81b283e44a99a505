--
-- Each file once: the same again, changed, renamed, forced.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE TABLE t (a int);
CREATE TABLE other (a int);
SELECT file('f.csv', E'a\n1\n2\n');
SELECT load('t', 'f.csv');
SELECT load('t', 'f.csv');
SELECT rows_loaded, rows_rejected, encode(content_hash, 'hex') = encode(sha256(pg_read_binary_file(path)), 'hex') FROM etl_patterns.loaded_file;
SELECT status, rows_read, rows_inserted, detail -> 'files_skipped' FROM etl_patterns.run ORDER BY run_id;
-- Another table is another matter.
SELECT load('other', 'f.csv');
-- A changed file under an old name, of the same size and of another.
SELECT file('f.csv', E'a\n3\n4\n');
SELECT load('t', 'f.csv');
SELECT file('f.csv', E'a\n30\n40\n');
SELECT load('t', 'f.csv');
-- The same content under another name, and the old content under the old name.
SELECT file('copy.csv', E'a\n1\n2\n');
SELECT load('t', 'copy.csv');
SELECT file('f.csv', E'a\n1\n2\n');
SELECT load('t', 'f.csv');
SELECT shell('touch -d 2001-01-01 f.csv');
SELECT load('t', 'f.csv');
SELECT shell('gzip -k copy.csv');
-- Compressed, the bytes are others.
SELECT load('other', 'copy.csv.gz');
SELECT load('other', 'copy.csv.gz');
-- Twice in one call.
SELECT file('w1.csv', E'a\n7\n');
SELECT file('w2.csv', E'a\n7\n');
SELECT load('t', 'w*.csv');
SELECT a FROM t ORDER BY a;
-- Forced.
SELECT load('t', 'w*.csv', 'force => true');
SELECT load('t', 'w*.csv');
-- A failed and a rolled back load leave a file as it was.
SELECT file('bad.csv', E'a\n8\nx\n');
SELECT load('t', 'bad.csv');
SELECT load('t', 'bad.csv', 'on_error => ''dead_letter''');
SELECT load('t', 'bad.csv', 'on_error => ''dead_letter''');
SELECT file('rb.csv', E'a\n9\n');
BEGIN;
SELECT load('t', 'rb.csv');
SELECT load('t', 'rb.csv');
SAVEPOINT s;
SELECT file('rb2.csv', E'a\n10\n');
SELECT load('t', 'rb2.csv');
ROLLBACK TO s;
SELECT load('t', 'rb2.csv');
ROLLBACK;
SELECT load('t', 'rb*.csv');
-- Who truncates a table says so with force; one that is dropped is forgotten.
TRUNCATE other;
SELECT load('other', 'f.csv');
SELECT load('other', 'f.csv', 'force => true');
DROP TABLE other;
CREATE TABLE other (a int);
SELECT load('other', 'f.csv');
SELECT * FROM other ORDER BY a;
\i :end
