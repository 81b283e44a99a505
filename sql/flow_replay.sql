--
-- Dead letters: replay, edit, discard, purge.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\set dl '''on_error => ''''dead_letter'''''''
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE t (a int PRIMARY KEY, b text CHECK (b <> 'bad'), p int REFERENCES parent);
SELECT file('t.csv', E'b;a;p\nok;1;\nbad;2;\nx;two;\norphan;4;7\n"open;5;\nok;6\nok;1;\n;8;NA\n');
SELECT load('t', 't.csv', $$delimiter => ';', null_strings => '{NA,""}', $$ || :dl);
SELECT letters('t');
CREATE VIEW look AS SELECT dead_letter_id, category, error_code, column_name, field_value, raw_record, attempts, status,
    resolved_at IS NOT NULL AS resolved, resolved_run_id IS NOT NULL AS by_run FROM etl_patterns.dead_letter ORDER BY 1;

-- Nothing mended: each attempt counts, and the error is the new one.
ALTER TABLE t DROP CONSTRAINT t_b_check, ADD CONSTRAINT worse CHECK (b <> 'bad');
SELECT * FROM etl_dead_letter_replay('t');
SELECT error_message FROM etl_patterns.dead_letter WHERE category = 'check';
TABLE look;
-- The parent came; the layout of the file is remembered.
INSERT INTO parent VALUES (7);
SELECT * FROM etl_dead_letter_replay('t');
SELECT * FROM t ORDER BY a;
-- Chosen letters only; those of others, closed and unknown ones are passed over.
ALTER TABLE t DROP CONSTRAINT worse;
SELECT * FROM etl_dead_letter_replay('t', (SELECT array_agg(dead_letter_id) FROM look WHERE raw_record ~ 'bad') || 99999::bigint);
SELECT * FROM etl_dead_letter_replay('t', '{}');
SELECT * FROM etl_dead_letter_replay('parent');
SELECT * FROM etl_dead_letter_replay(NULL, (SELECT array_agg(dead_letter_id) FROM look WHERE status = 'replayed'));
SELECT operation, status, rows_read, rows_inserted, rows_rejected FROM etl_patterns.run WHERE operation <> 'bulk_copy' ORDER BY run_id;

-- Edits: bad ones, several records, none, then good ones.
SELECT dead_letter_id AS id FROM look WHERE raw_record ~ 'open' \gset
SELECT try(format('SELECT etl_dead_letter_edit(%s, %L)', :id, E'a;10;\nb;11;'));
SELECT * FROM etl_dead_letter_replay('t', ARRAY[:id]);
SELECT try(format('SELECT etl_dead_letter_edit(%s, %L)', :id, ''));
SELECT * FROM etl_dead_letter_replay('t', ARRAY[:id]);
SELECT try(format('SELECT etl_dead_letter_edit(%s, %L)', :id, 'x,5,'));
SELECT * FROM etl_dead_letter_replay('t', ARRAY[:id]);
SELECT error_message, attempts FROM etl_patterns.dead_letter WHERE dead_letter_id = :id;
SELECT try(format('SELECT etl_dead_letter_edit(%s, %L)', :id, E'"two\nlines";5;'));
SELECT * FROM etl_dead_letter_replay('t', ARRAY[:id]);
SELECT b FROM t WHERE a = 5;
SELECT try(format('SELECT etl_dead_letter_edit(%s, %L)', :id, 'x;9;'));
SELECT try('SELECT etl_dead_letter_edit(424242, ''x'')');
SELECT try('SELECT etl_dead_letter_edit(NULL, ''x'')');
SELECT etl_dead_letter_edit(dead_letter_id, 'three;3;') FROM look WHERE raw_record ~ 'x;two';

-- ROLLBACK takes rows and letters back together.
BEGIN;
SELECT * FROM etl_dead_letter_replay('t');
SELECT count(*) FROM t;
ROLLBACK;
SELECT count(*) FROM t;
SELECT * FROM etl_dead_letter_replay('t');
-- Discard and purge.
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM look WHERE status = 'pending';
SELECT etl_dead_letter_discard('{424242}');
SELECT etl_dead_letter_discard('{}');
SELECT * FROM etl_dead_letter_replay('t');
TABLE look;
SELECT etl_dead_letter_purge('1 day');
SELECT etl_dead_letter_purge('-1 day');
SELECT count(*) FROM look;
SELECT count(*), count(DISTINCT a) FROM t;

-- A table that changed since: a new column, one gone, none left.
SELECT file('c.csv', E'a,b\nx,1\ny,2\n');
CREATE TABLE c (a int, b int);
SELECT load('c', 'c.csv', :dl);
ALTER TABLE c ALTER a TYPE text, ADD d int DEFAULT 5;
SELECT * FROM etl_dead_letter_replay('c', (SELECT array_agg(dead_letter_id) FROM look WHERE raw_record = 'x,1'));
ALTER TABLE c DROP b;
SELECT try('SELECT * FROM etl_dead_letter_replay(''c'')');
SELECT * FROM c;
DROP TABLE c;
SELECT * FROM etl_dead_letter_replay();
-- An empty record is a blank line: one column that is null.
CREATE TABLE one (x text CHECK (x <> 'no') NOT NULL);
SELECT file('one.csv', E'x\n\nno\n');
SELECT load('one', 'one.csv', :dl);
SELECT letters('one');
ALTER TABLE one ALTER x DROP NOT NULL;
SELECT * FROM etl_dead_letter_replay('one');
SELECT * FROM one;
SELECT count(*) FROM look WHERE status = 'pending';

-- A letter holds one record, also where the first fills the reader's buffer.
SELECT file('one.csv', E'x\nno\n');
SELECT load('one', 'one.csv', 'force => true, ' || :dl);
SELECT etl_dead_letter_edit(max(dead_letter_id), repeat('a', 262143) || E'\nb') FROM look;
SELECT * FROM etl_dead_letter_replay('one', (SELECT ARRAY[max(dead_letter_id)] FROM look));
SELECT error_message FROM etl_patterns.dead_letter ORDER BY dead_letter_id DESC LIMIT 1;
SELECT etl_dead_letter_edit(max(dead_letter_id), repeat('a', 262143)) FROM look;
SELECT * FROM etl_dead_letter_replay('one', (SELECT ARRAY[max(dead_letter_id)] FROM look));
SELECT max(length(x)) FROM one;

-- Letters keep on_conflict and keys of their load.
CREATE TABLE k (id int PRIMARY KEY, v int);
INSERT INTO k VALUES (1, 1);
SELECT file('k.csv', E'id,v\n1,x\n2,y\n');
SELECT load('k', 'k.csv', 'on_conflict => ''update'', keys => ''{id}'', ' || :dl);
SELECT etl_dead_letter_edit(dead_letter_id, substr(raw_record, 1, 2) || '10') FROM look WHERE status = 'pending' AND raw_record ~ ',(x|y)$';
SELECT * FROM etl_dead_letter_replay('k');
SELECT * FROM k ORDER BY id;
SELECT rows_inserted, rows_updated FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1;
-- Very many, of several files.
CREATE TABLE many (a int, b int);
SELECT file('many' || f || '.csv', (SELECT E'a,b\n' || string_agg(i || ',' || CASE WHEN i % 2 = 0 THEN 'x' ELSE i::text END, E'\n') || E'\n' FROM generate_series(1, 3000) i)) FROM generate_series(1, 2) f;
SELECT load('many', 'many?.csv', 'force => true, ' || :dl);
ALTER TABLE many ALTER b TYPE text;
SELECT * FROM etl_dead_letter_replay('many');
SELECT count(*), count(*) FILTER (WHERE b = 'x') FROM many;
SELECT status, count(*) FROM etl_patterns.dead_letter WHERE target = 'many'::regclass GROUP BY 1;
SELECT sum(rows_read) = sum(rows_inserted + rows_updated + rows_unchanged + rows_rejected) AS add_up FROM etl_patterns.run;

-- Letters of a merge are not of a load: that is said, and is an error where they are named.
CREATE TABLE merged (id int, v int);
CREATE TABLE merge_source (id int, v int);
INSERT INTO merge_source VALUES (1, 1), (NULL, 2), (NULL, 3);
SELECT rows_read, inserted, rejected FROM etl_upsert('merged', 'merge_source', '{id}', null_keys => 'dead_letter');
SELECT * FROM etl_dead_letter_replay('merged');
SELECT * FROM etl_dead_letter_replay('k');
\set VERBOSITY terse
SELECT * FROM etl_dead_letter_replay('merged', (SELECT array_agg(dead_letter_id) FROM etl_patterns.dead_letter WHERE target = 'merged'::regclass));
\set VERBOSITY default
SELECT etl_dead_letter_discard(array_agg(dead_letter_id)) FROM etl_patterns.dead_letter WHERE target = 'merged'::regclass;
SELECT * FROM etl_dead_letter_replay('merged');
\i :end
